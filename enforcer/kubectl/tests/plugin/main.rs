//! The program as a user runs it: against an API server over HTTP, with and without agents' ledgers.
#![cfg(target_os = "linux")]

mod answers;
mod cluster;
mod refusals;
mod requests;
