//! Which ports: zero, ranges, all of them, and many addresses on one.

use std::net::Ipv4Addr;

use enforcer_core::{index::Notice, pods::claims::ClaimProblem};
use enforcer_ebpf::wire::{MAX_ADDRESS_CLAIMS, Policy, Reason, Undeclared, VerdictKind};

use enforcer_testing::{
    pods::Pod,
    reconciler_fixture::{ENFORCE, KernelFixture, denied},
    tests,
    worker::{Bind, Worker},
};

use crate::{DONE, Outcome, Test};

pub(crate) const TESTS: &[Test] = tests![
    port_0_never_conflicts,
    port_range_includes_both_ends_only,
    claim_covers_its_protocol_only,
    every_port_can_be_claimed,
    one_port_holds_thousands_of_addresses,
    namespace_cannot_fill_the_address_map
];

const OWNER: (i32, VerdictKind, Reason) = (0, VerdictKind::Allow, Reason::Owner);
const UNCLAIMED: (i32, VerdictKind, Reason) = (0, VerdictKind::Allow, Reason::Unclaimed);

fn claimed() -> (i32, VerdictKind, Reason) {
    (denied(), VerdictKind::Deny, Reason::Claimed)
}

fn port_0_never_conflicts() -> Outcome {
    let mut fixture = KernelFixture::with(|start| start.settings.limits.max_ports_per_pod = 1 << 18);
    fixture.apply(&Pod::new("owner").ports("1-65535/tcp 1-65535/udp"));
    let mut stranger = fixture.start(&Pod::new("stranger"));
    for undeclared in [Undeclared::Allow, Undeclared::Deny] {
        fixture.reconciler.set_policy(Policy { undeclared, report_bound: true, ..ENFORCE });
        for bind in [Bind::tcp("0.0.0.0", 0), Bind::udp("0.0.0.0", 0), Bind::tcp("::", 0), Bind::udp("::1", 0)] {
            let (errno, port) = stranger.bind_port(&bind);
            assert_eq!(errno, 0, "{bind:?}");
            assert_ne!(port, 0);
            let (reports, bound) = fixture.outputs();
            let [report] = reports.as_slice() else { panic!("{reports:?}") };
            assert_eq!((report.attempt.verdict, report.attempt.reason), (VerdictKind::Allow, Reason::Unclaimed));
            let [bound] = bound.as_slice() else { panic!("{bound:?}") };
            assert_eq!((bound.port, bound.address), (port, bind.address), "what was really bound is told");
        }
    }
    DONE
}

fn port_range_includes_both_ends_only() -> Outcome {
    let mut fixture = KernelFixture::new();
    let mut owner = fixture.start(&Pod::new("owner").ports("1-3/tcp, 8000-8010/tcp 65530-65535"));
    let mut stranger = fixture.start(&Pod::new("stranger"));
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
        assert_eq!(fixture.attempt(&mut owner, &bind).result(), owners, "{port}");
        assert_eq!(fixture.attempt(&mut stranger, &bind).result(), strangers, "{port}");
    }
    DONE
}

fn claim_covers_its_protocol_only() -> Outcome {
    let mut fixture = KernelFixture::new();
    fixture.apply(&Pod::new("owner").ports("20001/tcp 20002/udp 20003/sctp"));
    let mut stranger = fixture.start(&Pod::new("stranger"));
    for (port, tcp, udp) in
        [(20001, claimed(), UNCLAIMED), (20002, UNCLAIMED, claimed()), (20003, UNCLAIMED, UNCLAIMED)]
    {
        assert_eq!(fixture.attempt(&mut stranger, &Bind::tcp("0.0.0.0", port)).result(), tcp, "{port}");
        assert_eq!(fixture.attempt(&mut stranger, &Bind::udp("0.0.0.0", port)).result(), udp, "{port}");
    }
    DONE
}

