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
use serde_json::{Value, json};
use tokio::{
    sync::watch::Receiver,
    task,
    time::{self, Instant},
};

use super::{
    fault::Interruption,
    request_attributes::{Options, Version},
    resource::Resource,
    serve::{Met, broken, line},
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
    wake: Receiver<u64>,
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
    Line(Bytes),
    End,
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
        inner.watches.insert(id, Open { resource, pending: Vec::new() });
        let mut watch = Watch {
            id,
            shared: Arc::clone(shared),
            resource,
            namespace: namespace.map(str::to_owned),
            metadata_only,
            wake: shared.wake.subscribe(),
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
    time::sleep(mem::take(&mut watch.delay)).await;
    loop {
        if watch.over {
            return None;
        }
        watch.wake.borrow_and_update();
        if watch.refill() || watch.left == Some(0) {
            watch.over = true;
            // What was sent before goes out.
            task::yield_now().await;
            return Some((Err(broken()), watch));
        }
        match watch.queue.pop_front() {
            Some(Step::Line(line)) => {
                watch.left = watch.left.map(|left| left - 1);
                return Some((Ok(line), watch));
            }
            Some(Step::End) => return None,
            None => watch.wait().await,
        }
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
            changed = self.wake.changed() => {
                if changed.is_err() {
                    self.queue.push_back(Step::End);
                }
            }
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
            let namespace = self.namespace.clone();
            for (_, object) in inner.store.now().range(self.resource, namespace.as_deref(), None) {
                if self.options.selector.matches(object) {
                    self.push("ADDED", &shown(object, self.metadata_only));
                }
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

    fn push(&mut self, kind: &str, object: &Value) {
        self.queue.push_back(Step::Line(line(&json!({"type": kind, "object": object}))));
    }

    fn push_gone(&mut self, message: String) {
        let status = serde_json::to_value(status::expired(message)).expect("a Status is JSON");
        self.push("ERROR", &status);
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
        self.push("BOOKMARK", &shown(&object, self.metadata_only));
    }

    /// Takes what happened into the queue; whether the connection is to be cut at once.
    fn refill(&mut self) -> bool {
        let pending = self.shared.lock().watches.get_mut(&self.id).map(|open| mem::take(&mut open.pending));
        for happening in pending.unwrap_or_default() {
            match happening {
                Happening::Change(change) => self.push_change(&change),
                Happening::Interruption(Interruption::Cut) => return true,
                Happening::Interruption(Interruption::End) => self.queue.push_back(Step::End),
                Happening::Interruption(Interruption::Gone) => self.push_gone("too old resource version".to_owned()),
                Happening::Interruption(Interruption::Malformed) => {
                    self.queue.push_back(Step::Line(Bytes::from_static(b"{\"type\":\"ADDED\",\"object\":}\n")));
                }
                Happening::Interruption(Interruption::Bookmark) => self.push_bookmark(false),
            }
        }
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
        let before = change.before.as_deref().filter(|object| selector.matches(object));
        let after = change.after.as_deref().filter(|object| selector.matches(object));
        match (before, after) {
            (None, None) => {}
            (None, Some(object)) => self.push("ADDED", &shown(object, self.metadata_only)),
            (Some(_), Some(object)) => self.push("MODIFIED", &shown(object, self.metadata_only)),
            (Some(object), None) => {
                // The last state that matched, at the version that took it away.
                let mut object = shown(object, self.metadata_only);
                object["metadata"]["resourceVersion"] = change.revision.to_string().into();
                self.push("DELETED", &object);
            }
        }
    }
}
