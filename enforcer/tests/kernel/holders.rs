//! A port that could be shared is held by one pod, whatever happens at once, and by nobody as soon as its last socket is
//! gone, however that goes.
//!
//! The short form always runs; with `PORT_ENFORCER_TEST_FULL=1` in the environment there are 100,000 races for each kind
//! of socket, and 1,000 ends of each kind.

use std::{
    env,
    time::{Duration, Instant},
};

use enforcer::host::clock::now;
use enforcer_ebpf::wire::{Policy, Protocol, Undeclared};
use libtest_mimic::Completion;

use enforcer_testing::{
    kernel_fixture::{ENFORCE, Rig, by_helper, denied_after, reserving},
    manifest::{Manifest, SYSTEMD_BESTEFFORT},
    mini_agent::Site,
    own_machine,
    race::race,
    worker::{Answer, Bind, Kind, Order, Worker},
};

use crate::{
    DONE, Outcome, Test,
    undeclared::{sharing, there},
};

pub(crate) const TESTS: &[Test] = &[
    ("of_two_that_race_one_holds", of_two_that_race_one_holds),
    ("what_is_closed_is_free", what_is_closed_is_free),
    ("what_was_inherited_is_held_until_the_heir_ends", what_was_inherited_is_held_until_the_heir_ends),
    ("what_was_passed_on_is_held_until_the_receiver_ends", what_was_passed_on_is_held_until_the_receiver_ends),
    ("what_is_killed_holds_nothing", what_is_killed_holds_nothing),
    ("a_container_that_is_restarted_holds_on", a_container_that_is_restarted_holds_on),
    ("what_is_held_outlives_the_agent_and_leaves_no_ghost", what_is_held_outlives_the_agent_and_leaves_no_ghost),
    ("a_tunnel_of_the_kernels_own_holds_nothing", a_tunnel_of_the_kernels_own_holds_nothing),
];

/// The same where a port is taken before it is bound, as on kernels before 5.17.
pub(crate) const RESERVING: &[Test] = &[
    ("of_two_that_race_one_holds", || reserving(of_two_that_race_one_holds)),
    ("what_is_closed_is_free", || reserving(what_is_closed_is_free)),
    ("what_was_inherited_is_held_until_the_heir_ends", || reserving(what_was_inherited_is_held_until_the_heir_ends)),
    ("what_was_passed_on_is_held_until_the_receiver_ends", || {
        reserving(what_was_passed_on_is_held_until_the_receiver_ends)
    }),
    ("what_is_killed_holds_nothing", || reserving(what_is_killed_holds_nothing)),
    ("what_is_held_outlives_the_agent_and_leaves_no_ghost", || {
        reserving(what_is_held_outlives_the_agent_and_leaves_no_ghost)
    }),
];

/// The same where sockets are read by a helper, as on kernels before 6.2.
pub(crate) const BY_HELPER: &[Test] = &[
    ("what_is_closed_is_free", || by_helper(what_is_closed_is_free)),
    ("a_tunnel_of_the_kernels_own_holds_nothing", || by_helper(a_tunnel_of_the_kernels_own_holds_nothing)),
];

const PORT: u16 = 20080;
const ADOPT: Policy = Policy { undeclared: Undeclared::Adopt, report_attempts: false, ..ENFORCE };

fn times(full: u32, short: u32) -> u32 {
    if env::var("PORT_ENFORCER_TEST_FULL").is_ok_and(|value| value == "1") { full } else { short }
}

struct Scene {
    rig: Rig,
    first: Manifest,
    holder: Worker,
    other: Worker,
}

impl Scene {
    fn new() -> Self {
        let mut rig = Rig::with(|start| start.policy = ADOPT);
        let first = Manifest::new("first");
        let (holder, other) = (rig.start(&first), rig.start(&Manifest::new("second")));
        Self { rig, first, holder, other }
    }

    /// Another worker of the holder's pod.
    fn container(&self) -> Worker {
        Worker::start(&self.rig.make(&self.first.cgroup(SYSTEMD_BESTEFFORT)))
    }

    fn is_held(&mut self, bind: &Bind) {
        assert_eq!(self.other.bind(bind), denied_after(), "{bind:?} is held");
    }

    /// The other pod gets it, in time.
    fn is_free(&mut self, bind: &Bind) {
        until_free(&mut self.other, bind);
    }
}

fn until_free(other: &mut Worker, bind: &Bind) {
    // A second is what is promised. In the short form the machine may have other things to do.
    let deadline = Instant::now() + Duration::from_secs(times(1, 30).into());
    while other.bind(bind) != 0 {
        assert!(Instant::now() < deadline, "a ghost holds {bind:?}");
    }
}

fn of_two_that_race_one_holds() -> Outcome {
    let rounds = times(100_000, own_machine::times(2_000));
    for bind in sharing(PORT) {
        let mut scene = Scene::new();
        let tally = race(&mut scene.holder, &mut scene.other, &bind, rounds);
        assert_eq!((tally.one, tally.both, tally.none), (rounds, 0, 0), "{bind:?}");
        assert_eq!(scene.rig.holds(), 0, "{bind:?}");
        println!("{rounds} races, one holder each: {bind:?}");
    }
    DONE
}

fn what_is_closed_is_free() -> Outcome {
    let mut scene = Scene::new();
    for bind in sharing(PORT) {
        for _ in 0..times(1_000, 50) {
            assert_eq!(scene.holder.bind(&bind.clone().kept()), 0);
            scene.is_held(&bind);
            scene.holder.close();
            scene.is_free(&bind);
        }
    }
    assert_eq!(scene.rig.holds(), 0);
    DONE
}

