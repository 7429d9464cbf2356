//! The agent's answers to whoever asks on the node: `/status`, `/explain` and `/watch` over a unix socket that is root's
//! alone.
//!
//! The connections are tasks beside the agent's loop, which alone knows the answers: each request goes to it through a
//! channel and carries the way back. What the loop gives to them is bounded: before an answer it looks at the sockets of
//! the node, so that it is right at that moment, and after it has answered all that waited by then, it rests for thrice
//! as long as that took. A watcher that does not read loses records, and is told how many; nobody waits for it.

mod serve;
mod socket;
mod watchers;

use std::{
    path::PathBuf,
    process,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::body::Bytes;
use enforcer_ebpf::{
    decide::ModeOverride,
    wire::{KernelError, Protocol, Reason, VerdictKind},
};
use serde::Serialize;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};

use self::{
    socket::Socket,
    watchers::{Lines, Watchers},
};
use enforcer_core::{
    model::{port_spec::PortSpec, time::Now},
    views::{
        explain::{ExplainError, ExplainQuestion, Explanation, explain},
        json::{NodeSnapshot, time},
        status::{AgentView, KernelFeatures, Status, StatusInputs},
    },
};

use crate::{
    agent::{
        SourceConfig,
        reconciler::{KernelEvents, Reconciler, Start},
        reporter::Reporter,
    },
    host::clock::now,
    kernel::Counters,
};

/// Most requests that wait for the loop.
const MAX_WAITING: usize = 64;
/// For how many times as long as answers took the loop does not answer.
const COOLDOWN_FACTOR: u32 = 3;

/// What a connection asks of the loop.
enum Request {
    /// How the node stands.
    Status(oneshot::Sender<Bytes>),
    /// One port.
    Explain(ExplainRequest, oneshot::Sender<Result<Box<Explanation>, ExplainError>>),
    /// Attempts from now on; conflicts alone, if so. No answer where there are too many watchers.
    Watch { conflicts: bool, reply: oneshot::Sender<Option<Lines>> },
    /// A watcher has gone.
    Left,
}

/// A [`Question`] that owns its words.
struct ExplainRequest {
    protocol: Protocol,
    port: u16,
    pod: Option<(String, String)>,
}

/// See the module's documentation.
pub(super) struct Admin {
    about: AgentInfo,
    requests: mpsc::Receiver<Request>,
    /// Keeps the channel open where nothing is served; watchers tell by it that they have gone.
    sender: mpsc::Sender<Request>,
    watchers: Watchers,
    cooldown_until: Instant,
    /// The file, as soon as it is there. It goes with this, and so before another agent may come.
    socket: Arc<Mutex<Option<Socket>>>,
}

/// What does not change while the agent runs.
pub(super) struct AgentInfo {
    node: String,
    source: String,
    since: String,
    abilities: KernelFeatures,
    shared: Vec<PortSpec>,
    /// Whether every attempt is reported anyhow.
    reports_attempts: bool,
}

impl AgentInfo {
    pub(super) fn new(node: &str, source: &SourceConfig, start: &Start) -> Self {
        Self {
            node: node.to_owned(),
            source: match source {
                SourceConfig::Folder(path) => format!("dir:{}", path.display()),
                SourceConfig::Api { .. } => "api".to_owned(),
            },
            since: time(now().wall),
            abilities: KernelFeatures { errno_choice: start.features.set_retval, v6only: start.features.probe_read },
            shared: start.shared_ports.clone(),
            reports_attempts: start.policy.report_attempts,
        }
    }
}

impl Admin {
    /// Serves at the path, in a task of its own, or nowhere.
    pub(super) fn start(path: Option<PathBuf>, about: AgentInfo) -> Self {
        let (sender, requests) = mpsc::channel(MAX_WAITING);
        let socket = Arc::default();
        if let Some(path) = path {
            serve::serve(path, sender.clone(), Arc::clone(&socket));
        }
        Self { about, requests, watchers: Watchers::default(), cooldown_until: Instant::now(), socket, sender }
    }

    /// Waits for the next request. It may be given up at any time.
    pub(super) async fn next(&mut self) -> AdminRequest {
        sleep_until(self.cooldown_until).await;
        match self.requests.recv().await {
            Some(request) => AdminRequest(request),
            // A sender is kept.
            None => std::future::pending().await,
        }
    }