fn every_port_can_be_claimed() -> Outcome {
    let mut fixture = KernelFixture::with(|start| start.settings.limits.max_ports_per_pod = 1 << 18);
    let shares = [("a", 1..=20_000), ("b", 20_001..=20_001), ("c", 20_002..=65_534), ("d", 65_535..=65_535u16)];
    let mut workers: Vec<Worker> = shares
        .iter()
        .map(|(name, ports)| {
            let (first, last) = (ports.start(), ports.end());
            fixture.start(&Pod::new(name).ports(&format!("{first}-{last}/tcp {first}-{last}/udp")))
        })
        .collect();
    assert_eq!(fixture.reconciler.index().claim_counts(), (2 * 65_535, 0));
    let mut ports: Vec<u16> = shares.iter().flat_map(|(_, ports)| [*ports.start(), *ports.end()]).collect();
    // A multiplicative generator: spread over the whole range, and the same every time.
    ports.extend((1..=150u32).map(|n| u16::try_from(n * 48_271 % 65_521 + 1).expect("a port")));
    for port in ports {
        let rightful = shares.iter().position(|(_, ports)| ports.contains(&port)).expect("somebody's");
        for (place, worker) in workers.iter_mut().enumerate() {
            for bind in [Bind::tcp("0.0.0.0", port), Bind::udp("::", port)] {
                let seen = fixture.attempt(worker, &bind);
                let expected = if place == rightful { OWNER } else { claimed() };
                assert_eq!(seen.result(), expected, "{} {bind:?}", shares[place].0);
                assert_eq!(seen.owner(), format!("default/{}", shares[rightful].0));
            }
        }
    }
    DONE
}

fn one_port_holds_thousands_of_addresses() -> Outcome {
    const EACH: u16 = 1000;
    let address = |owner: usize, n: u16| {
        let [high, low] = n.to_be_bytes();
        Ipv4Addr::new(10, u8::try_from(owner).expect("a few"), high, low)
    };
    let mut fixture = KernelFixture::with(|start| start.settings.limits.max_ports_per_pod = 4096);
    let mut workers: Vec<Worker> = (0..3)
        .map(|owner| {
            let items: Vec<String> = (0..EACH).map(|n| format!("{}:53/udp", address(owner, n))).collect();
            fixture.start(&Pod::new(&format!("owner-{owner}")).ports(&items.join(",")))
        })
        .collect();
    assert_eq!(fixture.reconciler.index().claim_counts(), (3 * usize::from(EACH), 0));
    for n in [0, 1, 255, 256, 617, EACH - 1, EACH] {
        for rightful in 0..3 {
            let bind = Bind::udp(&address(rightful, n).to_string(), 53);
            for (place, worker) in workers.iter_mut().enumerate() {
                let expected = match () {
                    () if n == EACH => UNCLAIMED,
                    () if place == rightful => OWNER,
                    () => claimed(),
                };
                assert_eq!(fixture.attempt(worker, &bind).result(), expected, "owner-{place}: {bind:?}");
            }
        }
    }
    for worker in &mut workers {
        assert_eq!(fixture.attempt(worker, &Bind::udp("0.0.0.0", 53)).result(), claimed());
        assert_eq!(fixture.attempt(worker, &Bind::udp("::1", 53)).result(), UNCLAIMED);
    }
    DONE
}

/// Half of the map is theirs. The other half is there for the others, in the kernel too.
fn namespace_cannot_fill_the_address_map() -> Outcome {
    const HALF: usize = MAX_ADDRESS_CLAIMS as usize / 2;
    let mut fixture = KernelFixture::with(|start| start.settings.limits.max_ports_per_pod = 1 << 18);
    let item = |address: &str| format!("{address}:1-16384/tcp");
    let mut hoarders: Vec<Worker> = (1..=3)
        .map(|number| {
            fixture.start(
                &Pod::new(&format!("hoarder-{number}")).namespace("tenant").ports(&item(&format!("10.0.0.{number}"))),
            )
        })
        .collect();
    assert_eq!(fixture.reconciler.index().usage().exact, HALF);
    let told = fixture.notices();
    let [Notice::Problem { pod, problem: ClaimProblem::QuotaExceeded { limit, .. } }] = told.as_slice() else {
        panic!("{told:?}");
    };
    assert_eq!((pod.name.as_str(), limit.most, limit.of_namespace), ("hoarder-3", HALF, true));

    let victim = Pod::new("victim").ports("10.0.1.1:53/udp, 10.0.1.1:53/tcp, [fd00::1]:53/tcp");
    let mut victim = fixture.start(&victim);
    let ours = ["10.0.1.1", "fd00::1"].map(|address| Bind::tcp(address, 53));
    for bind in ours.iter().chain([&Bind::udp("10.0.1.1", 53)]) {
        assert_eq!(fixture.attempt(&mut victim, bind).result(), OWNER, "{bind:?}");
        assert_eq!(fixture.attempt(&mut hoarders[0], bind).result(), claimed(), "{bind:?}");
    }
    for (number, expected) in [(1, OWNER), (2, OWNER), (3, UNCLAIMED)] {
        let bind = Bind::tcp(&format!("10.0.0.{number}"), 16_384);
        assert_eq!(fixture.attempt(&mut hoarders[number - 1], &bind).result(), expected, "{bind:?}");
    }
    DONE
}
