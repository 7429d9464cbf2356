//! What goes out: counts and records.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
    generated::{self, bpf_get_current_cgroup_id, bpf_ktime_get_boot_ns},
};
use enforcer_ebpf::{
    abi::{BindEvent, EventKind, KernelError, Protocol, counter, error_counter},
    decide::Verdict,
};

use super::maps::{BIND_EVENTS, COUNTERS};

#[inline(always)]
fn add_one(index: u32) {
    if let Some(count) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: an aligned word of this CPU's element. Atomic, because another hook may preempt this one on the same
        // CPU.
        let _ = unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(count, 1) };
    }
}

/// Counts an attempt.
#[inline(always)]
pub(super) fn count(verdict: &Verdict, protocol: Protocol) {
    add_one(counter(verdict.kind, verdict.reason, protocol));
}

/// Counts an error of the programs' own.
#[inline(always)]
pub(super) fn count_error(error: KernelError) {
    add_one(error_counter(error));
}

/// What a record tells beside the facts of the calling task.
pub(super) struct Facts {
    pub(super) kind: EventKind,
    pub(super) family: u8,
    pub(super) protocol: Protocol,
    pub(super) flags: u8,
    pub(super) port: u16,
    pub(super) verdict: Verdict,
    pub(super) pod_cgroup: u64,
    pub(super) socket: u64,
    pub(super) caller: u32,
    pub(super) owner: u32,
    /// Four words, each as the kernel has it.
    pub(super) address: [u32; 4],
}

/// Sends a record. Its fields are written one by one into the ring: a whole record on the stack beside all else would
/// be more than the 512 bytes that a program has.
#[inline(always)]
pub(super) fn send(facts: &Facts) {
    let Some(mut record) = BIND_EVENTS.reserve(0) else {
        count_error(KernelError::BindEventLost);
        return;
    };
    let event: *mut BindEvent = record.as_mut_ptr();
    let pid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let uid = bpf_get_current_uid_gid() as u32;
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
        (*event).time = bpf_ktime_get_boot_ns();
        (*event).cgroup = bpf_get_current_cgroup_id();
        (*event).pod_cgroup = facts.pod_cgroup;
        (*event).socket = facts.socket;
        (*event).caller = facts.caller;
        (*event).owner = facts.owner;
        (*event).pid = pid;
        (*event).uid = uid;
        let address: *mut [u32; 4] = (&raw mut (*event).address).cast();
        (*address)[0] = facts.address[0];
        (*address)[1] = facts.address[1];
        (*address)[2] = facts.address[2];
        (*address)[3] = facts.address[3];
        // It cannot fail: there is a current task, and the size is right (`bpf_get_current_comm` in
        // kernel/bpf/helpers.c).
        generated::bpf_get_current_comm((&raw mut (*event).command).cast(), 16);
    }
    record.submit(0);
}
