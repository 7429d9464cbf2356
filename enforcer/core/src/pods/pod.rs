//! Facts of a pod that the core keeps.

use enforcer_ebpf::{
    cgroup_name,
    wire::{Protocol, UidKey},
};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1 as api,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};

use super::{
    annotation::{MAX_ITEM, keep},
    probes::Probes,
};
use crate::model::{
    digest::Digest,
    name::Name,
    port_spec::{Address, AddressError},
    text::{escape, escape_bounded},
};

/// The annotation with the ports that a host-network pod claims.
pub const PORTS_ANNOTATION: &str = "port-enforcer.io/ports";
/// The annotation with the name of the pod's share group.
pub const SHARE_ANNOTATION: &str = "port-enforcer.io/share";
/// The kubelet's annotation on mirror pods (`ConfigMirrorAnnotationKey` in pkg/kubelet/types).
pub const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
/// The kubelet's annotation with the UID that a static pod's cgroup has (`ConfigHashAnnotationKey`).
pub const HASH_ANNOTATION: &str = "kubernetes.io/config.hash";
/// Value of [`Pod::arrival`] for a pod that says nothing of it: it comes after all others.
pub const ARRIVAL_UNKNOWN: i64 = i64::MAX;

/// The label that a Deployment puts on the `ReplicaSets` and pods it makes.
const TEMPLATE_HASH_LABEL: &str = "pod-template-hash";
/// The label with the revision of a `DaemonSet` or `StatefulSet` (`ControllerRevisionHashLabelKey` in
/// staging/src/k8s.io/api/apps/v1/types.go).
const REVISION_HASH_LABEL: &str = "controller-revision-hash";
/// Longest value of `config.mirror` that is passed on, in bytes; the kubelet's are far shorter.
const MAX_MIRROR: usize = 128;
/// Namespace of a pod that names none.
const DEFAULT_NAMESPACE: &str = "default";

/// The facts of a pod that claims, ranks and messages are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Namespace; `default` if the object has none.
    pub namespace: String,
    /// Name; empty if the object has none.
    pub name: String,
    /// UID in the name of the pod's cgroup. `None` if the object has no UID, or one that no cgroup can have; such a pod
    /// cannot be recognised in the kernel.
    pub uid: Option<UidKey>,
    /// The UID as the object has it; empty if it has none.
    pub uid_text: String,
    /// The node it is bound to.
    pub node_name: Option<String>,
    /// The pod lives in the node's network namespace.
    pub host_network: bool,
    /// Its controller.
    pub workload: Option<Workload>,
    /// The revision of its controller that it is of, from a label; empty if none says so.
    pub revision: String,
    /// The name of its share group, without white space around it. Groups are per namespace.
    pub share: Option<String>,
    /// The annotation [`PORTS_ANNOTATION`], as it is.
    pub ports_annotation: Option<String>,
    /// The host ports that its containers declare, in the order of the object, init containers last.
    pub ports: Vec<DeclaredPort>,
    /// Its probes; `None` for a pod with a network of its own.
    pub probes: Option<Box<Probes>>,
    /// Its phase.
    pub phase: Phase,
    /// Its deletionTimestamp: the end of its grace period, which may lie ahead.
    pub deletion: Option<Timestamp>,
    /// Arrival of the pod on its node, in microseconds since the epoch: when it was scheduled, else when it was
    /// created, else [`ARRIVAL_UNKNOWN`].
    pub arrival: i64,
    /// The annotation [`MIRROR_ANNOTATION`]. Anyone who may create pods can write it.
    pub mirror: Option<String>,
    /// The annotation [`HASH_ANNOTATION`]. Anyone who may create pods can write it.
    pub config_hash: Option<String>,
    /// Its containers that were started, of all kinds.
    pub containers: Vec<ContainerRef>,
    /// Problems of the object, [`super::annotation::MAX_PROBLEMS`] at most.
    pub problems: Vec<PodProblem>,
    /// Number of problems beyond those.
    pub more_problems: usize,
}

/// Phase of a pod, as far as ports are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// It runs, or may still run: `Pending`, `Running`, `Unknown`, or nothing said yet.
    Active,
    /// All its containers ended well and will not start again.
    Succeeded,
    /// All its containers ended, one of them badly, and will not start again.
    Failed,
}

