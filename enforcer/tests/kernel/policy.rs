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
    kernel_fixture::{AUDIT, ENFORCE, Rig, by_helper, denied, denied_with, features, reserving},
    manifest::{Manifest, static_uid},
    worker::{Bind, Worker, bind_socket},
};

use crate::{DONE, Outcome, Test, requirements};

pub(crate) const TESTS: &[Test] = &[
    ("the_mode_is_switched_under_load", the_mode_is_switched_under_load),
    ("undeclared_ports_are_denied_if_told_so", undeclared_ports_are_denied_if_told_so),
    ("a_share_of_a_wildcard_is_no_declaration_of_it", a_share_of_a_wildcard_is_no_declaration_of_it),
    ("the_error_number_is_chosen", the_error_number_is_chosen),
    ("a_denied_socket_neither_listens_nor_receives", a_denied_socket_neither_listens_nor_receives),
    ("only_conflicts_are_told_unless_more_is_asked", only_conflicts_are_told_unless_more_is_asked),
    ("the_trace_changes_no_verdict", the_trace_changes_no_verdict),
    ("a_manifest_without_uid_denies_nobody", a_manifest_without_uid_denies_nobody),
    ("an_annotation_without_host_network_is_refused", an_annotation_without_host_network_is_refused),
    ("a_claim_on_every_port_is_refused", a_claim_on_every_port_is_refused),
];

const UNCLAIMED: (i32, VerdictKind, Reason) = (0, VerdictKind::Allow, Reason::Unclaimed);
const OWNER: (i32, VerdictKind, Reason) = (0, VerdictKind::Allow, Reason::Owner);

fn bind() -> Bind {
    Bind::udp("0.0.0.0", 20080).reusing_port()
}

