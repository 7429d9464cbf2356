//! Nodes on which pods of two objects meet.

use super::{found, host, workload};
use crate::{
    check::placement::{CoPlacement, Misfit, NodeTraits, Placement, Taint},
    yaml::spanned::Node,
};
use CoPlacement::{Free, Never, Perhaps};

fn placement(text: &str, every_node: bool) -> Placement {
    let text = format!("{{{text}}}");
    let node: Node = serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
    let labels = node.get("labels");
    Placement::of(&node, labels, "default", every_node)
}

/// Holds for each pair of specs, in both orders, what `co_placement` returns. `every`: the first one is of a `DaemonSet`.
fn assert_meetings(cases: &[(&str, &str, bool, CoPlacement)]) {
    for &(one, other, every, expected) in cases {
        let (first, second) = (placement(one, every), placement(other, false));
        assert_eq!(first.co_placement(&second), expected, "{one:?} and {other:?}, everywhere: {every}");
        assert_eq!(second.co_placement(&first), expected, "{other:?} and {one:?}, turned");
    }
}

/// An affinity with these terms, each in flow style.
fn terms(terms: &str) -> String {
    format!(
        "affinity: {{nodeAffinity: {{requiredDuringSchedulingIgnoredDuringExecution: {{nodeSelectorTerms: [{terms}]}}}}}}"
    )
}

/// An affinity with one term, of these requirements.
fn labels(requirements: &str) -> String {
    terms(&format!("{{matchExpressions: [{requirements}]}}"))
}

fn anti(selector: &str, topology: &str) -> String {
    format!(
        "affinity: {{podAntiAffinity: {{requiredDuringSchedulingIgnoredDuringExecution: [{{topologyKey: {topology}, \
         labelSelector: {selector}}}]}}}}"
    )
}

#[test]
fn node_selectors_meet_by_inclusion() {
    assert_meetings(&[
        ("", "", false, Free),
        ("nodeSelector: {pool: a}", "nodeSelector: {pool: b}", false, Never),
        ("nodeSelector: {pool: a, x: y}", "nodeSelector: {pool: b, z: y}", true, Never),
        ("nodeSelector: {gpu: true}", "nodeSelector: {gpu: 'true'}", false, Free),
        ("nodeSelector: {pool: a}", "nodeSelector: {pool: a}", false, Free),
        ("nodeSelector: {pool: a}", "nodeSelector: {zone: a}", false, Perhaps),
        ("nodeSelector: {pool: a}", "", false, Perhaps),
        ("nodeSelector: {pool: a}", "", true, Perhaps),
        ("", "nodeSelector: {pool: a}", false, Perhaps),
        ("", "nodeSelector: {pool: a}", true, Free),
        ("nodeSelector: {pool: a}", "nodeSelector: {pool: a, zone: b}", true, Free),
    ]);
}

#[test]
fn linux_and_windows_never_meet() {
    assert_meetings(&[
        ("", "nodeSelector: {kubernetes.io/os: linux}", false, Free),
        ("nodeSelector: {kubernetes.io/os: linux}", "", true, Free),
        ("nodeSelector: {kubernetes.io/os: linux}", "nodeSelector: {kubernetes.io/os: windows}", true, Never),
        ("nodeSelector: {kubernetes.io/os: linux}", "nodeSelector: {beta.kubernetes.io/os: windows}", true, Never),
        ("os: {name: linux}", "os: {name: windows}", false, Never),
        ("os: {name: linux}", "nodeSelector: {kubernetes.io/os: windows}", false, Never),
        ("os: {name: linux}", "", true, Free),
        (&labels("{key: kubernetes.io/os, operator: NotIn, values: [windows]}"), "os: {name: windows}", true, Never),
        (&labels("{key: kubernetes.io/os, operator: NotIn, values: [windows]}"), "", true, Free),
        (&labels("{key: kubernetes.io/os, operator: In, values: [linux]}"), "", true, Free),
        ("nodeSelector: {kubernetes.io/os: linux}", "nodeSelector: {kubernetes.io/os: linux}", false, Free),
        // Who names no system may be on Windows nodes too, and this one is on all of them.
        ("", "nodeSelector: {kubernetes.io/os: windows}", true, Free),
        ("", "nodeSelector: {kubernetes.io/os: windows}", false, Perhaps),
        ("nodeSelector: {kubernetes.io/os: windows}", "", true, Perhaps),
    ]);
}

