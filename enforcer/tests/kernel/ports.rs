//! Which ports: zero, ranges, all of them, and many addresses on one.

use std::net::Ipv4Addr;

use enforcer_core::{index::Notice, pods::claims::ClaimProblem};
use enforcer_ebpf::wire::{MAX_ADDRESS_CLAIMS, Policy, Reason, Undeclared, VerdictKind};

use enforcer_testing::{
    kernel_fixture::{ENFORCE, Rig, denied},
    manifest::Manifest,
    worker::{Bind, Worker},
};

use crate::{DONE, Outcome, Test};

pub(crate) const TESTS: &[Test] = &[
    ("port_0_never_conflicts", port_0_never_conflicts),
    ("ranges_have_ends", ranges_have_ends),
    ("protocols_do_not_mix", protocols_do_not_mix),
    ("every_port_can_be_claimed", every_port_can_be_claimed),
    ("thousands_of_addresses_on_one_port", thousands_of_addresses_on_one_port),
    ("one_namespace_cannot_fill_the_map_of_addresses", one_namespace_cannot_fill_the_map_of_addresses),
];

const OWNER: (i32, VerdictKind, Reason) = (0, VerdictKind::Allow, Reason::Owner);
const UNCLAIMED: (i32, VerdictKind, Reason) = (0, VerdictKind::Allow, Reason::Unclaimed);

fn claimed() -> (i32, VerdictKind, Reason) {
    (denied(), VerdictKind::Deny, Reason::Claimed)
}

fn port_0_never_conflicts() -> Outcome {
    let mut rig = Rig::with(|start| start.settings.limits.max_ports_per_pod = 1 << 18);
    rig.apply(&Manifest::new("owner").ports("1-65535/tcp 1-65535/udp"));
    let mut stranger = rig.start(&Manifest::new("stranger"));
    for undeclared in [Undeclared::Allow, Undeclared::Deny] {
        rig.engine.set_policy(Policy { undeclared, report_bound: true, ..ENFORCE });
        for bind in [Bind::tcp("0.0.0.0", 0), Bind::udp("0.0.0.0", 0), Bind::tcp("::", 0), Bind::udp("::1", 0)] {
            let (errno, port) = stranger.bind_port(&bind);
            assert_eq!(errno, 0, "{bind:?}");
            assert_ne!(port, 0);
            let (reports, bound) = rig.outputs();
            let [report] = reports.as_slice() else { panic!("{reports:?}") };
            assert_eq!((report.attempt.verdict, report.attempt.reason), (VerdictKind::Allow, Reason::Unclaimed));
            let [bound] = bound.as_slice() else { panic!("{bound:?}") };
            assert_eq!((bound.port, bound.address), (port, bind.address), "what was really bound is told");
        }
    }
    DONE
}

fn ranges_have_ends() -> Outcome {
    let mut rig = Rig::new();
    let mut owner = rig.start(&Manifest::new("owner").ports("1-3/tcp, 8000-8010/tcp 65530-65535"));
    let mut stranger = rig.start(&Manifest::new("stranger"));
    for (port, inside) in [
        (1, true),
        (3, true),
        (4, false),
        (7999, false),
        (8000, true),
        (8005, true),
        (8010, true),
        (8011, false),
        (65529, false),
        (65530, true),
        (65535, true),
    ] {
        let bind = Bind::tcp("0.0.0.0", port);
        let (owners, strangers) = if inside { (OWNER, claimed()) } else { (UNCLAIMED, UNCLAIMED) };
        assert_eq!(rig.attempt(&mut owner, &bind).answer(), owners, "{port}");
        assert_eq!(rig.attempt(&mut stranger, &bind).answer(), strangers, "{port}");
    }
    DONE
}

fn protocols_do_not_mix() -> Outcome {
    let mut rig = Rig::new();
    rig.apply(&Manifest::new("owner").ports("20001/tcp 20002/udp 20003/sctp"));
    let mut stranger = rig.start(&Manifest::new("stranger"));
    for (port, tcp, udp) in
        [(20001, claimed(), UNCLAIMED), (20002, UNCLAIMED, claimed()), (20003, UNCLAIMED, UNCLAIMED)]
    {
        assert_eq!(rig.attempt(&mut stranger, &Bind::tcp("0.0.0.0", port)).answer(), tcp, "{port}");
        assert_eq!(rig.attempt(&mut stranger, &Bind::udp("0.0.0.0", port)).answer(), udp, "{port}");
    }
    DONE
}

