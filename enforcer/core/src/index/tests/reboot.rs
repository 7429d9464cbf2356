//! The node loses its power: what was in force is written down, and is in force again in the next boot.

use std::{cell::Cell, rc::Rc};

use enforcer_ebpf::wire::{Reason, VerdictKind};

use super::{
    restart::{STRANGER, answers, drive, first_agent, history, in_force},
    restore::{TCP, in_workload, old},
    *,
};
use crate::{
    boot_state::{BootState, Origin},
    plan::recover::RecoveredOwner,
};

impl Rig {
    /// The boot state of this moment, read again so many seconds later.
    fn boot_state(&self, seconds: u64) -> BootState {
        let state = BootState {
            origin: Origin { node: "n".to_owned(), machine: None, boot: "first".to_owned() },
            written: self.now().wall,
            lease: None,
            cgroup: "kubepods.slice".to_owned(),
            policy: self.maps.policy,
            shared_ports: Vec::new(),
            reserves_ports: true,
            settings: Settings::default(),
            owners: self.index.owners_in_force(),
        };
        let bytes = state.encode(self.now()).unwrap();
        let mut later = Self::new(Settings::default());
        later.at = self.at + seconds;
        BootState::decode(&bytes, later.now()).unwrap()
    }

    /// The programs after a power cut: no agent looks, and no pod has a cgroup.
    pub(super) fn reboot(&self, seconds: u64) -> Self {
        let state = self.boot_state(seconds);
        let mut next = Self::new(state.settings.clone());
        next.at = self.at + seconds;
        next.maps.policy = state.policy_at_boot();
        next.maps.some_unrecorded = self.maps.some_unrecorded;
        next.restore(state.owners, RestoredFrom::BootState);
        next
    }
}

fn answer(rig: &Rig, number: u32, port: u16) -> (VerdictKind, Reason) {
    rig.answer(number, port)
}

const ALLOWED: (VerdictKind, Reason) = (VerdictKind::Allow, Reason::Owner);
const DENIED: (VerdictKind, Reason) = (VerdictKind::Deny, Reason::Claimed);
const REPORTED: (VerdictKind, Reason) = (VerdictKind::Audit, Reason::Claimed);

#[test]
fn pods_have_their_ports_before_any_agent_comes() {
    let rig = old([pod(1, "owner", "80"), pod(2, "other", "81")]);
    let mut next = rig.reboot(40);
    // The kubelet makes the cgroups of the pods that it knows; the kernel finds their owners by the UIDs in the names.
    next.rescan(&[1, 2, STRANGER]);
    assert_eq!(answer(&next, 1, 80), ALLOWED);
    assert_eq!(answer(&next, 2, 80), DENIED, "a pod that is known, and claims another port");
    assert_eq!(answer(&next, STRANGER, 80), DENIED);
    assert_eq!(answer(&next, 2, 81), ALLOWED);
}

#[test]
fn the_next_agent_takes_over_and_ends_what_is_gone() {
    let rig = old([pod(1, "owner", "80"), pod(2, "evicted", "81")]);
    let mut boot = rig.reboot(40);
    boot.rescan(&[1, STRANGER]);
    let mut next = boot.restart(5, Settings::default());
    next.rescan(&[1, STRANGER]);
    assert_eq!(answer(&next, 1, 80), ALLOWED);
    assert_eq!(answer(&next, STRANGER, 81), DENIED, "nobody has said that the pod is gone");
    next.index.note_all_sockets_seen();
    next.reset(vec![pod(1, "owner", "80")]);
    assert_eq!(answer(&next, STRANGER, 80), DENIED);
    assert_eq!(answer(&next, STRANGER, 81).0, VerdictKind::Allow);
}

/// A pod of the system namespaces that was replaced while the node was off has another UID, and nobody knows it yet.
#[test]
fn node_software_that_nobody_knows_is_not_denied() {
    let mut system = pod(1, "proxy", "80");
    system.namespace = "kube-system".to_owned();
    let rig = old([system.clone(), pod(2, "tenant", "81")]);
    assert_eq!(answer(&rig, STRANGER, 80), DENIED);
    let mut boot = rig.reboot(40);
    boot.rescan(&[1, 2, STRANGER]);
    assert_eq!(answer(&boot, STRANGER, 80), REPORTED);
    assert_eq!(answer(&boot, 1, 81), REPORTED, "node software that is known is never denied");
    // The agent that comes does not know more than the programs, until it has a list.
    let mut next = Rig::new(Settings::default());
    next.at = boot.at;
    next.restore(boot.maps.recall().owners, RestoredFrom::BootState);
    next.rescan(&[1, 2, STRANGER]);
    assert_eq!(answer(&next, STRANGER, 80), REPORTED);
    next.reset(vec![system, pod(2, "tenant", "81")]);
    assert_eq!(answer(&next, STRANGER, 80), DENIED);
}

