//! Manifests against a table of ports and their users.

use std::sync::Arc;

use super::{codes, host, manifests, workload};
use crate::check::{
    CheckSettings, ManifestSet, check,
    finding::Finding,
    registry::{PortRegistry, registry_text, registry_users},
};

const TABLE: &str = "\
# Comments count for nothing.
apiVersion: port-enforcer.io/v1alpha1
kind: PortRegistry
ports:
- {port: 9100/tcp, user: DaemonSet default/node-exporter, note: since 2019}
- {port: 8000-8999, user: 'games/*'}
- {port: 8080, user: [Service default/front, default/front*]}
- {port: 22, user: node}
- {port: '127.0.0.1:9500', user: default/x}
";

fn table(text: &str) -> PortRegistry {
    PortRegistry::read(text, &Arc::from("registry.yaml")).expect("a table")
}

fn findings(set: &ManifestSet, text: &str) -> Vec<Finding> {
    let settings = CheckSettings { registry: Some(table(text)), ..CheckSettings::default() };
    check(set, &settings).findings
}

fn found(object: &str) -> Vec<String> {
    findings(&manifests(&[object]), TABLE)
        .iter()
        .map(|finding| format!("{} {} {}", finding.place, finding.severity.as_str(), finding.code.as_str()))
        .collect()
}

fn daemon_set(namespace: &str, name: &str, ports: &str) -> String {
    let annotations = format!("port-enforcer.io/ports: '{ports}'");
    workload("DaemonSet", name, "", &annotations, "hostNetwork: true, containers: []")
        .replace(&format!("name: {name}}}"), &format!("name: {name}, namespace: {namespace}}}"))
}

#[test]
fn claims_are_held_against_the_table() {
    let (another, nobody) = ("0.yaml:1 error registry", "0.yaml:1 warning registry");
    for (namespace, name, ports, expected) in [
        ("default", "node-exporter", "9100", &[][..]),
        ("default", "other", "9100", &[another]),
        ("other", "node-exporter", "9100", &[another]),
        ("default", "other", "9100/udp", &[nobody]),
        ("default", "other", "9101", &[nobody]),
        ("games", "anything", "8000", &[]),
        ("games", "anything", "8000-8010", &[]),
        // An entry with fewer ports takes them out of a range.
        ("games", "anything", "8080", &[another]),
        ("games", "anything", "8070-8090", &[another]),
        ("games", "anything", "8990-9010", &[nobody]),
        ("default", "front-canary", "8080", &[]),
        ("default", "other", "8001", &[another]),
        ("default", "x", "22", &[another]),
        // An address of the table is one of the claim, and not more.
        ("default", "x", "127.0.0.1:9500", &[]),
        ("default", "x", "9500", &[nobody]),
        ("default", "z", "9500", &[another]),
        ("default", "z", "192.0.2.1:9500", &[nobody]),
        ("default", "node-exporter", "9100 9101 9102 22", &[another, nobody]),
    ] {
        assert_eq!(found(&daemon_set(namespace, name, ports)), expected, "{namespace}/{name} {ports}");
    }
}

#[test]
fn messages_name_the_user_and_the_entry() {
    let outcome = findings(&manifests(&[&daemon_set("default", "x", "9100, 9101, 9102")]), TABLE);
    let texts: Vec<_> = outcome.iter().map(|finding| (finding.message.as_str(), finding.remedy.as_str())).collect();
    assert_eq!(
        texts,
        [
            (
                "DaemonSet default/x claims 9100/tcp (annotation), and the registry gives 9100/tcp to DaemonSet \
                 default/node-exporter (registry.yaml:5)",
                "choose another port, or let the owners of the registry change the entry; free near 9100/tcp: 9099, 9098"
            ),
            (
                "DaemonSet default/x claims 9101/tcp (annotation), 9102/tcp (annotation), and no entry of the registry \
                 registry.yaml gives it these ports",
                "let the owners of the registry add it: {port: \"9101/tcp\", user: DaemonSet default/x}; free near \
                 9101/tcp: 9103, 9099"
            ),
        ]
    );
}

#[test]
fn likely_claims_and_services_are_held_against_it_too() {
    let probed = |port: u16| {
        let pod =
            format!("hostNetwork: true, containers: [{{name: c, readinessProbe: {{tcpSocket: {{port: {port}}}}}}}]");
        workload("DaemonSet", "x", "", "", &pod)
    };
    assert_eq!(found(&probed(9100)), ["0.yaml:1 warning registry"]);
    assert_eq!(found(&probed(9101)), ["0.yaml:1 note registry"]);
    let service = |name: &str, port: u16| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{externalIPs: [192.0.2.1], ports: [{{port: \
             {port}}}]}}}}"
        )
    };
    assert_eq!(found(&service("front", 8080)), [""; 0]);
    assert_eq!(found(&service("other", 8080)), ["0.yaml:1 error registry"]);
    assert_eq!(found(&service("other", 81)), ["0.yaml:1 warning registry"]);
    let none = workload("Deployment", "x", "replicas: 0,", "", &host("{containerPort: 9100}"));
    assert_eq!(found(&none), [""; 0]);
}

