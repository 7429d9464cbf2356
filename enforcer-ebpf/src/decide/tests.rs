//! The verdict, rule by rule. What the kernel makes of it is tested in `enforcer/tests/kernel`.

use super::*;

const ENFORCE: Policy = Policy {
    enforce: true,
    undeclared: Undeclared::Allow,
    deny_on_error: false,
    report_attempts: false,
    report_bound: false,
    node_scope: false,
    errno: 98,
};
const AUDIT: Policy = Policy { enforce: false, ..ENFORCE };
const DECLARED_ONLY: Policy = Policy { undeclared: Undeclared::Deny, ..ENFORCE };
const NOBODY: Owner = Owner::new(0, 0, 0, 0, 0, 0);

fn pod(id: u32, flags: u32, group: u32, workload: u32) -> Owner {
    Owner::new(u64::from(id), id, flags, 1, group, workload)
}

/// Nothing overrules.
fn nothing() -> ModeOverride {
    ModeOverride::default()
}

fn one(owner: Owner, caller: &Caller, policy: Policy) -> (VerdictKind, Reason) {
    let verdict = decide(&[owner, NOBODY, NOBODY, NOBODY], true, &caller.into(), 80, &policy, nothing);
    (verdict.kind, verdict.reason)
}

#[test]
fn who_may_bind_a_claimed_port() {
    use Reason::{Claimed, Handover, Owner, Reserved, Share, Sibling};
    use VerdictKind::{Allow, Audit, Deny};

    let owner = pod(1, 0, 0, 7);
    let sharing = pod(1, 0, 5, 7);
    let going = pod(1, OWNER_TERMINATING, 0, 7);
    let going_alone = pod(1, OWNER_TERMINATING, 0, 0);
    let node = pod(9, OWNER_NODE, 0, 0);
    let stranger = Caller::Pod(pod(2, 0, 0, 8));
    let sibling = Caller::Pod(pod(2, 0, 0, 7));
    let alone = Caller::Pod(pod(2, 0, 0, 0));
    let sharer = Caller::Pod(pod(2, 0, 5, 8));
    let software = Caller::Pod(pod(2, OWNER_SOFTWARE, 0, 8));

    for (what, owner, caller, enforced) in [
        ("the owner", owner, Caller::Pod(owner), (Allow, Owner)),
        ("another pod", owner, stranger, (Deny, Claimed)),
        ("a pod of the same workload while the owner stays", owner, sibling, (Allow, Sibling)),
        ("a pod of the same workload while the owner goes", going, sibling, (Allow, Handover)),
        ("another pod while the owner goes", going, stranger, (Deny, Claimed)),
        ("no workload is not the same workload", going_alone, alone, (Deny, Claimed)),
        ("a pod of the share group", sharing, sharer, (Allow, Share)),
        ("no group is not the same group", owner, alone, (Deny, Claimed)),
        ("node software", owner, software, (Audit, Claimed)),
        ("a host process", owner, Caller::Host, (Audit, Claimed)),
        ("an unknown pod", owner, Caller::UnknownApi, (Deny, Claimed)),
        ("an unknown static pod", owner, Caller::UnknownStatic, (Audit, Claimed)),
        ("somebody we cannot place", owner, Caller::Unresolved, (Allow, Reason::Error)),
        ("a pod on the node's port", node, stranger, (Deny, Reserved)),
        ("node software on the node's port", node, software, (Allow, Owner)),
        ("a host process on the node's port", node, Caller::Host, (Allow, Owner)),
        ("an unknown static pod on the node's port", node, Caller::UnknownStatic, (Allow, Owner)),
        ("an unknown pod on the node's port", node, Caller::UnknownApi, (Deny, Reserved)),
    ] {
        assert_eq!(one(owner, &caller, ENFORCE), enforced, "{what}, enforce");
        let (kind, reason) = enforced;
        let audited = if kind == Deny { Audit } else { kind };
        assert_eq!(one(owner, &caller, AUDIT), (audited, reason), "{what}, audit");
    }
}

