//! The agent: inputs → core → kernel, events → reports.

pub mod engine;