fn every_port_can_be_claimed() -> Outcome {
    let mut rig = Rig::with(|start| start.settings.limits.max_ports_per_pod = 1 << 18);
    let shares = [("a", 1..=20_000), ("b", 20_001..=20_001), ("c", 20_002..=65_534), ("d", 65_535..=65_535u16)];
    let mut workers: Vec<Worker> = shares
        .iter()
        .map(|(name, ports)| {
            let (first, last) = (ports.start(), ports.end());
            rig.start(&Manifest::new(name).ports(&format!("{first}-{last}/tcp {first}-{last}/udp")))
        })
        .collect();
    assert_eq!(rig.engine.index().claim_counts(), (2 * 65_535, 0));
    let mut ports: Vec<u16> = shares.iter().flat_map(|(_, ports)| [*ports.start(), *ports.end()]).collect();
    // A multiplicative generator: spread over the whole range, and the same every time.
    ports.extend((1..=150u32).map(|n| u16::try_from(n * 48_271 % 65_521 + 1).expect("a port")));
    for port in ports {
        let rightful = shares.iter().position(|(_, ports)| ports.contains(&port)).expect("somebody's");
        for (place, worker) in workers.iter_mut().enumerate() {
            for bind in [Bind::tcp("0.0.0.0", port), Bind::udp("::", port)] {
                let seen = rig.attempt(worker, &bind);
                let expected = if place == rightful { OWNER } else { claimed() };
                assert_eq!(seen.answer(), expected, "{} {bind:?}", shares[place].0);
                assert_eq!(seen.owner(), format!("default/{}", shares[rightful].0));
            }
        }
    }
    DONE
}

fn thousands_of_addresses_on_one_port() -> Outcome {
    const EACH: u16 = 1000;
    let address = |owner: usize, n: u16| {
        let [high, low] = n.to_be_bytes();
        Ipv4Addr::new(10, u8::try_from(owner).expect("a few"), high, low)
    };
    let mut rig = Rig::with(|start| start.settings.limits.max_ports_per_pod = 4096);
    let mut workers: Vec<Worker> = (0..3)
        .map(|owner| {
            let items: Vec<String> = (0..EACH).map(|n| format!("{}:53/udp", address(owner, n))).collect();
            rig.start(&Manifest::new(&format!("owner-{owner}")).ports(&items.join(",")))
        })
        .collect();
    assert_eq!(rig.engine.index().claim_counts(), (3 * usize::from(EACH), 0));
    for n in [0, 1, 255, 256, 617, EACH - 1, EACH] {
        for rightful in 0..3 {
            let bind = Bind::udp(&address(rightful, n).to_string(), 53);
            for (place, worker) in workers.iter_mut().enumerate() {
                let expected = match () {
                    () if n == EACH => UNCLAIMED,
                    () if place == rightful => OWNER,
                    () => claimed(),
                };
                assert_eq!(rig.attempt(worker, &bind).answer(), expected, "owner-{place}: {bind:?}");
            }
        }
    }
    for worker in &mut workers {
        assert_eq!(rig.attempt(worker, &Bind::udp("0.0.0.0", 53)).answer(), claimed());
        assert_eq!(rig.attempt(worker, &Bind::udp("::1", 53)).answer(), UNCLAIMED);
    }
    DONE
}

/// Half of the map is theirs. The other half is there for the others, in the kernel too.
fn one_namespace_cannot_fill_the_map_of_addresses() -> Outcome {
    const HALF: usize = MAX_ADDRESS_CLAIMS as usize / 2;
    let mut rig = Rig::with(|start| start.settings.limits.max_ports_per_pod = 1 << 18);
    let item = |address: &str| format!("{address}:1-16384/tcp");
    let mut hoarders: Vec<Worker> = (1..=3)
        .map(|number| {
            rig.start(
                &Manifest::new(&format!("hoarder-{number}"))
                    .namespace("tenant")
                    .ports(&item(&format!("10.0.0.{number}"))),
            )
        })
        .collect();
    assert_eq!(rig.engine.index().usage().exact, HALF);
    let told = rig.notices();
    let [Notice::Problem { pod, problem: ClaimProblem::QuotaExceeded { limit, .. } }] = told.as_slice() else {
        panic!("{told:?}");
    };
    assert_eq!((pod.name.as_str(), limit.most, limit.of_namespace), ("hoarder-3", HALF, true));

    let victim = Manifest::new("victim").ports("10.0.1.1:53/udp, 10.0.1.1:53/tcp, [fd00::1]:53/tcp");
    let mut victim = rig.start(&victim);
    let ours = ["10.0.1.1", "fd00::1"].map(|address| Bind::tcp(address, 53));
    for bind in ours.iter().chain([&Bind::udp("10.0.1.1", 53)]) {
        assert_eq!(rig.attempt(&mut victim, bind).answer(), OWNER, "{bind:?}");
        assert_eq!(rig.attempt(&mut hoarders[0], bind).answer(), claimed(), "{bind:?}");
    }
    for (number, expected) in [(1, OWNER), (2, OWNER), (3, UNCLAIMED)] {
        let bind = Bind::tcp(&format!("10.0.0.{number}"), 16_384);
        assert_eq!(rig.attempt(&mut hoarders[number - 1], &bind).answer(), expected, "{bind:?}");
    }
    DONE
}
