//! Records of attempts, in the rings.

use enforcer_ebpf::{
    decide::Verdict,
    wire::{BindEvent, EventKind, KernelError, Protocol, SOCKET_RING_BYTES, VERDICT_RING_BYTES},
};

use super::{
    share::{Lane, ring_has_space},
    wakeup::{self, Pace},
};
use crate::bpf::{
    context::{
        clock::{boottime_ns, coarse_monotonic_ns},
        task::current_task,
    },
    counters::count_error,
    maps::{SOCKET_RING, VERDICT_RING},
};

/// The fields of a [`BindEvent`], without those of the calling task and the time.
pub(crate) struct BindFields {
    pub(crate) family: u8,
    pub(crate) protocol: Protocol,
    pub(crate) flags: u8,
    pub(crate) port: u16,
    pub(crate) verdict: Verdict,
    pub(crate) pod_cgroup: u64,
    pub(crate) socket: u64,
    pub(crate) holder: u64,
    pub(crate) caller: u32,
    pub(crate) owner: u32,
    /// Four words in network byte order.
    pub(crate) address: [u32; 4],
}

/// Returns whether the ring has space for one more record by a caller in this pod's cgroup at this moment. If it has
/// none, as in a storm of denied binds, the program need not collect what the record would contain.
#[inline(always)]
pub(crate) fn verdict_ring_has_space(pod_cgroup: u64) -> bool {
    ring_has_space(&VERDICT_RING, VERDICT_RING_BYTES, Lane::Verdicts, || pod_cgroup)
}

/// Emits the record of an attempt that the agent reports. It has an exact time. Counts an error if the ring is full.
#[inline(always)]
pub(crate) fn emit_verdict(fields: &BindFields) {
    let Some(mut record) = VERDICT_RING.reserve(0) else {
        count_error(KernelError::BindEventLost);
        return;
    };
    write_bind_event(record.as_mut_ptr(), fields, boottime_ns());
    record.submit(wakeup::flag(Pace::Verdicts, coarse_monotonic_ns()));
}

/// Emits the record of an attempt that is of use only together with records of bound and released sockets: the port is
/// held. Counts an error if the ring is full.
#[inline(always)]
pub(crate) fn emit_attempt_on_held_port(fields: &BindFields) {
    if !ring_has_space(&SOCKET_RING, SOCKET_RING_BYTES, Lane::Sockets, || fields.pod_cgroup) {
        count_error(KernelError::HolderEventLost);
        return;
    }
    let Some(mut record) = SOCKET_RING.reserve(0) else {
        count_error(KernelError::HolderEventLost);
        return;
    };
    let now = coarse_monotonic_ns();
    write_bind_event(record.as_mut_ptr(), fields, now);
    record.submit(wakeup::flag(Pace::Sockets, now));
}

/// Writes a record's fields one by one into the ring. A whole record on the stack beside everything else would exceed
/// the 512 bytes of a program.
#[inline(always)]
fn write_bind_event(event: *mut BindEvent, fields: &BindFields, time: u64) {
    // SAFETY: `event` points to the record that was just reserved, which has room for one `BindEvent`; every field is
    // written before the record is submitted.
    unsafe {
        (*event).kind = EventKind::Attempt as u8;
        (*event).family = fields.family;
        (*event).protocol = fields.protocol as u8;
        (*event).flags = fields.flags;
        (*event).port = fields.port;
        (*event).verdict = fields.verdict.kind as u8;
        (*event).reason = fields.verdict.reason as u8;
        (*event).time = time;
        (*event).pod_cgroup = fields.pod_cgroup;
        (*event).socket = fields.socket;
        (*event).reserved = 0;
        (*event).holder = fields.holder;
        (*event).caller = fields.caller;
        (*event).owner = fields.owner;
        let address: *mut [u32; 4] = (&raw mut (*event).address).cast();
        (*address)[0] = fields.address[0];
        (*address)[1] = fields.address[1];
        (*address)[2] = fields.address[2];
        (*address)[3] = fields.address[3];
        let task = current_task();
        (*event).cgroup = task.cgroup();
        (*event).pid = task.process();
        (*event).uid = task.user();
        task.write_command((&raw mut (*event).command).cast());
    }
}
