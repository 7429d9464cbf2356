//! An agent that comes after another one.

use std::collections::BTreeSet;

use enforcer_ebpf::{
    decide::Target,
    wire::{CGROUP_UNKNOWN, Protocol, Reason, VerdictKind},
};

use super::*;
use crate::model::{namespace_label::NamespaceLabel, port_spec::Address};

pub(super) const TCP: Protocol = Protocol::Tcp;
pub(super) const V4: Target = Target::V4([0; 4]);
/// A pod's cgroup that nobody knows.
const STRANGER: u32 = 99;

pub(super) fn settings() -> Settings {
    Settings::default()
}

impl Rig {
    /// The next agent, which has read the cgroup tree: the pods with these numbers have one.
    pub(super) fn next(&self, seconds: u64, cgroups: &[u32]) -> Self {
        let mut next = self.restart(seconds, settings());
        next.rescan(cgroups);
        next
    }

    /// What a pod with this number is told on `0.0.0.0:port/tcp`.
    pub(super) fn answer(&self, number: u32, port: u16) -> (VerdictKind, Reason) {
        let verdict = self.maps.verdict(u64::from(number) + CGROUP_IDS, TCP, port, V4);
        (verdict.kind, verdict.reason)
    }

    /// From now on, the pod with this number may bind the port and a stranger may not, after every single change.
    pub(super) fn guard(&mut self, number: u32, port: u16) {
        assert_eq!(self.answer(number, port), ALLOWED);
        assert_eq!(self.answer(STRANGER, port), DENIED);
        self.watch = Some(Box::new(move |maps, change| {
            let answer = |number: u32| {
                let verdict = maps.verdict(u64::from(number) + CGROUP_IDS, TCP, port, V4);
                (verdict.kind, verdict.reason)
            };
            assert_eq!(answer(number), ALLOWED, "after {change:?}");
            assert_eq!(answer(STRANGER), DENIED, "after {change:?}");
        }));
    }

    pub(super) fn with_cgroups(mut self, cgroups: &[u32]) -> Self {
        self.rescan(cgroups);
        self
    }
}

const ALLOWED: (VerdictKind, Reason) = (VerdictKind::Allow, Reason::Owner);
const SHARED: (VerdictKind, Reason) = (VerdictKind::Allow, Reason::Share);
const HANDED: (VerdictKind, Reason) = (VerdictKind::Allow, Reason::Handover);
const FREE: (VerdictKind, Reason) = (VerdictKind::Allow, Reason::Unclaimed);
const DENIED: (VerdictKind, Reason) = (VerdictKind::Deny, Reason::Claimed);

/// An index that has seen these pods and the cgroups of pods 1, 2 and [`STRANGER`].
pub(super) fn old(pods: impl IntoIterator<Item = Pod>) -> Rig {
    let mut rig = Rig::new(settings());
    for pod in pods {
        rig.apply(pod);
    }
    rig.with_cgroups(&[1, 2, STRANGER])
}

const ALL: [u32; 3] = [1, 2, STRANGER];

pub(super) fn in_workload(number: u32, name: &str, ports: &str) -> Pod {
    of_workload(pod(number, name, ports), "ds")
}

fn in_group(number: u32, name: &str, ports: &str) -> Pod {
    Pod { share: Some("g".to_owned()), ..pod(number, name, ports) }
}

