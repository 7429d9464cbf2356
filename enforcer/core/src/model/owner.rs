//! Owners of ports: their ids, kinds and ranks.

/// Id of an owner: a pod, the node, or the handover reservation of a pod. Never used twice.
pub type OwnerId = u32;

/// Kind of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OwnerKind {
    /// The node itself.
    Node,
    /// A pod.
    Pod,
    /// Reservation of the ports of a deleted pod: they stay with its workload for a while.
    HandoverReservation,
}

/// Rank of an owner, best first. Nothing that a tenant can set gives a rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OwnerClass {
    /// The node itself.
    Node,
    /// A static pod.
    Static,
    /// A pod of a system namespace.
    System,
    /// Any other pod.
    Tenant,
}

impl OwnerClass {
    /// Whether the owner is node software: static pods and pods of the system namespaces. Node software is never denied.
    #[must_use]
    pub fn is_software(self) -> bool {
        matches!(self, Self::Static | Self::System)
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
