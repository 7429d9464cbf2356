//! A small agent whose kernel state outlives it: the real index on the real kernel state, driven step by step.

use std::{
    env,
    os::unix::{fs::MetadataExt as _, process::ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{self, Command, ExitStatus, Output},
};

use aya::maps::{MapData, RingBuf};
use enforcer::{
    host::{
        cgroup::{Root, scan},
        clock::now,
        netns,
    },
    kernel::{
        BpfError, Counters, Kernel, LoadOptions, map_names,
        pins::{Persistence, Pins, Previous, clean_up},
    },
};
use enforcer_core::{
    index::{Index, Settings},
    model::attempt::Attempt,
    reports::ring_records::decode_verdict,
};
use enforcer_ebpf::wire::{KernelError, Policy, Protocol, Reason, VerdictKind};
use serde::{Deserialize, Serialize};

use crate::{
    bpffs::Bpffs,
    cgroup_sandbox::Sandbox,
    pods::{Pod, SYSTEMD_BESTEFFORT, api_uid},
    reconciler_fixture::{ENFORCE, denied, features},
    worker::{self, Worker},
};

/// Enforces, and reports conflicts only.
pub const QUIET: Policy = Policy { report_attempts: false, ..ENFORCE };

const MARK: &str = "PORT_ENFORCER_TEST_START";
/// Known to builds with debug assertions only.
const DIE: &str = "PORT_ENFORCER_DIE_AFTER";

/// A pod in a form that goes to another process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PodSpec {
    name: String,
    uid: String,
    ports: String,
}

impl PodSpec {
    /// Makes a pod with a new UID that claims these ports.
    pub fn new(name: &str, ports: &str) -> Self {
        Self { name: name.to_owned(), uid: api_uid(), ports: ports.to_owned() }
    }

    fn manifest(&self) -> Pod {
        Pod::new(&self.name).uid(&self.uid).ports(&self.ports)
    }

    fn cgroup(&self) -> String {
        self.manifest().cgroup(SYSTEMD_BESTEFFORT)
    }
}

/// A BPF file system, a root cgroup of pods and the pods below it: all that stays when an agent ends.
pub struct MiniNode {
    pub bpffs: Bpffs,
    pub pods: Vec<PodSpec>,
    pub root: PathBuf,
    _sandbox: Sandbox,
}

impl MiniNode {
    /// Makes a node with these pods: name and claimed ports of each.
    pub fn new(pods: &[(&str, &str)]) -> Self {
        let sandbox = Sandbox::new();
        let root = sandbox.make("kubepods.slice");
        let pods = pods.iter().map(|(name, ports)| PodSpec::new(name, ports)).collect();
        Self { bpffs: Bpffs::new(), pods, root, _sandbox: sandbox }
    }

    /// Starts a worker in a pod's cgroup, whether or not an agent runs.
    pub fn worker(&self, name: &str) -> Worker {
        let pod = self.pods.iter().find(|pod| pod.name == name).expect("a pod");
        let cgroup = self.root.join(pod.cgroup());
        std::fs::create_dir_all(&cgroup).expect("a cgroup");
        Worker::start(&cgroup)
    }

    /// Takes the lock on the pins.
    pub fn persistence(&self, persist: bool) -> Persistence {
        let pins = Pins::at(&self.bpffs.folder()).unwrap_or_else(|error| panic!("{error}"));
        let guard = pins.try_lock().unwrap_or_else(|error| panic!("{error}")).expect("no other agent");
        Persistence { guard, persist }
    }

