//! Which ports are suggested, which are told apart, and the patch of each kind.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::json;

use super::{
    text::{patch_yaml, patches_yaml, people},
    *,
};
use crate::{
    ledger::{
        content,
        node_host_ports::{LedgerRow, ObservedRow},
    },
    sockets::observed_ports::BindKind,
};

fn name(kind: &str, name: &str) -> WorkloadName {
    WorkloadName { namespace: "shop".to_owned(), kind: kind.to_owned(), name: name.to_owned() }
}

fn now() -> Timestamp {
    "2026-11-29T12:00:00Z".parse().unwrap()
}

/// A row of `DaemonSet edge`, container `main`, that one of one pods bound.
fn row(spec: &str) -> ObservedRow {
    let spec: PortSpec = crate::pods::annotation::parse_list(spec).unwrap()[0];
    ObservedRow {
        namespace: "shop".to_owned(),
        workload: "DaemonSet edge".to_owned(),
        container: Some("main".to_owned()),
        protocol: protocol_name(spec.protocol).to_owned(),
        first_port: spec.ports.first(),
        last_port: spec.ports.last(),
        address: spec.address.ip().map(|address| address.to_string()),
        kind: BindKind::Named.as_str().to_owned(),
        pods: 1,
        of_pods: 1,
        since: "2026-11-28T12:00:00Z".to_owned(),
    }
}

/// A claim of a pod of `DaemonSet edge`.
fn claim(port: u16, source: &str, never_held: bool, since: &str) -> LedgerRow {
    let mut row = content::tests::row(port);
    row.who.namespace = Some("shop".to_owned());
    row.who.workload = Some("DaemonSet edge".to_owned());
    LedgerRow { source: Some(source.to_owned()), never_held, since: Some(since.to_owned()), ..row }
}

fn suggester(nodes: &[(&[ObservedRow], &[LedgerRow])]) -> Suggester {
    let mut suggester = Suggester::default();
    for (number, (observed, ports)) in nodes.iter().enumerate() {
        let ledger = NodeHostPortsStatus {
            observed: observed.to_vec(),
            ports: ports.to_vec(),
            ..NodeHostPortsStatus::default()
        };
        suggester.add_node(&format!("node-{number}"), &ledger);
    }
    suggester
}

fn edge(nodes: &[(&[ObservedRow], &[LedgerRow])], template: Option<&Template>) -> Suggestion {
    suggester(nodes).suggest(&name("DaemonSet", "edge"), template, now()).expect("a suggestion")
}

fn template(value: Value) -> Template {
    let template: PodTemplateSpec = serde_json::from_value(value).unwrap();
    Template::of(template.metadata.as_ref(), &template.spec.unwrap())
}

/// The ports in short: what, and where they are declared or why not.
fn short(suggestion: &Suggestion) -> Vec<String> {
    let ports =
        suggestion.ports.iter().map(|port| format!("{} {}", port.ports, port.declared_by.as_deref().unwrap_or("-")));
    ports.chain(suggestion.apart.iter().map(|port| format!("{} not: {}", port.ports, port.reason))).collect()
}

#[test]
fn port_of_several_nodes_is_declared_by_ports() {
    let (one, two) = (ObservedRow { since: "2026-11-27T12:00:00Z".to_owned(), ..row("9100") }, row("9100"));
    let suggestion = edge(&[(&[one], &[]), (&[two], &[])], None);
    let SuggestedPort { ports, container, declared_by, seen } = &suggestion.ports[0];
    assert_eq!(
        (ports.as_str(), container.as_deref(), declared_by.as_deref()),
        ("9100/tcp", Some("main"), Some("ports"))
    );
    let expected = Seen { pods: 2, of_pods: 2, nodes: 2, since: "2026-11-27T12:00:00Z".to_owned() };
    assert_eq!(*seen, expected);
    assert_eq!(
        suggestion.patch,
        Some(json!({ "spec": { "template": { "spec": { "containers": [{ "name": "main", "ports": [
            { "containerPort": 9100, "hostPort": 9100, "protocol": "TCP" },
        ] }] } } } }))
    );
    assert_eq!(
        suggestion.command.as_deref(),
        Some("kubectl patch daemonset edge -n shop --type strategic --patch-file patch.yaml")
    );
}

