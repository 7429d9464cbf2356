//! Updates from the API server, as the agent receives them.

use std::{collections::HashMap, time::Instant};

use enforcer_core::{
    model::namespace_label::NamespaceLabel,
    pods::{pod::Pod, service::NodePortService},
};
use tokio::sync::mpsc;

use super::{error::ApiError, last_activity::LastActivity, resource::ApiResource, taint_remover::TaintNotice};

/// Most updates that wait for the agent; a watch that is faster waits.
pub(super) const QUEUE: usize = 1024;

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
    /// All Services that may take ports of the nodes.
    ServicesReset(Vec<NodePortService>),
    /// A Service was added or changed.
    ServiceApplied(Box<NodePortService>),
    /// A Service was deleted, or takes no ports of the nodes any more.
    ServiceDeleted {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// All namespaces with a label, and its values.
    NamespaceLabelsReset {
        /// The label.
        label: NamespaceLabel,
        /// Its values by namespace.
        values: HashMap<String, String>,
    },
    /// A label of a namespace was added or changed.
    NamespaceLabelApplied {
        /// The label.
        label: NamespaceLabel,
        /// The namespace.
        namespace: String,
        /// The label's value.
        value: String,
    },
    /// A label of a namespace was removed, or the namespace was deleted.
    NamespaceLabelDeleted {
        /// The label.
        label: NamespaceLabel,
        /// The namespace.
        namespace: String,
    },
    /// The startup taint was removed, or the first look found none.
    StartupTaint(TaintNotice),
    /// A call failed; it is tried again.
    ApiError(ApiError),
    /// Calls for this resource succeed again.
    ApiRecovered(ApiResource),
}

/// Updates, each with the moment at which it arrived.
pub type Updates = mpsc::Receiver<(Instant, Update)>;

/// Sender of updates.
#[derive(Clone)]
pub(super) struct UpdateSender {
    pub(super) updates: mpsc::Sender<(Instant, Update)>,
    pub(super) activity: LastActivity,
}

/// The agent has ended.
pub(super) struct Closed;

impl UpdateSender {
    /// Returns when the last bytes of what a watch just yielded arrived: it yields all that arrived before it reads more.
    pub(super) fn arrived(&self, resource: ApiResource) -> Instant {
        self.activity.last(resource).map_or_else(Instant::now, |arrival| arrival.at)
    }

    /// Sends an update; waits while [`QUEUE`] updates wait.
    pub(super) async fn send(&self, arrived: Instant, update: Update) -> Result<(), Closed> {
        self.updates.send((arrived, update)).await.map_err(|_| Closed)
    }
}
