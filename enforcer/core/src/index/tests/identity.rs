//! Which pod is which.

use super::*;

#[test]
fn two_pods_with_one_uid() {
    let mut rig = Rig::new(Settings::default());
    rig.apply(pod(1, "first", "80"));
    let mut copy = pod(1, "copy", "81");
    copy.arrival = ARRIVAL_UNKNOWN;
    rig.apply(copy);
    assert!(rig.owners(81).is_empty());
    assert_eq!(
        rig.told(),
        ["default/copy on n has the UID of default/first: its claims bind nobody; give it a UID of its own"]
    );
    assert_eq!(rig.owners(80), ["first"]);
    rig.delete("first");
    assert_eq!(rig.owners(81), ["copy"], "now the UID is its own");
    rig.delete("copy");
    assert!(rig.index.waiting.is_empty());
}

const HASH: &str = "0123456789abcdef0123456789abcdef";

fn mirror(number: u32, name: &str, ports: &str) -> Pod {
    Pod { mirror: Some(HASH.to_owned()), config_hash: Some(HASH.to_owned()), ..pod(number, name, ports) }
}

#[test]
fn a_mirror_pod_is_static_where_its_cgroup_is() {
    for cgroup_first in [true, false] {
        let mut rig = Rig::new(Settings::default());
        if cgroup_first {
            rig.made(10, ROOT, &format!("kubepods-burstable-pod{HASH}.slice"));
        }
        rig.apply(mirror(1, "apiserver", "6443"));
        if !cgroup_first {
            assert_eq!(flags(&rig, 6443), 0, "nobody has seen a static pod: an annotation alone proves nothing");
            rig.made(10, ROOT, &format!("kubepods-burstable-pod{HASH}.slice"));
        }
        assert_eq!(flags(&rig, 6443), OWNER_SOFTWARE);
        assert_eq!(rig.index.name_by_cgroup(CgroupId::new(10)).unwrap().name, "apiserver");
        assert!(rig.told().is_empty());
    }
}

#[test]
fn the_first_mirror_keeps_the_hash() {
    let mut rig = Rig::new(Settings::default());
    rig.made(10, ROOT, &format!("kubepods-burstable-pod{HASH}.slice"));
    rig.apply(mirror(1, "real", "6443"));
    rig.apply(mirror(2, "forged", "80"));
    assert_eq!(flags(&rig, 80), 0, "a tenant like any other");
    assert_eq!(rig.index.name_by_cgroup(CgroupId::new(10)).unwrap().name, "real");
    assert_eq!(rig.told().len(), 1);
    let other = Pod { config_hash: Some(HASH.replace('0', "f")), ..mirror(1, "real", "6443") };
    rig.apply(other.clone());
    rig.apply(other);
    assert_eq!(flags(&rig, 6443), OWNER_SOFTWARE, "a change is ignored");
    assert_eq!(rig.told().len(), 1, "and told once");
    rig.delete("real");
    assert_eq!(flags(&rig, 80), 0, "the place is kept as long as the cgroup is there");
    rig.apply(mirror(3, "real", "6443"));
    assert_eq!(flags(&rig, 6443), OWNER_SOFTWARE, "for the one that the kubelet makes anew");
    rig.delete("real");
    rig.removed(10);
    rig.made(11, ROOT, &format!("kubepods-burstable-pod{HASH}.slice"));
    assert_eq!(flags(&rig, 80), OWNER_SOFTWARE, "then it is the next one's");
}

#[test]
fn a_cgroup_in_a_pod_is_taken_out_where_the_kernel_noted_it() {
    for known in [false, true] {
        let mut rig = Rig::new(Settings::default());
        rig.apply(pod(1, "owner", "80"));
        if known {
            rig.made(10, ROOT, &cgroup_name(1));
        }
        rig.made(20, ROOT, &cgroup_name(2));
        let slot = rig.maps.uids[&uid_key(&uid(1)).unwrap()];
        let noted = rig.maps.owners.get_mut(&slot).unwrap();
        (noted.cgroup, noted.level) = (21, 2);
        rig.maps.cgroups.insert(21, slot);
        rig.made(21, 20, &cgroup_name(1));
        assert!(!rig.maps.cgroups.contains_key(&21));
        let owner = &rig.maps.owners[&slot];
        assert_eq!((owner.cgroup, owner.level), if known { (10, 1) } else { (enforcer_ebpf::wire::CGROUP_UNKNOWN, 0) });
        assert!(
            rig.index.name_by_cgroup(CgroupId::new(21)).is_none(),
            "it is the other pod's, which nobody has told of"
        );
    }
}

#[test]
fn whose_a_cgroup_is_comes_before_the_claim() {
    let mut rig = Rig::new(Settings::default());
    // Made before the kernel knew the UID, and told between the two halves.
    rig.index.stage(pod(1, "owner", "80"), rig.now());
    rig.flush();
    assert!(rig.maps.ports.is_empty() && rig.maps.uids.len() == 1);
    rig.index.cgroup_recorded(CgroupId::new(10), CgroupId::new(ROOT), &cgroup_name(1), rig.now());
    rig.index.cgroup_recorded(CgroupId::new(11), CgroupId::new(ROOT), &cgroup_name(2), rig.now());
    rig.flush();
    let slot = rig.maps.uids[&uid_key(&uid(1)).unwrap()];
    assert!(rig.maps.ports.is_empty() && rig.maps.cgroups[&10] == slot);
    rig.index.commit(Staged::default(), rig.now());
    rig.flush();
    assert_eq!(rig.owners(80), ["owner"]);
}
