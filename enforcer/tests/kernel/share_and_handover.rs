//! Who else may bind an owner's port, and who has it after the owner.

use std::{
    thread,
    time::{Duration, Instant},
};

use enforcer::{agent::input::Input, host::clock::now};
use enforcer_core::{index::Notice, model::actor::Audience};
use enforcer_ebpf::wire::{Policy, Reason, VerdictKind};

use enforcer_testing::{
    cgroup_sandbox,
    pods::{Pod, SYSTEMD_BESTEFFORT},
    reconciler_fixture::{AUDIT, ENFORCE, KernelFixture, denied},
    tests,
    worker::{Bind, Worker},
};

use crate::{DONE, Outcome, Test};

pub(crate) const TESTS: &[Test] = tests![
    share_group_shares_port_with_members_only,
    share_group_ends_at_its_namespace,
    pod_that_never_started_lets_its_successor_in,
    replicas_claims_do_not_deny_each_other,
    port_is_handed_over_within_workload,
    port_that_was_never_bound_is_not_kept,
    port_that_was_bound_just_before_the_end_is_kept,
    grace_period_keeps_waiting_pod_out,
    grace_period_expires,
    succeeded_pod_gets_no_grace_period,
    waiting_claim_is_granted_when_owner_is_deleted,
    edited_claim_does_not_displace_owner,
    edited_claim_ranks_by_edit_time,
    older_pod_seen_later_does_not_displace_owner,
    claim_ends_with_pod_cgroup
];

const OWNER: (i32, VerdictKind, Reason) = (0, VerdictKind::Allow, Reason::Owner);
const SHARE: (i32, VerdictKind, Reason) = (0, VerdictKind::Allow, Reason::Share);
const SIBLING: (i32, VerdictKind, Reason) = (0, VerdictKind::Allow, Reason::Sibling);
const HANDOVER: (i32, VerdictKind, Reason) = (0, VerdictKind::Allow, Reason::Handover);
const UNCLAIMED: (i32, VerdictKind, Reason) = (0, VerdictKind::Allow, Reason::Unclaimed);

fn claimed() -> (i32, VerdictKind, Reason) {
    (denied(), VerdictKind::Deny, Reason::Claimed)
}

fn bind() -> Bind {
    Bind::tcp("0.0.0.0", 20080)
}

fn share_group_shares_port_with_members_only() -> Outcome {
    let mut fixture = KernelFixture::new();
    let member = |name| Pod::new(name).ports("20080").share_group("web");
    let (first, second) = (member("first"), member("second"));
    let [mut firsts, mut seconds] = [&first, &second].map(|manifest| fixture.start(manifest));
    let mut outsider = fixture.start(&Pod::new("outsider"));
    let mut loner = fixture.start(&Pod::new("loner").ports("20080"));

    let shared = bind().reusing_port().kept();
    assert_eq!(fixture.attempt(&mut firsts, &shared).result(), OWNER);
    let seen = fixture.attempt(&mut seconds, &shared);
    assert_eq!(seen.result(), SHARE);
    assert_eq!(seen.owner(), "default/first");
    assert_eq!(fixture.attempt(&mut outsider, &shared).result(), claimed());
    assert_eq!(fixture.attempt(&mut loner, &shared).result(), claimed());

    firsts.close();
    fixture.delete(&first);
    assert_eq!(fixture.attempt(&mut seconds, &shared).result(), OWNER, "the group stays while any member does");
    let seen = fixture.attempt(&mut loner, &shared);
    assert_eq!(seen.result(), claimed());
    assert_eq!(seen.owner(), "default/second");

    seconds.close();
    fixture.delete(&second);
    assert_eq!(fixture.attempt(&mut loner, &shared).result(), OWNER);
    DONE
}

