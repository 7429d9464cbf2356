//! Configuration of the source of pods.

use std::path::PathBuf;

use enforcer_core::model::namespace_label::NamespaceLabel;

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
        /// Labels of namespaces to watch.
        labels: Vec<NamespaceLabel>,
        /// Name of the agent's own pod, which Events carry as their reporting instance.
        instance: String,
        /// Switch to write the ledger of the node.
        ledger: bool,
    },
}
