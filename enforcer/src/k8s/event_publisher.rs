//! Publisher of Events: makes the calls that [`enforcer_core::k8s_events`] schedules, one at a time, in a task of its
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
    model::text::{escape_bounded, message_with_causes},
};

use super::{
    error::{ApiError, ApiErrorKind, MAX_MESSAGE, kind_of_error, kind_of_status},
    resource::ApiResource,
    update_queue::{Closed, Update, UpdateSender},
};
use crate::host::clock;

/// Reporting controller of the Events.
const CONTROLLER: &str = "port-enforcer.io/agent";
/// Longest reporting instance that the API server accepts, in bytes.
const MAX_INSTANCE_BYTES: usize = 128;
/// Longest duration of a call.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Queue of Events: the agent puts occurrences in, the publisher takes calls out. A clone is the same queue.
#[derive(Clone, Debug)]
pub struct EventQueue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    events: Mutex<EventScheduler>,
    /// Something was put in.
    more: Notify,
}

impl EventQueue {
    /// Returns an empty queue for the node of this name.
    #[must_use]
    pub fn new(node: &str) -> Self {
        Self(Arc::new(Shared { events: Mutex::new(EventScheduler::new(node)), more: Notify::new() }))
    }

    /// Puts occurrences in and wakes the publisher.
    pub fn put(&self, put: impl FnOnce(&mut EventScheduler)) {
        put(&mut self.lock());
        self.0.more.notify_one();
    }

    /// Checks whether an Event waits for the name of its pod.
    #[must_use]
    pub fn waits_for_names(&self) -> bool {
        self.lock().waits_for_names()
    }

    /// Returns the number of occurrences that were dropped for this reason.
    #[must_use]
    pub fn dropped(&self, why: DropReason) -> u64 {
        self.lock().dropped(why)
    }

    fn lock(&self) -> MutexGuard<'_, EventScheduler> {
        // Events are bounded counts and texts: whatever a panic left there is still valid.
        self.0.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Publishes until the agent ends. `instance` is the name of the agent's own pod.
pub(super) async fn publish(client: Client, instance: String, queue: EventQueue, sender: UpdateSender) {
    let instance = instance[..instance.floor_char_boundary(MAX_INSTANCE_BYTES)].to_owned();
    let mut backoff = DefaultBackoff::default();
    let mut failing = false;
    loop {
        let now = clock::now();
        // The lock is not held while anything is waited for.
        let next = queue.lock().poll_call(now);
        let call = match next {
            NextCall::Call(call) => call,
            NextCall::Wait(at) => {
                tokio::select! {
                    () = sleep(at.saturating_sub(now.boottime)) => {}
                    () = queue.0.more.notified() => {}
                }
                continue;
            }
            NextCall::Nothing => {
                queue.0.more.notified().await;
                continue;
            }
        };
        let ended = match timeout(CALL_TIMEOUT, make(&client, &instance, call)).await {
            Ok(ended) => ended,
            Err(_) => Err(ApiError::new(
                ApiResource::Events,
                ApiErrorKind::Unreachable,
                &format!("no answer within {} s", CALL_TIMEOUT.as_secs()),
            )),
        };
        let sent = match ended {
            Ok(outcome) => {
                queue.lock().handle_outcome(outcome, clock::now());
                backoff.reset();
                if std::mem::take(&mut failing) {
                    send_update(&sender, Update::ApiRecovered(ApiResource::Events)).await
                } else {
                    Ok(())
                }
            }
            Err(error) => {
                queue.lock().handle_outcome(CallOutcome::Failed, clock::now());
                failing = true;
                let sent = send_update(&sender, Update::ApiError(error)).await;
                sleep(backoff.next().unwrap_or(CALL_TIMEOUT)).await;
                sent
            }
        };
        if let Err(Closed) = sent {
            return;
        }
    }
}

async fn send_update(sender: &UpdateSender, update: Update) -> Result<(), Closed> {
    sender.send(Instant::now(), update).await
}

/// Makes a call. Returns its outcome, or the error that makes a retry necessary.
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
            // For a new Event, the namespace is missing.
            404 => Ok(if new { CallOutcome::Refused } else { CallOutcome::NotFound }),
            409 => Ok(CallOutcome::NameTaken),
            // A namespace that is being deleted accepts no objects.
            403 if is_terminating(&status) => Ok(CallOutcome::Refused),
            400 | 413 | 422 => {
                let message = escape_bounded(&status.message, MAX_MESSAGE);
                tracing::error!(event = "event_refused", "the API server refuses the Event {about}: {message}");
                Ok(CallOutcome::Refused)
            }
            code => Err(ApiError::new(ApiResource::Events, kind_of_status(code), &status.message)),
        },
        Err(error) => Err(ApiError::new(ApiResource::Events, kind_of_error(&error), &message_with_causes(&error))),
    }
}

fn is_terminating(status: &Status) -> bool {
    let has_cause =
        status.details.iter().flat_map(|details| &details.causes).any(|cause| cause.reason == "NamespaceTerminating");
    // Older servers give no cause.
    has_cause || status.message.contains("because it is being terminated")
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
        EventObject::Service(name) => ("Service", Some(name.namespace.clone())),
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
    fn event_has_all_fields_that_the_server_requires() {
        let pod = |name: &str, mirror: Option<&str>| {
            EventObject::Pod(Name {
                namespace: "web".to_owned(),
                name: name.to_owned(),
                uid: format!("uid-of-{name}"),
                mirror: mirror.map(str::to_owned),
                handover: None,
                service: false,
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
    fn node_reference_has_no_namespace() {
        let node = reference(&EventObject::Node("node-1".to_owned()));
        assert_eq!((node.kind.as_deref(), node.namespace, node.uid.as_deref()), (Some("Node"), None, Some("node-1")));
    }
}
