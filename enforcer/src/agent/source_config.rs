//! Configuration of the source of pods.

use std::path::PathBuf;

use crate::k8s::Cluster;

/// Source of pods.
#[derive(Clone)]
pub enum SourceConfig {
    /// A folder of manifests.
    Folder(PathBuf),
    /// The API server.
    Api {
        /// Connection to it.
        cluster: Cluster,
        /// Switch to watch the mode labels of namespaces.
        namespaces: bool,
        /// Name of the agent's own pod, which Events carry as their reporting instance.
        instance: String,
    },
}
