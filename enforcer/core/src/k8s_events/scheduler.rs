//! Reports and notices in, calls to the API out.
//!
//! A tenant must not be able to flood the API server or another pod's Events, and a node with a thousand conflicts must
//! still publish each of them. So repeated occurrences become a series: the first one is published at once, later ones
//! are counted, and the count is published less and less often. A pod that is in the way of many, or that many are in
//! the way of, gets one Event that names them, never one for each pair. On top of that there are a budget for each
//! object and one for the agent ([`OBJECT_LIMIT`], [`CALL_LIMIT`]), and everything that is kept is bounded.
//!
//! There is no connection in here: whoever has one polls for a call ([`EventScheduler::poll_call`]), makes it, and passes
//! its outcome to [`EventScheduler::handle_outcome`].

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap},
    hash::{BuildHasher as _, Hash, RandomState},
    time::Duration,
};

use crate::{
    index::{Index, Notice},
    k8s_events::{
        CALL_LIMIT, Call, CallOutcome, DropReason, EventObject, EventReason, NextCall,
        budget::ObjectBudget,
        note,
        series::{GATHERED, MAX_SERIES, Occurrence, SERIES_TTL, Series, SeriesKey},
        unnamed::{Held, UnnamedReports},
    },
    model::{
        actor::{Actor, Audience},
        name::Name,
        now::Now,
        token_bucket::TokenBucket,
    },
    reports::{messages::notice_sentence, report::Report},
    sockets::{AnsweredByOther, LiveConflict},
};

/// Interval at which series that are over are removed.
const PRUNE_INTERVAL: Duration = Duration::from_mins(10);
/// Shortest such interval, when there is no room for a new one.
const MIN_PRUNE_INTERVAL: Duration = Duration::from_secs(1);

/// Series of all objects, and the order of their calls.
#[derive(Debug)]
pub struct EventScheduler {
    node: String,
    series: HashMap<SeriesKey, Series>,
    /// Series with pending occurrences, by the time from which on their calls are due.
    due: BTreeSet<(Duration, u64)>,
    keys: HashMap<u64, SeriesKey>,
    budgets: HashMap<EventObject, ObjectBudget>,
    unnamed: UnnamedReports,
    /// The series whose call is in flight, and the name of its Event if that is a new one.
    in_flight: Option<(SeriesKey, Option<String>)>,
    calls: TokenBucket,
    last_number: u64,
    last_prune: Option<Duration>,
    dropped: [u64; DropReason::ALL.len()],
    hasher: RandomState,
}

