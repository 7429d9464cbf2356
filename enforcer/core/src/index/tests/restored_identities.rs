//! What else an agent takes over: who is who, and what another one left half done.

use std::{cell::RefCell, rc::Rc};

use super::{
    restore::{TCP, V4, in_workload, old, settings},
    *,
};
use crate::plan::port_state::Change;

const HASH: &str = "0123456789abcdef0123456789abcdef";

fn mirror(number: u32, name: &str, ports: &str) -> Pod {
    Pod { mirror: Some(HASH.to_owned()), config_hash: Some(HASH.to_owned()), ..pod(number, name, ports) }
}

#[test]
fn the_first_mirror_keeps_the_hash_across_agents() {
    let fixed = |rig: &mut Rig| rig.made(10, ROOT, &format!("kubepods-burstable-pod{HASH}.slice"));
    let mut rig = Rig::new(settings());
    fixed(&mut rig);
    rig.apply(mirror(1, "real", "6443"));
    let mut next = rig.restart(1, settings());
    fixed(&mut next);
    next.index.reset_cgroups(&HashSet::from([CgroupId::new(10)]), next.now());
    next.flush();
    let flags = |rig: &Rig, port| rig.maps.owners[&rig.maps.ports[&(TCP, port)].v4().first].flags();
    assert_eq!(flags(&next, 6443), OWNER_SOFTWARE);
    next.reset(vec![mirror(2, "forged", "80"), mirror(1, "real", "6443")]);
    assert_eq!((flags(&next, 6443), flags(&next, 80)), (OWNER_SOFTWARE, 0));
    assert_eq!(next.told().len(), 1, "the forged one");
    next.apply(Pod { config_hash: None, ..mirror(1, "real", "6443") });
    assert_eq!(next.told().len(), 1, "the change");
    assert_eq!(flags(&next, 6443), OWNER_SOFTWARE);
}

#[test]
fn a_mirror_that_waits_for_its_cgroup_goes_on_waiting() {
    for cgroup_came in [false, true] {
        let mut rig = Rig::new(settings());
        rig.apply(mirror(1, "early", "6443"));
        let mut next = rig.restart(1, settings());
        let name = format!("kubepods-burstable-pod{HASH}.slice");
        if cgroup_came {
            next.made(10, ROOT, &name);
        }
        next.reset(vec![mirror(1, "early", "6443")]);
        if !cgroup_came {
            next.made(10, ROOT, &name);
        }
        let word = next.maps.ports[&(TCP, 6443)];
        assert_eq!(next.maps.owners[&word.v4().first].flags(), OWNER_SOFTWARE, "cgroup first: {cgroup_came}");
    }
}

#[test]
fn ids_go_on() {
    let rig = old([pod(1, "a", "80"), pod(2, "b", "81")]);
    let ids = |rig: &Rig| [rig.maps.met(TCP, 80, V4)[0], rig.maps.met(TCP, 81, V4)[0]];
    let mut next = rig.restart(1, settings());
    assert_eq!(ids(&next), ids(&rig), "what the kernel tells of them names the right ones");
    next.apply(pod(3, "c", "82"));
    let new = next.maps.met(TCP, 82, V4)[0];
    assert!(new > ids(&rig)[1].saturating_add(4096), "and nobody else gets an id of the last agent");

    let mut strange = rig.maps.recall().owners;
    strange[1].id = OwnerId::new(u32::MAX).unwrap();
    strange[2].id = OwnerId::FIRST; // The new node has it.
    let mut next = Rig::new(settings());
    let now = next.now();
    assert_eq!(next.index.restore(strange, RestoredFrom::Agent, now).pods, 2);
    next.flush();
    assert_eq!(next.owners(80), ["a"]);
    assert_eq!(next.owners(81), ["b"]);
}

#[test]
fn who_cannot_be_taken_over_is_named() {
    let rig = old([pod(1, "a", "80")]);
    let recalled = rig.maps.recall().owners;
    let mut twice = recalled.clone();
    twice.extend(recalled);
    let mut next = Rig::new(settings());
    let now = next.now();
    let restored = next.index.restore(twice, RestoredFrom::Agent, now);
    assert_eq!((restored.pods, restored.reservations), (1, 0));
    assert_eq!(restored.refused.iter().map(ToString::to_string).collect::<Vec<_>>(), ["default/a"]);
    next.flush();
    assert_eq!(next.owners(80), ["a"]);
}

#[test]
fn a_name_that_is_too_long_is_not_remembered_and_known_again_when_listed() {
    let name = "x".repeat(400);
    let mut rig = Rig::new(settings());
    rig.maps.some_unrecorded = true;
    rig.apply(pod(1, &name, "80"));
    assert_eq!(rig.maps.records.len(), 1, "the node's");
    let recalled = rig.maps.recall();
    assert_eq!(recalled.unreadable.len(), 1);
    let mut next = rig.restart(1, settings());
    assert!(next.owners(80).is_empty());
    next.reset(vec![pod(1, &name, "80")]);
    assert_eq!(next.owners(80), std::slice::from_ref(&name));
    next.delete(&name);
    assert_eq!(next.maps.owners.len(), 1);
}

#[test]
fn an_owner_is_remembered_before_it_is_known_and_until_it_is_unknown() {
    let mut rig = Rig::new(settings());
    rig.index.apply(pod(1, "a", "80"), rig.now());
    let place = |changes: &[Change], wanted: fn(&Change) -> bool| changes.iter().position(wanted).unwrap();
    let made = rig.index.drain_output().changes;
    let record = place(&made, |change| matches!(change, Change::OwnerRecord { .. }));
    let owner = place(&made, |change| matches!(change, Change::Owner { .. }));
    assert!(record < owner && owner < place(&made, |change| matches!(change, Change::Port { .. })));
    rig.index.apply(pod(1, "a", "80"), rig.now());
    assert!(
        !rig.index.drain_output().changes.iter().any(|change| matches!(change, Change::OwnerRecord { .. })),
        "nothing changed"
    );
    rig.index.delete("default", "a", rig.now());
    let gone = rig.index.drain_output().changes;
    let free = place(&gone, |change| matches!(change, Change::Owner { owner, .. } if owner.id() == 0));
    assert!(place(&gone, |change| matches!(change, Change::OwnerRecordGone { .. })) > free);
}

type Step = fn(&mut Rig);

#[test]
fn an_agent_may_die_after_any_change() {
    let steps: [(Step, &[&str]); 4] = [
        (|rig| rig.delete("a"), &["a"]),
        (|rig| rig.removed(1 + CGROUP_IDS), &["a"]),
        (|rig| rig.apply(in_workload(7, "a", "80")), &["a"]),
        (|rig| rig.apply(Pod { phase: Phase::Succeeded, ..in_workload(1, "a", "80") }), &["", "a", "b"]),
    ];
    for (number, (step, expected)) in steps.into_iter().enumerate() {
        let mut rig = old([in_workload(1, "a", "80"), pod(2, "b", "80")]);
        let states = Rc::new(RefCell::new(Vec::new()));
        let seen = Rc::clone(&states);
        rig.watch = Some(Box::new(move |maps, _| seen.borrow_mut().push(maps.clone())));
        step(&mut rig);
        let states = states.take();
        assert!(states.len() > 2, "step {number} has changes");
        for (change, maps) in states.iter().enumerate() {
            let next = Rig::after(maps, rig.at, settings());
            let owners = next.owners(80).join(", ");
            assert!(expected.contains(&&*owners), "{owners:?} after change {change} of step {number}");
        }
    }
}
