//! Resources of the API.

/// A resource of the API that the agent uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ApiResource {
    /// The pods of this node.
    Pods,
    /// The namespaces that have a mode label.
    Namespaces,
    /// The namespaces that have a port limit as a label.
    NamespaceLimits,
    /// The Services that take ports of the nodes.
    Services,
    /// The Events that the agent publishes.
    Events,
    /// The ledger of this node.
    Ledger,
    /// The Node of this node, for its startup taint.
    Nodes,
}

impl ApiResource {
    /// Every resource.
    pub const ALL: [Self; 7] =
        [Self::Pods, Self::Namespaces, Self::NamespaceLimits, Self::Services, Self::Events, Self::Ledger, Self::Nodes];
    /// Resources that are watched.
    pub const WATCHED: [Self; 4] = [Self::Pods, Self::Namespaces, Self::NamespaceLimits, Self::Services];

    /// Returns the name in logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Namespaces => "namespaces",
            Self::NamespaceLimits => "namespace_limits",
            Self::Services => "services",
            Self::Events => "events",
            Self::Ledger => "nodehostports",
            Self::Nodes => "nodes",
        }
    }

    /// Returns the verb for the agent's use of it.
    #[must_use]
    pub const fn verb(self) -> &'static str {
        match self {
            Self::Pods | Self::Namespaces | Self::NamespaceLimits | Self::Services => "watch",
            Self::Events => "publish",
            Self::Ledger => "write",
            Self::Nodes => "untaint",
        }
    }

    /// Returns the past participle of [`Self::verb`].
    #[must_use]
    pub const fn verb_done(self) -> &'static str {
        match self {
            Self::Pods | Self::Namespaces | Self::NamespaceLimits | Self::Services => "watched",
            Self::Events => "published",
            Self::Ledger => "written",
            Self::Nodes => "untainted",
        }
    }
}
