//! What the API server refuses, rule by rule.

use super::{found, host, messages, workload};
use crate::check::finding::Code;

fn ports(pod: &str) -> Vec<String> {
    let text = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: x}}\nspec:\n{pod}");
    let found = messages(&[&text], &[Code::Port]);
    found.into_iter().map(|message| message.replace("Pod default/x: ", "").replace("spec.", "")).collect()
}

/// Lines below the header of four lines.
fn containers(host_network: bool, list: &str) -> String {
    format!("  hostNetwork: {host_network}\n{list}")
}

#[test]
fn host_port_twice_in_a_pod() {
    let two = |one: &str, other: &str| {
        format!("  containers:\n  - {{name: a, ports: [{{{one}}}]}}\n  - {{name: b, ports: [{{{other}}}]}}\n")
    };
    let refused = |what: &str| {
        vec![format!(
            "0.yaml:8: error: containers[1].ports[0] has host port {what}, and so has containers[0].ports[0]: the API \
             server refuses the pod (Duplicate value), and only one of two programs could bind it"
        )]
    };
    for (host_network, one, other, expected) in [
        (true, "containerPort: 7002", "containerPort: 7002", refused("7002/TCP")),
        (true, "containerPort: 7002, protocol: TCP", "containerPort: 7002, hostPort: 7002", refused("7002/TCP")),
        (false, "containerPort: 1, hostPort: 80", "containerPort: 2, hostPort: 80", refused("80/TCP")),
        (
            false,
            "containerPort: 1, hostPort: 80, hostIP: 10.0.0.1",
            "containerPort: 2, hostPort: 80, hostIP: 10.0.0.1",
            refused("80/TCP on 10.0.0.1"),
        ),
        (false, "containerPort: 80", "containerPort: 80", vec![]),
        (false, "containerPort: 1, hostPort: 80", "containerPort: 1, hostPort: 80, hostIP: 10.0.0.1", vec![]),
        (false, "containerPort: 1, hostPort: 80", "containerPort: 1, hostPort: 80, protocol: UDP", vec![]),
    ] {
        assert_eq!(ports(&containers(host_network, &two(one, other))), expected, "{one} and {other}");
    }
    let one = "  containers: [{name: a, ports: [{containerPort: 1}, {containerPort: 1}]}]\n";
    assert_eq!(ports(&containers(true, one)).len(), 1, "in one container too");
    // Init containers are compared with themselves only; a sidecar runs beside the others all the same.
    let init = |policy: &str, ports: &str| {
        format!(
            "  containers: [{{name: a, ports: [{{containerPort: 1}}]}}]\n  initContainers: [{{name: i, {policy} ports: \
             [{ports}]}}]\n"
        )
    };
    assert_eq!(ports(&containers(true, &init("", "{containerPort: 1}"))), [""; 0]);
    assert_eq!(ports(&containers(true, &init("", "{containerPort: 2}, {containerPort: 2}"))).len(), 1);
    let sidecar = ports(&containers(true, &init("restartPolicy: Always,", "{containerPort: 1}")));
    let expected = "0.yaml:7: warning: initContainers[0].ports[0] has host port 1/TCP, and so has containers[0].ports[0]: \
                    the API server accepts it of a sidecar, and only one of two programs can bind it";
    assert_eq!(sidecar, [expected]);
}

#[test]
fn host_port_that_differs_from_container_port() {
    let port = |rest: &str| format!("  containers:\n  - name: a\n    ports:\n    - containerPort: 7003\n{rest}");
    let expected = "0.yaml:11: error: containers[0].ports[0].hostPort is 80 and containerPort is 7003: with hostNetwork the \
                    API server refuses it unless they are equal";
    assert_eq!(ports(&containers(true, &port("      protocol: TCP\n      hostPort: 80\n"))), [expected]);
    assert_eq!(ports(&containers(true, &port("      hostPort: 7003\n"))), [""; 0]);
    assert_eq!(ports(&containers(true, &port("      hostPort: 0\n"))), [""; 0]);
    assert_eq!(ports(&containers(false, &port("      hostPort: 80\n"))), [""; 0]);
    let init = "  containers: []\n  initContainers: [{name: i, ports: [{containerPort: 1, hostPort: 2}]}]\n";
    assert_eq!(ports(&containers(true, init)), [""; 0], "no rule for init containers");
}

