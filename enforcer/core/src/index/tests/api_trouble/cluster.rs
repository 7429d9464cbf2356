//! What goes on outside of the agent: pods that come and go, their cgroups, an API server with troubles, and the agent's
//! watch of the pods, as the client makes it.

use std::mem;

use super::{super::*, Dice, Figures};

/// Places for pods. A pod has the name of its place, so that names come back with other pods.
const PLACES: u64 = 40;
/// Ports for all of them: most are wanted by several.
pub(super) const PORTS: u16 = 25;
pub(super) const FIRST_PORT: u16 = 20_000;
/// Seconds between two tries of a watch: the client's backoff.
const FIRST_PAUSE: u64 = 1;
const MAX_PAUSE: u64 = 30;
/// Changes that the server remembers.
const HISTORY: usize = 15;

/// An object of the API.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Object {
    pub(super) number: u32,
    pub(super) port: u16,
    pub(super) pod: Pod,
}

/// One version of an object; `None` if it was deleted.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) name: String,
    pub(super) object: Option<Object>,
}

/// Who cannot reach the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outage {
    /// Nobody: the server is down, and no object changes.
    Server,
    /// The node: others change and delete its pods, whose processes go on.
    Node,
    /// The agent alone: pods come and go.
    Agent,
}

/// A running pod as its kubelet has it.
#[derive(Clone, Copy, Debug)]
struct Life {
    /// When its cgroup is made, and when it goes.
    begins: u64,
    ends: Option<u64>,
}

/// State of the watch.
#[derive(Clone, Debug)]
enum Watch {
    /// Tries again at this second.
    Broken { at: u64, resume: Option<usize> },
    /// A list is on its way.
    Listing { until: u64 },
    /// It has all changes before this one.
    Open { next: usize },
}

/// What the watch passes to the agent.
pub(super) enum Update {
    List(Vec<Object>),
    Change(Box<Change>),
}

pub(super) struct Cluster {
    pub(super) dice: Dice,
    pub(super) second: u64,
    /// Every change; the place of a change is its version.
    log: Vec<Change>,
    pub(super) objects: BTreeMap<String, Object>,
    lives: BTreeMap<u32, Life>,
    /// Cgroups that are there.
    pub(super) cgroups: BTreeSet<u32>,
    /// Pods whose processes have ended, while they may still be in the API.
    pub(super) ended: BTreeSet<u32>,
    last_number: u32,
    pub(super) outage: Option<(Outage, u64)>,
    /// The server asks for fewer calls until this second.
    pub(super) throttled_until: u64,
    watch: Watch,
    failures: u32,
    /// Nothing changes and nothing fails any more.
    pub(super) quiet: bool,
}

impl Cluster {
    pub(super) fn new(seed: u64, second: u64) -> Self {
        Self {
            dice: Dice::new(seed),
            second,
            log: Vec::new(),
            objects: BTreeMap::new(),
            lives: BTreeMap::new(),
            cgroups: BTreeSet::new(),
            ended: BTreeSet::new(),
            last_number: 0,
            outage: None,
            throttled_until: 0,
            watch: Watch::Broken { at: 0, resume: None },
            failures: 0,
            quiet: false,
        }
    }

    fn record(&mut self, name: &str, object: Option<Object>) {
        match &object {
            Some(object) => self.objects.insert(name.to_owned(), object.clone()),
            None => self.objects.remove(name),
        };
        self.log.push(Change { name: name.to_owned(), object });
    }

    pub(super) fn is_cut_off(&self) -> bool {
        self.outage.is_some()
    }

    /// Whether all calls of the agent succeed.
    pub(super) fn is_well(&self) -> bool {
        self.outage.is_none() && self.throttled_until <= self.second
    }

    /// Whether the agent has all changes.
    pub(super) fn is_watch_in_step(&self) -> bool {
        matches!(self.watch, Watch::Open { next } if next == self.log.len())
    }

    /// One second passes. Returns the cgroups that were made and removed.
    pub(super) fn pass(&mut self, figures: &mut Figures) -> (Vec<u32>, Vec<u32>) {
        self.second += 1;
        if !self.quiet {
            self.trouble(figures);
            self.users(figures);
        }
        self.kubelet()
    }

