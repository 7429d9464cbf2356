//! What goes out: counts and records.

use core::{
    ffi::c_void,
    intrinsics::{AtomicOrdering, atomic_xadd},
    ptr,
};

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::generated::{bpf_ktime_get_boot_ns, bpf_ringbuf_query},
};
use enforcer_ebpf::{
    abi::{
        BIND_RING_BYTES, BindEvent, EventKind, KernelError, Protocol, Reason, ReleaseEvent, VerdictKind, counter,
        error_counter, untold_counter,
    },
    decide::Verdict,
};

use super::{
    context::config::coarse_time,
    context::task,
    maps::{BIND_EVENTS, COUNTERS, HOLDER_EVENTS},
};

/// How long after it was woken for a holder the agent looks again by itself, at least: until then nobody wakes it. In
/// nanoseconds.
const QUIET: u64 = 50_000_000;

#[inline(always)]
fn add(index: u32, number: u64) {
    if let Some(count) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: an aligned word of this CPU's element. Atomic, because another hook may preempt this one on the same
        // CPU.
        let _ = unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(count, number) };
    }
}

/// Counts an attempt.
#[inline(always)]
pub(crate) fn count(verdict: &Verdict, protocol: Protocol) {
    add(counter(verdict.kind, verdict.reason, protocol), 1);
}

/// Counts an attempt that should be told, and for which there is no room.
#[inline(always)]
pub(crate) fn count_untold(verdict: &Verdict, protocol: Protocol) {
    add(untold_counter(verdict.kind, verdict.reason, protocol), 1);
}

/// Takes back the count of the attempt that a port was last asked for by ([`enforcer_ebpf::abi::Mark::asked`]): it is
/// counted anew. The sum over the CPUs wraps, and that with what was not told.
#[inline(always)]
pub(crate) fn uncount(asked: u64, protocol: Protocol) {
    add(counter(VerdictKind::Allow, Reason::Owner, protocol) + (asked as u32).wrapping_sub(1), u64::MAX);
}

/// Counts an error of the programs' own.
#[inline(always)]
pub(crate) fn count_error(error: KernelError) {
    add(error_counter(error), 1);
}

/// What a record tells beside the facts of the calling task.
pub(crate) struct Facts {
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
    /// Four words, each as the kernel has it.
    pub(crate) address: [u32; 4],
}

/// Sends a record about an attempt or, to the other ring, about a holder. To wake the agent for each of the latter would
/// cost more than the bind.
#[inline(always)]
pub(crate) fn send(facts: &Facts, about_holder: bool) {
    let reserved = if about_holder { HOLDER_EVENTS.reserve(0) } else { BIND_EVENTS.reserve(0) };
    let Some(mut record) = reserved else {
        count_error(if about_holder { KernelError::HolderEventLost } else { KernelError::BindEventLost });
        return;
    };
    if about_holder {
        let now = coarse_time();
        fill(record.as_mut_ptr(), facts, now);
        record.submit(wake(now).into());
    } else {
        // SAFETY: the helper has no precondition.
        fill(record.as_mut_ptr(), facts, unsafe { bpf_ktime_get_boot_ns() });
        record.submit(0);
    }
}

/// Sends a record about a socket that is closed: [`ReleaseEvent::release`] says which.
#[inline(always)]
pub(crate) fn send_release(protocol: Protocol, port: u16, release: u64) {
    let Some(mut record) = HOLDER_EVENTS.reserve_untyped::<ReleaseEvent>(0) else {
        count_error(KernelError::HolderEventLost);
        return;
    };
    let now = coarse_time();
    let event = record.as_mut_ptr();
    // SAFETY: `event` points to the record that was just reserved, of which every field is written before it is submitted.
    unsafe {
        (*event).kind = EventKind::Released as u8;
        (*event).protocol = protocol as u8;
        (*event).port = port;
        (*event).padding = 0;
        (*event).time = now;
        (*event).release = release;
    }
    record.submit(wake(now).into());
}

/// Whether to wake the agent: at most once in a while, see [`QUIET`].
#[inline(always)]
fn wake(now: u64) -> u32 {
    static mut WOKEN: u64 = 0;
    // SAFETY: an aligned word that the programs alone use; of two that see it at once both wake the agent.
    let woken = unsafe { ptr::read_volatile(&raw const WOKEN) };
    if now.wrapping_sub(woken) < QUIET {
        return BPF_RB_NO_WAKEUP;
    }
    // SAFETY: as above.
    unsafe { ptr::write_volatile(&raw mut WOKEN, now) };
    BPF_RB_FORCE_WAKEUP
}

/// Whether there is room for one more record about an attempt, as far as can be said. Where there is none, as in a storm of
/// binds that are denied, there is no need to find out what it would tell.
#[inline(always)]
pub(crate) fn has_room() -> bool {
    /// What the kernel puts before each record (`BPF_RINGBUF_HDR_SZ` in include/uapi/linux/bpf.h).
    const HEADER: u64 = 8;
    const MOST: u64 = BIND_RING_BYTES as u64 - 1 - HEADER - size_of::<BindEvent>() as u64;
    let ring = (&raw const BIND_EVENTS).cast_mut().cast::<c_void>();
    // SAFETY: the verifier checks that the pointer is of a ring.
    unsafe { bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA.into()) <= MOST }
}

/// Writes a record's fields one by one into the ring: a whole record on the stack beside all else would be more than the 512
/// bytes that a program has.
#[inline(always)]
fn fill(event: *mut BindEvent, facts: &Facts, time: u64) {
    // SAFETY: `event` points to the record that was just reserved, which has room for one `BindEvent`; every field is
    // written before the record is submitted. The helpers have no preconditions.
    unsafe {
        (*event).kind = facts.kind as u8;
        (*event).family = facts.family;
        (*event).protocol = facts.protocol as u8;
        (*event).flags = facts.flags;
        (*event).port = facts.port;
        (*event).verdict = facts.verdict.kind as u8;
        (*event).reason = facts.verdict.reason as u8;
        (*event).time = time;
        (*event).pod_cgroup = facts.pod_cgroup;
        (*event).socket = facts.socket;
        (*event).release = facts.release;
        (*event).holder = facts.holder;
        (*event).caller = facts.caller;
        (*event).owner = facts.owner;
        let address: *mut [u32; 4] = (&raw mut (*event).address).cast();
        (*address)[0] = facts.address[0];
        (*address)[1] = facts.address[1];
        (*address)[2] = facts.address[2];
        (*address)[3] = facts.address[3];
        task::fill(event);
    }
}
