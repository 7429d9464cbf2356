//! Random histories with a change of agents in the middle.

use std::{cell::RefCell, rc::Rc};

use enforcer_ebpf::{
    decide::{Target, Verdict},
    wire::{Protocol, Reason, VerdictKind},
};

use super::{
    histories::{PORTS, Step, pod_of, step},
    map_model::DECLARED_ONLY,
    *,
};
use crate::{arbitration::arbiter::ClaimState, model::port_spec::Address};

/// Whatever a claim of these histories tells apart.
const TARGETS: [Target; 7] = [
    Target::V4([0; 4]),
    Target::V4([127, 0, 0, 1]),
    Target::V4([127, 0, 0, 2]),
    Target::V4([10, 0, 0, 1]),
    Target::V6 { address: [0; 16], v6only: false },
    Target::V6 { address: [0; 16], v6only: true },
    Target::V6 { address: std::net::Ipv6Addr::LOCALHOST.octets(), v6only: false },
];
/// A pod's cgroup that nobody knows.
pub(super) const STRANGER: u32 = 99;

/// The world that agents look at.
#[derive(Clone, Default)]
pub(super) struct World {
    pub(super) pods: BTreeMap<u32, Pod>,
    cgroups: BTreeSet<u32>,
}

impl World {
    fn step(&mut self, step: &Step) {
        match *step {
            Step::Apply { who, ports, share, workload, terminating, done } => {
                self.pods.insert(who, pod_of(who, ports, share, workload, terminating, done));
            }
            Step::Delete { who } => {
                self.pods.remove(&who);
            }
            Step::Made { who } => {
                self.cgroups.insert(who);
            }
            Step::Removed { who } => {
                self.cgroups.remove(&who);
            }
            Step::Pass { .. } => {}
        }
    }

    pub(super) fn list(&self) -> Vec<Pod> {
        self.pods.values().cloned().collect()
    }

    pub(super) fn cgroups(&self) -> Vec<u32> {
        self.cgroups.iter().copied().chain([STRANGER]).collect()
    }
}

pub(super) fn drive(rig: &mut Rig, step: &Step) {
    match *step {
        Step::Apply { who, ports, share, workload, terminating, done } => {
            rig.apply(pod_of(who, ports, share, workload, terminating, done));
        }
        Step::Delete { who } => rig.delete(&format!("p{who}")),
        Step::Made { who } => rig.made(u64::from(who) + CGROUP_IDS, ROOT, &cgroup_name(who)),
        Step::Removed { who } => rig.removed(u64::from(who) + CGROUP_IDS),
        Step::Pass { seconds } => rig.pass(seconds),
    }
}

/// Who has what in force: a pod or what is left of one by its name. Claims that another one of the same owner covers
/// are left out, and `::` is the same as no address.
pub(super) fn in_force(index: &Index) -> BTreeSet<(String, bool, Protocol, u16, Address)> {
    let all: Vec<_> = index
        .port_table
        .claims()
        .filter(|(_, _, stake)| stake.state == Some(ClaimState::InForce))
        .map(|(protocol, port, stake)| {
            let owner = &index.owners[&stake.owner];
            let address = if stake.address.covers(Address::Any) { Address::Any } else { stake.address };
            (owner.name.to_string(), owner.kind == OwnerKind::HandoverReservation, protocol, port, address)
        })
        .collect();
    let covered = |one: &(String, bool, Protocol, u16, Address)| {
        all.iter().any(|other| {
            (&one.0, one.1, one.2, one.3) == (&other.0, other.1, other.2, other.3)
                && other.4 != one.4
                && other.4.covers(one.4)
        })
    };
    all.iter().filter(|one| !covered(one)).cloned().collect()
}

/// What everybody is told everywhere.
fn verdicts(maps: &Maps, callers: &[u32]) -> Vec<(u32, u16, Target, Verdict)> {
    let mut verdicts = Vec::new();
    for &caller in callers {
        for port in [80, 81] {
            for target in TARGETS {
                let verdict = maps.verdict(u64::from(caller) + CGROUP_IDS, Protocol::Tcp, port, target);
                verdicts.push((caller, port, target, verdict));
            }
        }
    }
    verdicts
}

