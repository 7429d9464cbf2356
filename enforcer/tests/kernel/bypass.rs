//! Ways round the enforcer that a pod may try, one test for each row of the table in `docs/threat-model.md`: closed, or
//! seen to be open as the table says.
//!
//! `owner` claims a port, and `stranger` wants it.

use std::{
    fs, io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use enforcer_core::model::actor::Actor;
use enforcer_ebpf::wire::{Policy, Reason, Undeclared, VerdictKind};
use libtest_mimic::Completion;

use enforcer_testing::{
    cgroup_sandbox::{Sandbox, cgroup_id},
    own_machine,
    pods::{Pod, SYSTEMD_BESTEFFORT},
    reconciler_fixture::{ENFORCE, KernelFixture, Observed, denied, denied_after},
    tests,
    worker::{Answer, Bind, Kind, Order, Ring, Worker},
};

use crate::{DONE, Outcome, Test, skip_excuses};

pub(crate) const TESTS: &[Test] = tests![
    unspec_address_family_is_denied,
    ipv4_mapped_address_is_denied,
    dual_stack_wildcard_is_denied,
    v6only_cannot_be_cleared_after_bind,
    mptcp_socket_is_denied,
    reuse_options_are_denied,
    overlapping_address_is_denied,
    foreign_address_is_denied,
    device_bound_socket_is_denied,
    io_uring_bind_is_denied,
    socket_from_other_pod_is_denied,
    host_socket_is_judged_with_scope_node_only,
    bound_socket_from_owner_is_not_judged,
    network_namespace_change_is_denied,
    own_child_cgroup_is_denied,
    process_moved_to_other_cgroup_is_judged_there,
    binds_by_forks_and_threads_are_denied,
    process_of_deleted_pod_is_denied,
    port_of_deleted_owner_stays_held,
    reuseport_after_bind_is_not_seen,
    tcp_repair_is_denied
];

const PORT: u16 = 20080;

/// Ports that nobody claims are their first holder's.
const ADOPT: Policy = Policy { undeclared: Undeclared::Adopt, ..ENFORCE };

type Verdict = (i32, VerdictKind, Reason);

const FREE: Verdict = (0, VerdictKind::Allow, Reason::Unclaimed);

fn claimed() -> Verdict {
    (denied(), VerdictKind::Deny, Reason::Claimed)
}

/// A pod with these claims, and one without.
fn fixture(ports: &str) -> (KernelFixture, Worker, Worker) {
    let mut fixture = KernelFixture::new();
    let owner = fixture.start(&Pod::new("owner").ports(ports));
    let stranger = fixture.start(&Pod::new("stranger"));
    (fixture, owner, stranger)
}

/// Whatever is bound here is the owner's.
fn all_are_denied(fixture: &mut KernelFixture, stranger: &mut Worker, binds: impl IntoIterator<Item = Bind>) {
    for bind in binds {
        assert_eq!(fixture.attempt(stranger, &bind).result(), claimed(), "{bind:?}");
    }
}

/// The same on the sockets of both protocols that the hooks see.
fn both(bind: Bind) -> [Bind; 2] {
    [bind.clone().on(Kind::Udp), bind]
}

fn set(socket: &OwnedFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: the option reads one int, which lives across the call.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), 4) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn unspec_address_family_is_denied() -> Outcome {
    let (mut fixture, mut owner, mut stranger) = fixture("20080/tcp 20080/udp");
    let binds = both(Bind { unspec: true, ..Bind::tcp("0.0.0.0", PORT) });
    all_are_denied(&mut fixture, &mut stranger, binds.clone());
    for bind in binds {
        assert_eq!(fixture.attempt(&mut owner, &bind).result(), (0, VerdictKind::Allow, Reason::Owner), "{bind:?}");
    }
    DONE
}

