//! Something that happens to one object again and again.
//!
//! An Event's note cannot be edited, only its count. So as long as the same happens, the count goes up; when somebody new
//! is to be named, an Event with a new note takes over.

use std::{collections::HashSet, time::Duration};

use super::{Call, CallOutcome, Event, EventObject, SeriesKey, note};

/// How long after the first time the second is told; from then on twice as long each time, until [`SLOWEST`].
const MIN_UPDATE_INTERVAL: Duration = Duration::from_secs(10);
/// How long at most what happens again waits to be told.
const MAX_UPDATE_INTERVAL: Duration = Duration::from_mins(5);
/// Most different ones that are told apart.
const MAX_DIFFERENT: usize = 4096;

/// It happened.
#[derive(Debug)]
pub(super) struct Occurrence<L> {
    /// A hash of what makes it another one than those before it.
    pub(super) what: u64,
    /// Finds the words for it: the whole sentence, or who it was, where several are gathered.
    pub(super) line: L,
    /// The other one.
    pub(super) related: Option<EventObject>,
    /// When, in microseconds since 1970.
    pub(super) time: i64,
}

/// The Event that tells of it.
#[derive(Clone, Debug)]
struct PublishedEvent {
    name: String,
    /// How often it happened since that Event, the first time included.
    count: i32,
    /// How many different ones its note tells of.
    different: usize,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) number: u64,
    different: HashSet<u64>,
    /// The first few different ones.
    lines: Vec<String>,
    related: Option<EventObject>,
    told: Option<PublishedEvent>,
    /// How often it happened and was not told yet, and how often of that the call on its way tells.
    pending: i32,
    calling: i32,
    /// How many different ones there were when that call was made.
    calling_different: usize,
    /// When it happened first of those that are not told, and last of all.
    first: i64,
    last: i64,
    last_seen: Duration,
    last_told: Option<Duration>,
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
            told: None,
            pending: 0,
            calling: 0,
            calling_different: 0,
            first: 0,
            last: 0,
            last_seen: Duration::ZERO,
            last_told: None,
            interval: MIN_UPDATE_INTERVAL,
            due: None,
        }
    }

    pub(super) fn record(&mut self, sight: Occurrence<impl FnOnce() -> String>, now: Duration) {
        let Occurrence { what, line, related, time } = sight;
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

    /// If there is something to tell and it was not due before: from when on it is.
    pub(super) fn become_due(&mut self, now: Duration) -> Option<Duration> {
        if self.pending == 0 || self.due.is_some() {
            return None;
        }
        let earliest = self.last_told.filter(|_| self.told.is_some()).map(|last| last + self.interval);
        self.due = Some(earliest.unwrap_or(now).max(now));
        self.due
    }

    pub(super) fn due(&self) -> Option<Duration> {
        self.due
    }

    pub(super) fn put_off(&mut self, until: Duration) -> Duration {
        self.due = Some(until);
        until
    }

    pub(super) fn is_over(&self, now: Duration, after: Duration) -> bool {
        self.pending == 0 && now.saturating_sub(self.last_seen) >= after
    }

    /// What tells it.
    pub(super) fn call(&mut self, key: &SeriesKey, node: &str, wall: i64) -> Call {
        self.due = None;
        self.calling = std::mem::take(&mut self.pending);
        self.calling_different = self.different.len();
        if let Some(told) = &self.told
            && told.different == self.different.len()
        {
            let namespace = key.object.event_namespace().to_owned();
            let count = told.count.saturating_add(self.calling).max(2);
            return Call::Count { namespace, name: told.name.clone(), count, last: self.last };
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

    /// The call ended; `name` is that of the Event if it was a new one, and `gathered` whether several are told by it.
    pub(super) fn on_published(&mut self, outcome: CallOutcome, name: Option<String>, gathered: bool, now: Duration) {
        let calling = std::mem::take(&mut self.calling);
        match (outcome, name) {
            (CallOutcome::Done, Some(name)) => {
                // A new Event counts once; what it does not count yet is counted with what comes.
                self.told = Some(PublishedEvent { name, count: 1, different: self.calling_different });
                self.pending = self.pending.saturating_add(calling - 1);
                self.advance(gathered, now);
            }
            (CallOutcome::Done, None) => {
                if let Some(told) = &mut self.told {
                    told.count = told.count.saturating_add(calling);
                }
                self.advance(gathered, now);
            }
            (CallOutcome::NotFound, _) => {
                // The server has forgotten it: it is told anew, at once.
                self.told = None;
                self.pending = self.pending.saturating_add(calling);
            }
            (CallOutcome::NameTaken | CallOutcome::Failed | CallOutcome::Refused, _) => {
                self.pending = self.pending.saturating_add(calling);
            }
        }
    }

    fn advance(&mut self, gathered: bool, now: Duration) {
        if self.pending == 0 && !gathered {
            // Its words come again with whatever is to be told next.
            self.lines = Vec::new();
        }
        if self.last_told.is_some() {
            self.interval = (self.interval * 2).min(MAX_UPDATE_INTERVAL);
        }
        self.last_told = Some(now);
    }
}