#[test]
fn what_was_in_force_is_in_force_before_anybody_speaks() {
    let rig = old([pod(1, "a", "80, 127.0.0.1:81, [::1]:82, 0.0.0.0:83, [::]:84, 90-93/udp"), pod(2, "b", "80, 85")]);
    // The tree has not been read either.
    let next = rig.restart(1, settings());
    let claims = |rig: &Rig| {
        let mut claims: Vec<String> = Vec::new();
        for owner in rig.maps.recall().owners {
            claims.extend(owner.claims.iter().map(|spec| format!("{} {spec}", owner.record.name)));
        }
        claims
    };
    assert_eq!(claims(&next), claims(&rig));
    assert_eq!(claims(&next).len(), 7, "80 and 84 are one kind, and b has lost 80");
    assert_eq!(next.answer(1, 80), ALLOWED);
    assert_eq!(next.answer(2, 80), DENIED);
    assert_eq!(next.answer(STRANGER, 80), (VerdictKind::Allow, Reason::Error), "the tree has not been read");
    assert_eq!(next.owners(80), ["a"]);
    let id = next.maps.met(TCP, 80, V4)[0];
    assert_eq!(next.index.source(id, TCP, 80, Address::Any), Some(ClaimSource::Recovered));
    assert!(next.notices.is_empty());
}

#[test]
fn a_pod_that_is_listed_again_keeps_its_ports_without_a_gap() {
    let rig = old([pod(1, "late", "80")]);
    let mut next = rig.next(10, &ALL);
    next.guard(1, 80);
    let earlier = Pod { arrival: 0, ..pod(2, "earlier", "80") };
    next.reset(vec![earlier.clone(), pod(1, "late", "80")]);
    assert_eq!(next.answer(2, 80), DENIED);
    let id = next.maps.met(TCP, 80, V4)[0];
    assert_eq!(next.index.source(id, TCP, 80, Address::Any), Some(ClaimSource::Annotation), "now it is known again");
    assert_eq!(
        next.told(),
        ["claim of default/earlier on 80/tcp loses on n: in force for default/late (annotation); it is granted when \
         that one goes"]
    );
    next.watch = None;
    next.reset(vec![earlier]);
    assert_eq!(next.owners(80), ["earlier"]);
}

#[test]
fn a_pod_that_is_told_one_by_one_keeps_its_ports_too() {
    let mut next = old([pod(1, "late", "80")]).next(10, &ALL);
    next.guard(1, 80);
    next.apply(Pod { arrival: 0, ..pod(2, "earlier", "80") });
    next.apply(pod(1, "late", "80"));
    assert_eq!(next.owners(80), ["late"]);
}

#[test]
fn a_pod_that_is_not_listed_is_gone_and_its_workload_has_the_grace_from_now() {
    let mut next = old([in_workload(1, "old", "80"), pod(2, "alone", "81")]).next(1000, &ALL);
    next.guard(1, 80);
    next.watch = None;
    next.reset(vec![pod(5, "squatter", "80, 81")]);
    assert_eq!(next.owners(81), ["squatter"]);
    assert_eq!(next.owners(80), ["old"]);
    next.pass(59);
    assert_eq!(next.owners(80), ["old"]);
    next.pass(1);
    assert_eq!(next.owners(80), ["squatter"]);
}

#[test]
fn a_successor_in_the_list_takes_over_in_one_step() {
    let mut next = old([in_workload(1, "old", "80")]).next(10, &ALL);
    next.watch = Some(Box::new(|maps, change| {
        assert_eq!(maps.met(TCP, 80, V4).len(), 1, "after {change:?}");
        let verdict = maps.verdict(u64::from(STRANGER) + CGROUP_IDS, TCP, 80, V4);
        assert_eq!(verdict.kind, VerdictKind::Deny, "after {change:?}");
    }));
    next.reset(vec![pod(0, "squatter", "80"), in_workload(2, "new", "80")]);
    assert_eq!(next.owners(80), ["new"]);
    assert_eq!(next.answer(2, 80), ALLOWED);
    assert_eq!(next.index.poll_timeout(), None);
}

#[test]
fn a_name_with_another_uid_is_another_pod() {
    let mut next = old([in_workload(1, "web-0", "80")]).next(10, &ALL);
    next.reset(vec![pod(0, "squatter", "80"), pod(2, "web-0", "80")]);
    assert_eq!(next.owners(80), ["web-0"], "what is left of the first one");
    assert_eq!(next.answer(2, 80), DENIED, "which is not of its workload");
    assert_eq!(next.index.pod_count(), 2);
    next.pass(60);
    assert_eq!(next.owners(80), ["squatter"]);
    next.delete("squatter");
    assert_eq!(next.answer(2, 80), ALLOWED);
}