fn share_group_ends_at_its_namespace() -> Outcome {
    let mut fixture = KernelFixture::new();
    let mut one = fixture.start(&Pod::new("one").ports("20080").share_group("web"));
    let mut other = fixture.start(&Pod::new("other").namespace("elsewhere").ports("20080").share_group("web"));
    assert_eq!(fixture.attempt(&mut one, &bind()).result(), OWNER);
    assert_eq!(fixture.attempt(&mut other, &bind()).result(), claimed());
    DONE
}

/// The old pod of a Deployment never started, as with an image that cannot be pulled.
fn pod_that_never_started_lets_its_successor_in() -> Outcome {
    for mode in [AUDIT, ENFORCE] {
        let mut fixture = KernelFixture::with(|start| start.policy = mode);
        let never = Pod::new("never").of_revision("web", "1").ports("20080");
        fixture.apply(&never);
        let successor = Pod::new("successor").of_revision("web", "2").ports("20080");
        let mut successors = fixture.start(&successor);
        let mut stranger = fixture.start(&Pod::new("stranger").of_deployment("other").ports("20080"));
        let seen = fixture.attempt(&mut successors, &bind());
        assert_eq!(seen.result(), SIBLING);
        assert_eq!(seen.owner(), "default/never");
        let kind = if mode.enforce { VerdictKind::Deny } else { VerdictKind::Audit };
        let seen = fixture.attempt(&mut stranger, &bind());
        assert_eq!((seen.report().attempt.verdict, seen.report().attempt.reason), (kind, Reason::Claimed));

        fixture.delete(&never);
        assert_eq!(fixture.attempt(&mut successors, &bind()).result(), OWNER);
        assert_eq!(fixture.reconciler.index().poll_timeout(), None, "nothing is kept of a pod that never bound");
        assert!(fixture.notices().iter().all(|notice| !matches!(notice, Notice::Granted { .. })), "it was in force");
    }
    DONE
}

fn replicas_claims_do_not_deny_each_other() -> Outcome {
    let mut fixture = KernelFixture::new();
    let [mut first, mut second] =
        ["first", "second"].map(|name| fixture.start(&Pod::new(name).of_deployment("web").ports("20080")));
    assert_eq!(fixture.attempt(&mut second, &bind().kept()).result(), SIBLING, "whichever binds first has it");
    let seen = fixture.attempt(&mut first, &bind());
    assert_eq!(seen.result(), (libc::EADDRINUSE, VerdictKind::Allow, Reason::Owner), "the kernel refuses the second");
    second.close();
    assert_eq!(fixture.attempt(&mut first, &bind()).result(), OWNER);
    DONE
}

fn port_is_handed_over_within_workload() -> Outcome {
    let mut fixture = KernelFixture::new();
    let old = Pod::new("old").of_daemon_set("ingress").ports("20080");
    let mut olds = fixture.start(&old);
    let mut new = fixture.start(&Pod::new("new").of_daemon_set("ingress"));
    let mut stranger = fixture.start(&Pod::new("stranger").of_daemon_set("squatter").ports("20080"));
    assert_eq!(fixture.attempt(&mut olds, &bind()).result(), OWNER);
    assert_eq!(fixture.attempt(&mut new, &bind()).result(), SIBLING, "the old one is not asked to go yet");

    fixture.apply(&old.terminating());
    assert_eq!(fixture.attempt(&mut olds, &bind()).result(), OWNER);
    let seen = fixture.attempt(&mut new, &bind());
    assert_eq!(seen.result(), HANDOVER);
    assert_eq!(seen.owner(), "default/old");
    assert_eq!(fixture.attempt(&mut stranger, &bind()).result(), claimed());
    DONE
}

/// A reconciler with a grace that lasts as long, and a squatter that waits for the port of a pod that bound it and is
/// gone.
fn graceful(grace: Duration) -> (KernelFixture, Worker) {
    let mut fixture = KernelFixture::with(|start| start.settings.handover_grace = grace);
    let owner = Pod::new("owner").of_daemon_set("ingress").ports("20080, 20081");
    let mut owners = fixture.start(&owner);
    assert_eq!(fixture.attempt(&mut owners, &bind().kept()).result(), OWNER);
    fixture.reconciler.handle_input(Input::ScanSockets, now()).expect("the sockets are read");
    owners.close();
    let squatter = fixture.start(&Pod::new("squatter").of_daemon_set("squatter").ports("20080, 20081"));
    fixture.delete(&owner);
    (fixture, squatter)
}

