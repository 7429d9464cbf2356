//! What a record tells of the calling task.

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
    generated::{bpf_get_current_cgroup_id, bpf_get_current_comm, bpf_get_current_task},
};
use enforcer_ebpf::abi::BindEvent;

use crate::bpf::{
    context::config::cast,
    maps::{CRED_UID_OFFSET, TASK_COMM_OFFSET, TASK_CRED_OFFSET, TASK_TGID_OFFSET, TASK_TYPE},
};

/// Writes process, user, command and cgroup of the calling task.
///
/// # Safety
///
/// `event` must point to room for a record.
#[inline(always)]
pub(crate) unsafe fn fill(event: *mut BindEvent) {
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
        // Loaded anew, since to keep the number across a call would take room on a stack that has none.
        let task = cast(bpf_get_current_task(), TASK_TYPE.load());
        (*event).pid = field::<u32>(task, TASK_TGID_OFFSET.load());
        // The real user's, in the initial user namespace, as the helper gives it.
        let cred = field::<*const u8>(task, TASK_CRED_OFFSET.load());
        (*event).uid = field::<u32>(cred, CRED_UID_OFFSET.load());
        let command: *mut [u64; 2] = (&raw mut (*event).command).cast();
        let comm = TASK_COMM_OFFSET.load();
        (*command)[0] = field::<u64>(task, comm);
        (*command)[1] = field::<u64>(task, comm + 8);
    }
}

/// A field of a structure.
///
/// # Safety
///
/// The pointer must be of [`cast`], or read through such a one.
#[inline(always)]
unsafe fn field<T: Copy>(structure: *const u8, offset: u32) -> T {
    // SAFETY: the verifier checks that there is such a field, and the kernel gives 0 for what is not there.
    unsafe { structure.add(offset as usize).cast::<T>().read_volatile() }
}