#[test]
fn a_uid_with_another_name_is_free_before_it_is_taken() {
    let mut next = old([pod(1, "a", "80")]).next(10, &ALL);
    next.reset(vec![pod(1, "b", "80")]);
    assert_eq!(next.answer(1, 80), ALLOWED);
    assert_eq!(next.owners(80), ["b"]);
    assert_eq!(next.told(), [""; 0]);
}

#[test]
fn an_edit_made_meanwhile_counts() {
    let mut next = old([pod(1, "a", "80, 81")]).next(1000, &ALL);
    next.guard(1, 81);
    let meanwhile = Pod { arrival: 1_500_000_000, ..pod(2, "meanwhile", "82") };
    next.reset(vec![meanwhile.clone(), pod(1, "a", "81, 82")]);
    assert!(next.owners(80).is_empty());
    assert_eq!(next.owners(82), ["meanwhile"], "nobody knows when it was edited, so that was now");
    next.reset(vec![pod(1, "a", "81, 82")]);
    assert_eq!(next.owners(82), ["a"]);
}

#[test]
fn a_place_in_the_queue_is_kept() {
    let waiting = pod(2, "waiting", "80");
    for edited in [false, true] {
        let rig = old([pod(1, "a", "80"), waiting.clone()]);
        let mut next = rig.next(1000, &ALL);
        let waiting = if edited { pod(2, "waiting", "80, 99") } else { waiting.clone() };
        next.reset(vec![pod(5, "newer", "80"), pod(1, "a", "80"), waiting.clone()]);
        assert_eq!(next.owners(80), ["a"]);
        next.reset(vec![pod(5, "newer", "80"), waiting]);
        assert_eq!(next.owners(80), [if edited { "newer" } else { "waiting" }], "edited: {edited}");
    }
}

#[test]
fn an_edit_before_the_restart_counts_from_the_edit() {
    let mut rig = old([pod(1, "a", "80"), pod(2, "edits", "70")]);
    rig.apply(pod(2, "edits", "70, 80"));
    rig.apply(pod(5, "waiting", "80"));
    let mut next = rig.next(10, &ALL);
    next.reset(vec![pod(5, "waiting", "80"), pod(2, "edits", "70, 80")]);
    assert_eq!(next.owners(80), ["waiting"]);
}

#[test]
fn other_words_for_the_same_are_no_edit() {
    for (before, after, port) in
        [("[::]:80", "[::]:80", 80), ("80", "[::]:80", 80), ("80, 127.0.0.1:80", "80, 127.0.0.1:80", 80)]
    {
        let mut next = old([pod(1, "a", before)]).next(10, &ALL);
        next.guard(1, port);
        next.reset(vec![Pod { arrival: 0, ..pod(2, "earlier", "80, 127.0.0.1:80") }, pod(1, "a", after)]);
        assert_eq!(next.answer(2, port), DENIED, "{before} {after}");
    }
}

#[test]
fn who_claims_less_keeps_the_rest() {
    for restart in [false, true] {
        let mut rig = old([pod(1, "a", "80, 81")]);
        if restart {
            rig = rig.next(10, &ALL);
        }
        let waiting = Pod { arrival: 0, ..pod(2, "waiting", "80") };
        rig.reset(vec![waiting, pod(1, "a", "127.0.0.1:80")]);
        assert_eq!(rig.owners(80), ["a"], "restart: {restart}");
        assert_eq!(rig.index.claim_counts(), (1, 1));
    }
}

