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
    /// What is there to be installed: nobody in the tests reads it but who installs.
    ConfigMaps,
    Secrets,
    ServiceAccounts,
    Quotas,
    Roles,
    RoleBindings,
    ClusterRoles,
    ClusterRoleBindings,
    AdmissionPolicies,
    AdmissionPolicyBindings,
    Definitions,
    /// A custom resource: the ledgers of port-enforcer.
    NodeHostPorts,
    /// Custom resources of others: policy reports, in both of their API groups.
    PolicyReports,
    ClusterPolicyReports,
    Reports,
    ClusterReports,
}

/// Names of a resource.
struct Names {
    api_version: &'static str,
    plural: &'static str,
    kind: &'static str,
    is_namespaced: bool,
}

/// Returns the names of a resource whose objects are in namespaces.
const fn namespaced(api_version: &'static str, plural: &'static str, kind: &'static str) -> Names {
    Names { api_version, plural, kind, is_namespaced: true }
}

/// Returns the names of a resource whose objects are in no namespace.
const fn global(api_version: &'static str, plural: &'static str, kind: &'static str) -> Names {
    Names { api_version, plural, kind, is_namespaced: false }
}

impl Resource {
    /// The policy reports, in both of their API groups.
    pub(super) const REPORTS: [Self; 4] =
        [Self::PolicyReports, Self::ClusterPolicyReports, Self::Reports, Self::ClusterReports];

    pub(super) const ALL: [Self; 28] = [
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
        Self::ConfigMaps,
        Self::Secrets,
        Self::ServiceAccounts,
        Self::Quotas,
        Self::Roles,
        Self::RoleBindings,
        Self::ClusterRoles,
        Self::ClusterRoleBindings,
        Self::AdmissionPolicies,
        Self::AdmissionPolicyBindings,
        Self::Definitions,
        Self::NodeHostPorts,
        Self::PolicyReports,
        Self::ClusterPolicyReports,
        Self::Reports,
        Self::ClusterReports,
    ];

    const fn names(self) -> Names {
        match self {
            Self::Pods => namespaced("v1", "pods", "Pod"),
            Self::Namespaces => global("v1", "namespaces", "Namespace"),
            Self::Nodes => global("v1", "nodes", "Node"),
            Self::Services => namespaced("v1", "services", "Service"),
            Self::Events => namespaced("events.k8s.io/v1", "events", "Event"),
            Self::ReplicationControllers => namespaced("v1", "replicationcontrollers", "ReplicationController"),
            Self::DaemonSets => namespaced("apps/v1", "daemonsets", "DaemonSet"),
            Self::Deployments => namespaced("apps/v1", "deployments", "Deployment"),
            Self::ReplicaSets => namespaced("apps/v1", "replicasets", "ReplicaSet"),
            Self::StatefulSets => namespaced("apps/v1", "statefulsets", "StatefulSet"),
            Self::CronJobs => namespaced("batch/v1", "cronjobs", "CronJob"),
            Self::Jobs => namespaced("batch/v1", "jobs", "Job"),
            Self::ConfigMaps => namespaced("v1", "configmaps", "ConfigMap"),
            Self::Secrets => namespaced("v1", "secrets", "Secret"),
            Self::ServiceAccounts => namespaced("v1", "serviceaccounts", "ServiceAccount"),
            Self::Quotas => namespaced("v1", "resourcequotas", "ResourceQuota"),
            Self::Roles => namespaced("rbac.authorization.k8s.io/v1", "roles", "Role"),
            Self::RoleBindings => namespaced("rbac.authorization.k8s.io/v1", "rolebindings", "RoleBinding"),
            Self::ClusterRoles => global("rbac.authorization.k8s.io/v1", "clusterroles", "ClusterRole"),
            Self::ClusterRoleBindings => {
                global("rbac.authorization.k8s.io/v1", "clusterrolebindings", "ClusterRoleBinding")
            }
            Self::AdmissionPolicies => {
                global("admissionregistration.k8s.io/v1", "validatingadmissionpolicies", "ValidatingAdmissionPolicy")
            }
            Self::AdmissionPolicyBindings => global(
                "admissionregistration.k8s.io/v1",
                "validatingadmissionpolicybindings",
                "ValidatingAdmissionPolicyBinding",
            ),
            Self::Definitions => {
                global("apiextensions.k8s.io/v1", "customresourcedefinitions", "CustomResourceDefinition")
            }
            Self::NodeHostPorts => global("port-enforcer.io/v1alpha1", "nodehostports", "NodeHostPorts"),
            Self::PolicyReports => namespaced("wgpolicyk8s.io/v1alpha2", "policyreports", "PolicyReport"),
            Self::ClusterPolicyReports => {
                global("wgpolicyk8s.io/v1alpha2", "clusterpolicyreports", "ClusterPolicyReport")
            }
            Self::Reports => namespaced("openreports.io/v1alpha1", "reports", "Report"),
            Self::ClusterReports => global("openreports.io/v1alpha1", "clusterreports", "ClusterReport"),
        }
    }

    pub(super) const fn plural(self) -> &'static str {
        self.names().plural
    }

    pub(super) fn group(self) -> &'static str {
        self.api_version().split_once('/').map_or("", |(group, _)| group)
    }

    pub(super) fn version(self) -> &'static str {
        self.api_version().split_once('/').map_or(self.api_version(), |(_, version)| version)
    }

    pub(super) const fn api_version(self) -> &'static str {
        self.names().api_version
    }

    pub(super) const fn kind(self) -> &'static str {
        self.names().kind
    }

    /// Returns the name in the messages of a server's storage, which keeps Events in the core group.
    pub(super) const fn qualified(self) -> &'static str {
        match self {
            Self::NodeHostPorts => "nodehostports.port-enforcer.io",
            Self::PolicyReports => "policyreports.wgpolicyk8s.io",
            Self::ClusterPolicyReports => "clusterpolicyreports.wgpolicyk8s.io",
            Self::Reports => "reports.openreports.io",
            Self::ClusterReports => "clusterreports.openreports.io",
            Self::Definitions => "customresourcedefinitions.apiextensions.k8s.io",
            _ => self.plural(),
        }
    }

    pub(super) const fn is_namespaced(self) -> bool {
        self.names().is_namespaced
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

    /// Checks whether an administrator installs it: makes, edits and deletes it over HTTP as any object.
    pub(super) const fn is_installed(self) -> bool {
        matches!(
            self,
            Self::DaemonSets
                | Self::CronJobs
                | Self::Jobs
                | Self::ConfigMaps
                | Self::Secrets
                | Self::ServiceAccounts
                | Self::Quotas
                | Self::Roles
                | Self::RoleBindings
                | Self::ClusterRoles
                | Self::ClusterRoleBindings
                | Self::AdmissionPolicies
                | Self::AdmissionPolicyBindings
                | Self::Definitions
        )
    }

    /// Returns the verbs that are served to an administrator, beside those that are served to all.
    pub(super) const fn verbs_of_admin(self) -> &'static [&'static str] {
        if self.is_installed() { &["create", "delete", "get", "list", "patch", "update", "watch"] } else { &[] }
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
            _ if self.is_namespaced() => &["metadata.name", "metadata.namespace"],
            _ => &["metadata.name"],
        }
    }
}
