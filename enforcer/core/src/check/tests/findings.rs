//! What is found, by tables.

use super::{codes, found, host, manifests, object, workload};
use crate::check::{
    CheckSettings, check,
    finding::{Code, Severity},
    scheduler_ports::collide,
};
use crate::{
    model::source::ClaimSource,
    pods::{annotation::parse_list, claims::PodClaim},
};

const WEB: &str = "{containerPort: 80}";

/// An object that claims port 80 by annotation alone.
fn silent(kind: &str, name: &str, spec: &str, annotations: &str) -> String {
    let annotations = format!("{annotations}port-enforcer.io/ports: '80'");
    workload(kind, name, spec, &annotations, "hostNetwork: true, containers: []")
}

fn deployment(name: &str, spec: &str, pod: &str) -> String {
    workload("Deployment", name, spec, "", pod)
}

#[test]
fn replicas_against_nodes() {
    let recreate = |kind: &str, count: &str| {
        let spec =
            if kind == "Deployment" { format!("{count}, strategy: {{type: Recreate}},") } else { format!("{count},") };
        workload(kind, "x", &spec, "", &host(WEB))
    };
    for (text, nodes, expected) in [
        (recreate("Deployment", "replicas: 2"), Some(1), &["0.yaml:1: error replicas"][..]),
        (recreate("Deployment", "replicas: 2"), Some(2), &[]),
        (recreate("Deployment", "replicas: 2"), None, &["0.yaml:1: note replicas"]),
        (recreate("Deployment", "replicas: 1"), None, &[]),
        (recreate("StatefulSet", "replicas: 3"), Some(2), &["0.yaml:1: error replicas"]),
        (recreate("ReplicaSet", "replicas: 3"), Some(3), &[]),
        (recreate("Job", "parallelism: 2"), Some(1), &["0.yaml:1: error replicas"]),
        // Nothing claimed, nothing to say; and those who share do not exclude each other.
        (
            deployment("x", "replicas: 9,", "hostNetwork: true, containers: [{name: c}]"),
            Some(1),
            &["0.yaml:1: note unknown_ports"],
        ),
        (deployment("x", "replicas: 9,", "containers: [{name: c, ports: [{containerPort: 80}]}]"), Some(1), &[]),
        (silent("StatefulSet", "x", "replicas: 2,", "port-enforcer.io/share: web, "), Some(1), &[]),
        // The scheduler knows no share, and so leaves the second one Pending.
        (
            workload("StatefulSet", "x", "replicas: 2,", "port-enforcer.io/share: web", &host(WEB)),
            Some(1),
            &["0.yaml:1: error replicas"],
        ),
        // One node, however many there are.
        (
            workload("StatefulSet", "x", "replicas: 2,", "", &format!("nodeName: a, {}", host(WEB))),
            Some(5),
            &["0.yaml:1: error replicas"],
        ),
    ] {
        assert_eq!(found(&[&text], nodes), expected, "{text} on {nodes:?}");
    }
}

