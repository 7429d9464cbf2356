//! The kinds of objects that are served, and what may be done with each.

/// Kind of object that is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Resource {
    Pods,
    Namespaces,
    Events,
}

impl Resource {
    pub(super) const ALL: [Self; 3] = [Self::Pods, Self::Namespaces, Self::Events];

    pub(super) const fn plural(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Namespaces => "namespaces",
            Self::Events => "events",
        }
    }

    pub(super) const fn group(self) -> &'static str {
        match self {
            Self::Pods | Self::Namespaces => "",
            Self::Events => "events.k8s.io",
        }
    }

    pub(super) const fn api_version(self) -> &'static str {
        match self {
            Self::Pods | Self::Namespaces => "v1",
            Self::Events => "events.k8s.io/v1",
        }
    }

    pub(super) const fn kind(self) -> &'static str {
        match self {
            Self::Pods => "Pod",
            Self::Namespaces => "Namespace",
            Self::Events => "Event",
        }
    }

    /// Returns the verbs that are served; others are answered as if access control denied them.
    pub(super) const fn verbs(self) -> &'static [&'static str] {
        match self {
            Self::Pods | Self::Namespaces => &["get", "list", "watch"],
            Self::Events => &["create", "get", "list", "patch", "watch"],
        }
    }

    /// Returns the fields that a field selector may name.
    pub(super) const fn selectable(self) -> &'static [&'static str] {
        match self {
            Self::Pods => &["metadata.name", "metadata.namespace", "spec.nodeName"],
            Self::Namespaces => &["metadata.name"],
            Self::Events => &["metadata.name", "metadata.namespace"],
        }
    }
}
