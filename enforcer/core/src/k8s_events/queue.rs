//! What people hear of through the cluster: reports and notices in, calls to the API out.
//!
//! A tenant must not be able to flood the API server or another pod's Events, and a node with a thousand conflicts must
//! still tell each of them. So what is told again and again becomes a series: the first time at once, later
//! ones counted and told less and less often. Of a pod that is in the way of many, or that many are in the way of, one
//! Event tells them all: never one for each pair. On top of that come a budget for each object and one for the agent
//! ([`BURST`], [`REFILL`], [`PACE`]), and everything that is kept is bounded.
//!
//! No connection in here: whoever has one asks for the [`Events::next`] call, makes it, and says with [`Events::done`]
//! how it ended.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap},
    hash::{BuildHasher as _, Hash, RandomState},
    time::Duration,
};

use enforcer_ebpf::wire::{Reason as Cause, VerdictKind};

use crate::{
    index::{Index, Notice},
    k8s_events::{
        note,
        series::{Occurrence, Series},
    },
    model::{
        actor::{Actor, Audience},
        name::Name,
        text::escape,
        time::Now,
    },
    reports::{messages::notice_sentence, report::Report},
    sockets::LiveConflict,
};

/// Calls about one object that may be made in a row.
pub const BURST: u32 = 25;
/// How long it takes until one more call about an object may be made.
pub const REFILL: Duration = Duration::from_mins(5);
/// Time between two calls: five a second at most.
pub const PACE: Duration = Duration::from_millis(200);
/// How long an offender's name is waited for.
pub const NAME_WAIT: Duration = Duration::from_mins(1);

/// Most series that are kept.
const MAX_SERIES: usize = 8192;
/// Most series about one object that are kept: what it may tell before its budget is spent.
const MAX_SERIES_OF_OBJECT: u32 = BURST;
/// A series of which nothing was seen for so long is over, as the API server has forgotten its Event by then.
const SERIES_TTL: Duration = Duration::from_hours(1);
/// How often what is over is forgotten, and how often, at most, room is made when there is none.
const PRUNE_EVERY: Duration = Duration::from_mins(10);
const PRUNE_AT_MOST: Duration = Duration::from_secs(1);
/// Most pods that wait for their name, and most reports of one that are kept meanwhile.
const MAX_WAITING: usize = 256;
const MAX_WAITING_REPORTS: usize = 8;

/// What an Event is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EventObject {
    /// A pod.
    Pod(Name),
    /// The node.
    Node(String),
}

impl EventObject {
    /// Namespace that its Events are in: the node has none, and its Events are in `default`.
    #[must_use]
    pub fn event_namespace(&self) -> &str {
        match self {
            Self::Pod(name) => &name.namespace,
            Self::Node(_) => "default",
        }
    }

    /// Name of the object.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Pod(name) => &name.name,
            Self::Node(name) => name,
        }
    }

    /// The UID by which `kubectl describe` looks for the object's Events: of a mirror pod the one in its annotation, of the
    /// node its name, as the kubelet does it.
    #[must_use]
    pub fn uid(&self) -> &str {
        match self {
            Self::Pod(name) => name.mirror.as_ref().unwrap_or(&name.uid),
            Self::Node(name) => name,
        }
    }
}

/// Why an Event is told. A closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventReason {
    /// A bind was denied.
    PortBindDenied,
    /// A bind would be denied in enforce mode.
    PortBindAudited,
    /// A bind fails because another one holds the port.
    PortInUse,
    /// A claim lost to another one.
    PortClaimConflict,
    /// A claim counts for nothing.
    PortClaimInvalid,
    /// A pod is not who it says.
    PortIdentityRejected,
    /// A claim that had lost is in force.
    PortClaimGranted,
}

