//! Inputs of the reconciler.

use std::{io, path::PathBuf, time::Instant};

use enforcer_core::manifests::FolderContents;

use crate::k8s::Update;

/// Something that happened, as a value.
#[derive(Debug)]
pub enum Input {
    /// An update from the API server, with the moment at which its last bytes arrived.
    Update(Instant, Update),
    /// The folder of manifests was read.
    Folder(FolderRead),
    /// The ring of cgroup records has new records.
    CgroupRing,
    /// The ring of verdicts has new records, or a backlog.
    VerdictRing,
    /// The ring of sockets has new records, and the socket log may have.
    SocketRing,
    /// All rings and the socket log are due for a read, whether or not anything woke the agent.
    Rings,
    /// The lease is due for renewal.
    RenewLease,
    /// The sockets of the node are due for a comparison with the kernel's socket diagnostics.
    ScanSockets,
    /// The cgroup tree and the kernel's error counters are due for a full read: the safety net below the events.
    Resync,
}

/// Result of one read of the folder of manifests.
#[derive(Debug)]
pub struct FolderRead {
    /// The folder.
    pub path: PathBuf,
    /// Cause if the folder cannot be watched; the periodic reads find its changes then.
    pub watch_error: Option<notify::Error>,
    /// The pods in it, or the cause if it cannot be read.
    pub contents: io::Result<FolderContents>,
}