fn port_that_was_never_bound_is_not_kept() -> Outcome {
    let (mut fixture, mut squatter) = graceful(Duration::from_mins(10));
    assert_eq!(fixture.attempt(&mut squatter, &bind()).result(), claimed());
    assert_eq!(fixture.attempt(&mut squatter, &Bind::tcp("0.0.0.0", 20081)).result(), OWNER);
    DONE
}

/// Nothing reads the record of the bind between the bind and the end of the pod.
fn port_that_was_bound_just_before_the_end_is_kept() -> Outcome {
    let mut fixture = KernelFixture::with(|start| {
        start.policy = Policy { report_bound: true, ..ENFORCE };
        start.settings.handover_grace = Duration::from_mins(10);
    });
    let owner = Pod::new("owner").of_daemon_set("ingress").ports("20080");
    let mut owners = fixture.start(&owner);
    let mut squatter = fixture.start(&Pod::new("squatter").of_daemon_set("squatter").ports("20080"));
    assert_eq!(owners.bind(&bind()), 0);
    fixture.delete(&owner);
    let seen = fixture.attempt(&mut squatter, &bind());
    assert_eq!(seen.result(), claimed());
    assert_eq!(seen.owner(), "DaemonSet default/ingress");
    DONE
}

fn grace_period_keeps_waiting_pod_out() -> Outcome {
    let (mut fixture, mut squatter) = graceful(Duration::from_mins(10));
    fixture.reconciler.handle_timeout(now()).expect("the rings");
    let seen = fixture.attempt(&mut squatter, &bind());
    assert_eq!(seen.result(), claimed());
    assert_eq!(seen.owner(), "DaemonSet default/ingress", "nobody is sent to a pod that is gone");
    let sentence = seen.report().sentence("node-1", Audience::Operators);
    assert!(sentence.contains("kept for DaemonSet default/ingress until "), "{sentence}");

    // The successor is younger than the squatter. Before it is known to claim the port, its workload lets it in.
    let successor = Pod::new("successor").of_daemon_set("ingress");
    let mut successors = fixture.start(&successor);
    assert_eq!(fixture.attempt(&mut successors, &bind()).result(), HANDOVER);
    fixture.apply(&successor.ports("20080"));
    assert_eq!(fixture.attempt(&mut successors, &bind()).result(), OWNER);
    let seen = fixture.attempt(&mut squatter, &bind());
    assert_eq!(seen.result(), claimed());
    assert_eq!(seen.owner(), "default/successor");
    assert_eq!(fixture.reconciler.index().poll_timeout(), None, "nothing is left to wait for");
    DONE
}

fn grace_period_expires() -> Outcome {
    let (mut fixture, mut squatter) = graceful(Duration::from_millis(300));
    assert_eq!(fixture.attempt(&mut squatter, &bind()).result(), claimed());
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Some(at) = fixture.reconciler.index().poll_timeout() {
        assert!(Instant::now() < deadline, "still waiting");
        thread::sleep(at.saturating_sub(now().boottime));
        fixture.reconciler.handle_timeout(now()).expect("the rings");
    }
    assert_eq!(fixture.attempt(&mut squatter, &bind()).result(), OWNER);
    DONE
}

fn succeeded_pod_gets_no_grace_period() -> Outcome {
    for phase in ["Succeeded", "Failed"] {
        let mut fixture = KernelFixture::new();
        let owner = Pod::new("owner").of_daemon_set("job").ports("20080");
        fixture.apply(&owner);
        let mut next = fixture.start(&Pod::new("next").of_daemon_set("other").ports("20080"));
        assert_eq!(fixture.attempt(&mut next, &bind()).result(), claimed());
        let over = owner.phase(phase);
        fixture.apply(&over);
        assert_eq!(fixture.attempt(&mut next, &bind()).result(), OWNER, "{phase}");
        fixture.delete(&over);
        assert_eq!(fixture.attempt(&mut next, &bind()).result(), OWNER, "{phase}");
        assert_eq!(fixture.reconciler.index().poll_timeout(), None);
    }
    DONE
}