#[test]
fn surges_against_nodes() {
    let rolling = |replicas: u32, rest: &str| {
        deployment("x", &format!("replicas: {replicas}, strategy: {{rollingUpdate: {{{rest}}}}},"), &host(WEB))
    };
    for (text, nodes, expected) in [
        (rolling(2, "maxSurge: 1, maxUnavailable: 0"), Some(2), &["0.yaml:1: error surge"][..]),
        (rolling(2, "maxSurge: 1, maxUnavailable: 1"), Some(2), &["0.yaml:1: warning surge"]),
        (rolling(2, "maxSurge: 1, maxUnavailable: 0"), Some(3), &[]),
        (rolling(2, "maxSurge: 51%"), Some(2), &["0.yaml:1: error surge"]),
        // One free node is enough: the update ends, one pod after the other.
        (rolling(2, "maxSurge: 51%"), Some(3), &["0.yaml:1: warning surge"]),
        (rolling(2, "maxSurge: 50%"), Some(3), &[]),
        (rolling(2, "maxSurge: 0"), Some(2), &[]),
        (rolling(2, ""), Some(2), &["0.yaml:1: warning surge"]),
        (rolling(2, "maxUnavailable: 0"), Some(2), &["0.yaml:1: warning surge"]),
        (rolling(2, "maxUnavailable: 1"), Some(2), &["0.yaml:1: note surge"]),
        (rolling(4, ""), Some(4), &["0.yaml:1: note surge"]),
        (rolling(2, "maxSurge: 1"), Some(1), &["0.yaml:1: error replicas"]),
        (rolling(1, "maxSurge: 1"), None, &["0.yaml:1: note surge"]),
    ] {
        assert_eq!(found(&[&text], nodes), expected, "{text} on {nodes:?}");
    }
    let daemons = |strategy: &str, annotations: &str| {
        workload("DaemonSet", "x", &format!("updateStrategy: {{{strategy}}},"), annotations, &host(WEB))
    };
    let surge = "rollingUpdate: {maxSurge: 10%, maxUnavailable: 0}";
    assert_eq!(found(&[&daemons(surge, "")], Some(9)), ["0.yaml:1: error surge"]);
    assert_eq!(found(&[&daemons("", "")], Some(9)), [""; 0]);
    // Of a port that nothing declares, the programs decide: old and new pods may overlap with SO_REUSEPORT.
    let undeclared = silent("DaemonSet", "x", &format!("updateStrategy: {{{surge}}},"), "");
    assert_eq!(found(&[&undeclared], Some(9)), ["0.yaml:1: warning surge"]);
    let undeclared = silent("Deployment", "x", "strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}},", "");
    assert_eq!(found(&[&undeclared], Some(1)), ["0.yaml:1: warning surge"]);
    // The scheduler knows no share; of ports that the annotation names it knows nothing.
    assert_eq!(found(&[&daemons(surge, "port-enforcer.io/share: x")], Some(9)), ["0.yaml:1: error surge"]);
    let shared = silent("DaemonSet", "x", &format!("updateStrategy: {{{surge}}},"), "port-enforcer.io/share: x, ");
    assert_eq!(found(&[&shared], Some(9)), [""; 0]);
}

#[test]
fn two_that_cannot_share_a_node() {
    let set = |name: &str, annotations: &str, pod: &str| workload("StatefulSet", name, "", annotations, pod);
    let [a, b] = ["a", "b"].map(|name| set(name, "", &host(WEB)));
    let [daemon, other_daemon] = ["c", "d"].map(|name| workload("DaemonSet", name, "", "", &host(WEB)));
    let undeclared = silent("StatefulSet", "e", "", "");
    let none = workload("StatefulSet", "f", "replicas: 0,", "", &host(WEB));
    let picky = set("g", "", &format!("nodeSelector: {{pool: a}}, {}", host(WEB)));
    let elsewhere = set("h", "", &format!("nodeSelector: {{pool: b}}, {}", host(WEB)));
    let forwarded = set("i", "", "containers: [{name: c, ports: [{containerPort: 8080, hostPort: 80}]}]");
    let [share, sharing] = ["j", "k"].map(|name| silent("StatefulSet", name, "", "port-enforcer.io/share: web, "));
    let [declared, declaring] = ["m", "o"].map(|name| set(name, "port-enforcer.io/share: web", &host(WEB)));
    let far = sharing.replace("name: k", "name: k, namespace: far");
    let udp = set("l", "", &host("{containerPort: 80, protocol: UDP}"));
    let pair = |severity: &str, code: &str| vec![format!("1.yaml:1: {severity} {code}")];
    for (one, other, nodes, expected) in [
        (&a, &b, None, pair("error", "conflict")),
        (&a, &b, Some(1), pair("error", "conflict")),
        (&a, &b, Some(2), pair("note", "conflict")),
        (&a, &daemon, Some(9), pair("error", "conflict")),
        (&daemon, &other_daemon, Some(9), pair("error", "conflict")),
        (&a, &undeclared, Some(9), pair("error", "conflict")),
        (&a, &none, Some(1), vec![]),
        (&a, &picky, Some(1), pair("warning", "conflict")),
        (&daemon, &picky, Some(9), pair("error", "conflict")),
        (&picky, &elsewhere, Some(1), vec![]),
        (&a, &forwarded, Some(1), pair("error", "shadowed")),
        (&forwarded, &a, Some(1), pair("error", "shadowed")),
        (&share, &sharing, Some(1), vec![]),
        // The scheduler sees the port of one alone.
        (&share, &declared, Some(1), vec![]),
        (&declared, &declaring, Some(1), pair("error", "conflict")),
        (&declared, &declaring, Some(2), pair("note", "conflict")),
        (&share, &far, Some(1), pair("error", "conflict")),
        (&share, &a, Some(1), pair("error", "conflict")),
        (&a, &udp, Some(1), vec![]),
        (&a, &a, Some(1), pair("note", "duplicate")),
    ] {
        assert_eq!(found(&[one, other], nodes), expected, "{one}\n{other}\non {nodes:?}");
    }
}