#[test]
fn affinities_contradict_or_include_each_other() {
    let [both, amd, arm] = ["amd64, arm64", "amd64", "arm64"]
        .map(|values| labels(&format!("{{key: kubernetes.io/arch, operator: In, values: [{values}]}}")));
    let not = |values: &str| labels(&format!("{{key: pool, operator: NotIn, values: [{values}]}}"));
    let bound =
        |operator: &str, value: &str| labels(&format!("{{key: cpu, operator: {operator}, values: ['{value}']}}"));
    let exists = |operator: &str| labels(&format!("{{key: pool, operator: {operator}}}"));
    let alternatives = terms(
        "{matchExpressions: [{key: pool, operator: In, values: [a]}]}, {matchExpressions: [{key: zone, \
                              operator: Exists}]}",
    );
    let impossible = labels("{key: pool, operator: In, values: [a]}, {key: pool, operator: DoesNotExist}");
    assert_meetings(&[
        (&amd, &arm, true, Never),
        (&amd, &both, true, Perhaps),
        (&both, &amd, true, Free),
        (&amd, &amd, false, Free),
        (&amd, "nodeSelector: {kubernetes.io/arch: amd64}", false, Free),
        (&amd, "nodeSelector: {beta.kubernetes.io/arch: arm64}", false, Never),
        (&amd, "nodeSelector: {beta.kubernetes.io/arch: amd64}", true, Free),
        (&not("a"), "nodeSelector: {pool: a}", true, Never),
        (&not("a"), "nodeSelector: {pool: b}", true, Free),
        (&not("a"), "", true, Perhaps),
        (&not("a"), &not("a, b"), true, Free),
        (&not("a, b"), &not("a"), true, Perhaps),
        (&exists("Exists"), &exists("DoesNotExist"), true, Never),
        (&exists("DoesNotExist"), "nodeSelector: {pool: ''}", true, Never),
        (&exists("Exists"), "nodeSelector: {pool: ''}", true, Free),
        (&exists("DoesNotExist"), &not("a"), true, Perhaps),
        (&not("a"), &exists("DoesNotExist"), true, Free),
        (&bound("Gt", "4"), &bound("Lt", "5"), true, Never),
        (&bound("Gt", "4"), &bound("Lt", "6"), true, Perhaps),
        (&bound("Gt", "4"), &bound("Gt", "7"), true, Free),
        (&bound("Gt", "4"), &bound("Gt", "3"), true, Perhaps),
        (&bound("Lt", "0"), "", true, Never),
        (&bound("Gt", "4"), "nodeSelector: {cpu: '4'}", true, Never),
        (&bound("Gt", "4"), "nodeSelector: {cpu: '8'}", true, Free),
        (&bound("Gt", "4"), "nodeSelector: {cpu: many}", true, Never),
        (&bound("Gt", "4"), &labels("{key: cpu, operator: DoesNotExist}"), true, Never),
        // Terms are alternatives, requirements are not.
        (&alternatives, "nodeSelector: {pool: b}", true, Perhaps),
        (&alternatives, "nodeSelector: {pool: a}", true, Free),
        (
            &alternatives,
            &labels("{key: pool, operator: In, values: [b]}, {key: zone, operator: DoesNotExist}"),
            true,
            Never,
        ),
        (&impossible, "", true, Never),
        // A term without requirements suits no node.
        (&terms("{}"), "", true, Never),
        (
            &terms("{}, {matchExpressions: [{key: pool, operator: In, values: [a]}]}"),
            "nodeSelector: {pool: b}",
            true,
            Never,
        ),
        // What the API server refuses proves nothing.
        (&labels("{key: pool, operator: Unlike, values: [a]}"), "", true, Perhaps),
        (&labels("{key: pool, operator: In}"), "nodeSelector: {pool: a}", true, Perhaps),
        ("", &labels("{key: pool, operator: Unlike, values: [a]}"), true, Free),
    ]);
}

