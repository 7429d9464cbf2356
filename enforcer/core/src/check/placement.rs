//! Nodes that pods may be placed on, as far as a manifest says.

use std::collections::{BTreeMap, BTreeSet};

use crate::yaml::spanned::{Node, Value};

/// Labels of every node that runs the agent, which so keep nothing apart.
const EVERYWHERE: [(&str, &str); 2] = [("kubernetes.io/os", "linux"), ("beta.kubernetes.io/os", "linux")];
/// The part of an affinity that is a rule and not a wish.
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";

/// Conditions that a pod's spec sets on its nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// The one node that it names.
    node_name: Option<String>,
    /// Labels that its node must have.
    selector: BTreeMap<String, String>,
    /// Rules on labels beyond equality, as JSON.
    node_affinity: Option<String>,
    /// Other pods decide where the pod may be placed.
    pod_affinity: bool,
    /// The taints that it tolerates, as JSON.
    tolerations: BTreeSet<String>,
}

/// Possibility of pods of two objects on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CoPlacement {
    /// No node suits both.
    Never,
    /// Nodes may suit both; their labels, taints and other pods decide.
    Perhaps,
    /// Whatever suits one suits the other too.
    Free,
}

impl Placement {
    /// Reads it from the spec of a pod.
    #[must_use]
    pub fn of(spec: &Node) -> Self {
        let scalar = |node: &Node| match &node.value {
            Value::Text(text) => text.clone(),
            _ => node.to_json().to_string(),
        };
        let required = |kind: &str| {
            let rules = spec.at(&["affinity", kind, REQUIRED])?;
            (!rules.items().is_empty() || !rules.entries().is_empty()).then(|| rules.to_json().to_string())
        };
        Self {
            node_name: spec.get("nodeName").and_then(Node::text).filter(|name| !name.is_empty()).map(str::to_owned),
            selector: spec
                .get("nodeSelector")
                .map(Node::entries)
                .unwrap_or_default()
                .iter()
                .map(|(key, value)| (key.clone(), scalar(value)))
                .filter(|(key, value)| !EVERYWHERE.contains(&(key.as_str(), value.as_str())))
                .collect(),
            node_affinity: required("nodeAffinity"),
            pod_affinity: required("podAffinity").is_some() || required("podAntiAffinity").is_some(),
            tolerations: spec
                .get("tolerations")
                .map(Node::items)
                .unwrap_or_default()
                .iter()
                .map(|toleration| toleration.to_json().to_string())
                .collect(),
        }
    }

    /// Checks whether all its pods come to one node, whatever the size of the cluster.
    #[must_use]
    pub fn is_one_node(&self) -> bool {
        self.node_name.is_some()
    }

    /// Checks whether pods of two objects can come to one node. `everywhere` and `other_everywhere`: whether the object
    /// puts a pod on every node that suits it, as a `DaemonSet` does.
    #[must_use]
    pub fn co_placement(&self, everywhere: bool, other: &Self, other_everywhere: bool) -> CoPlacement {
        let differ = |key: &str, value: &str| other.selector.get(key).is_some_and(|other| other != value);
        let names = (self.node_name.as_ref(), other.node_name.as_ref());
        if self.selector.iter().any(|(key, value)| differ(key, value))
            || matches!(names, (Some(one), Some(other)) if one != other)
        {
            return CoPlacement::Never;
        }
        if self.pod_affinity || other.pod_affinity || self.taints_may_part(other) {
            return CoPlacement::Perhaps;
        }
        let same = self.selector == other.selector
            && self.node_affinity == other.node_affinity
            && self.node_name == other.node_name;
        if same || everywhere && self.suits_where(other) || other_everywhere && other.suits_where(self) {
            CoPlacement::Free
        } else {
            CoPlacement::Perhaps
        }
    }

    /// Checks whether every node that suits the other one suits this one too.
    fn suits_where(&self, other: &Self) -> bool {
        let demands = |key, value| other.selector.get(key) == Some(value);
        self.selector.iter().all(|(key, value)| demands(key, value))
            && (self.node_affinity.is_none() || self.node_affinity == other.node_affinity)
            && (self.node_name.is_none() || self.node_name == other.node_name)
    }

    /// Checks whether each tolerates a taint that the other one does not: then every node may be tainted for one of
    /// them.
    fn taints_may_part(&self, other: &Self) -> bool {
        !self.tolerations.is_subset(&other.tolerations) && !other.tolerations.is_subset(&self.tolerations)
    }
}
