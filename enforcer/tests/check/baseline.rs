//! `--baseline` and `--write-baseline`: what is accepted does not count, and what is new, worse or not readable does.

use std::{fs, path::PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use super::{
    ALL, End, check,
    sarif_form::{assert_sarif, results},
};

/// A folder with a place for a baseline.
struct Place {
    folder: TempDir,
    path: PathBuf,
}

impl Place {
    fn new() -> Self {
        let folder = TempDir::new().expect("a folder");
        let path = folder.path().join("baseline.yaml");
        Self { folder, path }
    }

    fn name(&self) -> &str {
        self.path.to_str().expect("UTF-8")
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.path).expect("a baseline")
    }

    /// Writes the baseline of all manifests.
    fn write(&self) -> End {
        check(&[&["--nodes", "3", "--write-baseline", self.name()], &ALL[..]].concat(), b"")
    }

    fn check(&self, flags: &[&str], files: &[&str]) -> End {
        check(&[&["--nodes", "3", "--baseline", self.name()], flags, files].concat(), b"")
    }
}

#[test]
fn findings_that_are_written_do_not_count() {
    let place = Place::new();
    let End { code, stdout, stderr } = place.write();
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
    assert!(stdout.ends_with(&format!("wrote 8 findings to {}\n", place.name())), "{stdout}");
    insta::assert_snapshot!("baseline", place.text());
    let End { code, stdout, stderr } = place.check(&[], &ALL);
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
    let counts = "0 errors, 0 warnings, 0 notes; 8 findings accepted by the baseline ";
    assert!(stdout.lines().count() == 1 && stdout.contains(counts), "{stdout}");
    let before = place.text();
    let reversed: Vec<&str> = ALL.into_iter().rev().collect();
    let End { code, stdout, .. } = place.check(&[], &reversed);
    assert_eq!(code, Some(0), "the order of files does not matter: {stdout}");
    assert_eq!(place.text(), before, "a baseline that is read is not changed");
}

#[test]
fn new_findings_count_and_stale_entries_are_reported() {
    let place = Place::new();
    place.write();
    let End { code, stdout, stderr } = place.check(&[], &["monitoring.yaml", "cases/42-both-zero.yaml"]);
    assert_eq!((code, stderr.as_str()), (Some(1), "enforcer: 1 error, 0 warnings\n"), "{stdout}");
    assert!(stdout.starts_with("cases/42-both-zero.yaml:7: error: "), "{stdout}");
    assert!(stdout.contains("; 2 findings accepted by the baseline "), "{stdout}");
    let stale = format!("6 entries have no finding any more in the baseline {}; ", place.name());
    assert!(stdout.lines().last().is_some_and(|line| line.starts_with(&stale)), "{stdout}");
    // Both flags: what is gone goes, and what is new is not accepted.
    let both = ["--write-baseline", place.name()];
    let End { code, stdout, .. } = place.check(&both, &["monitoring.yaml", "cases/42-both-zero.yaml"]);
    assert_eq!(code, Some(1), "{stdout}");
    assert_eq!(place.text().matches("fingerprint:").count(), 2, "{}", place.text());
    let End { code, stdout, .. } = place.check(&[], &["monitoring.yaml"]);
    assert!(code == Some(0) && stdout.lines().count() == 1, "{stdout}");
}

#[test]
fn every_format_knows_the_baseline() {
    let place = Place::new();
    place.write();
    let run = |format| place.check(&["-o", format], &["monitoring.yaml", "cases/42-both-zero.yaml"]).stdout;

    let report: Value = serde_json::from_str(&run("json")).expect("JSON");
    let count = |list: &Value| list.as_array().map(Vec::len);
    let lists = [&report["findings"], &report["accepted"], &report["baseline"]["stale"]].map(count);
    assert_eq!(lists, [Some(1), Some(2), Some(6)], "{report}");
    assert_eq!((&report["summary"]["errors"], &report["summary"]["accepted"]), (&1.into(), &2.into()));
    assert_eq!(report["baseline"]["file"], place.name());

    let sarif: Value = serde_json::from_str(&run("sarif")).expect("JSON");
    assert_sarif(&sarif);
    let states: Vec<_> =
        results(&sarif).iter().map(|result| (&result["baselineState"], result.get("suppressions").is_some())).collect();
    assert_eq!(states, [(&"unchanged".into(), true), (&"unchanged".into(), true), (&"new".into(), false)]);
    let said = &sarif["runs"][0]["invocations"][0]["toolExecutionNotifications"][0]["message"]["text"];
    assert!(said.as_str().is_some_and(|text| text.starts_with("6 entries have no finding any more")), "{said}");

    let junit = run("junit");
    let report = quick_junit::Report::deserialize_from_str(&junit).expect("XML");
    assert_eq!(report.failures, 1, "{junit}");
    let skipped = "<skipped message=\"its findings are accepted by the baseline\"";
    assert!(junit.contains(skipped) && junit.contains("6 entries have no finding any more"), "{junit}");

    let github = run("github");
    let lines: Vec<&str> = github.lines().collect();
    assert!(lines[0].starts_with("::error file=cases/42-both-zero.yaml,line=7,"), "{github}");
    assert!(lines[1].starts_with("::notice title=Baseline::6 entries have no finding any more"), "{github}");
    assert_eq!(lines.len(), 3, "{github}");
}

