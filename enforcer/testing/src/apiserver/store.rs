//! The objects, their versions, and a bounded memory of how they changed.

use std::{
    collections::{BTreeMap, VecDeque},
    mem, process,
    sync::Arc,
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

/// Kind of object that is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Resource {
    Pods,
    Namespaces,
    Events,
}

impl Resource {
    pub(super) const ALL: [Self; 3] = [Self::Pods, Self::Namespaces, Self::Events];

    pub(super) const fn plural(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Namespaces => "namespaces",
            Self::Events => "events",
        }
    }

    pub(super) const fn group(self) -> &'static str {
        match self {
            Self::Pods | Self::Namespaces => "",
            Self::Events => "events.k8s.io",
        }
    }

    pub(super) const fn api_version(self) -> &'static str {
        match self {
            Self::Pods | Self::Namespaces => "v1",
            Self::Events => "events.k8s.io/v1",
        }
    }

    pub(super) const fn kind(self) -> &'static str {
        match self {
            Self::Pods => "Pod",
            Self::Namespaces => "Namespace",
            Self::Events => "Event",
        }
    }

    /// Returns the verbs that are served; others are answered as if access control denied them.
    pub(super) const fn verbs(self) -> &'static [&'static str] {
        match self {
            Self::Pods | Self::Namespaces => &["get", "list", "watch"],
            Self::Events => &["create", "get", "list", "patch", "watch"],
        }
    }

    /// Returns the fields that a field selector may name.
    pub(super) const fn selectable(self) -> &'static [&'static str] {
        match self {
            Self::Pods => &["metadata.name", "metadata.namespace", "spec.nodeName"],
            Self::Namespaces => &["metadata.name"],
            Self::Events => &["metadata.name", "metadata.namespace"],
        }
    }
}

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

pub(super) type Objects = BTreeMap<Key, Arc<Value>>;

/// One change of one object.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) revision: u64,
    pub(super) key: Key,
    pub(super) before: Option<Arc<Value>>,
    pub(super) after: Option<Arc<Value>>,
}

#[derive(Debug)]
pub(super) struct Store {
    revision: u64,
    /// The changes up to this one are forgotten.
    compacted: u64,
    /// Number of changes that are remembered.
    capacity: usize,
    objects: Objects,
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

    pub(super) fn objects(&self) -> &Objects {
        &self.objects
    }

    /// Returns the objects and the versions at which they were created.
    pub(super) fn created(&self) -> impl Iterator<Item = (u64, &Key)> {
        self.created.iter().map(|(key, revision)| (*revision, key))
    }

    /// Returns the objects as they were at a version; `None` if that is no longer known.
    pub(super) fn at(&self, revision: u64) -> Option<Objects> {
        if revision < self.compacted {
            return None;
        }
        let mut objects = self.objects.clone();
        for change in self.history.iter().rev().take_while(|change| change.revision > revision) {
            match &change.before {
                Some(before) => objects.insert(change.key.clone(), Arc::clone(before)),
                None => objects.remove(&change.key),
            };
        }
        Some(objects)
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
        let revision = self.revision + 1;
        self.remember(Change { revision, key: key.clone(), before: Some(before), after: None });
        true
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
pub(super) fn shown(object: &Value, metadata_only: bool) -> Value {
    if metadata_only {
        json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
    } else {
        object.clone()
    }
}
