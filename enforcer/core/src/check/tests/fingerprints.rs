//! Fingerprints: the same faults have the same ones wherever they stand, and others have others.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{host, workload};
use crate::{
    check::{
        CheckSettings, ManifestSet, check,
        finding::Code,
        fingerprint::{Fingerprint, fingerprints},
        object::{Unreadable, read},
        registry::PortRegistry,
    },
    yaml::documents::{Document, UnreadableDocument, documents},
};

/// Reads files: names and texts.
pub(super) fn set(files: &[(String, String)]) -> ManifestSet {
    let mut manifests = ManifestSet::default();
    for (name, text) in files {
        let file: std::sync::Arc<str> = name.as_str().into();
        manifests.files.push(file.clone());
        for document in documents(text) {
            match document {
                Ok(Document { lines_before, root }) => {
                    let contents = read(&root, &file, lines_before, &CheckSettings::default().limits);
                    manifests.documents += 1;
                    manifests.objects.extend(contents.objects);
                    manifests.services.extend(contents.services);
                    manifests.other_kinds.merge(contents.other_kinds);
                    manifests.unreadable.extend(contents.unreadable);
                    manifests.remarks.extend(contents.remarks);
                }
                Err(UnreadableDocument { line, message }) => {
                    let place = crate::check::object::Location { file: file.clone(), line: Some(line) };
                    manifests.unreadable.push(Unreadable { place, message, is_foreign: false });
                }
            }
        }
    }
    manifests
}

/// Codes with their fingerprints, in ascending order.
pub(super) fn named(manifests: &ManifestSet, nodes: u32) -> Vec<(Code, Fingerprint)> {
    let registry = "apiVersion: port-enforcer.io/v1alpha1\nkind: PortRegistry\nports:\n\
                    - {port: 9000-9099/tcp, user: default/*}\n- {port: 9100/tcp, user: default/exporter}\n- {port: x, user: y}\n";
    let registry = PortRegistry::read(registry, &"registry.yaml".into()).expect("a registry");
    let settings = CheckSettings {
        nodes: Some(nodes),
        service_lb: true,
        registry: Some(registry),
        allocated: crate::model::free_ports::AllocatedRanges {
            node_ports: "30000-32767".parse().ok(),
            ephemeral: "32768-60999".parse().ok(),
        },
        kubernetes_ports: crate::check::reserved::KubernetesPorts::Assumed,
        ..CheckSettings::default()
    };
    let findings = check(manifests, &settings).findings;
    let prints = fingerprints(&findings, |file| file.trim_start_matches("./").to_owned());
    let mut named: Vec<_> = findings.iter().map(|finding| finding.code).zip(prints).collect();
    named.sort_unstable();
    named
}

