//! Numbers for keys, in the place of the keys.

use std::{collections::HashMap, hash::Hash};

/// Gives out numbers, equal for equal keys for as long as anybody holds them. 0 is never given out, and a number that was
/// let go only after every other one.
#[derive(Debug)]
pub(super) struct Interner<K> {
    numbers: HashMap<K, u32>,
    keys: HashMap<u32, (K, usize)>,
    last: u32,
    /// Greatest number. There must be fewer keys at once.
    most: u32,
}

impl<K> Default for Interner<K> {
    fn default() -> Self {
        Self::up_to(u32::MAX)
    }
}

impl<K> Interner<K> {
    /// Creates an empty one that gives out numbers up to this one.
    pub(super) fn up_to(most: u32) -> Self {
        Self { numbers: HashMap::new(), keys: HashMap::new(), last: 0, most }
    }
}

impl<K: Clone + Eq + Hash> Interner<K> {
    /// Returns the number of a key, held once more.
    pub(super) fn intern(&mut self, key: &K) -> u32 {
        if let Some(&number) = self.numbers.get(key) {
            self.hold(number);
            return number;
        }
        self.last = self.last % self.most + 1;
        while self.keys.contains_key(&self.last) {
            self.last = self.last % self.most + 1;
        }
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
    fn numbers_begin_anew_after_the_last_and_miss_those_that_are_held() {
        let mut interner = Interner::up_to(3);
        let numbers = ["a", "b"].map(|key| interner.intern(&key));
        assert_eq!(numbers, [1, 2]);
        interner.release(1);
        assert_eq!(interner.intern(&"c"), 3);
        assert_eq!(interner.intern(&"d"), 1, "2 is held");
    }
}