#[test]
fn a_pod_whose_cgroup_went_meanwhile_has_ended() {
    let rig = old([in_workload(1, "controlled", "80"), pod(2, "alone", "81"), pod(3, "pending", "82")]);
    let mut next = rig.restart(1000, settings());
    assert_eq!((next.answer(1, 80), next.answer(2, 81)), (ALLOWED, ALLOWED));
    next.rescan(&[STRANGER]);
    assert_eq!(next.answer(STRANGER, 80), DENIED, "the grace, from now");
    assert_eq!(next.answer(STRANGER, 81), FREE);
    assert_eq!(next.answer(STRANGER, 82), DENIED, "it never had a cgroup: it may come yet");
    next.pass(59);
    assert_eq!(next.answer(STRANGER, 80), DENIED);
    next.pass(1);
    assert_eq!(next.answer(STRANGER, 80), FREE);
    next.reset(vec![in_workload(1, "controlled", "80"), pod(3, "pending", "82")]);
    assert_eq!(next.answer(STRANGER, 80), FREE, "its object alone brings nothing back");
    next.made(3 + CGROUP_IDS, ROOT, &cgroup_name(3));
    assert_eq!(next.answer(3, 82), ALLOWED);
}

#[test]
fn a_remembered_pod_ends_with_its_cgroup_while_nobody_speaks() {
    for read in [true, false] {
        let mut next = old([pod(1, "a", "80")]).restart(10, settings());
        if read {
            next.rescan(&ALL);
        }
        next.removed(1 + CGROUP_IDS);
        assert!(next.owners(80).is_empty(), "read: {read}");
        assert!(!next.maps.cgroups.contains_key(&(1 + CGROUP_IDS)));
    }
}

#[test]
fn the_tree_may_be_read_first_too() {
    let rig = old([pod(1, "a", "80"), pod(2, "b", "81")]);
    let mut next = Rig::new(settings());
    next.rescan(&[1, STRANGER]);
    let now = next.now();
    next.index.restore(rig.maps.recall().owners, RestoredFrom::Agent, now);
    next.flush();
    assert_eq!(next.answer(1, 80), ALLOWED);
    assert_eq!(next.owners(81), ["b"], "until it is read again");
    next.rescan(&[1, STRANGER]);
    assert_eq!(next.answer(1, 80), ALLOWED);
    assert!(next.owners(81).is_empty());
}

#[test]
fn the_root_may_be_another_one() {
    let rig = old([pod(1, "a", "80")]);
    let mut next = rig.restart(1, settings());
    next.made(50, ROOT, "kubepods.slice");
    next.made(1 + CGROUP_IDS, 50, &cgroup_name(1));
    let slot = next.maps.cgroups[&(1 + CGROUP_IDS)];
    assert_eq!((next.maps.owners[&slot].cgroup, next.maps.owners[&slot].level), (1 + CGROUP_IDS, 2));
}

#[test]
fn what_has_ended_stays_ended() {
    let mut rig = old([pod(1, "gone", "80"), Pod { phase: Phase::Failed, ..pod(2, "failed", "81") }]);
    rig.removed(1 + CGROUP_IDS);
    for owner in rig.maps.owners.values_mut().filter(|owner| owner.cgroup == 1 + CGROUP_IDS) {
        // Not even the kernel knows the cgroup that it had.
        (owner.cgroup, owner.level) = (CGROUP_UNKNOWN, 0);
    }
    let mut next = rig.next(10, &[2, STRANGER]);
    let listed = || vec![pod(1, "gone", "80"), Pod { phase: Phase::Failed, ..pod(2, "failed", "81") }];
    next.reset(listed());
    assert!(next.owners(80).is_empty());
    assert!(next.owners(81).is_empty());
    next.made(10, ROOT, &cgroup_name(1));
    assert_eq!(next.owners(80), ["gone"], "a new cgroup brings it back");
    let mut after = next.restart(1, settings());
    assert_eq!(after.owners(80), ["gone"]);
    after.reset(listed());
    assert_eq!(after.owners(80), ["gone"]);
}