#[test]
fn a_reservation_denies_no_heir_that_nobody_knows() {
    let mut rig = old([in_workload(1, "old", "80"), pod(2, "other", "81")]);
    rig.delete("old");
    assert_eq!(answer(&rig, 2, 80), DENIED, "the workload's for a minute");
    let mut boot = rig.reboot(20);
    boot.rescan(&[2, STRANGER]);
    assert_eq!(answer(&boot, STRANGER, 80), REPORTED, "it may be the heir");
    let reservations: Vec<_> = boot.index.reservations.iter().map(|(until, _)| until.as_secs()).collect();
    assert_eq!(reservations, [boot.at + 40], "what is left of a minute");
    let over = rig.reboot(60);
    assert!(over.index.reservations.is_empty() && over.owners(80).is_empty());
}

/// A node that denies what nobody declared must not deny a pod whose declaration nobody has read.
#[test]
fn nothing_is_denied_because_nobody_declared_it() {
    let mut rig = old([pod(1, "owner", "80")]);
    rig.maps.policy = map_model::DECLARED_ONLY;
    assert_eq!(answer(&rig, STRANGER, 90), (VerdictKind::Deny, Reason::Undeclared));
    let mut boot = rig.reboot(1);
    boot.rescan(&[1, STRANGER]);
    assert_eq!(answer(&boot, STRANGER, 90).0, VerdictKind::Allow);
    assert_eq!(answer(&boot, STRANGER, 80), DENIED);
}

#[test]
fn reading_the_same_tree_changes_no_claims() {
    let mut rig = old([pod(1, "owner", "80"), pod(2, "other", "81")]);
    let changes = count_claim_changes(&mut rig);
    rig.rescan(&[1, 2, STRANGER]);
    assert_eq!(changes.get(), 0);
    rig.apply(pod(1, "owner", "80, 82"));
    assert!(changes.get() > 0);
}

/// Counts the changes from now on that concern claims.
fn count_claim_changes(rig: &mut Rig) -> Rc<Cell<u32>> {
    let count = Rc::new(Cell::new(0));
    let counter = Rc::clone(&count);
    rig.watch = Some(Box::new(move |_, change| counter.set(counter.get() + u32::from(change.concerns_claims()))));
    count
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// What is kept for a reboot changes with such changes only.
    #[test]
    fn what_is_kept_changes_with_claims_only(steps in history()) {
        let mut rig = Rig::new(Settings::default());
        let changes = count_claim_changes(&mut rig);
        let kept = |rig: &Rig| -> Vec<_> {
            let owners = rig.index.owners_in_force().into_iter();
            owners.map(|owner| RecoveredOwner { cgroup: None, ..owner }).collect()
        };
        for step in steps {
            let (before, count) = (kept(&rig), changes.get());
            drive(&mut rig, &step);
            prop_assert!(kept(&rig) == before || changes.get() > count, "{:?} goes unnoticed", step);
        }
    }

    /// Whoever was allowed is allowed, what was in force is in force, and what denied a stranger still does, but for
    /// reservations.
    #[test]
    fn a_reboot_denies_nothing_more(steps in history()) {
        let (rig, world) = first_agent(&steps);
        let callers = world.cgroups();
        let mut next = rig.reboot(0);
        prop_assert_eq!(in_force(&next.index), in_force(&rig.index));
        next.rescan(&callers);
        let before = answers(&rig.maps, &callers);
        let after = answers(&next.maps, &callers);
        for (before, after) in before.into_iter().zip(after) {
            let (caller, port, target, kind, _) = before;
            let reserved = rig.maps.met(TCP, port, target).iter().any(|id| {
                rig.index.owners.get(id).is_some_and(|owner| owner.kind == OwnerKind::HandoverReservation)
            });
            if kind != VerdictKind::Deny {
                prop_assert_ne!(after.3, VerdictKind::Deny, "{:?} became {:?}", before, after);
            } else if !reserved {
                prop_assert_eq!(after.3, VerdictKind::Deny, "{} {}: {:?} became {:?}", caller, port, before, after);
            }
        }
        // The agent after that ends in the same state as one that saw it all.
        let mut agent = next.restart(0, Settings::default());
        agent.rescan(&callers);
        agent.reset(world.list());
        let mut seen = rig.restart(0, Settings::default());
        seen.rescan(&callers);
        seen.reset(world.list());
        prop_assert_eq!(in_force(&agent.index), in_force(&seen.index));
    }
}