impl EventReason {
    /// The word in the Event.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PortBindDenied => "PortBindDenied",
            Self::PortBindAudited => "PortBindAudited",
            Self::PortInUse => "PortInUse",
            Self::PortClaimConflict => "PortClaimConflict",
            Self::PortClaimInvalid => "PortClaimInvalid",
            Self::PortIdentityRejected => "PortIdentityRejected",
            Self::PortClaimGranted => "PortClaimGranted",
        }
    }

    /// What was done when it happened: the Event's `action`.
    #[must_use]
    pub const fn action(self) -> &'static str {
        match self {
            Self::PortBindDenied | Self::PortBindAudited | Self::PortInUse => "Bind",
            _ => "Claim",
        }
    }

    /// Whether it is good news: the Event's `type` is `Normal` then, else `Warning`.
    #[must_use]
    pub const fn is_normal(self) -> bool {
        matches!(self, Self::PortClaimGranted)
    }
}

/// An Event to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its own name, in [`Object::event_namespace`] of what it is about.
    pub name: String,
    /// What it is about.
    pub regarding: EventObject,
    /// The other one, where there is just one.
    pub related: Option<EventObject>,
    /// Why.
    pub reason: EventReason,
    /// The sentence: at most [`MAX_NOTE`] bytes, safe to show.
    pub note: String,
    /// When it happened, in microseconds since 1970.
    pub time: i64,
}

/// A call to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Create an Event.
    Create(Box<Event>),
    /// It happened again: set the Event's `series`.
    Count {
        /// The Event's namespace.
        namespace: String,
        /// The Event's name.
        name: String,
        /// How often it happened in all, at least 2.
        count: i32,
        /// When it happened last, in microseconds since 1970.
        last: i64,
    },
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// Well.
    Done,
    /// The Event, which was to be edited, is not there any more.
    NotFound,
    /// An Event of that name is there already.
    NameTaken,
    /// The server will never take it: the namespace goes, or the Event is not valid.
    Refused,
    /// It may go well at another time.
    Failed,
}

/// What is next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextCall {
    /// A call. [`Events::done`] must follow.
    Call(Call),
    /// Nothing before this moment on the monotonic clock.
    Wait(Duration),
    /// Nothing until something happens.
    Nothing,
}

/// Why no Event tells of something. A closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// There was no room for more.
    Full,
    /// The API server will never take it.
    Refused,
}

impl DropReason {
    /// Every cause.
    pub const ALL: [Self; 2] = [Self::Full, Self::Refused];

    /// The word in the metric.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Refused => "refused",
        }
    }
}

/// Which series something belongs to: what it is about, why, and a hash of what else makes it another one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct SeriesKey {
    pub(super) object: EventObject,
    pub(super) reason: EventReason,
    pub(super) detail: u64,
}

/// The detail of a series that gathers everything about an object.
pub(super) const GATHERED: u64 = 0;

/// The budget of an object.
#[derive(Clone, Copy, Debug, Default)]
struct Budget {
    /// When the burst will be whole again.
    whole_at: Duration,
    series: u32,
}

impl Budget {
    /// When the next call may be made.
    fn next(&self) -> Duration {
        self.whole_at.saturating_sub(REFILL * (BURST - 1))
    }

    fn spend(&mut self, now: Duration) {
        self.whole_at = self.whole_at.max(now) + REFILL;
    }

    fn refund(&mut self) {
        self.whole_at = self.whole_at.saturating_sub(REFILL);
    }
}