fn waiting_claim_is_granted_when_owner_is_deleted() -> Outcome {
    let mut fixture = KernelFixture::new();
    let winner = Pod::new("winner").ports("20080");
    fixture.apply(&winner);
    let mut loser = fixture.start(&Pod::new("loser").ports("192.0.2.1:20080"));
    let bind = Bind::tcp("192.0.2.1", 20080);
    assert_eq!(fixture.attempt(&mut loser, &bind).result(), claimed());
    fixture.delete(&winner);
    assert_eq!(fixture.attempt(&mut loser, &bind).result(), OWNER);
    DONE
}

fn edited_claim_does_not_displace_owner() -> Outcome {
    let mut fixture = KernelFixture::new();
    let old = Pod::new("old").ports("20081");
    let mut olds = fixture.start(&old);
    let mut young = fixture.start(&Pod::new("young").ports("20080"));
    fixture.apply(&old.ports("20081 20080"));
    assert_eq!(fixture.attempt(&mut olds, &bind()).result(), claimed());
    assert_eq!(fixture.attempt(&mut young, &bind()).result(), OWNER);
    assert_eq!(fixture.attempt(&mut olds, &Bind::tcp("0.0.0.0", 20081)).result(), OWNER);
    DONE
}

fn edited_claim_ranks_by_edit_time() -> Outcome {
    let mut fixture = KernelFixture::new();
    let old = Pod::new("old");
    let mut olds = fixture.start(&old);
    let winner = Pod::new("winner").ports("20080");
    fixture.apply(&winner);
    let mut young = fixture.start(&Pod::new("young").ports("20080"));
    fixture.apply(&old.ports("20080"));
    // Neither was in force: the young pod said so first.
    fixture.delete(&winner);
    assert_eq!(fixture.attempt(&mut young, &bind()).result(), OWNER);
    assert_eq!(fixture.attempt(&mut olds, &bind()).result(), claimed());
    DONE
}

fn older_pod_seen_later_does_not_displace_owner() -> Outcome {
    let mut fixture = KernelFixture::new();
    let old = Pod::new("old").ports("20080");
    let mut young = fixture.start(&Pod::new("young").ports("20080"));
    let mut olds = fixture.start(&old);
    assert_eq!(fixture.attempt(&mut young, &bind()).result(), OWNER);
    assert_eq!(fixture.attempt(&mut olds, &bind()).result(), claimed());
    DONE
}

fn claim_ends_with_pod_cgroup() -> Outcome {
    let mut fixture = KernelFixture::new();
    let owner = Pod::new("owner").ports("20080");
    let mut owners = fixture.start(&owner);
    let mut waiting = fixture.start(&Pod::new("waiting").ports("20080"));
    assert_eq!(fixture.attempt(&mut owners, &bind()).result(), OWNER);
    assert_eq!(fixture.attempt(&mut waiting, &bind()).result(), claimed());

    drop(owners);
    let container = fixture.make_cgroup(&owner.cgroup(SYSTEMD_BESTEFFORT));
    cgroup_sandbox::remove(container.parent().expect("the pod's own")).expect("removing a cgroup");
    // Nobody has said that the pod is gone.
    assert_eq!(fixture.attempt(&mut waiting, &bind()).result(), OWNER);
    fixture.apply(&owner);
    assert_eq!(fixture.attempt(&mut waiting, &bind()).result(), OWNER);

    let mut stranger = fixture.start(&Pod::new("stranger"));
    assert_eq!(fixture.attempt(&mut stranger, &Bind::tcp("0.0.0.0", 20081)).result(), UNCLAIMED);
    DONE
}
