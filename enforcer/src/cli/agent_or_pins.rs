//! Flags to reach the agent of this node or, without one, its pinned maps.

use std::path::PathBuf;

use clap::Args;
use hyper::Method;
use serde::de::DeserializeOwned;

use crate::{
    cli::{
        Failure,
        admin::{ADMIN_SOCKET, AdminSocket, request, wait},
        pinned::{self, Pinned},
    },
    kernel::pins,
};

/// The folder of persistent state.
#[derive(Clone, Debug, Args)]
pub(super) struct BpffsFlag {
    /// Folder of a BPF file system that holds the agents' persistent state
    #[arg(long, env = "ENFORCER_BPFFS", value_name = "PATH", default_value = pins::DEFAULT_FOLDER)]
    pub(super) bpffs: PathBuf,
}

/// The agent's admin socket.
#[derive(Clone, Debug, Args)]
pub(super) struct AdminSocketFlag {
    /// Unix socket of the agent; none asks no agent
    #[arg(long, env = "ENFORCER_ADMIN_SOCKET", value_name = "PATH", default_value = ADMIN_SOCKET)]
    pub(super) admin_socket: AdminSocket,
}

/// The agent, or the pinned maps if no agent answers.
#[derive(Clone, Debug, Args)]
pub(super) struct NodeAccess {
    #[command(flatten)]
    socket: AdminSocketFlag,
    #[command(flatten)]
    bpffs: BpffsFlag,
}

impl NodeAccess {
    /// Asks the agent for a path of its admin socket. If no agent answers, the answer comes from the pinned maps.
    pub(super) fn ask<T: DeserializeOwned>(
        &self,
        path: &str,
        from_pinned: impl FnOnce(&Pinned) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        match wait(async { Ok(request(&self.socket.admin_socket, Method::GET, path).await) })? {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| undecodable(&error)),
            Err(unavailable) => from_pinned(&pinned::read(&self.bpffs.bpffs, unavailable)?),
        }
    }
}

/// Returns the failure of an answer that cannot be decoded.
pub(super) fn undecodable(error: &impl std::fmt::Display) -> Failure {
    Failure::runtime(format!("cannot decode the agent's answer: {error}; compare the agent's version with this one"))
}
