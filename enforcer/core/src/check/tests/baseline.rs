//! Baselines: what is accepted, what is worse, what is gone, and what is no baseline.

use proptest::prelude::*;

use super::{
    fingerprints::{faulty, set},
    host, workload,
};
use crate::check::{
    CheckSettings,
    baseline::{Baseline, Comparison},
    check,
    finding::{Code, Finding, Severity},
    fingerprint::{Fingerprint, fingerprints},
};

fn found(documents: &[String], nodes: u32) -> (Vec<Finding>, Vec<Fingerprint>) {
    let manifests = set(&[("a.yaml".to_owned(), documents.join("\n---\n"))]);
    let settings = CheckSettings { nodes: Some(nodes), ..CheckSettings::default() };
    let findings = check(&manifests, &settings).findings;
    let prints = fingerprints(&findings, str::to_owned);
    (findings, prints)
}

fn baseline_of((findings, prints): &(Vec<Finding>, Vec<Fingerprint>)) -> Baseline {
    Baseline::of(findings.iter().zip(prints.iter().copied()))
}

/// Codes and messages that count, and the count of stale entries.
fn counting(
    baseline: &Baseline,
    (mut findings, prints): (Vec<Finding>, Vec<Fingerprint>),
) -> (Vec<(Code, String)>, usize) {
    let Comparison { accepted, stale } = baseline.compare(&mut findings, &prints);
    let counts = |(finding, accepted): &(Finding, bool)| !accepted && finding.severity != Severity::Note;
    let all = findings.into_iter().zip(accepted).filter(counts);
    (all.map(|(finding, _)| (finding.code, finding.message)).collect(), stale.len())
}

#[test]
fn own_findings_are_accepted_and_text_is_read_back() {
    let before = found(&faulty(), 3);
    let baseline = baseline_of(&before);
    let errors = before.0.iter().filter(|finding| finding.severity != Severity::Note).count();
    assert!(errors > 20 && baseline.len() == errors, "{errors} of {}", baseline.len());
    assert_eq!(counting(&baseline, before), (Vec::new(), 0));
    let text = baseline.text();
    let again = Baseline::read(&text).expect("a baseline");
    assert_eq!((&again, again.text()), (&baseline, text));
    assert_eq!(Baseline::read(&Baseline::default().text()), Ok(Baseline::default()));
}

