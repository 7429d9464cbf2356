//! Publisher of the node's ledger: makes the calls that [`enforcer_core::ledger::schedule`] schedules, one at a time, in a
//! task of its own. Enforcement never waits for it.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use enforcer_api::{NodeHostPorts, NodeHostPortsSpec};
use enforcer_core::{
    ledger::{
        node_host_ports::NodeHostPortsStatus,
        schedule::{LedgerCall, LedgerOutcome, LedgerSchedule, NextLedgerCall},
    },
    model::text::message_with_causes,
};
use hyper::header::{ACCEPT, HeaderValue};
use k8s_openapi::{api::core::v1::Node, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{
    Api, Client, Resource as _, ResourceExt,
    api::{Patch, PatchParams, PostParams},
    core::{PartialObjectMeta, Status},
};
use serde_json::{Value, json};
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

/// Field manager of the agent.
const FIELD_MANAGER: &str = "port-enforcer";
/// Type of an answer that is the metadata of an object, as kube's calls for metadata ask for it.
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
/// Longest duration of a call.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// The content of the ledger: the agent sets it, the publisher takes calls out. A clone is the same.
#[derive(Clone, Debug)]
pub struct LedgerQueue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    schedule: Mutex<LedgerSchedule>,
    /// A content was set.
    more: Notify,
}

impl LedgerQueue {
    /// Returns a queue without a content.
    #[must_use]
    pub fn new() -> Self {
        // Another number in each process, as the map's hasher has it.
        let seed = RandomState::new().hash_one(0);
        let schedule = Mutex::new(LedgerSchedule::new(seed, clock::now().boottime));
        Self(Arc::new(Shared { schedule, more: Notify::new() }))
    }

    /// Sets the content, and wakes the publisher if the object has another one.
    pub fn set_content(&self, content: NodeHostPortsStatus) {
        let mut schedule = self.lock();
        if !schedule.is_written(&content) {
            self.0.more.notify_one();
        }
        schedule.set_content(content);
    }

    fn lock(&self) -> MutexGuard<'_, LedgerSchedule> {
        // A content is replaced as a whole: whatever a panic left there is still valid.
        self.0.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for LedgerQueue {
    fn default() -> Self {
        Self::new()
    }
}

/// Publishes until the agent ends.
pub(super) async fn publish(client: Client, node: String, queue: LedgerQueue, sender: UpdateSender) {
    let ledger = Ledger::new(&client, node);
    let mut failing = false;
    loop {
        let now = clock::now();
        // The lock is not held while anything is waited for.
        let next = queue.lock().poll_call(now.boottime, now.wall);
        let call = match next {
            NextLedgerCall::Call(call) => call,
            NextLedgerCall::Wait(at) => {
                tokio::select! {
                    () = sleep(at.saturating_sub(now.boottime)) => {}
                    () = queue.0.more.notified() => {}
                }
                continue;
            }
            NextLedgerCall::Nothing => {
                queue.0.more.notified().await;
                continue;
            }
        };
        let (outcome, error) = match timeout(CALL_TIMEOUT, ledger.make(&call)).await {
            Ok(Ok(version)) => (LedgerOutcome::Done { version }, None),
            Ok(Err(failure)) => (failure.outcome, failure.error),
            Err(_) => {
                let message = format!("no answer within {} s", CALL_TIMEOUT.as_secs());
                let error = ApiError::new(ApiResource::Ledger, ApiErrorKind::Unreachable, &message);
                (LedgerOutcome::Failed { retry_after: None }, Some(error))
            }
        };
        let is_written = matches!((&call, &outcome), (LedgerCall::Write(_), LedgerOutcome::Done { .. }));
        queue.lock().handle_outcome(&call, outcome, clock::now().boottime);
        let sent = match error {
            Some(error) => {
                failing = true;
                send_update(&sender, Update::ApiError(error)).await
            }
            None if is_written && std::mem::take(&mut failing) => {
                send_update(&sender, Update::ApiRecovered(ApiResource::Ledger)).await
            }
            None => Ok(()),
        };
        if let Err(Closed) = sent {
            return;
        }
    }
}

async fn send_update(sender: &UpdateSender, update: Update) -> Result<(), Closed> {
    sender.send(Instant::now(), update).await
}

/// A call that did not succeed.
struct FailedCall {
    outcome: LedgerOutcome,
    /// The error to report; `None` for what the next call repairs.
    error: Option<ApiError>,
}

impl FailedCall {
    fn new(outcome: LedgerOutcome, kind: ApiErrorKind, message: &str) -> Self {
        Self { outcome, error: Some(ApiError::new(ApiResource::Ledger, kind, message)) }
    }
}

/// The object of one node.
struct Ledger {
    client: Client,
    ledgers: Api<NodeHostPorts>,
    nodes: Api<Node>,
    node: String,
}

impl Ledger {
    fn new(client: &Client, node: String) -> Self {
        let client = client.clone();
        Self { ledgers: Api::all(client.clone()), nodes: Api::all(client.clone()), client, node }
    }

