//! The cluster: the pods of this node and the modes of namespaces in, by watches that never give up; Events out.

mod client;
mod error;
mod event_publisher;
mod last_activity;
mod resource;
mod update_queue;
mod watch;

use tokio::{
    sync::mpsc,
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

/// Starts to watch the pods of a node and, if `namespaces`, the mode labels of namespaces, and to publish the Events of the
/// queue. `instance` is the name of the agent's own pod. The tasks end with the receiver.
#[must_use]
pub fn start(
    cluster: &Cluster,
    node: &str,
    namespaces: bool,
    instance: &str,
    events: EventQueue,
) -> (Updates, Vec<JoinHandle<()>>) {
    let (updates, received) = mpsc::channel(QUEUE);
    let Cluster { client, activity, .. } = cluster;
    let sender = UpdateSender { updates, activity: activity.clone() };
    let mut tasks = vec![
        spawn(watch_pods(client.clone(), node.to_owned(), sender.clone())),
        spawn(publish(client.clone(), instance.to_owned(), events, sender.clone())),
    ];
    if namespaces {
        tasks.push(spawn(watch_namespaces(client.clone(), sender)));
    }
    (received, tasks)
}
