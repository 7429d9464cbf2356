//! The index driven by hand, its changes carried out on a model of the kernel's maps.

mod api_trouble;
mod histories;
mod identity;
mod map_model;
mod own_pod;
mod port_limits;
mod quotas;
mod reboot;
mod restart;
mod restore;
mod restored_identities;
mod services;

use std::collections::{BTreeMap, HashMap};

use enforcer_ebpf::wire::{
    OWNER_DAEMON, OWNER_MODE_AUDIT, OWNER_MODE_ENFORCE, OWNER_NODE, OWNER_SOFTWARE, OWNER_TERMINATING, Protocol,
};
use proptest::prelude::*;

use self::map_model::{CGROUP_IDS, Maps, ROOT, Rig, cgroup_name, of_workload, pod, uid};
use super::*;
use crate::{
    model::{mode::NamespaceMode, namespace_label::NamespaceLabel},
    pods::{
        annotation,
        pod::{ARRIVAL_UNKNOWN, DeclaredPort, Phase, Workload, uid_key},
    },
};

#[test]
fn the_first_to_arrive_owns_the_port_until_it_goes() {
    let mut rig = Rig::new(Settings::default());
    rig.apply(pod(2, "late", "80, 81"));
    rig.apply(pod(1, "early", "80"));
    assert_eq!(rig.owners(80), ["late"], "what is in force stays");
    assert_eq!(
        rig.told(),
        ["claim of default/early on 80/tcp loses on n: in force for default/late (annotation); it is granted when \
          that one goes"]
    );
    rig.delete("late");
    assert_eq!(rig.owners(80), ["early"]);
    assert!(rig.owners(81).is_empty());
    assert_eq!(rig.told(), ["claim of default/early on 80/tcp is now in force on n"]);
}

#[test]
fn pods_that_come_together_are_ranked_by_arrival() {
    let mut rig = Rig::new(Settings::default());
    let now = rig.now();
    rig.index.reset(vec![pod(3, "c", "80"), pod(1, "a", "80"), pod(2, "b", "80")], now);
    rig.flush();
    assert_eq!(rig.owners(80), ["a"]);
    rig.index.reset(vec![pod(3, "c", "80"), pod(2, "b", "80")], now);
    rig.flush();
    assert_eq!(rig.owners(80), ["b"], "what vanished unseen is gone");
}

#[test]
fn an_edit_counts_from_the_edit() {
    let mut rig = Rig::new(Settings::default());
    rig.apply(pod(1, "old", "70"));
    rig.apply(pod(5, "holder", "80"));
    rig.apply(pod(6, "waiting", "80"));
    rig.apply(pod(1, "old", "70, 80"));
    assert_eq!(rig.owners(80), ["holder"]);
    rig.delete("holder");
    assert_eq!(rig.owners(80), ["waiting"], "the old pod's claim is younger than that");
    rig.apply(pod(1, "old", "80"));
    assert!(rig.owners(70).is_empty());
}

#[test]
fn what_was_given_up_is_gone() {
    let mut rig = Rig::new(Settings::default());
    rig.apply(pod(1, "a", "80"));
    rig.apply(pod(2, "b", "80"));
    rig.apply(pod(1, "a", "81"));
    rig.apply(pod(1, "a", "81, 127.0.0.1:80"));
    assert_eq!(rig.owners(80), ["b"]);
}

#[test]
fn a_name_that_comes_back_is_another_pod() {
    let mut rig = Rig::new(Settings::default());
    rig.apply(pod(1, "web-0", "80"));
    rig.apply(pod(2, "other", "80"));
    rig.apply(pod(3, "web-0", "80"));
    assert_eq!(rig.owners(80), ["other"]);
    assert_eq!(rig.index.pod_count(), 2);
}

#[test]
fn the_node_and_node_software_come_first() {
    let mut rig =
        Rig::new(Settings { node_reserved: annotation::parse_list("22/tcp").unwrap(), ..Settings::default() });
    rig.apply(pod(1, "tenant", "22, 80, 81"));
    let mut system = pod(2, "system", "80");
    system.namespace = "kube-system".to_owned();
    rig.apply(system);
    let mut fixed = pod(3, "static", "81");
    fixed.uid_text = "0123456789abcdef0123456789abcdef".to_owned();
    fixed.uid = uid_key(&fixed.uid_text);
    rig.apply(fixed);
    let flags = |port| {
        let word = rig.maps.ports[&(Protocol::Tcp, port)];
        rig.maps.owners[&word.v4().first].flags()
    };
    assert_eq!(flags(22), OWNER_NODE);
    assert_eq!(flags(80), OWNER_SOFTWARE);
    assert_eq!(flags(81), OWNER_SOFTWARE);
    assert_eq!(rig.owners(80), ["system"]);
    assert_eq!(rig.owners(81), ["static"]);
}

