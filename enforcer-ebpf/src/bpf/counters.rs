//! Exact counts of attempts and of errors, in `COUNTERS`.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use enforcer_ebpf::{
    decide::Verdict,
    wire::{KernelError, Protocol, counter, error_counter, unreported_counter},
};

use super::{holds::port_holders::LastAttempt, maps::COUNTERS};

#[inline(always)]
fn add(index: u32, number: u64) {
    if let Some(count) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: an aligned word of this CPU's element. Atomic, because another hook may preempt this one on the same
        // CPU.
        let _ = unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(count, number) };
    }
}

/// Counts an attempt that is reported, or that needs no report.
#[inline(always)]
pub(crate) fn count(verdict: &Verdict, protocol: Protocol) {
    add(counter(verdict.kind, verdict.reason, protocol), 1);
}

/// Counts an attempt that should be reported, and is not because the ring is full.
#[inline(always)]
pub(crate) fn count_unreported(verdict: &Verdict, protocol: Protocol) {
    add(unreported_counter(verdict.kind, verdict.reason, protocol), 1);
}

/// Takes back the count of an attempt, which is then counted again with another verdict.
///
/// The count wraps if another CPU counted the attempt, or if it was counted as unreported: only the sum is right.
#[inline(always)]
pub(crate) fn uncount(attempt: LastAttempt, protocol: Protocol) {
    add(attempt.counter(protocol), u64::MAX);
}

/// Counts an error of the programs themselves.
#[inline(always)]
pub(crate) fn count_error(error: KernelError) {
    add(error_counter(error), 1);
}
