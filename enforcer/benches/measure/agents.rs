//! The real agent with so many pods, on a folder or on an API server.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde_json::{Value, json};

use enforcer_testing::{
    agent::Agent,
    agent_fixture::{AgentFixture, isolated_defaults},
    apiserver::{self, ApiServer},
    pods::Pod,
};

/// The first port that is claimed.
pub(crate) const FIRST_PORT: u16 = 10_000;
/// The first node port, and how many there are.
pub(crate) const FIRST_NODE_PORT: u16 = 30_000;
const NODE_PORTS: u16 = 2_768;
/// About as much as is in the other fields of a pod's object in a cluster: environment, volumes, conditions.
const FILLING: usize = 4000;

/// Time between two looks at a map of the kernel, which adds some 50 µs. A busy loop would take the processor that the
/// agent and the server wait for, and measure the scheduler on a small machine.
pub(crate) const PAUSE: Duration = Duration::from_micros(10);

/// Where pods come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Folder,
    Api,
}

impl Source {
    pub(crate) const ALL: [Self; 2] = [Self::Folder, Self::Api];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Folder => "folder",
            Self::Api => "api",
        }
    }
}

/// An agent at work, with what it works on. The agent goes first.
pub(crate) struct RunningAgent {
    pub(crate) agent: Agent,
    pub(crate) server: Option<ApiServer>,
    pub(crate) fixture: AgentFixture,
    pub(crate) pods: Vec<Pod>,
    pub(crate) start: StartTimes,
}

/// How long the start took, and what of it was whose.
pub(crate) struct StartTimes {
    /// From the start of the process until it judged binds.
    pub(crate) ready: Duration,
    /// From the start of the process until it was ready, and with an API server until it enforced the claims of all pods.
    pub(crate) total: Duration,
    /// Processor time of the agent until then.
    pub(crate) agent: Duration,
    /// With an API server, its part.
    pub(crate) server: Option<ServerTimes>,
}

/// The part of an API server in a start.
pub(crate) struct ServerTimes {
    /// Processor time of the server.
    pub(crate) cpu: Duration,
    /// From the start of the agent until the last pod of the list was sent.
    pub(crate) listed: Duration,
}

/// A pod with a port of its own, its object as large as in a cluster.
pub(crate) fn pod(number: u16) -> Pod {
    let mut pod = Pod::new(&format!("pod-{number}")).ports(&(FIRST_PORT + number).to_string());
    pod.object["metadata"]["annotations"]["example.com/filling"] = "x".repeat(FILLING).into();
    pod
}

/// A Service with a node port of its own, its object as large as in a cluster. Those of one protocol are in one namespace.
pub(crate) fn service(number: u16) -> Value {
    let (protocol, namespace) = if number < NODE_PORTS { ("TCP", "shop") } else { ("UDP", "game") };
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "namespace": namespace, "name": format!("service-{number}"),
            "annotations": { "example.com/filling": "x".repeat(FILLING) },
        },
        "spec": {
            "type": "NodePort", "selector": { "app": format!("app-{number}") },
            "ports": [
                { "name": "main", "port": 80, "protocol": protocol, "nodePort": FIRST_NODE_PORT + number % NODE_PORTS },
            ],
        },
    })
}

impl RunningAgent {
    /// Starts the agent where so many pods are, each with a cgroup and a claim, and waits until it enforces them.
    pub(crate) fn new(source: Source, count: u16) -> anyhow::Result<Self> {
        Self::with_services(source, count, 0)
    }

