//! A folder of manifests and a cgroup tree like the kubelet's, for an agent and workers.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use enforcer::kernel::probe;
use tempfile::TempDir;

use crate::{
    agent::{Agent, wait_until},
    cgroup_sandbox::{self, Sandbox},
    pods::{Pod, SYSTEMD_BESTEFFORT, cgroup_for},
    worker::{Bind, Worker},
};

/// The pods' cgroup, as systemd's driver names it.
const ROOT: &str = "kubepods.slice";

/// A folder of manifests and a cgroup tree. Create it before the agent and the workers, so that it is dropped last.
pub struct AgentFixture {
    top: TempDir,
    sandbox: Sandbox,
}

impl AgentFixture {
    /// Makes an empty folder and an empty cgroup of pods.
    pub fn new() -> Self {
        let sandbox = Sandbox::new();
        sandbox.make(ROOT);
        let fixture = Self { top: TempDir::new().expect("a folder"), sandbox };
        fs::create_dir(fixture.folder()).expect("a folder");
        fixture
    }

    /// Returns the folder of manifests.
    pub fn folder(&self) -> PathBuf {
        self.path_beside("pods")
    }

    /// Returns a path beside the folder of manifests.
    pub fn path_beside(&self, name: &str) -> PathBuf {
        self.top.path().join(name)
    }

    /// Returns the cgroup of the pods.
    pub fn root(&self) -> PathBuf {
        self.sandbox.path().join(ROOT)
    }

    /// Makes a cgroup beside that of the pods.
    pub fn make_host_cgroup(&self, relative: &str) -> PathBuf {
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
        self.write(&file_name(pod), &pod.object.to_string());
    }

    /// Removes a pod's manifest.
    pub fn remove(&self, pod: &Pod) {
        fs::remove_file(self.folder().join(file_name(pod))).expect("removing a file");
    }

    /// Returns the arguments that an agent needs here, and `more`.
    pub fn arguments(&self, log_format: &str, more: &[&str]) -> Vec<String> {
        let source = format!("dir:{}", self.folder().display());
        let root = self.root().display().to_string();
        let own = ["--source", &source, "--cgroup-root", &root, "--log-format", log_format, "--node-name", "node-1"];
        own.iter().chain(&isolated_defaults(more)).chain(more).map(ToString::to_string).collect()
    }

    /// Starts an agent that writes JSON.
    pub fn agent(&self, more: &[&str]) -> Agent {
        Agent::start(self.arguments("json", more)).0
    }

    /// Starts an agent that writes JSON, and does not wait for it.
    pub fn spawn_agent(&self, more: &[&str]) -> Agent {
        Agent::spawn(self.arguments("json", more))
    }

    /// Starts an agent that writes JSON and enforces.
    pub fn enforce(&self, more: &[&str]) -> Agent {
        self.agent(&[&["--mode", "enforce"], more].concat())
    }

    /// Returns a folder for other files of a test.
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
        self.worker_with_uid(pod.uid_text())
    }

    /// Starts a worker in the cgroup of a pod's next container.
    pub fn other_container(&self, pod: &Pod) -> Worker {
        let path = self.cgroup(pod.uid_text()).join("cri-containerd-0000000000000000.scope");
        fs::create_dir_all(&path).expect("creating a cgroup");
        Worker::start(&path)
    }

    /// Starts a worker in the cgroup of a container of the pod with this UID.
    pub fn worker_with_uid(&self, uid: &str) -> Worker {
        Worker::start(&self.make_container_cgroup(uid))
    }

    /// Returns the cgroup of the pod with this UID.
    fn cgroup(&self, uid: &str) -> PathBuf {
        let container = self.container_cgroup(uid);
        container.parent().expect("a container's cgroup is in its pod's").to_owned()
    }

    fn container_cgroup(&self, uid: &str) -> PathBuf {
        self.root().join(cgroup_for(uid, SYSTEMD_BESTEFFORT))
    }

    /// Makes the cgroup of a container of the pod with this UID.
    pub fn make_container_cgroup(&self, uid: &str) -> PathBuf {
        let path = self.container_cgroup(uid);
        fs::create_dir_all(&path).expect("creating a cgroup");
        path
    }

    /// Removes the cgroup of the pod with this UID, as the kubelet does when all of the pod has ended. What still runs in
    /// it is killed.
    pub fn remove_cgroup(&self, uid: &str) {
        cgroup_sandbox::remove(&self.cgroup(uid)).expect("removing a cgroup");
    }
}

/// Returns the name of a pod's manifest in the folder.
fn file_name(pod: &Pod) -> String {
    format!("{}.yaml", pod.name())
}

/// Returns flags that keep an agent from serving, pinning and reserving anything, unless `more` has the flag: other
/// agents may run on this machine.
pub fn isolated_defaults<'a>(more: &[&str]) -> Vec<&'a str> {
    let defaults = [
        ("--listen", &["--listen", "none"][..]),
        ("--admin-socket", &["--admin-socket", "none"]),
        ("--bpffs", &["--bpffs", "/nonexistent", "--persist", "false"]),
        ("--state-dir", &["--state-dir", "/nonexistent", "--manage-reserved-ports", "false"]),
    ];
    defaults.into_iter().filter(|(flag, _)| !more.contains(flag)).flat_map(|(_, words)| words).copied().collect()
}

/// Returns a TCP bind of all IPv4 addresses.
pub fn bind(port: u16) -> Bind {
    Bind::tcp("0.0.0.0", port)
}

/// Waits until the worker's bind returns this error number, 0 for success.
pub fn until_bind(worker: &mut Worker, port: u16, errno: i32) {
    let what = format!("a bind of port {port} ends with {errno}");
    wait_until(&what, || worker.bind(&bind(port)) == errno);
}

/// Returns the error number of a denied bind: `EADDRINUSE` where the kernel lets the agent choose, else `EPERM`.
pub fn denied() -> i32 {
    // The probes take longer than most of what is asked between two binds.
    static CHOOSES: OnceLock<bool> = OnceLock::new();
    let chooses = *CHOOSES.get_or_init(|| probe::features().expect("root").set_retval);
    if chooses { libc::EADDRINUSE } else { libc::EPERM }
}