    /// Deletes every pod, whose processes are killed.
    pub(super) fn delete_all(&mut self) {
        let names: Vec<String> = self.objects.keys().cloned().collect();
        for name in names {
            self.record(&name, None);
        }
        for life in self.lives.values_mut() {
            life.ends = Some(self.second.max(life.begins));
        }
    }

    fn trouble(&mut self, figures: &mut Figures) {
        if self.outage.is_some_and(|(_, until)| until <= self.second) {
            self.outage = None;
        }
        if self.outage.is_none() && self.dice.once_in(500) {
            let who = [Outage::Server, Outage::Node, Outage::Agent][self.dice.place(3)];
            // Most are short.
            let longest = [5, 30, 120, 900][self.dice.place(4)];
            let length = 1 + self.dice.below(longest);
            self.outage = Some((who, self.second + length));
            figures.add("outages", 1);
            figures.add("outage_seconds", length);
        }
        if self.dice.once_in(900) {
            self.throttled_until = self.second + 10 + self.dice.below(300);
            figures.add("throttles", 1);
        }
        let is_open = matches!(self.watch, Watch::Open { .. });
        if is_open && (self.outage.is_some() || self.dice.once_in(120)) {
            self.break_watch(figures);
        }
    }

    fn break_watch(&mut self, figures: &mut Figures) {
        figures.add("watches_lost", 1);
        let Watch::Open { next } = self.watch else { return };
        // Now and then from before the last updates, which come again.
        let again = if self.dice.once_in(3) { self.dice.place(4) } else { 0 };
        self.watch = Watch::Broken { at: self.second + self.pause(), resume: Some(next.saturating_sub(again)) };
    }

    /// The pause before the next try. It grows with each that fails.
    fn pause(&mut self) -> u64 {
        let pause = (FIRST_PAUSE << self.failures.min(6)).min(MAX_PAUSE);
        self.failures += 1;
        pause + self.dice.below(2)
    }

    fn users(&mut self, figures: &mut Figures) {
        if self.outage.is_some_and(|(who, _)| who == Outage::Server) {
            return;
        }
        let name = format!("web-{}", self.dice.below(PLACES));
        let port = FIRST_PORT + u16::try_from(self.dice.below(PORTS.into())).expect("a port");
        match self.objects.get(&name).cloned() {
            None if self.dice.once_in(5) => {
                self.last_number += 1;
                let number = self.last_number;
                let mut pod = pod(number, &name, &port.to_string());
                // No two arrive in the same moment.
                pod.arrival = i64::try_from(self.second).expect("small") * 1_000_000 + i64::from(number % 1_000_000);
                self.record(&name, Some(Object { number, port, pod }));
                let begins = self.second + 1 + self.dice.below(5);
                self.lives.insert(number, Life { begins, ends: None });
                figures.add("pods", 1);
            }
            Some(object) if object.pod.deletion.is_some() => {}
            Some(mut object) if self.dice.once_in(40) => {
                object.pod.deletion = Some(jiff::Timestamp::UNIX_EPOCH);
                let ends = self.second + 1 + self.dice.below(10);
                if let Some(life) = self.lives.get_mut(&object.number) {
                    life.ends = Some(ends.max(life.begins));
                }
                self.record(&name, Some(object));
            }
            // By force: whatever runs goes on, and is killed later.
            Some(object) if self.dice.once_in(300) => {
                let ends = self.second + self.dice.below(60);
                if let Some(life) = self.lives.get_mut(&object.number) {
                    life.ends = Some(ends.max(life.begins));
                }
                self.record(&name, None);
                figures.add("forced_deletions", 1);
            }
            Some(object) if self.dice.once_in(60) => {
                let pod = Pod { ports_annotation: Some(port.to_string()), ..object.pod };
                self.record(&name, Some(Object { port, pod, ..object }));
                figures.add("edits", 1);
            }
            _ => {}
        }
    }