fn ipv4_mapped_address_is_denied() -> Outcome {
    for claims in ["127.0.0.1:20080/tcp 127.0.0.1:20080/udp", "0.0.0.0:20080/tcp 0.0.0.0:20080/udp"] {
        let (mut fixture, _owner, mut stranger) = fixture(claims);
        all_are_denied(&mut fixture, &mut stranger, both(Bind::tcp("::ffff:127.0.0.1", PORT)));
        let other = fixture.attempt(&mut stranger, &Bind::tcp("::1", PORT));
        assert_eq!(other.result(), FREE, "{claims}: and no more than that");
    }
    DONE
}

fn dual_stack_wildcard_is_denied() -> Outcome {
    let (mut fixture, mut owner, mut stranger) = fixture("0.0.0.0:20080/tcp 0.0.0.0:20080/udp");
    let any = Bind::tcp("::", PORT);
    all_are_denied(&mut fixture, &mut stranger, both(any.clone()));
    all_are_denied(&mut fixture, &mut stranger, both(Bind { v6only: Some(false), ..any.clone() }));
    for only in both(Bind { v6only: Some(true), ..any }.kept()) {
        assert_eq!(fixture.attempt(&mut stranger, &only).result(), FREE, "{only:?}: it takes nothing of the owner's");
    }
    for own in both(Bind::tcp("0.0.0.0", PORT)) {
        assert_eq!(fixture.attempt(&mut owner, &own).result(), (0, VerdictKind::Allow, Reason::Owner), "{own:?}");
    }
    DONE
}

/// `do_ipv6_setsockopt` in `net/ipv6/ipv6_sockglue.c` refuses it once the socket has a port.
fn v6only_cannot_be_cleared_after_bind() -> Outcome {
    let (mut fixture, _owner, mut stranger) = fixture("0.0.0.0:20080/tcp 0.0.0.0:20080/udp");
    for only in both(Bind { v6only: Some(true), ..Bind::tcp("::", PORT) }) {
        let socket = stranger.open(&only);
        assert_eq!(fixture.observe(|| stranger.bind_given(&socket, &only)).result(), FREE, "{only:?}");
        let error = set(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 0).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{only:?}");
    }
    DONE
}

fn mptcp_socket_is_denied() -> Outcome {
    if let Some(why) = skip_excuses::MPTCP.missing() {
        return Ok(Completion::ignored_with(why));
    }
    let (mut fixture, _owner, mut stranger) = fixture("20080/tcp");
    let addresses = ["0.0.0.0", "127.0.0.1", "::", "::1", "::ffff:127.0.0.1"];
    all_are_denied(&mut fixture, &mut stranger, addresses.map(|address| Bind::tcp(address, PORT).on(Kind::Mptcp)));
    DONE
}

fn reuse_options_are_denied() -> Outcome {
    let (mut fixture, mut owner, mut stranger) = fixture("20080/tcp 20080/udp");
    let shared = both(Bind::tcp("0.0.0.0", PORT).reusing_port().reusing_addr());
    for own in shared.clone() {
        assert_eq!(fixture.attempt(&mut owner, &own.clone().kept()).result(), (0, VerdictKind::Allow, Reason::Owner));
    }
    all_are_denied(&mut fixture, &mut stranger, shared);
    DONE
}

fn overlapping_address_is_denied() -> Outcome {
    let (mut fixture, _owner, mut stranger) = fixture("20080/tcp 20080/udp 127.0.0.1:20081/tcp 127.0.0.1:20081/udp");
    for address in ["127.0.0.1", "127.0.0.2", "203.0.113.7", "::1", "2001:db8::7"] {
        all_are_denied(&mut fixture, &mut stranger, both(Bind::tcp(address, PORT)));
    }
    // And a wildcard over a claim on one address.
    for address in ["0.0.0.0", "::", "127.0.0.1"] {
        all_are_denied(&mut fixture, &mut stranger, both(Bind::tcp(address, PORT + 1)));
    }
    assert_eq!(fixture.attempt(&mut stranger, &Bind::tcp("127.0.0.2", PORT + 1)).result(), FREE);
    DONE
}

