//! Rolling updates of a Deployment, step by step, on nodes that hold one pod of a port each.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{super::manifests, pairs};
use crate::check::{
    CheckSettings, check,
    finding::{Code, Severity},
};

/// Whether an update ends: new pods wait for free nodes, and old ones go as far as enough pods are ready
/// (`reconcileNewReplicaSet` and `reconcileOldReplicaSets` in pkg/controller/deployment/rolling.go).
fn ends(replicas: u32, surge: u32, unavailable: u32, mut free: u32) -> bool {
    let (mut old, mut pending, mut ready) = (replicas, 0, 0);
    loop {
        let before = (old, pending, ready);
        let room = (replicas + surge).saturating_sub(old + pending + ready);
        pending += room.min(replicas - pending - ready);
        let started = pending.min(free);
        (pending, ready, free) = (pending - started, ready + started, free - started);
        let gone = (old + ready).saturating_sub(replicas - unavailable.min(replicas)).min(old);
        (old, free) = (old - gone, free + gone);
        if old == 0 && ready == replicas {
            return true;
        }
        if (old, pending, ready) == before {
            return false;
        }
    }
}

#[test]
fn model_of_an_update_ends_with_one_free_node() {
    assert!(ends(3, 3, 0, 1));
    assert!(!ends(3, 3, 0, 0));
    assert!(ends(3, 0, 1, 0));
    assert!(ends(1, 1, 1, 0));
}

fn whole(value: Option<u32>) -> Value {
    value.map_or(Value::Null, Value::from)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(pairs()))]

    /// "It never ends" is said of exactly those updates that do not end, and it is no mere note.
    #[test]
    fn updates_that_never_end_are_found(
        replicas in 1u32..6,
        surge in prop::option::of(0u32..4),
        unavailable in prop::option::of(0u32..3),
        others in 0u32..3,
        spare in 0u32..4,
        bound: bool,
    ) {
        // The API server refuses two zeros.
        prop_assume!((surge, unavailable) != (Some(0), Some(0)));
        let nodes = if bound { 1 } else { replicas + others + spare };
        let (replicas, others) = if bound { (1, 0) } else { (replicas, others) };
        let surge_pods = surge.unwrap_or_else(|| replicas.div_ceil(4));
        let missing = unavailable.unwrap_or(replicas / 4);
        let missing = if surge_pods == 0 { missing.max(1) } else { missing };
        let mut pod = json!({"hostNetwork": true, "containers": [{"name": "c", "ports": [{"containerPort": 80}]}]});
        let of_others = json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "others"},
            "spec": {"replicas": others, "template": {"spec": pod}},
        });
        if bound {
            pod["nodeSelector"] = json!({"kubernetes.io/hostname": "n1"});
        }
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "updated"},
            "spec": {
                "replicas": replicas, "template": {"spec": pod},
                "strategy": {"rollingUpdate": {"maxSurge": whole(surge), "maxUnavailable": whole(unavailable)}},
            },
        });
        let settings = CheckSettings { nodes: Some(if bound { 9 } else { nodes }), ..CheckSettings::default() };
        let found = check(&manifests(&[&deployment.to_string(), &of_others.to_string()]), &settings).findings;
        let never = found.iter().any(|finding| {
            let is_told = finding.code == Code::Surge && finding.message.contains("; it never ends");
            is_told && finding.severity != Severity::Note
        });
        prop_assert_eq!(never, !ends(replicas, surge_pods, missing, nodes - replicas - others), "{:?}", found);
    }
}
