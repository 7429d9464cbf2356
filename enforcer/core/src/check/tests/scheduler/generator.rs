//! Objects and nodes at random, from few names, so that they often meet.

use proptest::{prelude::*, sample::select};
use serde_json::{Value, json};

use super::model::{ModelNode, Taint};

/// A key and the values that nodes have for it.
const LABELS: [(&str, &[&str]); 9] = [
    ("pool", &["a", "b"]),
    ("cpu", &["1", "4", "8", "x"]),
    ("kubernetes.io/arch", &["amd64", "arm64"]),
    ("beta.kubernetes.io/arch", &["amd64", "arm64"]),
    ("topology.kubernetes.io/zone", &["z1", "z2"]),
    ("failure-domain.beta.kubernetes.io/zone", &["z1", "z2"]),
    ("kubernetes.io/os", &["linux", "windows"]),
    ("beta.kubernetes.io/os", &["linux", "windows"]),
    ("kubernetes.io/hostname", &["n1", "n2"]),
];

fn text(values: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    select(values)
}

fn label() -> impl Strategy<Value = (&'static str, &'static str)> {
    select(&LABELS[..]).prop_flat_map(|(key, values)| (Just(key), text(values)))
}

fn requirement() -> impl Strategy<Value = Value> {
    let of_label = select(&LABELS[..]).prop_flat_map(|(key, values)| {
        let lists = prop::collection::vec(text(values), 1..3);
        (Just(key), text(&["In", "In", "NotIn", "NotIn", "Exists", "DoesNotExist"]), lists)
    });
    let of_label = of_label.prop_map(|(key, operator, values)| {
        if operator.ends_with("In") {
            json!({"key": key, "operator": operator, "values": values})
        } else {
            json!({"key": key, "operator": operator})
        }
    });
    let of_number = (text(&["Gt", "Lt"]), text(&["0", "1", "3", "4", "8"]))
        .prop_map(|(operator, value)| json!({"key": "cpu", "operator": operator, "values": [value]}));
    prop_oneof![3 => of_label, 1 => of_number]
}

fn node_term() -> impl Strategy<Value = Value> {
    let field = (text(&["In", "NotIn"]), text(&["n1", "n2"]))
        .prop_map(|(operator, name)| json!({"key": "metadata.name", "operator": operator, "values": [name]}));
    let fields = prop_oneof![6 => Just(Vec::new()), 1 => field.prop_map(|field| vec![field])];
    (prop::collection::vec(requirement(), 0..3), fields)
        .prop_map(|(labels, fields)| json!({"matchExpressions": labels, "matchFields": fields}))
}

fn toleration() -> impl Strategy<Value = Value> {
    let key = text(&["", "dedicated", "node-role.kubernetes.io/control-plane", "node.kubernetes.io/unschedulable"]);
    let effect = text(&["", "NoSchedule", "NoExecute", "PreferNoSchedule"]);
    (key, text(&["", "Equal", "Exists"]), text(&["", "x", "y"]), effect).prop_map(|(key, operator, value, effect)| {
        let (operator, value) = match (key, operator) {
            ("", _) | (_, "Exists") => ("Exists", ""),
            (_, operator) => (operator, value),
        };
        let mut toleration = json!({});
        for (name, text) in [("key", key), ("operator", operator), ("value", value), ("effect", effect)] {
            if !text.is_empty() {
                toleration[name] = text.into();
            }
        }
        toleration
    })
}

fn pod_term() -> impl Strategy<Value = Value> {
    let selector = prop_oneof![
        4 => text(&["one", "other"]).prop_map(|app| json!({"matchLabels": {"app": app}})),
        2 => Just(json!({"matchLabels": {"role": "gate"}})),
        1 => Just(json!({"matchExpressions": [{"key": "role", "operator": "Exists"}]})),
        1 => Just(json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["one"]}]})),
        1 => Just(json!({})),
        1 => Just(Value::Null),
    ];
    let namespaces =
        prop_oneof![4 => Just(Value::Null), 1 => Just(json!(["far"])), 1 => Just(json!(["default", "far"]))];
    let key = text(&["kubernetes.io/hostname", "kubernetes.io/hostname", "topology.kubernetes.io/zone"]);
    let all = prop_oneof![5 => Just(Value::Null), 1 => Just(json!({}))];
    (selector, namespaces, key, all).prop_map(|(selector, namespaces, key, all)| {
        json!({"labelSelector": selector, "namespaces": namespaces, "topologyKey": key, "namespaceSelector": all})
    })
}

fn port() -> impl Strategy<Value = Value> {
    let address = text(&["", "", "0.0.0.0", "10.0.0.1", "::ffff:10.0.0.1", "::", "::1"]);
    (prop_oneof![4 => Just(80u16), 1 => Just(81)], address, text(&["TCP", "TCP", "UDP"])).prop_map(
        |(port, address, protocol)| {
            json!({"containerPort": port, "hostPort": port, "hostIP": address, "protocol": protocol})
        },
    )
}

fn often_none<T: Clone + std::fmt::Debug>(of: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
    prop_oneof![3 => Just(Vec::new()), 2 => of.prop_map(|one| vec![one])]
}

