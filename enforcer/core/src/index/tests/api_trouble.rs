//! A day of an API server in trouble, in simulated time: what an agent keeps of its pods, what it asks of the server, and
//! what it holds in memory, whatever fails, and in whatever order updates come.
//!
//! The short form always runs; with `PORT_ENFORCER_TEST_FULL=1` in the environment it is 24 hours. A failed run names its
//! seed, and `PORT_ENFORCER_TEST_SEED` repeats it.

mod cluster;
mod model;
mod publishers;

use std::{env, time::Duration};

use enforcer_ebpf::{
    decide::Target,
    wire::{Reason, VerdictKind},
};

use self::{
    cluster::{Cluster, FIRST_PORT, Object, PORTS, Update},
    model::Model,
    publishers::FailedCalls,
};
use super::*;
use crate::{
    k8s_events::{EventObject, EventScheduler, NextCall},
    ledger::schedule::LedgerSchedule,
    startup_taint::TaintSchedule,
};

/// A pod of nobody, which tries every port.
const STRANGER: u32 = 1 << 30;
/// Seconds in which everything is in step again when nothing fails any more: longer than any backoff.
const RECOVERY: u64 = 1800;

/// Pseudo-random numbers, the same for one seed. The steps are those of splitmix64.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)) % end
    }

    fn place(&mut self, end: usize) -> usize {
        usize::try_from(self.below(end as u64)).expect("less than a usize")
    }

    fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// Names of the figures, in the order in which they are printed.
const FIGURES: [&str; 27] = [
    "hours",
    "pods",
    "edits",
    "forced_deletions",
    "updates",
    "reordered_updates",
    "outages",
    "outage_seconds",
    "throttles",
    "watches_lost",
    "gone",
    "lists",
    "partial_lists",
    "stale_lists",
    "agent_restarts",
    "verdicts",
    "checks_in_outages",
    "checks_in_step",
    "events_published",
    "event_calls_failed",
    "ledger_writes",
    "ledger_calls_failed",
    "ledgers_deleted",
    "taints",
    "taints_removed",
    "most_owners",
    "most_event_series",
];

