use enforcer_ebpf::wire::Protocol;
use k8s_openapi::api::core::v1 as api;
use serde_json::{Value, json};

use super::*;
use crate::pods::{annotation::MAX_PROBLEMS, pod};

/// A pod with these declared ports and this annotation.
fn pod_with(host_network: bool, ports: &Value, annotation: Option<&str>) -> Pod {
    let mut object: api::Pod = serde_json::from_value(json!({
        "metadata": {"name": "web", "uid": "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"},
        "spec": {"hostNetwork": host_network, "containers": [{"name": "web", "ports": ports}]},
    }))
    .unwrap();
    object.metadata.annotations = annotation.map(|text| [(PORTS_ANNOTATION.to_owned(), text.to_owned())].into());
    pod::from_api(&object)
}

fn claims(pod: &Pod, max_ports_per_pod: u32) -> (Vec<String>, Vec<String>) {
    let found = claims_of(pod, &ClaimLimits { max_ports_per_pod, ..ClaimLimits::default() });
    assert_eq!(found.more_problems, 0);
    (
        found.claims.iter().map(|claim| format!("{} {}", claim.spec, claim.source)).collect(),
        found.problems.iter().map(|problem| format!("{}: {problem}", problem.as_str())).collect(),
    )
}

#[test]
fn declared_ports_come_before_the_annotation() {
    let ports = json!([{"containerPort": 80}, {"containerPort": 443, "hostIP": "127.0.0.1", "protocol": "UDP"}]);
    let pod = pod_with(true, &ports, Some("9100, 8000-8001/udp"));
    let expected = ["80/tcp hostPort", "127.0.0.1:443/udp hostPort", "9100/tcp annotation", "8000-8001/udp annotation"];
    assert_eq!(claims(&pod, 5), (expected.map(str::to_owned).into(), vec![]));
}

#[test]
fn a_pod_without_host_network_declares_only() {
    let ports = json!([{"containerPort": 8080, "hostPort": 80}, {"containerPort": 9090}]);
    let (claimed, problems) = claims(&pod_with(false, &ports, Some("9100")), 1024);
    assert_eq!(claimed, ["80/tcp hostPort"]);
    assert_eq!(
        problems,
        ["no_host_network: annotation port-enforcer.io/ports counts on pods with hostNetwork: true only; declare a \
             hostPort of a container instead"]
    );
}

#[test]
fn none_removes_nothing() {
    let pod = pod_with(true, &json!([{"containerPort": 80}]), Some("none"));
    assert_eq!(claims(&pod, 1024), (vec!["80/tcp hostPort".to_owned()], vec![]));
}

#[test]
fn the_same_claim_counts_once() {
    let ports = json!([{"containerPort": 80}, {"containerPort": 80, "name": "again"}]);
    let pod = pod_with(true, &ports, Some("80/tcp,80,80/udp,80/udp,0.0.0.0:80"));
    let expected = ["80/tcp hostPort", "80/udp annotation", "0.0.0.0:80/tcp annotation"];
    assert_eq!(claims(&pod, 3), (expected.map(str::to_owned).into(), vec![]));
}

#[test]
fn what_exceeds_the_quota_is_refused_whole() {
    let pod = pod_with(true, &json!([{"containerPort": 80}]), Some("1-65535 81-83/udp 84 8000-8001 85"));
    let (claimed, problems) = claims(&pod, 6);
    assert_eq!(
        claimed,
        ["80/tcp hostPort", "81-83/udp annotation", "84/tcp annotation", "85/tcp annotation"],
        "smaller ones still fit"
    );
    assert_eq!(
        problems,
        [
            "quota: 1-65535/tcp (annotation at character 1) is refused whole: the pod would claim more than 6 ports, \
             the limit of --max-ports-per-pod or of the label port-enforcer.io/max-ports of its namespace",
            "quota: 8000-8001/tcp (annotation at character 22) is refused whole: the pod would claim more than 6 ports, \
             the limit of --max-ports-per-pod or of the label port-enforcer.io/max-ports of its namespace",
        ]
    );
    let (claimed, problems) = claims(&pod, 0);
    assert_eq!((claimed.len(), problems.len()), (0, 6));
    assert!(problems[0].contains("80/tcp (hostPort) is refused whole"), "{}", problems[0]);
}

