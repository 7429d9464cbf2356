//! What the tests on the real kernel share: cgroups of their own, worker processes in them, pods.

pub mod sandbox;
pub mod worker;
