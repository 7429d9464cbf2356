//! Pods of the demo, with their manifests and cgroups.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::pod_cgroups::PodCgroups;

/// Prefix of the pods' names in messages of the enforcer.
const NAMESPACE: &str = "default/";

/// A pod with one container.
#[derive(Debug, Clone)]
pub(super) struct Pod {
    name: &'static str,
    uid: &'static str,
    controller: Controller,
    container: &'static str,
    claim: Claim,
    /// Time at which the scheduler assigned it to the node.
    scheduled: &'static str,
    /// Port that its server listens on.
    pub(super) port: u16,
    /// Its server sets `SO_REUSEPORT`.
    pub(super) shares: bool,
    /// Cgroup of its container.
    pub(super) cgroup: PathBuf,
}

/// Controller that owns a pod.
#[derive(Debug, Clone, Copy)]
enum Controller {
    /// `ReplicaSet` of a Deployment, with its pod-template hash.
    ReplicaSet {
        deployment: &'static str,
        hash: &'static str,
        uid: &'static str,
    },
    DaemonSet {
        name: &'static str,
        uid: &'static str,
    },
}

/// Way in which a pod claims its port.
#[derive(Debug, Clone, Copy)]
enum Claim {
    Annotation,
    ContainerPort,
    None,
}

/// All pods of the demo.
#[derive(Debug)]
pub(super) struct DemoPods {
    /// Pod that owns the contested port.
    pub(super) owner: Pod,
    /// Pod of another workload that claims the same port, and whose server starts first.
    pub(super) squatter: Pod,
    /// Pod that declares the shared port.
    pub(super) exporter: Pod,
    /// Pod of another workload, which listens on the shared port without declaring it.
    pub(super) sidecar: Pod,
}

impl DemoPods {
    /// Creates the pods' cgroups, and their manifests in `folder`.
    pub(super) fn new(cgroups: &PodCgroups, folder: &Path, web_port: u16, metrics_port: u16) -> anyhow::Result<Self> {
        let mut pods = Self::without_cgroups(web_port, metrics_port);
        let Self { owner, squatter, exporter, sidecar } = &mut pods;
        for pod in [owner, squatter, exporter, sidecar] {
            pod.cgroup = cgroups.create_container(pod.uid, &container_id(pod.uid))?;
            let path = folder.join(format!("{}.yaml", pod.name));
            fs::write(&path, pod.manifest()).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(pods)
    }

    /// Returns the pods with empty paths of their cgroups.
    pub(super) fn without_cgroups(web_port: u16, metrics_port: u16) -> Self {
        let owner = Pod {
            name: "nginx-6fdf99c8b-6wwft",
            uid: "3f0c8a52-5e1d-4b7e-9a54-0d6c1b9f7e21",
            controller: Controller::ReplicaSet {
                deployment: "nginx",
                hash: "6fdf99c8b",
                uid: "51c3e8a7-0f42-4d96-b8e1-7a2d5c9f0b36",
            },
            container: "nginx",
            claim: Claim::Annotation,
            scheduled: "2026-01-15T09:00:00Z",
            port: web_port,
            shares: false,
            cgroup: PathBuf::new(),
        };
        let squatter = Pod {
            name: "proxy-7c9d5f6b8-rglm7",
            uid: "b61d4f0e-27c9-4c38-8f4b-52e0a7d3c964",
            controller: Controller::ReplicaSet {
                deployment: "proxy",
                hash: "7c9d5f6b8",
                uid: "a90f6d24-83b7-4e51-9c2d-5f1e7b0a4c38",
            },
            container: "proxy",
            scheduled: "2026-01-15T09:00:01Z",
            ..owner.clone()
        };
        let exporter = Pod {
            name: "metrics-x2k8p",
            uid: "8d2b7c10-94af-4e63-b5d1-6f3e9a0c4b72",
            controller: Controller::DaemonSet { name: "metrics", uid: "c4f19b20-6a8d-4e57-93b2-1d0e7f5a8c63" },
            container: "exporter",
            claim: Claim::ContainerPort,
            scheduled: "2026-01-15T09:00:02Z",
            port: metrics_port,
            shares: true,
            cgroup: PathBuf::new(),
        };
        let sidecar = Pod {
            name: "sidecar-q4n7w",
            uid: "e7a93d65-1b08-4d2f-a6c7-c85f2e4b0d19",
            controller: Controller::DaemonSet { name: "sidecar", uid: "29ad7e83-b5c1-4f06-8d74-e6b3f1a9c052" },
            container: "agent",
            claim: Claim::None,
            scheduled: "2026-01-15T09:00:03Z",
            ..exporter.clone()
        };
        Self { owner, squatter, exporter, sidecar }
    }

    /// Returns the owner of a port.
    pub(super) fn owner_of(&self, port: u16) -> &Pod {
        if port == self.owner.port { &self.owner } else { &self.exporter }
    }
}

impl Pod {
    /// Returns `namespace/name`.
    pub(super) fn full_name(&self) -> String {
        format!("{NAMESPACE}{}", self.name)
    }

