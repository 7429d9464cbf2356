//! Which places of the kernel's `OWNERS` array are free.

use std::collections::VecDeque;

use enforcer_ebpf::wire::{MAX_OWNERS, Slot};

/// Hands out slots. A slot that was given back comes round again only after every other free one: a program that
/// still holds its number from before must find it free, not somebody else's.
#[derive(Debug)]
pub struct SlotAllocator {
    never_used: std::ops::Range<Slot>,
    given_back: VecDeque<Slot>,
}

impl Default for SlotAllocator {
    fn default() -> Self {
        Self::new(Slot::try_from(MAX_OWNERS).unwrap_or(Slot::MAX))
    }
}

impl SlotAllocator {
    /// Creates the slots 1 to `end` − 1.
    #[must_use]
    pub fn new(end: Slot) -> Self {
        Self { never_used: 1..end, given_back: VecDeque::new() }
    }

    /// Takes a free slot; `None` if all are in use.
    pub fn take(&mut self) -> Option<Slot> {
        self.never_used.next().or_else(|| self.given_back.pop_front())
    }

    /// Counts the slots that are taken.
    #[must_use]
    pub fn in_use(&self) -> usize {
        usize::from(self.never_used.start) - 1 - self.given_back.len()
    }

    /// Gives a slot back.
    pub fn give_back(&mut self, slot: Slot) {
        self.given_back.push_back(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_comes_round_last() {
        let mut slots = SlotAllocator::new(4);
        assert_eq!(slots.take(), Some(1));
        slots.give_back(1);
        assert_eq!((slots.take(), slots.take()), (Some(2), Some(3)));
        slots.give_back(3);
        assert_eq!(slots.in_use(), 1);
        assert_eq!((slots.take(), slots.take(), slots.take()), (Some(1), Some(3), None));
        assert_eq!(slots.in_use(), 3);
    }
}