/// `IP_FREEBIND` (which every worker's socket has) and `IP_TRANSPARENT` let a socket have an address of nobody's.
fn foreign_address_is_denied() -> Outcome {
    let (mut fixture, _owner, mut stranger) =
        fixture("20080/tcp 20080/udp 203.0.113.7:20081/tcp 203.0.113.7:20081/udp");
    for (address, port) in [("203.0.113.7", PORT), ("203.0.113.7", PORT + 1), ("198.51.100.1", PORT)] {
        for bind in both(Bind::tcp(address, port)) {
            assert_eq!(fixture.attempt(&mut stranger, &bind).result(), claimed(), "{bind:?}");
            let socket = stranger.open(&bind);
            set(&socket, libc::IPPROTO_IP, libc::IP_TRANSPARENT, 1).expect("root may");
            assert_eq!(fixture.observe(|| stranger.bind_given(&socket, &bind)).result(), claimed(), "{bind:?}");
        }
    }
    DONE
}

fn device_bound_socket_is_denied() -> Outcome {
    let (mut fixture, _owner, mut stranger) = fixture("20080/tcp 20080/udp");
    for address in ["0.0.0.0", "127.0.0.1", "::"] {
        let bind = Bind { device: Some("lo".to_owned()), ..Bind::tcp(address, PORT) };
        all_are_denied(&mut fixture, &mut stranger, both(bind));
    }
    DONE
}

fn io_uring_bind_is_denied() -> Outcome {
    if let Some(why) = skip_excuses::RING_BIND.missing() {
        return Ok(Completion::ignored_with(why));
    }
    let (mut fixture, mut owner, mut stranger) = fixture("20080/tcp 20080/udp");
    for ring in [Ring::Inline, Ring::Worker, Ring::Poller] {
        for bind in both(Bind::tcp("0.0.0.0", PORT)).into_iter().chain(both(Bind::tcp("::", PORT))) {
            let by = |worker: &mut Worker| match worker.order(&Order::RingBind(bind.clone(), ring)) {
                Answer::Bound { errno, port: _ } => errno,
                other => panic!("{other:?}"),
            };
            let seen = fixture.observe(|| by(&mut stranger));
            assert_eq!(seen.result(), claimed(), "{ring:?} {bind:?}");
            assert_eq!(name(&seen), "default/stranger", "{ring:?} {bind:?}");
            let owners = (0, VerdictKind::Allow, Reason::Owner);
            assert_eq!(fixture.observe(|| by(&mut owner)).result(), owners, "{ring:?} {bind:?}");
        }
    }
    DONE
}

fn name(seen: &Observed) -> String {
    seen.report().caller.to_string()
}

/// Who binds is judged, not whose socket it was.
fn socket_from_other_pod_is_denied() -> Outcome {
    let (mut fixture, mut owner, mut stranger) = fixture("20080/tcp 20080/udp");
    for bind in both(Bind::tcp("0.0.0.0", PORT)) {
        let socket = owner.open(&bind);
        assert_eq!(fixture.observe(|| stranger.bind_given(&socket, &bind)).result(), claimed(), "{bind:?}");
    }
    DONE
}

