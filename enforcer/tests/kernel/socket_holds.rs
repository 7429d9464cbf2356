//! A port that could be shared is held by one pod, whatever happens at once, and by nobody as soon as its last socket is
//! gone, however that goes.
//!
//! The short form always runs; with `PORT_ENFORCER_TEST_FULL=1` in the environment there are 100,000 races for each kind
//! of socket, and 1,000 ends of each kind.

use std::{
    env, fs,
    time::{Duration, Instant},
};

use enforcer::host::clock::now;
use enforcer_ebpf::wire::{IN_TABLE, Policy, Protocol, SoleHold, Undeclared, port_index};
use libtest_mimic::Completion;

use enforcer_testing::{
    bind_race::{Tally, race},
    figures,
    mini_agent::MiniNode,
    own_machine,
    pods::{Pod, SYSTEMD_BESTEFFORT},
    reconciler_fixture::{ENFORCE, KernelFixture, denied_after, features, reading_by_helper, taking_before_bind},
    tests,
    worker::{Answer, Bind, Kind, Order, Worker},
};

use crate::{
    DONE, Outcome, Test,
    undeclared::{sharing, there},
};

pub(crate) const TESTS: &[Test] = tests![
    one_of_two_racing_pods_holds_port,
    closed_port_is_free,
    inherited_socket_holds_port_until_child_exits,
    passed_socket_holds_port_until_receiver_exits,
    killed_process_holds_no_port,
    restarted_container_keeps_its_port,
    held_port_survives_agent_restart,
    first_socket_takes_the_sole_hold_and_others_the_table,
    socket_that_named_no_port_takes_no_sole_hold,
    kernel_tunnel_socket_holds_no_port
];

/// The same where a port is taken before it is bound, as on kernels before 5.17.
pub(crate) const RESERVING: &[Test] = tests![taking_before_bind =>
    one_of_two_racing_pods_holds_port,
    closed_port_is_free,
    inherited_socket_holds_port_until_child_exits,
    passed_socket_holds_port_until_receiver_exits,
    killed_process_holds_no_port,
    held_port_survives_agent_restart,
];

/// The same where sockets are read by a helper, as on kernels before 6.2.
pub(crate) const BY_HELPER: &[Test] = tests![reading_by_helper =>
    closed_port_is_free,
    kernel_tunnel_socket_holds_no_port,
];

const PORT: u16 = 20080;
/// Ports of a race, none of which is in the ephemeral range.
const RACED_PORTS: u16 = 10_000;
const ADOPT: Policy = Policy { undeclared: Undeclared::Adopt, report_attempts: false, ..ENFORCE };

fn times(full: u32, short: u32) -> u32 {
    if env::var("PORT_ENFORCER_TEST_FULL").is_ok_and(|value| value == "1") { full } else { short }
}

struct HolderFixture {
    kernel: KernelFixture,
    first: Pod,
    holder: Worker,
    other: Worker,
}

impl HolderFixture {
    fn new() -> Self {
        let mut kernel = KernelFixture::with(|start| start.policy = ADOPT);
        let first = Pod::new("first");
        let (holder, other) = (kernel.start(&first), kernel.start(&Pod::new("second")));
        Self { kernel, first, holder, other }
    }

    /// Another worker of the holder's pod.
    fn start_container(&self) -> Worker {
        Worker::start(&self.kernel.make_cgroup(&self.first.cgroup(SYSTEMD_BESTEFFORT)))
    }

    fn assert_held(&mut self, bind: &Bind) {
        assert_eq!(self.other.bind(bind), denied_after(), "{bind:?} is held");
    }

