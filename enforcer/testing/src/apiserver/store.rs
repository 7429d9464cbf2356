//! The objects, their versions, and a bounded memory of how they changed.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, VecDeque},
    iter, mem,
    ops::Bound,
    process,
    sync::Arc,
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::{resource::Resource, selector::Selector};

/// Place of an object: the order of the keys is the order of lists.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) resource: Resource,
    /// Empty for what is in no namespace.
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Key {
    pub(super) fn new(resource: Resource, namespace: &str, name: &str) -> Self {
        Self { resource, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    pub(super) fn namespace(name: &str) -> Self {
        Self::new(Resource::Namespaces, "", name)
    }

    /// Checks whether it is in what a list or a watch of these covers.
    pub(super) fn is_in(&self, resource: Resource, namespace: Option<&str>) -> bool {
        self.resource == resource && namespace.is_none_or(|namespace| self.namespace == namespace)
    }
}

type Objects = BTreeMap<Key, Arc<Value>>;

/// One change of one object.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) revision: u64,
    pub(super) key: Key,
    pub(super) before: Option<Arc<Value>>,
    pub(super) after: Option<Arc<Value>>,
}

/// The objects as they are or were at one version.
#[derive(Debug)]
pub(super) struct View<'a> {
    store: &'a Store,
    /// What those that changed since were then.
    changed: BTreeMap<&'a Key, Option<&'a Arc<Value>>>,
}

impl<'a> View<'a> {
    /// Returns the objects in the order of their keys, those after one key only. Costs what is taken of it, and the
    /// changes since: a page of a long list must not cost the list.
    pub(super) fn range(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        after: Option<&Key>,
    ) -> impl Iterator<Item = (&'a Key, &'a Arc<Value>)> {
        let first = Key::new(resource, namespace.unwrap_or_default(), "");
        let begin = after.filter(|after| **after >= first).map_or(Bound::Included(&first), Bound::Excluded);
        let present = self.store.objects.range((begin, Bound::Unbounded));
        let mut present = present.take_while(move |(key, _)| key.is_in(resource, namespace)).peekable();
        let changed = self.changed.iter().map(|(key, before)| (*key, *before));
        let changed = changed.filter(move |(key, _)| key.is_in(resource, namespace));
        let mut changed = changed.filter(move |(key, _)| after.is_none_or(|after| *key > after)).peekable();
        iter::from_fn(move || {
            loop {
                match (present.peek(), changed.peek()) {
                    (_, None) => return present.next(),
                    (Some((now, _)), Some((then, _))) if now < then => return present.next(),
                    _ => {}
                }
                let (key, before) = changed.next()?;
                present.next_if(|(now, _)| *now == key);
                if let Some(before) = before {
                    return Some((key, before));
                }
            }
        })
    }

    /// Counts the objects, without a look at each.
    pub(super) fn count(&self, resource: Resource, namespace: Option<&str>) -> usize {
        let counts = self.store.counts.range((resource, namespace.unwrap_or_default().to_owned())..);
        let counts = counts
            .take_while(|((of, within), _)| *of == resource && namespace.is_none_or(|namespace| within == namespace));
        let now: usize = counts.map(|(_, count)| count).sum();
        let changed = self.changed.iter().filter(|(key, _)| key.is_in(resource, namespace));
        changed.fold(now, |count, (key, before)| {
            count + usize::from(before.is_some()) - usize::from(self.store.objects.contains_key(*key))
        })
    }
}

#[derive(Debug)]
pub(super) struct Store {
    revision: u64,
    /// The changes up to this one are forgotten.
    compacted: u64,
    /// Number of changes that are remembered.
    capacity: usize,
    objects: Objects,
    /// Number of objects of each resource in each namespace.
    counts: BTreeMap<(Resource, String), usize>,
    /// Places of the pods of each node: the cache of a real server has this index too.
    on_node: BTreeMap<String, BTreeSet<Key>>,
    /// Version at which each was created.
    created: BTreeMap<Key, u64>,
    history: VecDeque<Change>,
    /// Changes that the open watches did not get yet.
    fresh: Vec<Change>,
}

