//! Records of sockets that were bound and released: in the socket log, and before Linux 5.12 in the socket ring.

use aya_ebpf::helpers::generated::bpf_ringbuf_submit;
use enforcer_ebpf::wire::{
    BoundEvent, EventKind, KernelError, Protocol, ReleaseEvent, SOCKET_LOG_BYTES, SOCKET_RING_BYTES,
};

use super::{
    share::{Lane, may_use, ring_has_space},
    socket_log::{self, Reserved},
    wakeup::{self, Pace},
};
use crate::bpf::{
    constants::HAS_SOCKET_LOG,
    context::{
        clock::coarse_monotonic_ns,
        task::{CurrentTask, current_task},
    },
    counters::count_error,
    maps::SOCKET_RING,
};

/// Bytes of the log in use from which on the agent is woken.
const WAKEUP_BYTES: u64 = SOCKET_LOG_BYTES as u64 / 2;

/// The fields of a [`BoundEvent`], without those of the calling task and the time.
pub(crate) struct BoundFields {
    pub(crate) family: u8,
    pub(crate) protocol: Protocol,
    pub(crate) flags: u8,
    pub(crate) port: u16,
    pub(crate) socket: u64,
    pub(crate) release: u64,
    /// Four words in network byte order.
    pub(crate) address: [u32; 4],
}

/// Emits a record about a socket that was bound by this task. Counts an error if there is no space.
#[inline(always)]
pub(crate) fn emit_bound(fields: &BoundFields, task: CurrentTask, cgroup: u64) {
    emit(
        |event: *mut BoundEvent, now| {
            // SAFETY: `event` points to space for one record; every field is written before it is published.
            unsafe {
                (*event).kind = EventKind::Bound as u8;
                (*event).family = fields.family;
                (*event).protocol = fields.protocol as u8;
                (*event).flags = fields.flags;
                (*event).port = fields.port;
                (*event).padding = 0;
                (*event).time = now;
                (*event).cgroup = cgroup;
                (*event).socket = fields.socket;
                (*event).release = fields.release;
                (*event).pid = task.process();
                (*event).uid = task.user();
                let address: *mut [u32; 4] = (&raw mut (*event).address).cast();
                (*address)[0] = fields.address[0];
                (*address)[1] = fields.address[1];
                (*address)[2] = fields.address[2];
                (*address)[3] = fields.address[3];
                task.write_command((&raw mut (*event).command).cast());
            }
        },
        || cgroup,
    );
}

/// Emits a record about a socket that was released. `release` identifies the socket: [`ReleaseEvent::release`]. Counts
/// an error if there is no space.
#[inline(always)]
pub(crate) fn emit_release(protocol: Protocol, port: u16, release: u64) {
    emit(
        |event: *mut ReleaseEvent, now| {
            // SAFETY: as above.
            unsafe {
                (*event).kind = EventKind::Released as u8;
                (*event).protocol = protocol as u8;
                (*event).port = port;
                (*event).padding = 0;
                (*event).time = now;
                (*event).release = release;
            }
        },
        || current_task().cgroup(),
    );
}

/// Emits a record, and wakes the agent if that is due. `write` fills the record, with this time, and `cgroup` returns
/// whose share of the space it takes.
#[inline(always)]
fn emit<T: 'static>(write: impl FnOnce(*mut T, u64), cgroup: impl Fn() -> u64) {
    let now = coarse_monotonic_ns();
    // The record is written in one place, wherever it is: written in two, it would be a function, whose arguments cost as
    // much as the record.
    let reserved = if HAS_SOCKET_LOG.is_set() {
        socket_log::reserve(|used| may_use(used, SOCKET_LOG_BYTES, Lane::Sockets, &cgroup))
    } else {
        reserve_in_ring(cgroup)
    };
    let Some(Reserved { record, used }) = reserved else {
        count_error(KernelError::HolderEventLost);
        return;
    };
    write(record, now);
    if !HAS_SOCKET_LOG.is_set() {
        // SAFETY: the record that was reserved in the ring, all of whose fields were written.
        unsafe { bpf_ringbuf_submit(record.cast(), wakeup::flag(Pace::Sockets, now)) };
        return;
    }
    // SAFETY: the record that was reserved in the log, all of whose fields were written.
    unsafe { socket_log::publish_record(record) };
    // The agent reads the log now and then. It is woken only so that the log does not fill up meanwhile: a wake-up takes
    // some microseconds, and some tens in a virtual machine.
    if used >= WAKEUP_BYTES && wakeup::is_due(Pace::Sockets, now) {
        wake_agent();
    }
}

/// Reserves space for a record in the socket ring. Returns `None` if there is none.
#[inline(always)]
fn reserve_in_ring<T: 'static>(cgroup: impl Fn() -> u64) -> Option<Reserved<T>> {
    if !ring_has_space(&SOCKET_RING, SOCKET_RING_BYTES, Lane::Sockets, cgroup) {
        return None;
    }
    // Nothing happens where the entry ends: who reserves it submits the record by its pointer.
    let record = SOCKET_RING.reserve_untyped::<T>(0)?.as_mut_ptr();
    Some(Reserved { record, used: 0 })
}

/// Wakes the agent by a record in the socket ring. If that is full, the agent has been woken for what is in it.
#[inline(always)]
fn wake_agent() {
    if let Some(mut record) = SOCKET_RING.reserve_untyped::<u64>(0) {
        // SAFETY: the record that was just reserved.
        unsafe { record.as_mut_ptr().write(u64::from(EventKind::Wakeup as u8).to_le()) };
        record.submit(wakeup::FORCED);
    }
}
