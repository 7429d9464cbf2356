//! The admin socket: `/status`, `/explain`, `/suggest`, `/release` and `/watch` over a unix socket that only root can open.
//!
//! The connections are tasks beside the agent's loop. Each request goes to the loop through a channel and carries the
//! channel for its answer. The loop takes all waiting requests at once, answers them, and then takes no more for three
//! times as long as that took. A watcher that does not read loses lines, and gets their number; the loop never waits
//! for it.

mod json;
mod request;
mod serve;
mod socket;
mod watchers;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::body::Bytes;
use jiff::Timestamp;
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep_until},
};

use enforcer_core::{
    cluster::suggest::{Suggester, Suggestions},
    model::now::Now,
    views::explain::{ExplainQuestion, explain},
};

use self::{json::json, request::ExplainRequest, socket::SocketFile};
use crate::agent::{
    ledger_compiler::node_content,
    reconciler::Reconciler,
    snapshot::{AgentInfo, node_snapshot, status},
};

pub(super) use self::{request::Request, watchers::Watchers};

/// Most requests that wait for the loop.
const MAX_WAITING: usize = 64;
/// Ratio of the time in which the loop takes no requests to the time that answers took.
const COOLDOWN_FACTOR: u32 = 3;

/// The server, and the requests that wait.
pub(super) struct Admin {
    requests: mpsc::Receiver<Request>,
    /// Keeps the channel open where nothing is served.
    _sender: mpsc::Sender<Request>,
    watcher_left: Arc<Notify>,
    cooldown_until: Instant,
    /// The file, once it exists. It is removed with this, and so before the next agent starts.
    socket: Arc<Mutex<Option<SocketFile>>>,
}

impl Admin {
    /// Serves at the path in a task of its own; `None` serves nothing.
    pub(super) fn start(path: Option<PathBuf>, watchers: &Watchers) -> Self {
        let (sender, requests) = mpsc::channel(MAX_WAITING);
        let socket = Arc::default();
        if let Some(path) = path {
            serve::serve(path, sender.clone(), Arc::clone(&socket));
        }
        let watcher_left = watchers.left();
        Self { requests, _sender: sender, watcher_left, cooldown_until: Instant::now(), socket }
    }

    /// Waits for requests, or for a watcher to leave, which yields none. Cancel safe.
    pub(super) async fn next(&mut self) -> Vec<Request> {
        sleep_until(self.cooldown_until).await;
        let mut requests = Vec::new();
        tokio::select! {
            // A sender is kept, so there is at least one.
            _ = self.requests.recv_many(&mut requests, MAX_WAITING) => {}
            () = self.watcher_left.notified() => {}
        }
        requests
    }

    /// Takes no requests for a while after answers that took this long.
    pub(super) fn cool_down(&mut self, took: Duration) {
        self.cooldown_until = Instant::now() + took.min(Duration::from_secs(1)) * COOLDOWN_FACTOR;
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        drop(self.socket.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// Answers requests from the state as it is.
pub(super) fn answer(
    requests: Vec<Request>,
    info: &AgentInfo,
    reconciler: &mut Reconciler,
    watchers: &mut Watchers,
    now: Now,
) {
    let mut encoded: Option<Bytes> = None;
    for request in requests {
        match request {
            Request::Status(reply) => {
                let status = encoded.get_or_insert_with(|| json(&status(info, reconciler, now)));
                let _ = reply.send(status.clone());
            }
            Request::Explain(ExplainRequest { protocol, port, pod }, reply) => {
                let pod = pod.as_ref().map(|(namespace, name)| (namespace.as_str(), name.as_str()));
                let snapshot = node_snapshot(info, reconciler, now);
                let _ = reply.send(explain(&ExplainQuestion { protocol, port, pod }, &snapshot).map(Box::new));
            }
            Request::Suggest(reply) => {
                let _ = reply.send(json(&suggestions(info, reconciler, now)));
            }
            Request::Release { protocol, port, reply } => {
                let _ = reply.send(reconciler.release(protocol, port, now));
            }
            Request::Watch { conflicts, reply } => {
                let _ = reply.send(watchers.add(conflicts));
            }
        }
    }
}

/// Returns suggestions for the workloads of this node.
fn suggestions(info: &AgentInfo, reconciler: &Reconciler, now: Now) -> Suggestions {
    let mut suggester = Suggester::default();
    suggester.add_node(node_snapshot(info, reconciler, now).node, &node_content(info, reconciler, now));
    let wall = Timestamp::from_microsecond(now.wall).unwrap_or_default();
    let suggestions = suggester.workloads().filter_map(|workload| suggester.suggest(workload, None, wall)).collect();
    suggester.answer(suggestions, 0)
}