    /// Starts it where so many Services are too, each with a node port.
    pub(crate) fn with_services(source: Source, count: u16, services: u16) -> anyhow::Result<Self> {
        let fixture = AgentFixture::new();
        let mut pods: Vec<Pod> = (0..count).map(pod).collect();
        let server = (source == Source::Api).then(ApiServer::start);
        for pod in &mut pods {
            match &server {
                Some(server) => *pod = put(server, pod)?,
                None => fixture.put(pod),
            }
            fixture.make_container_cgroup(pod.uid_text());
        }
        for number in 0..services {
            let server = server.as_ref().context("Services are on an API server")?;
            server.put_service(serde_json::from_value(service(number))?);
        }
        let root = fixture.root().display().to_string();
        let from = match &server {
            Some(server) => format!("--kubeconfig={}", server.kubeconfig(fixture.top()).display()),
            None => format!("--source=dir:{}", fixture.folder().display()),
        };
        let mut words =
            vec!["--mode=enforce", "--log-format=json", "--node-name=node-1", "--cgroup-root", &root, &from];
        words.extend(isolated_defaults(&[]));
        let before = server.as_ref().map(|_| thread_time(apiserver::THREAD)).transpose()?;
        let begun = Instant::now();
        let mut agent = Agent::spawn(words);
        agent.wait_for_line("ready", |line| line["event"] == "ready");
        let ready = begun.elapsed();
        if server.is_some() {
            // It judges binds before it has all pods of an API server.
            agent.wait_for_line("synced", |line| line["event"] == "synced");
        }
        let total = begun.elapsed();
        let times = match (&server, before) {
            (Some(server), Some(before)) => {
                let cpu = thread_time(apiserver::THREAD)?.saturating_sub(before);
                let list = server.requests().into_iter().filter(|request| request.resource == "pods");
                let listed = list.filter_map(|request| request.sent_at).max().context("no pods were sent")?;
                Some(ServerTimes { cpu, listed: listed.saturating_duration_since(begun) })
            }
            _ => None,
        };
        let agent_time = process_time(agent.pid())?;
        let start = StartTimes { ready, total, agent: agent_time, server: times };
        Ok(Self { agent, server, fixture, pods, start })
    }

    /// Creates or edits a pod.
    pub(crate) fn put(&self, pod: &Pod) -> anyhow::Result<Pod> {
        if let Some(server) = &self.server {
            return put(server, pod);
        }
        self.fixture.put(pod);
        Ok(pod.clone())
    }

    /// The agent's memory of this kind, in MiB: a line of its status.
    pub(crate) fn memory(&self, line: &str) -> anyhow::Result<f64> {
        let path = self.proc("status");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let value = text.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':')?.strip_suffix("kB"));
        let kilobytes: f64 = value.with_context(|| format!("{} says no {line}", path.display()))?.trim().parse()?;
        Ok(kilobytes / 1024.0)
    }

    /// How long the agent's threads have run.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        process_time(self.agent.pid())
    }

    fn proc(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.agent.pid()))
    }
}

/// How long the threads of a process have run.
fn process_time(pid: u32) -> anyhow::Result<Duration> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))?;
    tasks.map(|task| run_time(&task?.path())).sum()
}

/// How long the threads of this process with this name have run.
pub(crate) fn thread_time(name: &str) -> anyhow::Result<Duration> {
    let mut time = Duration::ZERO;
    for task in fs::read_dir("/proc/self/task")? {
        let task = task?.path();
        if fs::read_to_string(task.join("comm"))?.trim_end() == name {
            time += run_time(&task)?;
        }
    }
    Ok(time)
}

fn run_time(task: &Path) -> anyhow::Result<Duration> {
    let text = fs::read_to_string(task.join("schedstat"))?;
    let nanos = text.split_whitespace().next().context("schedstat is empty")?;
    Ok(Duration::from_nanos(nanos.parse()?))
}

fn put(server: &ApiServer, pod: &Pod) -> anyhow::Result<Pod> {
    let mut object = pod.object.clone();
    object["spec"]["nodeName"] = "node-1".into();
    let kept = server.put_pod(serde_json::from_value(object)?);
    Ok(pod.clone().uid(kept.metadata.uid.as_deref().context("every object has a UID")?))
}
