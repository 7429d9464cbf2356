//! Shares of the space for records: a cgroup whose processes bind in a loop cannot crowd out the records of others.
//!
//! Who comes first may fill the first half. In the second half each cgroup has a share for each span of time, which is so
//! long that the agent reads once in it. A cgroup that wants more loses records, which are counted.

use core::ptr;

use crate::bpf::{context::clock::coarse_monotonic_ns, maps::RECORD_SHARES};

/// What records are written to, each with shares of its own: the first half of [`RECORD_SHARES`], and the other one.
#[derive(Clone, Copy)]
pub(crate) enum Lane {
    Verdicts = 0,
    Sockets = 1,
}

/// Elements of a lane in [`RECORD_SHARES`]. Cgroups are numbered in the order in which they were made, so that two of
/// one element are far apart.
pub(crate) const SHARES_PER_LANE: u32 = 1 << 10;

/// Records that a cgroup may write in the second half within one span.
const SHARE: u64 = 128;
/// Length of a span in nanoseconds, as a power of two: 67 ms, a bit more than the agent takes between two readings.
const SPAN_SHIFT: u32 = 26;

/// Counts a record of this cgroup. Returns `false` if the cgroup has no share left.
///
/// An element is the number of the span (32 bits), a part of the cgroup's id (16 bits) and a count (16 bits). A count may
/// be lost where two CPUs write at once: then the share is a bit larger.
#[inline(always)]
pub(crate) fn take_share(lane: Lane, cgroup: u64) -> bool {
    let place = lane as u32 * SHARES_PER_LANE + (cgroup as u32 & (SHARES_PER_LANE - 1));
    let Some(share) = RECORD_SHARES.get_ptr_mut(place) else {
        return false;
    };
    let mark = (coarse_monotonic_ns() >> SPAN_SHIFT) << 32 | (cgroup >> 10 & 0xffff) << 16;
    // SAFETY: an aligned word of the map's element.
    let word = unsafe { ptr::read_volatile(share) };
    let (found, count) = (word & !0xffff, word & 0xffff);
    if found >> 32 != mark >> 32 {
        // The first one in this span.
        // SAFETY: as above.
        unsafe { ptr::write_volatile(share, mark | 1) };
        return true;
    }
    if found != mark {
        // Another cgroup uses the element in this span. This one loses nothing by it.
        return true;
    }
    if count >= SHARE {
        return false;
    }
    // SAFETY: as above.
    unsafe { ptr::write_volatile(share, word + 1) };
    true
}