    /// Returns the name without the namespace.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Returns the pod as YAML, with the fields that the enforcer reads.
    fn manifest(&self) -> String {
        let Self { name, uid, container, port, scheduled, .. } = self;
        let id = container_id(uid);
        let (kind, controller, controller_uid, labels) = match self.controller {
            Controller::ReplicaSet { deployment, hash, uid } => (
                "ReplicaSet",
                format!("{deployment}-{hash}"),
                uid,
                format!("    app: {deployment}\n    pod-template-hash: {hash}\n"),
            ),
            Controller::DaemonSet { name, uid } => ("DaemonSet", name.to_owned(), uid, format!("    app: {name}\n")),
        };
        let (annotations, ports) = match self.claim {
            Claim::Annotation => (format!("  annotations:\n    port-enforcer.io/ports: {port}/tcp\n"), String::new()),
            Claim::ContainerPort => (String::new(), format!("      ports:\n        - containerPort: {port}\n")),
            Claim::None => (String::new(), String::new()),
        };
        format!(
            "\
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: default
  uid: {uid}
  creationTimestamp: {scheduled}
  labels:
{labels}{annotations}  ownerReferences:
    - apiVersion: apps/v1
      kind: {kind}
      name: {controller}
      uid: {controller_uid}
      controller: true
      blockOwnerDeletion: true
spec:
  nodeName: node-1
  hostNetwork: true
  containers:
    - name: {container}
      image: registry.example/{container}:1
{ports}status:
  phase: Running
  conditions:
    - type: PodScheduled
      status: \"True\"
      lastTransitionTime: {scheduled}
  containerStatuses:
    - name: {container}
      containerID: containerd://{id}
"
        )
    }
}

/// Removes the namespace of the demo from a name.
pub(super) fn short_name(full_name: &str) -> &str {
    full_name.strip_prefix(NAMESPACE).unwrap_or(full_name)
}

/// Returns the id of a pod's container: 64 hex digits, as container runtimes create it.
fn container_id(uid: &str) -> String {
    uid.replace('-', "").repeat(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifest_contains_the_claims_and_the_controller() {
        let pods = DemoPods::without_cgroups(8080, 9100);
        let replica = pods.owner.manifest();
        for line in [
            "  uid: 3f0c8a52-5e1d-4b7e-9a54-0d6c1b9f7e21",
            "    pod-template-hash: 6fdf99c8b",
            "    port-enforcer.io/ports: 8080/tcp",
            "      name: nginx-6fdf99c8b",
            "  hostNetwork: true",
        ] {
            assert!(replica.lines().any(|found| found == line), "{line} is not in\n{replica}");
        }
        assert!(!replica.contains("containerPort"), "{replica}");

        let daemon = pods.exporter.manifest();
        assert!(daemon.lines().any(|line| line == "        - containerPort: 9100"), "{daemon}");
        assert!(!daemon.contains("annotations") && !daemon.contains("pod-template-hash"), "{daemon}");
        let without_claim = pods.sidecar.manifest();
        assert!(!without_claim.contains("9100"), "{without_claim}");
    }

    #[test]
    fn container_id_has_the_form_of_runtimes() {
        let id = container_id("3f0c8a52-5e1d-4b7e-9a54-0d6c1b9f7e21");
        assert_eq!(id.len(), 64);
        assert!(id.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }

    #[test]
    fn short_name_has_no_default_namespace() {
        assert_eq!(short_name("default/nginx"), "nginx");
        assert_eq!(short_name("other/nginx"), "other/nginx");
    }
}
