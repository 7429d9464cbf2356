//! The client of the API server.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use kube::{
    Client, Config,
    client::ClientBuilder,
    config::{KubeConfigOptions, Kubeconfig},
};

use enforcer_core::model::text::escape_bounded;

use super::last_activity::LastActivity;

/// Longest address of a server that is shown, in characters.
const MAX_ADDRESS: usize = 256;

/// Error of making a client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig cannot be used.
    #[error("cannot use the kubeconfig {path}: {why}")]
    Kubeconfig {
        /// Its path.
        path: String,
        /// Cause.
        why: String,
    },
    /// Neither a kubeconfig nor the cluster's own configuration was found.
    #[error(
        "no cluster configuration was found: run the agent in a cluster, name a kubeconfig with --kubeconfig, or take the \
         pods from a folder of manifests with --source dir:PATH"
    )]
    None,
    /// The client cannot be made.
    #[error("cannot make a client for the API server: {0}")]
    Client(String),
}

/// A client of the cluster.
#[derive(Clone)]
pub struct Cluster {
    /// The client.
    pub client: Client,
    /// Time of the last bytes of each watch.
    pub activity: LastActivity,
    /// Address of the server, for messages. Safe to show.
    pub server: String,
}

/// Makes a client for the cluster: from the given kubeconfig, else from the environment (`KUBECONFIG`, `~/.kube/config`,
/// the service account of a pod). Nothing is sent yet.
///
/// # Errors
///
/// If there is no usable configuration.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Cluster, ConnectError> {
    let mut config = match kubeconfig {
        Some(path) => {
            let wrong = |why: &dyn fmt::Display| ConnectError::Kubeconfig {
                path: path.display().to_string(),
                why: why.to_string(),
            };
            let file = Kubeconfig::read_from(path).map_err(|error| wrong(&error))?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(|error| wrong(&error))?
        }
        None => Config::infer().await.map_err(|error| inferred(&error))?,
    };
    // The watches retry and report errors themselves; the client would retry in silence.
    config.default_retry = false;
    let activity = LastActivity::default();
    let server = escape_bounded(&config.cluster_url.to_string(), MAX_ADDRESS);
    let builder = ClientBuilder::try_from(config).map_err(|error| ConnectError::Client(error.to_string()))?;
    Ok(Cluster { client: builder.with_layer(&activity).build(), activity, server })
}

/// Distinguishes a kubeconfig that cannot be used from one that is missing.
fn inferred(error: &kube::config::InferConfigError) -> ConnectError {
    let named = std::env::var_os("KUBECONFIG").map(PathBuf::from);
    let usual = std::env::var_os("HOME").map(|home| Path::new(&home).join(".kube/config"));
    match named.or(usual.filter(|path| path.exists())) {
        Some(path) => ConnectError::Kubeconfig { path: path.display().to_string(), why: error.to_string() },
        None => ConnectError::None,
    }
}
