//! The table of holds (`PORT_HOLDS`): each port's holders, changed under the lock of the port's slot.
//!
//! Two processes that bind one port at the same time with `SO_REUSEPORT` (or, for UDP, `SO_REUSEADDR`) both succeed as
//! far as the kernel is concerned. Each takes the port in its slot under the lock, so that one of them is the first.
//!
//! A slot is made when a port is first held by more than one socket, or by one that takes no sole hold
//! ([`super::sole_hold`]), and stays. Nothing is decided here: see [`super::acquire`].

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::generated::{bpf_spin_lock as lock, bpf_spin_unlock as unlock},
};
use enforcer_ebpf::{
    decide::holds_overlap,
    verifier::HiddenU32,
    wire::{MAX_HOLDS_PER_PORT, PortHold, PortHolds, bpf_spin_lock},
};

use crate::bpf::maps::PORT_HOLDS;

/// Hold that a socket's bind takes: one port on some addresses, for one holder.
pub(super) struct HoldRequest {
    /// Index of the port: [`enforcer_ebpf::wire::port_index`].
    pub(super) port: u32,
    /// Holder, as in [`PortHold::holder`].
    pub(super) holder: u64,
    /// Address, as in [`PortHold::address`].
    pub(super) address: u64,
    /// Extent, as in [`PortHold::extent`].
    pub(super) extent: u32,
}

/// Condition under which [`HoldRequest::take`] takes the port.
#[derive(Clone, Copy)]
pub(super) struct Condition(u64);

impl Condition {
    /// The port is taken if no other holder is in the way.
    pub(super) const NO_CONFLICT: Self = Self(0);
    /// The port is taken in any case.
    pub(super) const NONE: Self = Self(2 << 32);

    /// Requires that no holder came or went since this version of the slot.
    #[inline(always)]
    pub(super) fn version_is(version: u32) -> Self {
        Self(VERSION_IS | u64::from(version))
    }
}

/// Mark of [`Condition::version_is`], with the version in the lower half.
const VERSION_IS: u64 = 1 << 32;

/// Answers of [`HoldRequest::take`]: the port is taken.
pub(super) const TAKEN: u32 = 0;
/// The condition does not hold.
pub(super) const REFUSED: u32 = 1;
/// The slot has no free place.
pub(super) const FULL: u32 = 2;
/// The port has no slot.
const NO_SLOT: u32 = 3;

impl HoldRequest {
    /// Takes the port under the slot's lock, if the condition holds. Returns [`TAKEN`], [`REFUSED`], [`FULL`] or
    /// [`NO_SLOT`].
    #[inline(always)]
    pub(super) fn take(&self, condition: Condition) -> u32 {
        pe_take(self.port, self.holder, self.address, self.extent, condition.0)
    }

    /// Does the same as [`Self::take`], and makes the port's slot first if there is none.
    #[inline(always)]
    pub(super) fn take_or_make_slot(&self, condition: Condition) -> u32 {
        let answer = self.take(condition);
        if answer != NO_SLOT {
            return answer;
        }
        insert_slot(self.port);
        self.take(condition)
    }

    /// Finds the first other holder in the way from a place of the slot on.
    #[inline(always)]
    pub(super) fn find_conflict(&self, from: u32) -> Conflict {
        Conflict(pe_in_the_way(self.port, self.holder, self.address, self.extent, from))
    }
}

/// Answer of [`HoldRequest::find_conflict`]: the holder, and in the upper bits its place plus 1; 0 for no holder.
/// Cgroup ids count up from 1.
#[derive(Clone, Copy)]
pub(super) struct Conflict(u64);

impl Conflict {
    const PLACE_SHIFT: u32 = 56;
    const HOLDER_MASK: u64 = (1 << Self::PLACE_SHIFT) - 1;

    /// Returns whether there is a holder in the way.
    #[inline(always)]
    pub(super) fn exists(self) -> bool {
        self.0 != 0
    }

    /// Returns [`PortHold::holder`] of that holder.
    #[inline(always)]
    pub(super) fn holder(self) -> u64 {
        self.0 & Self::HOLDER_MASK
    }

    /// Returns the place from which on to search for the next one.
    #[inline(always)]
    pub(super) fn next_place(self) -> u32 {
        (self.0 >> Self::PLACE_SHIFT) as u32
    }
}

/// Makes the slot of a port.
#[inline(always)]
fn insert_slot(port: u32) {
    // Another CPU may insert it at the same time: one of the two is refused, and finds the other's.
    #[expect(clippy::needless_borrows_for_generic_args, reason = "what is not borrowed is copied to the stack")]
    let _ = PORT_HOLDS.insert(port, &EMPTY_SLOT, BPF_NOEXIST.into());
}

/// A new slot. Not on the stack, of which it would take half.
#[unsafe(no_mangle)]
static EMPTY_SLOT: PortHolds = PortHolds {
    lock: bpf_spin_lock { val: 0 },
    version: 0,
    holds: [PortHold { holder: 0, address: 0, extent: 0, count: 0 }; 8],
};

/// Returns the version of a port's slot, which changes whenever a holder comes or goes; 0 if there is no slot.
#[inline(always)]
pub(super) fn slot_version(port: u32) -> u32 {
    let Some(slot) = PORT_HOLDS.get_ptr(port) else {
        return 0;
    };
    // SAFETY: an aligned word of the map's element.
    unsafe { (&raw const (*slot).version).read_volatile() }
}

/// Gives back one socket's hold: `count` is the port's index, as in [`super::socket_holds`].
#[inline(always)]
pub(super) fn give_back(held: &PortHold) {
    pe_give_back(held.count, held.holder, held.address, held.extent);
}