#[test]
fn what_annotations_say_in_vain() {
    let silent = "hostNetwork: true, containers: []";
    for (annotations, pod, expected) in [
        ("port-enforcer.io/ports: '80 http 0'", silent, &["annotation at 4", "annotation at 9"][..]),
        ("port-enforcer.io/ports: 80", silent, &["annotation"]),
        ("port-enforcer.io/share: true", silent, &["annotation"]),
        ("port-enforcer.io/ports: '80'", "containers: []", &["no_host_network"]),
        ("port-enforcer.io/ports: '1-1025'", silent, &["quota at 1"]),
        ("", &host("{containerPort: 0}, {containerPort: 1, protocol: ICMP}"), &["port", "port"]),
        ("port-enforcer.io/ports: none", silent, &[]),
    ] {
        // Annotations are text in quotes; what is a number here is one.
        let text = workload("StatefulSet", "x", "", annotations, pod);
        let outcome = check(&manifests(&[&text]), &CheckSettings::default());
        let words: Vec<String> = outcome
            .findings
            .iter()
            .map(|finding| {
                let at = finding.position.map(|position| format!(" at {position}")).unwrap_or_default();
                format!("{}{at}", finding.code.as_str())
            })
            .collect();
        assert_eq!(words, expected, "{text}");
    }
    let text = workload("StatefulSet", "x", "", "", silent)
        .replace("{name: x}", "{name: x, annotations: {port-enforcer.io/ports: '80'}}");
    assert_eq!(found(&[&text], None), ["0.yaml:1: warning misplaced"]);
    let many = workload("StatefulSet", "x", "", &format!("port-enforcer.io/ports: '{}'", "0 ".repeat(40)), silent);
    let told = check(&manifests(&[&many]), &CheckSettings::default()).findings;
    let last = told.iter().find(|finding| finding.position.is_none()).expect("how many more");
    assert!(last.message.ends_with(&format!("there are {} more problems like these", 41 - told.len())), "{last:?}");
}

#[test]
fn ports_of_the_node() {
    let text =
        workload("DaemonSet", "x", "", "port-enforcer.io/ports: '10.0.0.1:22, 10250'", &host("{containerPort: 53}"));
    let reserved = |list: &str| {
        let node_reserved = parse_list(list).unwrap();
        let outcome = check(&manifests(&[&text]), &CheckSettings { node_reserved, ..CheckSettings::default() });
        (codes(&outcome), outcome.findings.into_iter().flat_map(|finding| finding.ports).collect::<Vec<_>>())
    };
    let one = || vec!["0.yaml:1: error reserved".to_owned()];
    assert_eq!(reserved("22/tcp"), (one(), vec!["10.0.0.1:22/tcp".to_owned()]));
    assert_eq!(reserved("10.0.0.2:22, 53/udp"), (vec![], vec![]));
    assert_eq!(reserved("10000-20000"), (one(), vec!["10250/tcp".to_owned()]));
}

