//! Configuration of the source of pods.

use std::path::PathBuf;

use enforcer_core::startup_taint::TaintKey;

use crate::k8s::{Cluster, WatchedResources};

/// Source of pods.
#[derive(Clone)]
pub enum SourceConfig {
    /// A folder of manifests.
    Folder(PathBuf),
    /// The API server.
    Api {
        /// Connection to it.
        cluster: Cluster,
        /// What is watched beside the pods of the node.
        watched: WatchedResources,
        /// Name of the agent's own pod, which Events carry as their reporting instance.
        instance: String,
        /// Switch to write the ledger of the node.
        ledger: bool,
        /// Key of the startup taint, which the agent removes from its Node.
        startup_taint: Option<TaintKey>,
    },
}
