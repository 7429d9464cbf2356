//! Owners of ports: their ids, kinds and ranks.

use std::{fmt, num::NonZeroU32};

/// Id of an owner: a pod, the node, or the handover reservation of a pod. Never 0 and never used twice.
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
