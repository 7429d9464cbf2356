//! Ports that nodes use themselves, ranges of which ports are given away, and the free ports that remedies name.

use super::{codes, host, manifests, workload};
use crate::check::{CheckSettings, check, finding::Severity, reserved::KubernetesPorts};
use crate::{
    model::{free_ports::AllocatedRanges, port_spec::PortRange},
    pods::annotation::parse_list,
};

fn found(text: &str, settings: &CheckSettings) -> Vec<String> {
    codes(&check(&manifests(&[text]), settings))
}

fn daemon_set(name: &str, placement: &str, ports: &str) -> String {
    workload("DaemonSet", name, "", "", &format!("{placement}{}", host(ports)))
}

const TOLERATES: &str = "tolerations: [{operator: Exists}], ";

#[test]
fn ports_of_kubernetes_are_warnings_unless_told_otherwise() {
    let port = |port: u16| format!("{{containerPort: {port}}}");
    let workers = "nodeSelector: {node-role.kubernetes.io/worker: ''}, tolerations: [{operator: Exists}], ";
    let control_plane = "nodeSelector: {node-role.kubernetes.io/control-plane: ''}, tolerations: [{key: \
                         node-role.kubernetes.io/master, operator: Exists}], ";
    for (placement, number, assumed, reserved) in [
        ("", 10_250, Some("warning"), Some("error")),
        ("", 22, Some("warning"), Some("error")),
        ("", 10_010, Some("warning"), Some("error")),
        (TOLERATES, 10_257, Some("warning"), Some("error")),
        (control_plane, 2380, Some("warning"), Some("error")),
        // Not on nodes of the control plane as kubeadm makes them, or never.
        ("", 10_257, Some("note"), Some("warning")),
        (workers, 10_257, None, None),
        ("nodeName: worker-1, ", 6443, None, None),
        (TOLERATES, 10_251, None, None),
    ] {
        let text = daemon_set("x", placement, &port(number));
        for (kubernetes_ports, expected) in [
            (KubernetesPorts::Assumed, assumed),
            (KubernetesPorts::Reserved, reserved),
            (KubernetesPorts::Ignored, None),
        ] {
            let settings = CheckSettings { kubernetes_ports, ..CheckSettings::default() };
            let expected: Vec<String> =
                expected.iter().map(|severity| format!("0.yaml:1: {severity} reserved")).collect();
            assert_eq!(found(&text, &settings), expected, "{placement}{number} {kubernetes_ports:?}");
        }
    }
    let udp = daemon_set("x", "", "{containerPort: 10250, protocol: UDP}");
    let settings = CheckSettings { kubernetes_ports: KubernetesPorts::Reserved, ..CheckSettings::default() };
    assert_eq!(found(&udp, &settings), [""; 0]);
}

#[test]
fn component_of_kubernetes_may_have_its_port() {
    let settings = CheckSettings { kubernetes_ports: KubernetesPorts::Reserved, ..CheckSettings::default() };
    let in_system = |name: &str, port: u16| {
        daemon_set(name, TOLERATES, &format!("{{containerPort: {port}}}"))
            .replace(&format!("name: {name}"), &format!("name: {name}, namespace: kube-system"))
    };
    assert_eq!(found(&in_system("kube-proxy", 10_256), &settings), [""; 0]);
    assert_eq!(found(&in_system("etcd-node-1", 2379), &settings), [""; 0]);
    assert_eq!(found(&in_system("kube-proxy", 10_250), &settings), ["0.yaml:1: error reserved"], "of another");
    assert_eq!(found(&daemon_set("kube-proxy", "", "{containerPort: 10256}"), &settings), ["0.yaml:1: error reserved"]);
}

#[test]
fn reserved_port_is_named_with_its_user_once() {
    let text = daemon_set("x", "", "{containerPort: 10250}");
    let mut settings = CheckSettings { kubernetes_ports: KubernetesPorts::Reserved, ..CheckSettings::default() };
    let outcome = check(&manifests(&[&text]), &settings);
    assert_eq!(
        outcome.findings[0].message,
        "DaemonSet default/x claims 10250/tcp (hostPort), and 10250/tcp is a port of kubelet, on every node"
    );
    settings.node_reserved = parse_list("10250/tcp").expect("a list");
    let outcome = check(&manifests(&[&text]), &settings);
    let messages: Vec<_> = outcome.findings.iter().map(|finding| finding.message.as_str()).collect();
    assert_eq!(
        messages,
        ["DaemonSet default/x claims 10250/tcp (hostPort), and 10250/tcp is reserved for the node"],
        "the list comes first"
    );
}

