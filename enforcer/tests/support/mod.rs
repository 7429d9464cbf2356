//! What the tests on the real kernel share: cgroups of their own, worker processes in them, pods, an engine.

pub(crate) mod bpffs;
pub(crate) mod device;
pub(crate) mod keeper;
pub(crate) mod manifest;
pub(crate) mod network;
pub(crate) mod own_machine;
pub(crate) mod race;
pub(crate) mod rig;
pub(crate) mod ring;
pub(crate) mod sandbox;
pub(crate) mod sockets;
pub(crate) mod worker;
