//! The check agrees with the agent and the scheduler: two pods that cannot share a node are those of which the index lets
//! one lose, or which the scheduler keeps apart.

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::api::core::v1 as api;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::manifests;
use crate::check::{CheckSettings, check, finding::Code};
use crate::{
    index::{self, Index, Notice},
    model::{kernel_ids::CgroupId, now::Now},
    pods::pod,
};

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![Just(53u16), Just(80), Just(81), Just(82)]
}

fn address() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["", "0.0.0.0", "10.0.0.1", "10.0.0.2", "::", "::1", "fd00::1", "::ffff:10.0.0.1", "x"])
}

fn protocol() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["TCP", "TCP", "UDP", "SCTP"])
}

fn item() -> impl Strategy<Value = String> {
    (address(), port(), 0u16..3, protocol()).prop_map(|(address, port, more, protocol)| {
        let address = match address {
            "" => String::new(),
            address if address.contains(':') => format!("[{address}]:"),
            address => format!("{address}:"),
        };
        format!("{address}{port}-{}/{}", port + more, protocol.to_lowercase())
    })
}

fn declared() -> impl Strategy<Value = Value> {
    (port(), prop::option::of(port()), address(), protocol(), 0usize..3).prop_map(
        |(container, host, ip, protocol, of)| {
            let kind = ["containers", "sidecar", "init"][of];
            json!({"kind": kind, "containerPort": container, "hostPort": host, "hostIP": ip, "protocol": protocol})
        },
    )
}

prop_compose! {
    fn pod_named(name: &'static str)(
        namespace in prop::sample::select(vec!["a", "a", "b", "kube-system"]),
        host_network: bool,
        share in prop::option::of(prop::sample::select(vec!["s", "t", " s "])),
        items in prop::collection::vec(item(), 0..3),
        declared in prop::collection::vec(declared(), 0..3),
    ) -> Value {
        let containers = |kind: &str| -> Vec<Value> {
            let of_kind = declared.iter().filter(|port| port["kind"] == kind);
            of_kind.map(|port| json!({"name": "c", "ports": [port]})).collect()
        };
        let with_policy = |kind: &str, policy: Value| {
            containers(kind).into_iter().map(move |mut container| {
                container["restartPolicy"] = policy.clone();
                container
            })
        };
        let init: Vec<_> = with_policy("sidecar", "Always".into()).chain(with_policy("init", Value::Null)).collect();
        let mut annotations = json!({});
        if !items.is_empty() {
            annotations["port-enforcer.io/ports"] = items.join(",").into();
        }
        if let Some(share) = share {
            annotations["port-enforcer.io/share"] = share.into();
        }
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": namespace, "name": name, "annotations": annotations},
            "spec": {"hostNetwork": host_network, "containers": containers("containers"), "initContainers": init},
        })
    }
}

/// Port, protocol and text of the address of what the scheduler counts of a pod.
fn host_ports(pod: &Value) -> Vec<(u64, String, String)> {
    let spec = &pod["spec"];
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let sidecars = list(&spec["initContainers"]).into_iter().filter(|container| container["restartPolicy"] == "Always");
    let ports = list(&spec["containers"]).into_iter().chain(sidecars).flat_map(|container| list(&container["ports"]));
    let number = |port: &Value| {
        let default = if spec["hostNetwork"] == true { port["containerPort"].as_u64() } else { None };
        port["hostPort"].as_u64().or(default)
    };
    // An address that is none is no claim, and reported as such.
    let counted = ports.filter(|port| port["hostIP"] != "x").filter_map(|port| {
        let ip = port["hostIP"].as_str().filter(|ip| !ip.is_empty()).unwrap_or("0.0.0.0");
        Some((number(&port)?, port["protocol"].as_str()?.to_owned(), ip.to_owned()))
    });
    counted.collect()
}

/// Whether the scheduler refuses to place the two on one node.
fn scheduler_refuses(one: &Value, other: &Value) -> bool {
    host_ports(one).iter().any(|(port, protocol, ip)| {
        host_ports(other).iter().any(|(other_port, other_protocol, other_ip)| {
            let is_wildcard = ip == "0.0.0.0" || other_ip == "0.0.0.0";
            (port, protocol) == (other_port, other_protocol) && (is_wildcard || ip == other_ip)
        })
    })
}

/// Whether the index lets a claim of one of these pods lose, or one to the node.
fn loses(pods: &[&Value], settings: index::Settings) -> bool {
    let mut index = Index::new(settings, CgroupId::new(1));
    for (number, pod) in pods.iter().enumerate() {
        let mut pod = (*pod).clone();
        pod["metadata"]["uid"] = format!("00000000-0000-0000-0000-{number:012}").into();
        let pod: api::Pod = serde_json::from_value(pod).unwrap();
        index.apply(pod::from_api(&pod), Now { wall: 0, boottime: Duration::ZERO });
    }
    index.drain_output().notices.iter().any(|notice| matches!(notice, Notice::Conflict { .. }))
}

/// The codes that the check finds, out of those of which the index knows.
fn found(pods: &[&Value], settings: &CheckSettings) -> BTreeSet<Code> {
    let texts: Vec<String> = pods.iter().map(ToString::to_string).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let codes = check(&manifests(&texts), settings).findings.into_iter().map(|finding| finding.code);
    codes.filter(|code| matches!(code, Code::Conflict | Code::Shadowed | Code::Reserved)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn two_pods(one in pod_named("one"), other in pod_named("other")) {
        let pods = [&one, &other];
        let expected = loses(&pods, index::Settings::default()) || scheduler_refuses(&one, &other);
        prop_assert_eq!(!found(&pods, &CheckSettings::default()).is_empty(), expected);
    }

    #[test]
    fn a_pod_and_the_node(pod in pod_named("one"), reserved in item()) {
        let Ok(spec) = reserved.parse() else { return Ok(()) };
        let index = index::Settings { node_reserved: vec![spec], ..index::Settings::default() };
        let settings = CheckSettings { node_reserved: vec![spec], ..CheckSettings::default() };
        prop_assert_eq!(found(&[&pod], &settings).contains(&Code::Reserved), loses(&[&pod], index));
    }

    /// Two pods of one template are as two pods that were written twice.
    #[test]
    fn two_replicas(one in pod_named("one")) {
        let mut other = one.clone();
        other["metadata"]["name"] = "other".into();
        let set = json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": {"namespace": one["metadata"]["namespace"], "name": "set"},
            "spec": {"replicas": 2, "template": one},
        });
        let text = set.to_string();
        let outcome = check(&manifests(&[&text]), &CheckSettings { nodes: Some(1), ..CheckSettings::default() });
        let replicas = outcome.findings.iter().any(|finding| finding.code == Code::Replicas);
        let expected = loses(&[&one, &other], index::Settings::default()) || scheduler_refuses(&one, &other);
        prop_assert_eq!(replicas, expected);
    }
}
