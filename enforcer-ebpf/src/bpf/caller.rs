//! Who calls: from the calling task's cgroup to the pod.

use enforcer_ebpf::{
    abi::{CgroupIdentity, Form, KernelError, ROOT_LEVEL_UNKNOWN},
    decide::Caller,
};

use super::{
    emit::count_error,
    kernel::{Live, ancestor, load, owner},
    maps::CGROUPS,
};

/// Deepest level, counted from the hierarchy's root, at which the attached root is looked for.
const DEEPEST_ROOT: u64 = 16;
/// Deepest level below the attached root at which a pod's cgroup is looked for: `Config::pod_levels` has a bit for each.
const DEEPEST_POD: u64 = 8;

/// The caller and the cgroup of its pod (0 if it is in none).
pub(super) struct Identity {
    pub(super) caller: Caller,
    pub(super) pod_cgroup: u64,
}

/// Level of the attached root in the whole hierarchy. `None` if it is not known and the calling task is not below the
/// root, so that it cannot be found out from this task.
#[inline(always)]
pub(super) fn root_level(config: &Live) -> Option<u64> {
    let known = config.root_level();
    if known != ROOT_LEVEL_UNKNOWN {
        return Some(known);
    }
    let root = config.root_cgroup();
    for level in 0..DEEPEST_ROOT {
        if ancestor(level) == root {
            config.set_root_level(level);
            return Some(level);
        }
    }
    None
}

/// Finds out who the calling task is. The *outermost* pod cgroup on the way from the root counts: what lies below a
/// pod's cgroup belongs to that pod, whatever its name says.
#[inline(always)]
pub(super) fn identify(config: &Live) -> Identity {
    let host = Identity { caller: Caller::Host, pod_cgroup: 0 };
    let Some(root_level) = root_level(config) else {
        return host;
    };
    // The program that runs is chosen by the socket's cgroup, but it is the task that binds: a descriptor may have
    // been handed to a process outside the subtree.
    if ancestor(root_level) != config.root_cgroup() {
        return host;
    }
    let levels = config.pod_levels();
    for below in 1..=DEEPEST_POD {
        if levels & (1 << below) == 0 {
            continue;
        }
        let id = ancestor(root_level + below);
        if id == 0 {
            break;
        }
        let Some(value) = CGROUPS.get_ptr(id) else {
            continue;
        };
        let Some((slot, form)) = CgroupIdentity(load(value)).read(id) else {
            continue;
        };
        let known = if slot == 0 { None } else { owner(slot) };
        let caller = match (known, form) {
            // The id is 0 where the pod is gone and its slot was freed.
            (Some(owner), _) if owner.id() != 0 => Caller::Pod(owner),
            (_, Form::Api) => Caller::UnknownApi,
            (_, Form::Static) => Caller::UnknownStatic,
        };
        return Identity { caller, pod_cgroup: id };
    }
    count_error(KernelError::CallerUnknown);
    Identity { caller: Caller::Unresolved, pod_cgroup: 0 }
}
