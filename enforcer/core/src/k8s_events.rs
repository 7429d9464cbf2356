//! From reports and notices to Kubernetes Events: series, budgets, and the words of a note.

mod note;
mod queue;
mod series;

pub use note::MAX_NOTE;
use queue::{GATHERED, Key};

pub use queue::{BURST, Call, Event, EventReason, Events, Loss, NAME_WAIT, Next, Object, Outcome, PACE, REFILL};
