//! Modes and policies, changed under the running programs; and pods that say something in vain.

use std::{
    collections::HashMap,
    io::ErrorKind,
    net::{TcpListener, TcpStream, UdpSocket},
    thread,
};

use enforcer_core::{
    index::Notice,
    pods::{claims::ClaimProblem, pod::PodProblem},
};
use enforcer_ebpf::wire::{Policy, Reason, Undeclared, VerdictKind};

use enforcer_testing::{
    pods::{Pod, static_uid},
    reconciler_fixture::{
        AUDIT, ENFORCE, KernelFixture, denied, denied_with, features, reading_by_helper, taking_before_bind,
    },
    tests,
    worker::{Bind, Worker, bind_socket},
};

use crate::{DONE, Outcome, Test, skip_excuses};

pub(crate) const TESTS: &[Test] = tests![
    mode_switch_under_load_judges_every_bind,
    undeclared_port_is_denied_by_deny_policy,
    ipv4_wildcard_claim_does_not_declare_dual_stack,
    denied_bind_returns_configured_errno,
    denied_socket_neither_listens_nor_receives,
    only_conflicts_are_reported_by_default,
    trace_changes_no_verdict,
    pod_without_uid_denies_nobody,
    annotation_without_host_network_is_rejected,
    claim_of_every_port_is_rejected
];

const UNCLAIMED: (i32, VerdictKind, Reason) = (0, VerdictKind::Allow, Reason::Unclaimed);
const OWNER: (i32, VerdictKind, Reason) = (0, VerdictKind::Allow, Reason::Owner);

fn bind() -> Bind {
    Bind::udp("0.0.0.0", 20080).reusing_port()
}

fn mode_switch_under_load_judges_every_bind() -> Outcome {
    const TIMES: u32 = 20_000;
    let quiet = |policy| Policy { report_attempts: false, ..policy };
    let (audit, enforce) = (quiet(AUDIT), quiet(ENFORCE));
    let mut fixture = KernelFixture::with(|start| start.policy = audit);
    fixture.apply(&Pod::new("owner").ports("20080/udp"));
    let mut strangers: Vec<Worker> = (0..2).map(|n| fixture.start(&Pod::new(&format!("stranger-{n}")))).collect();
    fixture.drain_reports();

    let mut flips = 0u32;
    let counts = thread::scope(|scope| {
        let storms: Vec<_> =
            strangers.iter_mut().map(|worker| scope.spawn(|| worker.storm(&bind(), TIMES, 2))).collect();
        while storms.iter().any(|storm| !storm.is_finished()) {
            fixture.reconciler.set_policy(if flips.is_multiple_of(2) { enforce } else { audit });
            flips += 1;
            thread::yield_now();
        }
        let counts: Vec<_> = storms.into_iter().map(|storm| storm.join().expect("a storm")).collect();
        sum(&counts)
    });
    assert!(flips >= 10, "{flips} switches");
    assert!(counts.keys().all(|errno| [0, denied()].contains(errno)), "{counts:?}");
    assert!(counts.contains_key(&0) && counts.contains_key(&denied()), "both modes were seen: {counts:?}");

    let seen = fixture.reconciler.counters().unwrap();
    let of = |kind| seen.of(kind, Reason::Claimed);
    assert_eq!(of(VerdictKind::Audit), u64::from(counts[&0]));
    assert_eq!(of(VerdictKind::Deny), u64::from(counts[&denied()]));
    for (policy, errno) in [(audit, 0), (enforce, denied()), (audit, 0), (enforce, denied())] {
        fixture.reconciler.set_policy(policy);
        for worker in &mut strangers {
            assert_eq!(worker.storm(&bind(), 200, 2), HashMap::from([(errno, 200)]), "{policy:?}");
        }
    }
    DONE
}

fn sum(counts: &[HashMap<i32, u32>]) -> HashMap<i32, u32> {
    let mut total = HashMap::new();
    for (errno, count) in counts.iter().flatten() {
        *total.entry(*errno).or_insert(0) += count;
    }
    total
}

