//! Raw tracepoints `cgroup_mkdir` and `cgroup_rmdir`: note the pod of a new cgroup as soon as the cgroup exists, and
//! thus before its first process does.
//!
//! Both tracepoints pass `(struct cgroup *, const char *path)` (include/trace/events/cgroup.h). The path is relative to
//! the hierarchy's root, which an agent in a cgroup namespace does not see, so name and parents are read from the
//! cgroup itself.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use enforcer_ebpf::{
    cgroup_name::{self, CGROUPFS_API, TAIL},
    wire::{CgroupEvent, CgroupIdentity, EventKind, KernelError, NAME_CAPACITY, PodUid, Slot, UidForm, UidKey},
};

use crate::bpf::{
    constants::{
        CGROUP_KN_OFFSET, CGROUP_ROOT_OFFSET, KN_ID_OFFSET, KN_NAME_OFFSET, KN_PARENT_OFFSET, ROOT_HIERARCHY_OFFSET,
    },
    context::{
        config::VolatileConfig,
        read::{load_word, read_kernel, read_kernel_str},
    },
    counters::count_error,
    maps::{CGROUP_RING, OWNERS, POD_CGROUPS, POD_UIDS},
};

/// Number of levels above a cgroup at which the attached root is searched for.
const MAX_LEVELS: u32 = 16;

#[raw_tracepoint(tracepoint = "cgroup_mkdir")]
pub(super) fn pe_cgroup_mkdir(ctx: RawTracePointContext) -> u32 {
    handle(&ctx, EventKind::CgroupMade)
}

#[raw_tracepoint(tracepoint = "cgroup_rmdir")]
pub(super) fn pe_cgroup_rmdir(ctx: RawTracePointContext) -> u32 {
    handle(&ctx, EventKind::CgroupRemoved)
}

#[inline(always)]
fn handle(ctx: &RawTracePointContext, kind: EventKind) -> u32 {
    if try_handle(ctx, kind).is_none() {
        count_error(KernelError::ReadFailed);
    }
    0
}

/// Notes the cgroup and emits its record. Returns `None` if kernel memory could not be read.
#[inline(always)]
fn try_handle(ctx: &RawTracePointContext, kind: EventKind) -> Option<()> {
    let cgroup: u64 = ctx.arg(0);
    let root: u64 = read_kernel(cgroup + CGROUP_ROOT_OFFSET.get())?;
    let hierarchy: u32 = read_kernel(root + ROOT_HIERARCHY_OFFSET.get())?;
    if hierarchy != 0 {
        // A hierarchy of cgroup v1.
        return Some(());
    }
    let config = VolatileConfig::get()?;
    let root_cgroup = config.root_cgroup();
    let kn: u64 = read_kernel(cgroup + CGROUP_KN_OFFSET.get())?;
    let id: u64 = read_kernel(kn + KN_ID_OFFSET.get())?;

    let mut parent = 0;
    let mut level = 0;
    let mut in_pod = false;
    let mut at = kn;
    for up in 1..=MAX_LEVELS {
        at = read_kernel(at + KN_PARENT_OFFSET.get())?;
        if at == 0 {
            break;
        }
        let ancestor: u64 = read_kernel(at + KN_ID_OFFSET.get())?;
        if up == 1 {
            parent = ancestor;
        }
        if ancestor == root_cgroup {
            level = up;
            break;
        }
        in_pod |= POD_CGROUPS.get_ptr(ancestor).is_some();
    }
    if level == 0 {
        // Not below the attached root.
        return Some(());
    }

    let name: u64 = read_kernel(kn + KN_NAME_OFFSET.get())?;
    let mut form = 0;
    if kind == EventKind::CgroupRemoved {
        // Most cgroups are of containers, which are never noted.
        let _ = POD_CGROUPS.remove(id);
    } else if !in_pod {
        // Cgroups below a pod's belong to that pod, whatever their names.
        if let Some((uid, uid_form)) = read_pod_uid(name) {
            form = uid_form as u8;
            config.add_pod_level(u64::from(level));
            note_pod_cgroup(id, u64::from(level), uid, uid_form);
        }
    }
    emit_cgroup_event(kind, form, id, parent, name)
}

/// Emits the record. The name is read into the ring directly, since the stack has no space for it. Returns `None` if
/// the name could not be read.
#[inline(always)]
fn emit_cgroup_event(kind: EventKind, form: u8, id: u64, parent: u64, name: u64) -> Option<()> {
    let Some(mut record) = CGROUP_RING.reserve(0) else {
        count_error(KernelError::CgroupEventLost);
        return Some(());
    };
    let event: *mut CgroupEvent = record.as_mut_ptr();
    // SAFETY: `event` points to the record that was just reserved, which has room for one `CgroupEvent`.
    let Some(name_len) = (unsafe { read_kernel_str((&raw mut (*event).name).cast(), NAME_CAPACITY as u32, name) })
    else {
        record.discard(0);
        return None;
    };
    // SAFETY: as above; every field that the agent reads is written before the record is submitted. Of the name that is
    // the part up to its length.
    unsafe {
        (*event).kind = kind as u8;
        (*event).form = form;
        (*event).name_len = name_len as u16;
        (*event).padding = 0;
        (*event).id = id;
        (*event).parent = parent;
    }
    record.submit(0);
    Some(())
}

/// Longest name in bytes, the closing zero included, in which a UID is searched for:
/// `kubelet-kubepods-besteffort-pod<UID>.slice` has 73.
const MAX_POD_NAME: usize = 96;

/// Reads the UID in a pod cgroup's name. The end of the name is read once more, to have it at a fixed offset.
#[inline(always)]
fn read_pod_uid(name: u64) -> Option<(PodUid, UidForm)> {
    let mut head = [0; MAX_POD_NAME];
    // SAFETY: `head` has room for so many bytes.
    let len = u64::from(unsafe { read_kernel_str(head.as_mut_ptr(), MAX_POD_NAME as u32, name) }?);
    if len >= MAX_POD_NAME as u64 - 1 {
        // It may have been cut.
        return None;
    }
    if len <= CGROUPFS_API as u64 {
        return cgroup_name::from_cgroupfs(head.first_chunk::<CGROUPFS_API>()?, len as usize);
    }
    if len < TAIL as u64 {
        return None;
    }
    let tail: [u8; TAIL] = read_kernel(name + (len - TAIL as u64))?;
    cgroup_name::from_systemd(&tail)
}

/// Notes the owner of a pod's cgroup.
#[inline(always)]
fn note_pod_cgroup(id: u64, level: u64, uid: PodUid, form: UidForm) {
    let key = UidKey::new(uid, form);
    let slot = match POD_UIDS.get_ptr(key) {
        Some(slot) => load_word(slot) as Slot,
        None => 0,
    };
    if slot != 0 {
        set_owner_cgroup(slot, id, level);
    }
    if POD_CGROUPS.insert(id, CgroupIdentity::new(id, slot, form).0, 0).is_err() {
        count_error(KernelError::CgroupsFull);
    }
}

/// Writes the cgroup into the owner's element, so that the owner's binds are recognised from now on.
#[inline(always)]
fn set_owner_cgroup(slot: Slot, id: u64, level: u64) {
    let Some(element) = OWNERS.get_ptr_mut(u32::from(slot)) else {
        return;
    };
    // SAFETY: aligned words of the map's element. While the two do not match, the owner is merely recognised the long
    // way.
    unsafe {
        core::ptr::write_volatile(&raw mut (*element).level, level);
        core::ptr::write_volatile(&raw mut (*element).cgroup, id);
    }
}