#[test]
fn source_of_a_claim_is_that_of_the_address_asked_for() {
    let mut rig = Rig::new(Settings::default());
    let declared = DeclaredPort {
        host_port: 80,
        host_ip: "10.0.0.1".parse().unwrap(),
        protocol: Protocol::Tcp,
        container: "web".to_owned(),
    };
    rig.apply(Pod { ports: vec![declared], ..pod(1, "both", "127.0.0.1:80") });
    let id = rig.index.pod_named("default", "both").unwrap();
    let source = |address: &str| rig.index.source(id, Protocol::Tcp, 80, address.parse().unwrap());
    assert_eq!(source("10.0.0.1"), Some(ClaimSource::HostPort));
    assert_eq!(source("127.0.0.1"), Some(ClaimSource::Annotation));
    assert_eq!(source("10.0.0.9"), Some(ClaimSource::HostPort), "no claim overlaps, so the first one counts");
    rig.apply(pod(2, "later", "127.0.0.1:80"));
    assert_eq!(
        rig.told(),
        ["claim of default/later on 127.0.0.1:80/tcp loses on n: in force for default/both (annotation); it is \
          granted when that one goes"]
    );
}

#[test]
fn a_terminating_owner_lets_its_workload_in() {
    let mut rig = Rig::new(Settings::default());
    let old = of_workload(pod(1, "old", "80"), "ds");
    rig.apply(old.clone());
    rig.apply(of_workload(pod(2, "new", "80"), "ds"));
    rig.told();
    rig.apply(Pod { deletion: Some(jiff::Timestamp::UNIX_EPOCH), ..old });
    let word = rig.maps.ports[&(Protocol::Tcp, 80)];
    let owner = rig.maps.owners[&word.v4().first];
    assert_eq!(rig.index.name(OwnerId::new(owner.id()).unwrap()).unwrap().name, "new", "who stays stands for both");
    rig.delete("new");
    let word = rig.maps.ports[&(Protocol::Tcp, 80)];
    let owner = rig.maps.owners[&word.v4().first];
    assert_eq!(owner.flags(), OWNER_TERMINATING | OWNER_DAEMON);
    assert_ne!(owner.workload(), 0);
    rig.apply(of_workload(pod(3, "newer", "80"), "ds"));
    rig.delete("old");
    assert_eq!(rig.owners(80), ["newer"]);
    assert_eq!(rig.told(), [""; 0], "siblings are one party");
}

#[test]
fn the_grace_keeps_a_squatter_waiting() {
    let mut rig = Rig::new(Settings::default());
    rig.apply(of_workload(pod(1, "old", "80"), "ds"));
    rig.apply(pod(2, "squatter", "80"));
    rig.delete("old");
    assert_eq!(rig.owners(80), ["old"], "what is left of it keeps its name");
    rig.pass(59);
    assert_eq!(rig.owners(80), ["old"]);
    rig.apply(of_workload(pod(3, "new", "80"), "ds"));
    assert_eq!(rig.owners(80), ["new"]);
    assert_eq!(rig.index.poll_timeout(), None, "nothing is left");
    rig.delete("new");
    rig.pass(60);
    assert_eq!(rig.owners(80), ["squatter"]);
}

#[test]
fn no_grace_after_success_and_none_without_a_controller() {
    let mut rig = Rig::new(Settings::default());
    let job = of_workload(pod(1, "job", "80"), "job");
    rig.apply(job.clone());
    rig.apply(Pod { phase: Phase::Succeeded, ..job });
    assert!(rig.owners(80).is_empty());
    rig.delete("job");
    assert!(rig.owners(80).is_empty());
    rig.apply(pod(2, "alone", "80"));
    rig.delete("alone");
    assert!(rig.owners(80).is_empty());
}

#[test]
fn a_group_needs_no_grace_while_a_member_is_there() {
    let mut rig = Rig::new(Settings::default());
    let member = |number, name| Pod { share: Some("g".to_owned()), ..of_workload(pod(number, name, "80"), name) };
    rig.apply(member(1, "one"));
    rig.apply(member(2, "two"));
    rig.apply(pod(3, "stranger", "80"));
    rig.delete("one");
    assert_eq!(rig.owners(80), ["two"]);
    rig.delete("two");
    assert_eq!(rig.owners(80), ["two"], "now it does");
    rig.pass(60);
    assert_eq!(rig.owners(80), ["stranger"]);
}

#[test]
fn a_pod_is_over_when_its_cgroup_is() {
    let mut rig = Rig::new(Settings::default());
    rig.apply(pod(1, "stuck", "80"));
    rig.apply(pod(2, "next", "80"));
    rig.made(10, ROOT, &cgroup_name(1));
    assert_eq!(rig.owners(80), ["stuck"]);
    rig.removed(10);
    assert_eq!(rig.owners(80), ["next"], "the object is still there");
    rig.apply(pod(1, "stuck", "80, 81"));
    assert!(rig.owners(81).is_empty(), "an update brings nothing back");
    rig.made(11, ROOT, &cgroup_name(1));
    assert_eq!(rig.owners(81), ["stuck"], "a new cgroup does");
}

