//! What the agents of a cluster cost its API server: many nodes with the real clients of the agent, without kernels.
//!
//! A node here is what an agent has between its connections: the watches, the publishers of Events and of the ledger, and
//! the index that decides what they publish. There are no programs and no sockets, so that a ledger has the rows of
//! claims only. Nothing is sped up: what is measured in some minutes is told for an hour.

mod node;
mod traffic;

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use enforcer_testing::{
    apiserver::{ApiServer, Target},
    pods::Pod,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;

use self::{
    node::Nodes,
    traffic::{Per, Traffic, established},
};
use crate::{
    agents::{self, service},
    samples::Run,
};

/// Pods of a node.
const PODS: u16 = 30;
/// Services with node ports, where there are any.
const SERVICES: u16 = 5_000;
/// Changes of pods of one node in a minute, where there are any.
const CHANGES: u32 = 10;
/// Changes of Services that are measured.
const SERVICE_CHANGES: u16 = 20;
/// How long all nodes may take to start, and to write their first ledgers.
const START: Duration = Duration::from_mins(10);
/// Changes of pods before those that are measured, until the writes that a ledger has in a row are spent.
const WARM_UP: Duration = Duration::from_mins(2);
/// After this time the first ledgers are written, and what they led to is over.
const SETTLE: Duration = Duration::from_secs(15);

/// A cluster that is measured.
struct Extent {
    name: &'static str,
    nodes: u16,
    services: u16,
    quiet: Duration,
    changes: Duration,
}

/// Without Services, and with them: each node lists all, so that there are fewer nodes.
const CLUSTERS: [Extent; 2] = [
    Extent {
        name: "pods",
        nodes: 1_000,
        services: 0,
        // As long as a watch lasts on average, so that each begins again once.
        quiet: Duration::from_mins(5),
        changes: Duration::from_secs(90),
    },
    Extent {
        name: "services",
        nodes: 20,
        services: SERVICES,
        quiet: Duration::from_secs(30),
        changes: Duration::from_mins(1),
    },
];
/// The same, quickly.
const QUICK: [Extent; 2] = [
    Extent { name: "pods", nodes: 100, services: 0, quiet: Duration::from_secs(30), changes: Duration::from_secs(30) },
    Extent {
        name: "services",
        nodes: 20,
        services: SERVICES,
        quiet: Duration::from_secs(15),
        changes: Duration::from_secs(15),
    },
];

pub(crate) fn measure(quick: bool) -> anyhow::Result<Vec<Run>> {
    // Both ends of each connection are in this process.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    let mut runs = Vec::new();
    for Extent { name, nodes, services, quiet, changes } in if quick { QUICK } else { CLUSTERS } {
        eprintln!("cluster: {nodes} nodes with {PODS} pods each and {services} Services");
        let mut cluster = Cluster::start(nodes, services)?;
        cluster.report_start(name, &mut runs);
        eprintln!("cluster: nothing changes for {} s", quiet.as_secs());
        let traffic = cluster.during(|_| {
            sleep(quiet);
            Ok(())
        })?;
        traffic.report(&format!("{name}/quiet"), nodes, Per::AgentAndHour, &mut runs);
        eprintln!("cluster: {CHANGES} changes a minute of each node's pods for {} s", changes.as_secs());
        // The first writes of a ledger are allowed in a row: what is measured is what goes on for hours.
        cluster.change_pods(WARM_UP)?;
        let traffic = cluster.during(|cluster| cluster.change_pods(changes))?;
        traffic.report(&format!("{name}/changes"), nodes, Per::AgentAndHour, &mut runs);
        cluster.report_objects(name, &mut runs)?;
        if services > 0 {
            eprintln!("cluster: {SERVICE_CHANGES} changes of Services");
            let traffic = cluster.during(Cluster::change_services)?;
            let bytes = traffic.bytes("watch", "services") as f64 / f64::from(nodes) / f64::from(SERVICE_CHANGES);
            runs.push(Run::one(format!("{name}/bytes-of-one-change"), "B per agent", bytes));
        }
    }
    Ok(runs)
}

/// A server and the nodes that it has.
struct Cluster {
    nodes: Nodes,
    server: ApiServer,
    count: u16,
    services: u16,
    /// The pod of each node that comes and goes.
    changing: Vec<Pod>,
}

impl Cluster {
    /// Starts so many nodes, and waits until each has listed everything and written its first ledger.
    fn start(count: u16, services: u16) -> anyhow::Result<Self> {
        let server = ApiServer::start();
        let mut changing = Vec::new();
        for node in 0..count {
            let on_node = |mut pod: Pod| {
                pod.object["spec"]["nodeName"] = node::name(node).into();
                pod
            };
            for number in 0..PODS {
                let mut pod = agents::pod(number);
                pod.object["metadata"]["name"] = format!("pod-{node}-{number}").into();
                put(&server, &on_node(pod))?;
            }
            let mut pod = agents::pod(PODS);
            pod.object["metadata"]["name"] = format!("changing-{node}").into();
            changing.push(on_node(pod));
        }
        for number in 0..services {
            server.put_service(serde_json::from_value(service(number))?);
        }
        let nodes = Nodes::start(&server, count)?;
        let written = Target::ALL.resource("nodehostports/status").verb("patch");
        server.wait_at_most(START, "the ledgers of all nodes", |server| {
            (server.count(written) >= usize::from(count)).then_some(())
        });
        sleep(SETTLE);
        Ok(Self { nodes, server, count, services, changing })
    }

    /// Returns the traffic while something happens.
    fn during(&mut self, happens: impl FnOnce(&mut Self) -> anyhow::Result<()>) -> anyhow::Result<Traffic> {
        let before = self.server.requests();
        let begun = Instant::now();
        happens(self)?;
        let time = begun.elapsed();
        if let Some(error) = self.nodes.errors().first() {
            // They are tried again, and so counted twice.
            eprintln!("cluster: calls failed, which makes figures wrong: {error}");
        }
        Ok(Traffic::between(&before, &self.server.requests(), time))
    }

    /// Reports what the agents asked for until now, and what they hold open.
    fn report_start(&self, name: &str, runs: &mut Vec<Run>) {
        let count = f64::from(self.count);
        let start = Traffic::between(&[], &self.server.requests(), Duration::ZERO);
        start.report(&format!("{name}/start"), self.count, Per::Agent, runs);
        let watches = self.server.watches(Target::ALL) as f64 / count;
        runs.push(Run::one(format!("{name}/open-watches"), "per agent", watches));
        if let Some(connections) = established() {
            runs.push(Run::one(format!("{name}/connections"), "per agent", connections as f64 / count));
        }
    }

    /// Reports the size of what the agents keep in the server's storage, as JSON.
    fn report_objects(&self, name: &str, runs: &mut Vec<Run>) -> anyhow::Result<()> {
        let sizes = |objects: Vec<Value>| objects.iter().map(|object| object.to_string().len() as f64).collect();
        let ledgers: Vec<f64> = sizes(self.server.ledgers());
        ensure!(!ledgers.is_empty(), "no ledger was written");
        runs.push(Run::of(format!("{name}/ledger-size"), "B", ledgers));
        let events = self.server.events().iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?;
        let events: Vec<f64> = sizes(events);
        if !events.is_empty() {
            runs.push(Run::of(format!("{name}/event-size"), "B", events));
        }
        Ok(())
    }

    /// Changes a pod of each node so many times a minute. Of four changes one is its creation with a port, two are edits
    /// that change no claim, as the kubelet makes them, and one is its deletion. One new pod of ten has a port that
    /// another pod of its node has.
    fn change_pods(&mut self, time: Duration) -> anyhow::Result<()> {
        let begun = Instant::now();
        let interval = Duration::from_mins(1) / CHANGES / u32::from(self.count);
        let total = (time.as_secs_f64() / interval.as_secs_f64()) as u32;
        for number in 0..total {
            sleep((begun + interval * number).saturating_duration_since(Instant::now()));
            let (round, node) = (number / u32::from(self.count), (number % u32::from(self.count)) as usize);
            let pod = self.changing.get_mut(node).context("every node has one")?;
            // Neither do all nodes do the same at once, nor do all have a conflict at once.
            let step = (round as usize + node) % 4;
            let name = pod.object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            match step {
                0 => {
                    let conflict = (round as usize / 4 + node).is_multiple_of(10);
                    let port = agents::FIRST_PORT + if conflict { 0 } else { PODS };
                    *pod = pod.clone().uid(&enforcer_testing::pods::api_uid()).ports(&port.to_string());
                    pod.object["status"]["containerStatuses"][0]["restartCount"] = 0.into();
                    put(&self.server, pod)?;
                }
                1 | 2 => {
                    pod.object["status"]["containerStatuses"][0]["restartCount"] = (step + round as usize).into();
                    put(&self.server, pod)?;
                }
                _ => {
                    if self.server.has_pod("default", &name) {
                        self.server.delete_pod("default", &name);
                    }
                }
            }
        }
        Ok(())
    }

    /// Edits a Service so many times, one a second.
    fn change_services(&mut self) -> anyhow::Result<()> {
        for number in 0..SERVICE_CHANGES {
            let mut object = service(number % self.services);
            object["metadata"]["annotations"]["example.com/edit"] = number.to_string().into();
            self.server.put_service(serde_json::from_value(object)?);
            sleep(Duration::from_secs(1));
        }
        Ok(())
    }
}

fn put(server: &ApiServer, pod: &Pod) -> anyhow::Result<()> {
    server.put_pod(serde_json::from_value(pod.object.clone())?);
    Ok(())
}