impl EventScheduler {
    /// Begins without any series, for the node of this name.
    #[must_use]
    pub fn new(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            series: HashMap::new(),
            due: BTreeSet::new(),
            keys: HashMap::new(),
            budgets: HashMap::new(),
            unnamed: UnnamedReports::default(),
            in_flight: None,
            calls: TokenBucket::default(),
            last_number: 0,
            last_prune: None,
            dropped: [0; DropReason::ALL.len()],
            hasher: RandomState::new(),
        }
    }

    /// Returns how many occurrences were dropped for this reason.
    #[must_use]
    pub fn dropped(&self, why: DropReason) -> u64 {
        self.dropped[why as usize]
    }

    /// Returns the number of series that are kept.
    #[cfg(test)]
    pub(crate) fn series_count(&self) -> usize {
        self.series.len()
    }

    fn drop_event(&mut self, why: DropReason) {
        self.dropped[why as usize] += 1;
    }

    /// Takes an attempt. If its caller has no name yet, the Events wait for it: see [`Self::retry_unnamed`].
    pub fn report(&mut self, report: &Report, now: Now) {
        if !report.is_conflict() {
            return;
        }
        let held = match (&report.caller, report.attempt.pod_cgroup) {
            (Actor::UnknownPod { .. }, Some(cgroup)) => self.unnamed.hold(cgroup, report, now),
            _ => Held::NoRoom,
        };
        match held {
            Held::Waiting => {}
            Held::Dropped => self.drop_event(DropReason::Full),
            Held::NoRoom => self.record_report(report, now.wall, now),
        }
    }

    /// Checks whether reports wait for the names of their callers.
    #[must_use]
    pub fn waits_for_names(&self) -> bool {
        !self.unnamed.is_empty()
    }

    /// Publishes reports whose callers have names now, and those that have waited for [`NAME_WAIT`](super::NAME_WAIT).
    pub fn retry_unnamed(&mut self, index: &Index, now: Now) {
        for (report, time) in self.unnamed.take_ready(index, now) {
            self.record_report(&report, time, now);
        }
    }

    fn record_report(&mut self, report: &Report, time: i64, now: Now) {
        let attempt = &report.attempt;
        let Some(reason) = EventReason::of_attempt(attempt.verdict, attempt.reason) else {
            return;
        };
        let offender = self.object_of(&report.caller);
        // The holder of the port, or its owner.
        let owner = match &report.holder {
            Some(holder) => self.object_of(&holder.who),
            None => report.owner.as_ref().and_then(|name| self.object(name)),
        };
        let target = (attempt.address, attempt.port, attempt.protocol as u8);
        let node = self.node.clone();
        if let Some(offender) = &offender {
            let detail = self.detail(&(target, &owner, attempt.reason as u32));
            let occurrence = Occurrence {
                what: detail,
                line: || report.sentence(&node, Audience::Tenants),
                related: owner.clone(),
                time,
            };
            self.record(SeriesKey { object: offender.clone(), reason, detail }, occurrence, now);
        }
        if let Some(owner) = owner {
            let what = self.detail(&(&report.caller, target));
            let line = || format!("{} ({})", report.caller, report.target());
            let occurrence = Occurrence { what, line, related: offender, time };
            self.record(SeriesKey { object: owner, reason, detail: GATHERED }, occurrence, now);
        }
    }

    /// Takes a conflict between sockets that exist: each side gets an Event.
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

    /// Takes a port of a Ready pod that another one answers: the pod and the other one get an Event each.
    pub fn answered_by_other(&mut self, answered: &AnsweredByOther, now: Now) {
        let reason = EventReason::PortAnsweredByOther;
        let [pod, holder] = answered.sides().map(|who| self.object_of(who));
        let port = answered.port;
        if let Some(pod) = &pod {
            let detail = self.detail(&(port, &holder, answered.is_shared));
            let sentence = answered.sentence(&self.node, Audience::Tenants);
            let occurrence = Occurrence { what: detail, line: || sentence, related: holder.clone(), time: now.wall };
            self.record(SeriesKey { object: pod.clone(), reason, detail }, occurrence, now);
        }
        if let Some(holder) = holder {
            let what = self.detail(&(&answered.pod, port));
            let line = || format!("{} ({port})", answered.pod);
            let occurrence = Occurrence { what, line, related: pod, time: now.wall };
            self.record(SeriesKey { object: holder, reason, detail: GATHERED }, occurrence, now);
        }
    }

    /// Takes a notice of the index.
    pub fn notice(&mut self, notice: &Notice, now: Now) {
        let sentence = notice_sentence(notice, &self.node);
        let (reason, pod, other) = match notice {
            // Every node says the same of it, and whoever runs the nodes finds it in their logs.
            Notice::QuotaExceeded { pod, .. } if pod.service => return,
            Notice::Problem { pod, .. } | Notice::MoreProblems { pod, .. } | Notice::QuotaExceeded { pod, .. } => {
                (EventReason::PortClaimInvalid, pod, None)
            }
            Notice::MirrorRejected { pod, .. } => (EventReason::PortIdentityRejected, pod, None),
            Notice::SameUid { pod, first } => (EventReason::PortIdentityRejected, pod, Some(first)),
            Notice::Conflict { loser, winner, .. } => (EventReason::PortClaimConflict, loser, Some(winner)),
            Notice::Granted { pod, .. } => (EventReason::PortClaimGranted, pod, None),
            // It concerns no pod, or one that is gone; whoever labels namespaces finds it in the log.
            Notice::LabelInvalid { .. } | Notice::HandoverQuotaExceeded { .. } => return,
        };
        let (Some(object), related) = (self.object(pod), other.and_then(|name| self.object(name))) else {
            return;
        };
        let detail = self.detail(&sentence);
        let occurrence = Occurrence { what: detail, line: || sentence, related, time: now.wall };
        self.record(SeriesKey { object: object.clone(), reason, detail }, occurrence, now);
        if let Notice::Conflict { loser, winner, ports, .. } = notice {
            let line = note::loser(loser, ports);
            let what = self.detail(&line);
            let occurrence = Occurrence { what, line: || line, related: Some(object), time: now.wall };
            if let Some(winner) = self.object(winner) {
                self.record(SeriesKey { object: winner, reason, detail: GATHERED }, occurrence, now);
            }
        }
    }

    /// Returns the object of Events about an actor.
    fn object_of(&self, who: &Actor) -> Option<EventObject> {
        match who {
            Actor::Known(name) => self.object(name),
            Actor::Host | Actor::HostUnit(_) => Some(EventObject::Node(self.node.clone())),
            Actor::UnknownPod { .. } | Actor::Unplaced => None,
        }
    }

    /// Returns the object of Events about an owner; `None` for a handover reservation, whose pod is gone.
    fn object(&self, name: &Name) -> Option<EventObject> {
        if name.handover.is_some() {
            None
        } else if name.is_node() {
            Some(EventObject::Node(self.node.clone()))
        } else if name.service {
            Some(EventObject::Service(name.clone()))
        } else {
            Some(EventObject::Pod(name.clone()))
        }
    }

    fn detail(&self, value: &impl Hash) -> u64 {
        self.hasher.hash_one(value).max(GATHERED + 1)
    }

    fn record(&mut self, key: SeriesKey, occurrence: Occurrence<impl FnOnce() -> String>, now: Now) {
        self.prune_after(PRUNE_INTERVAL, now.boottime);
        if !self.series.contains_key(&key) && !self.evict_idle(&key.object, now) {
            self.drop_event(DropReason::Full);
            return;
        }
        let in_flight = self.in_flight.as_ref().is_some_and(|(in_flight, _)| *in_flight == key);
        let series = self.series.entry(key).or_insert_with_key(|key| {
            self.last_number += 1;
            self.keys.insert(self.last_number, key.clone());
            self.budgets.entry(key.object.clone()).or_default().series += 1;
            Series::new(self.last_number)
        });
        series.record(occurrence, now.boottime);
        if !in_flight && let Some(due) = series.become_due(now.boottime) {
            self.due.insert((due, series.number));
        }
    }

    /// Makes room for one more series about an object, if need be. Returns whether there is room.
    fn evict_idle(&mut self, object: &EventObject, now: Now) -> bool {
        let is_full = |events: &Self| {
            let has_room = events.budgets.get(object).is_none_or(ObjectBudget::has_room_for_series);
            !has_room || events.series.len() >= MAX_SERIES
        };
        if !is_full(self) {
            return true;
        }
        self.prune_after(MIN_PRUNE_INTERVAL, now.boottime);
        !is_full(self)
    }

    /// Removes series that are over, if that was not done for so long.
    fn prune_after(&mut self, interval: Duration, now: Duration) {
        if self.last_prune.is_some_and(|last| now.saturating_sub(last) < interval) {
            return;
        }
        self.last_prune = Some(now);
        let in_flight = self.in_flight.as_ref().map(|(key, _)| key.clone());
        let over: Vec<SeriesKey> = self
            .series
            .iter()
            .filter(|(key, series)| series.is_over(now, SERIES_TTL) && in_flight.as_ref() != Some(key))
            .map(|(key, _)| key.clone())
            .collect();
        for key in over {
            self.remove_series(&key);
        }
        self.budgets.retain(|_, budget| !budget.is_unused(now));
    }

    fn remove_series(&mut self, key: &SeriesKey) {
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

    /// Returns the next call, one at a time.
    pub fn poll_call(&mut self, now: Now) -> NextCall {
        let monotonic = now.boottime;
        if self.in_flight.is_some() {
            return NextCall::Nothing;
        }
        loop {
            let Some(&(due, number)) = self.due.first() else {
                return NextCall::Nothing;
            };
            let at = due.max(self.calls.available_at(CALL_LIMIT));
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
            if let Err(available) = budget.take_call(monotonic) {
                // Its budget is spent. Occurrences are gathered meanwhile.
                let due = series.postpone(available);
                self.due.insert((due, number));
                continue;
            }
            self.calls.take(CALL_LIMIT, monotonic);
            let call = series.call(&key, &self.node, now.wall);
            let name = match &call {
                Call::Create(event) => Some(event.name.clone()),
                Call::Count { .. } => None,
            };
            self.in_flight = Some((key, name));
            return NextCall::Call(call);
        }
    }

    /// Takes the outcome of the call in flight.
    pub fn handle_outcome(&mut self, outcome: CallOutcome, now: Now) {
        let Some((key, name)) = self.in_flight.take() else {
            return;
        };
        if outcome == CallOutcome::Refused {
            self.remove_series(&key);
            self.drop_event(DropReason::Refused);
            return;
        }
        let Some(series) = self.series.get_mut(&key) else {
            return;
        };
        if outcome != CallOutcome::Done
            && let Some(budget) = self.budgets.get_mut(&key.object)
        {
            budget.put_back_call();
        }
        series.on_published(outcome, name, key.detail == GATHERED, now.boottime);
        if let Some(due) = series.become_due(now.boottime) {
            self.due.insert((due, series.number));
        }
    }
}