/// A container that was started.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ContainerRef {
    /// The runtime's id, without the `containerd://` in front.
    pub id: String,
    /// Its name in the pod.
    pub name: String,
}

/// A host port that a container declares.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DeclaredPort {
    /// The port, never 0.
    pub host_port: u16,
    /// The address.
    pub host_ip: Address,
    /// The protocol.
    pub protocol: Protocol,
    /// Name of the container.
    pub container: String,
}

/// The controller of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Workload {
    /// Namespace of the pod, and so of its controller.
    pub namespace: String,
    /// Kind of the controller.
    pub kind: String,
    /// Name of the controller. Of a `ReplicaSet` of a Deployment: without the pod-template hash, which is the
    /// Deployment's name.
    pub name: String,
    /// UID of the controller. Empty where the name says it: for a `ReplicaSet` of a Deployment, and where a manifest's
    /// reference has no UID.
    pub uid: String,
}

/// Identity of a workload: controllers with equal keys are the same workload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WorkloadKey {
    /// One object.
    Uid {
        /// Its namespace.
        namespace: String,
        /// Its UID.
        uid: String,
    },
    /// Whatever has this name: successive `ReplicaSets` of one Deployment.
    Name {
        /// The namespace.
        namespace: String,
        /// The kind of the objects.
        kind: String,
        /// The name that they share.
        name: String,
    },
}

/// Problem of a pod's object. A closed list; none of it is fatal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum PodProblem {
    /// It has no UID.
    #[error("the pod has no metadata.uid, so nothing ties it to its processes; set it to the UID that the cgroup has")]
    UidMissing,
    /// Its UID has neither form.
    #[error("metadata.uid '{text}' is neither a UUID nor 32 hex digits, so nothing ties the pod to its processes")]
    UidInvalid {
        /// The UID, safe to show.
        text: String,
    },
    /// A declared port is not a port.
    #[error("container '{container}' declares port {port}; ports are 1 to 65535")]
    Port {
        /// Name of the container, safe to show.
        container: String,
        /// The number.
        port: i32,
    },
    /// The protocol of a declared port is unknown.
    #[error("container '{container}' declares port {port} with protocol '{protocol}'; write TCP, UDP or SCTP")]
    Protocol {
        /// Name of the container, safe to show.
        container: String,
        /// The port.
        port: u16,
        /// The protocol, safe to show.
        protocol: String,
    },
    /// The address of a declared port is none.
    #[error("container '{container}' declares port {port} with hostIP '{address}', which {error}")]
    Address {
        /// Name of the container, safe to show.
        container: String,
        /// The port.
        port: u16,
        /// The address, safe to show.
        address: String,
        /// Reason why it is none.
        error: AddressError,
    },
}

impl WorkloadKey {
    /// Returns a digest that is the same for equal keys, whichever build of the agent makes it.
    #[must_use]
    pub fn digest(&self) -> Digest {
        match self {
            Self::Uid { namespace, uid } => Digest::of("workload uid", [&**namespace, uid]),
            Self::Name { namespace, kind, name } => Digest::of("workload name", [&**namespace, kind, name]),
        }
    }
}

impl Workload {
    /// Kind of the controller whose pods on one node are always a rollout.
    const DAEMON_SET: &str = "DaemonSet";

    /// Returns whether two of its pods on one node are a rollout, whatever their revisions.
    #[must_use]
    pub fn is_daemon(&self) -> bool {
        self.kind == Self::DAEMON_SET
    }

    /// Returns kind and name as people know the workload: a `ReplicaSet` without its pod-template hash is its Deployment.
    #[must_use]
    pub fn display_name(&self) -> (String, String) {
        let is_deployment = self.kind == "ReplicaSet" && self.uid.is_empty();
        let kind = if is_deployment { "Deployment" } else { self.kind.as_str() };
        (kind.to_owned(), self.name.clone())
    }