/// Open: the hooks are those of the cgroup that the socket was made in, and of a socket that was made outside they do
/// not run. With `--scope node` no cgroup is outside, and the pod is judged.
fn host_socket_is_judged_with_scope_node_only() -> Outcome {
    let bind = Bind::tcp("0.0.0.0", PORT);
    let (mut fixture, _owner, mut stranger) = fixture("20080/tcp");
    let mut host = Worker::start(&fixture.sandbox().make("system.slice/helper.service"));
    let socket = host.open(&bind);
    let before = fixture.reconciler.counters().expect("counters");
    let seen = fixture.observe(|| stranger.bind_given(&socket, &bind));
    assert_eq!((seen.errno, seen.reports.len()), (0, 0));
    assert_eq!(fixture.reconciler.counters().expect("counters"), before, "no hook ran");
    drop((fixture, socket, host, stranger));

    // As with `--scope node`: attached above both.
    let sandbox = Sandbox::new();
    sandbox.make("kubepods.slice");
    let mut fixture = KernelFixture::on(sandbox, ".", |_| ());
    let layout = format!("kubepods.slice/{SYSTEMD_BESTEFFORT}");
    let (owner, stranger) = (Pod::new("owner").ports("20080/tcp"), Pod::new("stranger"));
    fixture.apply(&owner);
    fixture.apply(&stranger);
    let mut stranger = Worker::start(&fixture.make_cgroup(&stranger.cgroup(&layout)));
    let mut host = Worker::start(&fixture.make_cgroup("system.slice/helper.service"));
    let socket = host.open(&bind);
    assert_eq!(fixture.observe(|| stranger.bind_given(&socket, &bind)).result(), claimed());
    DONE
}

/// Open, as it must be: who bound the socket had a right to, and what it does with it is its own business.
fn bound_socket_from_owner_is_not_judged() -> Outcome {
    let (mut fixture, mut owner, _stranger) = fixture("20080/tcp");
    let bind = Bind::tcp("0.0.0.0", PORT);
    let socket = owner.open(&bind);
    assert_eq!(fixture.observe(|| owner.bind_given(&socket, &bind)).result(), (0, VerdictKind::Allow, Reason::Owner));
    let told = fixture.observe(|| {
        // As a process does that was handed the socket.
        // SAFETY: no memory effects.
        unsafe { libc::listen(socket.as_raw_fd(), 1) }
    });
    assert_eq!((told.errno, told.reports.len()), (0, 0));
    DONE
}

/// The socket's network namespace counts, which is the one it was made in, wherever its process is.
fn network_namespace_change_is_denied() -> Outcome {
    let (mut fixture, _owner, mut stranger) = fixture("20080/tcp 20080/udp");
    let binds = both(Bind::tcp("0.0.0.0", PORT));
    let sockets = binds.each_ref().map(|bind| stranger.open(bind));
    stranger.unshare();
    for (bind, socket) in binds.iter().zip(&sockets) {
        assert_eq!(fixture.observe(|| stranger.bind_given(socket, bind)).result(), claimed(), "made before: {bind:?}");
    }
    let inner = binds.each_ref().map(|bind| stranger.open(bind));
    assert!(matches!(stranger.order(&Order::Return), Answer::Done));
    all_are_denied(&mut fixture, &mut stranger, binds.clone());
    for (bind, socket) in binds.iter().zip(&inner) {
        let seen = fixture.observe(|| stranger.bind_given(socket, bind));
        assert_eq!((seen.errno, seen.reports.len()), (0, 0), "a port of another network: {bind:?}");
    }
    DONE
}

/// A pod can make cgroups below its own where its runtime lets it, and name them as it likes.
fn own_child_cgroup_is_denied() -> Outcome {
    let mut fixture = KernelFixture::new();
    let (owner, stranger) = (Pod::new("owner").ports("20080/tcp"), Pod::new("stranger"));
    fixture.apply(&owner);
    let mut worker = fixture.start(&stranger);
    let own = stranger.cgroup(SYSTEMD_BESTEFFORT);
    let hash = "0123456789abcdef0123456789abcdef";
    for child in [
        "child",
        &owner.cgroup("kubepods-pod{uid_}.slice"),
        &format!("kubepods-pod{hash}.slice"),
        &format!("pod{hash}"),
    ] {
        let child = fixture.make_cgroup(&format!("{own}/{child}"));
        assert!(matches!(worker.order(&Order::Enter(child.clone())), Answer::Done));
        let seen = fixture.attempt(&mut worker, &Bind::tcp("0.0.0.0", PORT));
        assert_eq!(seen.result(), claimed(), "{}", child.display());
        assert_eq!(name(&seen), "default/stranger", "{}", child.display());
    }
    DONE
}

