//! The cluster: the pods of this node and the labels of namespaces in, by watches that never give up; Events out.

mod client;
mod error;
mod event_publisher;
mod last_activity;
mod resource;
mod update_queue;
mod watch;

use std::sync::Arc;

use enforcer_core::model::namespace_label::NamespaceLabel;
use tokio::{
    sync::{Notify, mpsc},
    task::{JoinHandle, spawn},
};

use self::{
    event_publisher::publish,
    update_queue::{QUEUE, UpdateSender},
    watch::{watch_namespaces, watch_pods},
};

pub use client::{Cluster, ConnectError, connect};
pub use error::{ApiError, ApiErrorKind};
pub use event_publisher::EventQueue;
pub use last_activity::{LastActivity, WatchActivity};
pub use resource::ApiResource;
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

/// Starts to watch the pods of a node and these labels of namespaces, and to publish the Events of the queue.
/// `instance` is the name of the agent's own pod.
#[must_use]
pub fn start(cluster: &Cluster, node: &str, labels: &[NamespaceLabel], instance: &str, events: EventQueue) -> Watches {
    let (updates, received) = mpsc::channel(QUEUE);
    let Cluster { client, activity, .. } = cluster;
    let sender = UpdateSender { updates, activity: activity.clone() };
    let relist = Arc::new(Notify::new());
    let mut tasks = vec![
        spawn(watch_pods(client.clone(), node.to_owned(), Arc::clone(&relist), sender.clone())),
        spawn(publish(client.clone(), instance.to_owned(), events, sender.clone())),
    ];
    for label in labels {
        tasks.push(spawn(watch_namespaces(client.clone(), *label, sender.clone())));
    }
    Watches { updates: received, tasks, relist }
}