#[test]
fn port_entries() {
    let entry = |entry: &str| ports(&containers(false, &format!("  containers: [{{name: a, ports: [{entry}]}}]\n")));
    for (text, expected) in [
        ("{containerPort: 80, name: http}, {containerPort: 81}, {containerPort: 82}", &[][..]),
        ("{hostPort: 80}", &["has no containerPort"]),
        ("{containerPort: 0}", &["has no containerPort"]),
        ("{containerPort: 65536}", &["containerPort is 65536; ports are 1 to 65535"]),
        ("{containerPort: -1}", &["containerPort is -1; ports are 1 to 65535"]),
        ("{containerPort: 1, hostPort: 70000}", &["hostPort is 70000; ports are 1 to 65535"]),
        ("{containerPort: 1, hostPort: -80}", &["hostPort is -80; ports are 1 to 65535"]),
        ("{containerPort: 1, protocol: tcp}", &["protocol is 'tcp', and the API server refuses it"]),
        ("{containerPort: 1, name: a-much-too-long-name}", &["it has more than 15 characters"]),
        ("{containerPort: 1, name: Web}", &["it may have a-z, 0-9 and - only"]),
        ("{containerPort: 1, name: '80'}", &["it has no letter"]),
        ("{containerPort: 1, name: a--b}", &["it has two - side by side"]),
        ("{containerPort: 1, name: a-}", &["it begins or ends with -"]),
        (
            "{containerPort: 1, name: a}, {containerPort: 2, name: a}",
            &["as another port of the container: Duplicate value"],
        ),
        (
            "{containerPort: 1, hostPort: 2, hostIP: localhost}",
            &["the API server accepts it, but the container runtime does not"],
        ),
        ("{containerPort: 1, hostPort: 2, hostIP: 10.0.0}", &["which is not an IP address: the API server accepts it"]),
        ("{containerPort: 1, hostPort: 2, hostIP: 'fe80::1%eth0'}", &["has a zone"]),
        ("{containerPort: 1, hostIP: localhost}", &[]),
    ] {
        let found = entry(text);
        assert!(found.len() == expected.len(), "{text}: {found:?}");
        for (found, words) in found.iter().zip(expected) {
            assert!(found.starts_with("0.yaml:6: error: containers[0].ports[") && found.contains(words), "{found}");
        }
    }
    let on_host = ports(&containers(true, "  containers: [{name: a, ports: [{containerPort: 1, hostIP: node}]}]\n"));
    assert!(on_host.len() == 1 && on_host[0].ends_with("compares it as a text, and it claims nothing"), "{on_host:?}");
    let probe = |port: &str| {
        ports(&containers(
            false,
            &format!("  containers: [{{name: a, livenessProbe: {{httpGet: {{port: {port}}}}}}}]\n"),
        ))
    };
    assert_eq!(probe("http"), [""; 0]);
    assert!(probe("'80'")[0].contains("livenessProbe.httpGet.port is the text \"80\", and the API server refuses it"));
    assert!(probe("65536")[0].contains("livenessProbe.httpGet.port is 65536; ports are 1 to 65535"));
}

#[test]
fn many_refusals_are_bounded() {
    let pod = host(&vec!["{containerPort: 0}"; 100].join(", "));
    let found = messages(&[&workload("DaemonSet", "x", "", "", &pod)], &[Code::Port, Code::Annotation]);
    assert_eq!(found.len(), 65);
    assert!(found.iter().any(|message| message.ends_with("there are 36 more problems like these")), "{found:?}");
}

#[test]
fn update_strategies() {
    let with = |kind: &str, strategy: &str| {
        let key = if kind == "Deployment" { "strategy" } else { "updateStrategy" };
        workload(kind, "x", &format!("{key}: {{{strategy}}},"), "", &host("{containerPort: 80}"))
    };
    let rolling = |rest: &str| format!("rollingUpdate: {{{rest}}}");
    for (kind, strategy, expected) in [
        ("Deployment", rolling("maxSurge: 0, maxUnavailable: 0"), "maxUnavailable may not be 0 while maxSurge is 0"),
        ("Deployment", rolling("maxSurge: 0%, maxUnavailable: 0%"), "maxUnavailable may not be 0 while maxSurge is 0"),
        ("Deployment", rolling("maxSurge: 0"), ""),
        ("Deployment", rolling("maxSurge: 0, maxUnavailable: 101%"), "maxUnavailable is 101%"),
        ("Deployment", rolling("maxSurge: 0, maxUnavailable: 100%"), ""),
        ("Deployment", "type: Recreate, rollingUpdate: {maxSurge: 0}".to_owned(), "is set beside type: Recreate"),
        ("Deployment", "type: Recreate, rollingUpdate: null".to_owned(), ""),
        (
            "Deployment",
            "type: OnDelete".to_owned(),
            "type is 'OnDelete', and the API server refuses it of a Deployment",
        ),
        ("DaemonSet", "type: Recreate".to_owned(), "type is 'Recreate', and the API server refuses it of a DaemonSet"),
        ("DaemonSet", "type: rollingUpdate".to_owned(), "type is 'rollingUpdate', and the API server refuses it"),
        ("DaemonSet", rolling("maxUnavailable: 0"), "maxUnavailable may not be 0 while maxSurge is 0"),
        ("DaemonSet", rolling("maxSurge: 0, maxUnavailable: 0"), "maxUnavailable may not be 0 while maxSurge is 0"),
        ("DaemonSet", rolling("maxSurge: 1"), "maxSurge may not be set while maxUnavailable is not 0 (1 by default)"),
        (
            "DaemonSet",
            rolling("maxSurge: 1, maxUnavailable: 1"),
            "maxSurge may not be set while maxUnavailable is not 0:",
        ),
        ("DaemonSet", rolling("maxUnavailable: 10%"), ""),
        ("DaemonSet", "type: OnDelete, rollingUpdate: {maxUnavailable: 0}".to_owned(), ""),
    ] {
        let found = messages(&[&with(kind, &strategy)], &[Code::Surge]);
        let errors: Vec<_> = found.iter().filter(|message| message.starts_with("0.yaml:1: error: ")).collect();
        if expected.is_empty() {
            assert!(errors.is_empty(), "{kind} {strategy}: {errors:?}");
        } else {
            assert!(errors.len() == 1 && errors[0].contains(expected), "{kind} {strategy}: {found:?}");
        }
    }
    // One that is accepted, and never ends.
    let endless = with("DaemonSet", &rolling("maxSurge: 1, maxUnavailable: 0"));
    assert_eq!(found(&[&endless], None), ["0.yaml:1: error surge"]);
    assert!(messages(&[&endless], &[Code::Surge])[0].ends_with("it never ends"));
}
