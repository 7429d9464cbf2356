//! From reports and notices to Kubernetes Events: series, budgets, and the words of a note.

mod note;
mod queue;
mod series;

pub use note::MAX_NOTE;
use queue::{GATHERED, SeriesKey};

pub use queue::{
    BURST, Call, CallOutcome, DropReason, Event, EventObject, EventReason, EventScheduler, NAME_WAIT, NextCall, PACE,
    REFILL,
};
