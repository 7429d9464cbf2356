//! The formats that other tools read: SARIF, XML of `JUnit` and commands of GitHub workflows.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;
use tempfile::TempDir;

use super::{
    ALL, End, check,
    sarif_form::{assert_sarif, results},
};

const FORMATS: [&str; 5] = ["text", "json", "sarif", "junit", "github"];

/// The manifests of the text and JSON snapshots, in another format.
fn all(format: &str) -> String {
    let flags = ["-o", format, "--nodes", "3", "--node-reserved", "22,10254/tcp"];
    let End { code, stdout, stderr } = check(&[&flags[..], &ALL].concat(), b"");
    assert_eq!((code, stderr.as_str()), (Some(1), "enforcer: 7 errors, 2 warnings\n"), "{format}");
    stdout
}

#[test]
fn github_output_matches_snapshot() {
    insta::assert_snapshot!("github", all("github"));
}

#[test]
fn junit_output_matches_snapshot() {
    insta::assert_snapshot!("junit", all("junit"));
}

#[test]
fn sarif_output_matches_snapshot() {
    let mut report: Value = serde_json::from_str(&all("sarif")).expect("JSON");
    assert_sarif(&report);
    // The rules have tests of their own, and are the same in each report.
    report["runs"][0]["tool"]["driver"]["rules"] = Value::Null;
    report["runs"][0]["tool"]["driver"]["semanticVersion"] = "0.0.0".into();
    insta::assert_snapshot!("sarif", format!("{report:#}"));
}

/// Everything that the tests have, at once and file by file, in each format: the exit code does not depend on it, SARIF has
/// its form, and XML is well-formed.
#[test]
fn every_case_has_each_format() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/check/cases");
    let names = fs::read_dir(folder).expect("the cases").map(|entry| entry.expect("a case").file_name());
    let mut inputs: Vec<String> = names.map(|name| format!("cases/{}", name.to_str().expect("UTF-8"))).collect();
    inputs.extend(["broken.yaml", "likely.yaml", "missing.yaml", "cases", "."].map(str::to_owned));
    for input in &inputs {
        let ends = FORMATS.map(|format| check(&["-o", format, "--nodes", "3", input], b""));
        let codes: BTreeSet<_> = ends.iter().map(|end| end.code).collect();
        assert_eq!(codes.len(), 1, "{input}: {ends:?}");
        let [_, json, sarif, junit, github] = ends.map(|end| end.stdout);
        let json: Value = serde_json::from_str(&json).expect("JSON");
        let sarif: Value = serde_json::from_str(&sarif).expect("JSON");
        assert_sarif(&sarif);
        let listed = |key: &str| json[key].as_array().expect("a list").len();
        assert_eq!(results(&sarif).len(), listed("findings") + listed("notes"), "{input}");
        let report =
            quick_junit::Report::deserialize_from_str(&junit).unwrap_or_else(|error| panic!("{input}: {error}"));
        assert_eq!(report.failures > 0, listed("findings") > 0, "{input}: {junit}");
        let commands = github.lines().filter(|line| line.starts_with("::")).count();
        assert_eq!(commands, listed("findings") + listed("notes"), "{input}: {github}");
    }
}

fn prints(report: &Value) -> Vec<String> {
    let of =
        |result: &Value| result["partialFingerprints"]["portEnforcerFinding/v1"].as_str().expect("a text").to_owned();
    results(report).iter().map(of).collect()
}

#[test]
fn finding_that_moves_ten_lines_keeps_its_fingerprint() {
    let folder = TempDir::new().expect("a folder");
    let sarif = |text: &str| {
        let path = folder.path().join("a.yaml");
        fs::write(&path, text).expect("a file");
        let stdout = check(&["-o", "sarif", path.to_str().expect("UTF-8")], b"").stdout;
        serde_json::from_str::<Value>(&stdout).expect("JSON")
    };
    let text = ["monitoring.yaml", "dns.yaml"].map(|name| {
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/check").join(name)).expect("a file")
    });
    let text = text.join("\n---\n");
    let (before, after) = (sarif(&text), sarif(&format!("{}{text}", "# ten lines more\n".repeat(10))));
    let lines = |report: &Value| {
        let line = |result: &Value| result["locations"][0]["physicalLocation"]["region"]["startLine"].as_u64();
        results(report).iter().map(|result| line(result).expect("a line")).collect::<Vec<_>>()
    };
    assert!(lines(&before).len() > 3);
    assert_eq!(lines(&before).iter().map(|line| line + 10).collect::<Vec<_>>(), lines(&after));
    assert_eq!(prints(&before), prints(&after));
}

#[test]
fn two_findings_have_two_fingerprints() {
    let report: Value = serde_json::from_str(&check(&["-o", "sarif", "cases", "."], b"").stdout).expect("JSON");
    let prints = prints(&report);
    assert!(prints.len() > 40, "{}", prints.len());
    assert_eq!(prints.iter().collect::<BTreeSet<_>>().len(), prints.len());
}