#[test]
fn a_grace_goes_on_and_does_not_begin_anew() {
    let gone = || {
        let mut rig = old([in_workload(1, "old", "80"), pod(2, "squatter", "80")]);
        rig.delete("old");
        rig.pass(20);
        rig
    };
    let squatter = pod(2, "squatter", "80");
    let mut next = gone().next(39, &ALL);
    assert_eq!(next.owners(80), ["old"]);
    next.reset(vec![squatter.clone()]);
    assert_eq!(next.owners(80), ["old"]);
    next.pass(1);
    assert_eq!(next.owners(80), ["squatter"]);

    assert!(gone().next(40, &ALL).owners(80).is_empty(), "it is over");

    let mut next = gone().restart(0, Settings { handover_grace: Duration::from_secs(5), ..settings() });
    assert_eq!(next.index.poll_timeout(), Some(Duration::from_secs(1025)), "the new settings have a shorter one");
    next.pass(5);
    assert!(next.owners(80).is_empty());

    let mut next = gone().next(30, &ALL);
    next.apply(in_workload(1, "new", "80"));
    assert_eq!(next.owners(80), ["new"], "the workload is the same one");
    assert_eq!(next.index.poll_timeout(), None);
}

#[test]
fn a_going_pod_still_lets_its_workload_in() {
    let going = Pod { deletion: Some(jiff::Timestamp::UNIX_EPOCH), ..in_workload(1, "old", "80") };
    let rig = old([going, in_workload(2, "new", "81"), pod(3, "other", "79")]).with_cgroups(&[1, 2, 3, STRANGER]);
    let next = rig.restart(10, settings());
    assert_eq!((next.answer(1, 80), next.answer(2, 80), next.answer(3, 80)), (ALLOWED, HANDED, DENIED));
    let siblings = old([in_workload(1, "old", "80"), in_workload(2, "new", "80")]).with_cgroups(&[1, 2, STRANGER]);
    let next = siblings.next(10, &[1, 2, STRANGER]);
    let sibling = (VerdictKind::Allow, Reason::Sibling);
    assert_eq!((next.answer(1, 80), next.answer(2, 80), next.answer(STRANGER, 80)), (ALLOWED, sibling, DENIED));
}

#[test]
fn a_group_is_the_same_one() {
    let rig = old([in_group(1, "one", "80"), in_group(2, "two", "80, 81"), pod(3, "other", "82")]);
    let mut next = rig.with_cgroups(&[1, 2, 3, 4, STRANGER]).next(10, &[1, 2, 3, 4, STRANGER]);
    assert_eq!((next.answer(1, 80), next.answer(2, 80), next.answer(3, 80)), (ALLOWED, SHARED, DENIED));
    next.apply(in_group(4, "four", "80"));
    assert_eq!(next.answer(4, 80), SHARED, "who comes by name is of the group");
    next.guard(1, 80);
    let others = || vec![Pod { arrival: 0, ..pod(3, "other", "80") }, in_group(2, "two", "80, 81")];
    next.reset([vec![in_group(1, "one", "80")], others()].concat());
    next.watch = Some(Box::new(|maps, change| {
        let verdict = maps.verdict(2 + CGROUP_IDS, TCP, 80, V4);
        assert!(verdict.kind == VerdictKind::Allow && verdict.reason != Reason::Unclaimed, "after {change:?}");
    }));
    next.reset(others());
    assert_eq!(next.answer(2, 80), ALLOWED);
}

#[test]
fn a_group_stays_when_the_member_that_the_maps_name_goes() {
    for first_list in [false, true] {
        let mut next = old([in_group(1, "one", "80"), in_group(2, "two", "80")]).next(10, &ALL);
        next.watch = Some(Box::new(|maps, change| {
            let verdict = maps.verdict(2 + CGROUP_IDS, TCP, 80, V4);
            assert!(matches!(verdict.reason, Reason::Owner | Reason::Share), "{:?} after {change:?}", verdict.reason);
        }));
        if first_list {
            next.reset(vec![Pod { arrival: 0, ..pod(3, "other", "80") }, in_group(2, "two", "80")]);
        } else {
            next.removed(1 + CGROUP_IDS);
        }
        assert_eq!(next.owners(80), ["two"], "first list: {first_list}");
    }
}