    /// Loads a persistent agent that knows all pods. It does not judge yet.
    pub fn load(&self) -> MiniAgent {
        self.try_load(true, |_| ()).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Loads an agent with changed options.
    pub fn try_load(&self, persist: bool, change: impl FnOnce(&mut LoadOptions)) -> Result<MiniAgent, BpfError> {
        MiniAgent::load(self.persistence(persist), &self.root, &self.pods, change)
    }

    /// Starts a persistent agent that judges.
    pub fn start(&self) -> MiniAgent {
        self.start_with(true, |_| ())
    }

    /// Starts an agent that judges, with changed options.
    pub fn start_with(&self, persist: bool, change: impl FnOnce(&mut LoadOptions)) -> MiniAgent {
        let mut agent = self.try_load(persist, change).unwrap_or_else(|error| panic!("{error}"));
        agent.take_over();
        agent
    }

    /// Runs a task in another process, which ends by SIGKILL after this step. Returns the steps that it took.
    pub fn kill_after(&self, task: Task, step: &str) -> Vec<String> {
        let (status, steps) = self.spawn_task(task, step);
        assert_eq!(status.signal(), Some(libc::SIGKILL), "{task:?} takes the step '{step}': {status}, {steps:?}");
        assert_eq!(steps.last().map(String::as_str), Some(step));
        steps
    }

    /// Runs a task in another process. Returns the steps that it took.
    pub fn run_task(&self, task: Task) -> Vec<String> {
        let (status, steps) = self.spawn_task(task, "");
        assert_eq!(status.code(), Some(0), "{task:?}: {steps:?}");
        steps
    }

    fn spawn_task(&self, task: Task, step: &str) -> (ExitStatus, Vec<String>) {
        let order = TaskOrder { task, folder: self.bpffs.folder(), root: self.root.clone(), pods: self.pods.clone() };
        let Output { status, stderr, .. } = Command::new(env::current_exe().expect("this binary"))
            .env(MARK, serde_json::to_string(&order).expect("an order"))
            .env(DIE, step)
            .output()
            .expect("starting an agent");
        let stderr = String::from_utf8_lossy(&stderr);
        let steps = stderr.lines().filter_map(|line| line.strip_prefix("step: "));
        let others = stderr.lines().filter(|line| !line.starts_with("step: "));
        others.for_each(|line| eprintln!("{task:?}: {line}"));
        (status, steps.map(str::to_owned).collect())
    }
}

/// A task for a process of its own.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Task {
    /// Start an agent, let it judge, and leave it behind.
    RunPersistent,
    /// Start a non-persistent agent, let it judge, and end it.
    RunOnce,
    /// Remove everything.
    CleanUp,
}

#[derive(Debug, Serialize, Deserialize)]
struct TaskOrder {
    task: Task,
    folder: PathBuf,
    root: PathBuf,
    pods: Vec<PodSpec>,
}

/// Runs the task that a [`MiniNode`] started this process for, if there is one.
pub fn run_if_child() {
    let Some(order) = env::var_os(MARK) else {
        return;
    };
    let TaskOrder { task, folder, root, pods } = serde_json::from_str(order.to_str().expect("text")).expect("an order");
    match task {
        Task::CleanUp => {
            clean_up(&folder).unwrap_or_else(|error| panic!("{error}")).expect("no agent runs");
        }
        Task::RunPersistent | Task::RunOnce => {
            let pins = Pins::at(&folder).unwrap_or_else(|error| panic!("{error}"));
            let guard = pins.lock(|| ()).unwrap_or_else(|error| panic!("{error}"));
            let keep = Persistence { guard, persist: matches!(task, Task::RunPersistent) };
            let mut agent = MiniAgent::load(keep, &root, &pods, |_| ()).unwrap_or_else(|error| panic!("{error}"));
            agent.take_over();
        }
    }
    process::exit(0);
}

/// The small agent.
pub struct MiniAgent {
    pub kernel: Kernel,
    pub previous: Option<Previous>,
    index: Index,
    bind_events: RingBuf<MapData>,
    attempts: Vec<Attempt>,
}

impl MiniAgent {
    fn load(
        keep: Persistence,
        root: &Path,
        pods: &[PodSpec],
        change: impl FnOnce(&mut LoadOptions),
    ) -> Result<Self, BpfError> {
        let root = Root::find(Some(root), Path::new("/proc/self/mountinfo")).expect("a root");
        let mut options = LoadOptions {
            cgroup: root.path.clone(),
            cgroup_id: root.id,
            cgroup_level: root.level,
            netns_cookie: netns::cookie().expect("a socket"),
            policy: QUIET,
            lease_deadline: None,
            shared_ports: Vec::new(),
            persistence: Some(keep),
            features: features(),
            trace: false,
        };
        change(&mut options);
        let mut kernel = Kernel::load(options)?;
        let previous = kernel.take_previous()?;
        let bind_events = kernel.take_verdict_ring()?;
        let mut index = Index::new(Settings::default(), root.id);
        for pod in pods {
            index.apply(pod.manifest().parsed(), now());
        }
        for entry in scan(&root).expect("the tree") {
            index.cgroup_created(entry.id, entry.parent, &entry.name, now());
        }
        let mut agent = Self { kernel, previous, index, bind_events, attempts: Vec::new() };
        agent.flush();
        Ok(agent)
    }

