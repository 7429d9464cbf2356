//! The kinds of objects that are served, and what may be done with each.

/// Kind of object that is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Resource {
    Pods,
    Namespaces,
    Nodes,
    Services,
    Events,
    ReplicationControllers,
    DaemonSets,
    Deployments,
    ReplicaSets,
    StatefulSets,
    CronJobs,
    Jobs,
    /// A custom resource: the ledgers of port-enforcer.
    NodeHostPorts,
}

impl Resource {
    pub(super) const ALL: [Self; 13] = [
        Self::Pods,
        Self::Namespaces,
        Self::Nodes,
        Self::Services,
        Self::Events,
        Self::ReplicationControllers,
        Self::DaemonSets,
        Self::Deployments,
        Self::ReplicaSets,
        Self::StatefulSets,
        Self::CronJobs,
        Self::Jobs,
        Self::NodeHostPorts,
    ];

    pub(super) const fn plural(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Namespaces => "namespaces",
            Self::Nodes => "nodes",
            Self::Services => "services",
            Self::Events => "events",
            Self::ReplicationControllers => "replicationcontrollers",
            Self::DaemonSets => "daemonsets",
            Self::Deployments => "deployments",
            Self::ReplicaSets => "replicasets",
            Self::StatefulSets => "statefulsets",
            Self::CronJobs => "cronjobs",
            Self::Jobs => "jobs",
            Self::NodeHostPorts => "nodehostports",
        }
    }

    pub(super) const fn group(self) -> &'static str {
        match self {
            Self::Pods | Self::Namespaces | Self::Nodes | Self::Services | Self::ReplicationControllers => "",
            Self::Events => "events.k8s.io",
            Self::DaemonSets | Self::Deployments | Self::ReplicaSets | Self::StatefulSets => "apps",
            Self::CronJobs | Self::Jobs => "batch",
            Self::NodeHostPorts => "port-enforcer.io",
        }
    }

    pub(super) const fn api_version(self) -> &'static str {
        match self {
            Self::Pods | Self::Namespaces | Self::Nodes | Self::Services | Self::ReplicationControllers => "v1",
            Self::Events => "events.k8s.io/v1",
            Self::DaemonSets | Self::Deployments | Self::ReplicaSets | Self::StatefulSets => "apps/v1",
            Self::CronJobs | Self::Jobs => "batch/v1",
            Self::NodeHostPorts => "port-enforcer.io/v1alpha1",
        }
    }

    pub(super) const fn kind(self) -> &'static str {
        match self {
            Self::Pods => "Pod",
            Self::Namespaces => "Namespace",
            Self::Nodes => "Node",
            Self::Services => "Service",
            Self::Events => "Event",
            Self::ReplicationControllers => "ReplicationController",
            Self::DaemonSets => "DaemonSet",
            Self::Deployments => "Deployment",
            Self::ReplicaSets => "ReplicaSet",
            Self::StatefulSets => "StatefulSet",
            Self::CronJobs => "CronJob",
            Self::Jobs => "Job",
            Self::NodeHostPorts => "NodeHostPorts",
        }
    }

    /// Returns the name in the messages of a server's storage, which keeps Events in the core group.
    pub(super) const fn qualified(self) -> &'static str {
        match self {
            Self::NodeHostPorts => "nodehostports.port-enforcer.io",
            _ => self.plural(),
        }
    }

    pub(super) const fn is_namespaced(self) -> bool {
        !matches!(self, Self::Namespaces | Self::Nodes | Self::NodeHostPorts)
    }

    /// Checks whether it makes pods: it is listed, and nobody in the tests watches it.
    pub(super) const fn is_workload(self) -> bool {
        matches!(
            self,
            Self::ReplicationControllers
                | Self::DaemonSets
                | Self::Deployments
                | Self::ReplicaSets
                | Self::StatefulSets
                | Self::CronJobs
                | Self::Jobs
        )
    }

    /// Checks whether a `CustomResourceDefinition` makes it.
    pub(super) const fn is_custom(self) -> bool {
        matches!(self, Self::NodeHostPorts)
    }

    /// Returns the verbs that are served; others are answered as if access control denied them.
    pub(super) fn verbs(self, subresource: Option<&str>) -> &'static [&'static str] {
        match (self, subresource) {
            (Self::Pods | Self::Namespaces | Self::Services, None) => &["get", "list", "watch"],
            (Self::Nodes, None) => &["get", "list", "patch", "watch"],
            (Self::Events | Self::NodeHostPorts, None) => &["create", "get", "list", "patch", "watch"],
            (Self::NodeHostPorts, Some("status")) => &["patch"],
            (workload, None) if workload.is_workload() => &["get", "list"],
            _ => &[],
        }
    }

    /// Returns the fields that a field selector may name.
    pub(super) const fn selectable(self) -> &'static [&'static str] {
        match self {
            Self::Pods => &["metadata.name", "metadata.namespace", "spec.nodeName"],
            Self::Namespaces | Self::Nodes | Self::NodeHostPorts => &["metadata.name"],
            Self::Services => &["metadata.name", "metadata.namespace", "spec.clusterIP", "spec.type"],
            // `AddFieldLabelConversionsForEvent` in pkg/apis/events/v1/conversion.go.
            Self::Events => &[
                "metadata.name",
                "metadata.namespace",
                "reason",
                "regarding.kind",
                "regarding.name",
                "regarding.namespace",
                "regarding.uid",
                "type",
            ],
            Self::ReplicationControllers
            | Self::DaemonSets
            | Self::Deployments
            | Self::ReplicaSets
            | Self::StatefulSets
            | Self::CronJobs
            | Self::Jobs => &["metadata.name", "metadata.namespace"],
        }
    }
}