fn undeclared_port_is_denied_by_deny_policy() -> Outcome {
    let strict = Policy { undeclared: Undeclared::Deny, ..ENFORCE };
    let mut fixture = KernelFixture::with(|start| start.policy = strict);
    let mut tenant = fixture.start(&Pod::new("tenant").ports("20080 192.0.2.1:20081"));
    let mut system = fixture.start(&Pod::new("system").namespace("kube-system"));
    let mut known_static = fixture.start(&Pod::new("static").uid(&static_uid()));
    let undeclared = (denied(), VerdictKind::Deny, Reason::Undeclared);
    for (bind, expected) in [
        (Bind::tcp("0.0.0.0", 20080), OWNER),
        (Bind::tcp("::", 20080), OWNER),
        (Bind::udp("0.0.0.0", 20080), undeclared),
        (Bind::tcp("0.0.0.0", 20082), undeclared),
        (Bind::tcp("192.0.2.1", 20081), OWNER),
        (Bind::tcp("192.0.2.2", 20081), undeclared),
        (Bind::tcp("0.0.0.0", 20081), undeclared),
        (Bind::tcp("::", 20081), undeclared),
        (Bind::tcp("::1", 20081), undeclared),
        (Bind::tcp("0.0.0.0", 0), UNCLAIMED),
    ] {
        assert_eq!(fixture.attempt(&mut tenant, &bind).result(), expected, "{bind:?}");
    }
    let bind = Bind::tcp("0.0.0.0", 20082);
    for software in [&mut system, &mut known_static] {
        assert_eq!(fixture.attempt(software, &bind).result(), (0, VerdictKind::Audit, Reason::Undeclared));
    }
    let socket = tenant.open(&bind);
    let seen = fixture.observe(|| i32::from(bind_socket(&socket, &bind).is_err()));
    assert_eq!(seen.result(), UNCLAIMED, "a host process declares nothing");
    tenant.close();
    drop(socket);

    fixture.reconciler.set_policy(Policy { enforce: false, ..strict });
    assert_eq!(fixture.attempt(&mut tenant, &bind).result(), (0, VerdictKind::Audit, Reason::Undeclared));
    fixture.reconciler.set_policy(ENFORCE);
    assert_eq!(fixture.attempt(&mut tenant, &bind).result(), UNCLAIMED);
    DONE
}

/// A pod that declared `0.0.0.0` did not declare `::`, which takes the IPv6 side as well.
fn ipv4_wildcard_claim_does_not_declare_dual_stack() -> Outcome {
    let mut fixture = KernelFixture::with(|start| start.policy = Policy { undeclared: Undeclared::Deny, ..ENFORCE });
    let mut tenant = fixture.start(&Pod::new("tenant").ports("0.0.0.0:20080"));
    assert_eq!(fixture.attempt(&mut tenant, &Bind::tcp("0.0.0.0", 20080)).result(), OWNER);
    let seen = fixture.attempt(&mut tenant, &Bind { v6only: Some(false), ..Bind::tcp("::", 20080) });
    assert_eq!(seen.result(), (denied(), VerdictKind::Deny, Reason::Undeclared));
    DONE
}

fn denied_bind_returns_configured_errno() -> Outcome {
    let mut fixture = KernelFixture::new();
    fixture.apply(&Pod::new("owner").ports("20080/udp"));
    let mut stranger = fixture.start(&Pod::new("stranger"));
    for errno in [libc::EADDRINUSE, libc::EPERM, libc::EACCES] {
        fixture.reconciler.set_policy(Policy { errno: u16::try_from(errno).expect("small"), ..ENFORCE });
        for bind in [bind(), Bind::udp("::", 20080)] {
            let expected = (denied_with(errno), VerdictKind::Deny, Reason::Claimed);
            assert_eq!(fixture.attempt(&mut stranger, &bind).result(), expected);
        }
    }
    DONE
}

