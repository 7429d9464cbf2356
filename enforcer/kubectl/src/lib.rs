//! `kubectl host-ports`: which pod uses which host port, on which node.
//!
//! It reads the ledgers that agents write and, for nodes without one, what pods declare. It asks the API server alone: it
//! has nothing of Linux in it, and works where no agent runs.

mod check;
mod cli;
mod cluster;
mod completion;
mod failure;
mod free;
mod list;
mod output;
mod policy_reports;
mod suggest;
mod why;

pub use self::cli::{command, main};
