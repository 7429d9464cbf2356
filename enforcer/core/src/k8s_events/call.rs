//! Calls to the API, and their results.

use std::time::Duration;

use crate::k8s_events::{EventObject, EventReason};

/// An Event to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its own name, in [`EventObject::event_namespace`] of what it is about.
    pub name: String,
    /// Object that the Event is about.
    pub regarding: EventObject,
    /// The other object, where there is just one.
    pub related: Option<EventObject>,
    /// The reason.
    pub reason: EventReason,
    /// The sentence: at most [`MAX_NOTE`](super::MAX_NOTE) bytes, safe to show.
    pub note: String,
    /// Time of the occurrence, in microseconds since 1970.
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
        /// Count of all occurrences, at least 2.
        count: i32,
        /// Time of the last occurrence, in microseconds since 1970.
        last: i64,
    },
}

/// Result of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// The server has taken it.
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

/// The next thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextCall {
    /// Make a call, and pass its result to [`EventScheduler::handle_outcome`](super::EventScheduler::handle_outcome).
    Call(Call),
    /// Wait until this moment on the monotonic clock.
    Wait(Duration),
    /// Wait until something happens.
    Nothing,
}

/// Reason why there is no Event for something that happened. A closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// There was no room for more.
    Full,
    /// The API server will never take it.
    Refused,
}

impl DropReason {
    /// Every reason.
    pub const ALL: [Self; 2] = [Self::Full, Self::Refused];

    /// Returns the word in the metric.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Refused => "refused",
        }
    }
}