#[test]
fn labels_have_one_value_under_old_and_new_names() {
    for (old, new) in [
        ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
        ("beta.kubernetes.io/os", "kubernetes.io/os"),
        ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
        ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
        ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ] {
        let one = format!("nodeSelector: {{{old}: a}}");
        let same = labels(&format!("{{key: {new}, operator: In, values: [a]}}"));
        let other = format!("nodeSelector: {{{new}: b}}");
        assert_meetings(&[(&one, &same, false, Free), (&one, &other, true, Never)]);
    }
}

#[test]
fn names_of_one_node_are_one_node() {
    let field = |operator: &str, name: &str| {
        terms(&format!("{{matchFields: [{{key: metadata.name, operator: {operator}, values: [{name}]}}]}}"))
    };
    let hosts = |values: &str| labels(&format!("{{key: kubernetes.io/hostname, operator: In, values: [{values}]}}"));
    let host = "nodeSelector: {kubernetes.io/hostname: a}";
    assert_meetings(&[
        ("nodeName: a", "nodeName: b", false, Never),
        ("nodeName: a", "nodeName: a", false, Free),
        ("nodeName: a", "", false, Perhaps),
        // The node may have taints, which `nodeName` passes by.
        ("", "nodeName: a", true, Perhaps),
        ("tolerations: [{operator: Exists}]", "nodeName: a", true, Free),
        (host, host, false, Free),
        (host, &hosts("a"), false, Free),
        (host, &hosts("b"), false, Never),
        (host, &hosts("a, b"), false, Perhaps),
        (host, &hosts("b, c"), false, Never),
        (&hosts("a, b"), &hosts("a, b"), false, Free),
        (host, &field("In", "a"), false, Free),
        // A host name need not be the name of the node.
        (host, &field("In", "b"), false, Perhaps),
        (&field("In", "a"), &field("In", "b"), false, Never),
        (&field("In", "a"), &field("NotIn", "a"), false, Never),
        ("nodeName: a", &field("NotIn", "a"), false, Never),
        ("nodeName: a", host, false, Free),
        ("nodeName: a", &field("In", "a"), false, Free),
        ("", host, true, Free),
        ("", host, false, Perhaps),
    ]);
    for (text, count) in [
        ("nodeName: a", Some(1)),
        (host, Some(1)),
        (&hosts("a, b"), Some(2)),
        (&field("In", "a"), Some(1)),
        (&field("NotIn", "a"), None),
        (
            &terms(
                "{matchFields: [{key: metadata.name, operator: In, values: [a]}]}, {matchFields: [{key: metadata.name, \
                 operator: In, values: [b]}]}",
            ),
            Some(2),
        ),
        ("nodeSelector: {pool: a}", None),
        ("", None),
    ] {
        assert_eq!(placement(text, false).node_count(), count, "{text}");
    }
}

#[test]
fn tolerations_meet_by_inclusion() {
    let all = "tolerations: [{operator: Exists}]";
    let key = |rest: &str| format!("tolerations: [{{key: a{rest}}}]");
    assert_meetings(&[
        // The first one, without a toleration, is not on tainted nodes, where the other one may be.
        ("", &key(""), true, Perhaps),
        (&key(""), "", true, Free),
        (&key(""), "", false, Perhaps),
        (&key(""), "tolerations: [{key: b}]", true, Perhaps),
        (&key(""), "tolerations: [{key: b}, {key: a}]", true, Perhaps),
        ("tolerations: [{key: b}, {key: a}]", &key(""), true, Free),
        (all, "tolerations: [{key: b}, {key: a}]", true, Free),
        (all, all, false, Free),
        ("", all, true, Perhaps),
        (all, "tolerations: [{effect: NoSchedule, operator: Exists}]", true, Free),
        ("tolerations: [{effect: NoSchedule, operator: Exists}]", all, true, Perhaps),
        (
            "tolerations: [{effect: NoSchedule, operator: Exists}, {effect: NoExecute, operator: Exists}]",
            all,
            true,
            Free,
        ),
        (&key(", operator: Exists"), &key(", value: x"), true, Free),
        (&key(", value: x"), &key(", operator: Exists"), true, Perhaps),
        (&key(", value: x"), &key(", operator: Equal, value: x"), false, Free),
        (&key(", value: x"), &key(", value: y"), true, Perhaps),
        (&key(", operator: Exists"), &key(", operator: Exists, effect: NoExecute, tolerationSeconds: 3"), true, Free),
        (&key(", operator: Exists, effect: NoExecute"), &key(", operator: Exists, effect: NoSchedule"), true, Perhaps),
        // A wish keeps no pod off a node, and some tolerations every pod has.
        ("", &key(", effect: PreferNoSchedule"), true, Free),
        ("", "tolerations: [{key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute}]", true, Free),
        (
            "",
            "tolerations: [{key: node.kubernetes.io/unschedulable, operator: Exists, effect: NoSchedule}]",
            true,
            Free,
        ),
    ]);
}

