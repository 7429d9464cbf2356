//! The workload that a patch is for: its kind, and its template as it is now.

use k8s_openapi::{
    api::core::v1::{Container, Pod, PodSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use crate::{
    model::port_spec::PortSpec,
    pods::{
        claims::{ClaimLimits, claims_of},
        pod::from_api,
    },
    sockets::observed_ports::WorkloadName,
};

/// A workload's template, as far as a patch must know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    /// Its containers, init containers included.
    pub(super) containers: Vec<TemplateContainer>,
    /// Its annotation with ports.
    pub(super) annotation: Option<String>,
    /// Ports that it claims.
    pub(super) claims: Vec<PortSpec>,
    /// It is on the host network.
    pub(super) host_network: bool,
}

/// A container of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TemplateContainer {
    pub(super) name: String,
    pub(super) is_init: bool,
    pub(super) ports: Vec<i32>,
}

impl Template {
    /// Reads a template: the metadata and spec of its pods.
    #[must_use]
    pub fn of(metadata: Option<&ObjectMeta>, spec: &PodSpec) -> Self {
        let pod = Pod { metadata: metadata.cloned().unwrap_or_default(), spec: Some(spec.clone()), ..Pod::default() };
        let pod = from_api(&pod);
        let claims = claims_of(&pod, &ClaimLimits::UNLIMITED).claims;
        let container = |container: &Container, is_init: bool| TemplateContainer {
            name: container.name.clone(),
            is_init,
            ports: container.ports.iter().flatten().map(|port| port.container_port).collect(),
        };
        let init = spec.init_containers.iter().flatten().map(|it| container(it, true));
        Self {
            containers: spec.containers.iter().map(|it| container(it, false)).chain(init).collect(),
            annotation: pod.ports_annotation,
            claims: claims.into_iter().map(|claim| claim.spec).collect(),
            host_network: pod.host_network,
        }
    }
}

/// Way to patch a kind of workloads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PatchTarget {
    /// The template is at this path below the object.
    Template {
        /// Name of the kind for kubectl.
        resource: &'static str,
        /// The path.
        path: &'static [&'static str],
    },
    /// A pod without a controller: its annotations can be changed, and its ports cannot.
    Pod,
    /// No patch is possible, for this reason.
    None(String),
}

impl PatchTarget {
    /// Returns the way for a workload.
    pub(super) fn of(name: &WorkloadName) -> Self {
        const TEMPLATE: &[&str] = &["spec", "template"];
        if !is_object_name(&name.namespace) || !is_object_name(&name.name) {
            return Self::None("The workload's name is none that Kubernetes allows, so there is no patch.".to_owned());
        }
        let template = |resource: &'static str| Self::Template { resource, path: TEMPLATE };
        match name.kind.as_str() {
            "DaemonSet" => template("daemonset"),
            "Deployment" => template("deployment"),
            "StatefulSet" => template("statefulset"),
            "ReplicaSet" => template("replicaset"),
            "ReplicationController" => template("replicationcontroller"),
            "CronJob" => Self::Template { resource: "cronjob", path: &["spec", "jobTemplate", "spec", "template"] },
            "Pod" => Self::Pod,
            "Job" => Self::None(
                "The template of a Job cannot be changed: declare the ports in the manifest that the Job is made from."
                    .to_owned(),
            ),
            WorkloadName::STATIC_POD => Self::None(
                "A static pod has no object to patch: declare the ports in its manifest on the node, in the kubelet's \
                 folder (staticPodPath, mostly /etc/kubernetes/manifests)."
                    .to_owned(),
            ),
            kind => Self::None(format!(
                "kubectl has no strategic merge for the kind {kind}: declare the ports where its template is made."
            )),
        }
    }

    /// Returns the command that applies a patch in a file.
    pub(super) fn command(&self, namespace: &str, name: &str) -> String {
        let resource = match self {
            Self::Template { resource, .. } => resource,
            Self::Pod | Self::None(_) => "pod",
        };
        format!("kubectl patch {resource} {name} -n {namespace} --type strategic --patch-file patch.yaml")
    }
}

/// Checks whether a text is a name of an object, and so safe in a command.
pub(super) fn is_object_name(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    !text.is_empty() && text.len() <= 253 && !text.starts_with('-') && text.bytes().all(is_plain)
}
