//! From reports and notices to Kubernetes Events: series, budgets, and notes.

mod budget;
mod call;
mod note;
mod scheduler;
mod series;
mod subject;
mod unnamed;

pub use budget::{CALL_LIMIT, OBJECT_LIMIT};
pub use call::{Call, CallOutcome, DropReason, Event, NextCall};
pub use note::MAX_NOTE;
pub use scheduler::EventScheduler;
pub use subject::{EventObject, EventReason};
pub use unnamed::NAME_WAIT;