/// Reports of a pod whose name is not known yet.
#[derive(Debug)]
struct Waiting {
    until: Duration,
    reports: Vec<(Report, i64)>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct EventScheduler {
    node: String,
    series: HashMap<SeriesKey, Series>,
    /// Series that have something to tell, by the time from which on they may.
    due: BTreeSet<(Duration, u64)>,
    keys: HashMap<u64, SeriesKey>,
    budgets: HashMap<EventObject, Budget>,
    waiting: HashMap<u64, Waiting>,
    /// The series whose call is being made, and the name that its Event gets if it is a new one.
    calling: Option<(SeriesKey, Option<String>)>,
    next_call: Duration,
    last_number: u64,
    last_prune: Option<Duration>,
    lost: [u64; DropReason::ALL.len()],
    hasher: RandomState,
}

impl EventScheduler {
    /// For the node of this name.
    #[must_use]
    pub fn new(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            series: HashMap::new(),
            due: BTreeSet::new(),
            keys: HashMap::new(),
            budgets: HashMap::new(),
            waiting: HashMap::new(),
            calling: None,
            next_call: Duration::ZERO,
            last_number: 0,
            last_prune: None,
            lost: [0; DropReason::ALL.len()],
            hasher: RandomState::new(),
        }
    }

    /// How many things happened that no Event will tell of, for this cause.
    #[must_use]
    pub fn dropped(&self, why: DropReason) -> u64 {
        self.lost[why as usize]
    }

    fn drop_event(&mut self, why: DropReason) {
        self.lost[why as usize] += 1;
    }

    /// An attempt that was judged. Of one whose caller has no name yet, the Events wait for it: see [`Self::look_again`].
    pub fn report(&mut self, report: &Report, now: Now) {
        let attempt = &report.attempt;
        if !report.is_conflict() {
            return;
        }
        if let (Actor::UnknownPod { .. }, Some(cgroup)) = (&report.caller, attempt.pod_cgroup) {
            self.wait_for_name(cgroup, report, now);
        } else {
            self.record_report(report, now.wall, now);
        }
    }

    fn wait_for_name(&mut self, cgroup: u64, report: &Report, now: Now) {
        if self.waiting.len() >= MAX_WAITING && !self.waiting.contains_key(&cgroup) {
            self.record_report(report, now.wall, now);
            return;
        }
        let waiting = self
            .waiting
            .entry(cgroup)
            .or_insert_with(|| Waiting { until: now.boottime + NAME_WAIT, reports: Vec::new() });
        if waiting.reports.len() < MAX_WAITING_REPORTS {
            waiting.reports.push((report.clone(), now.wall));
        } else {
            self.drop_event(DropReason::Full);
        }
    }

