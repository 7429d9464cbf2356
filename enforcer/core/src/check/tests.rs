//! The rules by tables, and against the index, which is what the agent runs.

mod agreement;
mod baseline;
mod corpus;
mod existing;
mod findings;
mod fingerprints;
mod likely;
mod other_kinds;
mod placement;
mod probes;
mod ranges;
mod reading;
mod refusals;
mod registry;
mod scheduler;
mod services;
mod three_nodes;

use std::sync::Arc;

use super::{
    CheckResult, CheckSettings, ManifestSet, check,
    finding::Code,
    object::{ManifestObject, read},
};
use crate::yaml::spanned::Node;

/// Objects from one text per document, each in a file of its own: `0.yaml`, `1.yaml` and so on.
fn manifests(documents: &[&str]) -> ManifestSet {
    let mut manifests = ManifestSet::default();
    for (number, text) in documents.iter().enumerate() {
        let file: Arc<str> = format!("{number}.yaml").into();
        let root: Node = serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{text}\n{error}"));
        let contents = read(&root, &file, 0, &CheckSettings::default().limits);
        manifests.files.push(file);
        manifests.ignored += contents.ignored;
        manifests.port_limits.extend(contents.port_limits);
        manifests.other_kinds.merge(contents.other_kinds);
        manifests.remarks.extend(contents.remarks);
        manifests.unreadable.extend(contents.unreadable);
        manifests.objects.extend(contents.objects);
        manifests.services.extend(contents.services);
    }
    manifests
}

fn object(text: &str) -> ManifestObject {
    let ManifestSet { mut objects, unreadable, .. } = manifests(&[text]);
    assert!(unreadable.is_empty(), "{text}\n{unreadable:?}");
    objects.pop().expect("an object")
}

/// `place: severity code` of each finding.
fn codes(outcome: &CheckResult) -> Vec<String> {
    let code = |finding: &super::finding::Finding| {
        format!("{}: {} {}", finding.place, finding.severity.as_str(), finding.code.as_str())
    };
    outcome.findings.iter().map(code).collect()
}

/// `place: severity: message` of each finding with one of these codes.
fn messages(documents: &[&str], of: &[Code]) -> Vec<String> {
    let outcome = check(&manifests(documents), &CheckSettings::default());
    let wanted = outcome.findings.iter().filter(|finding| of.contains(&finding.code));
    wanted.map(|finding| format!("{}: {}: {}", finding.place, finding.severity.as_str(), finding.message)).collect()
}

fn found(documents: &[&str], nodes: Option<u32>) -> Vec<String> {
    codes(&check(&manifests(documents), &CheckSettings { nodes, ..CheckSettings::default() }))
}

/// A pod template's spec on the host network with these ports, in flow style.
fn host(ports: &str) -> String {
    format!("hostNetwork: true, containers: [{{name: c, ports: [{ports}]}}]")
}

/// An object of a kind that has a template, on one line. `spec` goes beside the template.
fn workload(kind: &str, name: &str, spec: &str, annotations: &str, pod: &str) -> String {
    let version = if kind == "Job" { "batch/v1" } else { "apps/v1" };
    format!(
        "{{apiVersion: {version}, kind: {kind}, metadata: {{name: {name}}}, spec: {{{spec} template: {{metadata: \
         {{annotations: {{{annotations}}}}}, spec: {{{pod}}}}}}}}}"
    )
}