    fn flush(&mut self) {
        for change in self.index.drain_output().changes {
            self.kernel.apply(&change).unwrap_or_else(|error| panic!("{error}"));
        }
    }

    /// Judges from now on, in the place of the agent before this one.
    pub fn take_over(&mut self) {
        self.take_previous_events();
        self.kernel.attach().unwrap_or_else(|error| panic!("{error}"));
        if let Some(previous) = &self.previous {
            previous.wait_for_programs().unwrap_or_else(|error| panic!("{error}"));
        }
        self.take_previous_events();
        self.kernel.retire_previous().unwrap_or_else(|error| panic!("{error}"));
        self.previous = None;
    }

    fn take_previous_events(&mut self) {
        if let Some(previous) = &mut self.previous {
            drain_into(&mut previous.bind_events, &mut self.attempts);
        }
    }

    /// Returns the attempts that were reported and not yet taken.
    pub fn take_attempts(&mut self) -> Vec<Attempt> {
        drain_into(&mut self.bind_events, &mut self.attempts);
        std::mem::take(&mut self.attempts)
    }

    /// Returns the attempts that the programs of the previous agent reported.
    pub fn take_previous_attempts(&mut self) -> Vec<Attempt> {
        std::mem::take(&mut self.attempts)
    }

    /// Reads the counters of the kernel programs.
    pub fn counters(&self) -> Counters {
        self.kernel.counters().read().unwrap_or_else(|error| panic!("{error}"))
    }

    /// Returns how many attempts had this verdict and reason.
    pub fn count(&self, kind: VerdictKind, reason: Reason) -> u64 {
        self.counters().of(kind, reason)
    }

    /// Returns how many records of attempts were lost.
    pub fn lost_records(&self) -> u64 {
        self.counters().errors(KernelError::BindEventLost)
    }
}

fn drain_into(ring: &mut RingBuf<MapData>, told: &mut Vec<Attempt>) {
    while let Some(record) = ring.next() {
        told.push(decode_verdict(&record).unwrap_or_else(|error| panic!("{error}")));
    }
}

/// Returns a bind that any number of sockets can make at once.
pub fn shared_bind(port: u16) -> worker::Bind {
    worker::Bind::udp("0.0.0.0", port).reusing_addr()
}

/// Returns the same for IPv6 and IPv4.
pub fn shared_bind6(port: u16) -> worker::Bind {
    worker::Bind::udp("::", port).reusing_addr()
}

/// Returns the pins that all generations share, in order.
pub fn expected_shared_pins() -> Vec<String> {
    let maps = map_names::OF_HOLDS.into_iter().chain([map_names::COUNTERS, map_names::NODE_MODE]);
    let mut pins: Vec<String> = maps.map(|map| format!("v3/shared/{map}")).collect();
    pins.sort();
    pins
}

/// Returns all pins of an agent's live generation, in order.
pub fn expected_pins(generation: &str) -> Vec<String> {
    let mut pins = expected_shared_pins();
    let hooks = ["bind4", "bind6", "post_bind4", "post_bind6", "sock_release"];
    pins.extend(hooks.map(|hook| format!("v3/links/{hook}")));
    pins.extend(hooks.map(|hook| format!("v3/{generation}/programs/{hook}")));
    pins.extend(["mkdir", "rmdir"].map(|hook| format!("v3/{generation}/links/cgroup_{hook}")));
    let maps = map_names::OF_GENERATION.into_iter().chain([map_names::OWNER_RECORDS]);
    pins.extend(maps.map(|map| format!("v3/{generation}/maps/{map}")));
    pins.sort();
    pins
}

/// The protocol of [`shared_bind`].
pub const PROTOCOL: Protocol = Protocol::Udp;

/// Returns the inode number of a directory.
pub fn inode(directory: &Path) -> u64 {
    std::fs::metadata(directory).expect("a directory").ino()
}

/// Checks that the owner of the port can bind it and the other pod cannot.
pub fn only_owner_may_bind(owner: &mut Worker, stranger: &mut Worker, port: u16) -> bool {
    [shared_bind(port), shared_bind6(port)].iter().all(|bind| (owner.bind(bind), stranger.bind(bind)) == (0, denied()))
}