    /// Returns the identity of the workload.
    #[must_use]
    pub fn key(&self) -> WorkloadKey {
        let namespace = self.namespace.clone();
        if self.uid.is_empty() {
            WorkloadKey::Name { namespace, kind: self.kind.clone(), name: self.name.clone() }
        } else {
            WorkloadKey::Uid { namespace, uid: self.uid.clone() }
        }
    }
}

impl Pod {
    /// Returns the name that the pod has as an owner.
    #[must_use]
    pub fn owner_name(&self) -> Name {
        let is_uid = |text: &&String| text.len() <= MAX_MIRROR && text.bytes().all(|byte| byte.is_ascii_graphic());
        Name {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            uid: self.uid_text.clone(),
            mirror: self.mirror.as_ref().filter(is_uid).cloned(),
            handover: None,
            service: false,
        }
    }

    /// Returns `namespace/name`, safe to show.
    #[must_use]
    pub fn display_name(&self) -> String {
        escape(&format!("{}/{}", self.namespace, self.name))
    }
}

/// Returns the key for a UID as objects have it: a UUID with dashes ([`enforcer_ebpf::wire::UidForm::Api`]) or 32 hex
/// digits ([`enforcer_ebpf::wire::UidForm::Static`]), in upper or lower case. `None` for all else.
#[must_use]
pub fn uid_key(text: &str) -> Option<UidKey> {
    // The cgroup's name may have underscores in the place of dashes, the object may not.
    if text.len() > cgroup_name::API_LEN || text.contains('_') {
        return None;
    }
    let name = format!("pod{}", text.to_ascii_lowercase());
    cgroup_name::pod_uid(name.as_bytes()).map(|(uid, form)| UidKey::new(uid, form))
}

/// Reads the facts of a pod from its object. Whatever is missing or wrong in it, the rest counts.
#[must_use]
pub fn from_api(object: &api::Pod) -> Pod {
    let metadata = &object.metadata;
    let spec = object.spec.as_ref();
    let status = object.status.as_ref();
    let namespace = non_empty(metadata.namespace.as_deref()).unwrap_or(DEFAULT_NAMESPACE).to_owned();
    let uid_text = metadata.uid.clone().unwrap_or_default();
    let mut pod = Pod {
        name: metadata.name.clone().unwrap_or_default(),
        uid: uid_key(&uid_text),
        node_name: non_empty(spec.and_then(|spec| spec.node_name.as_deref())).map(str::to_owned),
        host_network: spec.and_then(|spec| spec.host_network).unwrap_or_default(),
        workload: workload(metadata, &namespace),
        revision: revision(metadata),
        share: non_empty(annotation(metadata, SHARE_ANNOTATION).map(str::trim)).map(str::to_owned),
        ports_annotation: annotation(metadata, PORTS_ANNOTATION).map(str::to_owned),
        ports: Vec::new(),
        probes: Probes::of(object).map(Box::new),
        phase: match status.and_then(|status| status.phase.as_deref()) {
            Some("Succeeded") => Phase::Succeeded,
            Some("Failed") => Phase::Failed,
            _ => Phase::Active,
        },
        deletion: metadata.deletion_timestamp.as_ref().map(|time| time.0),
        arrival: arrival(metadata, status),
        mirror: annotation(metadata, MIRROR_ANNOTATION).map(str::to_owned),
        config_hash: annotation(metadata, HASH_ANNOTATION).map(str::to_owned),
        containers: status.map(containers).unwrap_or_default(),
        problems: Vec::new(),
        more_problems: 0,
        namespace,
        uid_text,
    };
    if pod.uid_text.is_empty() {
        pod.problems.push(PodProblem::UidMissing);
    } else if pod.uid.is_none() {
        pod.problems.push(PodProblem::UidInvalid { text: escape_bounded(&pod.uid_text, MAX_ITEM) });
    }
    if let Some(spec) = spec {
        declared_ports(&mut pod, spec);
    }
    pod
}

fn annotation<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

