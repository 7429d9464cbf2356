//! Who else may bind an owner's port, and who has it after the owner.

use std::{
    thread,
    time::{Duration, Instant},
};

use enforcer::host::clock::now;
use enforcer_ebpf::wire::{Reason, VerdictKind};

use enforcer_testing::{
    kernel_fixture::{Rig, denied},
    manifest::{Manifest, SYSTEMD_BESTEFFORT},
    sandbox,
    worker::{Bind, Worker},
};

use crate::{DONE, Outcome, Test};

pub(crate) const TESTS: &[Test] = &[
    ("a_group_shares_and_outsiders_do_not", a_group_shares_and_outsiders_do_not),
    ("groups_of_two_namespaces_are_two", groups_of_two_namespaces_are_two),
    ("a_port_is_handed_over_within_the_workload", a_port_is_handed_over_within_the_workload),
    ("the_grace_keeps_a_waiting_squatter_out", the_grace_keeps_a_waiting_squatter_out),
    ("the_grace_ends", the_grace_ends),
    ("no_grace_after_success", no_grace_after_success),
    ("a_loser_is_promoted_when_the_winner_goes", a_loser_is_promoted_when_the_winner_goes),
    ("an_edit_takes_nothing_from_the_pod_in_force", an_edit_takes_nothing_from_the_pod_in_force),
    ("an_edit_ranks_by_when_it_was_made", an_edit_ranks_by_when_it_was_made),
    ("an_older_pod_that_is_seen_later_takes_nothing", an_older_pod_that_is_seen_later_takes_nothing),
    ("a_claim_ends_with_the_pods_cgroup", a_claim_ends_with_the_pods_cgroup),
];

const OWNER: (i32, VerdictKind, Reason) = (0, VerdictKind::Allow, Reason::Owner);
const SHARE: (i32, VerdictKind, Reason) = (0, VerdictKind::Allow, Reason::Share);
const HANDOVER: (i32, VerdictKind, Reason) = (0, VerdictKind::Allow, Reason::Handover);
const UNCLAIMED: (i32, VerdictKind, Reason) = (0, VerdictKind::Allow, Reason::Unclaimed);

fn claimed() -> (i32, VerdictKind, Reason) {
    (denied(), VerdictKind::Deny, Reason::Claimed)
}

fn bind() -> Bind {
    Bind::tcp("0.0.0.0", 20080)
}

fn a_group_shares_and_outsiders_do_not() -> Outcome {
    let mut rig = Rig::new();
    let member = |name| Manifest::new(name).ports("20080").share("web");
    let (first, second) = (member("first"), member("second"));
    let [mut firsts, mut seconds] = [&first, &second].map(|manifest| rig.start(manifest));
    let mut outsider = rig.start(&Manifest::new("outsider"));
    let mut loner = rig.start(&Manifest::new("loner").ports("20080"));

    let shared = bind().reusing_port().kept();
    assert_eq!(rig.attempt(&mut firsts, &shared).answer(), OWNER);
    let seen = rig.attempt(&mut seconds, &shared);
    assert_eq!(seen.answer(), SHARE);
    assert_eq!(seen.owner(), "default/first");
    assert_eq!(rig.attempt(&mut outsider, &shared).answer(), claimed());
    assert_eq!(rig.attempt(&mut loner, &shared).answer(), claimed());

    firsts.close();
    rig.delete(&first);
    assert_eq!(rig.attempt(&mut seconds, &shared).answer(), OWNER, "the group stays while any member does");
    let seen = rig.attempt(&mut loner, &shared);
    assert_eq!(seen.answer(), claimed());
    assert_eq!(seen.owner(), "default/second");

    seconds.close();
    rig.delete(&second);
    assert_eq!(rig.attempt(&mut loner, &shared).answer(), OWNER);
    DONE
}