/// A baseline that cannot be used accepts nothing in silence.
#[test]
fn missing_and_malformed_baselines_are_errors() {
    let place = Place::new();
    let refused = |reason: &str| {
        for format in ["text", "sarif", "github"] {
            let End { code, stdout, stderr } = place.check(&["-o", format], &["ingress-nginx.yaml"]);
            assert_eq!((code, stdout.as_str()), (Some(2), ""), "{format}: {stderr}");
            assert!(stderr.contains(reason) && stderr.contains("--write-baseline FILE"), "{stderr}");
        }
    };
    refused("cannot read the baseline");
    for (text, reason) in [
        ("", "is no baseline: it is empty"),
        ("a: [", "is no baseline: line 1: "),
        ("apiVersion: v1\nkind: Pod\n", "is no baseline: it does not begin with apiVersion: port-enforcer.io/v1alpha1"),
        ("apiVersion: port-enforcer.io/v1alpha1\nkind: CheckBaseline\nfindings:\n- {code: port}\n", "line 4: "),
    ] {
        fs::write(&place.path, text).expect("a file");
        refused(reason);
    }
}

#[test]
fn other_files_are_never_replaced() {
    let place = Place::new();
    let manifest = "apiVersion: v1\nkind: Pod\n";
    fs::write(&place.path, manifest).expect("a file");
    let End { code, stdout, stderr } = place.write();
    assert_eq!((code, stdout.as_str()), (Some(2), ""), "{stderr}");
    assert!(stderr.contains("is there and is no baseline"), "{stderr}");
    assert_eq!(place.text(), manifest);
    // An older baseline is.
    fs::write(&place.path, "apiVersion: port-enforcer.io/v1alpha1\nkind: CheckBaseline\nfindings: []\n")
        .expect("a file");
    assert_eq!(place.write().code, Some(0));
    assert_eq!(place.text().matches("fingerprint:").count(), 8);
    // What cannot be written is a failure of its own, and leaves nothing behind.
    let missing = place.folder.path().join("missing/baseline.yaml");
    let End { code, stderr, .. } = check(&["--write-baseline", missing.to_str().expect("UTF-8"), "dns.yaml"], b"");
    assert_eq!(code, Some(4), "{stderr}");
    assert!(stderr.starts_with("enforcer: cannot write the baseline "), "{stderr}");
    assert_eq!(fs::read_dir(place.folder.path()).expect("the folder").count(), 1);
}

#[test]
fn finding_that_gets_worse_counts() {
    let place = Place::new();
    let copies = |replicas: u32, flags: &[&str]| {
        let text = format!(
            "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: a}}, spec: {{replicas: {replicas}, template: {{spec: \
             {{hostNetwork: true, containers: [{{name: c, ports: [{{containerPort: 80}}]}}]}}}}}}}}"
        );
        check(&[&["--nodes", "2"], flags, &["-"]].concat(), text.as_bytes())
    };
    assert_eq!(copies(3, &["--write-baseline", place.name()]).code, Some(0));
    let code = |replicas| copies(replicas, &["--baseline", place.name()]);
    assert_eq!(code(3).code, Some(0), "{:?}", code(3));
    let End { code, stdout, .. } = code(4);
    assert_eq!(code, Some(1));
    assert!(stdout.contains("; the baseline accepts it with 3 nodes only [replicas]"), "{stdout}");
    // What got worse is not stale: its entry stays as it is.
    let before = place.text();
    let both = copies(4, &["--baseline", place.name(), "--write-baseline", place.name()]);
    assert_eq!((both.code, place.text()), (Some(1), before), "{}", both.stdout);
}

#[test]
fn flags_that_exclude_each_other_are_refused() {
    for flag in ["--baseline", "--write-baseline"] {
        let End { code, stderr, .. } = check(&["--list", flag, "x.yaml", "likely.yaml"], b"");
        assert_eq!(code, Some(2));
        assert!(stderr.contains("cannot be used with"), "{stderr}");
    }
}

#[test]
fn baseline_goes_with_what_is_there() {
    let place = Place::new();
    let against = ["--against", "monitoring.yaml"];
    let other = "cases/41-exporters-tolerations.yaml";
    let first = check(&[&against[..], &[other]].concat(), b"");
    assert_eq!(first.code, Some(1), "{}", first.stdout);
    let write = check(&[&against[..], &["--write-baseline", place.name(), other]].concat(), b"");
    assert_eq!(write.code, Some(0), "{}", write.stdout);
    let End { code, stdout, .. } = check(&[&against[..], &["--baseline", place.name(), other]].concat(), b"");
    assert_eq!(code, Some(0), "{stdout}");
}
