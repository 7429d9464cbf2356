//! The cluster: the pods of this node and the modes of namespaces in, by watches that never give up; Events out.

mod event_publisher;
mod last_activity;
mod watch;

use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
    time::Instant,
};

use kube::{
    Client, Config,
    client::ClientBuilder,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::sync::mpsc;

use enforcer_core::{model::text::escape_bounded, pods::pod::Pod};

pub use event_publisher::EventQueue;
pub use last_activity::{LastActivity, WatchActivity};
pub use watch::start;

/// Updates that wait for the agent at most; a watch that is faster waits.
const QUEUE: usize = 1024;
/// Longest message of the API client that is passed on, in characters.
const MAX_MESSAGE: usize = 300;

/// Why there is no connection to try.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig cannot be used.
    #[error("cannot use the kubeconfig {path}: {why}")]
    Kubeconfig {
        /// Its path.
        path: String,
        /// Why.
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

/// A connection to try.
#[derive(Clone)]
pub struct Cluster {
    /// The client.
    pub client: Client,
    /// When something last arrived through it.
    pub activity: LastActivity,
}

/// A client for the cluster: by the given kubeconfig, else by the environment (`KUBECONFIG`, `~/.kube/config`, the
/// service account of a pod). Nothing is sent yet.
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
    // The watches try again by themselves, and tell what went wrong; the client would do so in silence.
    config.default_retry = false;
    let activity = LastActivity::default();
    let builder = ClientBuilder::try_from(config).map_err(|error| ConnectError::Client(error.to_string()))?;
    Ok(Cluster { client: builder.with_layer(&activity).build(), activity })
}

/// A kubeconfig that is there and cannot be used is another thing than none.
fn inferred(error: &kube::config::InferConfigError) -> ConnectError {
    let named = std::env::var_os("KUBECONFIG").map(PathBuf::from);
    let usual = std::env::var_os("HOME").map(|home| Path::new(&home).join(".kube/config"));
    match named.or(usual.filter(|path| path.exists())) {
        Some(path) => ConnectError::Kubeconfig { path: path.display().to_string(), why: error.to_string() },
        None => ConnectError::None,
    }
}

/// What the agent deals with in the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// The pods of this node.
    Pods,
    /// The namespaces that have a mode label.
    Namespaces,
    /// The Events that the agent publishes.
    Events,
}

impl Resource {
    /// Every resource.
    pub const ALL: [Self; 3] = [Self::Pods, Self::Namespaces, Self::Events];
    /// Those that are watched.
    pub const WATCHED: [Self; 2] = [Self::Pods, Self::Namespaces];

    /// The word for people and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Namespaces => "namespaces",
            Self::Events => "events",
        }
    }

    /// What the agent does with it.
    #[must_use]
    pub const fn verb(self) -> &'static str {
        match self {
            Self::Pods | Self::Namespaces => "watch",
            Self::Events => "publish",
        }
    }
}

/// What is wrong with the API. A closed list, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ApiErrorKind {
    /// It cannot be reached, or the connection broke.
    Unreachable,
    /// It does not know us (401): the token has expired, or was never right.
    Unauthorized,
    /// It knows us and says no (403): RBAC.
    Forbidden,
    /// We are to ask less often (429).
    Throttled,
    /// Our place in the history is too old (410); the list is read anew.
    Gone,
    /// It fails (5xx).
    Server,
    /// It says something that we do not understand.
    Invalid,
}

impl ApiErrorKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Unreachable,
        Self::Unauthorized,
        Self::Forbidden,
        Self::Throttled,
        Self::Gone,
        Self::Server,
        Self::Invalid,
    ];

    /// The word for people and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::Throttled => "throttled",
            Self::Gone => "gone",
            Self::Server => "server",
            Self::Invalid => "invalid",
        }
    }

    /// What can be done about it.
    #[must_use]
    pub const fn remedy(self, resource: Resource) -> &'static str {
        match (self, resource) {
            (Self::Unreachable, _) => "check the server's address and the network between",
            (Self::Unauthorized, _) => "renew the token or the client certificate",
            (Self::Forbidden, Resource::Pods | Resource::Namespaces) => {
                "grant the agent list and watch of pods and namespaces"
            }
            (Self::Forbidden, Resource::Events) => "grant the agent create and patch of events in events.k8s.io",
            (Self::Throttled | Self::Gone | Self::Server | Self::Invalid, _) => "nothing has to be done",
        }
    }
}

/// Trouble with one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// Which resource.
    pub resource: Resource,
    /// What kind.
    pub kind: ApiErrorKind,
    /// What the client said. Safe to show.
    pub message: String,
}

impl ApiError {
    fn new(resource: Resource, kind: ApiErrorKind, message: &str) -> Self {
        Self { resource, kind, message: escape_bounded(message, MAX_MESSAGE) }
    }
}

/// An update from the API server, in kube's words: applied, deleted, reset.
#[derive(Debug)]
pub enum Update {
    /// All pods of this node.
    PodsReset(Vec<Pod>),
    /// A pod was added or changed.
    PodApplied(Box<Pod>),
    /// A pod was deleted.
    PodDeleted {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// All namespaces with a mode label, and the labels.
    NamespaceModesReset(HashMap<String, String>),
    /// The mode label of a namespace was added or changed.
    NamespaceModeApplied {
        /// The namespace.
        namespace: String,
        /// The label's value.
        label: String,
    },
    /// The mode label of a namespace was removed, or the namespace was deleted.
    NamespaceModeDeleted {
        /// The namespace.
        namespace: String,
    },
    /// A call failed; it is tried again.
    ApiError(ApiError),
    /// Calls for this resource succeed again.
    ApiRecovered(Resource),
}

/// Updates, each with the moment at which it arrived.
pub type Updates = mpsc::Receiver<(Instant, Update)>;