    /// Makes a call. Returns the version that the object has then.
    async fn make(&self, call: &LedgerCall) -> Result<String, FailedCall> {
        match call {
            LedgerCall::Create => self.create().await,
            LedgerCall::Write(status) => {
                let patch = Patch::Apply(json!({
                    "apiVersion": NodeHostPorts::api_version(&()),
                    "kind": NodeHostPorts::kind(&()),
                    "metadata": { "name": self.node },
                    "status": status,
                }));
                let written = self.write(&patch).await;
                written.map(|object| version_of(&object)).map_err(|error| failed(call, error))
            }
            LedgerCall::Look => {
                let seen = self.ledgers.get_metadata(&self.node).await;
                seen.map(|object| version_of(&object)).map_err(|error| failed(call, error))
            }
        }
    }

    /// Writes the status. The answer is the metadata: what was sent need not come back.
    async fn write(&self, patch: &Patch<Value>) -> kube::Result<PartialObjectMeta<NodeHostPorts>> {
        let resource = kube::core::Request::new(NodeHostPorts::url_path(&(), None));
        let request = resource.patch_subresource("status", &self.node, &params(), patch);
        let mut request = request.map_err(kube::Error::BuildRequest)?;
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static(METADATA));
        self.client.request(request).await
    }

    /// Creates the object if there is none. One that is there must belong to this Node: that of an earlier Node of the
    /// same name goes with it soon.
    async fn create(&self) -> Result<String, FailedCall> {
        let node = self.nodes.get_metadata(&self.node).await.map_err(|error| self.no_node(error))?;
        let owner = OwnerReference {
            api_version: Node::api_version(&()).into_owned(),
            kind: Node::kind(&()).into_owned(),
            name: self.node.clone(),
            uid: node.uid().unwrap_or_default(),
            ..OwnerReference::default()
        };
        match self.ledgers.get_metadata(&self.node).await {
            Ok(object) if object.owner_references().iter().any(|of| of.uid == owner.uid) => Ok(version_of(&object)),
            Ok(_) => {
                let message = format!(
                    "the object belongs to another Node than {} with the UID {}; delete it if it stays",
                    self.node, owner.uid
                );
                Err(FailedCall::new(LedgerOutcome::Conflict, ApiErrorKind::Conflict, &message))
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {
                let mut object = NodeHostPorts::new(&self.node, NodeHostPortsSpec {});
                object.metadata.owner_references = Some(vec![owner]);
                let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
                let created = self.ledgers.create(&params, &object).await;
                created.map(|object| version_of(&object)).map_err(|error| failed(&LedgerCall::Create, error))
            }
            Err(error) => Err(failed(&LedgerCall::Create, error)),
        }
    }

    fn no_node(&self, error: kube::Error) -> FailedCall {
        match error {
            kube::Error::Api(status) if status.code == 404 => {
                let message = format!("there is no Node {}", self.node);
                FailedCall::new(LedgerOutcome::Unavailable, ApiErrorKind::NotFound, &message)
            }
            error => failed(&LedgerCall::Create, error),
        }
    }
}

fn version_of(object: &impl ResourceExt) -> String {
    object.resource_version().unwrap_or_default()
}

/// The object is the agent's own: what somebody else wrote there is overwritten.
fn params() -> PatchParams {
    PatchParams::apply(FIELD_MANAGER).force()
}

fn failed(call: &LedgerCall, error: kube::Error) -> FailedCall {
    let status = match error {
        kube::Error::Api(status) => status,
        error => {
            let outcome = LedgerOutcome::Failed { retry_after: None };
            return FailedCall::new(outcome, kind_of_error(&error), &message_with_causes(&error));
        }
    };
    let Status { code, message, .. } = &*status;
    match code {
        // Deleted by hand, or with its Node: it is created anew.
        404 if !matches!(call, LedgerCall::Create) => FailedCall { outcome: LedgerOutcome::NotFound, error: None },
        404 => {
            FailedCall::new(LedgerOutcome::Unavailable, ApiErrorKind::NotFound, "the API server has no such objects")
        }
        403 => FailedCall::new(LedgerOutcome::Unavailable, ApiErrorKind::Forbidden, message),
        409 => FailedCall::new(LedgerOutcome::Conflict, ApiErrorKind::Conflict, message),
        413 => FailedCall::new(LedgerOutcome::TooLarge, ApiErrorKind::TooLarge, message),
        400 | 422 => FailedCall::new(LedgerOutcome::Unavailable, ApiErrorKind::Invalid, message),
        // So an apply is refused whose fields an older definition does not have (`typed.DeducedParseableType` and its
        // callers in structured-merge-diff).
        500 if message.contains("field not declared in schema") => {
            FailedCall::new(LedgerOutcome::Unavailable, ApiErrorKind::Invalid, message)
        }
        code => {
            let seconds = status.details.as_ref().map(|details| u64::from(details.retry_after_seconds));
            let retry_after = seconds.filter(|seconds| *seconds > 0).map(Duration::from_secs);
            FailedCall::new(LedgerOutcome::Failed { retry_after }, kind_of_status(*code), message)
        }
    }
}