/// Names that whoever writes a manifest chooses: of a file, an object, a container and an item of the annotation.
#[test]
fn hostile_names_end_no_line_and_begin_no_command() {
    let folder = TempDir::new().expect("a folder");
    let file = "a b,c%0A::error::x\n::error file=x::y.yaml";
    let hostile = r"n](https://example.com)\u0000\u001b[31m\n::set-output name=a::b%0A::warning::##[error]x,y:z]]><x>&";
    let object = |kind: &str| {
        format!(
            r#"{{"apiVersion": "apps/v1", "kind": "{kind}", "metadata": {{"name": "{hostile}"}}, "spec": {{"template": {{
            "metadata": {{"annotations": {{"port-enforcer.io/ports": "{hostile}"}}}},
            "spec": {{"hostNetwork": true, "containers": [{{"name": "{hostile}", "ports": [{{"containerPort": 9100}}]}}]}}}}}}}}"#
        )
    };
    fs::write(folder.path().join(file), [object("DaemonSet"), object("StatefulSet")].join("\n---\n")).expect("a file");
    let run = |format| check(&["-o", format, folder.path().to_str().expect("UTF-8")], b"").stdout;

    let github = run("github");
    let lines: Vec<&str> = github.lines().collect();
    assert!(lines.len() > 3, "{github}");
    let (summary, commands) = lines.split_last().expect("lines");
    assert!(summary.starts_with("checked 2 objects"), "{summary}");
    for line in commands {
        let (properties, message) = line.strip_prefix("::").and_then(|rest| rest.split_once("::")).expect("a command");
        assert!(["error ", "warning ", "notice "].iter().any(|command| properties.starts_with(command)), "{line}");
        let keys: Vec<_> =
            properties.split_once(' ').expect("one").1.split(',').map(|pair| pair.split('=').next()).collect();
        assert_eq!(keys, [Some("file"), Some("line"), Some("title")], "{line}");
        assert!(!message.contains("%0A::") && !line.chars().any(char::is_control), "{line}");
    }

    let junit = run("junit");
    assert!(!junit.chars().any(|character| character.is_control() && character != '\n'), "{junit}");
    let report = quick_junit::Report::deserialize_from_str(&junit).expect("XML");
    assert_eq!(report.failures, 2, "{junit}");

    let sarif: Value = serde_json::from_str(&run("sarif")).expect("JSON");
    assert_sarif(&sarif);
    for result in results(&sarif) {
        assert!(!result["message"]["text"].as_str().expect("a text").contains("]("), "no name makes a link");
        let uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"].as_str().expect("a text");
        assert!(uri.ends_with("/a%20b%2Cc%250A::error::x%0A::error%20file%3Dx::y.yaml"), "{uri}");
    }
}

#[test]
fn standard_input_and_other_folders_have_places() {
    let text = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/check/monitoring.yaml")).expect("a file");
    let sarif: Value = serde_json::from_str(&check(&["-o", "sarif", "-"], &text).stdout).expect("JSON");
    assert_sarif(&sarif);
    let place = |result: &Value| result["locations"][0]["physicalLocation"]["artifactLocation"].clone();
    assert!(results(&sarif).iter().all(|result| place(result)["uri"] == "stdin"), "{sarif}");
    let End { stdout, .. } = check(&["-o", "github", "-"], &text);
    assert!(stdout.starts_with("::error title="), "standard input is no file: {stdout}");
    let sarif: Value =
        serde_json::from_str(&check(&["-o", "sarif", "../../../deploy/examples/two-replicas.yaml"], b"").stdout)
            .expect("JSON");
    let uri = place(&results(&sarif)[0]);
    assert!(
        uri["uri"]
            .as_str()
            .is_some_and(|uri| uri.starts_with("file:///") && uri.ends_with("/deploy/examples/two-replicas.yaml"))
    );
    assert_eq!(uri.get("uriBaseId"), None);
}

#[test]
fn severity_that_fails_is_chosen() {
    let code = |flags: &[&str], file| check(&[flags, &[file]].concat(), b"").code;
    let (warning, error) = ("cases/06-removed-api-version.yaml", "cases/42-both-zero.yaml");
    for (flags, of_warning, of_error) in [
        (&[][..], 1, 1),
        (&["--fail-on", "warning"], 1, 1),
        (&["--fail-on", "error"], 0, 1),
        (&["--fail-on", "never", "-o", "sarif"], 0, 0),
    ] {
        assert_eq!((code(flags, warning), code(flags, error)), (Some(of_warning), Some(of_error)), "{flags:?}");
    }
    assert_eq!(code(&["--fail-on", "never"], "missing.yaml"), Some(2), "what cannot be read is no finding alone");
}

#[test]
fn list_has_text_and_json_only() {
    for format in ["sarif", "junit", "github"] {
        let End { code, stdout, stderr } = check(&["--list", "-o", format, "likely.yaml"], b"");
        let error = "enforcer: --list goes with -o text and -o json only\n";
        assert_eq!((code, stdout.as_str(), stderr.as_str()), (Some(2), "", error));
    }
}