/// Open: who may write to the `cgroup.procs` of another pod, or of a cgroup outside, is who he says. That takes root on
/// the node and its cgroup tree. What he left behind as a socket is still seen.
fn process_moved_to_other_cgroup_is_judged_there() -> Outcome {
    let (mut fixture, _owner, mut stranger) = fixture("20080/tcp 20081/tcp");
    let bind = Bind::tcp("0.0.0.0", PORT);
    let before = stranger.open(&bind);
    let owners = fixture.sandbox().path().join("kubepods.slice");
    let outside = fixture.sandbox().make("system.slice");
    assert!(matches!(stranger.order(&Order::Enter(outside)), Answer::Done));
    let seen = fixture.observe(|| stranger.bind_given(&before, &bind));
    assert_eq!(seen.result(), (0, VerdictKind::Audit, Reason::Claimed), "a socket from before is told");
    assert_eq!(seen.report().caller, Actor::Host);
    drop(before);
    stranger.close();
    let seen = fixture.attempt(&mut stranger, &bind);
    assert_eq!((seen.errno, seen.reports.len()), (0, 0), "a new one is not");

    let of_owner = cgroup_of("owner", &owners, &fixture);
    assert!(matches!(stranger.order(&Order::Enter(of_owner)), Answer::Done));
    let seen = fixture.attempt(&mut stranger, &bind);
    assert_eq!(seen.result(), (0, VerdictKind::Allow, Reason::Owner));
    DONE
}

/// The cgroup of the pod.
fn cgroup_of(pod: &str, root: &Path, fixture: &KernelFixture) -> PathBuf {
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        if fixture.reconciler.index().name_by_cgroup(cgroup_id(&folder)).is_some_and(|name| name.name == pod) {
            return folder;
        }
        let entries = fs::read_dir(&folder).expect("a cgroup");
        folders.extend(entries.filter_map(|entry| Some(entry.ok()?.path()).filter(|path| path.is_dir())));
    }
    panic!("{pod} has a cgroup");
}

fn binds_by_forks_and_threads_are_denied() -> Outcome {
    let times = own_machine::times(200);
    let (mut fixture, mut owner, mut stranger) = fixture("20080/tcp 20080/udp");
    for bind in both(Bind::tcp("0.0.0.0", PORT)) {
        let before = fixture.reconciler.counters().expect("counters").of(VerdictKind::Deny, Reason::Claimed);
        let Answer::Storm(counts) = stranger.order(&Order::Forks { bind: bind.clone(), times }) else {
            panic!("an answer to forks");
        };
        assert_eq!(counts, [(denied(), 2 * times)].into(), "{bind:?}");
        let after = fixture.reconciler.counters().expect("counters").of(VerdictKind::Deny, Reason::Claimed);
        assert_eq!(after - before, u64::from(2 * times), "{bind:?}");
        // Both of one process bind at once, so that one may find the other there; nobody else is in the way.
        let sharing = bind.clone().reusing_port();
        let Answer::Storm(counts) = owner.order(&Order::Forks { bind: sharing, times }) else {
            panic!("an answer to forks");
        };
        assert_eq!(counts, [(0, 2 * times)].into(), "{bind:?}");
        fixture.drain_reports();
    }
    DONE
}

/// Its processes live on, as they do for the grace period or on a node that cannot be reached.
fn process_of_deleted_pod_is_denied() -> Outcome {
    let mut fixture = KernelFixture::new();
    let stranger = Pod::new("stranger");
    fixture.apply(&Pod::new("owner").ports("20080/tcp"));
    let mut worker = fixture.start(&stranger);
    fixture.delete(&stranger);
    let seen = fixture.attempt(&mut worker, &Bind::tcp("0.0.0.0", PORT));
    assert_eq!(seen.result(), claimed());
    assert!(matches!(seen.report().caller, Actor::UnknownPod { .. }), "{:?}", seen.report().caller);
    DONE
}

