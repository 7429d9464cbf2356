//! The caller of a bind: from the cgroup of the calling task to the pod.

use enforcer_ebpf::{
    decide::{CallerIdentity, HOST, UNRESOLVED},
    verifier::hide_from_verifier,
    wire::{CgroupIdentity, HOLDER_HOST, HOLDER_UNPLACED, KernelError, OWNER_SOFTWARE, Owner, ROOT_LEVEL_UNKNOWN},
};

use super::{
    config::VolatileConfig,
    owners::{owner_or_nobody, pod_cgroup_identity},
    task::current_task,
};
use crate::bpf::counters::count_error;

/// Deepest level, counted from the hierarchy's root, at which the attached root is searched for.
const MAX_ROOT_LEVEL: u64 = 16;
/// Deepest level below the attached root at which a pod's cgroup is searched for: `Config::pod_levels` has a bit for
/// each.
const MAX_POD_LEVEL: u64 = 8;

/// The calling task, as far as a verdict or a record depends on it.
pub(crate) struct CallerContext {
    /// Properties of the caller that the verdict depends on.
    pub(crate) identity: CallerIdentity,
    /// Cgroup id of its pod; 0 for a task in no pod.
    pub(crate) pod_cgroup: u64,
}

impl CallerContext {
    /// Returns [`enforcer_ebpf::wire::PortHold::holder`] for what this caller holds.
    #[inline(always)]
    pub(crate) fn holder(&self) -> u64 {
        if self.pod_cgroup != 0 {
            self.pod_cgroup
        } else if self.identity.flags & HOST != 0 {
            HOLDER_HOST
        } else {
            HOLDER_UNPLACED
        }
    }
}

/// A cgroup on the path from the attached root to the calling task, for which the helper was called already: a call
/// costs as much as a map look-up.
#[derive(Clone, Copy)]
pub(crate) struct Ancestor {
    /// Level below the attached root.
    pub(crate) level: u64,
    /// Cgroup id; 0 if the task is not that deep.
    pub(crate) id: u64,
}

impl Ancestor {
    /// No ancestor: the helper was not called yet.
    pub(crate) const NONE: Self = Self { level: 0, id: 0 };

    /// Returns the ancestor at this level below the attached root; level 0 has none.
    #[inline(always)]
    pub(crate) fn at(level: u64, config: &VolatileConfig) -> Self {
        Self { level, id: if level == 0 { 0 } else { ancestor_cgroup_id(root_level(config) + level) } }
    }
}

/// Identifies the calling task.
///
/// Of the cgroups on its path at most one is in the map, the outermost one that is a pod's: all cgroups below a pod's
/// belong to that pod, whatever their names. So the search may begin at any level, and a level that the caller tried
/// already (`tried`) is not tried again.
#[inline(always)]
pub(crate) fn identify(config: &VolatileConfig, tried: Ancestor) -> CallerContext {
    let root_level = root_level(config);
    // For a constant without an ancestor the compiler drops the look-up.
    let (mut found, mut pod_cgroup) =
        if tried.id == 0 { (CgroupIdentity(0), 0) } else { pod_cgroup_identity(tried.id) };
    if pod_cgroup == 0 {
        let levels = config.pod_levels() & !(1 << (tried.level & 63));
        for below in 1..=MAX_POD_LEVEL {
            if levels & (1 << below) == 0 {
                continue;
            }
            let id = ancestor_cgroup_id(root_level + below);
            if id == 0 {
                break;
            }
            (found, pod_cgroup) = pod_cgroup_identity(id);
            if pod_cgroup != 0 {
                break;
            }
        }
    }
    if pod_cgroup == 0 {
        // The kernel chooses the program by the socket's cgroup, but the task binds, and a task outside the subtree can
        // have received the descriptor. This check comes last, since the map has cgroups below the root only: a task in
        // one of them is not outside.
        let is_outside = ancestor_cgroup_id(root_level) != config.root_cgroup();
        let flags = if is_outside || config.policy().node_scope {
            HOST | OWNER_SOFTWARE
        } else {
            count_error(KernelError::CallerUnknown);
            UNRESOLVED
        };
        return CallerContext { identity: CallerIdentity::nobody(hide_from_verifier(flags)), pod_cgroup };
    }
    let owner = owner_or_nobody(found.slot());
    // The id is 0 in slot 0, and in a slot that was freed because its pod is gone.
    let identity = if owner.id() != 0 {
        CallerIdentity::pod(&owner)
    } else {
        CallerIdentity::nobody(hide_from_verifier(if found.is_static() { OWNER_SOFTWARE } else { 0 }))
    };
    CallerContext { identity, pod_cgroup }
}

/// Returns whether the calling task is in this owner's pod cgroup, without a look-up of who it is.
#[inline(always)]
pub(crate) fn is_in_pod_of(owner: &Owner, config: &VolatileConfig) -> bool {
    owner.level != 0 && Ancestor::at(owner.level, config).id == owner.cgroup
}

/// Returns whether the calling task is in the pod with this cgroup, without a look-up of who it is.
#[inline(always)]
pub(crate) fn is_in_pod(pod_cgroup: u64, config: &VolatileConfig) -> bool {
    let (root_level, levels) = (root_level(config), config.pod_levels());
    (1..=MAX_POD_LEVEL).any(|below| levels & 1 << below != 0 && ancestor_cgroup_id(root_level + below) == pod_cgroup)
}

/// Returns the level of the attached root in the whole hierarchy, or [`ROOT_LEVEL_UNKNOWN`]: the agent could not see
/// it, and the calling task is not below the root, so that it does not show it.
#[inline(always)]
fn root_level(config: &VolatileConfig) -> u64 {
    if config.root_level() == ROOT_LEVEL_UNKNOWN {
        find_root_level(config);
    }
    // Loaded again, so that the verifier has one unknown number instead of a case for each level.
    config.root_level()
}

#[inline(always)]
fn find_root_level(config: &VolatileConfig) {
    let root = config.root_cgroup();
    for level in 0..MAX_ROOT_LEVEL {
        if ancestor_cgroup_id(level) == root {
            config.set_root_level(level);
            break;
        }
    }
}

/// Returns the cgroup id of the calling task's ancestor at a level of the whole hierarchy; 0 if the task is not that
/// deep.
#[inline(always)]
fn ancestor_cgroup_id(level: u64) -> u64 {
    current_task().ancestor_cgroup(level)
}