    /// Makes and removes cgroups, whatever the API server does, and deletes objects if it can.
    fn kubelet(&mut self) -> (Vec<u32>, Vec<u32>) {
        let (mut made, mut removed) = (Vec::new(), Vec::new());
        for (&number, life) in &self.lives {
            if life.begins <= self.second && !self.cgroups.contains(&number) && !self.ended.contains(&number) {
                made.push(number);
            }
            if life.ends.is_some_and(|ends| ends <= self.second) && !self.ended.contains(&number) {
                removed.push(number);
            }
        }
        self.cgroups.extend(&made);
        for number in &removed {
            self.cgroups.remove(number);
            self.ended.insert(*number);
        }
        if !self.outage.is_some_and(|(who, _)| who != Outage::Agent) {
            let over = |object: &&Object| object.pod.deletion.is_some() && self.ended.contains(&object.number);
            let over: Vec<String> = self.objects.values().filter(over).map(|object| object.pod.name.clone()).collect();
            for name in over {
                self.record(&name, None);
            }
        }
        let there: BTreeSet<u32> = self.objects.values().map(|object| object.number).collect();
        self.lives.retain(|number, _| there.contains(number) || !self.ended.contains(number));
        self.ended.retain(|number| there.contains(number));
        (made, removed)
    }

    /// The agent starts, or has to: its watch begins with a list.
    pub(super) fn restart_watch(&mut self) {
        self.failures = 0;
        self.watch = Watch::Broken { at: self.second, resume: None };
    }

    /// What the watch yields in this second.
    pub(super) fn poll_watch(&mut self, figures: &mut Figures) -> Vec<Update> {
        match self.watch.clone() {
            Watch::Broken { at, resume } if at <= self.second => {
                if !self.is_well() {
                    self.watch = Watch::Broken { at: self.second + self.pause(), resume };
                } else if let Some(next) = resume.filter(|next| next + HISTORY >= self.log.len()) {
                    self.watch = Watch::Open { next };
                } else {
                    if resume.is_some() {
                        figures.add("gone", 1);
                    }
                    self.watch = Watch::Listing { until: self.second + self.dice.below(3) };
                }
                Vec::new()
            }
            Watch::Listing { .. } if !self.is_well() || (!self.quiet && self.dice.once_in(5)) => {
                // What came of it so far counts for nothing.
                figures.add("partial_lists", 1);
                self.watch = Watch::Broken { at: self.second + self.pause(), resume: None };
                Vec::new()
            }
            Watch::Listing { until } if until <= self.second => {
                figures.add("lists", 1);
                self.failures = 0;
                let stale =
                    if !self.quiet && self.dice.once_in(4) { self.dice.place(20).min(self.log.len()) } else { 0 };
                if stale > 0 {
                    figures.add("stale_lists", 1);
                }
                let version = self.log.len() - stale;
                self.watch = Watch::Open { next: version };
                let mut objects = BTreeMap::new();
                for Change { name, object } in &self.log[..version] {
                    match object {
                        Some(object) => objects.insert(name.clone(), object.clone()),
                        None => objects.remove(name),
                    };
                }
                vec![Update::List(objects.into_values().collect())]
            }
            Watch::Open { next } => {
                let most = if self.quiet { usize::MAX } else { self.dice.place(8) };
                let mut batch: Vec<Change> = self.log[next..].iter().take(most).cloned().collect();
                self.watch = Watch::Open { next: next + batch.len() };
                figures.add("updates", batch.len() as u64);
                self.reorder(&mut batch, figures);
                batch.into_iter().map(|change| Update::Change(Box::new(change))).collect()
            }
            Watch::Broken { .. } | Watch::Listing { .. } => Vec::new(),
        }
    }

    /// Changes the order of updates about different objects.
    fn reorder(&mut self, batch: &mut Vec<Change>, figures: &mut Figures) {
        let mut left = mem::take(batch);
        while !left.is_empty() {
            let first_of_its_object =
                |place: &usize| left[..*place].iter().all(|other| other.name != left[*place].name);
            let places: Vec<usize> = (0..left.len()).filter(first_of_its_object).collect();
            let place = places[self.dice.place(places.len())];
            figures.add("reordered_updates", u64::from(place > 0));
            batch.push(left.remove(place));
        }
    }
}
