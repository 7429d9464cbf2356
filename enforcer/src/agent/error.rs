//! Errors that end the agent.

use std::{io, net::SocketAddr, path::PathBuf};

use crate::{
    host::cgroup::CgroupError,
    kernel::{BpfError, pins::PinError},
};

/// Error that ends the agent.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The address for health and metrics is unusable, and waiting would not help.
    #[error("cannot serve health and metrics on {address}: {source}; choose another address with --listen, or none")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Cause.
        source: io::Error,
    },
    /// The kernel side, the cgroup tree, or the network namespace.
    #[error(transparent)]
    Reconciler(#[from] ReconcilerError),
    /// The pins of an earlier agent are unusable.
    #[error(transparent)]
    Pins(#[from] PinError),
    /// The folder cannot be watched.
    #[error("cannot watch the folder {}: {source}", path.display())]
    Watch {
        /// The folder.
        path: PathBuf,
        /// Cause.
        source: notify::Error,
    },
    /// The folder cannot be read.
    #[error("cannot read the folder {}: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// The operating system refused something that the process itself needs.
    #[error("cannot {operation}: {source}")]
    System {
        /// The operation that failed.
        operation: &'static str,
        /// Cause.
        source: io::Error,
    },
}

impl AgentError {
    /// Wraps an I/O error with the operation that failed.
    pub(super) fn system(operation: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::System { operation, source }
    }
}

/// Error that ends the reconciler.
#[derive(Debug, thiserror::Error)]
pub enum ReconcilerError {
    /// The kernel side.
    #[error(transparent)]
    Bpf(#[from] BpfError),
    /// The cgroup tree.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The network namespace.
    #[error("cannot read the node's network namespace: {0}")]
    Netns(io::Error),
}