fn groups_of_two_namespaces_are_two() -> Outcome {
    let mut rig = Rig::new();
    let mut one = rig.start(&Manifest::new("one").ports("20080").share("web"));
    let mut other = rig.start(&Manifest::new("other").namespace("elsewhere").ports("20080").share("web"));
    assert_eq!(rig.attempt(&mut one, &bind()).answer(), OWNER);
    assert_eq!(rig.attempt(&mut other, &bind()).answer(), claimed());
    DONE
}

fn a_port_is_handed_over_within_the_workload() -> Outcome {
    let mut rig = Rig::new();
    let old = Manifest::new("old").controller("ingress").ports("20080");
    let mut olds = rig.start(&old);
    let mut new = rig.start(&Manifest::new("new").controller("ingress").ports("20080"));
    let mut stranger = rig.start(&Manifest::new("stranger").controller("squatter").ports("20080"));
    assert_eq!(rig.attempt(&mut olds, &bind()).answer(), OWNER);
    assert_eq!(rig.attempt(&mut new, &bind()).answer(), claimed(), "the old one is not asked to go yet");

    rig.apply(&old.terminating());
    assert_eq!(rig.attempt(&mut olds, &bind()).answer(), OWNER);
    let seen = rig.attempt(&mut new, &bind());
    assert_eq!(seen.answer(), HANDOVER);
    assert_eq!(seen.owner(), "default/old");
    assert_eq!(rig.attempt(&mut stranger, &bind()).answer(), claimed());
    DONE
}

/// An engine with a grace that lasts as long, and a squatter that waits for the port of a pod that is gone.
fn graceful(grace: Duration) -> (Rig, Worker) {
    let mut rig = Rig::with(|start| start.settings.handover_grace = grace);
    let owner = Manifest::new("owner").controller("ingress").ports("20080");
    rig.apply(&owner);
    let squatter = rig.start(&Manifest::new("squatter").controller("squatter").ports("20080"));
    rig.delete(&owner);
    (rig, squatter)
}

fn the_grace_keeps_a_waiting_squatter_out() -> Outcome {
    let (mut rig, mut squatter) = graceful(Duration::from_mins(10));
    rig.engine.handle_timeout(now()).expect("the rings");
    let seen = rig.attempt(&mut squatter, &bind());
    assert_eq!(seen.answer(), claimed());
    assert_eq!(seen.owner(), "default/owner", "the gone pod is named");

    // The successor is younger than the squatter. Before it is known to claim the port, its workload lets it in.
    let successor = Manifest::new("successor").controller("ingress");
    let mut successors = rig.start(&successor);
    assert_eq!(rig.attempt(&mut successors, &bind()).answer(), HANDOVER);
    rig.apply(&successor.ports("20080"));
    assert_eq!(rig.attempt(&mut successors, &bind()).answer(), OWNER);
    let seen = rig.attempt(&mut squatter, &bind());
    assert_eq!(seen.answer(), claimed());
    assert_eq!(seen.owner(), "default/successor");
    assert_eq!(rig.engine.poll_timeout(), None, "nothing is left to wait for");
    DONE
}

fn the_grace_ends() -> Outcome {
    let (mut rig, mut squatter) = graceful(Duration::from_millis(300));
    assert_eq!(rig.attempt(&mut squatter, &bind()).answer(), claimed());
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Some(at) = rig.engine.poll_timeout() {
        assert!(Instant::now() < deadline, "still waiting");
        thread::sleep(at.saturating_sub(now().boottime));
        rig.engine.handle_timeout(now()).expect("the rings");
    }
    assert_eq!(rig.attempt(&mut squatter, &bind()).answer(), OWNER);
    DONE
}

fn no_grace_after_success() -> Outcome {
    for phase in ["Succeeded", "Failed"] {
        let mut rig = Rig::new();
        let owner = Manifest::new("owner").controller("job").ports("20080");
        rig.apply(&owner);
        let mut next = rig.start(&Manifest::new("next").controller("other").ports("20080"));
        assert_eq!(rig.attempt(&mut next, &bind()).answer(), claimed());
        let over = owner.phase(phase);
        rig.apply(&over);
        assert_eq!(rig.attempt(&mut next, &bind()).answer(), OWNER, "{phase}");
        rig.delete(&over);
        assert_eq!(rig.attempt(&mut next, &bind()).answer(), OWNER, "{phase}");
        assert_eq!(rig.engine.poll_timeout(), None);
    }
    DONE
}

