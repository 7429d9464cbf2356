//! Publishes Events: makes the calls that [`core::events`](enforcer_core::k8s_events) asks for, one at a time, in a task of its
//! own. Enforcement never waits for it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event as ApiEvent},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
    core::Status,
    runtime::{utils::Backoff as _, watcher::DefaultBackoff},
};
use serde_json::json;
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use enforcer_core::{
    k8s_events::{Call, CallOutcome, DropReason, Event, EventObject, EventScheduler, NextCall},
    model::text::escape_bounded,
};

use crate::{
    host::clock,
    k8s::{
        ApiError, ApiErrorKind, MAX_MESSAGE, Resource, Update,
        watch::{Closed, Sender, chain, kind_of_error, kind_of_status},
    },
};

/// The name by which Events say who tells them.
const CONTROLLER: &str = "port-enforcer.io/agent";
/// Longest name of the one who tells them, in bytes: what the API server takes.
const MAX_INSTANCE: usize = 128;
/// How long a call may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is to be told: the agent puts it in, the publisher takes it out.
#[derive(Clone, Debug)]
pub struct EventQueue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    events: Mutex<EventScheduler>,
    /// There is more to tell.
    more: Notify,
}

impl EventQueue {
    /// An empty one, for the node of this name.
    #[must_use]
    pub fn new(node: &str) -> Self {
        Self(Arc::new(Shared { events: Mutex::new(EventScheduler::new(node)), more: Notify::new() }))
    }

    /// Puts something in.
    pub fn put(&self, put: impl FnOnce(&mut EventScheduler)) {
        put(&mut self.lock());
        self.0.more.notify_one();
    }

    /// Whether anybody waits for a name.
    #[must_use]
    pub fn waits_for_names(&self) -> bool {
        self.lock().waits_for_names()
    }

    /// How many things happened that no Event will tell of, for this cause.
    #[must_use]
    pub fn lost(&self, why: DropReason) -> u64 {
        self.lock().dropped(why)
    }

    fn lock(&self) -> MutexGuard<'_, EventScheduler> {
        // Events are bounded counts and texts: whatever a panic left there is still worth telling.
        self.0.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Publishes until the agent is gone. `instance` is the name of the agent's own pod.
pub(super) async fn publish(client: Client, instance: String, outbox: EventQueue, sender: Sender) {
    let instance = instance[..instance.floor_char_boundary(MAX_INSTANCE)].to_owned();
    let mut backoff = DefaultBackoff::default();
    let mut troubled = false;
    loop {
        let now = clock::now();
        // The lock is not held while anything is waited for.
        let next = outbox.lock().poll_call(now);
        let call = match next {
            NextCall::Call(call) => call,
            NextCall::Wait(at) => {
                tokio::select! {
                    () = sleep(at.saturating_sub(now.boottime)) => {}
                    () = outbox.0.more.notified() => {}
                }
                continue;
            }
            NextCall::Nothing => {
                outbox.0.more.notified().await;
                continue;
            }
        };
        let ended = match timeout(PATIENCE, make(&client, &instance, call)).await {
            Ok(ended) => ended,
            Err(_) => Err(ApiError::new(
                Resource::Events,
                ApiErrorKind::Unreachable,
                &format!("no answer within {} s", PATIENCE.as_secs()),
            )),
        };
        let told = match ended {
            Ok(outcome) => {
                outbox.lock().handle_outcome(outcome, clock::now());
                backoff.reset();
                if std::mem::take(&mut troubled) {
                    publish_call(&sender, Update::ApiRecovered(Resource::Events)).await
                } else {
                    Ok(())
                }
            }
            Err(trouble) => {
                outbox.lock().handle_outcome(CallOutcome::Failed, clock::now());
                troubled = true;
                let told = publish_call(&sender, Update::ApiError(trouble)).await;
                sleep(backoff.next().unwrap_or(PATIENCE)).await;
                told
            }
        };
        if let Err(Closed) = told {
            return;
        }
    }
}

async fn publish_call(sender: &Sender, update: Update) -> Result<(), Closed> {
    sender.send(Instant::now(), update).await
}

/// Makes a call: how it ended, or what is wrong with the API.
async fn make(client: &Client, instance: &str, call: Call) -> Result<CallOutcome, ApiError> {
    let new = matches!(call, Call::Create(_));
    let (ended, about) = match call {
        Call::Create(event) => {
            let about = format!("{}/{}", event.regarding.event_namespace(), event.name);
            let api: Api<ApiEvent> = Api::namespaced(client.clone(), event.regarding.event_namespace());
            (api.create(&PostParams::default(), &object(*event, instance)).await, about)
        }
        Call::Count { namespace, name, count, last } => {
            let api: Api<ApiEvent> = Api::namespaced(client.clone(), &namespace);
            let patch = json!({ "series": { "count": count, "lastObservedTime": micro_time(last) } });
            (api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await, format!("{namespace}/{name}"))
        }
    };
    match ended {
        Ok(_) => Ok(CallOutcome::Done),
        Err(kube::Error::Api(status)) => match status.code {
            // Of a new Event, it is the namespace that is not there.
            404 => Ok(if new { CallOutcome::Refused } else { CallOutcome::NotFound }),
            409 => Ok(CallOutcome::NameTaken),
            // A namespace on its way out takes no more objects.
            403 if is_terminating(&status) => Ok(CallOutcome::Refused),
            400 | 413 | 422 => {
                let message = escape_bounded(&status.message, MAX_MESSAGE);
                tracing::error!(event = "event_refused", "the API server refuses the Event {about}: {message}");
                Ok(CallOutcome::Refused)
            }
            code => Err(ApiError::new(Resource::Events, kind_of_status(code), &status.message)),
        },
        Err(error) => Err(ApiError::new(Resource::Events, kind_of_error(&error), &chain(&error))),
    }
}

fn is_terminating(status: &Status) -> bool {
    let told =
        status.details.iter().flat_map(|details| &details.causes).any(|cause| cause.reason == "NamespaceTerminating");
    // Older servers give no cause.
    told || status.message.contains("because it is being terminated")
}

fn micro_time(micros: i64) -> MicroTime {
    MicroTime(Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH))
}

