//! The calling task: its cgroup, process, user and command.
//!
//! They are read by loads, where `bpf_rdonly_cast` makes a pointer of an address, and by helpers before 6.2.

use aya_ebpf::helpers::{
    bpf_get_current_ancestor_cgroup_id, bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
    generated::{bpf_get_current_cgroup_id, bpf_get_current_comm, bpf_get_current_task},
};

use super::read::{field, rdonly_cast};
use crate::bpf::constants::{
    CGROUP_ANCESTORS_OFFSET, CGROUP_KN_OFFSET, CGROUP_LEVEL_OFFSET, CGROUP_POINTER_TYPE, CRED_UID_OFFSET,
    CSS_SET_CGROUP_OFFSET, KN_ID_OFFSET, TASK_COMM_OFFSET, TASK_CRED_OFFSET, TASK_CSS_SET_OFFSET, TASK_TGID_OFFSET,
    TASK_TYPE,
};

/// Bytes of a command's name.
const COMMAND_BYTES: u32 = 16;

/// The calling task: the address of its `struct task_struct`, or 0 where it is not read by loads. A pointer to it is
/// made for each field: one that is kept across a call takes space on the stack, which is full.
#[derive(Clone, Copy)]
pub(crate) struct CurrentTask(u64);

/// Returns the calling task.
#[inline(always)]
pub(crate) fn current_task() -> CurrentTask {
    if !TASK_TYPE.is_set() {
        return CurrentTask(0);
    }
    // SAFETY: the helper has no precondition.
    CurrentTask(unsafe { bpf_get_current_task() })
}

/// Returns the id of a cgroup.
///
/// # Safety
///
/// The pointer must be to a cgroup, and be one that [`field`] takes.
#[inline(always)]
unsafe fn cgroup_id(cgroup: *const u8) -> u64 {
    // As `cgroup_id` in include/linux/cgroup.h.
    // SAFETY: as the caller vouches.
    unsafe {
        let kn: *const u8 = field(cgroup, CGROUP_KN_OFFSET.get());
        field(kn, KN_ID_OFFSET.get())
    }
}

impl CurrentTask {
    /// Loads a field of the task.
    ///
    /// # Safety
    ///
    /// As [`field`]; the task must be read by loads.
    #[inline(always)]
    unsafe fn field<T: Copy>(self, offset: u64) -> T {
        // SAFETY: as the caller vouches.
        unsafe { field(rdonly_cast(self.0, TASK_TYPE.get()), offset) }
    }

    /// Returns the id of its cgroup: a container's, usually.
    #[inline(always)]
    pub(crate) fn cgroup(self) -> u64 {
        if !TASK_TYPE.is_set() {
            // SAFETY: the helper has no precondition.
            return unsafe { bpf_get_current_cgroup_id() };
        }
        // SAFETY: the pointer is to the task's cgroup.
        unsafe { cgroup_id(self.cgroup_pointer()) }
    }

    /// Returns the id of the ancestor of its cgroup at this level of the hierarchy; 0 if its cgroup is not that deep.
    #[inline(always)]
    pub(crate) fn ancestor_cgroup(self, level: u64) -> u64 {
        if !CGROUP_ANCESTORS_OFFSET.is_set() {
            // SAFETY: the helper takes any level.
            return unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) };
        }
        // As `cgroup_ancestor` in include/linux/cgroup.h.
        // SAFETY: the verifier checks that the structures have such fields.
        unsafe {
            let cgroup = self.cgroup_pointer();
            let own_level: u32 = field(cgroup, CGROUP_LEVEL_OFFSET.get());
            if level > u64::from(own_level) {
                return 0;
            }
            // The verifier wants a bound.
            let place = cgroup as u64 + CGROUP_ANCESTORS_OFFSET.get() + (level & 0xff) * 8;
            cgroup_id(field(rdonly_cast(place, CGROUP_POINTER_TYPE.get()), 0))
        }
    }

    /// Returns a pointer to its cgroup, where it is read by loads.
    ///
    /// # Safety
    ///
    /// As [`Self::field`].
    #[inline(always)]
    unsafe fn cgroup_pointer(self) -> *const u8 {
        // As `task_dfl_cgroup` in include/linux/cgroup.h.
        // SAFETY: the verifier checks that the structures have such fields, as it does for every field below.
        unsafe {
            let css_set: *const u8 = self.field(TASK_CSS_SET_OFFSET.get());
            field(css_set, CSS_SET_CGROUP_OFFSET.get())
        }
    }

    /// Returns its process id (thread group) in the initial pid namespace.
    #[inline(always)]
    pub(crate) fn process(self) -> u32 {
        if !TASK_TYPE.is_set() {
            return (bpf_get_current_pid_tgid() >> 32) as u32;
        }
        // SAFETY: as above.
        unsafe { self.field(TASK_TGID_OFFSET.get()) }
    }

    /// Returns its real user id in the initial user namespace.
    #[inline(always)]
    pub(crate) fn user(self) -> u32 {
        if !TASK_TYPE.is_set() {
            return bpf_get_current_uid_gid() as u32;
        }
        // SAFETY: as above.
        unsafe {
            let cred: *const u8 = self.field(TASK_CRED_OFFSET.get());
            field(cred, CRED_UID_OFFSET.get())
        }
    }

    /// Writes its command's name.
    ///
    /// # Safety
    ///
    /// `to` must point to 16 bytes at a multiple of 8.
    #[inline(always)]
    pub(crate) unsafe fn write_command(self, to: *mut u64) {
        if !TASK_TYPE.is_set() {
            // It cannot fail: there is a current task, and the size is right (`bpf_get_current_comm` in
            // kernel/bpf/helpers.c).
            // SAFETY: the caller vouches for the space.
            unsafe { bpf_get_current_comm(to.cast(), COMMAND_BYTES) };
            return;
        }
        let comm = TASK_COMM_OFFSET.get();
        // SAFETY: as the caller vouches, and as above.
        unsafe {
            to.write(self.field(comm));
            to.add(1).write(self.field(comm + 8));
        }
    }
}
