//! Nodes that pods may be placed on, as far as a manifest says.

mod node_demands;
mod pod_affinity;
mod tolerations;

use std::collections::BTreeMap;

use self::{node_demands::NodeDemands, pod_affinity::PodAffinity, tolerations::Tolerations};
use crate::yaml::spanned::Node;

/// The part of an affinity that is a rule and not a wish.
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";

/// Conditions that a pod's spec sets on its nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Every node that suits the pods gets one, as of a `DaemonSet`.
    every_node: bool,
    /// The spec has a `nodeName`.
    is_bound: bool,
    demands: NodeDemands,
    tolerations: Tolerations,
    affinity: PodAffinity,
}

/// A node of a cluster, as far as it decides which pods it takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeTraits {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its taints.
    pub taints: Vec<Taint>,
}

/// A taint of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Taint {
    /// Its key.
    pub key: String,
    /// Its value; empty if it has none.
    pub value: String,
    /// Its effect: `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

/// Reason why a node does not take a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Misfit {
    /// Its name or labels are not those that the pod demands.
    Labels,
    /// The pod does not tolerate this taint.
    Taint(String),
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
    /// Reads the conditions from the spec and the labels of a pod. `every_node`: the object puts a pod on every node
    /// that suits it, as a `DaemonSet` does.
    #[must_use]
    pub fn of(spec: &Node, labels: Option<&Node>, namespace: &str, every_node: bool) -> Self {
        let is_bound = node_demands::node_name(spec).is_some();
        Self {
            every_node,
            is_bound,
            demands: NodeDemands::of(spec),
            tolerations: Tolerations::of(spec, every_node, is_bound),
            affinity: PodAffinity::of(spec, labels, namespace),
        }
    }

    /// Checks whether a node suits the pods, whatever else runs there.
    ///
    /// # Errors
    ///
    /// The reason why it does not.
    pub fn suits(&self, node: &NodeTraits) -> Result<(), Misfit> {
        if !self.demands.suit(node) {
            return Err(Misfit::Labels);
        }
        match node.taints.iter().find(|taint| !self.tolerations.tolerate(taint)) {
            Some(taint) => Err(Misfit::Taint(taint.key.clone())),
            None => Ok(()),
        }
    }

    /// Returns the count of the nodes that suit the pods, if the manifest names them, whatever the size of the cluster.
    #[must_use]
    pub fn node_count(&self) -> Option<u32> {
        self.demands.node_count().map(|count| u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// Checks whether some nodes do not suit the pods, because of their labels or name.
    #[must_use]
    pub fn is_selective(&self) -> bool {
        self.demands.are_selective()
    }

    /// Checks whether the pods have a node before any scheduler sees them (`nodeName`).
    #[must_use]
    pub const fn is_bound(&self) -> bool {
        self.is_bound
    }

    /// Checks whether required pod anti-affinity lets the scheduler place the pods of two objects, or two pods of one
    /// object, on different nodes only.
    #[must_use]
    pub fn keeps_apart(&self, other: &Self) -> bool {
        !self.is_bound && !other.is_bound && self.affinity.keeps_apart(&other.affinity)
    }

    /// Checks whether pods of two objects can come to one node.
    #[must_use]
    pub fn co_placement(&self, other: &Self) -> CoPlacement {
        if self.demands.exclude(&other.demands) {
            return CoPlacement::Never;
        }
        let (includes, is_included) = (self.suits_where(other), other.suits_where(self));
        if includes && (self.is_on_every_node() || is_included) || is_included && other.is_on_every_node() {
            CoPlacement::Free
        } else {
            CoPlacement::Perhaps
        }
    }

    /// Checks whether every node that suits the pods has one: of a `DaemonSet`, or where there is one such node.
    fn is_on_every_node(&self) -> bool {
        self.every_node || self.node_count() == Some(1)
    }

    /// Checks whether every node that suits the other one suits this one too.
    #[must_use]
    pub fn suits_where(&self, other: &Self) -> bool {
        self.demands.include(&other.demands)
            && self.tolerations.include(&other.tolerations)
            && !self.affinity.depends_on_others(&other.affinity)
    }
}