#[test]
fn a_member_that_claims_less_is_born_into_the_group_that_is_in_force() {
    let mut next = old([in_group(1, "one", "80"), in_group(2, "two", "127.0.0.1:80")]).next(10, &ALL);
    next.reset(vec![Pod { arrival: 0, ..pod(3, "other", "80") }, in_group(2, "two", "127.0.0.1:80")]);
    assert_eq!(next.owners(80), ["two"]);
}

#[test]
fn a_member_that_claims_otherwise_gets_nothing_that_it_did_not_claim() {
    let mut next = old([in_group(1, "one", "80"), in_group(2, "two", "81")]).next(10, &ALL);
    next.removed(1 + CGROUP_IDS);
    assert!(next.owners(80).is_empty());
    assert_eq!(next.owners(81), ["two"]);
}

#[test]
fn the_new_settings_count() {
    let mut first = settings();
    first.node_reserved = annotation::parse_list("22, 23").unwrap();
    let mut rig = Rig::new(first);
    rig.apply(pod(1, "tenant", "80, 81"));
    rig.apply(Pod { namespace: "infra".to_owned(), ..pod(2, "system", "82") });
    let mut second = settings();
    second.node_reserved = annotation::parse_list("22, 80").unwrap();
    second.system_namespaces = BTreeSet::from(["infra".to_owned()]);
    let next = rig.restart(1, second);
    let flags = |port| {
        let word = next.maps.ports.get(&(TCP, port)).map(|word| word.v4().first);
        word.map(|slot| next.maps.owners[&slot].flags())
    };
    assert_eq!(flags(22), Some(OWNER_NODE));
    assert_eq!(flags(23), None);
    assert_eq!(flags(80), Some(OWNER_NODE), "the tenant has lost it");
    assert_eq!(flags(81), Some(0));
    assert_eq!(flags(82), Some(OWNER_SOFTWARE));
    assert_eq!(next.notices.len(), 1, "which is told");
}

#[test]
fn modes_hold_until_the_source_speaks_of_namespaces() {
    for (policy, before_labels) in
        [(NamespaceMode::Any, OWNER_MODE_AUDIT), (NamespaceMode::Stricter, 0), (NamespaceMode::Off, 0)]
    {
        let mut rig = old([pod(1, "a", "80")]);
        rig.index.set_namespace_label(NamespaceLabel::Mode, "default", Some("audit"));
        rig.flush();
        let mut next = rig.restart(1, Settings { namespace_mode: policy, ..settings() });
        let flags = |next: &Rig| {
            let word = next.maps.ports[&(TCP, 80)];
            next.maps.owners[&word.v4().first].flags()
        };
        assert_eq!(flags(&next), before_labels, "{policy:?}");
        next.reset(vec![pod(1, "a", "80")]);
        assert_eq!(flags(&next), before_labels, "{policy:?}");
        next.index.reset_namespace_labels(NamespaceLabel::Mode, &HashMap::new());
        next.flush();
        assert_eq!(flags(&next), 0, "{policy:?}");
    }
}

#[test]
fn index_is_synced_once_every_origin_has_delivered_a_complete_list() {
    let rig = old([pod(1, "a", "80")]);
    assert!(rig.index.is_source_synced(ClaimOrigin::Settings), "the settings are complete from the beginning");
    let mut next = rig.next(1, &ALL);
    assert!(!next.index.is_source_synced(ClaimOrigin::Pods), "what the last agent left is no list");
    next.apply(pod(1, "a", "80"));
    assert!(!next.index.is_synced(), "nor is one pod");
    let now = next.now();
    let staged = next.index.stage_all(vec![pod(1, "a", "80")], now);
    assert!(!next.index.is_synced(), "a list that is staged is not in force");
    next.index.commit(staged, now);
    assert!(next.index.is_source_synced(ClaimOrigin::Pods) && next.index.is_synced());
    next.index.delete("default", "a", now);
    assert!(next.index.is_synced(), "for good");
}
