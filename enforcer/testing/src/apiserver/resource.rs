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
    /// Custom resources of others: policy reports, in both of their API groups.
    PolicyReports,
    ClusterPolicyReports,
    Reports,
    ClusterReports,
}

impl Resource {
    /// The policy reports, in both of their API groups.
    pub(super) const REPORTS: [Self; 4] =
        [Self::PolicyReports, Self::ClusterPolicyReports, Self::Reports, Self::ClusterReports];

    pub(super) const ALL: [Self; 17] = [
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
        Self::PolicyReports,
        Self::ClusterPolicyReports,
        Self::Reports,
        Self::ClusterReports,
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
            Self::PolicyReports => "policyreports",
            Self::ClusterPolicyReports => "clusterpolicyreports",
            Self::Reports => "reports",
            Self::ClusterReports => "clusterreports",
        }
    }

    pub(super) const fn group(self) -> &'static str {
        match self {
            Self::Pods | Self::Namespaces | Self::Nodes | Self::Services | Self::ReplicationControllers => "",
            Self::Events => "events.k8s.io",
            Self::DaemonSets | Self::Deployments | Self::ReplicaSets | Self::StatefulSets => "apps",
            Self::CronJobs | Self::Jobs => "batch",
            Self::NodeHostPorts => "port-enforcer.io",
            Self::PolicyReports | Self::ClusterPolicyReports => "wgpolicyk8s.io",
            Self::Reports | Self::ClusterReports => "openreports.io",
        }
    }

    pub(super) const fn api_version(self) -> &'static str {
        match self {
            Self::Pods | Self::Namespaces | Self::Nodes | Self::Services | Self::ReplicationControllers => "v1",
            Self::Events => "events.k8s.io/v1",
            Self::DaemonSets | Self::Deployments | Self::ReplicaSets | Self::StatefulSets => "apps/v1",
            Self::CronJobs | Self::Jobs => "batch/v1",
            Self::NodeHostPorts => "port-enforcer.io/v1alpha1",
            Self::PolicyReports | Self::ClusterPolicyReports => "wgpolicyk8s.io/v1alpha2",
            Self::Reports | Self::ClusterReports => "openreports.io/v1alpha1",
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
            Self::PolicyReports => "PolicyReport",
            Self::ClusterPolicyReports => "ClusterPolicyReport",
            Self::Reports => "Report",
            Self::ClusterReports => "ClusterReport",
        }
    }

    /// Returns the name in the messages of a server's storage, which keeps Events in the core group.
    pub(super) const fn qualified(self) -> &'static str {
        match self {
            Self::NodeHostPorts => "nodehostports.port-enforcer.io",
            Self::PolicyReports => "policyreports.wgpolicyk8s.io",
            Self::ClusterPolicyReports => "clusterpolicyreports.wgpolicyk8s.io",
            Self::Reports => "reports.openreports.io",
            Self::ClusterReports => "clusterreports.openreports.io",
            _ => self.plural(),
        }
    }

    pub(super) const fn is_namespaced(self) -> bool {
        !matches!(
            self,
            Self::Namespaces | Self::Nodes | Self::NodeHostPorts | Self::ClusterPolicyReports | Self::ClusterReports
        )
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
    pub(super) fn is_custom(self) -> bool {
        self == Self::NodeHostPorts || self.is_report()
    }

    /// Checks whether it is a policy report.
    pub(super) fn is_report(self) -> bool {
        Self::REPORTS.contains(&self)
    }

    /// Returns the verbs that are served; others are answered as if access control denied them.
    pub(super) fn verbs(self, subresource: Option<&str>) -> &'static [&'static str] {
        match (self, subresource) {
            (Self::Pods | Self::Namespaces | Self::Services, None) => &["get", "list", "watch"],
            (Self::Nodes, None) => &["get", "list", "patch", "watch"],
            (Self::Events | Self::NodeHostPorts, None) => &["create", "get", "list", "patch", "watch"],
            (Self::NodeHostPorts, Some("status")) => &["patch"],
            (report, None) if report.is_report() => &["create", "delete", "get", "list", "patch"],
            (workload, None) if workload.is_workload() => &["get", "list"],
            _ => &[],
        }
    }

    /// Returns the fields that a field selector may name.
    pub(super) const fn selectable(self) -> &'static [&'static str] {
        match self {
            Self::Pods => &["metadata.name", "metadata.namespace", "spec.nodeName"],
            Self::Namespaces
            | Self::Nodes
            | Self::NodeHostPorts
            | Self::ClusterPolicyReports
            | Self::ClusterReports => &["metadata.name"],
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
            | Self::Jobs
            | Self::PolicyReports
            | Self::Reports => &["metadata.name", "metadata.namespace"],
        }
    }
}
