//! A watch: a stream of lines, from some version on.

use std::{
    collections::{BTreeMap, VecDeque},
    io, mem,
    sync::Arc,
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::{
    sync::Notify,
    task,
    time::{self, Instant},
};

use super::{
    fault::Interruption,
    request_attributes::{Options, Version},
    resource::Resource,
    serve::{Met, broken, delay, line},
    shared::{Happening, Inner, Open, Shared},
    status::{self, Refusal},
    store::{Change, shown},
};

/// Duration of a watch whose client does not say.
const TIMEOUT: Duration = Duration::from_mins(30);

/// Time between two bookmarks for those who asked for them.
const BOOKMARK: Duration = Duration::from_mins(1);

struct Watch {
    id: u64,
    shared: Arc<Shared>,
    resource: Resource,
    namespace: Option<String>,
    metadata_only: bool,
    options: Options,
    wake: Arc<Notify>,
    /// The changes up to this one were looked at.
    revision: u64,
    queue: VecDeque<Step>,
    /// Number of events to send before the connection is cut.
    left: Option<usize>,
    delay: Duration,
    end: Instant,
    bookmark: Instant,
    over: bool,
}

/// Item that is sent next.
enum Step {
    /// An event of this type with this object, which becomes a line when it is sent: a first list can be long.
    Event(&'static str, Arc<Value>),
    Line(Bytes),
    End,
}

/// Event of a stream, its fields in the order of a real server (`WatchEvent` in apimachinery/pkg/apis/meta/v1/watch.go).
#[derive(Serialize)]
struct WatchEvent<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    object: &'a Value,
}

impl Drop for Watch {
    fn drop(&mut self) {
        let id = self.id;
        self.shared.update(|inner| inner.watches.remove(&id));
    }
}

/// Starts a watch: the body of its answer.
pub(super) fn open(
    shared: &Arc<Shared>,
    resource: Resource,
    namespace: Option<&str>,
    metadata_only: bool,
    options: Options,
    met: Met,
) -> Result<Body, Refusal> {
    let now = Instant::now();
    let end = now + options.timeout.unwrap_or(TIMEOUT);
    let watch = shared.update(|inner| {
        let current = inner.store.revision();
        let revision = match options.version {
            Version::Newest | Version::Any => current,
            Version::NotOlderThan(wanted) | Version::Exact(wanted) if options.initial_events => {
                if wanted > current {
                    return Err(status::too_new(wanted, current));
                }
                current
            }
            Version::NotOlderThan(wanted) | Version::Exact(wanted) => wanted,
        };
        if revision < inner.store.compacted() && !inner.gone_in_stream {
            return Err(status::expired(too_old(inner, revision)));
        }
        inner.last_id += 1;
        let id = inner.last_id;
        let (namespace, selector) = (namespace.map(str::to_owned), Arc::new(options.selector.clone()));
        let wake = Arc::new(Notify::new());
        let open =
            Open { resource, namespace: namespace.clone(), selector, pending: Vec::new(), wake: Arc::clone(&wake) };
        inner.watches.insert(id, open);
        let mut watch = Watch {
            id,
            shared: Arc::clone(shared),
            resource,
            namespace,
            metadata_only,
            wake,
            revision,
            queue: VecDeque::new(),
            left: met.cut_watch_after,
            delay: met.delay_body,
            end,
            bookmark: now + BOOKMARK,
            over: false,
            options,
        };
        watch.begin(inner);
        Ok(watch)
    })?;
    Ok(Body::from_stream(stream::unfold(Box::new(watch), step)))
}

fn too_old(inner: &Inner, revision: u64) -> String {
    format!("too old resource version: {revision} ({})", inner.store.compacted())
}

async fn step(mut watch: Box<Watch>) -> Option<(io::Result<Bytes>, Box<Watch>)> {
    delay(mem::take(&mut watch.delay)).await;
    loop {
        if watch.over {
            return None;
        }
        if watch.refill() || watch.left == Some(0) {
            watch.over = true;
            // What was sent before goes out.
            task::yield_now().await;
            return Some((Err(broken()), watch));
        }
        let line = match watch.queue.pop_front() {
            Some(Step::Event(kind, object)) => line(&WatchEvent { kind, object: &shown(&object, watch.metadata_only) }),
            Some(Step::Line(line)) => line,
            Some(Step::End) => return None,
            None => {
                watch.wait().await;
                continue;
            }
        };
        watch.left = watch.left.map(|left| left - 1);
        return Some((Ok(line), watch));
    }
}

/// Returns what an empty status of a Node is in JSON: the fields that are never left out.
fn empty_node_status() -> Value {
    let info = ["architecture", "bootID", "containerRuntimeVersion", "kernelVersion", "kubeProxyVersion"];
    let info = info.into_iter().chain(["kubeletVersion", "machineID", "operatingSystem", "osImage", "systemUUID"]);
    let info: BTreeMap<_, _> = info.map(|field| (field, "")).collect();
    json!({"daemonEndpoints": {"kubeletEndpoint": {"Port": 0}}, "nodeInfo": info})
}

impl Watch {
    async fn wait(&mut self) {
        tokio::select! {
            () = self.wake.notified() => {}
            () = time::sleep_until(self.bookmark) => {
                self.bookmark += BOOKMARK;
                self.push_bookmark(false);
            }
            () = time::sleep_until(self.end) => {
                self.push_bookmark(false);
                self.queue.push_back(Step::End);
            }
        }
    }

    /// Puts what a watch starts with into the queue.
    fn begin(&mut self, inner: &Inner) {
        let synthetic = self.options.initial_events || matches!(self.options.version, Version::Newest | Version::Any);
        if synthetic {
            let (namespace, selector) = (self.namespace.clone(), self.options.selector.clone());
            for object in inner.store.selected(self.resource, namespace.as_deref(), &selector) {
                self.push("ADDED", object);
            }
        }
        if self.options.initial_events {
            self.push_bookmark(true);
        }
        match inner.store.since(self.revision) {
            Some(changes) => changes.for_each(|change| self.push_change(change)),
            None => self.push_gone(too_old(inner, self.revision)),
        }
    }

    fn push(&mut self, kind: &'static str, object: &Arc<Value>) {
        self.queue.push_back(Step::Event(kind, Arc::clone(object)));
    }

    fn push_gone(&mut self, message: String) {
        let status = serde_json::to_value(status::expired(message)).expect("a Status is JSON");
        self.queue.push_back(Step::Line(line(&WatchEvent { kind: "ERROR", object: &status })));
        self.queue.push_back(Step::End);
    }

    fn push_bookmark(&mut self, initial_events_end: bool) {
        if !self.options.bookmarks {
            return;
        }
        let mut metadata = json!({"resourceVersion": self.revision.to_string()});
        if initial_events_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let mut object = json!({
            "kind": self.resource.kind(),
            "apiVersion": self.resource.api_version(),
            "metadata": metadata,
        });
        match self.resource {
            Resource::Pods => (object["spec"], object["status"]) = (json!({"containers": null}), json!({})),
            Resource::Namespaces => (object["spec"], object["status"]) = (json!({}), json!({})),
            Resource::Nodes => (object["spec"], object["status"]) = (json!({}), empty_node_status()),
            Resource::Services => (object["spec"], object["status"]) = (json!({}), json!({"loadBalancer": {}})),
            Resource::Events => object["eventTime"] = Value::Null,
            // What nobody watches is refused before.
            _ => {}
        }
        self.push("BOOKMARK", &Arc::new(object));
    }

    /// Takes what happened into the queue; whether the connection is to be cut at once.
    fn refill(&mut self) -> bool {
        let mut inner = self.shared.lock();
        let pending = inner.watches.get_mut(&self.id).map(|open| mem::take(&mut open.pending));
        let revision = inner.store.revision();
        drop(inner);
        for happening in pending.unwrap_or_default() {
            let interruption = match happening {
                Happening::Change(change) => {
                    self.push_change(&change);
                    continue;
                }
                Happening::Interruption(interruption, then) => {
                    self.revision = self.revision.max(then);
                    interruption
                }
            };
            match interruption {
                Interruption::Cut => return true,
                Interruption::End => self.queue.push_back(Step::End),
                Interruption::Gone => self.push_gone("too old resource version".to_owned()),
                Interruption::Malformed => {
                    self.queue.push_back(Step::Line(Bytes::from_static(b"{\"type\":\"ADDED\",\"object\":}\n")));
                }
                Interruption::Bookmark => self.push_bookmark(false),
            }
        }
        // Changes that concern others were looked at too.
        self.revision = revision;
        false
    }

    /// Puts a change into the queue, as someone sees it who sees only what matches.
    fn push_change(&mut self, change: &Change) {
        if change.revision <= self.revision {
            return;
        }
        self.revision = change.revision;
        if !change.key.is_in(self.resource, self.namespace.as_deref()) {
            return;
        }
        let selector = &self.options.selector;
        let before = change.before.as_ref().filter(|object| selector.matches(object));
        let after = change.after.as_ref().filter(|object| selector.matches(object));
        match (before, after) {
            (None, None) => {}
            (None, Some(object)) => self.push("ADDED", object),
            (Some(_), Some(object)) => self.push("MODIFIED", object),
            (Some(object), None) => {
                // The last state that matched, at the version that took it away.
                let mut object = (**object).clone();
                object["metadata"]["resourceVersion"] = change.revision.to_string().into();
                self.push("DELETED", &Arc::new(object));
            }
        }
    }
}