#[test]
fn cgroup_and_pod_meet_in_either_order() {
    for cgroup_first in [true, false] {
        let mut rig = Rig::new(Settings::default());
        rig.made(9, ROOT, "kubepods-besteffort.slice");
        if cgroup_first {
            rig.made(10, 9, &cgroup_name(1));
            assert_eq!(rig.maps.cgroups[&10], 0, "nobody known");
        }
        rig.apply(pod(1, "a", "80"));
        if !cgroup_first {
            rig.made(10, 9, &cgroup_name(1));
        }
        let slot = rig.maps.cgroups[&10];
        let owner = rig.maps.owners[&slot];
        assert_eq!((owner.cgroup, owner.level), (10, 2));
        assert_eq!(rig.index.name_by_cgroup(CgroupId::new(10)).unwrap().name, "a");
        rig.delete("a");
        assert_eq!(rig.maps.cgroups[&10], 0, "nobody again");
    }
}

fn flags(rig: &Rig, port: u16) -> u32 {
    rig.maps.owners[&rig.maps.ports[&(Protocol::Tcp, port)].v4().first].flags()
}

#[test]
fn the_label_of_a_namespace_overrides_the_mode() {
    let mode_flags = OWNER_MODE_AUDIT | OWNER_MODE_ENFORCE;
    for (policy, label, expected) in [
        (NamespaceMode::Any, "audit", OWNER_MODE_AUDIT),
        (NamespaceMode::Any, "enforce", OWNER_MODE_ENFORCE),
        (NamespaceMode::Any, "deny", 0),
        (NamespaceMode::Stricter, "audit", 0),
        (NamespaceMode::Stricter, "enforce", OWNER_MODE_ENFORCE),
        (NamespaceMode::Off, "enforce", 0),
    ] {
        let mut rig = Rig::new(Settings { namespace_mode: policy, ..Settings::default() });
        rig.apply(pod(1, "before", "80"));
        rig.index.set_namespace_label(NamespaceLabel::Mode, "default", Some(label));
        rig.flush();
        rig.apply(pod(2, "after", "81"));
        assert_eq!(flags(&rig, 80) & mode_flags, expected, "{policy:?} {label}");
        assert_eq!(flags(&rig, 81) & mode_flags, expected, "{policy:?} {label}");
        assert_eq!(rig.told().len(), usize::from(label == "deny"));
        rig.index
            .reset_namespace_labels(NamespaceLabel::Mode, &HashMap::from([("other".to_owned(), "audit".to_owned())]));
        rig.flush();
        assert_eq!(flags(&rig, 80) & mode_flags, 0, "the label was taken away unseen");
    }
}

#[test]
fn problems_are_told_once_and_again_when_they_come_back() {
    let mut rig = Rig::new(Settings::default());
    rig.apply(pod(1, "a", "80, x"));
    assert_eq!(rig.told().len(), 1);
    rig.apply(pod(1, "a", "80, x"));
    assert_eq!(rig.told().len(), 0);
    rig.apply(pod(1, "a", "80"));
    rig.apply(pod(1, "a", "80, x"));
    assert_eq!(rig.told().len(), 1);
}

#[test]
fn a_pod_without_uid_binds_nobody() {
    let mut rig = Rig::new(Settings::default());
    rig.apply(Pod { uid: None, uid_text: String::new(), ..pod(1, "a", "80") });
    rig.apply(pod(2, "b", "80"));
    assert_eq!(rig.owners(80), ["b"]);
}

#[test]
fn of_many_that_wait_the_next_in_turn_are_told_of_another_owner() {
    let mut rig = Rig::new(Settings::default());
    for number in 1..=40 {
        rig.apply(pod(number, &format!("p{number}"), "80"));
    }
    assert_eq!(rig.told().len(), 39, "whoever loses is told");
    rig.delete("p1");
    let told = rig.told();
    assert_eq!(told.len(), 11);
    assert!(told[9].starts_with("claim of default/p12 on 80/tcp loses"), "{told:#?}");
    assert_eq!(told[10], "claim of default/p2 on 80/tcp is now in force on n");
}

#[test]
fn the_last_phase_of_a_pod_that_was_asked_to_go_ends_no_grace() {
    for phase in [Phase::Succeeded, Phase::Failed] {
        let mut rig = Rig::new(Settings::default());
        let old = of_workload(pod(1, "old", "80"), "ds");
        rig.apply(old.clone());
        rig.apply(pod(2, "squatter", "80"));
        let going = Pod { deletion: Some(jiff::Timestamp::UNIX_EPOCH), ..old };
        rig.apply(going.clone());
        rig.apply(Pod { phase, ..going.clone() });
        assert_eq!(rig.owners(80), ["old"], "it did not end by itself");
        rig.pass(59);
        rig.apply(Pod { phase, ..going });
        rig.delete("old");
        assert_eq!(rig.owners(80), ["old"]);
        rig.pass(1);
        assert_eq!(rig.owners(80), ["squatter"], "the grace is counted from the end, and once");
        rig.delete("squatter");

        let job = of_workload(pod(3, "job", "80"), "job");
        rig.apply(job.clone());
        rig.apply(Pod { phase, ..job.clone() });
        rig.apply(Pod { phase, deletion: Some(jiff::Timestamp::UNIX_EPOCH), ..job });
        assert!(rig.owners(80).is_empty(), "one that ended by itself leaves nothing when it is tidied away");
    }
}