#[test]
fn order_of_input_makes_no_other_entries() {
    let mut documents = faulty();
    let prints = |baseline: &Baseline| {
        let text = baseline.text();
        let mut lines: Vec<String> =
            text.lines().filter(|line| line.contains("fingerprint:")).map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    let before = prints(&baseline_of(&found(&documents, 3)));
    documents.reverse();
    assert_eq!(prints(&baseline_of(&found(&documents, 3))), before);
}

#[test]
fn what_is_new_counts_and_what_is_gone_is_stale() {
    let before = faulty();
    let baseline = baseline_of(&found(&before[..3], 3));
    let (new, stale) = counting(&baseline, found(&before[..5], 3));
    assert_eq!((new.iter().map(|(code, _)| *code).collect::<Vec<_>>(), stale), (vec![Code::Conflict], 0), "{new:?}");
    let (new, stale) = counting(&baseline, found(&before[1..3], 3));
    assert_eq!((new, stale), (Vec::new(), 2), "two conflicts with the first one are gone");
}

/// One more port in a range of which only the first ones are named.
#[test]
fn port_beyond_those_that_are_named_is_new() {
    let ranges = |ports: std::ops::Range<u16>| {
        let ports: Vec<String> = ports.map(|port| format!("{{containerPort: {port}}}")).collect();
        let settings = workload("DaemonSet", "ranges", "", "", &host(&ports.join(", ")));
        let manifests = set(&[("a.yaml".to_owned(), settings)]);
        let allocated =
            crate::model::free_ports::AllocatedRanges { node_ports: "30000-32767".parse().ok(), ephemeral: None };
        let findings = check(&manifests, &CheckSettings { allocated, ..CheckSettings::default() }).findings;
        let prints = fingerprints(&findings, str::to_owned);
        (findings, prints)
    };
    let baseline = baseline_of(&ranges(31_000..31_008));
    assert_eq!(counting(&baseline, ranges(31_000..31_008)).0, []);
    assert_eq!(counting(&baseline, ranges(31_000..31_009)).0.len(), 1);
}

#[test]
fn what_gets_worse_counts() {
    let copies = |replicas: u32| {
        vec![workload("Deployment", "a", &format!("replicas: {replicas},"), "", &host("{containerPort: 82}"))]
    };
    let baseline = baseline_of(&found(&copies(5), 3));
    assert_eq!(counting(&baseline, found(&copies(4), 3)), (Vec::new(), 0), "fewer are better");
    let (worse, stale) = counting(&baseline, found(&copies(6), 3));
    assert_eq!((worse.len(), stale), (1, 0), "{worse:?}");
    assert!(worse[0].1.ends_with("; the baseline accepts it with 5 nodes only"), "{worse:?}");

    let pair = |of: &str| {
        let spec = format!("nodeSelector: {{{of}}}, {}", host("{containerPort: 9100}"));
        vec![
            workload("DaemonSet", "a", "", "", &host("{containerPort: 9100}")),
            workload("DaemonSet", "b", "", "", &spec),
        ]
    };
    let probed = "hostNetwork: true, containers: [{name: c, livenessProbe: {httpGet: {port: 9100}}}]";
    let likely = vec![pair("x: y")[0].clone(), workload("DaemonSet", "b", "", "", probed)];
    let warning = found(&likely, 3);
    assert!(warning.0.iter().any(|finding| (finding.code, finding.severity) == (Code::Conflict, Severity::Warning)));
    let (worse, stale) = counting(&baseline_of(&warning), found(&pair("x: y"), 3));
    assert_eq!((worse.len(), stale), (1, 0), "{worse:?}");
    assert!(worse[0].1.ends_with("; the baseline accepts it as a warning only"), "{worse:?}");
    assert_eq!(counting(&baseline_of(&found(&pair("x: y"), 3)), warning).0, [], "a warning is better than an error");
}

/// If not everything was compared, nobody knows what a baseline would accept.
#[test]
fn incomplete_check_is_never_accepted() {
    let mut before = found(&faulty()[..2], 3);
    before.0[0].code = Code::Incomplete;
    let baseline = baseline_of(&before);
    assert_eq!(baseline.len() + 1, before.0.iter().filter(|finding| finding.severity != Severity::Note).count());
    // Nor is it if somebody writes the entry by hand.
    let mut findings = found(&faulty()[..2], 3);
    let all = baseline_of(&findings);
    findings.0[0].code = Code::Incomplete;
    assert!(counting(&all, findings).0.iter().any(|(code, _)| *code == Code::Incomplete));
}

#[test]
fn what_is_no_baseline_is_refused() {
    let head = "apiVersion: port-enforcer.io/v1alpha1\nkind: CheckBaseline\n";
    let print = format!("{}:1", "ab".repeat(16));
    for (text, reason) in [
        (String::new(), "it is empty"),
        ("a: [1".to_owned(), "line 1: "),
        (format!("{head}---\n{head}"), "more than one document"),
        ("apiVersion: v1\nkind: Pod\n".to_owned(), "kind: CheckBaseline"),
        (head.to_owned(), "it has no list of findings"),
        (format!("{head}findings: {{}}"), "it has no list of findings"),
        (format!("{head}findings:\n- x"), "line 4: the entry is no mapping"),
        (format!("{head}findings:\n- {{code: port, severity: error}}"), "line 4: the entry has no fingerprint"),
        (format!("{head}findings:\n- {{fingerprint: 7, code: port, severity: error}}"), "fingerprint is no text"),
        (format!("{head}findings:\n- {{fingerprint: x, code: port, severity: error}}"), "'x' is no fingerprint"),
        (format!("{head}findings:\n- {{fingerprint: '{print}', severity: error}}"), "the entry has no code"),
        (format!("{head}findings:\n- {{fingerprint: '{print}', code: port}}"), "the entry has no severity"),
        (
            format!("{head}findings:\n- {{fingerprint: '{print}', code: port, severity: note}}"),
            "write error or warning",
        ),
        (
            format!("{head}findings:\n- {{fingerprint: '{print}', code: port, severity: error, nodesNeeded: -1}}"),
            "no count",
        ),
        (
            format!("{head}findings:\n- {{fingerprint: '{print}', code: port, severity: error, note: x}}"),
            "unknown key 'note'",
        ),
        (
            format!(
                "{head}findings:\n{}",
                format!("- {{fingerprint: '{print}', code: port, severity: error}}\n").repeat(2)
            ),
            "line 5: abab",
        ),
    ] {
        let error = Baseline::read(&text).expect_err(&text);
        assert!(error.contains(reason), "{text}\n{error}");
        assert!(!error.chars().any(char::is_control), "{error:?}");
    }
}

proptest! {
    /// Whatever names are: what is written is read back, and lines of others are not made.
    #[test]
    fn names_of_all_kinds_are_read_back(names in proptest::collection::vec(any::<String>(), 3)) {
        let mut findings = found(&faulty()[..3], 3).0;
        findings.truncate(2);
        findings[0].object = None;
        findings[0].place.file = crate::model::text::escape_bounded(&names[0], 500).into();
        if let Some(object) = &mut findings[1].object {
            object.name = crate::model::text::escape_bounded(&names[1], 256);
            object.kind = crate::model::text::escape_bounded(&names[2], 256).into();
        }
        let prints = fingerprints(&findings, str::to_owned);
        let baseline = Baseline::of(findings.iter().zip(prints));
        prop_assert_eq!(Baseline::read(&baseline.text()), Ok(baseline));
    }
}
