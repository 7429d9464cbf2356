//! A series: occurrences of one kind about one object, and the Event that counts them.
//!
//! An Event's note cannot be edited, only its count. So as long as the same happens, the count goes up; when somebody new
//! is to be named, an Event with a new note takes over.

use std::{collections::HashSet, time::Duration};

use crate::k8s_events::{Call, CallOutcome, Event, EventObject, EventReason, note};

/// Most series that are kept.
pub(super) const MAX_SERIES: usize = 8192;
/// A series without an occurrence for so long is over, as the API server has forgotten its Event by then.
pub(super) const SERIES_TTL: Duration = Duration::from_hours(1);
/// Time from the first call of a series to its second one; it doubles with each call, up to [`MAX_UPDATE_INTERVAL`].
const MIN_UPDATE_INTERVAL: Duration = Duration::from_secs(10);
/// Longest time that an occurrence waits for a call.
const MAX_UPDATE_INTERVAL: Duration = Duration::from_mins(5);
/// Most different occurrences that are distinguished.
const MAX_DIFFERENT: usize = 4096;

/// Key of a series: object, reason, and a hash of what else makes it another one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct SeriesKey {
    pub(super) object: EventObject,
    pub(super) reason: EventReason,
    pub(super) detail: u64,
}

/// Detail of a series that gathers everything about an object.
pub(super) const GATHERED: u64 = 0;

/// One occurrence.
#[derive(Debug)]
pub(super) struct Occurrence<L> {
    /// Hash of what makes it different from those before.
    pub(super) what: u64,
    /// Makes its line: the whole sentence, or the name, where several are gathered.
    pub(super) line: L,
    /// The other object.
    pub(super) related: Option<EventObject>,
    /// Time, in microseconds since 1970.
    pub(super) time: i64,
}

/// The Event of a series.
#[derive(Clone, Debug)]
struct PublishedEvent {
    name: String,
    /// Occurrences since that Event, its own included.
    count: i32,
    /// Count of different ones that its note counts.
    different: usize,
}

/// Occurrences about one object, and when they are due for a call.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) number: u64,
    different: HashSet<u64>,
    /// The first few different ones.
    lines: Vec<String>,
    related: Option<EventObject>,
    published: Option<PublishedEvent>,
    /// Occurrences that no Event counts yet, and those that the call in flight counts.
    pending: i32,
    in_flight: i32,
    /// Count of different ones when that call was made.
    in_flight_different: usize,
    /// Time of the first occurrence that is pending, and of the last one of all.
    first: i64,
    last: i64,
    last_seen: Duration,
    last_published: Option<Duration>,
    interval: Duration,
    due: Option<Duration>,
}

impl Series {
    pub(super) fn new(number: u64) -> Self {
        Self {
            number,
            different: HashSet::new(),
            lines: Vec::new(),
            related: None,
            published: None,
            pending: 0,
            in_flight: 0,
            in_flight_different: 0,
            first: 0,
            last: 0,
            last_seen: Duration::ZERO,
            last_published: None,
            interval: MIN_UPDATE_INTERVAL,
            due: None,
        }
    }

    pub(super) fn record(&mut self, occurrence: Occurrence<impl FnOnce() -> String>, now: Duration) {
        let Occurrence { what, line, related, time } = occurrence;
        let is_new = self.different.len() < MAX_DIFFERENT && self.different.insert(what);
        if is_new {
            self.related = if self.different.len() == 1 { related } else { None };
        }
        if (is_new && self.lines.len() < note::MAX_NAMED) || self.lines.is_empty() {
            self.lines.push(line());
        }
        if self.pending == 0 {
            self.first = time;
            if now.saturating_sub(self.last_seen) > MAX_UPDATE_INTERVAL {
                // It had stopped.
                self.interval = MIN_UPDATE_INTERVAL;
            }
        }
        self.pending = self.pending.saturating_add(1);
        self.last = self.last.max(time);
        self.last_seen = now;
    }

    /// Returns from when on a call is due, if something is pending and none was due before.
    pub(super) fn become_due(&mut self, now: Duration) -> Option<Duration> {
        if self.pending == 0 || self.due.is_some() {
            return None;
        }
        let earliest = self.last_published.filter(|_| self.published.is_some()).map(|last| last + self.interval);
        self.due = Some(earliest.unwrap_or(now).max(now));
        self.due
    }

    pub(super) fn due(&self) -> Option<Duration> {
        self.due
    }

    pub(super) fn postpone(&mut self, until: Duration) -> Duration {
        self.due = Some(until);
        until
    }

    pub(super) fn is_over(&self, now: Duration, after: Duration) -> bool {
        self.pending == 0 && now.saturating_sub(self.last_seen) >= after
    }

    /// Returns the call that publishes what is pending.
    pub(super) fn call(&mut self, key: &SeriesKey, node: &str, wall: i64) -> Call {
        self.due = None;
        self.in_flight = std::mem::take(&mut self.pending);
        self.in_flight_different = self.different.len();
        if let Some(event) = &self.published
            && event.different == self.different.len()
        {
            let namespace = key.object.event_namespace().to_owned();
            let count = event.count.saturating_add(self.in_flight).max(2);
            return Call::Count { namespace, name: event.name.clone(), count, last: self.last };
        }
        Call::Create(Box::new(Event {
            name: note::event_name(&key.object, wall, self.number),
            regarding: key.object.clone(),
            related: self.related.clone(),
            reason: key.reason,
            note: note::note(key, &self.lines, self.different.len(), node),
            time: self.first,
        }))
    }

    /// Takes the outcome of the call; `name` is that of the Event if it is a new one, and `gathered` whether the series
    /// gathers several occurrences in one note.
    pub(super) fn on_published(&mut self, outcome: CallOutcome, name: Option<String>, gathered: bool, now: Duration) {
        let in_flight = std::mem::take(&mut self.in_flight);
        match (outcome, name) {
            (CallOutcome::Done, Some(name)) => {
                // A new Event counts once; what it does not count yet is counted with what comes.
                self.published = Some(PublishedEvent { name, count: 1, different: self.in_flight_different });
                self.pending = self.pending.saturating_add(in_flight - 1);
                self.advance(gathered, now);
            }
            (CallOutcome::Done, None) => {
                if let Some(event) = &mut self.published {
                    event.count = event.count.saturating_add(in_flight);
                }
                self.advance(gathered, now);
            }
            (CallOutcome::NotFound, _) => {
                // The server has forgotten it: a new one is created at once.
                self.published = None;
                self.pending = self.pending.saturating_add(in_flight);
            }
            (CallOutcome::NameTaken | CallOutcome::Failed | CallOutcome::Refused, _) => {
                self.pending = self.pending.saturating_add(in_flight);
            }
        }
    }

    fn advance(&mut self, gathered: bool, now: Duration) {
        if self.pending == 0 && !gathered {
            // Its line comes again with the next occurrence.
            self.lines = Vec::new();
        }
        if self.last_published.is_some() {
            self.interval = (self.interval * 2).min(MAX_UPDATE_INTERVAL);
        }
        self.last_published = Some(now);
    }
}
