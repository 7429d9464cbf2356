//! From the path of a cgroup to the pod and the container, as the kubelet and the runtimes name them.
//!
//! | driver | burstable, best-effort | guaranteed |
//! | --- | --- | --- |
//! | systemd | `kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<UID_>.slice/<container>` | `kubepods.slice/kubepods-pod<UID_>.slice/<container>` |
//! | cgroupfs | `kubepods/burstable/pod<UID>/<container>` | `kubepods/pod<UID>/<container>` |
//!
//! `<UID_>` has `_` for `-`. A container is `cri-containerd-<id>.scope`, `crio-<id>.scope` or `docker-<id>.scope`
//! under systemd and `<id>` under cgroupfs. With the runtime set to cgroupfs and the kubelet to systemd, pod and
//! container are one segment, somewhere: `kubepods-burstable-pod<UID_>.slice:cri-containerd:<id>`.

use enforcer_ebpf::{
    cgroup_name,
    wire::{PodUid, UidForm, UidKey},
};

/// Characters of a container's id.
const ID_LEN: usize = 64;
/// Prefixes that the runtimes put before the id in the name of a scope.
const SCOPE_PREFIXES: [&str; 3] = ["cri-containerd-", "crio-", "docker-"];

/// A pod, by its cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PodCgroup {
    /// The UID in the cgroup's name.
    pub key: UidKey,
    /// Bytes of the path up to the end of the pod's own segment: `&path[..path_len]` is the pod's cgroup.
    pub path_len: usize,
}

/// Returns the pod that a cgroup belongs to. The path may start at any root, with or without a slash.
///
/// The *outermost* segment that names a pod wins: a container with a writable cgroup tree can make children with any
/// name, and what lies below a pod's cgroup belongs to that pod.
#[must_use]
pub fn pod_of(path: &str) -> Option<PodCgroup> {
    segments(path).find_map(|(start, segment)| {
        let (uid, form) = pod_uid(segment)?;
        Some(PodCgroup { key: UidKey::new(uid, form), path_len: start + segment.len() })
    })
}

/// Returns the id of the container that a cgroup belongs to.
///
/// In a pod, that is the child of the pod's cgroup, whatever lies below it. In a path without a pod it is the
/// outermost segment that names a container.
#[must_use]
pub fn container_id(path: &str) -> Option<&str> {
    let Some(pod) = pod_of(path) else {
        return segments(path).find_map(|(_, segment)| container_of(segment));
    };
    let (own, below) = path.split_at(pod.path_len);
    let own = own.rsplit('/').next().unwrap_or(own);
    container_in(own, segments(below).next().map(|(_, child)| child))
}

/// Returns the same as [`container_id`], by the segment that names the pod and the one below it.
#[must_use]
pub fn container_in<'a>(pod: &'a str, below: Option<&'a str>) -> Option<&'a str> {
    match pod.rsplit_once(':') {
        Some((_, id)) => is_id(id).then_some(id),
        None => below.and_then(container_of),
    }
}

/// Checks whether a segment is the cgroup that all pods are below: `kubepods`, `kubepods.slice`, or that slice inside
/// another one, as kind's `kubelet-kubepods.slice`.
#[must_use]
pub fn is_pods_root(segment: &str) -> bool {
    segment == "kubepods" || segment == "kubepods.slice" || segment.ends_with("-kubepods.slice")
}

/// Returns the segments of a path, each with the offset in bytes where it starts.
fn segments(path: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut start = 0;
    path.split('/').filter_map(move |segment| {
        let here = start;
        start += segment.len() + 1;
        (!segment.is_empty()).then_some((here, segment))
    })
}

/// Reads the pod's UID in a segment: all of it is the pod's name, as the kernel programs read it, or else the slice
/// before the first colon is, which they do not look at.
fn pod_uid(segment: &str) -> Option<(PodUid, UidForm)> {
    cgroup_name::pod_uid(segment.as_bytes()).or_else(|| {
        let (slice, _container) = segment.split_once(':')?;
        slice.strip_suffix(".slice")?;
        cgroup_name::pod_uid(slice.as_bytes())
    })
}

fn container_of(segment: &str) -> Option<&str> {
    let id = match segment.strip_suffix(".scope") {
        Some(scope) => SCOPE_PREFIXES.iter().find_map(|prefix| scope.strip_prefix(prefix))?,
        None => segment,
    };
    is_id(id).then_some(id)
}

fn is_id(text: &str) -> bool {
    text.len() == ID_LEN && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests;
