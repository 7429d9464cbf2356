use enforcer_ebpf::wire::UidForm;
use proptest::prelude::*;

use super::*;

const API: UidKey = UidKey::new(
    [0x0a, 0x1b, 0x2c, 0x3d, 0x4e, 0x5f, 0x60, 0x71, 0x82, 0x93, 0xa4, 0xb5, 0xc6, 0xd7, 0xe8, 0xf9],
    UidForm::Api,
);
const STATIC: UidKey = UidKey::new(API.uid, UidForm::Static);

/// A path in which `U` stands for a UID in the form of the driver, `S` for a static pod's, `C` for a container's
/// id and `D` for another one.
fn path(pattern: &str) -> String {
    pattern
        .replace('U', if pattern.contains(".slice") { SYSTEMD } else { CGROUPFS })
        .replace('S', "0a1b2c3d4e5f60718293a4b5c6d7e8f9")
        .replace('C', &"c0".repeat(32))
        .replace('D', &"d1".repeat(32))
}

const CGROUPFS: &str = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";
const SYSTEMD: &str = "0a1b2c3d_4e5f_6071_8293_a4b5c6d7e8f9";

#[test]
fn every_layout() {
    // What follows the bar lies below the pod's cgroup.
    for (pattern, key, container) in [
        ("/kubepods.slice/kubepods-podU.slice|", API, false),
        ("/kubepods.slice/kubepods-podU.slice|/cri-containerd-C.scope", API, true),
        ("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU.slice|/cri-containerd-C.scope", API, true),
        ("/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podU.slice|/crio-C.scope", API, true),
        ("/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podU.slice|/crio-C.scope/container", API, true),
        ("/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podU.slice|/crio-conmon-C.scope", API, false),
        ("/kubepods.slice/kubepods-podU.slice|/docker-C.scope", API, true),
        ("/kubepods.slice/kubepods-podU.slice|/cri-containerd-C.scope/init.scope", API, true),
        ("/kubepods.slice/kubepods-podU.slice|/cri-containerd-C.scope/docker/D", API, true),
        ("/kubepods.slice/kubepods-podS.slice|/cri-containerd-C.scope", STATIC, true),
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podS.slice|/cri-containerd-C.scope",
            STATIC,
            true,
        ),
        ("/kubepods/podU|/C", API, true),
        ("/kubepods/burstable/podU|/C", API, true),
        ("/kubepods/besteffort/podU|/C/container", API, true),
        ("/kubepods/podS|/C", STATIC, true),
        ("kubepods/burstable/podS|", STATIC, false),
        ("podU|/C", API, true),
        ("//kubepods//podU|//C/", API, true),
        ("/größe/a:b/kubepods/podU|/C", API, true),
        ("/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podU.slice|/cri-containerd-C.scope", API, true),
        (
            "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-podU.slice|/cri-containerd-C.scope",
            API,
            true,
        ),
        (
            "/system.slice/docker-D.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podU.slice|/cri-containerd-C.scope",
            API,
            true,
        ),
        ("/docker/D/kubelet/kubepods/burstable/podU|/C", API, true),
        ("/docker/D/kubelet/kubepods/burstable/podU|", API, false),
        ("/system.slice/containerd.service/kubepods-burstable-podU.slice:cri-containerd:C|", API, true),
        ("/kubepods-podS.slice:cri-containerd:C|/container", STATIC, true),
        ("/kubepods-podS.slice:cri-containerd:short|/C", STATIC, false),
        // Children that a container made to look like another pod.
        ("/kubepods/podS|/C/podU", STATIC, true),
        ("/kubepods/podS|/C/podU/D", STATIC, true),
        ("/kubepods/podS|/podU/D", STATIC, false),
        ("/kubepods/podS|/cri-containerd-C.scope/kubepods-podU.slice/cri-containerd-D.scope", STATIC, true),
    ] {
        let (pod, below) = pattern.split_once('|').unwrap();
        let whole = path(&format!("{pod}{below}"));
        let found = pod_of(&whole).expect(pattern);
        assert_eq!(found.key, key, "{pattern}");
        assert_eq!(whole.len() - found.path_len, path(below).len(), "{pattern}");
        assert_eq!(&whole[found.path_len..], path(below), "{pattern}");
        assert_eq!(container_id(&whole), container.then(|| path("C")).as_deref(), "{pattern}");
    }
}

/// Found by fuzzing: a colon behind another slice hid the pod from the agent, and the programs saw it.
#[test]
fn what_the_programs_take_for_a_pod_is_one() {
    for pattern in ["a.slice:b-podU.slice", "a.slice:b:c-podS.slice", "kubepods-podU.slice:b-podS.slice"] {
        let name = path(pattern);
        let (uid, form) = cgroup_name::pod_uid(name.as_bytes()).expect(pattern);
        let found = pod_of(&name).expect(pattern);
        assert_eq!((found.key, found.path_len), (UidKey::new(uid, form), name.len()), "{pattern}");
        assert_eq!(container_id(&name), None, "{pattern}");
    }
}

#[test]
fn paths_without_a_pod() {
    for (pattern, container) in [
        ("", false),
        ("/", false),
        ("/system.slice/kubelet.service", false),
        ("/kubepods.slice/kubepods-burstable.slice", false),
        ("/kubepods/burstable", false),
        ("/docker/C", true),
        ("/docker/C/D", true),
        ("C", true),
        ("cri-containerd-C.scope/container", true),
        ("/system.slice/docker-C.scope", true),
        ("/system.slice/crio-conmon-C.scope", false),
        ("/system.slice/other-C.scope", false),
        ("C.scope", false),
        ("cri-containerd-C", false),
        ("CC", false),
        ("c0c0", false),
        ("/kubepods/podU0", false),
        ("/kubepods-podU.slice.d", false),
        ("/kubepods-podU.scope:cri-containerd:C", false),
        ("podU:cri-containerd:C", false),
    ] {
        let path = path(pattern);
        assert_eq!(pod_of(&path), None, "{pattern}");
        assert_eq!(container_id(&path), container.then(|| self::path("C")).as_deref(), "{pattern}");
    }
    assert_eq!(container_id(&path("C").to_uppercase()), None);
}

#[test]
fn the_root_of_the_pods() {
    for (segment, expected) in [
        ("kubepods", true),
        ("kubepods.slice", true),
        ("kubelet-kubepods.slice", true),
        ("a-b-kubepods.slice", true),
        ("", false),
        ("kubelet.slice", false),
        ("kubepods-burstable.slice", false),
        ("mykubepods.slice", false),
        ("kubelet-kubepods", false),
        ("kubelet/kubepods", false),
    ] {
        assert_eq!(is_pods_root(segment), expected, "{segment}");
    }
}

proptest! {
    #[test]
    fn any_path(path in any::<String>()) {
        prop_assert_eq!(pod_of(&path), None);
        let _ = container_id(&path);
    }

    #[test]
    fn the_outermost_pod_wins(
        prefix in "(/[a-z.]{1,8}){0,3}",
        below in "(/([a-z.]{1,8}|pod0a1b2c3d4e5f60718293a4b5c6d7e8f9|ä)){0,4}/?",
    ) {
        let path = format!("{prefix}/pod{CGROUPFS}{below}");
        let pod = pod_of(&path).unwrap();
        prop_assert_eq!(pod.key, API);
        prop_assert_eq!(&path[pod.path_len..], below);
        prop_assert_eq!(container_id(&path), None);
    }
}
