//! Waiting for programs that were replaced.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
};

use crate::kernel::bpf_syscall::{MAP_TYPE_ARRAY, MAP_TYPE_ARRAY_OF_MAPS, create_map, update_map};

/// Waits until no program runs that was started before this call: until then one that was replaced may still count and
/// send records.
///
/// An update of a map of maps waits for an RCU grace period (`maybe_wait_bpf_programs` in kernel/bpf/syscall.c), and a
/// program runs in one RCU read-side section (`bpf_prog_run_array_cg` in kernel/bpf/cgroup.c). `membarrier` would not do:
/// with a single CPU it returns at once (kernel/sched/membarrier.c), although a program can be preempted there as well.
pub(super) fn wait_for_programs() -> io::Result<()> {
    let inner = create_map(MAP_TYPE_ARRAY, 4, 4, 1, None)?;
    let outer = create_map(MAP_TYPE_ARRAY_OF_MAPS, 4, 4, 1, Some(inner.as_fd()))?;
    let value: u32 = inner.as_raw_fd().cast_unsigned();
    // SAFETY: the values of this map of maps are descriptors.
    unsafe { update_map(outer.as_fd(), 0, &value) }
}
