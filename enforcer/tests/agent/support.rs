//! Of what the tests on the real kernel share, what these tests use.

#[path = "../support/agent.rs"]
pub(crate) mod agent;
#[path = "../support/network.rs"]
pub(crate) mod network;
#[path = "../support/sandbox.rs"]
pub(crate) mod sandbox;
#[path = "../support/worker.rs"]
pub(crate) mod worker;
