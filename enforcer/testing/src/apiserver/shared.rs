//! What the tests and the server share.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::http::Uri;
use serde_json::Value;
use tokio::sync::Notify;

use super::{
    custom_resource::Definition,
    fault::{Active, Interruption},
    request_attributes,
    resource::Resource,
    selector::Selector,
    store::{Change, Store},
};

/// Number of changes that are remembered unless a test says otherwise.
const HISTORY: usize = 16_384;

/// A request that reached the server, as role-based access control sees it.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub at: Instant,
    pub verb: String,
    pub group: String,
    /// Resource with the subresource, as in `pods/status`; the whole path where it is no resource.
    pub resource: String,
    pub namespace: Option<String>,
    pub name: Option<String>,
    /// Query as it was sent, percent-encoded.
    pub query: String,
    /// Size of the body; 0 where there is none.
    pub bytes: usize,
    /// Bytes of the answer's body that were sent so far: a watch sends more as long as it is open.
    pub sent: u64,
    /// Time when the last of them were sent.
    pub sent_at: Option<Instant>,
    /// User as whom it is made: the header `Impersonate-User`.
    pub impersonate: Option<String>,
    /// `None` as long as there is no answer.
    pub status: Option<u16>,
}

impl Recorded {
    pub(super) fn new(asked: &request_attributes::Asked, uri: &Uri, bytes: usize, impersonate: Option<&str>) -> Self {
        let request_attributes::Asked { verb, group, resource, namespace, name, .. } = asked.clone();
        let query = uri.query().unwrap_or_default().to_owned();
        let impersonate = impersonate.map(str::to_owned);
        let at = Instant::now();
        Self {
            at,
            verb,
            group,
            resource,
            namespace,
            name,
            query,
            bytes,
            sent: 0,
            sent_at: None,
            impersonate,
            status: None,
        }
    }
}

/// Change or interruption that an open watch meets.
#[derive(Clone, Debug)]
pub(super) enum Happening {
    Change(Change),
    /// An interruption at this version of the whole.
    Interruption(Interruption, u64),
}

/// An open watch.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) resource: Resource,
    pub(super) namespace: Option<String>,
    pub(super) selector: Arc<Selector>,
    pub(super) pending: Vec<Happening>,
    /// Wakes its task.
    pub(super) wake: Arc<Notify>,
}

impl Open {
    /// Checks whether the watch sends anything of a change. Thousands of watches can be open, and few are concerned.
    fn is_concerned(&self, change: &Change) -> bool {
        let matches =
            |object: &Option<Arc<Value>>| object.as_deref().is_some_and(|object| self.selector.matches(object));
        change.key.is_in(self.resource, self.namespace.as_deref())
            && (matches(&change.before) || matches(&change.after))
    }
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) store: Store,
    pub(super) faults: Vec<Active>,
    pub(super) requests: Vec<Recorded>,
    pub(super) watches: BTreeMap<u64, Open>,
    pub(super) last_id: u64,
    pub(super) streaming_lists: bool,
    /// Switch for the 410 of a watch from too old a version: in its stream, else as the status of its answer.
    pub(super) gone_in_stream: bool,
    /// The custom resource of the ledgers.
    pub(super) definition: Definition,
    /// API groups of policy reports that are served.
    pub(super) report_groups: BTreeSet<String>,
    /// Pairs of a verb and a resource: what the reader may do.
    pub(super) reader_rules: BTreeSet<(String, String)>,
}

impl Inner {
    /// Checks whether a resource is served: a built-in one always is, a custom one if its definition is installed.
    pub(super) fn serves(&self, resource: Resource) -> bool {
        match resource {
            Resource::NodeHostPorts => self.definition.installed,
            report if report.is_report() => self.report_groups.contains(report.group()),
            _ => true,
        }
    }

    pub(super) fn reader_may(&self, verb: &str, resource: &str) -> bool {
        self.reader_rules.contains(&(verb.to_owned(), resource.to_owned()))
    }
}

/// State that the tests and the server share.
#[derive(Debug)]
pub(super) struct Shared {
    inner: Mutex<Inner>,
    /// Counts the updates, for threads that wait.
    updates: Mutex<u64>,
    updated: Condvar,
}

impl Shared {
    /// Makes the state with nothing in it yet.
    pub(super) fn new() -> Self {
        let inner = Inner {
            store: Store::new(HISTORY),
            faults: Vec::new(),
            requests: Vec::new(),
            watches: BTreeMap::new(),
            last_id: 0,
            streaming_lists: true,
            gone_in_stream: true,
            definition: Definition::shipped(),
            report_groups: BTreeSet::new(),
            reader_rules: BTreeSet::new(),
        };
        Self { inner: Mutex::new(inner), updates: Mutex::default(), updated: Condvar::new() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something, and wakes the threads that wait for that and the watches that are concerned.
    pub(super) fn update<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.lock();
        let result = change(&mut inner);
        let Inner { store, watches, .. } = &mut *inner;
        for change in store.take_fresh() {
            for open in watches.values_mut().filter(|open| open.is_concerned(&change)) {
                open.pending.push(Happening::Change(change.clone()));
            }
        }
        for open in watches.values().filter(|open| !open.pending.is_empty()) {
            open.wake.notify_one();
        }
        drop(inner);
        *self.count() += 1;
        self.updated.notify_all();
        result
    }

    fn count(&self) -> MutexGuard<'_, u64> {
        self.updates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the updates so far.
    pub(super) fn updates(&self) -> u64 {
        *self.count()
    }

    /// Waits until there are more updates than were seen; whether that came in time.
    pub(super) fn wait_for_update(&self, seen: u64, at_most: Duration) -> bool {
        let waited = self.updated.wait_timeout_while(self.count(), at_most, |updates| *updates == seen);
        let (updates, result) = waited.unwrap_or_else(PoisonError::into_inner);
        drop(updates);
        !result.timed_out()
    }
}
