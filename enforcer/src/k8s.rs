//! The cluster: the pods of this node, the labels of namespaces and the Services in, by watches that never give up; Events
//! and the ledger of the node out, and the startup taint off its Node.

mod client;
mod error;
mod event_publisher;
mod last_activity;
mod ledger_publisher;
mod resource;
mod rollout;
mod taint_remover;
mod update_queue;
mod watch;

use std::sync::Arc;

use enforcer_core::model::namespace_label::NamespaceLabel;
use tokio::{
    sync::{Notify, mpsc},
    task::{JoinHandle, spawn},
};

use self::{
    update_queue::{QUEUE, UpdateSender},
    watch::{watch_namespaces, watch_pods, watch_services},
};

pub use client::{Cluster, ConnectError, connect};
pub use error::{ApiError, ApiErrorKind};
pub use event_publisher::EventQueue;
pub use last_activity::{LastActivity, WatchActivity};
pub use ledger_publisher::LedgerQueue;
pub use resource::ApiResource;
pub use rollout::wait_for_daemonset;
pub use taint_remover::{TaintNotice, TaintRemover};
pub use update_queue::{Update, Updates};

/// Running watches.
#[derive(Debug)]
pub struct Watches {
    /// What they say.
    pub updates: Updates,
    /// Tasks that end with the receiver of the updates.
    pub tasks: Vec<JoinHandle<()>>,
    relist: Arc<Notify>,
}

impl Watches {
    /// Asks for a new list of the pods.
    pub fn relist_pods(&self) {
        self.relist.notify_one();
    }
}

/// Queues of what the agent publishes, and the remover of the startup taint.
#[derive(Clone, Debug)]
pub struct Queues {
    /// The Events.
    pub events: EventQueue,
    /// The ledger of the node; `None` if it is not to be written.
    pub ledger: Option<LedgerQueue>,
    /// The remover of the startup taint; `None` if the node registers without one.
    pub startup_taint: Option<TaintRemover>,
}

/// What is watched beside the pods of the node.
#[derive(Clone, Debug, Default)]
pub struct WatchedResources {
    /// Labels of namespaces.
    pub labels: Vec<NamespaceLabel>,
    /// The Services that take ports of the nodes.
    pub services: bool,
}

/// Starts to watch the pods of a node and these resources, and to publish what is in the queues. `instance` is the name of
/// the agent's own pod.
#[must_use]
pub fn start(cluster: &Cluster, node: &str, watched: &WatchedResources, instance: &str, queues: Queues) -> Watches {
    let Queues { events, ledger, startup_taint } = queues;
    let (updates, received) = mpsc::channel(QUEUE);
    let Cluster { client, activity, .. } = cluster;
    let sender = UpdateSender { updates, activity: activity.clone() };
    let relist = Arc::new(Notify::new());
    let mut tasks = vec![
        spawn(watch_pods(client.clone(), node.to_owned(), Arc::clone(&relist), sender.clone())),
        spawn(event_publisher::publish(client.clone(), instance.to_owned(), events, sender.clone())),
    ];
    if let Some(ledger) = ledger {
        tasks.push(spawn(ledger_publisher::publish(client.clone(), node.to_owned(), ledger, sender.clone())));
    }
    if let Some(remover) = startup_taint {
        tasks.push(spawn(taint_remover::remove(client.clone(), node.to_owned(), remover, sender.clone())));
    }
    for label in &watched.labels {
        tasks.push(spawn(watch_namespaces(client.clone(), *label, sender.clone())));
    }
    if watched.services {
        tasks.push(spawn(watch_services(client.clone(), sender.clone())));
    }
    Watches { updates: received, tasks, relist }
}