#[test]
fn the_default_quota_is_1024() {
    let limits = ClaimLimits::default();
    assert_eq!(claims_of(&pod_with(true, &json!([]), Some("1-1024")), &limits).claims.len(), 1);
    assert_eq!(claims_of(&pod_with(true, &json!([]), Some("1-1025")), &limits).claims.len(), 0);
}

#[test]
fn what_is_bad_leaves_the_rest() {
    let ports = json!([{"containerPort": 65536}, {"containerPort": 80}]);
    let mut pod = pod_with(true, &ports, Some("http,81"));
    pod.problems.insert(0, PodProblem::UidMissing);
    let (claimed, problems) = claims(&pod, 1024);
    assert_eq!(claimed, ["80/tcp hostPort", "81/tcp annotation"]);
    let words: Vec<_> = problems.iter().map(|problem| problem.split_once(": ").unwrap().0).collect();
    assert_eq!(words, ["uid", "port", "annotation"]);
    assert!(problems[2].starts_with("annotation: annotation port-enforcer.io/ports: item 'http' at character 1: "));
}

#[test]
fn a_huge_annotation_is_bounded() {
    let mut pod = pod_with(true, &json!([]), Some(&"0,".repeat(128 * 1024)));
    pod.more_problems = 5;
    let found = claims_of(&pod, &ClaimLimits::default());
    assert_eq!((found.problems.len(), found.more_problems), (MAX_PROBLEMS, 128 * 1024 - MAX_PROBLEMS + 5));

    let text = (1..=40_000).map(|port| port.to_string()).collect::<Vec<_>>().join(" ");
    let found = claims_of(&pod_with(true, &json!([]), Some(&text)), &ClaimLimits::default());
    assert_eq!((found.claims.len(), found.problems.len() + found.more_problems), (1024, 40_000 - 1024));
}

#[test]
fn digest_covers_every_fact_that_changes_a_claim_and_no_other() {
    let base = pod_with(true, &json!([{"containerPort": 80}]), Some("127.0.0.1:53/udp"));
    let digest = |pod: &Pod| claims_of(pod, &ClaimLimits::default()).digest();
    // It is in the records of agents that run, so it never changes: `sha256sum` of the framed texts.
    assert_eq!(format!("{:?}", digest(&base)), "96ae428683935231fe2b08c65347d051");
    let changed = |change: fn(&mut Pod)| {
        let mut pod = base.clone();
        change(&mut pod);
        assert_ne!(pod, base, "the change changes nothing");
        digest(&pod) != digest(&base)
    };
    let facts: [fn(&mut Pod); 6] = [
        |pod| pod.host_network = false,
        |pod| pod.ports_annotation = None,
        |pod| pod.ports_annotation = Some("127.0.0.1:53/tcp".to_owned()),
        |pod| pod.ports[0].host_port = 81,
        |pod| pod.ports[0].host_ip = "127.0.0.1".parse().unwrap(),
        |pod| pod.ports[0].protocol = Protocol::Udp,
    ];
    assert_eq!(facts.map(changed), [true; 6]);
    let others: [fn(&mut Pod); 6] = [
        |pod| pod.share = Some("group".to_owned()),
        |pod| pod.phase = pod::Phase::Failed,
        |pod| pod.arrival = 7,
        |pod| pod.mirror = Some("mirror".to_owned()),
        |pod| pod.ports[0].container = "other".to_owned(),
        |pod| pod.more_problems = 1,
    ];
    assert_eq!(others.map(changed), [false; 6]);
    let moved = pod_with(true, &json!([]), Some("80, 127.0.0.1:53/udp"));
    assert_eq!(digest(&moved), digest(&base), "the same claims, declared elsewhere");
}