/// `CheckConflict` of the scheduler, case by case: texts of addresses, of which `0.0.0.0` alone is a wildcard.
#[test]
fn what_the_scheduler_sees() {
    let pod = |ip: &str| {
        let port = if ip.is_empty() { String::new() } else { format!(", hostIP: '{ip}'") };
        let text = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: x}}, spec: {{containers: [{{name: c, ports: [{{containerPort: \
             80, hostPort: 80{port}}}]}}]}}}}"
        );
        object(&text)
    };
    for (one, other, seen) in [
        ("", "", true),
        ("0.0.0.0", "10.0.0.1", true),
        ("", "::1", true),
        ("0.0.0.0", "::1", true),
        ("10.0.0.1", "10.0.0.1", true),
        ("10.0.0.1", "010.0.0.1", false),
        ("10.0.0.1", "::ffff:10.0.0.1", false),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.1", true),
        ("::ffff:0.0.0.0", "10.0.0.1", false),
        ("10.0.0.1", "10.0.0.2", false),
        ("::", "10.0.0.1", false),
        ("::", "::", true),
    ] {
        let [one_pod, other_pod] = [one, other].map(pod);
        let mut claims = [one_pod.claims[0], other_pod.claims[0]];
        let sees = |claims: &[PodClaim; 2]| {
            collide((&one_pod.scheduler_ports, &claims[0]), (&other_pod.scheduler_ports, &claims[1]))
        };
        assert_eq!(sees(&claims), seen, "{one} and {other}");
        claims[0].source = ClaimSource::Annotation;
        assert!(!sees(&claims), "{one} and {other}");
    }
}

#[test]
fn a_great_many_are_bounded() {
    let pod = host(WEB);
    let one = |name: usize| workload("DaemonSet", &format!("d{name}"), "", "", &pod);
    let texts: Vec<String> = (0..200).map(one).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let outcome = check(&manifests(&texts), &CheckSettings::default());
    let count = |code| outcome.findings.iter().filter(|finding| finding.code == code).count();
    assert_eq!(
        outcome.findings.len() + outcome.more.iter().sum::<usize>(),
        10_001,
        "10,000 pairs of 19,900, and a word"
    );
    assert!(count(Code::Conflict) >= 9_999);
}

/// Too many notes push no error out, and what is left out is counted.
#[test]
fn errors_are_kept_before_notes() {
    let again = workload("Pod", "again", "", "", "containers: []").replace("apps/v1", "v1");
    let again = again.replace("template: {metadata: {annotations: {}}, spec: {containers: []}}", "containers: []");
    let [one, other] = ["one", "other"].map(|name| workload("DaemonSet", name, "", "", &host(WEB)));
    let odd = workload("StatefulSet", "odd", "", "", "containers: []")
        .replace("{name: odd}", "{name: odd, annotations: {port-enforcer.io/ports: '80'}}");
    let mut texts = vec![again.as_str(); 10_002];
    texts.extend([one.as_str(), &other, &odd]);
    let outcome = check(&manifests(&texts), &CheckSettings::default());
    let first = codes(&outcome).into_iter().take(3).collect::<Vec<_>>();
    assert_eq!(first, ["10003.yaml:1: error conflict", "10004.yaml:1: warning misplaced", "1.yaml:1: note duplicate"]);
    assert_eq!((outcome.findings.len(), outcome.more), (10_000, [0, 0, 3]));
    assert_eq!(
        [Severity::Error, Severity::Warning, Severity::Note].map(|severity| outcome.count(severity)),
        [1, 1, 10_001]
    );
}
