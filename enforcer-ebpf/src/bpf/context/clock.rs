//! Clocks, in nanoseconds since boot.

use aya_ebpf::helpers::generated::{bpf_ktime_get_boot_ns, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns};

use crate::bpf::constants::HAS_COARSE_TIME;

/// Returns the time of the last tick in nanoseconds, sleep not included (`CLOCK_MONOTONIC_COARSE`).
///
/// Reading an exact clock costs ten times as much. Kernels before 5.11 have only that: there it is the exact time on
/// the same scale (`CLOCK_MONOTONIC`).
#[inline(always)]
pub(crate) fn coarse_monotonic_ns() -> u64 {
    // SAFETY: neither helper has a precondition; where the first is missing the verifier never sees it.
    unsafe { if HAS_COARSE_TIME.is_set() { bpf_ktime_get_coarse_ns() } else { bpf_ktime_get_ns() } }
}

/// Returns the exact time in nanoseconds, sleep included (`CLOCK_BOOTTIME`).
#[inline(always)]
pub(crate) fn boottime_ns() -> u64 {
    // SAFETY: the helper has no precondition.
    unsafe { bpf_ktime_get_boot_ns() }
}
