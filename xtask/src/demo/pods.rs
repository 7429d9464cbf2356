//! The pods of the story, as manifests and by their cgroups.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::pod_cgroups::Subtree;

/// What stands in front of a pod's name wherever the enforcer names it.
const NAMESPACE: &str = "default/";

/// One pod.
#[derive(Debug, Clone)]
pub(super) struct Pod {
    name: &'static str,
    uid: &'static str,
    controller: Controller,
    container: &'static str,
    claim: Claim,
    /// When it came to the node.
    scheduled: &'static str,
    /// The port that its server listens on.
    pub(super) port: u16,
    /// Whether its server lets others listen there too.
    pub(super) shares: bool,
    /// The cgroup of its container.
    pub(super) cgroup: PathBuf,
}

#[derive(Debug, Clone, Copy)]
enum Controller {
    /// Of a Deployment, with its pod-template hash.
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

/// How a pod says that the port is its own.
#[derive(Debug, Clone, Copy)]
enum Claim {
    Annotation,
    ContainerPort,
    /// Not at all.
    Silent,
}

/// All pods of the story.
#[derive(Debug)]
pub(super) struct Cast {
    /// The replica that came first: the port is its own.
    pub(super) owner: Pod,
    /// The replica that came second, and starts first.
    pub(super) squatter: Pod,
    /// A pod that declares its port, and shares it with whoever wants to.
    pub(super) exporter: Pod,
    /// A pod of somebody else, which says nothing and listens there too.
    pub(super) guest: Pod,
}

impl Cast {
    /// Makes the pods' cgroups below `subtree`, and their manifests in `folder`.
    pub(super) fn new(subtree: &Subtree, folder: &Path, web: u16, metrics: u16) -> anyhow::Result<Self> {
        let mut cast = Self::unplaced(web, metrics);
        let Self { owner, squatter, exporter, guest } = &mut cast;
        for pod in [owner, squatter, exporter, guest] {
            pod.cgroup = subtree.make_container(pod.uid, &container_id(pod.uid))?;
            let path = folder.join(format!("{}.yaml", pod.name));
            fs::write(&path, pod.manifest()).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(cast)
    }

    /// The pods, not yet in any cgroup.
    pub(super) fn unplaced(web: u16, metrics: u16) -> Self {
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
            port: web,
            shares: false,
            cgroup: PathBuf::new(),
        };
        let squatter = Pod {
            name: "nginx-6fdf99c8b-rglm7",
            uid: "b61d4f0e-27c9-4c38-8f4b-52e0a7d3c964",
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
            port: metrics,
            shares: true,
            cgroup: PathBuf::new(),
        };
        let guest = Pod {
            name: "sidecar-q4n7w",
            uid: "e7a93d65-1b08-4d2f-a6c7-c85f2e4b0d19",
            controller: Controller::DaemonSet { name: "sidecar", uid: "29ad7e83-b5c1-4f06-8d74-e6b3f1a9c052" },
            container: "agent",
            claim: Claim::Silent,
            scheduled: "2026-01-15T09:00:03Z",
            ..exporter.clone()
        };
        Self { owner, squatter, exporter, guest }
    }

    /// Who a port belongs to.
    pub(super) fn owner_of(&self, port: u16) -> &Pod {
        if port == self.owner.port { &self.owner } else { &self.exporter }
    }
}

impl Pod {
    /// `namespace/name`.
    pub(super) fn full_name(&self) -> String {
        format!("{NAMESPACE}{}", self.name)
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// The object as the API server has it, as far as it matters.
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
            Claim::Silent => (String::new(), String::new()),
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

/// A name without the story's only namespace.
pub(super) fn short(full_name: &str) -> &str {
    full_name.strip_prefix(NAMESPACE).unwrap_or(full_name)
}

/// The runtime's id of a pod's only container: 64 hex digits.
fn container_id(uid: &str) -> String {
    uid.replace('-', "").repeat(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifest_says_what_the_story_needs() {
        let cast = Cast::unplaced(8080, 9100);
        let replica = cast.owner.manifest();
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

        let daemon = cast.exporter.manifest();
        assert!(daemon.lines().any(|line| line == "        - containerPort: 9100"), "{daemon}");
        assert!(!daemon.contains("annotations") && !daemon.contains("pod-template-hash"), "{daemon}");
        let silent = cast.guest.manifest();
        assert!(!silent.contains("9100"), "{silent}");
    }

    #[test]
    fn container_has_an_id_as_runtimes_give_it() {
        let id = container_id("3f0c8a52-5e1d-4b7e-9a54-0d6c1b9f7e21");
        assert_eq!(id.len(), 64);
        assert!(id.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }

    #[test]
    fn names_are_short_where_the_namespace_is_known() {
        assert_eq!(short("default/nginx"), "nginx");
        assert_eq!(short("other/nginx"), "other/nginx");
    }
}
