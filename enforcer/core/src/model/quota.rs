//! Resources that are limited, and what remains of them.

use std::fmt;

/// Something that there is only so much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    /// Pods that the kernel can be told of.
    Pods,
    /// Pods that went and have left their ports to their workload for a while.
    Handovers,
    /// Claims, one for each port and address.
    Claims,
    /// Claims on single addresses.
    Addresses,
}

impl Resource {
    /// The plural.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Handovers => "handovers",
            Self::Claims => "claims",
            Self::Addresses => "claims on single addresses",
        }
    }
}

/// What stands in the way of more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QuotaLimit {
    /// Of what.
    pub what: Resource,
    /// Whether it is one namespace's limit; else it is the node's.
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

/// How much of something there may be, and what stands in the way of more than that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remaining {
    /// How much.
    pub most: usize,
    /// By what.
    pub limit: QuotaLimit,
}

/// How much a pod may claim beside what others have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Claims, one for each port and address.
    pub claims: Remaining,
    /// Of these, such on single addresses.
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
