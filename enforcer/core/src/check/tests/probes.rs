//! Likely claims, from the probes of pods on the host network.

use super::{codes, found, manifests, messages, object, workload};
use crate::{
    check::{CheckSettings, check, finding::Code},
    pods::annotation::parse_list,
};

/// A pod's spec on the host network with these fields in its container.
fn probed(fields: &str) -> String {
    format!("hostNetwork: true, containers: [{{name: main, {fields}}}]")
}

fn daemon_set(name: &str, annotations: &str, pod: &str) -> String {
    workload("DaemonSet", name, "", annotations, pod)
}

fn claims(pod: &str, annotations: &str) -> Vec<String> {
    let object = object(&daemon_set("x", annotations, pod));
    object.claims.iter().map(|claim| format!("{} {}", claim.spec, claim.source)).collect()
}

#[test]
fn numeric_probe_ports_are_likely_claims() {
    let http = |rest: &str| probed(&format!("livenessProbe: {{httpGet: {{{rest}}}}}"));
    let init = |policy: &str| {
        format!(
            "hostNetwork: true, containers: [{{name: c}}], initContainers: [{{name: i, {policy} startupProbe: {{tcpSocket: \
             {{port: 82}}}}}}]"
        )
    };
    for (pod, expected) in [
        (http("port: 80"), &["80/tcp probe"][..]),
        (http("port: 80, host: 127.0.0.1"), &["127.0.0.1:80/tcp probe"]),
        (http("port: 80, host: localhost"), &["127.0.0.1:80/tcp probe"]),
        (http("port: 80, host: '[::1]'"), &["[::1]:80/tcp probe"]),
        (http("port: 80, host: '::1'"), &["[::1]:80/tcp probe"]),
        (http("port: 80, host: 0.0.0.0"), &["0.0.0.0:80/tcp probe"]),
        (http("port: 80, host: ''"), &["80/tcp probe"]),
        // Another machine, or a declared port by its name.
        (http("port: 80, host: example.test"), &[]),
        (http("port: http"), &[]),
        (http("port: 0"), &[]),
        (probed("readinessProbe: {tcpSocket: {port: 81}}"), &["81/tcp probe"]),
        (probed("startupProbe: {grpc: {port: 82}}"), &["82/tcp probe"]),
        (probed("livenessProbe: {exec: {command: [x]}}"), &[]),
        (
            probed(
                "livenessProbe: {grpc: {port: 80}}, readinessProbe: {httpGet: {port: 80}}, startupProbe: {grpc: {port: 81}}",
            ),
            &["80/tcp probe", "81/tcp probe"],
        ),
        (init("restartPolicy: Always,"), &["82/tcp probe"]),
        (init(""), &[]),
        // Declared, and so known.
        (
            probed("ports: [{containerPort: 80}], livenessProbe: {httpGet: {port: 80, host: 127.0.0.1}}"),
            &["80/tcp hostPort"],
        ),
        (
            probed(
                "ports: [{containerPort: 80, hostIP: 10.0.0.1}], livenessProbe: {httpGet: {port: 80, host: 127.0.0.1}}",
            ),
            &["10.0.0.1:80/tcp hostPort", "127.0.0.1:80/tcp probe"],
        ),
        (
            probed("ports: [{containerPort: 80, protocol: UDP}], livenessProbe: {httpGet: {port: 80}}"),
            &["80/udp hostPort", "80/tcp probe"],
        ),
        // Without host network, it is a port of the pod.
        ("containers: [{name: c, livenessProbe: {httpGet: {port: 80}}}]".to_owned(), &[]),
    ] {
        assert_eq!(claims(&pod, ""), expected, "{pod}");
    }
    assert_eq!(claims(&http("port: 80"), "port-enforcer.io/ports: 79-81"), ["79-81/tcp annotation"]);
    assert_eq!(claims(&http("port: 80"), "port-enforcer.io/ports: none"), [""; 0]);
}

