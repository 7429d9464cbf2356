//! The connection to the API server, by the same files and flags as kubectl's.

use std::{path::PathBuf, time::Duration};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

use enforcer_core::model::text::escape_bounded;

use crate::failure::Failure;

/// Longest name of a cluster that is shown, in characters.
const MAX_NAME: usize = 256;

/// Which cluster, and as whom.
#[derive(Debug, Default)]
pub(crate) struct Connection {
    /// The kubeconfig; `None` for the usual places.
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Its context.
    pub(crate) context: Option<String>,
    /// Its cluster.
    pub(crate) cluster: Option<String>,
    /// Its user.
    pub(crate) user: Option<String>,
    /// User to impersonate.
    pub(crate) impersonated_user: Option<String>,
    /// Groups to impersonate.
    pub(crate) impersonated_groups: Vec<String>,
    /// UID to impersonate.
    pub(crate) impersonated_uid: Option<String>,
    /// Longest time of a request.
    pub(crate) timeout: Option<Duration>,
}

/// A cluster that can be asked.
#[derive(Clone)]
pub(crate) struct Cluster {
    /// The client.
    pub(crate) client: Client,
    /// Name for people: the context, else the server. Safe to show.
    pub(crate) name: String,
    /// Address of the server. Safe to show.
    pub(crate) server: String,
    /// Namespace of the context.
    pub(crate) namespace: String,
}

impl Cluster {
    /// Makes a client. Nothing is sent yet.
    pub(crate) async fn connect(connection: Connection) -> Result<Self, Failure> {
        let Connection {
            kubeconfig,
            context,
            cluster,
            user,
            impersonated_user,
            impersonated_groups,
            impersonated_uid,
            timeout,
        } = connection;
        let names_one = kubeconfig.is_some() || context.is_some() || cluster.is_some() || user.is_some();
        let file = match &kubeconfig {
            Some(path) => Kubeconfig::read_from(path).map_err(|error| (path.display().to_string(), error)),
            None => Kubeconfig::read().map_err(|error| ("in KUBECONFIG or ~/.kube/config".to_owned(), error)),
        };
        let (mut config, name) = match file {
            Ok(file) => {
                let name = context.clone().or_else(|| file.current_context.clone());
                let options = KubeConfigOptions { context, cluster, user };
                let config = Config::from_custom_kubeconfig(file, &options).await;
                (config.map_err(|error| Failure::usage(format!("cannot use the kubeconfig: {error}")))?, name)
            }
            // Within a pod there is no file, and a service account.
            Err((place, error)) => match Config::incluster() {
                Ok(config) if !names_one => (config, None),
                _ => {
                    return Err(Failure::usage(format!(
                        "cannot use the kubeconfig {place}: {error}; name one with --kubeconfig"
                    )));
                }
            },
        };
        config.read_timeout = timeout;
        // Retries are ours to report.
        config.default_retry = false;
        if impersonated_user.is_some() {
            config.auth_info.impersonate = impersonated_user;
            config.auth_info.impersonate_groups = Some(impersonated_groups).filter(|groups| !groups.is_empty());
            config.auth_info.impersonate_uid = impersonated_uid;
        } else if !impersonated_groups.is_empty() || impersonated_uid.is_some() {
            return Err(Failure::usage("--as-group and --as-uid go with --as USER"));
        }
        let server = escape_bounded(&config.cluster_url.to_string(), MAX_NAME);
        let name = name.map_or_else(|| server.clone(), |name| escape_bounded(&name, MAX_NAME));
        let namespace = config.default_namespace.clone();
        let client = Client::try_from(config)
            .map_err(|error| Failure::runtime(format!("cannot make a client for {server}: {error}")))?;
        Ok(Self { client, name, server, namespace })
    }
}
