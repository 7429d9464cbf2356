//! A folder of manifests and a cgroup of the kubelet's, with an agent and workers on them.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use enforcer::kernel::probe;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    agent::{Agent, until},
    sandbox::{self, Sandbox},
    worker::{Bind, Worker},
};

static COUNT: AtomicU32 = AtomicU32::new(1);

/// The id of every container.
pub const CONTAINER_ID: &str = "5f2b6e2a8c1d4e3f9a0b7c6d5e4f3a2b1c0d9e8f7a6b5c4d3e2f1a0b9c8d7e6f";

/// A pod with the host network, younger than every pod that was made before it.
#[derive(Clone, Debug)]
pub struct Pod {
    pub object: Value,
}

impl Pod {
    pub fn new(name: &str) -> Self {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let object = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": "default",
                "uid": format!("{count:08x}-4e5f-4071-8293-a4b5c6d7e8f9"),
                "creationTimestamp": format!("2026-01-01T{:02}:{:02}:{:02}Z", count / 3600, count / 60 % 60, count % 60),
            },
            "spec": { "hostNetwork": true, "containers": [{ "name": "server" }] },
            "status": { "containerStatuses": [{
                "name": "server", "containerID": format!("containerd://{CONTAINER_ID}"),
                "image": "", "imageID": "", "ready": true, "restartCount": 0,
            }] },
        });
        Self { object }
    }

    /// What it claims, in the words of the annotation.
    pub fn ports(mut self, text: &str) -> Self {
        self.object["metadata"]["annotations"]["port-enforcer.io/ports"] = text.into();
        self
    }

    pub fn namespace(mut self, namespace: &str) -> Self {
        self.object["metadata"]["namespace"] = namespace.into();
        self
    }

    /// One of the pods of a Deployment.
    pub fn of_deployment(mut self, name: &str) -> Self {
        let metadata = &mut self.object["metadata"];
        metadata["labels"]["pod-template-hash"] = "6fdf99c8b".into();
        metadata["ownerReferences"] = json!([{
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{name}-6fdf99c8b"),
            "uid": "0a1b2c3d-4e5f-4071-8293-a4b5c6d7e8f9", "controller": true,
        }]);
        self
    }

    /// The pod of a `DaemonSet` on this node.
    pub fn of_daemon_set(mut self, name: &str) -> Self {
        self.object["metadata"]["ownerReferences"] = json!([{
            "apiVersion": "apps/v1", "kind": "DaemonSet", "name": name,
            "uid": "1b2c3d4e-5f60-4172-8394-a5b6c7d8e9f0", "controller": true,
        }]);
        self
    }

    /// What says that it mirrors the static pod whose cgroup carries this hash, and that its node controls it. Anybody
    /// can write that.
    pub fn mirror_of(mut self, hash: &str) -> Self {
        let metadata = &mut self.object["metadata"];
        metadata["annotations"]["kubernetes.io/config.mirror"] = hash.into();
        metadata["annotations"]["kubernetes.io/config.hash"] = hash.into();
        metadata["annotations"]["kubernetes.io/config.source"] = "file".into();
        metadata["ownerReferences"] = json!([{
            "apiVersion": "v1", "kind": "Node", "name": "node-1",
            "uid": "2c3d4e5f-6071-4283-94a5-b6c7d8e9f001", "controller": true,
        }]);
        self
    }

    /// One of the pods of its namespace that share their claims under this name.
    pub fn sharing(mut self, name: &str) -> Self {
        self.object["metadata"]["annotations"]["port-enforcer.io/share"] = name.into();
        self
    }

    /// How far it has come.
    pub fn phase(mut self, phase: &str) -> Self {
        self.object["status"]["phase"] = phase.into();
        self
    }

    /// The same pod under the UID that a server gave it.
    pub fn uid(mut self, uid: &str) -> Self {
        self.object["metadata"]["uid"] = uid.into();
        self
    }

    pub fn uid_text(&self) -> &str {
        self.text("uid")
    }

    pub fn name(&self) -> &str {
        self.text("name")
    }

    pub fn namespace_name(&self) -> &str {
        self.text("namespace")
    }

    fn text(&self, key: &str) -> &str {
        self.object["metadata"][key].as_str().expect("a string")
    }

    fn file(&self) -> String {
        format!("{}.yaml", self.text("name"))
    }
}

/// The pods' cgroup, as systemd's driver names it.
const ROOT: &str = "kubepods.slice";

/// What it all happens on. To be made before the agent and the workers, so that it goes after them.
pub struct Stage {
    top: TempDir,
    sandbox: Sandbox,
}

impl Stage {
    pub fn new() -> Self {
        let sandbox = Sandbox::new();
        sandbox.make(ROOT);
        let stage = Self { top: TempDir::new().expect("a folder"), sandbox };
        fs::create_dir(stage.folder()).expect("a folder");
        stage
    }

    /// The folder of manifests.
    pub fn folder(&self) -> PathBuf {
        self.beside("pods")
    }

