//! Records to the agent, in the rings.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::generated::bpf_ringbuf_query,
};
use enforcer_ebpf::{
    decide::Verdict,
    wire::{BindEvent, EventKind, KernelError, Protocol, ReleaseEvent, VERDICT_RING_BYTES},
};

use super::{
    context::{
        clock::{boottime_ns, coarse_monotonic_ns},
        task::write_task,
    },
    counters::count_error,
    maps::{SOCKET_RING, VERDICT_RING},
};

/// Least time between two wake-ups of the agent for the ring of sockets, in nanoseconds. The agent reads the ring again
/// so long after a wake-up without being woken.
const WAKEUP_INTERVAL_NS: u64 = 50_000_000;

/// The fields of a [`BindEvent`], without those of the calling task and the time.
pub(crate) struct BindFields {
    pub(crate) kind: EventKind,
    pub(crate) family: u8,
    pub(crate) protocol: Protocol,
    pub(crate) flags: u8,
    pub(crate) port: u16,
    pub(crate) verdict: Verdict,
    pub(crate) pod_cgroup: u64,
    pub(crate) socket: u64,
    pub(crate) release: u64,
    pub(crate) holder: u64,
    pub(crate) caller: u32,
    pub(crate) owner: u32,
    /// Four words in network byte order.
    pub(crate) address: [u32; 4],
}

/// The rings that take [`BindEvent`]s.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ring {
    /// Attempts that the agent reports. Each record has an exact time, and wakes the agent if it waits.
    Verdicts,
    /// Sockets that were bound or closed, and attempts that are of use only together with them. The records have a
    /// coarse time, and only some wake the agent: to wake it for each would cost more than the bind.
    Sockets,
}

/// Emits a record to a ring. Counts an error if the ring is full.
#[inline(always)]
pub(crate) fn emit_bind_event(ring: Ring, fields: &BindFields) {
    let reserved = if ring == Ring::Sockets { SOCKET_RING.reserve(0) } else { VERDICT_RING.reserve(0) };
    let Some(mut record) = reserved else {
        count_error(match ring {
            Ring::Sockets => KernelError::HolderEventLost,
            Ring::Verdicts => KernelError::BindEventLost,
        });
        return;
    };
    match ring {
        Ring::Sockets => {
            let now = coarse_monotonic_ns();
            write_bind_event(record.as_mut_ptr(), fields, now);
            record.submit(wakeup_flag(now).into());
        }
        Ring::Verdicts => {
            write_bind_event(record.as_mut_ptr(), fields, boottime_ns());
            record.submit(0);
        }
    }
}

/// Emits a record about a closed socket to [`Ring::Sockets`]. `release` identifies the socket:
/// [`ReleaseEvent::release`].
#[inline(always)]
pub(crate) fn emit_release(protocol: Protocol, port: u16, release: u64) {
    let Some(mut record) = SOCKET_RING.reserve_untyped::<ReleaseEvent>(0) else {
        count_error(KernelError::HolderEventLost);
        return;
    };
    let now = coarse_monotonic_ns();
    let event = record.as_mut_ptr();
    // SAFETY: `event` points to the record that was just reserved, of which every field is written before it is
    // submitted.
    unsafe {
        (*event).kind = EventKind::Released as u8;
        (*event).protocol = protocol as u8;
        (*event).port = port;
        (*event).padding = 0;
        (*event).time = now;
        (*event).release = release;
    }
    record.submit(wakeup_flag(now).into());
}

/// Returns the flag that wakes the agent, or the one that does not: at most one wake-up per [`WAKEUP_INTERVAL_NS`].
#[inline(always)]
fn wakeup_flag(now: u64) -> u32 {
    static mut LAST_WAKEUP: u64 = 0;
    // SAFETY: an aligned word that the programs alone use; of two that see it at once both wake the agent.
    let last = unsafe { ptr::read_volatile(&raw const LAST_WAKEUP) };
    if now.wrapping_sub(last) < WAKEUP_INTERVAL_NS {
        return BPF_RB_NO_WAKEUP;
    }
    // SAFETY: as above.
    unsafe { ptr::write_volatile(&raw mut LAST_WAKEUP, now) };
    BPF_RB_FORCE_WAKEUP
}

/// Returns whether the ring of verdicts has space for one more record at this moment. If it has none, as in a storm of
/// denied binds, the program need not collect what the record would contain.
#[inline(always)]
pub(crate) fn verdict_ring_has_space() -> bool {
    /// Size of the header that the kernel puts before each record (`BPF_RINGBUF_HDR_SZ` in include/uapi/linux/bpf.h).
    const HEADER: u64 = 8;
    const MAX_USED: u64 = VERDICT_RING_BYTES as u64 - 1 - HEADER - size_of::<BindEvent>() as u64;
    let ring = (&raw const VERDICT_RING).cast_mut().cast::<c_void>();
    // SAFETY: the verifier checks that the pointer is of a ring.
    unsafe { bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA.into()) <= MAX_USED }
}

/// Writes a record's fields one by one into the ring. A whole record on the stack beside everything else would exceed
/// the 512 bytes of a program.
#[inline(always)]
fn write_bind_event(event: *mut BindEvent, fields: &BindFields, time: u64) {
    // SAFETY: `event` points to the record that was just reserved, which has room for one `BindEvent`; every field is
    // written before the record is submitted.
    unsafe {
        (*event).kind = fields.kind as u8;
        (*event).family = fields.family;
        (*event).protocol = fields.protocol as u8;
        (*event).flags = fields.flags;
        (*event).port = fields.port;
        (*event).verdict = fields.verdict.kind as u8;
        (*event).reason = fields.verdict.reason as u8;
        (*event).time = time;
        (*event).pod_cgroup = fields.pod_cgroup;
        (*event).socket = fields.socket;
        (*event).release = fields.release;
        (*event).holder = fields.holder;
        (*event).caller = fields.caller;
        (*event).owner = fields.owner;
        let address: *mut [u32; 4] = (&raw mut (*event).address).cast();
        (*address)[0] = fields.address[0];
        (*address)[1] = fields.address[1];
        (*address)[2] = fields.address[2];
        (*address)[3] = fields.address[3];
        write_task(event);
    }
}
