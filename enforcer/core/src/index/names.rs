//! Names, and numbers for them.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
};

use crate::model::{name::Name, owner::OwnerId};

/// Most deleted owners whose names are kept, so that an event that was on its way still finds it.
pub(super) const MAX_RECENT_NAMES: usize = 4096;

/// Names of deleted owners.
#[derive(Debug, Default)]
pub(super) struct RecentNames {
    names: HashMap<OwnerId, Name>,
    order: VecDeque<OwnerId>,
}

impl RecentNames {
    pub(super) fn remember(&mut self, id: OwnerId, name: Name) {
        if self.order.len() >= MAX_RECENT_NAMES
            && let Some(oldest) = self.order.pop_front()
        {
            self.names.remove(&oldest);
        }
        self.order.push_back(id);
        self.names.insert(id, name);
    }

    pub(super) fn name(&self, id: OwnerId) -> Option<&Name> {
        self.names.get(&id)
    }
}

/// Gives out numbers, equal for equal keys for as long as anybody holds them. 0 is never given out.
#[derive(Debug)]
pub(super) struct Interner<K> {
    numbers: HashMap<K, u32>,
    keys: HashMap<u32, (K, usize)>,
    last: u32,
}

impl<K> Default for Interner<K> {
    fn default() -> Self {
        Self { numbers: HashMap::new(), keys: HashMap::new(), last: 0 }
    }
}

impl<K: Clone + Eq + Hash> Interner<K> {
    /// Returns the number of a key, held once more.
    pub(super) fn intern(&mut self, key: &K) -> u32 {
        if let Some(&number) = self.numbers.get(key) {
            self.hold(number);
            return number;
        }
        self.last += 1;
        self.numbers.insert(key.clone(), self.last);
        self.keys.insert(self.last, (key.clone(), 1));
        self.last
    }

    /// Returns the key of a number that is held.
    pub(super) fn key(&self, number: u32) -> Option<&K> {
        self.keys.get(&number).map(|(key, _)| key)
    }

    /// Holds a number once more.
    pub(super) fn hold(&mut self, number: u32) {
        if let Some((_, holders)) = self.keys.get_mut(&number) {
            *holders += 1;
        }
    }

    /// Lets a number go once.
    pub(super) fn release(&mut self, number: u32) {
        let Some((_, holders)) = self.keys.get_mut(&number) else {
            return;
        };
        *holders -= 1;
        if *holders == 0
            && let Some((key, _)) = self.keys.remove(&number)
        {
            self.numbers.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_last_as_long_as_they_are_held() {
        let mut interner = Interner::default();
        let one = interner.intern(&"a");
        assert_eq!(interner.intern(&"a"), one);
        let other = interner.intern(&"b");
        assert_ne!(one, other);
        interner.release(one);
        assert_eq!(interner.intern(&"a"), one, "still held once");
        interner.release(one);
        interner.release(one);
        assert!(!interner.keys.contains_key(&one));
        assert!(interner.intern(&"a") > other, "a number is never given out for another key");
    }

    #[test]
    fn the_past_is_bounded() {
        let mut past = RecentNames::default();
        let id = |number| OwnerId::new(number).unwrap();
        for number in 1..=u32::try_from(MAX_RECENT_NAMES).unwrap() + 1 {
            past.remember(id(number), Name::node());
        }
        assert_eq!(past.name(id(1)), None);
        assert!(past.name(id(2)).is_some());
        assert_eq!(past.names.len(), MAX_RECENT_NAMES);
    }
}