// The functions that take the lock are global functions with numbers as arguments: the verifier then checks each by
// itself, and not on every path that leads to it (`btf_prepare_func_args` in kernel/bpf/btf.c, since 5.6). Variables
// that are hidden from the verifier keep the number of states in their loops low.

/// A place that no slot has.
const NOWHERE: u32 = MAX_HOLDS_PER_PORT as u32;

/// Takes the port, or counts one more socket of a holder that has it already: that puts nobody new in the way of
/// others. See [`HoldRequest::take`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn pe_take(port: u32, holder: u64, address: u64, extent: u32, condition: u64) -> u32 {
    let Some(slot) = PORT_HOLDS.get_ptr_mut(port) else {
        return NO_SLOT;
    };
    let (mut others, mut own, mut free) = (HiddenU32::new(0), HiddenU32::new(NOWHERE), HiddenU32::new(NOWHERE));
    let answer;
    // SAFETY: the verifier checks that the lock is a map element's, and that no helper is called until it is released.
    // All accesses are of fields of the element, through raw pointers, as other CPUs use it before and after.
    unsafe {
        lock((&raw mut (*slot).lock).cast());
        for place in 0..MAX_HOLDS_PER_PORT {
            let hold = hold_at(slot, place);
            let by = (&raw const (*hold).holder).read_volatile();
            if by == 0 {
                free.set(place as u32);
                continue;
            }
            let there = ((&raw const (*hold).address).read_volatile(), (&raw const (*hold).extent).read_volatile());
            if by != holder {
                if holds_overlap(there, (address, extent)) {
                    others.set(1);
                }
            } else if there == (address, extent) {
                own.set(place as u32);
            }
        }
        let version = &raw mut (*slot).version;
        let may = condition == Condition::NONE.0
            || if condition == Condition::NO_CONFLICT.0 {
                others.get() == 0
            } else {
                condition as u32 == version.read_volatile()
            };
        if own.get() < NOWHERE {
            // The compiler drops a mask that its own knowledge makes superfluous, and the verifier needs it: so the
            // value is read again.
            let count = &raw mut (*hold_at(slot, own.get() as usize & (MAX_HOLDS_PER_PORT - 1))).count;
            count.write_volatile(count.read_volatile() + 1);
            answer = TAKEN;
        } else if !may {
            answer = REFUSED;
        } else if free.get() < NOWHERE {
            let hold = hold_at(slot, free.get() as usize & (MAX_HOLDS_PER_PORT - 1));
            (&raw mut (*hold).holder).write_volatile(holder);
            (&raw mut (*hold).address).write_volatile(address);
            (&raw mut (*hold).extent).write_volatile(extent);
            (&raw mut (*hold).count).write_volatile(1);
            version.write_volatile(version.read_volatile() + 1);
            answer = TAKEN;
        } else {
            answer = FULL;
        }
        unlock((&raw mut (*slot).lock).cast());
    }
    answer
}

/// Finds the first other holder in the way from a place on. See [`HoldRequest::find_conflict`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn pe_in_the_way(port: u32, holder: u64, address: u64, extent: u32, from: u32) -> u64 {
    let Some(slot) = PORT_HOLDS.get_ptr_mut(port) else {
        return 0;
    };
    let mut found = 0;
    // SAFETY: as in `pe_take`.
    unsafe {
        lock((&raw mut (*slot).lock).cast());
        for place in 0..MAX_HOLDS_PER_PORT {
            let hold = hold_at(slot, place);
            let by = (&raw const (*hold).holder).read_volatile();
            let there = ((&raw const (*hold).address).read_volatile(), (&raw const (*hold).extent).read_volatile());
            let is_other = place as u32 >= from && by != 0 && by != holder;
            if is_other && holds_overlap(there, (address, extent)) {
                found = by & Conflict::HOLDER_MASK | (place as u64 + 1) << Conflict::PLACE_SHIFT;
                break;
            }
        }
        unlock((&raw mut (*slot).lock).cast());
    }
    found
}

/// Gives back one socket of a holder. See [`give_back`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn pe_give_back(port: u32, holder: u64, address: u64, extent: u32) -> u32 {
    let Some(slot) = PORT_HOLDS.get_ptr_mut(port) else {
        return 0;
    };
    // SAFETY: as in `pe_take`.
    unsafe {
        lock((&raw mut (*slot).lock).cast());
        for place in 0..MAX_HOLDS_PER_PORT {
            let hold = hold_at(slot, place);
            let count = &raw mut (*hold).count;
            if (&raw const (*hold).holder).read_volatile() == holder
                && (&raw const (*hold).address).read_volatile() == address
                && (&raw const (*hold).extent).read_volatile() == extent
            {
                let left = count.read_volatile() - 1;
                count.write_volatile(left);
                if left == 0 {
                    (&raw mut (*hold).holder).write_volatile(0);
                    (&raw mut (*hold).address).write_volatile(0);
                    (&raw mut (*hold).extent).write_volatile(0);
                    let version = &raw mut (*slot).version;
                    version.write_volatile(version.read_volatile() + 1);
                }
                break;
            }
        }
        unlock((&raw mut (*slot).lock).cast());
    }
    0
}

/// Returns a place of a slot. It does not check the place: a check would call a panic function.
///
/// # Safety
///
/// `place` must be less than [`MAX_HOLDS_PER_PORT`].
#[inline(always)]
unsafe fn hold_at(slot: *mut PortHolds, place: usize) -> *mut PortHold {
    // SAFETY: within the element, as the caller vouches and the verifier checks.
    unsafe { (&raw mut (*slot).holds).cast::<PortHold>().add(place) }
}