/// Counts of what happened, by name.
struct Figures(BTreeMap<&'static str, u64>);

impl Figures {
    fn new() -> Self {
        Self(FIGURES.into_iter().map(|name| (name, 0)).collect())
    }

    fn add(&mut self, name: &str, count: u64) {
        *self.0.get_mut(name).expect("a figure") += count;
    }

    fn raise(&mut self, name: &str, to: u64) {
        let most = self.0.get_mut(name).expect("a figure");
        *most = to.max(*most);
    }

    /// Prints them as `cargo xtask siege` reads them.
    fn print(&self, seed: u64) {
        println!("\nfigure api.seed {seed}");
        for name in FIGURES {
            println!("figure api.{name} {}", self.0[name]);
        }
    }
}

/// The server's side of the ledger and of the taint.
#[derive(Default)]
struct ServerObjects {
    /// Version and content of the ledger.
    ledger: Option<(u64, u32)>,
    version: u64,
    /// When the Node got its startup taint.
    tainted_at: Option<u64>,
}

/// An agent: what it knows, and what it is about to ask of the server.
struct Agent {
    rig: Rig,
    events: EventScheduler,
    ledger: LedgerSchedule,
    taint: TaintSchedule,
    /// Number of the content that the ledger is to have.
    content: u32,
    /// Times of the writes that succeeded.
    writes: Vec<Duration>,
    /// The publisher of Events makes a pause after a failure, as the client's watches do.
    events_at: u64,
    events_pause: u64,
    /// Failed calls about Events, the ledger and the taint.
    failed: [FailedCalls; 3],
}

impl Agent {
    fn new(mut rig: Rig, seed: u64) -> Self {
        rig.made(u64::from(STRANGER) + CGROUP_IDS, ROOT, &cgroup_name(STRANGER));
        let now = rig.now().boottime;
        let (ledger, taint) = (LedgerSchedule::new(seed, now), TaintSchedule::new(seed));
        Self {
            rig,
            events: EventScheduler::new("node-1"),
            ledger,
            taint,
            content: 0,
            writes: Vec::new(),
            events_at: 0,
            events_pause: 1,
            failed: [FailedCalls::default(); 3],
        }
    }
}

/// The whole.
struct Simulation {
    cluster: Cluster,
    server: ServerObjects,
    agent: Option<Agent>,
    /// The maps, while no agent is there.
    maps: Maps,
    starts_at: u64,
    model: Model,
    /// Who had which port when the outage began, as long as it lasts.
    before_outage: Option<BTreeMap<u16, u32>>,
    published: HashMap<EventObject, (Duration, u64)>,
    figures: Figures,
    contents: u32,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let rig = Rig::new(Settings::default());
        let cluster = Cluster::new(seed, rig.at);
        let mut model = Model::default();
        model.cgroup_made(STRANGER);
        Self {
            cluster,
            server: ServerObjects::default(),
            maps: rig.maps.clone(),
            agent: Some(Agent::new(rig, seed)),
            starts_at: 0,
            model,
            before_outage: None,
            published: HashMap::new(),
            figures: Figures::new(),
            contents: 0,
        }
    }

    fn wall(&self) -> i64 {
        i64::try_from(self.cluster.second).expect("small") * 1_000_000
    }

    /// One second passes.
    fn step(&mut self) {
        let (made, removed) = self.cluster.pass(&mut self.figures);
        self.agents();
        self.see_cgroups(&made, &removed);
        let updates = if self.agent.is_some() { self.cluster.poll_watch(&mut self.figures) } else { Vec::new() };
        for update in updates {
            self.see_update(update);
        }
        self.note_outage();
        self.check_maps();
        self.check_in_step();
        self.publish();
    }

    /// Agents end and start.
    fn agents(&mut self) {
        let second = self.cluster.second;
        if let Some(agent) = self.agent.as_mut() {
            agent.rig.pass(1);
            if !self.cluster.quiet && self.cluster.dice.once_in(900) {
                self.maps = agent.rig.maps.clone();
                self.agent = None;
                self.starts_at = second + self.cluster.dice.below(60);
                self.figures.add("agent_restarts", 1);
            }
        } else if self.starts_at <= second {
            let mut rig = Rig::after(&self.maps, second, Settings::default());
            let mut cgroups: Vec<u32> = self.cluster.cgroups.iter().copied().collect();
            cgroups.push(STRANGER);
            rig.rescan(&cgroups);
            self.model.restart(&cgroups.into_iter().collect());
            let seed = self.cluster.dice.below(u64::MAX);
            self.agent = Some(Agent::new(rig, seed));
            self.cluster.restart_watch();
        }
    }

    fn see_cgroups(&mut self, made: &[u32], removed: &[u32]) {
        let Some(agent) = self.agent.as_mut() else { return };
        for &number in made {
            agent.rig.made(u64::from(number) + CGROUP_IDS, ROOT, &cgroup_name(number));
            self.model.cgroup_made(number);
        }
        for &number in removed {
            agent.rig.removed(u64::from(number) + CGROUP_IDS);
            self.model.cgroup_removed(number);
        }
    }

    fn see_update(&mut self, update: Update) {
        let wall = self.wall();
        let agent = self.agent.as_mut().expect("who watches");
        match update {
            Update::List(objects) => {
                self.model.list(&objects, wall);
                agent.rig.reset(objects.into_iter().map(|object| object.pod).collect());
            }
            Update::Change(change) => {
                self.model.change(&change, wall);
                match change.object {
                    Some(object) => agent.rig.apply(object.pod),
                    None => agent.rig.delete(&change.name),
                }
            }
        }
        self.figures.raise("most_owners", agent.rig.index.usage().owners as u64);
        self.contents += 1;
        agent.content = self.contents;
    }

    /// What was in force before an outage stays for as long as its pod runs.
    fn note_outage(&mut self) {
        if !self.cluster.is_cut_off() {
            self.before_outage = None;
            return;
        }
        let owners = self.before_outage.get_or_insert_with(|| self.model.owners());
        owners.retain(|_, number| self.cluster.cgroups.contains(number));
        let now = self.model.owners();
        for (port, number) in owners.iter() {
            assert_eq!(now.get(port), Some(number), "pod {number} lost {port} in an outage");
            self.figures.add("checks_in_outages", 1);
        }
    }

    /// What the kernel answers is what the model says, with and without an agent.
    fn check_maps(&mut self) {
        let owners = self.model.owners();
        let maps = self.agent.as_ref().map_or(&self.maps, |agent| &agent.rig.maps);
        for port in (0..PORTS).map(|place| FIRST_PORT + place) {
            let verdict =
                |number: u32| maps.verdict(u64::from(number) + CGROUP_IDS, Protocol::Tcp, port, Target::V4([0; 4]));
            let of_stranger = verdict(STRANGER);
            if let Some(&owner) = owners.get(&port) {
                assert_eq!((of_stranger.kind, of_stranger.reason), (VerdictKind::Deny, Reason::Claimed), "{port}");
                // While no agent is there, a new cgroup is unknown to these maps, which no kernel program writes.
                if self.cluster.cgroups.contains(&owner) && maps.cgroups.contains_key(&(u64::from(owner) + CGROUP_IDS))
                {
                    let own = verdict(owner);
                    assert_eq!((own.kind, own.reason), (VerdictKind::Allow, Reason::Owner), "pod {owner} on {port}");
                }
            } else {
                assert_eq!(of_stranger.kind, VerdictKind::Allow, "nobody has {port}");
            }
            self.figures.add("verdicts", 2);
        }
        let Some(agent) = self.agent.as_ref() else { return };
        let in_force = agent.rig.index.claims().filter(|claim| claim.stand == ClaimStatus::InForce);
        let in_force: BTreeMap<u16, String> = in_force
            .map(|claim| (claim.port, agent.rig.index.name(claim.owner).expect("an owner").uid.clone()))
            .collect();
        assert_eq!(in_force, owners.into_iter().map(|(port, number)| (port, uid(number))).collect());
    }

    /// When the agent has all updates, what is in force agrees with what is so.
    fn check_in_step(&mut self) {
        let Some(agent) = self.agent.as_ref().filter(|_| self.cluster.is_watch_in_step()) else { return };
        assert!(agent.rig.index.is_synced(), "a watch begins with a list");
        let there: BTreeMap<String, (u32, u16)> = self
            .cluster
            .objects
            .values()
            .map(|Object { number, port, pod }| (pod.name.clone(), (*number, *port)))
            .collect();
        assert_eq!(self.model.pods(), there);
        let owners = self.model.owners();
        for (number, port) in there.values() {
            let owner = owners.get(port);
            let is_over = self.cluster.ended.contains(number);
            assert!(is_over || owner.is_some(), "pod {number} runs, and nobody has {port}");
        }
        for (port, owner) in owners {
            assert!(there.values().any(|pod| *pod == (owner, port)), "pod {owner} has {port} and does not want it");
        }
        self.figures.add("checks_in_step", 1);
    }

    /// Nothing fails any more: everything is in step again. Then all pods go, and nothing is left of the day.
    fn end(&mut self) {
        self.cluster.quiet = true;
        self.cluster.outage = None;
        self.cluster.throttled_until = 0;
        for _ in 0..RECOVERY {
            self.step();
        }
        assert!(self.cluster.is_watch_in_step(), "the watch recovers");
        assert_eq!(self.server.tainted_at, None, "the taint is gone");
        let agent = self.agent.as_mut().expect("an agent");
        assert_eq!(self.server.ledger.map(|(_, content)| content), Some(agent.content), "the ledger is in step");
        self.cluster.delete_all();
        for _ in 0..RECOVERY {
            self.step();
        }
        let agent = self.agent.as_mut().expect("an agent");
        let now = agent.rig.now();
        assert_eq!(agent.events.poll_call(now), NextCall::Nothing, "every Event is published");
        let Maps { owners, records, uids, cgroups, ports, exact, .. } = &agent.rig.maps;
        assert_eq!((owners.len(), records.len()), (1, 1), "only the node is left");
        assert!(ports.is_empty() && exact.is_empty() && uids.is_empty());
        assert_eq!(cgroups.len(), 1, "that of the stranger");
    }
}

fn seed() -> u64 {
    env::var("PORT_ENFORCER_TEST_SEED")
        .map_or(20_260, |seed| seed.parse().expect("PORT_ENFORCER_TEST_SEED is a number"))
}

#[test]
fn a_day_of_api_trouble_takes_nothing_from_owners() {
    let full = env::var("PORT_ENFORCER_TEST_FULL").is_ok_and(|full| full == "1");
    let hours: u64 = if full { 24 } else { 2 };
    let seed = seed();
    println!("seed {seed}: set PORT_ENFORCER_TEST_SEED to repeat this run");
    let mut simulation = Simulation::new(seed);
    simulation.figures.add("hours", hours);
    for _ in 0..hours * 3600 {
        simulation.step();
    }
    simulation.end();
    simulation.figures.print(seed);
}