fn what_was_inherited_is_held_until_the_heir_ends() -> Outcome {
    let mut scene = Scene::new();
    for bind in [Bind::tcp("0.0.0.0", PORT).reusing_port(), Bind::udp("0.0.0.0", PORT).reusing_addr()] {
        for _ in 0..times(1_000, 50) {
            assert_eq!(scene.holder.bind(&bind.clone().kept()), 0);
            let Answer::Forked(heir) = scene.holder.order(&Order::Fork) else { panic!("a child") };
            scene.holder.close();
            scene.is_held(&bind);
            // SAFETY: no memory effects; the process is the worker's own child, which it has not waited for.
            assert_eq!(unsafe { libc::kill(heir, libc::SIGKILL) }, 0);
            scene.is_free(&bind);
        }
    }
    assert_eq!(scene.rig.holds(), 0);
    DONE
}

fn what_was_passed_on_is_held_until_the_receiver_ends() -> Outcome {
    let mut scene = Scene::new();
    for bind in there([
        Bind::tcp("0.0.0.0", PORT).reusing_port(),
        Bind::tcp("0.0.0.0", PORT).on(Kind::Mptcp).reusing_port(),
        Bind::udp("0.0.0.0", PORT).reusing_addr(),
    ]) {
        for _ in 0..times(1_000, 50) {
            let passed = scene.holder.open(&bind);
            assert_eq!(scene.holder.bind_given(&passed, &bind), 0);
            scene.holder.close();
            scene.is_held(&bind);
            drop(passed);
            scene.is_free(&bind);
        }
    }
    assert_eq!(scene.rig.holds(), 0);
    DONE
}

fn what_is_killed_holds_nothing() -> Outcome {
    let mut scene = Scene::new();
    for bind in there([
        Bind::tcp("0.0.0.0", PORT).reusing_port(),
        Bind::tcp("0.0.0.0", PORT).on(Kind::Mptcp).reusing_port(),
        Bind::udp("0.0.0.0", PORT).reusing_addr(),
    ]) {
        for _ in 0..times(1_000, 20) {
            let mut holder = scene.container();
            assert_eq!(holder.bind(&bind.clone().kept()), 0);
            scene.is_held(&bind);
            // By SIGKILL.
            drop(holder);
            scene.is_free(&bind);
        }
    }
    assert_eq!(scene.rig.holds(), 0);
    DONE
}

fn a_container_that_is_restarted_holds_on() -> Outcome {
    let mut scene = Scene::new();
    let bind = Bind::tcp("0.0.0.0", PORT).reusing_port();
    for _ in 0..times(1_000, 20) {
        let mut old = scene.container();
        assert_eq!(old.bind(&bind.clone().kept()), 0);
        let mut new = scene.container();
        assert_eq!(new.bind(&bind.clone().kept()), 0, "it is the pod's");
        drop(old);
        scene.is_held(&bind);
        drop(new);
        scene.is_free(&bind);
    }
    assert_eq!(scene.rig.holds(), 0);
    DONE
}

fn what_is_held_outlives_the_agent_and_leaves_no_ghost() -> Outcome {
    let site = Site::new(&[("first", ""), ("second", "")]);
    let (mut holder, mut other) = (site.worker("first"), site.worker("second"));
    let adopting = || site.start_with(true, |options| options.policy = ADOPT);
    let [plain, multipath] = [Kind::Tcp, Kind::Mptcp].map(|kind| Bind::tcp("0.0.0.0", PORT).on(kind).reusing_port());
    let bind = there([plain, multipath]).pop().expect("TCP is there");
    drop(adopting());
    for round in 0..times(1_000, 4) {
        // Bound under one agent or none, and released under another or none.
        assert_eq!(holder.bind(&bind.clone().kept()), 0);
        let agent = (round % 2 == 0).then(adopting);
        assert_eq!(other.bind(&bind), denied_after(), "it is held");
        if round % 4 < 2 {
            drop(adopting_again(agent, adopting));
            assert_eq!(other.bind(&bind), denied_after(), "and still");
        }
        holder.close();
        until_free(&mut other, &bind);
    }
    let keeper = adopting();
    assert_eq!(keeper.kernel.port_holds().expect("the slots"), []);
    DONE
}

/// One agent ends and the next one starts.
fn adopting_again<A>(before: Option<A>, start: impl FnOnce() -> A) -> A {
    drop(before);
    start()
}

fn a_tunnel_of_the_kernels_own_holds_nothing() -> Outcome {
    let mut scene = Scene::new();
    scene.rig.engine.set_policy(Policy { report_bound: true, ..ADOPT });
    match scene.holder.order(&Order::Tunnel(PORT)) {
        Answer::Done => {}
        Answer::Unsupported if own_machine::is_here() => {
            return Ok(Completion::ignored_with("the machine of the matrix loads no module for tunnels"));
        }
        other => panic!("{other:?}"),
    }
    scene.rig.engine.settle_sockets(now()).expect("the rings");
    assert_eq!(scene.rig.outputs().1, []);
    assert_eq!(scene.rig.holds(), 0);
    assert_eq!(scene.rig.engine.kernel().port_holder(Protocol::Udp, PORT).expect("the marks"), 0);
    scene.is_free(&Bind::udp("0.0.0.0", PORT).reusing_addr());
    DONE
}
