//! Outputs of the reconciler.

use std::{io, path::PathBuf, time::Duration};

use enforcer_core::{
    index::{Notice, RestoreSummary},
    model::{kernel_ids::BootNanos, name::Name},
    plan::recover::UnreadableOwner,
    reports::report::Report,
    sockets::{AnsweredByOther, LiveConflict, SocketBinding},
};
use enforcer_ebpf::wire::{NodeMode, Protocol};

use crate::{
    agent::error::ReconcilerError,
    host::sock_diag::DiagError,
    k8s::{ApiError, ApiResource, TaintNotice},
    kernel::{BpfError, Counters},
    manifests::FileProblem,
};

/// Something to report, as a value. Changes of the kernel's maps are already written when an output is queued.
#[derive(Debug)]
pub enum Output {
    /// A judged bind, with names.
    Verdict(Box<Report>),
    /// A socket that was bound.
    Bound(Box<SocketBinding>),
    /// Two parties that share a port although only one may have it. Reported once.
    LiveConflict(Box<LiveConflict>),
    /// A port of a Ready pod that another one answers. Reported once for as long as it holds.
    AnsweredByOther(Box<AnsweredByOther>),
    /// A ring record that cannot be decoded.
    UndecodableRecord {
        /// The ring.
        ring: RingName,
        /// Cause.
        error: String,
    },
    /// A finding of the index about a pod or a namespace.
    Notice(Notice),
    /// An operator ended the handover reservations of a port.
    HandoverReleased {
        /// Protocol of the port.
        protocol: Protocol,
        /// The port.
        port: u16,
        /// Names of the reservations.
        names: Vec<Name>,
    },
    /// A change that the kernel refused: one claim or identity is missing in the maps.
    MapFailure(BpfError),
    /// The sockets of the node were compared with the kernel's socket diagnostics, with these errors.
    SocketScan(Vec<DiagError>),
    /// Cgroup records were lost, and the tree cannot be read instead.
    CgroupScanFailed(ReconcilerError),
    /// State of the previous agent was taken over.
    Takeover {
        /// The owners.
        summary: TakeoverSummary,
        /// Verdicts that the previous agent had not reported. They follow.
        conflicts: usize,
    },
    /// Part of the takeover failed.
    TakeoverProblem(TakeoverProblem),
    /// The last of the first complete lists was applied: every claim of the node is known.
    Synced {
        /// Pods of the node.
        pods: usize,
        /// Claims in force.
        claims: usize,
        /// Claims that lost.
        conflicts: usize,
    },
    /// The source has to list the pods again.
    RelistPods,
    /// An update is in the kernel's maps, this long after its last bytes arrived.
    Enforced(Duration),
    /// The startup taint was removed from the Node, or the first look found none.
    StartupTaint(TaintNotice),
    /// A call to the API server failed.
    ApiError(ApiError),
    /// Calls for this resource succeed again.
    ApiRecovered(ApiResource),
    /// A manifest that is unusable.
    ManifestProblem(FileProblem),
    /// The folder of manifests cannot be watched.
    FolderUnwatched(notify::Error),
    /// The folder of manifests cannot be read.
    FolderLost {
        /// The folder.
        path: PathBuf,
        /// Cause.
        error: io::Error,
    },
    /// The folder of manifests was read.
    FolderRead,
    /// The lease was renewed.
    LeaseRenewed {
        /// Time since it had expired, if the node was to enforce.
        unenforced: Duration,
        /// Next expiry; `None` is never.
        deadline: Option<BootNanos>,
    },
    /// The mode that an operator set on the node changed.
    NodeMode(NodeMode),
    /// The kernel programs' counters, read for errors.
    Counters(Result<Counters, ReconcilerError>),
}

/// What the kernel programs write records to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingName {
    /// Cgroups that were made and removed.
    Cgroup,
    /// Judged binds.
    Verdict,
    /// Binds of held ports; before Linux 5.12 also sockets that were bound and released.
    Socket,
    /// Sockets that were bound and released.
    SocketLog,
}

impl RingName {
    /// Returns the name in logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cgroup => "cgroup",
            Self::Verdict => "verdict",
            Self::Socket => "socket",
            Self::SocketLog => "socket_log",
        }
    }
}

/// State that was taken over from the previous agent.
#[derive(Clone, Debug, Default)]
pub struct TakeoverSummary {
    /// Owners with their claims in force again.
    pub restored: RestoreSummary,
    /// Owners whose record is missing or unreadable: their claims end.
    pub unreadable: Vec<UnreadableOwner>,
    /// Where it was.
    pub from: TakeoverFrom,
}

/// Place of the state that was taken over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TakeoverFrom {
    /// The maps of an agent.
    #[default]
    Agent,
    /// The maps that `enforcer restore` filled from a boot state, this long after the boot.
    BootRestore(Duration),
    /// A boot state, which the agent itself restored.
    BootState,
}

/// A part of the takeover that failed. The agent continues without it.
#[derive(Debug)]
pub enum TakeoverProblem {
    /// The previous agent's state cannot be read. The message is the cause.
    Unreadable(String),
    /// The previous agent's programs may still have written verdicts after its ring was read. The message is the cause.
    EventsLost(String),
    /// Pins of previous agents cannot be removed. The message is the cause.
    NotRetired(String),
}