fn non_empty(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

fn arrival(metadata: &ObjectMeta, status: Option<&api::PodStatus>) -> i64 {
    let scheduled = status
        .and_then(|status| status.conditions.as_ref())
        .and_then(|conditions| {
            conditions.iter().find(|condition| condition.type_ == "PodScheduled" && condition.status == "True")
        })
        .and_then(|condition| condition.last_transition_time.as_ref());
    scheduled.or(metadata.creation_timestamp.as_ref()).map_or(ARRIVAL_UNKNOWN, |time| time.0.as_microsecond())
}

fn containers(status: &api::PodStatus) -> Vec<ContainerRef> {
    [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses]
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|status| {
            let id = status.container_id.as_deref()?;
            let id = id.split_once("://").map_or(id, |(_, id)| id);
            non_empty(Some(id)).map(|id| ContainerRef { id: id.to_owned(), name: status.name.clone() })
        })
        .collect()
}

fn workload(metadata: &ObjectMeta, namespace: &str) -> Option<Workload> {
    let OwnerReference { kind, name, uid, .. } =
        metadata.owner_references.as_ref()?.iter().find(|reference| reference.controller == Some(true))?;
    if kind == "Node" {
        // Mirror pods belong to their node.
        return None;
    }
    let (mut name, mut uid) = (name.as_str(), uid.as_str());
    if kind == "ReplicaSet"
        && let Some(deployment) = without_template_hash(metadata, name)
    {
        (name, uid) = (deployment, "");
    }
    Some(Workload { namespace: namespace.to_owned(), kind: kind.clone(), name: name.to_owned(), uid: uid.to_owned() })
}

fn revision(metadata: &ObjectMeta) -> String {
    let label = |name| metadata.labels.as_ref()?.get(name).cloned();
    label(TEMPLATE_HASH_LABEL).or_else(|| label(REVISION_HASH_LABEL)).unwrap_or_default()
}

fn without_template_hash<'a>(metadata: &ObjectMeta, replica_set: &'a str) -> Option<&'a str> {
    let hash = metadata.labels.as_ref()?.get(TEMPLATE_HASH_LABEL)?;
    non_empty(replica_set.strip_suffix(hash.as_str())?.strip_suffix('-'))
}

fn declared_ports(pod: &mut Pod, spec: &api::PodSpec) {
    for container in running_containers(spec) {
        for port in container.ports.iter().flatten() {
            match declared_port(pod.host_network, &container.name, port) {
                Ok(None) => {}
                Ok(Some(port)) => pod.ports.push(port),
                Err(problem) => keep(&mut pod.problems, &mut pod.more_problems, problem),
            }
        }
    }
}

/// Returns the containers that run beside each other: all but the init containers that are no sidecars.
pub(crate) fn running_containers(spec: &api::PodSpec) -> impl Iterator<Item = &api::Container> {
    let is_sidecar = |container: &&api::Container| container.restart_policy.as_deref() == Some("Always");
    spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(is_sidecar))
}

/// Returns the host port behind an entry of a container's `ports`, if it has one.
pub(crate) fn declared_port(
    host_network: bool,
    container: &str,
    entry: &api::ContainerPort,
) -> Result<Option<DeclaredPort>, PodProblem> {
    let shown = || escape_bounded(container, MAX_ITEM);
    let port = match entry.host_port.unwrap_or_default() {
        // As the API server's defaults do (`defaultHostNetworkPorts` in pkg/apis/core/v1/defaults.go).
        0 if host_network => entry.container_port,
        0 => return Ok(None),
        port => port,
    };
    let host_port = match u16::try_from(port) {
        Ok(host_port) if host_port != 0 => host_port,
        _ => return Err(PodProblem::Port { container: shown(), port }),
    };
    let protocol = match entry.protocol.as_deref() {
        None | Some("" | "TCP") => Protocol::Tcp,
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        Some(other) => {
            let protocol = escape_bounded(other, MAX_ITEM);
            return Err(PodProblem::Protocol { container: shown(), port: host_port, protocol });
        }
    };
    let host_ip = match entry.host_ip.as_deref() {
        None | Some("") => Address::Any,
        Some(text) => text.parse().map_err(|error| PodProblem::Address {
            container: shown(),
            port: host_port,
            address: escape_bounded(text, MAX_ITEM),
            error,
        })?,
    };
    Ok(Some(DeclaredPort { host_port, host_ip, protocol, container: container.to_owned() }))
}

#[cfg(test)]
mod tests;