#[test]
fn bad_entries_count_for_nothing_and_have_their_lines() {
    let text = "\
apiVersion: port-enforcer.io/v1alpha1
kind: PortRegistry
ports:
- {port: 9100, user: default/x}
- {port: 0, user: default/x}
- {port: 80/icmp, user: default/x}
- {user: default/x}
- {port: 80}
- {port: 80, user: x}
- {port: 80, user: a b c}
- {port: 80, user: '*/x'}
- {port: 80, user: []}
- {port: 80, user: [7]}
- {port: 80, user: default/x, owner: me}
- 80
";
    let PortRegistry { entries, problems, more_problems, .. } = table(text);
    assert_eq!((entries.len(), entries[0].line, more_problems), (1, 4, 0));
    let lines: Vec<_> = problems.iter().map(|(place, message)| format!("{place} {message}")).collect();
    let user = "write NAMESPACE/NAME, KIND NAMESPACE/NAME (NAME may end in *) or node";
    assert_eq!(
        lines,
        [
            "registry.yaml:5 port '0': port 0 cannot be claimed; ports are 1 to 65535".to_owned(),
            "registry.yaml:6 port '80/icmp': the protocol is unknown; write /tcp, /udp or /sctp".to_owned(),
            "registry.yaml:7 the entry has no port; write one, as in 80/tcp or 8000-8010".to_owned(),
            "registry.yaml:8 the entry has no user; write NAMESPACE/NAME, KIND NAMESPACE/NAME or node".to_owned(),
            format!("registry.yaml:9 user 'x' is none; {user}"),
            format!("registry.yaml:10 user 'a b c' is none; {user}"),
            format!("registry.yaml:11 user '*/x' is none; {user}"),
            "registry.yaml:12 the entry has no user".to_owned(),
            "registry.yaml:13 a user is no text".to_owned(),
            "registry.yaml:14 the entry has the key 'owner'; write port, user and note".to_owned(),
            "registry.yaml:15 the entry is no mapping; write {port: 80/tcp, user: NAMESPACE/NAME}".to_owned(),
        ]
    );
    let settings = CheckSettings { registry: Some(table(text)), ..CheckSettings::default() };
    let outcome = check(&ManifestSet::default(), &settings);
    assert_eq!(codes(&outcome).first().map(String::as_str), Some("registry.yaml:5: error registry"));
    assert_eq!(outcome.findings.len(), 11);
}

#[test]
fn text_that_is_no_table_is_refused() {
    for (text, reason) in [
        ("", "it is empty"),
        ("{", "line 1: "),
        ("a: 1", "it does not begin with apiVersion: port-enforcer.io/v1alpha1 and kind: PortRegistry"),
        ("{apiVersion: port-enforcer.io/v1alpha1, kind: PortRegistry, ports: 7}", "its ports are no list"),
        ("{apiVersion: port-enforcer.io/v1alpha1, kind: PortRegistry}\n---\n{a: b}", "it has more than one document"),
    ] {
        let error = PortRegistry::read(text, &Arc::from("registry.yaml")).expect_err(text);
        assert!(error.starts_with(reason), "{text}: {error}");
    }
    let entries = "- {port: 80, user: a/b}\n".repeat(20_001);
    let long = table(&format!("apiVersion: port-enforcer.io/v1alpha1\nkind: PortRegistry\nports:\n{entries}"));
    assert_eq!((long.entries.len(), long.problems.len()), (20_000, 1));
    let bad = "- {port: 0, user: a/b}\n".repeat(150);
    let bad = table(&format!("apiVersion: port-enforcer.io/v1alpha1\nkind: PortRegistry\nports:\n{bad}"));
    assert_eq!((bad.problems.len(), bad.more_problems), (100, 50));
}

#[test]
fn written_table_is_read_back_and_satisfies_its_manifests() {
    let documents = [
        daemon_set("default", "one", "9100 53/udp 127.0.0.1:9500 8000-8010"),
        daemon_set("default", "two", "[::1]:9500"),
        daemon_set("other", "one", "53/udp"),
        "{apiVersion: v1, kind: Pod, metadata: {generateName: job-}, spec: {hostNetwork: true, containers: [{name: c, \
         livenessProbe: {tcpSocket: {port: 7000}}}]}}"
            .to_owned(),
        "{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {type: LoadBalancer, ports: [{port: 443, nodePort: \
         30443}]}}"
            .to_owned(),
    ];
    let documents: Vec<&str> = documents.iter().map(String::as_str).collect();
    let set = manifests(&documents);
    let text = registry_text(&registry_users(&set, false));
    let expected = "\
apiVersion: port-enforcer.io/v1alpha1
kind: PortRegistry
ports:
- port: 53/udp
  user: [DaemonSet default/one, DaemonSet other/one]
- port: 7000/tcp
  user: \"Pod default/job-*\"
- port: 8000-8010/tcp
  user: DaemonSet default/one
- port: 9100/tcp
  user: DaemonSet default/one
- port: 127.0.0.1:9500/tcp
  user: DaemonSet default/one
- port: \"[::1]:9500/tcp\"
  user: DaemonSet default/two
- port: 30443/tcp
  user: Service default/s
";
    assert!(text.starts_with("# ") && text.ends_with(expected), "{text}");
    let registry: Vec<_> =
        findings(&set, &text).into_iter().filter(|finding| finding.code.as_str() == "registry").collect();
    assert_eq!(registry, []);
    let with_balancer = registry_text(&registry_users(&set, true));
    assert!(with_balancer.contains("- port: 443/tcp\n  user: Service default/s\n"), "{with_balancer}");
    let empty = registry_text(&registry_users(&ManifestSet::default(), false));
    assert_eq!(table(&empty).entries, []);
}