impl Store {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            revision: 1,
            compacted: 1,
            capacity,
            objects: Objects::new(),
            counts: BTreeMap::new(),
            on_node: BTreeMap::new(),
            created: BTreeMap::new(),
            history: VecDeque::new(),
            fresh: Vec::new(),
        }
    }

    /// Returns the version of the whole.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// Returns the oldest version that is still known.
    pub(super) fn compacted(&self) -> u64 {
        self.compacted
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Arc<Value>> {
        self.objects.get(key)
    }

    /// Returns the places of all that a namespace holds.
    pub(super) fn keys_in(&self, namespace: &str) -> Vec<Key> {
        self.objects.keys().filter(|key| key.namespace == namespace).cloned().collect()
    }

    /// Returns the objects of a resource, each with the version at which it was created.
    pub(super) fn created(&self, resource: Resource) -> impl Iterator<Item = (u64, &Key)> {
        let keys = self.created.range(Key::new(resource, "", "")..);
        keys.take_while(move |(key, _)| key.resource == resource).map(|(key, revision)| (*revision, key))
    }

    /// Returns the objects that a selector lets through, as they are. Does not look at the pods of other nodes.
    pub(super) fn selected(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        selector: &Selector,
    ) -> Vec<&Arc<Value>> {
        let matches = |object: &&Arc<Value>| selector.matches(object);
        match selector.field("spec.nodeName").filter(|_| resource == Resource::Pods) {
            Some(node) => {
                let keys = self.on_node.get(node).into_iter().flatten();
                let objects = keys.filter(|key| key.is_in(resource, namespace)).filter_map(|key| self.objects.get(key));
                objects.filter(matches).collect()
            }
            None => self.now().range(resource, namespace, None).map(|(_, object)| object).filter(matches).collect(),
        }
    }

    /// Returns the objects as they are.
    pub(super) fn now(&self) -> View<'_> {
        View { store: self, changed: BTreeMap::new() }
    }

    /// Returns the objects as they were at a version; `None` if that is no longer known.
    pub(super) fn at(&self, revision: u64) -> Option<View<'_>> {
        let later = self.history.iter().rev().take_while(|change| change.revision > revision);
        // Of several changes of an object the first one counts, which comes last.
        let changed = later.map(|change| (&change.key, change.before.as_ref())).collect();
        (revision >= self.compacted).then_some(View { store: self, changed })
    }

    /// Returns the changes after a version, oldest first; `None` if they are no longer known.
    pub(super) fn since(&self, revision: u64) -> Option<impl Iterator<Item = &Change>> {
        let first = self.history.partition_point(|change| change.revision <= revision);
        (revision >= self.compacted).then(|| self.history.range(first..))
    }

    /// Puts an object in its place, as new or as an edit; gives back what is stored. An edit that changes nothing is
    /// none.
    pub(super) fn put(&mut self, key: Key, mut object: Value) -> Arc<Value> {
        let before = self.objects.get(&key).cloned();
        let revision = self.revision + 1;
        let metadata = &mut object["metadata"];
        if let Some(before) = &before {
            for kept in ["uid", "creationTimestamp", "resourceVersion"] {
                metadata[kept] = before["metadata"][kept].clone();
            }
            // Who was asked to go cannot be asked to stay.
            for kept in ["deletionTimestamp", "deletionGracePeriodSeconds"] {
                if !before["metadata"][kept].is_null() {
                    metadata[kept] = before["metadata"][kept].clone();
                }
            }
            if object == **before {
                return Arc::clone(before);
            }
        } else {
            self.created.insert(key.clone(), revision);
            *self.counts.entry((key.resource, key.namespace.clone())).or_default() += 1;
            if metadata["uid"].is_null() {
                metadata["uid"] = format!("{:08x}-0000-4000-8000-{revision:012x}", process::id()).into();
            }
            if metadata["creationTimestamp"].is_null() {
                metadata["creationTimestamp"] = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into();
            }
        }
        object["metadata"]["resourceVersion"] = revision.to_string().into();
        let after = Arc::new(object);
        self.objects.insert(key.clone(), Arc::clone(&after));
        self.index_node(&key, before.as_deref(), Some(&after));
        self.remember(Change { revision, key, before, after: Some(Arc::clone(&after)) });
        after
    }

    /// Notes in an object by when it is to be gone, in seconds from now.
    pub(super) fn ask_to_go(&mut self, key: Key, grace: u64) -> Arc<Value> {
        let mut object = self.objects[&key].as_ref().clone();
        let by = Timestamp::now() + Duration::from_secs(grace);
        object["metadata"]["deletionTimestamp"] = by.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into();
        object["metadata"]["deletionGracePeriodSeconds"] = grace.into();
        self.put(key, object)
    }

    /// Takes an object away; whether it was there.
    pub(super) fn remove(&mut self, key: &Key) -> bool {
        let Some(before) = self.objects.remove(key) else { return false };
        self.created.remove(key);
        self.index_node(key, Some(&before), None);
        *self.counts.get_mut(&(key.resource, key.namespace.clone())).expect("it was counted") -= 1;
        let revision = self.revision + 1;
        self.remember(Change { revision, key: key.clone(), before: Some(before), after: None });
        true
    }

    fn index_node(&mut self, key: &Key, before: Option<&Value>, after: Option<&Value>) {
        if key.resource != Resource::Pods {
            return;
        }
        let node = |object: &Value| object["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
        if let Some(keys) = before.and_then(|object| self.on_node.get_mut(&node(object))) {
            keys.remove(key);
        }
        if let Some(object) = after {
            self.on_node.entry(node(object)).or_default().insert(key.clone());
        }
    }

    fn remember(&mut self, change: Change) {
        self.revision = change.revision;
        self.fresh.push(change.clone());
        self.history.push_back(change);
        self.trim();
    }

    /// Takes the changes since this was last asked.
    pub(super) fn take_fresh(&mut self) -> Vec<Change> {
        mem::take(&mut self.fresh)
    }

    /// Remembers so many changes from now on.
    pub(super) fn set_capacity(&mut self, capacity: usize) {
        self.capacity = capacity;
        self.trim();
    }

    /// Forgets every change, as etcd does with old ones every five minutes.
    pub(super) fn compact(&mut self) {
        self.history.clear();
        self.compacted = self.revision;
    }

    fn trim(&mut self) {
        while self.history.len() > self.capacity {
            if let Some(change) = self.history.pop_front() {
                self.compacted = change.revision;
            }
        }
    }
}

/// Returns an object in the form that was asked for.
pub(super) fn shown(object: &Value, metadata_only: bool) -> Cow<'_, Value> {
    if metadata_only {
        let (kind, version) = ("PartialObjectMetadata", "meta.k8s.io/v1");
        Cow::Owned(json!({"kind": kind, "apiVersion": version, "metadata": object["metadata"]}))
    } else {
        Cow::Borrowed(object)
    }
}
