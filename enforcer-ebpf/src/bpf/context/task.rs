//! Fields of the calling task for a record.

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
    generated::{bpf_get_current_cgroup_id, bpf_get_current_comm, bpf_get_current_task},
};
use enforcer_ebpf::wire::BindEvent;

use super::read::rdonly_cast;
use crate::bpf::globals::{CRED_UID_OFFSET, TASK_COMM_OFFSET, TASK_CRED_OFFSET, TASK_TGID_OFFSET, TASK_TYPE};

/// Writes process, user, command and cgroup of the calling task into a record.
///
/// # Safety
///
/// `event` must point to room for a record.
#[inline(always)]
pub(crate) unsafe fn write_task(event: *mut BindEvent) {
    // SAFETY: the caller vouches for the record. The helpers have no preconditions.
    unsafe {
        (*event).cgroup = bpf_get_current_cgroup_id();
        if TASK_TYPE.load() == 0 {
            (*event).pid = (bpf_get_current_pid_tgid() >> 32) as u32;
            (*event).uid = bpf_get_current_uid_gid() as u32;
            // It cannot fail: there is a current task, and the size is right (`bpf_get_current_comm` in
            // kernel/bpf/helpers.c).
            bpf_get_current_comm((&raw mut (*event).command).cast(), 16);
            return;
        }
        // Loaded again: a number that is kept across a call takes space on the stack, which is full.
        let task = rdonly_cast(bpf_get_current_task(), TASK_TYPE.load());
        (*event).pid = field::<u32>(task, TASK_TGID_OFFSET.load());
        // The real user id in the initial user namespace, as the helper returns it.
        let cred = field::<*const u8>(task, TASK_CRED_OFFSET.load());
        (*event).uid = field::<u32>(cred, CRED_UID_OFFSET.load());
        let command: *mut [u64; 2] = (&raw mut (*event).command).cast();
        let comm = TASK_COMM_OFFSET.load();
        (*command)[0] = field::<u64>(task, comm);
        (*command)[1] = field::<u64>(task, comm + 8);
    }
}

/// Loads a field of a kernel structure.
///
/// # Safety
///
/// The pointer must come from [`rdonly_cast`], or from a field that was loaded through such a pointer.
#[inline(always)]
unsafe fn field<T: Copy>(structure: *const u8, offset: u32) -> T {
    // SAFETY: the verifier checks that the structure has such a field, and the kernel reads a bad address as 0.
    unsafe { structure.add(offset as usize).cast::<T>().read_volatile() }
}