/// What the programs answer without asking, on the way that most binds of claimed ports take.
#[test]
fn the_sole_owner_of_a_port_is_its_owner_whatever_else() {
    let whole = Side { first: 3, second: 0, whole: true };
    let word = PortWord::new(whole, whole);
    assert_eq!(word.sole(), 3);
    let targets = [
        Target::V4([0; 4]),
        Target::V4([10, 0, 0, 1]),
        Target::V6 { address: [0; 16], v6only: false },
        Target::V6 { address: [0; 16], v6only: true },
        Target::V6 { address: [9; 16], v6only: false },
    ];
    for flags in [0, OWNER_TERMINATING, OWNER_SOFTWARE, OWNER_MODE_AUDIT, OWNER_MODE_ENFORCE] {
        for (group, workload) in [(0, 0), (5, 7)] {
            let owner = pod(1, flags, group, workload);
            for target in targets {
                let candidates = Candidates::of(word, Cover::of(&target));
                assert!(!candidates.exact, "nothing else is looked up");
                let owners = candidates.slots.map(|slot| if slot == 3 { owner } else { NOBODY });
                for policy in [ENFORCE, AUDIT, DECLARED_ONLY] {
                    let kin = CallerIdentity::from(&Caller::Pod(owner));
                    let verdict = decide(&owners, candidates.covered, &kin, 80, &policy, nothing);
                    assert_eq!(
                        (verdict.kind, verdict.reason),
                        (Verdict::OWNER.kind, Verdict::OWNER.reason),
                        "{target:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn service_is_in_the_way_of_all_but_node_software() {
    use VerdictKind::{Allow, Audit, Deny};

    let strict = pod(9, OWNER_SERVICE, 0, 0);
    let advisory = pod(9, OWNER_SERVICE | OWNER_ADVISORY, 0, 0);
    let enforced_namespace = Caller::Pod(pod(2, OWNER_MODE_ENFORCE, 0, 8));
    for (what, caller, denies, advises) in [
        ("a pod", Caller::Pod(pod(2, 0, 0, 8)), (Deny, Reason::Claimed), (Audit, Reason::Claimed)),
        ("a pod of an enforced namespace", enforced_namespace, (Deny, Reason::Claimed), (Audit, Reason::Claimed)),
        ("an unknown pod", Caller::UnknownApi, (Deny, Reason::Claimed), (Audit, Reason::Claimed)),
        ("node software", Caller::Pod(pod(2, OWNER_SOFTWARE, 0, 8)), (Allow, Reason::Owner), (Allow, Reason::Owner)),
        ("a host process", Caller::Host, (Allow, Reason::Owner), (Allow, Reason::Owner)),
        ("somebody we cannot place", Caller::Unresolved, (Allow, Reason::Error), (Allow, Reason::Error)),
    ] {
        assert_eq!(one(strict, &caller, ENFORCE), denies, "{what}, denied");
        assert_eq!(one(advisory, &caller, ENFORCE), advises, "{what}, reported");
    }
    let local = ModeOverride { local: NodeMode::Enforce, stale: false };
    let stranger = CallerIdentity::from(&Caller::UnknownApi);
    let verdict = decide(&[advisory, NOBODY, NOBODY, NOBODY], true, &stranger, 80, &AUDIT, || local);
    assert_eq!(verdict.kind, Audit, "no mode makes it deny");
}

#[test]
fn claim_that_denies_comes_before_one_that_is_only_reported() {
    let advisory = pod(9, OWNER_SERVICE | OWNER_ADVISORY, 0, 0);
    let (other, own) = (pod(1, 0, 0, 7), pod(2, 0, 0, 8));
    let kin = CallerIdentity::from(&Caller::Pod(own));
    for (owners, expected) in [
        ([advisory, other, NOBODY, NOBODY], (VerdictKind::Deny, 1)),
        ([other, advisory, NOBODY, NOBODY], (VerdictKind::Deny, 0)),
        ([own, NOBODY, advisory, NOBODY], (VerdictKind::Audit, 2)),
        ([advisory, NOBODY, own, NOBODY], (VerdictKind::Audit, 0)),
    ] {
        let verdict = decide(&owners, true, &kin, 80, &ENFORCE, nothing);
        assert_eq!((verdict.kind, verdict.by), expected, "{owners:?}");
    }
}

#[test]
fn the_namespace_of_the_offender_has_the_last_word() {
    let owner = pod(1, 0, 0, 0);
    let audited = Caller::Pod(pod(2, OWNER_MODE_AUDIT, 0, 0));
    let enforced = Caller::Pod(pod(2, OWNER_MODE_ENFORCE, 0, 0));
    assert_eq!(one(owner, &audited, ENFORCE), (VerdictKind::Audit, Reason::Claimed));
    assert_eq!(one(owner, &enforced, AUDIT), (VerdictKind::Deny, Reason::Claimed));
    // The owner's own mode is of no account.
    let owner = pod(1, OWNER_MODE_AUDIT, 0, 0);
    assert_eq!(one(owner, &Caller::UnknownApi, ENFORCE), (VerdictKind::Deny, Reason::Claimed));
    // Not even an enforced namespace gets node software denied.
    let software = Caller::Pod(pod(2, OWNER_SOFTWARE | OWNER_MODE_ENFORCE, 0, 0));
    assert_eq!(one(owner, &software, ENFORCE), (VerdictKind::Audit, Reason::Claimed));
}

#[test]
fn any_foreign_claim_is_a_conflict_and_is_named() {
    let me = pod(1, 0, 0, 0);
    let other = pod(2, 0, 0, 0);
    for place in 0..4u8 {
        let mut owners = [me; 4];
        owners[usize::from(place)] = other;
        let verdict = decide(&owners, true, &CallerIdentity::pod(&me), 80, &ENFORCE, nothing);
        assert_eq!(verdict, Verdict { kind: VerdictKind::Deny, reason: Reason::Claimed, by: place });
    }
    let verdict = decide(&[NOBODY, me, NOBODY, NOBODY], false, &CallerIdentity::pod(&me), 80, &ENFORCE, nothing);
    assert_eq!(verdict, Verdict { kind: VerdictKind::Allow, reason: Reason::Owner, by: 1 });
}

#[test]
fn undeclared_ports() {
    let me = pod(1, 0, 0, 0);
    let caller = Caller::Pod(me);
    let free = [NOBODY; 4];
    let verdict = |owners: &[Owner; 4], covered, caller: &Caller, port, policy: &Policy| {
        let verdict = decide(owners, covered, &caller.into(), port, policy, nothing);
        (verdict.kind, verdict.reason)
    };
    let allowed = (VerdictKind::Allow, Reason::Unclaimed);
    let denied = (VerdictKind::Deny, Reason::Undeclared);
    assert_eq!(verdict(&free, false, &caller, 80, &ENFORCE), allowed);
    assert_eq!(verdict(&free, false, &caller, 80, &DECLARED_ONLY), denied);
    assert_eq!(verdict(&free, false, &caller, 0, &DECLARED_ONLY), allowed, "an ephemeral port is nobody's");
    assert_eq!(verdict(&free, false, &Caller::Host, 80, &DECLARED_ONLY), allowed);
    let software = Caller::Pod(pod(1, OWNER_SOFTWARE, 0, 0));
    assert_eq!(verdict(&free, false, &software, 80, &DECLARED_ONLY), (VerdictKind::Audit, Reason::Undeclared));
    let mine = [me, NOBODY, NOBODY, NOBODY];
    let owner = (VerdictKind::Allow, Reason::Owner);
    assert_eq!(verdict(&mine, true, &caller, 80, &DECLARED_ONLY), owner);
    assert_eq!(verdict(&mine, false, &caller, 80, &DECLARED_ONLY), denied, "more addresses than it declared");
    assert_eq!(verdict(&mine, false, &caller, 80, &ENFORCE), owner);
    let unresolved = (VerdictKind::Allow, Reason::Error);
    assert_eq!(verdict(&free, false, &Caller::Unresolved, 80, &DECLARED_ONLY), unresolved);
}

#[test]
fn an_internal_error_denies_only_where_that_was_asked_for() {
    let owner = pod(1, 0, 0, 0);
    let policy = Policy { deny_on_error: true, ..ENFORCE };
    assert_eq!(one(owner, &Caller::Unresolved, policy), (VerdictKind::Deny, Reason::Error));
    let policy = Policy { deny_on_error: true, ..AUDIT };
    assert_eq!(one(owner, &Caller::Unresolved, policy), (VerdictKind::Allow, Reason::Error), "audit denies nothing");
}

#[test]
fn what_overrules_the_mode() {
    use Reason::{Claimed, Error, Stale};
    use VerdictKind::{Allow, Audit, Deny};

    let owner = pod(1, 0, 0, 0);
    let stranger = Caller::Pod(pod(2, 0, 0, 0));
    let labelled_enforce = Caller::Pod(pod(2, OWNER_MODE_ENFORCE, 0, 0));
    let labelled_audit = Caller::Pod(pod(2, OWNER_MODE_AUDIT, 0, 0));
    let software = Caller::Pod(pod(2, OWNER_SOFTWARE | OWNER_MODE_ENFORCE, 0, 0));
    let strict = |policy| Policy { deny_on_error: true, ..policy };
    let unset = (NodeMode::Unset, false);
    let audit = (NodeMode::Audit, false);
    let enforce = (NodeMode::Enforce, false);
    let stale = (NodeMode::Unset, true);
    for (what, caller, policy, (local, stale), expected) in [
        ("nothing", stranger, ENFORCE, unset, (Deny, Claimed)),
        ("local audit", stranger, ENFORCE, audit, (Audit, Claimed)),
        ("local audit over a label", labelled_enforce, AUDIT, audit, (Audit, Claimed)),
        ("local audit over --on-error", Caller::Unresolved, strict(ENFORCE), audit, (Allow, Error)),
        ("local enforce", stranger, AUDIT, enforce, (Deny, Claimed)),
        ("local enforce under a label", labelled_audit, ENFORCE, enforce, (Audit, Claimed)),
        ("local enforce and node software", software, AUDIT, enforce, (Audit, Claimed)),
        ("local enforce and --on-error", Caller::Unresolved, strict(AUDIT), enforce, (Deny, Error)),
        ("stale", stranger, ENFORCE, stale, (Audit, Stale)),
        ("stale over a label", labelled_enforce, AUDIT, stale, (Audit, Stale)),
        ("stale over --on-error", Caller::Unresolved, strict(ENFORCE), stale, (Audit, Stale)),
        ("stale where nothing is denied", stranger, AUDIT, stale, (Audit, Claimed)),
        ("stale where nothing is denied to it", software, ENFORCE, stale, (Audit, Claimed)),
        ("stale and not to be placed", Caller::Unresolved, ENFORCE, stale, (Allow, Error)),
        ("stale under local enforce", stranger, AUDIT, (NodeMode::Enforce, true), (Audit, Stale)),
        ("stale under local audit", stranger, ENFORCE, (NodeMode::Audit, true), (Audit, Claimed)),
    ] {
        let owners = [owner, NOBODY, NOBODY, NOBODY];
        let verdict =
            decide(&owners, true, &CallerIdentity::from(&caller), 80, &policy, || ModeOverride { local, stale });
        assert_eq!((verdict.kind, verdict.reason, verdict.by), (expected.0, expected.1, 0), "{what}");
    }
}

#[test]
fn what_overrules_is_asked_for_on_a_conflict_only() {
    let never = || panic!("there is no conflict");
    let me = pod(1, 0, 0, 0);
    for (owner, covered, policy) in [(me, true, ENFORCE), (NOBODY, false, ENFORCE), (me, true, DECLARED_ONLY)] {
        let verdict = decide(&[owner, NOBODY, NOBODY, NOBODY], covered, &CallerIdentity::pod(&me), 80, &policy, never);
        assert_eq!(verdict.kind, VerdictKind::Allow);
    }
    for (owner, policy) in [(pod(2, 0, 0, 0), ENFORCE), (NOBODY, DECLARED_ONLY)] {
        let mut asked = 0;
        let overrule = || {
            asked += 1;
            ModeOverride::default()
        };
        let verdict = decide(&[owner, NOBODY, NOBODY, NOBODY], false, &CallerIdentity::pod(&me), 80, &policy, overrule);
        assert_eq!((verdict.kind, asked), (VerdictKind::Deny, 1));
    }
}

#[test]
fn what_a_bind_reaches() {
    let localhost = core::net::Ipv6Addr::LOCALHOST.octets();
    for (target, v4, v6) in [
        (Target::V4([0; 4]), Reach::Every, Reach::Nothing),
        (Target::V4([127, 0, 0, 1]), Reach::One, Reach::Nothing),
        (Target::V6 { address: [0; 16], v6only: false }, Reach::Every, Reach::Every),
        (Target::V6 { address: [0; 16], v6only: true }, Reach::Nothing, Reach::Every),
        (Target::V6 { address: localhost, v6only: false }, Reach::Nothing, Reach::One),
        (Target::V6 { address: localhost, v6only: true }, Reach::Nothing, Reach::One),
    ] {
        assert_eq!(Cover::of(&target), Cover { v4, v6 }, "{target:?}");
    }
}

#[test]
fn candidates_of_a_port() {
    let whole = |first| Side { first, second: 0, whole: true };
    let some = |first, second| Side { first, second, whole: false };
    let nobody = Side::default();
    let every4 = Cover { v4: Reach::Every, v6: Reach::Nothing };
    let one4 = Cover { v4: Reach::One, v6: Reach::Nothing };
    let dual = Cover { v4: Reach::Every, v6: Reach::Every };
    let one6 = Cover { v4: Reach::Nothing, v6: Reach::One };
    for (v4, v6, cover, slots, exact, covered) in [
        (nobody, nobody, every4, [0, 0, 0, 0], false, false),
        (nobody, nobody, one4, [0, 0, 0, 0], false, false),
        (whole(3), nobody, every4, [3, 0, 0, 0], false, true),
        (whole(3), nobody, one4, [3, 0, 0, 0], false, true),
        (whole(3), nobody, dual, [3, 0, 0, 0], false, false),
        (whole(3), whole(3), dual, [3, 0, 3, 0], false, true),
        (whole(3), whole(4), dual, [3, 0, 4, 0], false, true),
        // A side of pods that share, of which none stands for all.
        (Side { second: 4, ..whole(3) }, nobody, every4, [3, 4, 0, 0], false, true),
        (Side { second: 4, ..whole(3) }, nobody, one4, [3, 4, 0, 0], false, true),
        (some(3, 0), nobody, every4, [3, 0, 0, 0], false, false),
        (some(3, 4), nobody, every4, [3, 4, 0, 0], false, false),
        (some(3, 4), nobody, one4, [0, 0, 0, 0], true, false),
        (some(3, 4), some(5, 6), dual, [3, 4, 5, 6], false, false),
        (some(3, 4), nobody, one6, [0, 0, 0, 0], false, false),
        (nobody, some(5, 0), one6, [0, 0, 0, 0], true, false),
        (nobody, whole(5), one6, [0, 0, 5, 0], false, true),
    ] {
        let candidates = Candidates::of(PortWord::new(v4, v6), cover);
        assert_eq!(candidates, Candidates { slots, exact, covered }, "{v4:?} {v6:?} {cover:?}");
    }
}

#[test]
fn who_may_hold_a_port_beside_another() {
    let kin = |group, workload| CallerIdentity::pod(&pod(9, 0, group, workload).with_revision(4));
    let of_revision = |revision| pod(1, 0, 0, 7).with_revision(revision);
    for (holder, caller, expected) in [
        (pod(1, 0, 0, 0), kin(0, 0), false),
        (pod(1, 0, 5, 0), kin(5, 0), true),
        (pod(1, 0, 5, 0), kin(6, 0), false),
        (of_revision(4), kin(0, 7), false),
        (of_revision(5), kin(0, 7), true),
        (of_revision(5), kin(0, 8), false),
        // The revision of one is not known, as after a restart of the agent.
        (of_revision(0), kin(0, 7), true),
        (pod(1, 0, 0, 7), CallerIdentity::pod(&pod(9, 0, 0, 7)), true),
        (pod(1, OWNER_DAEMON, 0, 7).with_revision(4), kin(0, 7), true),
        (pod(1, OWNER_DAEMON, 0, 7).with_revision(4), kin(0, 8), false),
        (pod(1, OWNER_TERMINATING, 0, 7), kin(0, 7), true),
        (pod(1, OWNER_TERMINATING, 0, 0), kin(0, 0), false),
        // A pod that nobody knows.
        (Owner::default(), kin(5, 7), false),
    ] {
        assert_eq!(may_share_with(&holder, &caller), expected, "{holder:?} {caller:?}");
    }
    let enforce = Policy { enforce: true, ..Policy::from_word(0) };
    let verdict = |kin: &CallerIdentity, policy: &Policy, overrule| {
        let verdict = decide_held(kin, policy, overrule);
        (verdict.kind, verdict.reason, verdict.by)
    };
    let stranger = kin(0, 0);
    assert_eq!(verdict(&stranger, &enforce, nothing()), (VerdictKind::Deny, Reason::Held, NO_CLAIM));
    let audit = Policy::from_word(0);
    assert_eq!(verdict(&stranger, &audit, nothing()), (VerdictKind::Audit, Reason::Held, NO_CLAIM));
    let software = CallerIdentity::nobody(OWNER_SOFTWARE);
    assert_eq!(verdict(&software, &enforce, nothing()), (VerdictKind::Audit, Reason::Held, NO_CLAIM));
    let stale = ModeOverride { stale: true, ..nothing() };
    assert_eq!(verdict(&stranger, &enforce, stale), (VerdictKind::Audit, Reason::Stale, NO_CLAIM));
}

#[test]
fn holds_meet_as_sockets_do() {
    let v6 = |last: u8| {
        let mut address = [0; 16];
        address[15] = last;
        Target::V6 { address, v6only: false }
    };
    let only = Target::V6 { address: [0; 16], v6only: true };
    let [any4, one, other] = [[0; 4], [127, 0, 0, 1], [127, 0, 0, 2]].map(Target::V4);
    let hold = |target: &Target, device| {
        let word = match target {
            Target::V4(address) => u64::from(u32::from_ne_bytes(*address)),
            Target::V6 { address, .. } => u64::from(address[15]),
        };
        (word, extent(target, device))
    };
    for (a, b, expected) in [
        (&any4, &any4, true),
        (&any4, &one, true),
        (&one, &one, true),
        (&one, &other, false),
        (&any4, &v6(0), true),
        (&one, &v6(0), true),
        (&any4, &only, false),
        (&any4, &v6(1), false),
        (&one, &v6(1), false),
        (&v6(0), &v6(1), true),
        (&only, &v6(1), true),
        (&v6(1), &v6(1), true),
        (&v6(1), &v6(2), false),
    ] {
        for (device, other_device, same) in [(0, 0, true), (0, 3, true), (3, 3, true), (3, 4, false)] {
            let (a, b) = (hold(a, device), hold(b, other_device));
            assert_eq!(holds_overlap(a, b), expected && same, "{a:?} {b:?}");
            assert_eq!(holds_overlap(b, a), expected && same, "{b:?} {a:?}");
        }
    }
}

#[test]
fn what_could_share_a_port() {
    for (protocol, reuse_port, reuse_addr, expected) in [
        (Protocol::Tcp, false, true, false),
        (Protocol::Tcp, true, false, true),
        (Protocol::Udp, false, false, false),
        (Protocol::Udp, false, true, true),
        (Protocol::Udp, true, false, true),
        (Protocol::Sctp, true, true, false),
    ] {
        assert_eq!(could_share(protocol, reuse_port, reuse_addr), expected, "{protocol:?}");
    }
}
