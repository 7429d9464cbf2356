//! Kinds that make pods, and the API versions that serve them.

/// The kinds that make pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WorkloadKind {
    /// v1
    Pod,
    /// v1
    ReplicationController,
    /// apps
    Deployment,
    /// apps
    DaemonSet,
    /// apps
    StatefulSet,
    /// apps
    ReplicaSet,
    /// batch
    Job,
    /// batch
    CronJob,
    /// A kind that is not of Kubernetes, with a pod template at the usual place. Its controller alone knows how many
    /// pods there are at once.
    Custom,
}

/// The kinds that Kubernetes serves.
const SERVED: [WorkloadKind; 8] = [
    WorkloadKind::Pod,
    WorkloadKind::ReplicationController,
    WorkloadKind::Deployment,
    WorkloadKind::DaemonSet,
    WorkloadKind::StatefulSet,
    WorkloadKind::ReplicaSet,
    WorkloadKind::Job,
    WorkloadKind::CronJob,
];

impl WorkloadKind {
    /// Returns the kind of an object, if it is one of Kubernetes that makes pods: also of a version or group that no
    /// API server serves, and in another case. A group with a dot is somebody else's: that of a custom resource must
    /// have one.
    #[must_use]
    pub fn of(api_version: &str, kind: &str) -> Option<Self> {
        let served = SERVED.into_iter().find(|served| served.as_str().eq_ignore_ascii_case(kind))?;
        (!group(api_version).contains('.')).then_some(served)
    }

    /// Returns the API version that serves the kind; empty for custom kinds.
    #[must_use]
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::Pod | Self::ReplicationController => "v1",
            Self::Deployment | Self::DaemonSet | Self::StatefulSet | Self::ReplicaSet => "apps/v1",
            Self::Job | Self::CronJob => "batch/v1",
            Self::Custom => "",
        }
    }

    /// Returns the kind's name in manifests.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pod => "Pod",
            Self::ReplicationController => "ReplicationController",
            Self::Deployment => "Deployment",
            Self::DaemonSet => "DaemonSet",
            Self::StatefulSet => "StatefulSet",
            Self::ReplicaSet => "ReplicaSet",
            Self::Job => "Job",
            Self::CronJob => "CronJob",
            Self::Custom => "custom resource",
        }
    }

    /// Returns the path to the metadata and the spec of the kind's pods.
    pub(super) const fn template(self) -> &'static [&'static str] {
        match self {
            Self::Pod => &[],
            Self::CronJob => &["spec", "jobTemplate", "spec", "template"],
            _ => &["spec", "template"],
        }
    }
}

/// Returns the group of an API version; empty for `v1`.
pub(super) fn group(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}
