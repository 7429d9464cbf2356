//! Who calls: from the calling task's cgroup to the pod.

use enforcer_ebpf::{
    abi::{CgroupIdentity, KernelError, OWNER_SOFTWARE, ROOT_LEVEL_UNKNOWN},
    decide::{HOST, Kin, UNRESOLVED},
    verifier::hide_from_verifier,
};

use crate::bpf::{
    context::config::{Live, ancestor, load, owner},
    emit::count_error,
    maps::CGROUPS,
};

/// Deepest level, counted from the hierarchy's root, at which the attached root is looked for.
const DEEPEST_ROOT: u64 = 16;
/// Deepest level below the attached root at which a pod's cgroup is looked for: `Config::pod_levels` has a bit for each.
const DEEPEST_POD: u64 = 8;

/// The caller and the cgroup of its pod (0 if it is in none).
pub(crate) struct Identity {
    pub(crate) kin: Kin,
    pub(crate) pod_cgroup: u64,
}

/// Level of the attached root in the whole hierarchy, or [`ROOT_LEVEL_UNKNOWN`] if nobody knows it yet and the calling
/// task is not below the root, so that it cannot be found out from this task.
#[inline(always)]
pub(crate) fn root_level(config: &Live) -> u64 {
    if config.root_level() == ROOT_LEVEL_UNKNOWN {
        find_root_level(config);
    }
    // Loaded anew, so that the verifier has one unknown number instead of a case for every level.
    config.root_level()
}

#[inline(always)]
fn find_root_level(config: &Live) {
    let root = config.root_cgroup();
    for level in 0..DEEPEST_ROOT {
        if ancestor(level) == root {
            config.set_root_level(level);
            break;
        }
    }
}

/// A cgroup on the way from the root to the calling task, which was asked for already. To ask costs as much as a look-up.
#[derive(Clone, Copy)]
pub(crate) struct Ancestor {
    /// Its level below the attached root.
    pub(crate) level: u64,
    /// Its id; 0 if the task is not that deep, or none was asked for.
    pub(crate) id: u64,
}

impl Ancestor {
    /// None.
    pub(crate) const NONE: Self = Self { level: 0, id: 0 };

    /// The one at this level below the attached root.
    #[inline(always)]
    pub(crate) fn at(level: u64, config: &Live) -> Self {
        Self { level, id: if level == 0 { 0 } else { ancestor(root_level(config) + level) } }
    }
}

/// Finds out who the calling task is. Of the cgroups on the way from the root at most one is noted, the outermost that is a
/// pod's: what lies below a pod's cgroup belongs to that pod, whatever its name says. So it does not matter at which level
/// the search begins.
#[inline(always)]
pub(crate) fn identify(config: &Live, known: Ancestor) -> Identity {
    let root_level = root_level(config);
    // Where no ancestor is known, which the compiler can see, there is nothing to look up.
    let (mut found, mut pod_cgroup) = if known.id == 0 { (CgroupIdentity(0), 0) } else { noted(known.id) };
    if pod_cgroup == 0 {
        let levels = config.pod_levels() & !(1 << (known.level & 63));
        for below in 1..=DEEPEST_POD {
            if levels & (1 << below) == 0 {
                continue;
            }
            let id = ancestor(root_level + below);
            if id == 0 {
                break;
            }
            (found, pod_cgroup) = noted(id);
            if pod_cgroup != 0 {
                break;
            }
        }
    }
    if pod_cgroup == 0 {
        // The program that runs is chosen by the socket's cgroup, but it is the task that binds: a descriptor may have
        // been handed to a process outside the subtree. Asked here and not first, since only cgroups below the root are
        // noted: who is in one of them is below it.
        let is_outside = ancestor(root_level) != config.root_cgroup();
        let traits = if is_outside || config.policy().node_scope {
            HOST | OWNER_SOFTWARE
        } else {
            count_error(KernelError::CallerUnknown);
            UNRESOLVED
        };
        return Identity { kin: Kin::nobody(hide_from_verifier(traits)), pod_cgroup };
    }
    let owner = owner(found.slot()).unwrap_or_default();
    // The id is 0 in slot 0, and where the pod is gone and its slot was freed.
    let kin = if owner.id() != 0 {
        Kin::pod(&owner)
    } else {
        Kin::nobody(hide_from_verifier(if found.is_static() { OWNER_SOFTWARE } else { 0 }))
    };
    Identity { kin, pod_cgroup }
}

/// What is noted of a cgroup, and its id; zeros if nothing is.
#[inline(always)]
fn noted(id: u64) -> (CgroupIdentity, u64) {
    let Some(value) = CGROUPS.get_ptr(id) else {
        return (CgroupIdentity(0), 0);
    };
    let value = CgroupIdentity(load(value));
    if value.is_of(id) { (value, id) } else { (CgroupIdentity(0), 0) }
}
