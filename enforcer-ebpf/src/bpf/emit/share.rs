//! Shares of the space for records, in `RECORD_SHARES`: [`enforcer_ebpf::record_share`].

use core::{ffi::c_void, ptr};

use aya_ebpf::{bindings::BPF_RB_AVAIL_DATA, btf_maps::RingBuf, helpers::generated::bpf_ringbuf_query};
use enforcer_ebpf::{
    record_share::{SHARES, is_half_free, share_index, take_share},
    wire::BindEvent,
};

use crate::bpf::{context::clock::coarse_monotonic_ns, maps::RECORD_SHARES};

/// What records are written to, each with shares of its own: the first half of [`RECORD_SHARES`], and the other one.
#[derive(Clone, Copy)]
pub(super) enum Lane {
    Verdicts = 0,
    Sockets = 1,
}

/// Number of lanes.
pub(crate) const LANES: u32 = 2;

/// Size of the header that the kernel puts before each record of a ring (`BPF_RINGBUF_HDR_SZ` in
/// include/uapi/linux/bpf.h).
const HEADER_BYTES: u64 = 8;

/// Returns whether a ring of so many bytes has space at this moment for one more record of whoever `cgroup` returns.
#[inline(always)]
pub(super) fn ring_has_space<const BYTES: usize>(
    ring: &RingBuf<BindEvent, BYTES>,
    bytes: u32,
    lane: Lane,
    cgroup: impl Fn() -> u64,
) -> bool {
    let longest = HEADER_BYTES + size_of::<BindEvent>() as u64;
    let ring = (&raw const *ring).cast_mut().cast::<c_void>();
    // SAFETY: the verifier checks that the pointer is of a ring.
    let used = unsafe { bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA.into()) };
    used < u64::from(bytes) - longest && may_use(used, bytes, lane, cgroup)
}

/// Returns whether a record may be written where so many of the bytes are in use. Past the half it takes a share of
/// whoever `cgroup` returns.
#[inline(always)]
pub(super) fn may_use(used: u64, bytes: u32, lane: Lane, cgroup: impl Fn() -> u64) -> bool {
    if is_half_free(used, bytes) {
        return true;
    }
    let cgroup = cgroup();
    let Some(share) = RECORD_SHARES.get_ptr_mut(lane as u32 * SHARES + share_index(cgroup)) else {
        return false;
    };
    // SAFETY: an aligned word of the map's element. Where two CPUs write at once a count may be lost: then the share is a
    // bit larger.
    let word = unsafe { ptr::read_volatile(share) };
    match take_share(word, cgroup, coarse_monotonic_ns()) {
        // SAFETY: as above.
        Some(taken) => unsafe { ptr::write_volatile(share, taken) },
        None => return false,
    }
    true
}