    /// Whether anybody waits for a name.
    #[must_use]
    pub fn waits_for_names(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// More may be known now, or the wait was long enough.
    pub fn retry_unnamed(&mut self, index: &Index, now: Now) {
        let over = |cgroup: &u64, waiting: &mut Waiting| {
            index.name_by_cgroup(*cgroup).is_some() || waiting.until <= now.boottime
        };
        let ready: Vec<(u64, Waiting)> = self.waiting.extract_if(over).collect();
        for (cgroup, waiting) in ready {
            for (mut report, time) in waiting.reports {
                if let Some(name) = index.name_by_cgroup(cgroup) {
                    report.caller = Actor::Known(name.clone());
                    report.container = index.container(report.attempt.cgroup).map(|name| escape(&name));
                }
                self.record_report(&report, time, now);
            }
        }
    }

    fn record_report(&mut self, report: &Report, time: i64, now: Now) {
        let attempt = &report.attempt;
        let reason = match (attempt.verdict, attempt.reason) {
            (_, Cause::Held) => EventReason::PortInUse,
            (VerdictKind::Deny, _) => EventReason::PortBindDenied,
            _ => EventReason::PortBindAudited,
        };
        let offender = self.object_of(&report.caller);
        // Whose the port is, or who has it.
        let owner = match &report.holder {
            Some(holder) => self.object_of(&holder.who),
            None => report.owner.as_ref().map(|name| self.object(name)),
        };
        let target = (attempt.address, attempt.port, attempt.protocol as u8);
        let node = self.node.clone();
        if let Some(offender) = &offender {
            let detail = self.detail(&(target, &owner, attempt.reason as u32));
            let sight = Occurrence {
                what: detail,
                line: || report.sentence(&node, Audience::Tenants),
                related: owner.clone(),
                time,
            };
            self.record(SeriesKey { object: offender.clone(), reason, detail }, sight, now);
        }
        if let Some(owner) = owner {
            let what = self.detail(&(&report.caller, target));
            let line = || format!("{} ({})", report.caller, report.target());
            let sight = Occurrence { what, line, related: offender, time };
            self.record(SeriesKey { object: owner, reason, detail: GATHERED }, sight, now);
        }
    }

    /// A conflict that exists already: each side hears of the other one.
    pub fn live_conflict(&mut self, existing: &LiveConflict, now: Now) {
        let sentence = existing.sentence(&self.node, Audience::Tenants);
        let detail = self.detail(&sentence);
        let [one, other] = existing.sides().map(|who| self.object_of(who));
        for (object, related) in [(&one, &other), (&other, &one)] {
            if let Some(object) = object {
                let key = SeriesKey { object: object.clone(), reason: EventReason::PortInUse, detail };
                let line = || sentence.clone();
                self.record(key, Occurrence { what: detail, line, related: related.clone(), time: now.wall }, now);
            }
        }
    }

    /// Something that the index found worth telling.
    pub fn notice(&mut self, notice: &Notice, now: Now) {
        let sentence = notice_sentence(notice, &self.node);
        let (reason, pod, other) = match notice {
            Notice::Problem { pod, .. } | Notice::MoreProblems { pod, .. } | Notice::QuotaExceeded { pod, .. } => {
                (EventReason::PortClaimInvalid, pod, None)
            }
            Notice::MirrorRejected { pod, .. } => (EventReason::PortIdentityRejected, pod, None),
            Notice::SameUid { pod, first } => (EventReason::PortIdentityRejected, pod, Some(first)),
            Notice::Conflict { loser, winner, .. } => (EventReason::PortClaimConflict, loser, Some(winner)),
            Notice::Granted { pod, .. } => (EventReason::PortClaimGranted, pod, None),
            // No pod's business, or that of one that is gone; whoever labels namespaces finds it in the log.
            Notice::ModeInvalid { .. } | Notice::HandoverQuotaExceeded { .. } => return,
        };
        let (object, related) = (self.object(pod), other.map(|name| self.object(name)));
        let detail = self.detail(&sentence);
        let sight = Occurrence { what: detail, line: || sentence, related, time: now.wall };
        self.record(SeriesKey { object: object.clone(), reason, detail }, sight, now);
        if let Notice::Conflict { loser, winner, ports, .. } = notice {
            let line = note::loser(loser, ports);
            let what = self.detail(&line);
            let sight = Occurrence { what, line: || line, related: Some(object), time: now.wall };
            let key = SeriesKey { object: self.object(winner), reason, detail: GATHERED };
            self.record(key, sight, now);
        }
    }

    /// What Events about somebody are about.
    fn object_of(&self, who: &Actor) -> Option<EventObject> {
        match who {
            Actor::Known(name) => Some(self.object(name)),
            Actor::Host => Some(EventObject::Node(self.node.clone())),
            Actor::UnknownPod { .. } | Actor::Unplaced => None,
        }
    }

    fn object(&self, name: &Name) -> EventObject {
        if name.is_node() { EventObject::Node(self.node.clone()) } else { EventObject::Pod(name.clone()) }
    }

    fn detail(&self, value: &impl Hash) -> u64 {
        self.hasher.hash_one(value).max(GATHERED + 1)
    }

    fn record(&mut self, key: SeriesKey, sight: Occurrence<impl FnOnce() -> String>, now: Now) {
        self.prune_after(PRUNE_EVERY, now.boottime);
        if !self.series.contains_key(&key) && !self.evict_idle(&key.object, now) {
            self.drop_event(DropReason::Full);
            return;
        }
        let calling = self.calling.as_ref().is_some_and(|(calling, _)| *calling == key);
        let series = self.series.entry(key).or_insert_with_key(|key| {
            self.last_number += 1;
            self.keys.insert(self.last_number, key.clone());
            self.budgets.entry(key.object.clone()).or_default().series += 1;
            Series::new(self.last_number)
        });
        series.record(sight, now.boottime);
        if !calling && let Some(due) = series.become_due(now.boottime) {
            self.due.insert((due, series.number));
        }
    }

    /// Whether one more series about an object may be kept.
    fn evict_idle(&mut self, object: &EventObject, now: Now) -> bool {
        let is_full = |events: &Self| {
            let of_object = events.budgets.get(object).map_or(0, |budget| budget.series);
            of_object >= MAX_SERIES_OF_OBJECT || events.series.len() >= MAX_SERIES
        };
        if !is_full(self) {
            return true;
        }
        self.prune_after(PRUNE_AT_MOST, now.boottime);
        !is_full(self)
    }

    /// Forgets what is over, if that was not done for so long.
    fn prune_after(&mut self, pause: Duration, now: Duration) {
        if self.last_prune.is_some_and(|last| now.saturating_sub(last) < pause) {
            return;
        }
        self.last_prune = Some(now);
        let calling = self.calling.as_ref().map(|(key, _)| key.clone());
        let over: Vec<SeriesKey> = self
            .series
            .iter()
            .filter(|(key, series)| series.is_over(now, SERIES_TTL) && calling.as_ref() != Some(key))
            .map(|(key, _)| key.clone())
            .collect();
        for key in over {
            self.forget_object(&key);
        }
        self.budgets.retain(|_, budget| budget.series > 0 || budget.whole_at > now);
    }

    fn forget_object(&mut self, key: &SeriesKey) {
        let Some(series) = self.series.remove(key) else {
            return;
        };
        self.keys.remove(&series.number);
        if let Some(due) = series.due() {
            self.due.remove(&(due, series.number));
        }
        if let Some(budget) = self.budgets.get_mut(&key.object) {
            budget.series -= 1;
        }
    }

    /// The next call, one at a time.
    pub fn poll_call(&mut self, now: Now) -> NextCall {
        let monotonic = now.boottime;
        if self.calling.is_some() {
            return NextCall::Nothing;
        }
        loop {
            let Some(&(due, number)) = self.due.first() else {
                return NextCall::Nothing;
            };
            let at = due.max(self.next_call);
            if at > monotonic {
                return NextCall::Wait(at);
            }
            self.due.pop_first();
            let Some(key) = self.keys.get(&number).cloned() else {
                continue;
            };
            let (Some(series), Some(budget)) = (self.series.get_mut(&key), self.budgets.get_mut(&key.object)) else {
                continue;
            };
            if budget.next() > monotonic {
                // Its budget is spent. What happens meanwhile is gathered.
                let due = series.put_off(budget.next());
                self.due.insert((due, number));
                continue;
            }
            budget.spend(monotonic);
            self.next_call = monotonic + PACE;
            let call = series.call(&key, &self.node, now.wall);
            let name = match &call {
                Call::Create(event) => Some(event.name.clone()),
                Call::Count { .. } => None,
            };
            self.calling = Some((key, name));
            return NextCall::Call(call);
        }
    }

    /// How the last call ended.
    pub fn handle_outcome(&mut self, outcome: CallOutcome, now: Now) {
        let Some((key, name)) = self.calling.take() else {
            return;
        };
        if outcome == CallOutcome::Refused {
            self.forget_object(&key);
            self.drop_event(DropReason::Refused);
            return;
        }
        let Some(series) = self.series.get_mut(&key) else {
            return;
        };
        if outcome != CallOutcome::Done
            && let Some(budget) = self.budgets.get_mut(&key.object)
        {
            // Else nothing would be left of it when the server is back.
            budget.refund();
        }
        series.on_published(outcome, name, key.detail == GATHERED, now.boottime);
        if let Some(due) = series.become_due(now.boottime) {
            self.due.insert((due, series.number));
        }
    }
}
