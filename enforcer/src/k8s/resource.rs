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
    /// The Events that the agent publishes.
    Events,
}

impl ApiResource {
    /// Every resource.
    pub const ALL: [Self; 4] = [Self::Pods, Self::Namespaces, Self::NamespaceLimits, Self::Events];
    /// Resources that are watched.
    pub const WATCHED: [Self; 3] = [Self::Pods, Self::Namespaces, Self::NamespaceLimits];

    /// Returns the name in logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Namespaces => "namespaces",
            Self::NamespaceLimits => "namespace_limits",
            Self::Events => "events",
        }
    }

    /// Returns the verb for the agent's use of it.
    #[must_use]
    pub const fn verb(self) -> &'static str {
        match self {
            Self::Pods | Self::Namespaces | Self::NamespaceLimits => "watch",
            Self::Events => "publish",
        }
    }
}