    /// Answers it, and what waits behind it.
    pub(super) fn answer(
        &mut self,
        first: AdminRequest,
        engine: &mut Reconciler,
        reporter: &mut Reporter,
        synced: bool,
    ) {
        let began = Instant::now();
        let mut requests = vec![first.0];
        while requests.len() < MAX_WAITING
            && let Ok(request) = self.requests.try_recv()
        {
            requests.push(request);
        }
        if requests.iter().any(|request| matches!(request, Request::Status(_) | Request::Explain(..))) {
            reporter.socket_report(&engine.reconcile_sockets());
        }
        let mut status = None;
        // Whoever does not wait any more has closed the connection.
        for request in requests {
            match request {
                Request::Status(reply) => {
                    let status = status.get_or_insert_with(|| json(&self.status(engine, synced)));
                    let _ = reply.send(status.clone());
                }
                Request::Explain(ExplainRequest { protocol, port, pod }, reply) => {
                    let pod = pod.as_ref().map(|(namespace, name)| (namespace.as_str(), name.as_str()));
                    let scene = self.snapshot(engine);
                    let _ = reply.send(explain(&ExplainQuestion { protocol, port, pod }, &scene).map(Box::new));
                }
                Request::Watch { conflicts, reply } => {
                    let _ = reply.send(self.watchers.add(conflicts, self.sender.clone()));
                }
                Request::Left => {}
            }
        }
        self.update_report_policy(engine);
        self.cooldown_until = Instant::now() + began.elapsed().min(Duration::from_secs(1)) * COOLDOWN_FACTOR;
    }

    /// Attempts that the kernel told.
    pub(super) fn broadcast(&mut self, told: &KernelEvents) {
        self.watchers.tell(&told.reports, &self.about.node);
    }

    /// Every attempt is reported for as long as somebody watches all.
    fn update_report_policy(&mut self, engine: &Reconciler) {
        let mut policy = engine.policy();
        let wanted = self.about.reports_attempts || self.watchers.wants_all();
        if policy.report_attempts != wanted {
            policy.report_attempts = wanted;
            engine.set_policy(policy);
        }
    }

    fn snapshot<'a>(&'a self, engine: &'a Reconciler) -> NodeSnapshot<'a> {
        let now = now();
        NodeSnapshot {
            node: &self.about.node,
            index: engine.index(),
            holders: engine.holders(),
            policy: engine.policy(),
            overrule: ModeOverride { local: engine.node_mode(), stale: is_over(engine.lease_deadline(), now) },
            shared: &self.about.shared,
            now,
        }
    }

    fn status(&self, engine: &Reconciler, synced: bool) -> Status {
        let (counters, problems) = match engine.counters() {
            Ok(counters) => (Some(counters), Vec::new()),
            Err(error) => (None, vec![error.to_string()]),
        };
        let agent = AgentView {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: process::id(),
            since: self.about.since.clone(),
            source: self.about.source.clone(),
            synced,
            pods: engine.index().pod_count(),
            cgroup: engine.root().display().to_string(),
        };
        let facts = StatusInputs {
            agent: Some(agent),
            features: Some(self.about.abilities.clone()),
            lease_deadline: engine.lease_deadline(),
            attempts: &|verdict, reason, protocol| attempts(counters.as_ref(), verdict, reason, protocol),
            errors: &|error| errors(counters.as_ref(), error),
            problems,
        };
        Status::of(&self.snapshot(engine), facts)
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        drop(self.socket.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// A request that the loop is to answer.
pub(super) struct AdminRequest(Request);

fn attempts(counters: Option<&Counters>, verdict: VerdictKind, reason: Reason, protocol: Protocol) -> u64 {
    counters.map_or(0, |counters| counters.attempts(verdict, reason, protocol))
}

fn errors(counters: Option<&Counters>, error: KernelError) -> u64 {
    counters.map_or(0, |counters| counters.errors(error))
}

/// Whether a lease has ended.
fn is_over(deadline: u64, now: Now) -> bool {
    deadline != 0 && u128::from(deadline) < now.boottime.as_nanos()
}

fn json(value: &impl Serialize) -> Bytes {
    // Only a map whose keys are no text could fail.
    serde_json::to_vec(value).unwrap_or_default().into()
}
