//! Pods as the API server has them, built piece by piece: the one source of their UIDs and creation times.

use std::sync::atomic::{AtomicU32, Ordering};

use enforcer_core::pods::pod::{
    self, HASH_ANNOTATION, MIRROR_ANNOTATION, PORTS_ANNOTATION, Pod as ParsedPod, SHARE_ANNOTATION,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as api;
use serde_json::{Value, json};

/// Number of the next pod or UID.
static NEXT: AtomicU32 = AtomicU32::new(1);

/// Time when the first pod was created, in seconds since the epoch: 2026-01-01T00:00:00Z.
const FIRST_CREATION: i64 = 1_767_225_600;

/// Id of every container.
pub const CONTAINER_ID: &str = "5f2b6e2a8c1d4e3f9a0b7c6d5e4f3a2b1c0d9e8f7a6b5c4d3e2f1a0b9c8d7e6f";

/// Address of every pod that runs, which is its node's.
pub const POD_IP: &str = "10.0.0.5";

/// Path of a container's cgroup below the pods' root, as the kubelet with systemd makes it for a best-effort pod.
///
/// A layout has `{uid}`, `{uid_}` (with underscores for dashes) and `{id}` (the container's id) to fill in.
pub const SYSTEMD_BESTEFFORT: &str =
    "kubepods-besteffort.slice/kubepods-besteffort-pod{uid_}.slice/cri-containerd-{id}.scope";

/// Fills in a layout such as [`SYSTEMD_BESTEFFORT`].
pub fn cgroup_for(uid: &str, layout: &str) -> String {
    layout.replace("{uid}", uid).replace("{uid_}", &uid.replace('-', "_")).replace("{id}", CONTAINER_ID)
}

fn next() -> u32 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn uid_of(number: u32) -> String {
    format!("{number:08x}-4e5f-4071-8293-a4b5c6d7e8f9")
}

/// Returns a new UID in the form of the API server.
pub fn api_uid() -> String {
    uid_of(next())
}

/// Returns a new UID in the form that the kubelet gives to static pods.
pub fn static_uid() -> String {
    format!("{:08x}4e5f60718293a4b5c6d7e8f9", next())
}

/// A pod on the host network, with a UID of its own. It was created after every pod that was built before it.
#[derive(Clone, Debug)]
pub struct Pod {
    /// The object, to be changed at will. Set the UID with [`Self::uid`].
    pub object: Value,
    /// UID in the paths of its cgroups.
    cgroup_uid: String,
}

impl Pod {
    /// Makes a pod of the namespace `default` that claims nothing.
    pub fn new(name: &str) -> Self {
        let number = next();
        let cgroup_uid = uid_of(number);
        let created = Timestamp::from_second(FIRST_CREATION + i64::from(number)).expect("a time");
        let object = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": "default",
                "uid": cgroup_uid,
                "creationTimestamp": created.to_string(),
            },
            "spec": { "hostNetwork": true, "containers": [{ "name": "server" }] },
            "status": { "containerStatuses": [{
                "name": "server", "containerID": format!("containerd://{CONTAINER_ID}"),
                "image": "", "imageID": "", "ready": true, "restartCount": 0,
            }] },
        });
        Self { object, cgroup_uid }
    }

    fn annotation(mut self, key: &str, value: &str) -> Self {
        self.object["metadata"]["annotations"][key] = value.into();
        self
    }

    fn controlled_by(mut self, version: &str, kind: &str, name: &str) -> Self {
        self.object["metadata"]["ownerReferences"] = json!([{
            "apiVersion": version, "kind": kind, "name": name, "uid": format!("uid-of-{name}"), "controller": true,
        }]);
        self
    }

    /// Sets the namespace.
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.object["metadata"]["namespace"] = namespace.into();
        self
    }

    /// Sets the UID, also of its cgroups.
    pub fn uid(mut self, uid: &str) -> Self {
        self.object["metadata"]["uid"] = uid.into();
        uid.clone_into(&mut self.cgroup_uid);
        self
    }

    /// Takes the UID out of the object; the pod's cgroups keep theirs.
    pub fn without_uid(mut self) -> Self {
        self.object["metadata"]["uid"] = Value::Null;
        self
    }

    /// Sets the creation time, in the form of RFC 3339.
    pub fn created_at(mut self, time: &str) -> Self {
        self.object["metadata"]["creationTimestamp"] = time.into();
        self
    }

    /// Sets the annotation with the claimed ports.
    pub fn ports(self, text: &str) -> Self {
        self.annotation(PORTS_ANNOTATION, text)
    }

    /// Sets the annotation with the name of the share group.
    pub fn share_group(self, group: &str) -> Self {
        self.annotation(SHARE_ANNOTATION, group)
    }

    /// Makes it a pod of a Deployment, of its first revision.
    pub fn of_deployment(self, name: &str) -> Self {
        self.of_revision(name, "6fdf99c8b")
    }

    /// Makes it a pod of a Deployment, of the revision with this pod-template hash.
    pub fn of_revision(mut self, name: &str, hash: &str) -> Self {
        self.object["metadata"]["labels"]["pod-template-hash"] = hash.into();
        self.controlled_by("apps/v1", "ReplicaSet", &format!("{name}-{hash}"))
    }

    /// Makes it a pod of a `DaemonSet`.
    pub fn of_daemon_set(self, name: &str) -> Self {
        self.controlled_by("apps/v1", "DaemonSet", name)
    }

    /// Makes it look like the mirror of the static pod whose cgroup carries this hash. Anybody can write that.
    pub fn mirror_of(self, hash: &str) -> Self {
        self.annotation(MIRROR_ANNOTATION, hash)
            .annotation(HASH_ANNOTATION, hash)
            .annotation("kubernetes.io/config.source", "file")
            .controlled_by("v1", "Node", "node-1")
    }

    /// Sets the deletion timestamp.
    pub fn terminating(mut self) -> Self {
        self.object["metadata"]["deletionTimestamp"] = "2026-01-02T00:00:00Z".into();
        self
    }

    /// Sets a probe of its container, such as `readinessProbe`.
    pub fn probe(mut self, kind: &str, probe: Value) -> Self {
        self.object["spec"]["containers"][0][kind] = probe;
        self
    }

    /// Lets it run on [`POD_IP`], and says whether it is Ready.
    pub fn running(mut self, ready: bool) -> Self {
        let arrival = self.object["metadata"]["creationTimestamp"].clone();
        let status = &mut self.object["status"];
        status["phase"] = "Running".into();
        status["podIP"] = POD_IP.into();
        status["podIPs"] = json!([{ "ip": POD_IP }]);
        status["conditions"] = json!([
            { "type": "Ready", "status": if ready { "True" } else { "False" } },
            { "type": "PodScheduled", "status": "True", "lastTransitionTime": arrival },
        ]);
        self
    }

    /// Sets the phase.
    pub fn phase(mut self, phase: &str) -> Self {
        self.object["status"]["phase"] = phase.into();
        self
    }

    /// Gives it a network of its own.
    pub fn with_own_network(mut self) -> Self {
        self.object["spec"]["hostNetwork"] = false.into();
        self
    }

    /// Takes its status away, and with it the names of its containers.
    pub fn without_status(mut self) -> Self {
        self.object["status"] = json!({});
        self
    }

    /// Returns the pod as the rules know it.
    pub fn parsed(&self) -> ParsedPod {
        let object: api::Pod = serde_json::from_value(self.object.clone()).expect("a pod");
        pod::from_api(&object)
    }

    /// Returns the UID of its cgroups, which the object has too unless [`Self::without_uid`] took it away.
    pub fn uid_text(&self) -> &str {
        &self.cgroup_uid
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        self.text("name")
    }

    /// Returns its namespace.
    pub fn namespace_name(&self) -> &str {
        self.text("namespace")
    }

    /// Returns `namespace/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace_name(), self.name())
    }

    /// Returns the path of its container's cgroup below the pods' root.
    pub fn cgroup(&self, layout: &str) -> String {
        cgroup_for(&self.cgroup_uid, layout)
    }

    fn text(&self, key: &str) -> &str {
        self.object["metadata"][key].as_str().expect("a string")
    }
}
