//! The kinds of objects that are served, and what may be done with each.

/// Kind of object that is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Resource {
    Pods,
    Namespaces,
    Nodes,
    Services,
    Events,
}

impl Resource {
    pub(super) const ALL: [Self; 5] = [Self::Pods, Self::Namespaces, Self::Nodes, Self::Services, Self::Events];

    pub(super) const fn plural(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Namespaces => "namespaces",
            Self::Nodes => "nodes",
            Self::Services => "services",
            Self::Events => "events",
        }
    }

    pub(super) const fn group(self) -> &'static str {
        match self {
            Self::Pods | Self::Namespaces | Self::Nodes | Self::Services => "",
            Self::Events => "events.k8s.io",
        }
    }

    pub(super) const fn api_version(self) -> &'static str {
        match self {
            Self::Pods | Self::Namespaces | Self::Nodes | Self::Services => "v1",
            Self::Events => "events.k8s.io/v1",
        }
    }

    pub(super) const fn kind(self) -> &'static str {
        match self {
            Self::Pods => "Pod",
            Self::Namespaces => "Namespace",
            Self::Nodes => "Node",
            Self::Services => "Service",
            Self::Events => "Event",
        }
    }

    pub(super) const fn is_namespaced(self) -> bool {
        matches!(self, Self::Pods | Self::Services | Self::Events)
    }

    /// Returns the verbs that are served; others are answered as if access control denied them.
    pub(super) const fn verbs(self, subresource: Option<&str>) -> &'static [&'static str] {
        match (self, subresource) {
            (Self::Pods | Self::Namespaces | Self::Nodes | Self::Services, None) => &["get", "list", "watch"],
            (Self::Events, None) => &["create", "get", "list", "patch", "watch"],
            (_, Some(_)) => &[],
        }
    }

    /// Returns the fields that a field selector may name.
    pub(super) const fn selectable(self) -> &'static [&'static str] {
        match self {
            Self::Pods => &["metadata.name", "metadata.namespace", "spec.nodeName"],
            Self::Namespaces | Self::Nodes => &["metadata.name"],
            Self::Services => &["metadata.name", "metadata.namespace", "spec.clusterIP", "spec.type"],
            Self::Events => &["metadata.name", "metadata.namespace"],
        }
    }
}
