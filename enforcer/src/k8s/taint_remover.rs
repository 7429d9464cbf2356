//! Remover of the startup taint: reads the agent's own Node as [`enforcer_core::startup_taint`] schedules it, and removes
//! the taint, in a task of its own. Enforcement never waits for it.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use enforcer_core::{
    model::text::message_with_causes,
    startup_taint::{AttemptOutcome, NextAttempt, NodeRead, TaintEffect, TaintKey, TaintRemoval, TaintSchedule},
};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client,
    api::{GetParams, Patch, PatchParams},
    core::PartialObjectMeta,
};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use super::{
    error::{ApiError, ApiErrorKind, kind_of_error, kind_of_status},
    resource::ApiResource,
    update_queue::{Closed, Update, UpdateSender},
};
use crate::host::clock;

/// Longest duration of an attempt.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// What the agent lets the remover know. A clone is the same.
#[derive(Clone, Debug)]
pub struct TaintRemover(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    key: TaintKey,
    schedule: Mutex<TaintSchedule>,
    /// The agent judges binds, or does not any more.
    changed: Notify,
}

impl TaintRemover {
    /// Returns the remover of the taint with this key, of an agent that does not judge yet.
    #[must_use]
    pub fn new(key: TaintKey) -> Self {
        // Another number in each process, as the map's hasher has it.
        let schedule = Mutex::new(TaintSchedule::new(RandomState::new().hash_one(0)));
        Self(Arc::new(Shared { key, schedule, changed: Notify::new() }))
    }

    /// Sets whether the binds of the node's pods are judged.
    pub fn set_judges(&self, judges: bool) {
        if self.lock().set_judges(judges) {
            self.0.changed.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, TaintSchedule> {
        // A panic leaves no half of a schedule.
        self.0.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What became of the startup taint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaintNotice {
    /// Key of the taint.
    pub key: TaintKey,
    /// The effects of the taints that were removed; empty if the first look found none.
    pub effects: Vec<TaintEffect>,
}

/// Removes the taint until the agent ends.
pub(super) async fn remove(client: Client, node: String, remover: TaintRemover, sender: UpdateSender) {
    let own = OwnNode { nodes: Api::all(client), node, remover: remover.clone() };
    let (mut failing, mut has_looked) = (false, false);
    loop {
        let now = clock::now().boottime;
        // The lock is not held while anything is waited for.
        let next = remover.lock().poll(now);
        let read = match next {
            NextAttempt::Attempt(read) => read,
            NextAttempt::Wait(at) => {
                tokio::select! {
                    () = sleep(at.saturating_sub(now)) => {}
                    () = remover.0.changed.notified() => {}
                }
                continue;
            }
            NextAttempt::Nothing => {
                remover.0.changed.notified().await;
                continue;
            }
        };
        let (outcome, result) = match timeout(ATTEMPT_TIMEOUT, own.attempt(read)).await {
            Ok(Ok(effects)) if effects.is_empty() => (AttemptOutcome::Absent, Ok(effects)),
            Ok(Ok(effects)) => (AttemptOutcome::Removed, Ok(effects)),
            Ok(Err(FailedAttempt { outcome, error })) => (outcome, Err(error)),
            Err(_) => {
                let message = format!("no answer within {} s", ATTEMPT_TIMEOUT.as_secs());
                let error = ApiError::new(ApiResource::Nodes, ApiErrorKind::Unreachable, &message);
                (AttemptOutcome::Failed { retry_after: None }, Err(error))
            }
        };
        let is_reported = remover.lock().handle_outcome(outcome, clock::now().boottime);
        let mut updates = Vec::new();
        match result {
            Ok(effects) => {
                if std::mem::take(&mut failing) {
                    updates.push(Update::ApiRecovered(ApiResource::Nodes));
                }
                if !std::mem::replace(&mut has_looked, true) || !effects.is_empty() {
                    updates.push(Update::StartupTaint(TaintNotice { key: remover.0.key.clone(), effects }));
                }
            }
            Err(error) if is_reported => {
                failing = true;
                updates.push(Update::ApiError(error));
            }
            Err(_) => {}
        }
        for update in updates {
            if let Err(Closed) = sender.send(Instant::now(), update).await {
                return;
            }
        }
    }
}

/// An attempt that did not succeed.
struct FailedAttempt {
    outcome: AttemptOutcome,
    error: ApiError,
}

impl FailedAttempt {
    fn new(outcome: AttemptOutcome, kind: ApiErrorKind, message: &str) -> Self {
        Self { outcome, error: ApiError::new(ApiResource::Nodes, kind, message) }
    }
}

/// The agent's own Node.
struct OwnNode {
    nodes: Api<Node>,
    node: String,
    remover: TaintRemover,
}

impl OwnNode {
    /// Removes the taint if it is there. Returns the effects that it had.
    async fn attempt(&self, read: NodeRead) -> Result<Vec<TaintEffect>, FailedAttempt> {
        let params = match read {
            NodeRead::Fresh => GetParams::default(),
            NodeRead::Cached => GetParams::at("0"),
        };
        let node = self.nodes.get_with(&self.node, &params).await.map_err(|error| failed(error, false))?;
        let Some(TaintRemoval { effects, patch }) = TaintRemoval::of(&node, &self.remover.0.key) else {
            return Ok(Vec::new());
        };
        let patch = serde_json::from_value(patch).map_err(|error| failed(kube::Error::SerdeError(error), true))?;
        if !self.remover.lock().judges() {
            // The agent stopped in between. Nothing is attempted before it judges again.
            let (outcome, kind) = (AttemptOutcome::Failed { retry_after: None }, ApiErrorKind::Invalid);
            return Err(FailedAttempt::new(outcome, kind, "binds are not judged any more"));
        }
        let patch = Patch::Json::<()>(patch);
        let patched: kube::Result<PartialObjectMeta<Node>> =
            self.nodes.patch_metadata(&self.node, &PatchParams::default(), &patch).await;
        patched.map(|_| effects).map_err(|error| failed(error, true))
    }
}

/// Returns the failure of a read or of a write.
fn failed(error: kube::Error, is_write: bool) -> FailedAttempt {
    let status = match error {
        kube::Error::Api(status) => status,
        error => {
            let outcome = AttemptOutcome::Failed { retry_after: None };
            return FailedAttempt::new(outcome, kind_of_error(&error), &message_with_causes(&error));
        }
    };
    let message = &status.message;
    match status.code {
        // An operation `test` of the patch failed (`applyJSONPatch` in k8s.io/apiserver), or the storage saw two writers.
        409 | 422 if is_write => FailedAttempt::new(AttemptOutcome::Conflict, ApiErrorKind::Conflict, message),
        403 => FailedAttempt::new(AttemptOutcome::Unavailable, ApiErrorKind::Forbidden, message),
        404 => FailedAttempt::new(AttemptOutcome::Unavailable, ApiErrorKind::NotFound, message),
        code => {
            let seconds = status.details.as_ref().map(|details| u64::from(details.retry_after_seconds));
            let retry_after = seconds.filter(|seconds| *seconds > 0).map(Duration::from_secs);
            FailedAttempt::new(AttemptOutcome::Failed { retry_after }, kind_of_status(code), message)
        }
    }
}