/// A program that ignores the error of its bind gets nothing of what is sent to the port.
fn denied_socket_neither_listens_nor_receives() -> Outcome {
    const PORT: u16 = 20080;
    let mut fixture = KernelFixture::new();
    fixture.apply(&Pod::new("owner").ports("20080/tcp 20080/udp"));
    let mut stranger = fixture.start(&Pod::new("stranger"));
    let denied = (denied(), VerdictKind::Deny, Reason::Claimed);

    let bind = Bind::tcp("127.0.0.1", PORT);
    let socket = stranger.open(&bind);
    assert_eq!(fixture.observe(|| stranger.bind_given(&socket, &bind)).result(), denied);
    let socket = TcpListener::from(socket);
    assert_eq!(socket.local_addr().unwrap().port(), 0, "it has no port");
    rustix::net::listen(&socket, 1).unwrap();
    assert_ne!(socket.local_addr().unwrap().port(), PORT, "it listens on a port that nobody asked for");
    let refused = TcpStream::connect(("127.0.0.1", PORT)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);

    let bind = Bind::udp("127.0.0.1", PORT);
    let socket = stranger.open(&bind);
    assert_eq!(fixture.observe(|| stranger.bind_given(&socket, &bind)).result(), denied);
    let socket = UdpSocket::from(socket);
    assert_eq!(socket.local_addr().unwrap().port(), 0, "it has no port");
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.connect(("127.0.0.1", PORT)).unwrap();
    sender.send(b"to nobody").unwrap();
    // The answer of a port that nobody has; on the loopback device it is there when the send returns.
    assert_eq!(sender.recv(&mut [0; 16]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    socket.set_nonblocking(true).unwrap();
    assert_eq!(socket.recv(&mut [0; 16]).unwrap_err().kind(), ErrorKind::WouldBlock);
    DONE
}

fn only_conflicts_are_reported_by_default() -> Outcome {
    let mut fixture = KernelFixture::with(|start| start.policy = Policy { report_attempts: false, ..ENFORCE });
    let mut owner = fixture.start(&Pod::new("owner").ports("20080/udp"));
    let mut stranger = fixture.start(&Pod::new("stranger"));
    assert_eq!(owner.bind(&bind()), 0);
    assert_eq!(stranger.bind(&Bind::udp("0.0.0.0", 20081)), 0);
    assert_eq!(fixture.drain_reports(), []);
    assert_eq!(fixture.attempt(&mut stranger, &bind()).result(), (denied(), VerdictKind::Deny, Reason::Claimed));
    let counters = fixture.reconciler.counters().unwrap();
    assert_eq!(counters.of(VerdictKind::Allow, Reason::Owner), 1);
    assert_eq!(counters.of(VerdictKind::Allow, Reason::Unclaimed), 1);
    DONE
}

/// The problems that were told of a pod.
fn problems(fixture: &mut KernelFixture, name: &str) -> Vec<ClaimProblem> {
    let notices = fixture.notices().into_iter();
    notices
        .filter_map(|notice| match notice {
            Notice::Problem { pod, problem } if pod.to_string() == name => Some(problem),
            _ => None,
        })
        .collect()
}

/// With it the programs are the largest, in what the verifier counts: steps, and bytes of the stack. Kernels before
/// 6.12 may refuse them, and the programs then run without it.
fn trace_changes_no_verdict() -> Outcome {
    for features in [features(), reading_by_helper(features), taking_before_bind(features)] {
        let mut fixture = KernelFixture::with(|start| {
            start.trace = true;
            start.features = features;
        });
        assert!(fixture.reconciler.kernel().traces() || skip_excuses::here() < (6, 12), "the trace fits");
        let (mut owner, mut stranger) =
            (fixture.start(&Pod::new("owner").ports("20080/tcp 20080/udp")), fixture.start(&Pod::new("stranger")));
        for bind in [Bind::tcp("0.0.0.0", 20080), Bind::udp("::", 20080)] {
            assert_eq!(fixture.attempt(&mut owner, &bind).result(), OWNER, "{bind:?}");
            let conflict = (denied(), VerdictKind::Deny, Reason::Claimed);
            assert_eq!(fixture.attempt(&mut stranger, &bind).result(), conflict, "{bind:?}");
        }
    }
    DONE
}

fn pod_without_uid_denies_nobody() -> Outcome {
    let mut fixture = KernelFixture::new();
    let mut nameless = fixture.start(&Pod::new("nameless").ports("20080/udp").without_uid());
    let told = problems(&mut fixture, "default/nameless");
    assert_eq!(told, [ClaimProblem::Pod(PodProblem::UidMissing)]);
    let mut stranger = fixture.start(&Pod::new("stranger"));
    assert_eq!(fixture.attempt(&mut stranger, &bind()).result(), UNCLAIMED);
    assert_eq!(fixture.attempt(&mut nameless, &bind()).result(), UNCLAIMED);
    DONE
}

fn annotation_without_host_network_is_rejected() -> Outcome {
    let mut fixture = KernelFixture::new();
    fixture.apply(&Pod::new("networked").ports("20080/udp").with_own_network());
    assert_eq!(problems(&mut fixture, "default/networked"), [ClaimProblem::NoHostNetwork]);
    let mut stranger = fixture.start(&Pod::new("stranger"));
    assert_eq!(fixture.attempt(&mut stranger, &bind()).result(), UNCLAIMED);
    DONE
}

fn claim_of_every_port_is_rejected() -> Outcome {
    let mut fixture = KernelFixture::new();
    let greedy = Pod::new("greedy").ports("1-65535/udp 20081/udp");
    fixture.apply(&greedy);
    let told = problems(&mut fixture, "default/greedy");
    assert!(matches!(told.as_slice(), [ClaimProblem::Quota { position: Some(1), limit: 1024, .. }]), "{told:?}");
    fixture.apply(&greedy);
    assert_eq!(problems(&mut fixture, "default/greedy"), [], "it is told once");
    let mut stranger = fixture.start(&Pod::new("stranger"));
    assert_eq!(fixture.attempt(&mut stranger, &bind()).result(), UNCLAIMED);
    let seen = fixture.attempt(&mut stranger, &Bind::udp("0.0.0.0", 20081));
    assert_eq!(seen.result(), (denied(), VerdictKind::Deny, Reason::Claimed), "the good item counts");
    DONE
}