#[test]
fn claims_inside_of_ranges_are_found() {
    let usual = AllocatedRanges::default();
    let wide = AllocatedRanges { ephemeral: PortRange::new(1025, 65_000).ok(), node_ports: None };
    let none = AllocatedRanges { ephemeral: None, node_ports: None };
    let annotated = |ports: &str| {
        let annotations = format!("port-enforcer.io/ports: '{ports}'");
        workload("DaemonSet", "x", "", &annotations, "hostNetwork: true, containers: []")
    };
    let probed = "hostNetwork: true, containers: [{name: c, readinessProbe: {tcpSocket: {port: 40000}}}]";
    let forwarded = "containers: [{name: c, ports: [{containerPort: 80, hostPort: 40000}]}]";
    let (ephemeral, node_ports) = ("0.yaml:1: warning ephemeral", "0.yaml:1: warning node_port_range");
    for (text, allocated, expected) in [
        (annotated("40000"), usual, &[ephemeral][..]),
        (annotated("32768/udp"), usual, &[ephemeral]),
        (annotated("60999"), usual, &[ephemeral]),
        (annotated("61000"), usual, &[]),
        (annotated("29999"), usual, &[]),
        (annotated("30000"), usual, &[node_ports]),
        (annotated("32767"), usual, &[node_ports]),
        (annotated("32000-33000"), usual, &[node_ports, ephemeral]),
        (workload("DaemonSet", "x", "", "", probed), usual, &[ephemeral]),
        (workload("DaemonSet", "x", "", "", forwarded), usual, &[ephemeral]),
        // No Service is in the way on the loopback, but connections within the node are.
        (annotated("127.0.0.1:30000"), usual, &[]),
        (annotated("127.0.0.1:40000"), usual, &[ephemeral]),
        (annotated("8081"), usual, &[]),
        (annotated("8081"), wide, &[ephemeral]),
        (annotated("30000 40000"), none, &[]),
    ] {
        let settings = CheckSettings { allocated, ..CheckSettings::default() };
        assert_eq!(found(&text, &settings), expected, "{text} {allocated:?}");
    }
    let outcome = check(&manifests(&[&annotated("40000 41000/udp 80")]), &CheckSettings::default());
    let [finding] = outcome.findings.as_slice() else { panic!("{:?}", outcome.findings) };
    assert_eq!(
        finding.message,
        "DaemonSet default/x claims 40000/tcp (annotation), 41000/udp (annotation) inside the ephemeral range 32768-60999: \
         an outgoing connection of the node may have it when the pod binds it"
    );
    assert_eq!(
        (finding.ports.as_slice(), finding.severity),
        (&["40000/tcp".into(), "41000/udp".into()][..], Severity::Warning)
    );
}

#[test]
fn remedies_name_free_ports_near_the_one_in_question() {
    let [one, other] = ["one", "other"].map(|name| daemon_set(name, "", "{containerPort: 9100}"));
    let taken = daemon_set("taken", "", "{containerPort: 9101}, {containerPort: 9099}");
    let service =
        "{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {externalIPs: [192.0.2.1], ports: [{port: 9102}]}}";
    let remedy = |documents: &[&str], settings: &CheckSettings| {
        let outcome = check(&manifests(documents), settings);
        outcome.findings.into_iter().next().expect("a finding").remedy
    };
    let usual = CheckSettings::default();
    assert!(remedy(&[&one, &other], &usual).ends_with("; free near 9100/tcp: 9101, 9099"));
    let all = remedy(&[&one, &other, &taken, service], &usual);
    assert!(all.ends_with("; free near 9100/tcp: 9098, 9103"), "{all}");
    let reserved =
        CheckSettings { node_reserved: parse_list("9000-9098").expect("a list"), ..CheckSettings::default() };
    let all = remedy(&[&one, &other, &taken, service], &reserved);
    assert!(all.ends_with("; free near 9100/tcp: 9103, 9104"), "{all}");
    // Of a range, and of what is no finding, none is named.
    let ranges = ["a", "b"].map(|name| {
        workload("DaemonSet", name, "", "port-enforcer.io/ports: 8000-8010", "hostNetwork: true, containers: []")
    });
    assert!(!remedy(&[&ranges[0], &ranges[1]], &usual).contains("free near"));
    let replicas = workload("StatefulSet", "x", "replicas: 2,", "", &host("{containerPort: 9100}"));
    assert!(!remedy(&[&replicas], &usual).contains("free near"));
}