fn the_mode_is_switched_under_load() -> Outcome {
    const TIMES: u32 = 20_000;
    let quiet = |policy| Policy { report_attempts: false, ..policy };
    let (audit, enforce) = (quiet(AUDIT), quiet(ENFORCE));
    let mut rig = Rig::with(|start| start.policy = audit);
    rig.apply(&Manifest::new("owner").ports("20080/udp"));
    let mut strangers: Vec<Worker> = (0..2).map(|n| rig.start(&Manifest::new(&format!("stranger-{n}")))).collect();
    rig.told();

    let mut flips = 0u32;
    let counts = thread::scope(|scope| {
        let storms: Vec<_> =
            strangers.iter_mut().map(|worker| scope.spawn(|| worker.storm(&bind(), TIMES, 2))).collect();
        while storms.iter().any(|storm| !storm.is_finished()) {
            rig.engine.set_policy(if flips.is_multiple_of(2) { enforce } else { audit });
            flips += 1;
            thread::yield_now();
        }
        let counts: Vec<_> = storms.into_iter().map(|storm| storm.join().expect("a storm")).collect();
        sum(&counts)
    });
    assert!(flips >= 10, "{flips} switches");
    assert!(counts.keys().all(|errno| [0, denied()].contains(errno)), "{counts:?}");
    assert!(counts.contains_key(&0) && counts.contains_key(&denied()), "both modes were seen: {counts:?}");

    let seen = rig.engine.counters().unwrap();
    let of = |kind| seen.of(kind, Reason::Claimed);
    assert_eq!(of(VerdictKind::Audit), u64::from(counts[&0]));
    assert_eq!(of(VerdictKind::Deny), u64::from(counts[&denied()]));
    for (policy, errno) in [(audit, 0), (enforce, denied()), (audit, 0), (enforce, denied())] {
        rig.engine.set_policy(policy);
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

fn undeclared_ports_are_denied_if_told_so() -> Outcome {
    let strict = Policy { undeclared: Undeclared::Deny, ..ENFORCE };
    let mut rig = Rig::with(|start| start.policy = strict);
    let mut tenant = rig.start(&Manifest::new("tenant").ports("20080 192.0.2.1:20081"));
    let mut system = rig.start(&Manifest::new("system").namespace("kube-system"));
    let mut known_static = rig.start(&Manifest::new("static").uid(&static_uid()));
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
        assert_eq!(rig.attempt(&mut tenant, &bind).answer(), expected, "{bind:?}");
    }
    let bind = Bind::tcp("0.0.0.0", 20082);
    for software in [&mut system, &mut known_static] {
        assert_eq!(rig.attempt(software, &bind).answer(), (0, VerdictKind::Audit, Reason::Undeclared));
    }
    let socket = tenant.open(&bind);
    let seen = rig.watch(|| i32::from(bind_socket(&socket, &bind).is_err()));
    assert_eq!(seen.answer(), UNCLAIMED, "a host process declares nothing");
    tenant.close();
    drop(socket);

    rig.engine.set_policy(Policy { enforce: false, ..strict });
    assert_eq!(rig.attempt(&mut tenant, &bind).answer(), (0, VerdictKind::Audit, Reason::Undeclared));
    rig.engine.set_policy(ENFORCE);
    assert_eq!(rig.attempt(&mut tenant, &bind).answer(), UNCLAIMED);
    DONE
}

/// A pod that declared `0.0.0.0` did not declare `::`, which takes the IPv6 side as well.
fn a_share_of_a_wildcard_is_no_declaration_of_it() -> Outcome {
    let mut rig = Rig::with(|start| start.policy = Policy { undeclared: Undeclared::Deny, ..ENFORCE });
    let mut tenant = rig.start(&Manifest::new("tenant").ports("0.0.0.0:20080"));
    assert_eq!(rig.attempt(&mut tenant, &Bind::tcp("0.0.0.0", 20080)).answer(), OWNER);
    let seen = rig.attempt(&mut tenant, &Bind { v6only: Some(false), ..Bind::tcp("::", 20080) });
    assert_eq!(seen.answer(), (denied(), VerdictKind::Deny, Reason::Undeclared));
    DONE
}

fn the_error_number_is_chosen() -> Outcome {
    let mut rig = Rig::new();
    rig.apply(&Manifest::new("owner").ports("20080/udp"));
    let mut stranger = rig.start(&Manifest::new("stranger"));
    for errno in [libc::EADDRINUSE, libc::EPERM, libc::EACCES] {
        rig.engine.set_policy(Policy { errno: u16::try_from(errno).expect("small"), ..ENFORCE });
        for bind in [bind(), Bind::udp("::", 20080)] {
            let expected = (denied_with(errno), VerdictKind::Deny, Reason::Claimed);
            assert_eq!(rig.attempt(&mut stranger, &bind).answer(), expected);
        }
    }
    DONE
}

/// A program that ignores the error of its bind gets nothing of what is sent to the port.
fn a_denied_socket_neither_listens_nor_receives() -> Outcome {
    const PORT: u16 = 20080;
    let mut rig = Rig::new();
    rig.apply(&Manifest::new("owner").ports("20080/tcp 20080/udp"));
    let mut stranger = rig.start(&Manifest::new("stranger"));
    let denied = (denied(), VerdictKind::Deny, Reason::Claimed);

    let bind = Bind::tcp("127.0.0.1", PORT);
    let socket = stranger.open(&bind);
    assert_eq!(rig.watch(|| stranger.bind_given(&socket, &bind)).answer(), denied);
    let socket = TcpListener::from(socket);
    assert_eq!(socket.local_addr().unwrap().port(), 0, "it has no port");
    rustix::net::listen(&socket, 1).unwrap();
    assert_ne!(socket.local_addr().unwrap().port(), PORT, "it listens on a port that nobody asked for");
    let refused = TcpStream::connect(("127.0.0.1", PORT)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);

    let bind = Bind::udp("127.0.0.1", PORT);
    let socket = stranger.open(&bind);
    assert_eq!(rig.watch(|| stranger.bind_given(&socket, &bind)).answer(), denied);
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

fn only_conflicts_are_told_unless_more_is_asked() -> Outcome {
    let mut rig = Rig::with(|start| start.policy = Policy { report_attempts: false, ..ENFORCE });
    let mut owner = rig.start(&Manifest::new("owner").ports("20080/udp"));
    let mut stranger = rig.start(&Manifest::new("stranger"));
    assert_eq!(owner.bind(&bind()), 0);
    assert_eq!(stranger.bind(&Bind::udp("0.0.0.0", 20081)), 0);
    assert_eq!(rig.told(), []);
    assert_eq!(rig.attempt(&mut stranger, &bind()).answer(), (denied(), VerdictKind::Deny, Reason::Claimed));
    let counters = rig.engine.counters().unwrap();
    assert_eq!(counters.of(VerdictKind::Allow, Reason::Owner), 1);
    assert_eq!(counters.of(VerdictKind::Allow, Reason::Unclaimed), 1);
    DONE
}

/// The problems that were told of a pod.
fn problems(rig: &mut Rig, name: &str) -> Vec<ClaimProblem> {
    let notices = rig.notices().into_iter();
    notices
        .filter_map(|notice| match notice {
            Notice::Problem { pod, problem } if pod.to_string() == name => Some(problem),
            _ => None,
        })
        .collect()
}

/// With it the programs are the largest, in what the verifier counts: steps, and bytes of the stack. Kernels before 6.12 may
/// refuse them, and the programs then run without it.
fn the_trace_changes_no_verdict() -> Outcome {
    for features in [features(), by_helper(features), reserving(features)] {
        let mut rig = Rig::with(|start| {
            start.trace = true;
            start.features = features;
        });
        assert!(rig.engine.kernel().traces() || requirements::here() < (6, 12), "the trace fits");
        let (mut owner, mut stranger) =
            (rig.start(&Manifest::new("owner").ports("20080/tcp 20080/udp")), rig.start(&Manifest::new("stranger")));
        for bind in [Bind::tcp("0.0.0.0", 20080), Bind::udp("::", 20080)] {
            assert_eq!(rig.attempt(&mut owner, &bind).answer(), OWNER, "{bind:?}");
            let conflict = (denied(), VerdictKind::Deny, Reason::Claimed);
            assert_eq!(rig.attempt(&mut stranger, &bind).answer(), conflict, "{bind:?}");
        }
    }
    DONE
}

fn a_manifest_without_uid_denies_nobody() -> Outcome {
    let mut rig = Rig::new();
    let mut nameless = rig.start(&Manifest::new("nameless").ports("20080/udp").without_uid());
    let told = problems(&mut rig, "default/nameless");
    assert_eq!(told, [ClaimProblem::Pod(PodProblem::UidMissing)]);
    let mut stranger = rig.start(&Manifest::new("stranger"));
    assert_eq!(rig.attempt(&mut stranger, &bind()).answer(), UNCLAIMED);
    assert_eq!(rig.attempt(&mut nameless, &bind()).answer(), UNCLAIMED);
    DONE
}

fn an_annotation_without_host_network_is_refused() -> Outcome {
    let mut rig = Rig::new();
    rig.apply(&Manifest::new("networked").ports("20080/udp").pod_network());
    assert_eq!(problems(&mut rig, "default/networked"), [ClaimProblem::NoHostNetwork]);
    let mut stranger = rig.start(&Manifest::new("stranger"));
    assert_eq!(rig.attempt(&mut stranger, &bind()).answer(), UNCLAIMED);
    DONE
}

fn a_claim_on_every_port_is_refused() -> Outcome {
    let mut rig = Rig::new();
    let greedy = Manifest::new("greedy").ports("1-65535/udp 20081/udp");
    rig.apply(&greedy);
    let told = problems(&mut rig, "default/greedy");
    assert!(matches!(told.as_slice(), [ClaimProblem::Quota { position: Some(1), limit: 1024, .. }]), "{told:?}");
    rig.apply(&greedy);
    assert_eq!(problems(&mut rig, "default/greedy"), [], "it is told once");
    let mut stranger = rig.start(&Manifest::new("stranger"));
    assert_eq!(rig.attempt(&mut stranger, &bind()).answer(), UNCLAIMED);
    let seen = rig.attempt(&mut stranger, &Bind::udp("0.0.0.0", 20081));
    assert_eq!(seen.answer(), (denied(), VerdictKind::Deny, Reason::Claimed), "the good item counts");
    DONE
}