#[test]
fn pod_affinity_decides_on_its_side_only() {
    let host = "kubernetes.io/hostname";
    let own = format!("labels: {{app: x}}, {}", anti("{matchLabels: {app: x}}", host));
    let foreign = anti("{matchLabels: {app: y}}", host);
    let beside = "affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: k}]}}";
    let wish = "affinity: {podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1}]}}";
    assert_meetings(&[
        (&foreign, "", true, Perhaps),
        ("", &foreign, true, Free),
        (beside, "", true, Perhaps),
        ("", beside, true, Free),
        (&own, "", true, Free),
        (&own, "", false, Free),
        (wish, "", false, Free),
    ]);
    let apart = |one: &str, other: &str| placement(one, false).keeps_apart(&placement(other, false));
    for (one, other, expected) in [
        (own.as_str(), "labels: {app: x}", true),
        (&own, &own, true),
        (&own, "labels: {app: y}", false),
        (&foreign, "labels: {app: y, z: z}", true),
        (&foreign, "labels: {app: y}, nodeName: a", false),
        (&anti("{}", host), "", true),
        (&anti("null", host), "", false),
        (&anti("{matchExpressions: [{key: app, operator: In, values: [y]}]}", host), "labels: {app: y}", true),
        (&anti("{matchExpressions: [{key: app, operator: Exists}]}", host), "", false),
        (&anti("{matchExpressions: [{key: app, operator: DoesNotExist}]}", host), "", true),
        // Of labels that a controller adds, the manifest shows nothing.
        (&anti("{matchExpressions: [{key: pod-template-hash, operator: DoesNotExist}]}", host), "", false),
        (&anti("{}, matchLabelKeys: [pod-template-hash]", host), "", false),
        (&anti("{}, namespaces: [far]", host), "", false),
        (&anti("{}, namespaces: [far, default]", host), "", true),
        (&anti("{}, namespaces: [far], namespaceSelector: {}", host), "", true),
        (&anti("{}, namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: far}}", host), "", false),
        (&anti("{}, namespaceSelector: {matchLabels: {team: x}}", host), "", false),
        // Nodes without the label are no zone.
        (&anti("{}", "topology.kubernetes.io/zone"), "", false),
    ] {
        assert_eq!(apart(one, other), expected, "{one} and {other}");
        assert_eq!(apart(other, one), expected, "{other} and {one}");
    }
}