#[test]
fn what_ports_cannot_say_goes_to_the_annotation() {
    let rows =
        [row("53"), row("53/udp"), row("127.0.0.1:9099"), row("[::1]:9099"), row("8000-8011"), row("7000-7001/udp")];
    let suggestion = edge(&[(&rows, &[claim(80, "annotation", false, "2026-11-01T00:00:00Z")])], None);
    assert_eq!(
        short(&suggestion),
        [
            "53/tcp ports",
            "8000-8011/tcp annotation",
            "127.0.0.1:9099/tcp ports",
            "[::1]:9099/tcp annotation",
            "53/udp annotation",
            "7000/udp ports",
            "7001/udp ports",
        ]
    );
    let patch = suggestion.patch.unwrap();
    let pod = &patch["spec"]["template"];
    assert_eq!(
        pod["metadata"]["annotations"]["port-enforcer.io/ports"], "80/tcp, 8000-8011/tcp, [::1]:9099/tcp, 53/udp",
        "what is claimed stays"
    );
    let numbers: Vec<_> = pod["spec"]["containers"][0]["ports"].as_array().unwrap().iter().collect();
    let number = |port: &Value| port["containerPort"].as_u64();
    assert_eq!(
        numbers.iter().map(|port| number(port)).collect::<Vec<_>>(),
        [Some(53), Some(9099), Some(7000), Some(7001)]
    );
    assert_eq!(numbers[1]["hostIP"], "127.0.0.1");
    assert!(suggestion.notes[0].contains("the scheduler does not count"), "{:?}", suggestion.notes);
}

#[test]
fn number_that_is_declared_for_another_protocol_goes_to_the_annotation() {
    let rows = [row("53/udp"), row("9100")];
    let by_claim = edge(&[(&rows, &[claim(53, "hostPort", false, "2026-11-01T00:00:00Z")])], None);
    assert_eq!(short(&by_claim), ["9100/tcp ports", "53/udp annotation"]);
    let template = template(json!({ "spec": { "hostNetwork": true, "containers": [
        { "name": "main", "ports": [{ "containerPort": 53 }, { "containerPort": 9100 }] }] } }));
    let by_template = edge(&[(&rows, &[])], Some(&template));
    assert_eq!(short(&by_template), ["53/udp annotation"], "what the template declares by now is left out");
}

#[test]
fn template_has_the_container_and_the_annotation() {
    let mut unnamed = row("9102");
    unnamed.container = None;
    let in_container = |spec: &str, container: &str| ObservedRow { container: Some(container.to_owned()), ..row(spec) };
    let rows = [in_container("9100", "sidecar"), in_container("9101", "injected"), unnamed, row("9103")];
    let template = template(json!({
        "metadata": { "annotations": { "port-enforcer.io/ports": "8080 nonsense" } },
        "spec": { "hostNetwork": true, "containers": [{ "name": "main" }],
            "initContainers": [{ "name": "sidecar", "restartPolicy": "Always" }] },
    }));
    let suggestion = edge(&[(&rows, &[])], Some(&template));
    let patch = suggestion.patch.unwrap();
    let pod = &patch["spec"]["template"];
    assert_eq!(pod["metadata"]["annotations"]["port-enforcer.io/ports"], "8080 nonsense, 9102/tcp, 9101/tcp");
    assert_eq!(pod["spec"]["initContainers"][0]["name"], "sidecar");
    assert_eq!(
        pod["spec"]["containers"],
        json!([{ "name": "main", "ports": [
        { "containerPort": 9103, "hostPort": 9103, "protocol": "TCP" }] }])
    );
}

#[test]
fn unstable_ports_are_told_apart() {
    let kind = |kind: BindKind, spec: &str| ObservedRow { kind: kind.as_str().to_owned(), ..row(spec) };
    let first = [
        row("9100"),
        kind(BindKind::Chosen, "40001"),
        kind(BindKind::Outgoing, "179"),
        row("10.0.0.1:8080"),
        row("6800/udp"),
    ];
    let second = [row("9100"), kind(BindKind::Chosen, "40002"), row("10.0.0.2:8080"), row("6811/udp")];
    let suggestion = edge(&[(&first, &[]), (&second, &[])], None);
    assert_eq!(
        short(&suggestion),
        [
            "9100/tcp ports",
            "40001-40002/tcp not: chosen",
            "179/tcp not: outgoing",
            "6800/udp not: differs",
            "6811/udp not: differs",
            "10.0.0.1:8080/tcp not: nodeAddress",
            "10.0.0.2:8080/tcp not: nodeAddress",
        ]
    );
    // The same number on two nodes, and an address that all nodes have, are no accident.
    let suggestion = edge(
        &[
            (&[kind(BindKind::Chosen, "40001"), row("10.0.0.9:53")], &[]),
            (&[kind(BindKind::Chosen, "40001"), row("10.0.0.9:53")], &[]),
        ],
        None,
    );
    assert_eq!(short(&suggestion), ["40001/tcp ports", "10.0.0.9:53/tcp ports"]);
    let many: Vec<_> = (0..40).map(|number| row(&format!("{}/udp", 10_000 + 3 * number))).collect();
    let suggestion = edge(&[(&many, &[])], None);
    assert_eq!(short(&suggestion), ["10000-10117/udp not: many"]);
    assert_eq!(suggestion.patch, None);
}

#[test]
fn ports_of_one_pod_alone_do_not_differ_from_others() {
    // The leader of two pods on one node has two ports of its own, and one in common.
    let of_two = |spec: &str, pods: u32| ObservedRow { pods, of_pods: 2, ..row(spec) };
    let suggestion = edge(&[(&[of_two("9100", 2), of_two("8443", 1), of_two("9443", 1)], &[])], None);
    assert_eq!(short(&suggestion), ["8443/tcp ports", "9100/tcp ports", "9443/tcp ports"]);
    let suggestion = edge(&[(&[of_two("8443", 1), of_two("9443", 1)], &[])], None);
    assert_eq!(short(&suggestion), ["8443/tcp not: differs", "9443/tcp not: differs"]);
}

