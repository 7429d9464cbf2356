//! Taints that a pod tolerates (`ToleratesTaint` in k8s.io/api/core/v1/toleration.go).

use super::{Taint, node_demands::scalar};
use crate::yaml::spanned::{Node, Value};

/// Most tolerations that are compared.
const MAX_TOLERATIONS: usize = 64;

/// Effect of a taint that keeps pods off a node. `PreferNoSchedule` is only a wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    NoSchedule,
    NoExecute,
}

/// Condition on the value of a taint.
#[derive(Clone, Debug, PartialEq, Eq)]
enum TaintValue {
    Any,
    Equal(String),
    /// Operator and operand, of which nothing is known but that equal ones are the same.
    Other(String, String),
}

/// Taints of one effect that are tolerated.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Toleration {
    /// Key of the taints; `None` for all.
    key: Option<String>,
    value: TaintValue,
    effect: Effect,
}

/// Taints that a pod tolerates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tolerations {
    items: Vec<Toleration>,
    /// There are too many to compare.
    too_many: bool,
}

impl Toleration {
    /// Creates a toleration of taints with any value.
    fn exists(key: Option<&str>, effect: Effect) -> Self {
        Self { key: key.map(str::to_owned), value: TaintValue::Any, effect }
    }

    fn tolerates(&self, taint: &Taint, effect: Effect) -> bool {
        let is_value = match &self.value {
            TaintValue::Equal(value) => *value == taint.value,
            // Other operators compare numbers, behind a feature gate: it may be tolerated.
            TaintValue::Any | TaintValue::Other(..) => true,
        };
        self.effect == effect && self.key.as_ref().is_none_or(|key| *key == taint.key) && is_value
    }

    /// Checks whether this one tolerates every taint that the other one tolerates.
    fn includes(&self, other: &Self) -> bool {
        self.effect == other.effect
            && (self.key.is_none() || self.key == other.key)
            && (self.value == TaintValue::Any || self.value == other.value)
    }
}

impl Tolerations {
    /// Reads the tolerations of a pod, and adds those that every such pod gets. `is_daemon`: a `DaemonSet` makes it.
    /// `is_bound`: it has a node before any scheduler sees it.
    pub(super) fn of(spec: &Node, is_daemon: bool, is_bound: bool) -> Self {
        let given = spec.get("tolerations").map(Node::items).unwrap_or_default();
        let too_many = given.len() > MAX_TOLERATIONS;
        let mut items: Vec<Toleration> = given.iter().take(MAX_TOLERATIONS).flat_map(read).collect();
        // The admission plugin `DefaultTolerationSeconds`; of a DaemonSet, its controller.
        for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
            items.push(Toleration::exists(Some(key), Effect::NoExecute));
        }
        if is_daemon {
            // `AddOrUpdateDaemonPodTolerations` in pkg/controller/daemon/util/daemonset_util.go.
            for condition in ["disk-pressure", "memory-pressure", "pid-pressure", "unschedulable"] {
                let key = format!("node.kubernetes.io/{condition}");
                items.push(Toleration::exists(Some(&key), Effect::NoSchedule));
            }
            if spec.get("hostNetwork").is_some_and(|node| node.value == Value::Bool(true)) {
                let key = "node.kubernetes.io/network-unavailable";
                items.push(Toleration::exists(Some(key), Effect::NoSchedule));
            }
        }
        if is_bound {
            // The kubelet looks at `NoExecute` alone (`AdmissionCheck` and its caller in pkg/kubelet/lifecycle).
            items.push(Toleration::exists(None, Effect::NoSchedule));
        }
        Self { items, too_many }
    }

    /// Checks whether this pod tolerates a taint. An effect that is only a wish keeps no pod off.
    pub(super) fn tolerate(&self, taint: &Taint) -> bool {
        let effect = match taint.effect.as_str() {
            "NoSchedule" => Effect::NoSchedule,
            "NoExecute" => Effect::NoExecute,
            _ => return true,
        };
        // What there was too much of to be read may be tolerated.
        self.too_many || self.items.iter().any(|one| one.tolerates(taint, effect))
    }

    /// Checks whether this pod tolerates every taint that the other one tolerates.
    pub(super) fn include(&self, other: &Self) -> bool {
        let covered = |other: &Toleration| self.items.iter().any(|one| one.includes(other));
        !self.too_many
            && if other.too_many {
                [Effect::NoSchedule, Effect::NoExecute].iter().all(|&effect| covered(&Toleration::exists(None, effect)))
            } else {
                other.items.iter().all(covered)
            }
    }
}

/// Reads a toleration, as one for each effect that it covers.
fn read(toleration: &Node) -> Vec<Toleration> {
    let text = |key: &str| toleration.get(key).map(scalar).unwrap_or_default();
    let effects = match text("effect").as_str() {
        "" => vec![Effect::NoSchedule, Effect::NoExecute],
        "NoSchedule" => vec![Effect::NoSchedule],
        "NoExecute" => vec![Effect::NoExecute],
        _ => Vec::new(),
    };
    let key = Some(text("key")).filter(|key| !key.is_empty());
    let value = match text("operator").as_str() {
        "Exists" => TaintValue::Any,
        // Without a key, the API server takes `Exists` alone.
        _ if key.is_none() => return Vec::new(),
        "" | "Equal" => TaintValue::Equal(text("value")),
        operator => TaintValue::Other(operator.to_owned(), text("value")),
    };
    let of_effect = |effect| Toleration { key: key.clone(), value: value.clone(), effect };
    effects.into_iter().map(of_effect).collect()
}