fn object(event: Event, instance: &str) -> ApiEvent {
    let Event { name, regarding, related, reason, note, time } = event;
    ApiEvent {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(regarding.event_namespace().to_owned()),
            ..ObjectMeta::default()
        },
        action: Some(reason.action().to_owned()),
        event_time: Some(micro_time(time)),
        note: Some(note),
        reason: Some(reason.as_str().to_owned()),
        regarding: Some(reference(&regarding)),
        related: related.as_ref().map(reference),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(instance.to_owned()),
        type_: Some(if reason.is_normal() { "Normal" } else { "Warning" }.to_owned()),
        ..ApiEvent::default()
    }
}

fn reference(object: &EventObject) -> ObjectReference {
    let (kind, namespace) = match object {
        EventObject::Pod(name) => ("Pod", Some(name.namespace.clone())),
        // It has none, and its Events are in `default` all the same.
        EventObject::Node(_) => ("Node", None),
    };
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some(kind.to_owned()),
        name: Some(object.name().to_owned()),
        namespace,
        uid: Some(object.uid().to_owned()),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use enforcer_core::{k8s_events::EventReason, model::name::Name};

    #[test]
    fn an_event_says_all_that_the_server_wants() {
        let pod = |name: &str, mirror: Option<&str>| {
            EventObject::Pod(Name {
                namespace: "web".to_owned(),
                name: name.to_owned(),
                uid: format!("uid-of-{name}"),
                mirror: mirror.map(str::to_owned),
            })
        };
        let event = Event {
            name: "nginx.5".to_owned(),
            regarding: pod("nginx", Some("the-hash")),
            related: Some(pod("other", None)),
            reason: EventReason::PortClaimGranted,
            note: "a note".to_owned(),
            time: 1_790_000_000_000_001,
        };
        let object = serde_json::to_value(object(event, "agent-1")).unwrap();
        let expected = json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": { "name": "nginx.5", "namespace": "web" },
            "action": "Claim",
            "eventTime": "2026-09-21T14:13:20.000001Z",
            "note": "a note",
            "reason": "PortClaimGranted",
            "regarding": {
                "apiVersion": "v1", "kind": "Pod", "name": "nginx", "namespace": "web", "uid": "the-hash",
            },
            "related": {
                "apiVersion": "v1", "kind": "Pod", "name": "other", "namespace": "web", "uid": "uid-of-other",
            },
            "reportingController": "port-enforcer.io/agent",
            "reportingInstance": "agent-1",
            "type": "Normal",
        });
        assert_eq!(object, expected);
    }

    #[test]
    fn the_node_is_in_no_namespace() {
        let node = reference(&EventObject::Node("node-1".to_owned()));
        assert_eq!((node.kind.as_deref(), node.namespace, node.uid.as_deref()), (Some("Node"), None, Some("node-1")));
    }
}