/// Documents with faults of nearly every kind.
pub(super) fn faulty() -> Vec<String> {
    let service = |name: &str, spec: &str| {
        format!("{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{{spec}}}}}")
    };
    let node_port = "type: NodePort, ports: [{port: 80, nodePort: 30080}]";
    let balancer = "type: LoadBalancer, ports: [{port: 8443, nodePort: 30081}]";
    let address = |address: &str| {
        format!("{{containerPort: 53, protocol: UDP, hostIP: {address}}}, {{containerPort: 53, hostIP: {address}}}")
    };
    let many: Vec<String> = (31_000..31_009).map(|port| format!("{{containerPort: {port}}}")).collect();
    vec![
        workload("DaemonSet", "exporter", "", "", &host("{containerPort: 9100}, {containerPort: 9200}")),
        workload("DaemonSet", "other", "", "", &host("{containerPort: 9100}, {containerPort: 9200}")),
        workload("DaemonSet", "third", "", "", &host("{containerPort: 9100}")),
        workload("DaemonSet", "dns", "", "", &host(&address("0.0.0.0"))),
        workload("DaemonSet", "dns-cache", "", "", &host(&address("169.254.20.10"))),
        workload("DaemonSet", "forwarded", "", "", "containers: [{name: c, ports: [{containerPort: 80, hostPort: 53}]}]"),
        workload("DaemonSet", "node", "", "", &host("{containerPort: 10250}, {containerPort: 10256}")),
        workload("DaemonSet", "ranges", "", "", &host(&format!("{{containerPort: 40000}}, {}", many.join(", ")))),
        workload("DaemonSet", "surging", "updateStrategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}},", "", &host("{containerPort: 81}")),
        workload("Deployment", "copies", "replicas: 9,", "", &host("{containerPort: 82}")),
        workload("Deployment", "annotated", "", "port-enforcer.io/ports: '7001/dccp, 0, 7003'", "hostNetwork: true, containers: [{name: c}]"),
        workload("Deployment", "not-text", "", "port-enforcer.io/ports: 80", "containers: [{name: c}]"),
        workload("Deployment", "refused", "", "", &host("{containerPort: 70000}, {containerPort: 83, protocol: tcp}, {containerPort: 84, name: _}")),
        "{apiVersion: apps/v1, kind: Deployment, metadata: {name: misplaced, annotations: {port-enforcer.io/ports: '85'}}, spec: \
         {template: {spec: {containers: [{name: c}]}}}}"
            .to_owned(),
        workload("Deployment", "without-host", "", "port-enforcer.io/ports: '86'", "containers: [{name: c}]"),
        service("one", node_port),
        service("two", node_port),
        service("balanced-one", balancer),
        service("balanced-two", &balancer.replace("30081", "30082")),
        service("outside", "type: NodePort, ports: [{port: 80, nodePort: 10256}]"),
        service("far", "type: NodePort, ports: [{port: 80, nodePort: 29000}]"),
        workload("DaemonSet", "on-node-port", "", "", &host("{containerPort: 30080}")),
        "{apiVersion: v1, kind: Service, metadata: {name: sends}, spec: {selector: {app: a}, ports: [{port: 80, targetPort: 8123}, \
         {port: 81, targetPort: named}]}}"
            .to_owned(),
        "{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: target-b}, spec: {template: {metadata: {labels: {app: a}}, \
         spec: {hostNetwork: true, containers: [{name: c}]}}}}"
            .to_owned(),
        "{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: target-a}, spec: {template: {metadata: {labels: {app: a}}, \
         spec: {hostNetwork: true, containers: [{name: c}]}}}}"
            .to_owned(),
        "{apiVersion: argoproj.io/v1alpha1, kind: Rollout, metadata: {name: custom}, spec: {template: {spec: {hostNetwork: true, \
         containers: [{name: c, ports: [{containerPort: 9100}]}]}}}}"
            .to_owned(),
        "{apiVersion: extensions/v1beta1, kind: DaemonSet, metadata: {name: old}, spec: {template: {spec: {containers: [{name: \
         c}]}}}}"
            .to_owned(),
    ]
}

/// A file with documents, each behind some lines that say nothing.
fn file(documents: &[(String, usize)]) -> String {
    let texts: Vec<_> =
        documents.iter().map(|(text, lines)| format!("{}{text}\n---\n", "# a comment\n".repeat(*lines))).collect();
    texts.concat()
}

fn broken(lines: usize) -> (String, String) {
    let documents = ["a: [1", "{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {hostNetwork: maybe}}"];
    let documents: Vec<_> = documents.iter().map(|text| ((*text).to_owned(), lines)).collect();
    ("broken.yaml".to_owned(), file(&documents))
}

