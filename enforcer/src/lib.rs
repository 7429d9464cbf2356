//! The agent as a library, so that tests and tools can use its parts.

pub mod agent;
pub mod bpf;
pub mod core;
pub mod host;