fn a_loser_is_promoted_when_the_winner_goes() -> Outcome {
    let mut rig = Rig::new();
    let winner = Manifest::new("winner").ports("20080");
    rig.apply(&winner);
    let mut loser = rig.start(&Manifest::new("loser").ports("192.0.2.1:20080"));
    let bind = Bind::tcp("192.0.2.1", 20080);
    assert_eq!(rig.attempt(&mut loser, &bind).answer(), claimed());
    rig.delete(&winner);
    assert_eq!(rig.attempt(&mut loser, &bind).answer(), OWNER);
    DONE
}

fn an_edit_takes_nothing_from_the_pod_in_force() -> Outcome {
    let mut rig = Rig::new();
    let old = Manifest::new("old").ports("20081");
    let mut olds = rig.start(&old);
    let mut young = rig.start(&Manifest::new("young").ports("20080"));
    rig.apply(&old.ports("20081 20080"));
    assert_eq!(rig.attempt(&mut olds, &bind()).answer(), claimed());
    assert_eq!(rig.attempt(&mut young, &bind()).answer(), OWNER);
    assert_eq!(rig.attempt(&mut olds, &Bind::tcp("0.0.0.0", 20081)).answer(), OWNER);
    DONE
}

fn an_edit_ranks_by_when_it_was_made() -> Outcome {
    let mut rig = Rig::new();
    let old = Manifest::new("old");
    let mut olds = rig.start(&old);
    let winner = Manifest::new("winner").ports("20080");
    rig.apply(&winner);
    let mut young = rig.start(&Manifest::new("young").ports("20080"));
    rig.apply(&old.ports("20080"));
    // Neither was in force: the young pod said so first.
    rig.delete(&winner);
    assert_eq!(rig.attempt(&mut young, &bind()).answer(), OWNER);
    assert_eq!(rig.attempt(&mut olds, &bind()).answer(), claimed());
    DONE
}

fn an_older_pod_that_is_seen_later_takes_nothing() -> Outcome {
    let mut rig = Rig::new();
    let old = Manifest::new("old").ports("20080");
    let mut young = rig.start(&Manifest::new("young").ports("20080"));
    let mut olds = rig.start(&old);
    assert_eq!(rig.attempt(&mut young, &bind()).answer(), OWNER);
    assert_eq!(rig.attempt(&mut olds, &bind()).answer(), claimed());
    DONE
}

fn a_claim_ends_with_the_pods_cgroup() -> Outcome {
    let mut rig = Rig::new();
    let owner = Manifest::new("owner").ports("20080");
    let mut owners = rig.start(&owner);
    let mut waiting = rig.start(&Manifest::new("waiting").ports("20080"));
    assert_eq!(rig.attempt(&mut owners, &bind()).answer(), OWNER);
    assert_eq!(rig.attempt(&mut waiting, &bind()).answer(), claimed());

    drop(owners);
    let container = rig.make(&owner.cgroup(SYSTEMD_BESTEFFORT));
    sandbox::remove(container.parent().expect("the pod's own")).expect("removing a cgroup");
    // Nobody has said that the pod is gone.
    assert_eq!(rig.attempt(&mut waiting, &bind()).answer(), OWNER);
    rig.apply(&owner);
    assert_eq!(rig.attempt(&mut waiting, &bind()).answer(), OWNER);

    let mut stranger = rig.start(&Manifest::new("stranger"));
    assert_eq!(rig.attempt(&mut stranger, &Bind::tcp("0.0.0.0", 20081)).answer(), UNCLAIMED);
    DONE
}
