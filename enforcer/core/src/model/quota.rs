//! Resources that are limited, and what remains of them.

use std::fmt;

/// Resource of which a node has a limited amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    /// Pods in the kernel's maps.
    Pods,
    /// Handover reservations of deleted pods.
    Handovers,
    /// Services that take ports of the node.
    Services,
    /// Claims, one for each port and address.
    Claims,
    /// Claims on single addresses.
    Addresses,
}

impl Resource {
    /// Returns its name in the plural.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Handovers => "handovers",
            Self::Services => "Services",
            Self::Claims => "claims",
            Self::Addresses => "claims on single addresses",
        }
    }
}

/// Limit that is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QuotaLimit {
    /// Resource that is limited.
    pub what: Resource,
    /// The limit is one namespace's; else it is the node's.
    pub of_namespace: bool,
    /// Most that there may be.
    pub most: usize,
}

impl fmt::Display for QuotaLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = if self.of_namespace { "one namespace may have on a node" } else { "a node may have" };
        write!(f, "{whose} {} {}", self.most, self.what.as_str())
    }
}

/// Amount of a resource that remains, and the limit behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remaining {
    /// Amount.
    pub most: usize,
    /// Limit behind it.
    pub limit: QuotaLimit,
}

/// Claims that a pod may have beside those of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Claims, one for each port and address.
    pub claims: Remaining,
    /// Claims on single addresses, which count among the former too.
    pub addresses: Remaining,
}

impl Quota {
    /// No limit at all.
    pub const UNLIMITED: Self = {
        const fn unlimited(what: Resource) -> Remaining {
            Remaining { most: usize::MAX, limit: QuotaLimit { what, of_namespace: false, most: usize::MAX } }
        }
        Self { claims: unlimited(Resource::Claims), addresses: unlimited(Resource::Addresses) }
    };
}
