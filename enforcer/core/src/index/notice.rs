//! Notices of the index for people: problems of claims, conflicts between them, and claims granted later.

use crate::{
    model::{name::Name, namespace_label::NamespaceLabel, port_spec::PortList, quota::QuotaLimit, source::ClaimSource},
    pods::claims::ClaimProblem,
};

/// Notice for people, emitted when its cause begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Something that a pod says counts for nothing.
    Problem {
        /// The pod.
        pod: Name,
        /// The problem.
        problem: ClaimProblem,
    },
    /// There are more problems than are reported one by one.
    MoreProblems {
        /// The pod.
        pod: Name,
        /// Number of further problems.
        count: usize,
    },
    /// A label of a namespace has a value that it cannot have; it counts for nothing.
    LabelInvalid {
        /// The label.
        label: NamespaceLabel,
        /// The namespace, safe to show.
        namespace: String,
        /// The value, safe to show.
        value: String,
    },
    /// A mirror pod says that it is a static pod that another mirror pod is already, or changed what it says.
    MirrorRejected {
        /// The pod.
        pod: Name,
        /// The problem.
        why: &'static str,
    },
    /// Two pods say that they have the same UID; the later one's claims bind nobody.
    SameUid {
        /// The later one.
        pod: Name,
        /// The first one.
        first: Name,
    },
    /// There is no room for the pod: its claims bind nobody.
    QuotaExceeded {
        /// The pod.
        pod: Name,
        /// The limit that is reached.
        limit: QuotaLimit,
    },
    /// There is no room for what the pod leaves to its workload: another one may have its ports at once.
    HandoverQuotaExceeded {
        /// The pod.
        pod: Name,
        /// The limit that is reached.
        limit: QuotaLimit,
    },
    /// A claim lost to another one.
    Conflict {
        /// Owner of the claim that lost.
        loser: Name,
        /// Owner of the claim that is in force.
        winner: Name,
        /// Place where the winner declared it.
        source: ClaimSource,
        /// The loser's ports.
        ports: PortList,
    },
    /// A claim that had lost is now in force.
    Granted {
        /// The pod.
        pod: Name,
        /// Its ports.
        ports: PortList,
    },
}

impl Notice {
    /// Every word of [`Self::problem`].
    pub const PROBLEMS: [&'static str; 9] =
        ["annotation", "no_host_network", "quota", "no_room", "uid", "port", "more", "identity", "no_handover"];

    /// Returns the pod that it is about, if it is about one: the one that had better change something.
    #[must_use]
    pub fn pod(&self) -> Option<&Name> {
        match self {
            Self::Problem { pod, .. }
            | Self::MoreProblems { pod, .. }
            | Self::MirrorRejected { pod, .. }
            | Self::SameUid { pod, .. }
            | Self::QuotaExceeded { pod, .. }
            | Self::HandoverQuotaExceeded { pod, .. }
            | Self::Conflict { loser: pod, .. }
            | Self::Granted { pod, .. } => Some(pod),
            Self::LabelInvalid { .. } => None,
        }
    }

    /// Returns, for metrics, the word for what counts for nothing, and how often it is reported here.
    #[must_use]
    pub fn problem(&self) -> Option<(&'static str, usize)> {
        match self {
            Self::Problem { problem, .. } => Some((problem.as_str(), 1)),
            Self::MoreProblems { count, .. } => Some(("more", *count)),
            Self::MirrorRejected { .. } | Self::SameUid { .. } => Some(("identity", 1)),
            Self::QuotaExceeded { .. } => Some(("no_room", 1)),
            Self::HandoverQuotaExceeded { .. } => Some(("no_handover", 1)),
            Self::LabelInvalid { .. } | Self::Conflict { .. } | Self::Granted { .. } => None,
        }
    }
}