#[test]
fn likely_conflict_is_a_warning_with_the_declaration() {
    let left = daemon_set("left", "", &probed("livenessProbe: {httpGet: {port: 7004, host: 127.0.0.1}}"));
    let right = daemon_set("right", "", &probed("readinessProbe: {tcpSocket: {port: 7004}}"));
    let declared = daemon_set("declared", "", &probed("ports: [{containerPort: 7004}]"));
    let both = daemon_set("both", "", &probed("ports: [{containerPort: 80}], livenessProbe: {grpc: {port: 7004}}"));
    let known = daemon_set("known", "", &probed("ports: [{containerPort: 7004}, {containerPort: 80}]"));
    for (one, other, severity, words) in [
        (&left, &right, "warning", "both are probed on 7004/tcp; the scheduler does not see it"),
        (&right, &declared, "warning", "it claims 7004/tcp, on which the other is probed; "),
        (&declared, &left, "warning", "it is probed on 127.0.0.1:7004/tcp, which the other claims; "),
        (&both, &known, "error", "both claim 80/tcp; it claims 7004/tcp, on which the other is probed; "),
    ] {
        let found = messages(&[one, other], &[Code::Conflict]);
        assert!(found.len() == 1 && found[0].contains(words), "{found:?}");
        assert!(found[0].starts_with(&format!("1.yaml:1: {severity}: ")), "{found:?}");
    }
    let outcome = check(&manifests(&[&left, &right]), &CheckSettings::default());
    let remedy = &outcome.findings[0].remedy;
    for line in [
        "ports: [{containerPort: 7004, hostIP: 127.0.0.1}] to container main of DaemonSet default/left",
        "ports: [{containerPort: 7004}] to container main of DaemonSet default/right",
    ] {
        assert!(remedy.contains(line), "{remedy}");
    }
}

#[test]
fn likely_claims_make_no_errors() {
    let pod = probed("livenessProbe: {httpGet: {port: 10250}}");
    let set = workload("StatefulSet", "x", "replicas: 2,", "", &pod);
    assert_eq!(found(&[&set], Some(1)), ["0.yaml:1: warning replicas"]);
    let rolling = "strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}},";
    assert_eq!(found(&[&workload("Deployment", "x", rolling, "", &pod)], Some(1)), ["0.yaml:1: warning surge"]);
    let node_reserved = parse_list("10250/tcp").unwrap();
    let settings = CheckSettings { node_reserved, ..CheckSettings::default() };
    let outcome = check(&manifests(&[&daemon_set("x", "", &pod)]), &settings);
    assert_eq!(codes(&outcome), ["0.yaml:1: warning reserved"]);
}

#[test]
fn object_without_known_ports_is_a_note() {
    let note = &["0.yaml:1: note unknown_ports"][..];
    let silent = probed("args: ['--listen=:7029']");
    for (annotations, pod, expected) in [
        ("", silent.as_str(), note),
        ("", "hostNetwork: true, containers: []", note),
        ("", &probed("livenessProbe: {exec: {command: [x]}}, readinessProbe: {httpGet: {port: http}}"), note),
        ("port-enforcer.io/ports: ''", &silent, note),
        ("port-enforcer.io/ports: none", &silent, &[]),
        ("port-enforcer.io/ports: ' none, '", &silent, &[]),
        ("port-enforcer.io/ports: 80", &silent, &["0.yaml:1: error annotation"]),
        ("port-enforcer.io/ports: '0'", &silent, &["0.yaml:1: error annotation"]),
        ("", &probed("ports: [{containerPort: 80}]"), &[]),
        ("", &probed("livenessProbe: {grpc: {port: 80}}"), &[]),
        ("", &probed("ports: [{containerPort: 0}]"), &["0.yaml:1: error port"]),
        ("", "containers: [{name: c}]", &[]),
        ("", "hostNetwork: false, containers: [{name: c}]", &[]),
    ] {
        assert_eq!(found(&[&daemon_set("x", annotations, pod)], None), expected, "{annotations} {pod}");
    }
    let text =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec:\n  containers: [{name: c}]\n  hostNetwork: true\n";
    let found = messages(&[text], &[Code::UnknownPorts]);
    assert_eq!(
        found,
        ["0.yaml:6: note: Pod default/x is on the host network, and none of its ports is known, so none is checked"]
    );
}