    /// A path beside the folder of manifests.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.top.path().join(name)
    }

    /// The cgroup of the pods.
    pub fn root(&self) -> PathBuf {
        self.sandbox.path().join(ROOT)
    }

    /// Makes a cgroup beside that of the pods.
    pub fn make(&self, relative: &str) -> PathBuf {
        self.sandbox.make(relative)
    }

    /// Writes a file in one step, as no reader can see half of it.
    pub fn write(&self, file: &str, text: &str) {
        let new = self.folder().join(".new");
        fs::write(&new, text).expect("writing a file");
        fs::rename(&new, self.folder().join(file)).expect("renaming a file");
    }

    /// Writes a pod's manifest.
    pub fn put(&self, pod: &Pod) {
        self.write(&pod.file(), &pod.object.to_string());
    }

    /// Removes a pod's manifest.
    pub fn remove(&self, pod: &Pod) {
        fs::remove_file(self.folder().join(pod.file())).expect("removing a file");
    }

    /// The arguments that an agent needs here, and more.
    pub fn arguments(&self, log_format: &str, more: &[&str]) -> Vec<String> {
        let source = format!("dir:{}", self.folder().display());
        let root = self.root().display().to_string();
        let own = ["--source", &source, "--cgroup-root", &root, "--log-format", log_format, "--node-name", "node-1"];
        own.iter().chain(&nowhere(more)).chain(more).map(ToString::to_string).collect()
    }

    /// Starts an agent that writes JSON.
    pub fn agent(&self, more: &[&str]) -> Agent {
        Agent::start(self.arguments("json", more)).0
    }

    /// Starts an agent that writes JSON, and does not wait for it.
    pub fn begin(&self, more: &[&str]) -> Agent {
        Agent::begin(self.arguments("json", more))
    }

    /// Starts an agent that writes JSON and enforces.
    pub fn enforce(&self, more: &[&str]) -> Agent {
        self.agent(&[&["--mode", "enforce"], more].concat())
    }

    /// A folder for whatever a test needs.
    pub fn top(&self) -> &Path {
        self.top.path()
    }

    /// Starts an agent that writes text and enforces.
    pub fn enforce_in_text(&self) -> Agent {
        Agent::start(self.arguments("text", &["--mode", "enforce"])).0
    }

    /// Writes a pod's manifest and starts a worker in the cgroup of its container.
    pub fn start(&self, pod: &Pod) -> Worker {
        self.put(pod);
        self.worker(pod)
    }

    /// Starts a worker in the cgroup of a pod's container.
    pub fn worker(&self, pod: &Pod) -> Worker {
        self.worker_of(pod.text("uid"))
    }

    /// Starts a worker in the cgroup of a pod's next container.
    pub fn other_container(&self, pod: &Pod) -> Worker {
        let path = self.cgroup(pod.text("uid")).join("cri-containerd-0000000000000000.scope");
        fs::create_dir_all(&path).expect("creating a cgroup");
        Worker::start(&path)
    }

    /// Starts a worker in the cgroup of a container of the pod with this UID.
    pub fn worker_of(&self, uid: &str) -> Worker {
        Worker::start(&self.make_cgroup(uid))
    }

    /// The cgroup of the pod with this UID.
    fn cgroup(&self, uid: &str) -> PathBuf {
        let uid = uid.replace('-', "_");
        self.root().join(format!("kubepods-besteffort.slice/kubepods-besteffort-pod{uid}.slice"))
    }

    /// Makes the cgroup of a container of the pod with this UID.
    pub fn make_cgroup(&self, uid: &str) -> PathBuf {
        let path = self.cgroup(uid).join(format!("cri-containerd-{CONTAINER_ID}.scope"));
        fs::create_dir_all(&path).expect("creating a cgroup");
        path
    }

    /// Removes the cgroup of the pod with this UID, as the kubelet does when all of the pod has ended. What still runs in
    /// it is killed.
    pub fn remove_cgroup(&self, uid: &str) {
        sandbox::remove(&self.cgroup(uid)).expect("removing a cgroup");
    }
}

/// No agent serves, keeps or reserves anything unless it is told where: there may be others.
pub fn nowhere<'a>(more: &[&str]) -> Vec<&'a str> {
    let defaults = [
        ("--listen", &["--listen", "none"][..]),
        ("--admin-socket", &["--admin-socket", "none"]),
        ("--bpffs", &["--bpffs", "/nonexistent", "--persist", "false"]),
        ("--state-dir", &["--state-dir", "/nonexistent", "--manage-reserved-ports", "false"]),
    ];
    defaults.into_iter().filter(|(flag, _)| !more.contains(flag)).flat_map(|(_, words)| words).copied().collect()
}

/// A bind that no socket of another stage could be in the way of.
pub fn bind(port: u16) -> Bind {
    Bind::tcp("0.0.0.0", port)
}

/// Waits until the worker's bind ends so.
pub fn until_bind(worker: &mut Worker, port: u16, errno: i32) {
    let what = format!("a bind of port {port} ends with {errno}");
    until(&what, || worker.bind(&bind(port)) == errno);
}

/// What a process sees that is denied with `EADDRINUSE`, where the kernel lets the agent choose.
pub fn denied() -> i32 {
    if probe::features().expect("root").set_retval { libc::EADDRINUSE } else { libc::EPERM }
}