    /// The other pod gets it, in time.
    fn assert_freed(&mut self, bind: &Bind) {
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

fn one_of_two_racing_pods_holds_port() -> Outcome {
    let rounds = times(100_000, own_machine::times(2_000));
    let (mut kinds, mut total) = (0, Tally::default());
    for bind in sharing(PORT) {
        let mut fixture = HolderFixture::new();
        // For one port over and over, and each time for another one, which has no holds in the table yet.
        for ports in [1, RACED_PORTS] {
            let tally = race(&mut fixture.holder, &mut fixture.other, &bind, ports, rounds);
            assert_eq!((tally.one, tally.both, tally.none), (rounds, 0, 0), "{bind:?}, {ports} ports");
            assert_eq!(fixture.kernel.port_hold_count(), 0, "{bind:?}, {ports} ports");
            total.one += tally.one;
            total.both += tally.both;
            total.none += tally.none;
        }
        kinds += 1;
    }
    figures::print(&[
        ("races.kinds", kinds),
        ("races.rounds", (total.one + total.both + total.none).into()),
        ("races.one_holder", total.one.into()),
        ("races.two_holders", total.both.into()),
        ("races.no_holder", total.none.into()),
    ]);
    DONE
}

fn closed_port_is_free() -> Outcome {
    let mut fixture = HolderFixture::new();
    let mut ends = 0;
    for bind in sharing(PORT) {
        for _ in 0..times(1_000, 50) {
            assert_eq!(fixture.holder.bind(&bind.clone().kept()), 0);
            fixture.assert_held(&bind);
            fixture.holder.close();
            fixture.assert_freed(&bind);
            ends += 1;
        }
    }
    assert_eq!(fixture.kernel.port_hold_count(), 0);
    figures::print(&[("ghosts.closed", ends)]);
    DONE
}

fn inherited_socket_holds_port_until_child_exits() -> Outcome {
    let mut fixture = HolderFixture::new();
    let mut ends = 0;
    for bind in [Bind::tcp("0.0.0.0", PORT).reusing_port(), Bind::udp("0.0.0.0", PORT).reusing_addr()] {
        for _ in 0..times(1_000, 50) {
            assert_eq!(fixture.holder.bind(&bind.clone().kept()), 0);
            let Answer::Forked(heir) = fixture.holder.order(&Order::Fork) else { panic!("a child") };
            fixture.holder.close();
            fixture.assert_held(&bind);
            // SAFETY: no memory effects; the process is the worker's own child, which it has not waited for.
            assert_eq!(unsafe { libc::kill(heir, libc::SIGKILL) }, 0);
            fixture.assert_freed(&bind);
            ends += 1;
        }
    }
    assert_eq!(fixture.kernel.port_hold_count(), 0);
    figures::print(&[("ghosts.inherited", ends)]);
    DONE
}

fn passed_socket_holds_port_until_receiver_exits() -> Outcome {
    let mut fixture = HolderFixture::new();
    let mut ends = 0;
    for bind in there([
        Bind::tcp("0.0.0.0", PORT).reusing_port(),
        Bind::tcp("0.0.0.0", PORT).on(Kind::Mptcp).reusing_port(),
        Bind::udp("0.0.0.0", PORT).reusing_addr(),
    ]) {
        for _ in 0..times(1_000, 50) {
            let passed = fixture.holder.open(&bind);
            assert_eq!(fixture.holder.bind_given(&passed, &bind), 0);
            fixture.holder.close();
            fixture.assert_held(&bind);
            drop(passed);
            fixture.assert_freed(&bind);
            ends += 1;
        }
    }
    assert_eq!(fixture.kernel.port_hold_count(), 0);
    figures::print(&[("ghosts.passed", ends)]);
    DONE
}

fn killed_process_holds_no_port() -> Outcome {
    let mut fixture = HolderFixture::new();
    let mut ends = 0;
    for bind in there([
        Bind::tcp("0.0.0.0", PORT).reusing_port(),
        Bind::tcp("0.0.0.0", PORT).on(Kind::Mptcp).reusing_port(),
        Bind::udp("0.0.0.0", PORT).reusing_addr(),
    ]) {
        for _ in 0..times(1_000, 20) {
            let mut holder = fixture.start_container();
            assert_eq!(holder.bind(&bind.clone().kept()), 0);
            fixture.assert_held(&bind);
            // By SIGKILL.
            drop(holder);
            fixture.assert_freed(&bind);
            ends += 1;
        }
    }
    assert_eq!(fixture.kernel.port_hold_count(), 0);
    figures::print(&[("ghosts.killed", ends)]);
    DONE
}

fn restarted_container_keeps_its_port() -> Outcome {
    let mut fixture = HolderFixture::new();
    let bind = Bind::tcp("0.0.0.0", PORT).reusing_port();
    let mut ends = 0;
    for _ in 0..times(1_000, 20) {
        let mut old = fixture.start_container();
        assert_eq!(old.bind(&bind.clone().kept()), 0);
        let mut new = fixture.start_container();
        assert_eq!(new.bind(&bind.clone().kept()), 0, "it is the pod's");
        drop(old);
        fixture.assert_held(&bind);
        drop(new);
        fixture.assert_freed(&bind);
        ends += 1;
    }
    assert_eq!(fixture.kernel.port_hold_count(), 0);
    figures::print(&[("ghosts.restarted_container", ends)]);
    DONE
}

fn held_port_survives_agent_restart() -> Outcome {
    let node = MiniNode::new(&[("first", ""), ("second", "")]);
    let (mut holder, mut other) = (node.worker("first"), node.worker("second"));
    let adopting = || node.start_with(true, |options| options.policy = ADOPT);
    let [plain, multipath] = [Kind::Tcp, Kind::Mptcp].map(|kind| Bind::tcp("0.0.0.0", PORT).on(kind).reusing_port());
    drop(adopting());
    let mut ends = 0;
    for bind in there([plain, multipath]) {
        for (round, port) in (0..times(1_000, 4)).zip((PORT..).cycle()) {
            // A port of each round's own, which has no holds in the table yet.
            let bind = Bind { port, ..bind.clone() };
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
            ends += 1;
        }
    }
    let agent = adopting();
    assert_eq!(agent.kernel.port_holds().expect("the slots"), []);
    figures::print(&[("ghosts.restarted_agent", ends)]);
    DONE
}

/// Whether sockets take sole holds on this kernel.
fn has_sole_holds() -> bool {
    features().post_bind_denies && features().cast.is_some()
}

fn sole_hold(fixture: &HolderFixture, bind: &Bind) -> SoleHold {
    let protocol = if bind.kind == Kind::Udp { Protocol::Udp } else { Protocol::Tcp };
    fixture.kernel.reconciler.kernel().sole_hold(port_index(protocol, bind.port)).expect("the sole hold")
}

fn first_socket_takes_the_sole_hold_and_others_the_table() -> Outcome {
    let mut fixture = HolderFixture::new();
    let mut more = fixture.start_container();
    for bind in [Bind::tcp("0.0.0.0", PORT).reusing_port(), Bind::udp("::", PORT).reusing_addr()] {
        let nobody = SoleHold::default();
        assert_eq!(sole_hold(&fixture, &bind), nobody, "{bind:?}");
        assert_eq!(fixture.holder.bind(&bind.clone().kept()), 0);
        let sole = sole_hold(&fixture, &bind);
        assert_eq!(sole.socket != 0, has_sole_holds(), "{bind:?}: {sole:?}");
        fixture.holder.close();
        assert_eq!(sole_hold(&fixture, &bind), nobody, "{bind:?}: given back");

        // Two at a time, of one pod: from the second one on they are in the table, and whichever goes first, the port is held.
        for first_goes_first in [true, false] {
            assert_eq!(fixture.holder.bind(&bind.clone().kept()), 0);
            assert_eq!(more.bind(&bind.clone().kept()), 0);
            assert_eq!(fixture.kernel.port_hold_count(), if has_sole_holds() && first_goes_first { 2 } else { 1 });
            let (goes, stays) =
                if first_goes_first { (&mut fixture.holder, &mut more) } else { (&mut more, &mut fixture.holder) };
            goes.close();
            assert_eq!(fixture.other.bind(&bind), denied_after(), "{bind:?} is held still");
            stays.close();
            fixture.assert_freed(&bind);
            let there = sole_hold(&fixture, &bind);
            assert_eq!((there.socket, there.extent), (if has_sole_holds() { IN_TABLE } else { 0 }, 0));
        }
        assert_eq!(fixture.kernel.port_hold_count(), 0, "{bind:?}");
    }
    DONE
}

fn socket_that_named_no_port_takes_no_sole_hold() -> Outcome {
    const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
    let mut fixture = HolderFixture::new();
    let before = fs::read_to_string(RANGE).expect("the range of this network namespace");
    for bind in [Bind::tcp("0.0.0.0", PORT).reusing_port(), Bind::udp("0.0.0.0", PORT).reusing_port()] {
        // Somebody named the port, so that a hold is taken of whoever gets it.
        assert_eq!(fixture.holder.bind(&bind), 0);
        fs::write(RANGE, format!("{PORT} {PORT}")).expect("a range of one port");
        let bound = fixture.holder.bind_port(&Bind { port: 0, ..bind.clone() }.kept());
        fs::write(RANGE, &before).expect("the range as it was");
        assert_eq!(bound, (0, PORT), "{bind:?}");
        let sole = sole_hold(&fixture, &bind);
        assert_eq!((sole.socket & !IN_TABLE, sole.extent), (0, 0), "{bind:?}: {sole:?}");
        fixture.holder.close();
        fixture.assert_freed(&bind);
        assert_eq!(fixture.kernel.port_hold_count(), 0, "{bind:?}");
    }
    DONE
}

/// One agent ends and the next one starts.
fn adopting_again<A>(before: Option<A>, start: impl FnOnce() -> A) -> A {
    drop(before);
    start()
}

fn kernel_tunnel_socket_holds_no_port() -> Outcome {
    let mut fixture = HolderFixture::new();
    fixture.kernel.reconciler.set_policy(Policy { report_bound: true, ..ADOPT });
    match fixture.holder.order(&Order::Tunnel(PORT)) {
        Answer::Done => {}
        Answer::Unsupported if own_machine::is_here() => {
            return Ok(Completion::ignored_with("the machine of the matrix loads no module for tunnels"));
        }
        other => panic!("{other:?}"),
    }
    fixture.kernel.reconciler.settle_sockets(now()).expect("the rings");
    assert_eq!(fixture.kernel.outputs().1, []);
    assert_eq!(fixture.kernel.port_hold_count(), 0);
    assert_eq!(fixture.kernel.reconciler.kernel().port_holder(Protocol::Udp, PORT).expect("the holders"), 0);
    fixture.assert_freed(&Bind::udp("0.0.0.0", PORT).reusing_addr());
    DONE
}