#[test]
fn nearly_every_code_is_among_the_faults() {
    let documents: Vec<_> = faulty().into_iter().map(|text| (text, 0)).collect();
    let found = named(&set(&[("a.yaml".to_owned(), file(&documents)), broken(0)]), 3);
    let codes: BTreeSet<Code> = found.iter().map(|(code, _)| *code).collect();
    let missing: Vec<_> = Code::ALL.into_iter().filter(|code| !codes.contains(code)).collect();
    assert_eq!(missing, [Code::Incomplete, Code::Quota, Code::NotRead, Code::Duplicate]);
    let distinct: BTreeSet<_> = found.iter().map(|(_, fingerprint)| fingerprint).collect();
    assert_eq!(distinct.len(), found.len());
    let counted: Vec<_> = found.iter().filter(|(_, fingerprint)| !fingerprint.to_string().ends_with(":1")).collect();
    assert!(counted.is_empty(), "nothing sets these apart: {counted:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Lines before each document, the order of documents, their files and the order of files.
    #[test]
    fn places_and_order_do_not_matter(
        order in Just(faulty()).prop_shuffle(),
        lines in proptest::collection::vec(0usize..12, 40),
        files in proptest::collection::vec(0usize..4, 40),
        more in 0usize..12,
        first in any::<bool>(),
    ) {
        let plain: Vec<_> = faulty().into_iter().map(|text| (text, 0)).collect();
        let expected = named(&set(&[("a.yaml".to_owned(), file(&plain)), broken(0)]), 3);
        let mut moved: Vec<(String, String)> = (0..4)
            .map(|number| {
                let chosen = order.iter().zip(&lines).zip(&files).filter(|(_, file)| **file == number);
                let chosen: Vec<_> = chosen.map(|((text, lines), _)| (text.clone(), *lines)).collect();
                (format!("{number}.yaml"), file(&chosen))
            })
            .collect();
        let (name, text) = broken(more);
        moved.insert(if first { 0 } else { 4 }, (format!("./{name}"), text));
        prop_assert_eq!(named(&set(&moved), 3), expected);
    }

    /// One document without its faults takes findings away and changes no other.
    #[test]
    fn other_findings_do_not_matter(removed in 0..faulty().len()) {
        let all: Vec<_> = faulty().into_iter().map(|text| (text, 0)).collect();
        let whole = named(&set(&[("a.yaml".to_owned(), file(&all))]), 3);
        let mut fewer = all.clone();
        // Which object a Service's finding names depends on the others that it selects.
        prop_assume!(!fewer[removed].0.contains("kind: Service") && !fewer[removed].0.contains("name: target-"));
        fewer.remove(removed);
        for finding in named(&set(&[("a.yaml".to_owned(), file(&fewer))]), 3) {
            prop_assert!(whole.contains(&finding), "{:?}", finding);
        }
    }
}

/// Ten lines more in front of a fault: the same fingerprint.
#[test]
fn finding_that_moves_ten_lines_keeps_its_fingerprint() {
    let at = |lines| named(&set(&[("a.yaml".to_owned(), file(&[(faulty()[10].clone(), lines)]))]), 3);
    assert!(at(0).len() >= 2);
    assert_eq!(at(0), at(10));
}

#[test]
fn other_object_port_or_item_is_another_finding() {
    let print = |documents: &[String]| {
        let documents: Vec<_> = documents.iter().map(|text| (text.clone(), 0)).collect();
        let found = named(&set(&[("a.yaml".to_owned(), file(&documents))]), 3);
        found.into_iter().filter(|(code, _)| matches!(code, Code::Conflict | Code::Annotation)).collect::<Vec<_>>()
    };
    let daemon_set =
        |name: &str, port: u16| workload("DaemonSet", name, "", "", &host(&format!("{{containerPort: {port}}}")));
    let pair = |name: &str, port| print(&[daemon_set("one", port), daemon_set(name, port)]);
    assert_eq!(pair("two", 7100), pair("two", 7100));
    assert_ne!(pair("two", 7100), pair("two", 7101));
    assert_ne!(pair("two", 7100), pair("three", 7100));
    let item = |item: &str| {
        print(&[workload(
            "Deployment",
            "a",
            "",
            &format!("port-enforcer.io/ports: '{item}'"),
            "hostNetwork: true, containers: [{name: c}]",
        )])
    };
    assert_eq!(item("7001/dccp"), item("7000, 7001/dccp"), "the place of an item does not matter");
    assert_ne!(item("7001/dccp"), item("7002/dccp"));
}

/// Copies of one object have findings that nothing sets apart.
#[test]
fn equal_findings_are_counted() {
    let copy = faulty()[12].clone();
    let once = named(&set(&[("a.yaml".to_owned(), file(&[(copy.clone(), 0)]))]), 3);
    let twice = named(&set(&[("a.yaml".to_owned(), file(&[(copy.clone(), 0), (copy, 3)]))]), 3);
    let ends = |found: &[(Code, Fingerprint)], end| {
        found.iter().filter(|(code, print)| *code == Code::Port && print.to_string().ends_with(end)).count()
    };
    assert_eq!((ends(&once, ":1"), ends(&once, ":2")), (3, 0));
    assert_eq!((ends(&twice, ":1"), ends(&twice, ":2")), (3, 3));
}