#[test]
fn declared_port_that_nobody_bound_anywhere_is_told() {
    let old = "2026-11-01T00:00:00Z";
    let ports = [claim(80, "hostPort", true, old), claim(81, "hostPort", true, old)];
    // On another node it is bound, and on a third one the pod has just come.
    let other = [claim(81, "hostPort", false, old), claim(82, "annotation", true, "2026-11-29T11:55:00Z")];
    let suggestion = edge(&[(&[], &ports), (&[], &other)], None);
    let expected = NeverBoundPort { ports: "80/tcp".to_owned(), source: "hostPort".to_owned(), pods: 1, nodes: 1 };
    assert_eq!((suggestion.never_bound.as_slice(), suggestion.patch), (&[expected][..], None));
}

#[test]
fn each_kind_has_its_patch_or_a_reason() {
    let of = |kind: &str, workload: &str| {
        let observed = ObservedRow { workload: format!("{kind} {workload}"), ..row("9100") };
        suggester(&[(&[observed], &[])]).suggest(&name(kind, workload), None, now()).expect("a suggestion")
    };
    for (kind, path, resource) in [
        ("Deployment", "/spec/template/spec/containers/0/name", "deployment"),
        ("StatefulSet", "/spec/template/spec/containers/0/name", "statefulset"),
        ("ReplicationController", "/spec/template/spec/containers/0/name", "replicationcontroller"),
        ("CronJob", "/spec/jobTemplate/spec/template/spec/containers/0/name", "cronjob"),
        ("Pod", "/metadata/annotations/port-enforcer.io~1ports", "pod"),
    ] {
        let suggestion = of(kind, "x");
        let patch = suggestion.patch.as_ref().unwrap_or_else(|| panic!("{suggestion:?}"));
        assert!(patch.pointer(path).is_some_and(Value::is_string), "{kind}: {patch}");
        assert!(suggestion.command.unwrap().starts_with(&format!("kubectl patch {resource} x -n shop")));
    }
    for (kind, why) in [("Job", "cannot be changed"), ("StaticPod", "staticPodPath"), ("Rollout", "no strategic merge")]
    {
        let suggestion = of(kind, "x");
        assert_eq!((&suggestion.patch, &suggestion.command, &suggestion.ports[0].declared_by), (&None, &None, &None));
        assert!(suggestion.notes[0].contains(why), "{:?}", suggestion.notes);
    }
    let hostile = of("Deployment", "x;reboot");
    assert_eq!((&hostile.patch, &hostile.command), (&None, &None), "no name, no command");
}

#[test]
fn workload_that_left_the_host_network_gets_no_suggestion() {
    let template = template(json!({ "spec": { "containers": [{ "name": "main" }] } }));
    let rows = [row("9100")];
    assert_eq!(suggester(&[(&rows, &[])]).suggest(&name("DaemonSet", "edge"), Some(&template), now()), None);
}

#[test]
fn ledger_of_a_stranger_is_bounded_and_inert() {
    let mut rows = vec![row("1-65535"); 3];
    rows[1].container = Some("a\nb: {}\u{1b}[2J".to_owned());
    rows[2].workload = "nonsense".to_owned();
    let suggestion = edge(&[(&rows, &[])], None);
    let ports: u32 = suggestion
        .ports
        .iter()
        .chain(&[])
        .map(|port| crate::pods::annotation::parse_list(&port.ports).unwrap()[0].ports.len())
        .sum();
    assert!(ports <= 1024, "{ports}");
    let text = patch_yaml(&suggestion).unwrap();
    assert!(!text.contains('\u{1b}') && !text.contains("\nb:"), "{text}");
}

#[test]
fn text_and_yaml_say_the_same() {
    let rows = [row("53"), row("53/udp"), row("127.0.0.1:9099")];
    let other = ObservedRow { workload: "StaticPod etcd".to_owned(), ..row("2381") };
    let suggester = suggester(&[(&[rows.as_slice(), &[other]].concat(), &[])]);
    let suggestions = suggester.workloads().filter_map(|name| suggester.suggest(name, None, now())).collect();
    let answer = suggester.answer(suggestions, 0);
    insta::assert_snapshot!("people", people(&answer, "kubectl host-ports suggest"));
    let yaml = patches_yaml(&answer);
    insta::assert_snapshot!("yaml", yaml);
    let read: Value = serde_saphyr::from_str(&yaml).unwrap();
    assert_eq!(Some(&read), answer.suggestions[0].patch.as_ref(), "YAML and patch are one");
    let decoded: Suggestions = serde_json::from_str(&serde_json::to_string(&answer).unwrap()).unwrap();
    assert_eq!(decoded, answer);
}
