//! Owners of ports: their ids, kinds and ranks.

use std::{fmt, num::NonZeroU32};

/// Id of an owner: a pod, the node, the handover reservation of a pod, or a Service. Never 0 and never used twice.
///
/// In the kernel's words 0 is nobody; [`Self::new`] is the edge where that becomes `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerId(NonZeroU32);

impl OwnerId {
    /// Lowest id.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// Returns the owner with this id; `None` for 0, which is nobody.
    #[must_use]
    pub const fn new(id: u32) -> Option<Self> {
        match NonZeroU32::new(id) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    /// Returns the number, as the kernel's words have it.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// Returns the id that is `steps` later.
    #[must_use]
    pub const fn saturating_add(self, steps: u32) -> Self {
        Self(self.0.saturating_add(steps))
    }
}

impl fmt::Display for OwnerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Kind of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OwnerKind {
    /// The node itself.
    Node,
    /// A pod.
    Pod,
    /// Reservation of the ports of a deleted pod: they stay with its workload for a while.
    HandoverReservation,
    /// A Service, whose node ports the packet rules of every node take.
    Service,
}

/// Trust class of an owner. Nothing that a tenant can set changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OwnerClass {
    /// The node itself.
    Node,
    /// A static pod.
    Static,
    /// A pod of a system namespace.
    System,
    /// Any other pod, and every Service.
    Tenant,
}

impl OwnerClass {
    /// Checks whether the owner is node software: static pods and pods of the system namespaces. Node software is never
    /// denied.
    #[must_use]
    pub fn is_software(self) -> bool {
        matches!(self, Self::Static | Self::System)
    }
}

/// Rank of an owner in arbitration, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OwnerRank {
    /// The node.
    Node,
    /// Static pods.
    Static,
    /// Pods of system namespaces.
    System,
    /// Everybody else.
    Tenant,
}

/// Returns the rank of an owner: the one place that decides who comes first by what an owner is.
///
/// A class alone gives no rank: only the node itself ranks as the node. An owner of another kind whose class says so, as
/// it could stand in a record of the previous agent, ranks last.
#[must_use]
pub const fn rank(kind: OwnerKind, class: OwnerClass) -> OwnerRank {
    match (kind, class) {
        (OwnerKind::Node, _) => OwnerRank::Node,
        (OwnerKind::Pod | OwnerKind::HandoverReservation, class) => match class {
            OwnerClass::Static => OwnerRank::Static,
            OwnerClass::System => OwnerRank::System,
            OwnerClass::Tenant | OwnerClass::Node => OwnerRank::Tenant,
        },
        // Its namespace gives it none: who may make Services there need not be node software.
        (OwnerKind::Service, _) => OwnerRank::Tenant,
    }
}

/// Group that a claim is for. Claims of one group never conflict with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClaimGroup {
    /// The node.
    Node,
    /// One pod.
    Pod(OwnerId),
    /// A share group.
    Group(u32),
}

/// Party that a claim is for. Claims of two parties that are one never deny each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClaimParty {
    /// Its group.
    pub group: ClaimGroup,
    /// Its workload: the pods of one workload are siblings.
    pub workload: Option<u32>,
}

impl ClaimParty {
    /// Returns whether the two are one: of one group, or siblings. A pod can be one with two others that are not one.
    #[must_use]
    pub fn is_one_with(self, other: Self) -> bool {
        self.group == other.group || (self.workload.is_some() && self.workload == other.workload)
    }
}

impl From<ClaimGroup> for ClaimParty {
    fn from(group: ClaimGroup) -> Self {
        Self { group, workload: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_node_ranks_as_the_node() {
        let classes = [OwnerClass::Node, OwnerClass::Static, OwnerClass::System, OwnerClass::Tenant];
        for class in classes {
            assert_eq!(rank(OwnerKind::Node, class), OwnerRank::Node);
            for kind in [OwnerKind::Pod, OwnerKind::HandoverReservation] {
                assert!(rank(kind, class) > OwnerRank::Node, "{kind:?} {class:?}");
            }
        }
        let pods = classes.map(|class| rank(OwnerKind::Pod, class));
        assert_eq!(pods, [OwnerRank::Tenant, OwnerRank::Static, OwnerRank::System, OwnerRank::Tenant]);
    }
}
