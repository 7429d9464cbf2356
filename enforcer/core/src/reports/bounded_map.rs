//! A map of bounded size.

use std::{
    borrow::Cow,
    collections::{HashMap, VecDeque},
    hash::Hash,
};

/// Values by keys that tenants choose: at most so many, and the key that was new first goes first.
#[derive(Debug)]
pub(super) struct BoundedMap<K, V> {
    most: usize,
    values: HashMap<K, V>,
    order: VecDeque<K>,
}

impl<K: Clone + Eq + Hash, V: Default> BoundedMap<K, V> {
    pub(super) fn new(most: usize) -> Self {
        Self { most, values: HashMap::new(), order: VecDeque::new() }
    }

    /// Changes the value of a key, a default one if the key is new, and returns the result. A known key is looked up
    /// once and not cloned.
    pub(super) fn update<R>(&mut self, key: Cow<'_, K>, change: impl FnOnce(&mut V) -> R) -> R {
        if let Some(value) = self.values.get_mut(&*key) {
            return change(value);
        }
        if self.order.len() >= self.most
            && let Some(oldest) = self.order.pop_front()
        {
            self.values.remove(&oldest);
        }
        let key = key.into_owned();
        self.order.push_back(key.clone());
        change(self.values.entry(key).or_default())
    }

    /// Returns the values, in no order.
    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.values.values()
    }

    /// Removes all keys but those for which this holds.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&K, &V) -> bool) {
        self.values.retain(|key, value| keep(key, value));
        self.order.retain(|key| self.values.contains_key(key));
    }

    /// Returns the number of keys.
    pub(super) fn len(&self) -> usize {
        debug_assert_eq!(self.values.len(), self.order.len());
        self.values.len()
    }
}