/// The claim ends with the pod; what its processes hold they hold on to, and nobody shares it.
fn port_of_deleted_owner_stays_held() -> Outcome {
    let mut fixture = KernelFixture::with(|start| start.policy = ADOPT);
    let owner = Pod::new("owner").ports("20080/tcp 20080/udp");
    let mut holder = fixture.start(&owner);
    let mut stranger = fixture.start(&Pod::new("stranger"));
    for bind in both(Bind::tcp("0.0.0.0", PORT).reusing_port()) {
        assert_eq!(holder.bind(&bind.kept()), 0);
    }
    fixture.delete(&owner);
    for bind in both(Bind::tcp("0.0.0.0", PORT).reusing_port()) {
        let seen = fixture.attempt(&mut stranger, &bind);
        let report = seen.reports.last().expect("a report");
        let answer = (seen.errno, report.attempt.verdict, report.attempt.reason);
        assert_eq!(answer, (denied_after(), VerdictKind::Deny, Reason::Held), "{bind:?}");
    }
    DONE
}

/// Open on ports that nobody claims: a socket that could not share when it was bound is nobody's holder, and the kernel
/// heeds what it says later (`inet_csk_bind_conflict` in `net/ipv4/inet_connection_sock.c`). The agent tells of it
/// (`in_use::who_shares_later_is_told`).
fn reuseport_after_bind_is_not_seen() -> Outcome {
    let (mut fixture, _owner, mut stranger) = fixture("20080/tcp 20080/udp");
    for bind in both(Bind::tcp("0.0.0.0", PORT)) {
        let socket = stranger.open(&bind);
        assert_eq!(
            fixture.observe(|| stranger.bind_given(&socket, &bind)).result(),
            claimed(),
            "a claimed one is closed"
        );
        set(&socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1).expect("an option");
        assert_eq!(fixture.observe(|| stranger.bind_given(&socket, &bind)).result(), claimed());
    }
    fixture.reconciler.set_policy(ADOPT);
    let mut third = fixture.start(&Pod::new("third"));
    for bind in both(Bind::tcp("0.0.0.0", PORT + 1)) {
        let socket = stranger.open(&bind);
        assert_eq!(fixture.observe(|| stranger.bind_given(&socket, &bind)).result(), FREE);
        set(&socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1).expect("an option");
        let shares = fixture.attempt(&mut third, &bind.clone().reusing_port());
        assert_eq!(shares.result(), FREE, "{bind:?}: as the table says");
    }
    DONE
}

/// `TCP_REPAIR` (`CAP_NET_ADMIN`) lets a socket pass the kernel's own check (`SK_FORCE_REUSE`), not ours.
fn tcp_repair_is_denied() -> Outcome {
    const TCP_REPAIR: i32 = 19;
    let (mut fixture, mut owner, mut stranger) = fixture("20080/tcp");
    let bind = Bind::tcp("0.0.0.0", PORT);
    assert_eq!(fixture.attempt(&mut owner, &bind.clone().kept()).result(), (0, VerdictKind::Allow, Reason::Owner));
    let socket = stranger.open(&bind);
    set(&socket, libc::IPPROTO_TCP, TCP_REPAIR, 1).expect("root may");
    assert_eq!(fixture.observe(|| stranger.bind_given(&socket, &bind)).result(), claimed());
    // On the owner's part it goes through, which shows that it does pass the kernel's own check.
    let other = owner.open(&bind);
    set(&other, libc::IPPROTO_TCP, TCP_REPAIR, 1).expect("root may");
    assert_eq!(fixture.observe(|| owner.bind_given(&other, &bind)).result(), (0, VerdictKind::Allow, Reason::Owner));
    DONE
}
