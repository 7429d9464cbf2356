//! The path of a cgroup: user space and the kernel programs find the same pod in it, and it is the outermost one.
#![no_main]

use enforcer_core::{
    cgroups::{
        path::{container_id, is_pods_root, pod_of},
        tree::{CgroupTree, Insertion},
    },
    model::kernel_ids::CgroupId,
};
use enforcer_ebpf::{
    cgroup_name,
    wire::{PodUid, UidForm, UidKey},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    assert_eq!(cgroup_name::pod_uid(data), written(data), "the kernel's reader reads what the kubelet writes");
    if let Ok(path) = std::str::from_utf8(data) {
        check(path);
    }
});

/// The UID in a name, by the rules for names and not by places in them. What stands before a pod's own part of a slice
/// is nobody's business, and need not even be text.
fn written(name: &[u8]) -> Option<(PodUid, UidForm)> {
    let text = String::from_utf8_lossy(name);
    let uid = match text.strip_suffix(".slice") {
        Some(slice) if name.len() >= cgroup_name::TAIL => {
            let (parents, uid) = slice.rsplit_once("-pod")?;
            // The kubelet names no parent like that, and the programs, which look at one place after the other, take
            // it for a pod with a UID that is none.
            (!parents.ends_with("-pod")).then_some(uid)?
        }
        _ => text.strip_prefix("pod")?,
    };
    let digits = uid.replace(['-', '_'], "");
    let form = match uid.split(['-', '_']).map(str::len).collect::<Vec<_>>()[..] {
        [8, 4, 4, 4, 12] => UidForm::Api,
        [32] => UidForm::Static,
        _ => return None,
    };
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    digits.bytes().all(is_digit).then_some(())?;
    Some((u128::from_str_radix(&digits, 16).ok()?.to_be_bytes(), form))
}

fn check(path: &str) {
    let pod = pod_of(path);
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();

    // As the programs do it: from the root down, and nothing in a pod is looked at.
    let by_kernel = segments.iter().enumerate().find_map(|(at, segment)| {
        let (uid, form) = cgroup_name::pod_uid(segment.as_bytes())?;
        Some((at, UidKey::new(uid, form)))
    });
    // As the agent does it, cgroup by cgroup.
    let mut tree = CgroupTree::new(CgroupId::new(0));
    let mut by_tree = None;
    for (at, segment) in segments.iter().enumerate() {
        let (parent, id) = (CgroupId::new(at as u64), CgroupId::new(at as u64 + 1));
        match tree.insert(id, parent, segment) {
            Insertion::Pod(made) => {
                assert_eq!(by_tree.replace((at, made.key)), None, "a path has one pod");
                assert_eq!(made.id, id);
            }
            Insertion::Other => {}
            Insertion::Unplaced | Insertion::Full => panic!("a path of {} segments", segments.len()),
        }
        assert_eq!(tree.pod(id).map(|pod| pod.key), by_tree.map(|(_, key)| key), "what lies below belongs to the pod");
    }
    assert_eq!(by_tree.map(|(_, key)| key), pod.map(|pod| pod.key), "the tree and the path agree");
    match (by_kernel, by_tree) {
        (None, None) => {}
        (Some(kernel), Some(tree)) if kernel == tree => {}
        // Pod and container in one segment, which only user space reads.
        (kernel, Some((at, _))) if segments[at].contains(':') && kernel.is_none_or(|(other, _)| other > at) => {}
        (kernel, tree) => panic!("the kernel finds {kernel:?}, user space {tree:?}"),
    }

    if let Some(pod) = pod {
        let (own, below) = path.split_at(pod.path_len);
        assert!(below.is_empty() || below.starts_with('/'), "a pod's cgroup is whole segments");
        assert_eq!(pod_of(own), Some(pod));
        assert_eq!(pod_of(&format!("{own}/kubepods/pod0a1b2c3d4e5f60718293a4b5c6d7e8f9")), Some(pod));
        let segment = own.rsplit('/').next().unwrap_or(own);
        assert!(segment.contains(':') || !is_pods_root(segment), "the pods' root is no pod");
    }
    assert_eq!(pod_of(&format!("/{path}")).map(|pod| pod.key), pod.map(|pod| pod.key));
    if let Some(id) = container_id(path) {
        assert!(id.len() == 64 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
        assert!(segments.iter().any(|segment| segment.contains(id)));
    }
    if pod.is_some()
        && let Some(last) = u64::try_from(segments.len()).ok().filter(|depth| *depth <= 32)
    {
        assert_eq!(tree.container(CgroupId::new(last)), container_id(path), "the tree and the path agree");
    }
}