/// The verdicts without what may be another place of the same.
pub(super) fn answers(maps: &Maps, callers: &[u32]) -> Vec<(u32, u16, Target, VerdictKind, Reason)> {
    let verdicts = verdicts(maps, callers).into_iter();
    verdicts.map(|(caller, port, target, verdict)| (caller, port, target, verdict.kind, verdict.reason)).collect()
}

pub(super) fn history() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..40)
}

/// The agent after these steps, with the cgroup of a stranger, and the world that it looks at.
pub(super) fn first_agent(steps: &[Step]) -> (Rig, World) {
    let mut rig = Rig::new(Settings::default());
    let mut world = World::default();
    rig.made(u64::from(STRANGER) + CGROUP_IDS, ROOT, &cgroup_name(STRANGER));
    for step in steps {
        world.step(step);
        drive(&mut rig, step);
    }
    (rig, world)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Nothing happened meanwhile: nobody is told anything else at any moment, and in the end all is as it was.
    #[test]
    fn a_restart_changes_nothing(steps in history()) {
        let (rig, world) = first_agent(&steps);
        let callers = world.cgroups();
        let before = answers(&rig.maps, &callers);
        let mut next = rig.restart(0, Settings::default());
        // The tree has not been read, so that nobody knows the stranger.
        let known: Vec<u32> = world.cgroups.iter().copied().filter(|who| world.pods.contains_key(who)).collect();
        prop_assert_eq!(answers(&next.maps, &known), answers(&rig.maps, &known), "restored");
        let told = Rc::new(RefCell::new(Vec::new()));
        let log = Rc::clone(&told);
        let expected = answers(&rig.maps, &known);
        next.watch = Some(Box::new(move |maps, change| {
            if answers(maps, &known) != expected {
                log.borrow_mut().push(change.clone());
            }
        }));
        next.rescan(&callers);
        prop_assert_eq!(answers(&next.maps, &callers), before.clone(), "rescanned");
        next.reset(world.list());
        prop_assert_eq!(&*told.borrow(), &[], "a verdict turned after these changes");
        prop_assert_eq!(answers(&next.maps, &callers), before, "listed");
        prop_assert_eq!(in_force(&next.index), in_force(&rig.index));
        prop_assert_eq!(next.index.poll_timeout(), rig.index.poll_timeout());
    }

    /// Time went by: what was in force and whose grace is not over stays, and in the end all is as if the first agent
    /// had lived on.
    #[test]
    fn a_restart_takes_time(steps in history(), seconds in 0u64..70) {
        let (mut rig, world) = first_agent(&steps);
        let mut next = rig.restart(seconds, Settings::default());
        next.rescan(&world.cgroups());
        next.reset(world.list());
        let before = in_force(&rig.index);
        let graces = rig.index.reservations.len();
        rig.pass(seconds);
        let ended = graces - rig.index.reservations.len();
        let after = in_force(&rig.index);
        // Who waits for what is in force waits no longer than his youngest claim, see `Record::since`: after an edit,
        // another one of those who wait may be next.
        let edited = rig.index.owners.values().any(|owner| owner.kind == OwnerKind::Pod && owner.since > 100_000_000);
        // And where several graces ended one after the other, nobody was there to grant anything in between.
        if edited || ended > 1 {
            let stays = before.intersection(&after).cloned().collect();
            prop_assert_eq!(in_force(&next.index).intersection(&before).cloned().collect::<BTreeSet<_>>(), stays);
            return Ok(());
        }
        prop_assert_eq!(in_force(&next.index), after);
        prop_assert_eq!(answers(&next.maps, &world.cgroups()), answers(&rig.maps, &world.cgroups()));
        prop_assert_eq!(next.index.poll_timeout(), rig.index.poll_timeout());
    }

    /// Much happened meanwhile: whoever is as he was keeps what he had at every moment, nobody else gets it, and
    /// nothing is left behind in the end.
    #[test]
    fn a_restart_takes_nothing_from_who_stays(steps in history(), meanwhile in history()) {
        let (mut rig, before) = first_agent(&steps);
        // So that only those allowed who own all of what they bind.
        rig.maps.policy = DECLARED_ONLY;
        let mut after = before.clone();
        for step in &meanwhile {
            after.step(step);
        }
        // Members of groups and siblings that are not all alike are known by the one that the maps name.
        let is_grouped = |pod: &Pod| pod.share.is_some() || pod.workload.is_some();
        let alike = PORTS.iter().filter(|ports| {
            before.pods.values().any(|pod| is_grouped(pod) && pod.ports_annotation.as_deref() == Some(**ports))
        }).count() <= 1;
        // Who leaves a group while the maps name him for it takes it with him, as far as anybody can know.
        let leaves = before.pods.iter().any(|(who, pod)| {
            let left = |after: &Pod| (&after.share, &after.workload) != (&pod.share, &pod.workload);
            is_grouped(pod) && after.pods.get(who).is_some_and(left)
        });
        let stay: Vec<u32> = after.pods.iter().filter(|(who, pod)| {
            before.pods.get(*who) == Some(*pod) && before.cgroups.contains(*who) && after.cgroups.contains(*who)
                && pod.deletion.is_none()
                    && pod.phase == Phase::Active && (!is_grouped(pod) || (alike && !leaves))
        }).map(|(who, _)| *who).collect();
        let allowed = |maps: &Maps| -> Vec<(u32, u16, Target)> {
            let own = |verdict: &Verdict| matches!(verdict.reason, Reason::Owner | Reason::Share);
            let all = verdicts(maps, &stay).into_iter();
            all.filter(|(.., verdict)| own(verdict)).map(|(who, port, target, _)| (who, port, target)).collect()
        };
        let had = allowed(&rig.maps);
        let holds = move |maps: &Maps| -> Result<(), String> {
            for &(who, port, target) in &had {
                let mine = maps.verdict(u64::from(who) + CGROUP_IDS, Protocol::Tcp, port, target);
                let others = maps.verdict(u64::from(STRANGER) + CGROUP_IDS, Protocol::Tcp, port, target);
                if !matches!(mine.reason, Reason::Owner | Reason::Share | Reason::Sibling | Reason::Handover) {
                    return Err(format!("p{who} on {port} {target:?}: {mine:?}"));
                }
                if !matches!(others.reason, Reason::Claimed | Reason::Error) {
                    return Err(format!("a stranger in the place of p{who} on {port} {target:?}: {others:?}"));
                }
            }
            Ok(())
        };
        let mut next = rig.restart(1, Settings::default());
        next.maps.policy = DECLARED_ONLY;
        prop_assert_eq!(holds(&next.maps), Ok(()));
        let broken = Rc::new(RefCell::new(Vec::new()));
        let log = Rc::clone(&broken);
        next.watch = Some(Box::new(move |maps, change| {
            if let Err(error) = holds(maps) {
                log.borrow_mut().push((error, change.clone()));
            }
        }));
        next.rescan(&after.cgroups());
        next.reset(after.list());
        prop_assert_eq!(&*broken.borrow(), &[]);
        next.watch = None;

        next.reset(Vec::new());
        next.rescan(&[]);
        next.pass(60);
        prop_assert_eq!(next.maps.owners.len(), 1, "only the node is left");
        prop_assert_eq!(next.maps.records.len(), 1);
        prop_assert!(next.maps.ports.is_empty() && next.maps.exact.is_empty());
        prop_assert!(next.maps.uids.is_empty() && next.maps.cgroups.is_empty());
        prop_assert!(next.index.reservations.is_empty() && next.index.waiting.is_empty() && next.index.released_uids.is_empty());
        prop_assert_eq!(next.index.claim_counts(), (0, 0));
    }
}
