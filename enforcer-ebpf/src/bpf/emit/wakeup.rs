//! When a record wakes the agent. To wake it for each would cost more than the bind, if it sleeps on another CPU.

use core::ptr;

use aya_ebpf::bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};

/// Least time between two wake-ups of the agent for one ring, in nanoseconds. The agent reads the ring again so long
/// after a wake-up without being woken.
const INTERVAL_NS: u64 = 50_000_000;

/// The rings whose records wake the agent so seldom.
#[derive(Clone, Copy)]
pub(super) enum Pace {
    Verdicts,
    Sockets,
}

/// Returns whether a record of this time wakes the agent. The time is that of the last tick in nanoseconds.
#[inline(always)]
pub(super) fn is_due(pace: Pace, now: u64) -> bool {
    static mut LAST_WAKEUP: [u64; 2] = [0; 2];
    let last = (&raw mut LAST_WAKEUP).cast::<u64>().wrapping_add(pace as usize);
    // SAFETY: an aligned word of the array that the programs alone use; of two that see it at once both wake the agent.
    if now.wrapping_sub(unsafe { ptr::read_volatile(last) }) < INTERVAL_NS {
        return false;
    }
    // SAFETY: as above.
    unsafe { ptr::write_volatile(last, now) };
    true
}

/// Flag of a record that wakes the agent.
pub(super) const FORCED: u64 = BPF_RB_FORCE_WAKEUP as u64;

/// Returns the flag of a record that wakes the agent, or of one that does not.
#[inline(always)]
pub(super) fn flag(pace: Pace, now: u64) -> u64 {
    if is_due(pace, now) { FORCED } else { BPF_RB_NO_WAKEUP.into() }
}