#[test]
fn counts_are_held_against_the_nodes_that_suit() {
    let set = |name: &str, replicas: u32, pod: &str| {
        workload(
            "StatefulSet",
            name,
            &format!("replicas: {replicas},"),
            "",
            &format!("{pod}{}", host("{containerPort: 80}")),
        )
    };
    let two_hosts = format!("{}, ", labels("{key: kubernetes.io/hostname, operator: In, values: [a, b]}"));
    let selector = "nodeSelector: {kubernetes.io/hostname: a}, ";
    let of = |objects: &[String], nodes| found(&objects.iter().map(String::as_str).collect::<Vec<_>>(), nodes);
    for (objects, nodes, expected) in [
        (vec![set("u", 2, selector)], Some(3), &["0.yaml:1: error replicas"][..]),
        (vec![set("u", 2, selector)], None, &["0.yaml:1: error replicas"]),
        (vec![set("u", 3, &two_hosts)], Some(9), &["0.yaml:1: error replicas"]),
        (vec![set("u", 2, &two_hosts)], Some(9), &[]),
        (vec![set("u", 3, "nodeSelector: {pool: a}, ")], Some(3), &["0.yaml:1: note replicas"]),
        (vec![set("u", 1, "nodeSelector: {pool: a}, ")], Some(3), &[]),
        (vec![set("u", 3, "nodeSelector: {kubernetes.io/os: linux}, ")], Some(3), &[]),
        (vec![set("u", 1, selector), set("v", 1, selector)], Some(3), &["1.yaml:1: error conflict"]),
        (vec![set("u", 1, ""), set("v", 1, "")], Some(3), &["1.yaml:1: note conflict"]),
        (vec![set("u", 1, ""), set("v", 2, "")], Some(3), &["1.yaml:1: note conflict"]),
        (vec![set("u", 2, ""), set("v", 2, "")], Some(3), &["1.yaml:1: error conflict"]),
        (vec![set("u", 1, ""), set("v", 1, selector)], Some(3), &["1.yaml:1: warning conflict"]),
        (
            vec![set("u", 1, ""), set("v", 1, ""), set("w", 1, "")],
            Some(3),
            &["1.yaml:1: note conflict", "2.yaml:1: note conflict", "2.yaml:1: note conflict"],
        ),
        // Any two of them have room, but not all three.
        (
            vec![set("u", 1, ""), set("v", 1, ""), set("w", 1, "")],
            Some(2),
            &["1.yaml:1: error conflict", "2.yaml:1: error conflict", "2.yaml:1: error conflict"],
        ),
    ] {
        assert_eq!(of(&objects, nodes), expected, "{objects:?} on {nodes:?}");
    }
}

#[test]
fn node_suits_by_labels_name_and_taints() {
    let taint =
        |key: &str, effect: &str| Taint { key: key.to_owned(), value: "yes".to_owned(), effect: effect.to_owned() };
    let node = |labels: &[(&str, &str)], taints: &[Taint]| NodeTraits {
        name: "node-1".to_owned(),
        labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        taints: taints.to_vec(),
    };
    let plain = node(&[("pool", "a"), ("beta.kubernetes.io/arch", "arm64")], &[]);
    for (spec, suits) in [
        (String::new(), true),
        ("nodeSelector: {pool: a}".to_owned(), true),
        ("nodeSelector: {pool: b}".to_owned(), false),
        ("nodeSelector: {kubernetes.io/arch: arm64}".to_owned(), true),
        (labels("{key: gpu, operator: DoesNotExist}"), true),
        (labels("{key: gpu, operator: Exists}"), false),
        (labels("{key: pool, operator: NotIn, values: [a]}"), false),
        (terms("{matchFields: [{key: metadata.name, operator: In, values: [node-1]}]}"), true),
        (terms("{matchFields: [{key: metadata.name, operator: In, values: [node-2]}]}"), false),
        (
            terms(
                "{matchExpressions: [{key: pool, operator: In, values: [b]}]}, {matchExpressions: [{key: pool, operator: In, values: [a]}]}",
            ),
            true,
        ),
    ] {
        let expected = if suits { Ok(()) } else { Err(Misfit::Labels) };
        assert_eq!(placement(&spec, false).suits(&plain), expected, "{spec}");
    }
    let control_plane = "node-role.kubernetes.io/control-plane";
    for (spec, key, effect, suits) in [
        ("", control_plane, "NoSchedule", false),
        ("", control_plane, "PreferNoSchedule", true),
        ("tolerations: [{operator: Exists}]", control_plane, "NoSchedule", true),
        ("tolerations: [{key: dedicated, value: 'yes'}]", "dedicated", "NoExecute", true),
        ("tolerations: [{key: dedicated, value: 'no'}]", "dedicated", "NoExecute", false),
        ("tolerations: [{key: dedicated, operator: Exists, effect: NoExecute}]", "dedicated", "NoSchedule", false),
        ("", "node.kubernetes.io/unreachable", "NoExecute", true),
    ] {
        let expected = if suits { Ok(()) } else { Err(Misfit::Taint(key.to_owned())) };
        let tainted = node(&[], &[taint(key, effect)]);
        assert_eq!(placement(spec, false).suits(&tainted), expected, "{spec} {key} {effect}");
    }
    let cordoned = node(&[], &[taint("node.kubernetes.io/unschedulable", "NoSchedule")]);
    assert_eq!(placement("", true).suits(&cordoned), Ok(()), "a DaemonSet's pod tolerates it");
}