prop_compose! {
    fn pod_spec()(
        selector in often_none(label()),
        terms in prop_oneof![2 => Just(Vec::new()), 2 => prop::collection::vec(node_term(), 1..3)],
        tolerations in prop::collection::vec(toleration(), 0..3),
        anti in often_none(pod_term()),
        node_name in prop_oneof![9 => Just(""), 1 => text(&["n1", "n2"])],
        system in prop_oneof![9 => Just(""), 1 => text(&["linux", "windows"])],
        ports in prop::collection::vec(port(), 1..3),
        host_network: bool,
    ) -> Value {
        let required = "requiredDuringSchedulingIgnoredDuringExecution";
        let mut spec = json!({
            "hostNetwork": host_network, "tolerations": tolerations, "containers": [{"name": "c", "ports": ports}],
            "affinity": {"podAntiAffinity": {required: anti}},
        });
        if let [(key, value)] = selector[..] {
            spec["nodeSelector"] = json!({key: value});
        }
        if !terms.is_empty() {
            spec["affinity"]["nodeAffinity"] = json!({required: {"nodeSelectorTerms": terms}});
        }
        if !node_name.is_empty() {
            spec["nodeName"] = node_name.into();
        }
        if !system.is_empty() {
            spec["os"] = json!({"name": system});
        }
        spec
    }
}

prop_compose! {
    /// A Deployment, a `DaemonSet`, a `StatefulSet` or a Pod.
    pub(super) fn object(name: &'static str)(
        kind in text(&["Deployment", "DaemonSet", "DaemonSet", "StatefulSet", "Pod"]),
        mut spec in pod_spec(),
        replicas in 1u32..4,
        namespace in text(&["default", "default", "default", "far"]),
        role in prop::option::of(Just("gate")),
        share in prop_oneof![6 => Just(""), 1 => Just("s")],
        annotation in prop_oneof![3 => Just(""), 1 => text(&["80", "10.0.0.1:80", "0.0.0.0:80/udp"])],
        undeclared: bool,
        is_plain in prop::bool::weighted(0.4),
    ) -> Value {
        if is_plain {
            for key in ["nodeSelector", "nodeName", "tolerations", "os"] {
                spec[key] = Value::Null;
            }
            spec["affinity"]["nodeAffinity"] = Value::Null;
        }
        let mut annotations = json!({});
        if !share.is_empty() {
            annotations["port-enforcer.io/share"] = share.into();
        }
        if !annotation.is_empty() && spec["hostNetwork"] == true {
            annotations["port-enforcer.io/ports"] = annotation.into();
            if undeclared {
                spec["containers"] = json!([]);
            }
        }
        let mut labels = json!({"app": name});
        if let Some(role) = role {
            labels["role"] = role.into();
        }
        if kind == "Pod" {
            let metadata = json!({"name": name, "namespace": namespace, "labels": labels, "annotations": annotations});
            return json!({"apiVersion": "v1", "kind": kind, "metadata": metadata, "spec": spec});
        }
        let template = json!({"metadata": {"labels": labels, "annotations": annotations}, "spec": spec});
        let mut object = json!({
            "apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "namespace": namespace},
            "spec": {"template": template},
        });
        match kind {
            "Deployment" => {
                object["spec"]["replicas"] = replicas.into();
                object["spec"]["strategy"] = json!({"type": "Recreate"});
            }
            "StatefulSet" => object["spec"]["replicas"] = replicas.into(),
            _ => {}
        }
        object
    }
}

fn taint() -> impl Strategy<Value = Taint> {
    let taint = |key: &str, value: &str, effect: &str| Taint {
        key: key.to_owned(),
        value: value.to_owned(),
        effect: effect.to_owned(),
    };
    select(vec![
        taint("dedicated", "x", "NoSchedule"),
        taint("dedicated", "y", "NoExecute"),
        taint("node-role.kubernetes.io/control-plane", "", "NoSchedule"),
        taint("node.kubernetes.io/unschedulable", "", "NoSchedule"),
        taint("node.kubernetes.io/not-ready", "", "NoExecute"),
        taint("pressure", "", "PreferNoSchedule"),
    ])
}

prop_compose! {
    fn node(name: String)(
        pool in prop::option::of(text(&["a", "b"])),
        cpu in prop::option::of(text(&["1", "2", "4", "8", "x", "5"])),
        arch in text(&["amd64", "arm64"]),
        zone in prop::option::of(text(&["z1", "z2"])),
        system in prop_oneof![5 => Just("linux"), 1 => Just("windows")],
        taints in prop_oneof![1 => Just(Vec::new()), 1 => prop::collection::vec(taint(), 1..3)],
    ) -> ModelNode {
        let labels = [
            ("pool", pool),
            ("cpu", cpu),
            ("kubernetes.io/arch", Some(arch)),
            ("beta.kubernetes.io/arch", Some(arch)),
            ("topology.kubernetes.io/zone", zone),
            ("failure-domain.beta.kubernetes.io/zone", zone),
            ("kubernetes.io/os", Some(system)),
            ("beta.kubernetes.io/os", Some(system)),
            ("kubernetes.io/hostname", Some(name.as_str())),
        ];
        let labels = labels.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned())));
        ModelNode { labels: labels.collect(), name: name.clone(), taints }
    }
}

/// Up to eight nodes, with names that differ.
pub(super) fn nodes() -> impl Strategy<Value = Vec<ModelNode>> {
    (1usize..9).prop_flat_map(|count| (1..=count).map(|number| node(format!("n{number}"))).collect::<Vec<_>>())
}
