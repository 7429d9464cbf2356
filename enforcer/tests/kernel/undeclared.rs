//! Ports that nobody declared, under `--undeclared adopt`: the first pod to bind one owns it until it lets go.

use std::time::Duration;

use enforcer_ebpf::wire::{KernelError, Policy, Protocol, Reason, Undeclared, VerdictKind};

use enforcer_testing::{
    device::Device,
    own_machine,
    pods::Pod,
    reconciler_fixture::{
        AUDIT, ENFORCE, KernelFixture, Observed, denied_after, features, reading_by_helper, taking_before_bind,
        taking_nothing,
    },
    tests,
    worker::{Bind, Kind, Worker},
};

use crate::{DONE, Outcome, Test, skip_excuses::MPTCP};

pub(crate) const TESTS: &[Test] = tests![
    first_binder_owns_port_until_it_closes,
    only_shareable_bind_makes_an_owner,
    first_binder_owns_one_address_and_device,
    pod_and_its_workload_share_port,
    rollout_shares_port_and_replicas_and_strangers_do_not,
    audit_mode_reports_and_allows_both_pods,
    intended_sharing_makes_no_owner,
    bind_to_port_0_makes_no_owner,
    new_claim_does_not_displace_holder,
    full_hold_table_is_counted_and_denies_nobody
];

/// The same where a port is taken before it is bound, as on kernels before 5.17.
pub(crate) const RESERVING: &[Test] = tests![taking_before_bind =>
    first_binder_owns_port_until_it_closes,
    only_shareable_bind_makes_an_owner,
    first_binder_owns_one_address_and_device,
    pod_and_its_workload_share_port,
    rollout_shares_port_and_replicas_and_strangers_do_not,
    audit_mode_reports_and_allows_both_pods,
    bind_to_port_0_makes_no_owner,
    new_claim_does_not_displace_holder,
    bind_refused_by_kernel_holds_until_socket_closes,
];

/// The same where sockets are read by a helper, as on kernels before 6.2.
pub(crate) const BY_HELPER: &[Test] = tests![reading_by_helper =>
    only_shareable_bind_makes_an_owner,
    first_binder_owns_one_address_and_device,
];

/// Where no port can be taken, as on arm64 before 5.17.
pub(crate) const TAKING_NOTHING: &[Test] = tests![taking_nothing =>
    undeclared_port_is_shared_and_claims_are_enforced,
];

const PORT: u16 = 20080;
const ADOPT: Policy = Policy { undeclared: Undeclared::Adopt, ..ENFORCE };

/// Kinds of sockets that can share a port.
pub(crate) fn sharing(port: u16) -> Vec<Bind> {
    there([
        Bind::tcp("0.0.0.0", port).reusing_port(),
        Bind::tcp("::", port).reusing_port(),
        Bind::tcp("0.0.0.0", port).on(Kind::Mptcp).reusing_port(),
        Bind::tcp("::", port).on(Kind::Mptcp).reusing_port(),
        Bind::udp("0.0.0.0", port).reusing_port(),
        Bind::udp("0.0.0.0", port).reusing_addr(),
        Bind::udp("::", port).reusing_addr(),
    ])
}

/// Those of the binds that this kernel knows; it says which it does not know, and must not know.
pub(crate) fn there<const COUNT: usize>(binds: [Bind; COUNT]) -> Vec<Bind> {
    let why = MPTCP.missing();
    if let Some(why) = &why {
        println!("without MPTCP: {why}");
    }
    binds.into_iter().filter(|bind| why.is_none() || bind.kind != Kind::Mptcp).collect()
}

fn fixture(policy: Policy) -> (KernelFixture, Worker, Worker) {
    let mut fixture = KernelFixture::with(|start| start.policy = policy);
    let (first, second) = (fixture.start(&Pod::new("first")), fixture.start(&Pod::new("second")));
    (fixture, first, second)
}

/// The report of the attempt that another holder was in the way of, without that of the bind before it.
fn verdict(seen: &Observed) -> (i32, VerdictKind, Reason) {
    let report = seen.reports.last().expect("a report");
    (seen.errno, report.attempt.verdict, report.attempt.reason)
}

fn held() -> (i32, VerdictKind, Reason) {
    (denied_after(), VerdictKind::Deny, Reason::Held)
}

const FREE: (i32, VerdictKind, Reason) = (0, VerdictKind::Allow, Reason::Unclaimed);

fn undeclared_port_is_shared_and_claims_are_enforced() -> Outcome {
    let (mut fixture, mut first, mut second) = fixture(ADOPT);
    for bind in sharing(PORT) {
        assert_eq!(verdict(&fixture.attempt(&mut first, &bind.clone().kept())), FREE, "{bind:?}");
        let seen = fixture.attempt(&mut second, &bind.clone().kept());
        assert_eq!(verdict(&seen), FREE, "{bind:?}");
        first.close();
        second.close();
    }
    let mut owner = fixture.start(&Pod::new("owner").ports("20080"));
    let bind = Bind::tcp("0.0.0.0", PORT).reusing_port();
    assert_eq!(verdict(&fixture.attempt(&mut owner, &bind.clone().kept())), (0, VerdictKind::Allow, Reason::Owner));
    assert_eq!(
        fixture.attempt(&mut second, &bind).result(),
        (enforcer_testing::reconciler_fixture::denied(), VerdictKind::Deny, Reason::Claimed)
    );
    DONE
}

fn first_binder_owns_port_until_it_closes() -> Outcome {
    let (mut fixture, mut first, mut second) = fixture(ADOPT);
    for bind in sharing(PORT) {
        let count =
            |fixture: &KernelFixture, kind, reason| fixture.reconciler.counters().expect("counters").of(kind, reason);
        assert_eq!(verdict(&fixture.attempt(&mut first, &bind.clone().kept())), FREE, "{bind:?}");
        let before =
            (count(&fixture, VerdictKind::Deny, Reason::Held), count(&fixture, VerdictKind::Allow, Reason::Unclaimed));
        let seen = fixture.attempt(&mut second, &bind);
        assert_eq!(verdict(&seen), held(), "{bind:?}");
        let report = seen.reports.last().expect("a report");
        assert_eq!(report.owner.as_ref().expect("an owner").to_string(), "default/first", "{bind:?}");
        let after =
            (count(&fixture, VerdictKind::Deny, Reason::Held), count(&fixture, VerdictKind::Allow, Reason::Unclaimed));
        assert_eq!(after, (before.0 + 1, before.1), "an attempt is counted once");
        first.close();
        assert_eq!(verdict(&fixture.attempt(&mut second, &bind.clone().kept())), FREE, "{bind:?}: it was let go");
        assert_eq!(verdict(&fixture.attempt(&mut first, &bind)), held(), "{bind:?}: and now it is the other's");
        second.close();
        assert_eq!(fixture.port_hold_count(), 0, "{bind:?}: nothing is left");
    }
    DONE
}

fn only_shareable_bind_makes_an_owner() -> Outcome {
    let (mut fixture, mut first, mut second) = fixture(ADOPT);
    for bind in [Bind::tcp("0.0.0.0", PORT), Bind::tcp("0.0.0.0", PORT).reusing_addr(), Bind::udp("::", PORT)] {
        assert_eq!(verdict(&fixture.attempt(&mut first, &bind.clone().kept())), FREE);
        assert_eq!(fixture.port_hold_count(), 0, "{bind:?}");
        let seen = fixture.attempt(&mut second, &bind);
        assert_eq!(
            verdict(&seen),
            (libc::EADDRINUSE, VerdictKind::Allow, Reason::Unclaimed),
            "{bind:?}: the kernel's own"
        );
        first.close();
    }
    DONE
}

fn first_binder_owns_one_address_and_device() -> Outcome {
    let (mut fixture, mut first, mut second) = fixture(ADOPT);
    let bind = |address: &str| Bind::udp(address, PORT).reusing_addr();
    assert_eq!(verdict(&fixture.attempt(&mut first, &bind("127.0.0.1").kept())), FREE);
    for (address, expected) in [
        ("127.0.0.2", FREE),
        ("127.0.0.1", held()),
        ("::ffff:127.0.0.1", held()),
        ("0.0.0.0", held()),
        ("::", held()),
        ("::1", FREE),
    ] {
        assert_eq!(verdict(&fixture.attempt(&mut second, &bind(address))), expected, "{address}");
    }
    let only = Bind { v6only: Some(true), ..bind("::") };
    assert_eq!(verdict(&fixture.attempt(&mut second, &only)), FREE, "[::] of an IPv6 only socket");
    first.close();
    let other = match Device::bridge("pe-other") {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) && own_machine::is_here() => {
            println!("without a second device: the machine of the matrix loads no module for one");
            None
        }
        device => Some(device.expect("a bridge")),
    };
    let on = |device: &str| Bind { device: Some(device.to_owned()), ..bind("0.0.0.0") };
    assert_eq!(verdict(&fixture.attempt(&mut first, &on("lo").kept())), FREE);
    assert_eq!(verdict(&fixture.attempt(&mut second, &on("lo"))), held());
    assert_eq!(verdict(&fixture.attempt(&mut second, &bind("0.0.0.0"))), held(), "on every device");
    if other.is_some() {
        assert_eq!(verdict(&fixture.attempt(&mut second, &on("pe-other"))), FREE, "on another device");
    }
    DONE
}

fn pod_and_its_workload_share_port() -> Outcome {
    let mut fixture = KernelFixture::with(|start| start.policy = ADOPT);
    let own = Pod::new("own");
    let (mut one, mut container) = (fixture.start(&own), fixture.worker(&own));
    let mut sibling = fixture.start(&Pod::new("sibling").share_group("g"));
    let mut other_sibling = fixture.start(&Pod::new("other-sibling").share_group("g"));
    let mut stranger = fixture.start(&Pod::new("stranger"));
    let bind = Bind::tcp("0.0.0.0", PORT).reusing_port();
    for (a, b) in [(&mut one, &mut container), (&mut sibling, &mut other_sibling)] {
        assert_eq!(fixture.attempt(a, &bind.clone().kept()).errno, 0);
        assert_eq!(fixture.attempt(b, &bind.clone().kept()).errno, 0, "they belong together");
        assert_eq!(verdict(&fixture.attempt(&mut stranger, &bind)), held());
        a.close();
        assert_eq!(verdict(&fixture.attempt(&mut stranger, &bind)), held(), "the other one holds it still");
        b.close();
        assert_eq!(verdict(&fixture.attempt(&mut stranger, &bind)), FREE);
    }
    // Of two replicas, the new pod takes over while the old one is going.
    let (old, new) = (Pod::new("web-1").of_deployment("web"), Pod::new("web-2").of_deployment("web"));
    let (mut going, mut coming) = (fixture.start(&old), fixture.start(&new));
    assert_eq!(fixture.attempt(&mut going, &bind.clone().kept()).errno, 0);
    assert_eq!(verdict(&fixture.attempt(&mut coming, &bind)), held());
    fixture.apply(&old.terminating());
    assert_eq!(fixture.attempt(&mut coming, &bind).errno, 0, "it is handed over");
    DONE
}

/// Gives the pod at a place its controller.
type Controlled = fn(Pod, usize) -> Pod;

/// Sockets that can share a port, of the old and the new pod of a rollout, of two replicas, and of strangers; the port
/// declared or not, in audit and in enforce.
fn rollout_shares_port_and_replicas_and_strangers_do_not() -> Outcome {
    let pair = |ports: &str, of: Controlled| {
        [0, 1].map(|place| {
            let pod = of(Pod::new(&format!("pod-{place}")), place);
            if ports.is_empty() { pod } else { pod.ports(ports) }
        })
    };
    let pairs: [(&str, bool, Controlled); 4] = [
        ("two pods of a DaemonSet", true, |pod, _| pod.of_daemon_set("web")),
        ("two revisions", true, |pod, place| pod.of_revision("web", ["1", "2"][place])),
        ("two replicas", false, |pod, _| pod.of_deployment("web")),
        ("two workloads", false, |pod, place| pod.of_deployment(["web", "other"][place])),
    ];
    let mut fixture = KernelFixture::with(|start| {
        start.policy = ADOPT;
        start.settings.handover_grace = Duration::ZERO;
    });
    for mode in [AUDIT, ENFORCE] {
        fixture.reconciler.set_policy(Policy { undeclared: Undeclared::Adopt, ..mode });
        for ports in ["", "20080/tcp, 20080/udp"] {
            for (who, may, of) in pairs {
                let pods = pair(ports, of);
                let [mut one, mut other] = pods.each_ref().map(|pod| fixture.start(pod));
                for bind in sharing(PORT) {
                    let case = format!("{who}, declared {ports:?}, enforce {}: {bind:?}", mode.enforce);
                    let seen = fixture.attempt(&mut one, &bind.clone().kept());
                    assert_eq!((seen.errno, seen.reports.len()), (0, 1), "{case}");
                    let seen = fixture.attempt(&mut other, &bind.clone().kept());
                    let (errno, kind, reason) = verdict(&seen);
                    if may {
                        assert_eq!((errno, kind), (0, VerdictKind::Allow), "{case}");
                        let expected = if ports.is_empty() { Reason::Unclaimed } else { Reason::Sibling };
                        assert_eq!(reason, expected, "{case}");
                    } else {
                        assert_eq!(kind, if mode.enforce { VerdictKind::Deny } else { VerdictKind::Audit }, "{case}");
                        assert_eq!(errno == 0, !mode.enforce, "{case}");
                        let is_stranger = who == "two workloads" && !ports.is_empty();
                        assert_eq!(reason, if is_stranger { Reason::Claimed } else { Reason::Held }, "{case}");
                    }
                    one.close();
                    other.close();
                }
                assert_eq!(fixture.port_hold_count(), 0, "nothing is left");
                for pod in &pods {
                    fixture.delete(pod);
                }
            }
        }
    }
    DONE
}

fn audit_mode_reports_and_allows_both_pods() -> Outcome {
    let (mut fixture, mut first, mut second) = fixture(Policy { undeclared: Undeclared::Adopt, ..AUDIT });
    for bind in sharing(PORT) {
        assert_eq!(verdict(&fixture.attempt(&mut first, &bind.clone().kept())), FREE, "{bind:?}");
        let seen = fixture.attempt(&mut second, &bind.clone().kept());
        assert_eq!(verdict(&seen), (0, VerdictKind::Audit, Reason::Held), "{bind:?}");
        // Who holds it already conflicts with nobody anew.
        assert_eq!(verdict(&fixture.attempt(&mut first, &bind)), FREE, "{bind:?}");
        first.close();
        second.close();
        assert_eq!(fixture.port_hold_count(), 0, "{bind:?}");
    }
    DONE
}

fn intended_sharing_makes_no_owner() -> Outcome {
    let mut fixture = KernelFixture::with(|start| {
        start.policy = ADOPT;
        start.shared_ports = enforcer_core::pods::annotation::parse_list("5353/udp").expect("a list");
    });
    let (mut first, mut second) = (fixture.start(&Pod::new("first")), fixture.start(&Pod::new("second")));
    for bind in [
        Bind::udp("0.0.0.0", 5353).reusing_addr(),
        Bind::udp("::", 5353).reusing_port(),
        Bind::udp("224.0.0.251", PORT).reusing_addr(),
        Bind::udp("ff05::fb", PORT).reusing_addr(),
    ] {
        assert_eq!(verdict(&fixture.attempt(&mut first, &bind.clone().kept())), FREE, "{bind:?}");
        assert_eq!(verdict(&fixture.attempt(&mut second, &bind.clone().kept())), FREE, "{bind:?}");
        first.close();
        second.close();
    }
    assert_eq!(fixture.port_hold_count(), 0);
    DONE
}

fn bind_to_port_0_makes_no_owner() -> Outcome {
    let (mut fixture, mut first, mut second) = fixture(ADOPT);
    for bind in sharing(0) {
        let (errno, port) = first.bind_port(&bind.clone().kept());
        assert_eq!(errno, 0);
        assert_eq!(fixture.port_hold_count(), 0, "{bind:?}");
        assert_eq!(verdict(&fixture.attempt(&mut second, &Bind { port, ..bind.clone() })), FREE, "{bind:?}");
        first.close();
    }
    DONE
}

fn new_claim_does_not_displace_holder() -> Outcome {
    let mut fixture = KernelFixture::with(|start| start.policy = ADOPT);
    let mut holder = fixture.start(&Pod::new("holder"));
    let bind = Bind::tcp("0.0.0.0", PORT).reusing_port();
    assert_eq!(fixture.attempt(&mut holder, &bind.clone().kept()).errno, 0);
    let mut claimant = fixture.start(&Pod::new("claimant").ports("20080"));
    let allow = fixture.reconciler.counters().expect("counters").of(VerdictKind::Allow, Reason::Owner);
    assert_eq!(verdict(&fixture.attempt(&mut claimant, &bind)), held(), "it is a running pod's");
    assert_eq!(
        fixture.reconciler.counters().expect("counters").of(VerdictKind::Allow, Reason::Owner),
        allow,
        "counted once"
    );
    holder.close();
    assert_eq!(verdict(&fixture.attempt(&mut claimant, &bind.clone().kept())), (0, VerdictKind::Allow, Reason::Owner));
    assert_eq!(
        fixture.attempt(&mut holder, &bind).result(),
        (enforcer_testing::reconciler_fixture::denied(), VerdictKind::Deny, Reason::Claimed)
    );
    DONE
}

fn full_hold_table_is_counted_and_denies_nobody() -> Outcome {
    let (mut fixture, mut first, mut second) = fixture(ADOPT);
    let full =
        |fixture: &KernelFixture| fixture.reconciler.counters().expect("counters").errors(KernelError::HoldsFull);
    let on = |host: u8| Bind::udp(&format!("127.0.0.{host}"), PORT).reusing_addr().kept();
    // One is noted as the port's sole hold, where there are any.
    let room = if features().cast.is_some() && features().post_bind_denies { 9 } else { 8 };
    for host in 1..=room + 1 {
        assert_eq!(fixture.attempt(&mut first, &on(host)).errno, 0);
    }
    assert_eq!(
        (full(&fixture), fixture.port_hold_count()),
        (1, usize::from(room)),
        "so many addresses of a port are told apart"
    );
    assert_eq!(verdict(&fixture.attempt(&mut second, &on(room))), held());
    assert_eq!(
        verdict(&fixture.attempt(&mut second, &on(room + 1))),
        FREE,
        "what could not be noted is in nobody's way"
    );
    assert_eq!(full(&fixture), 2);
    first.close();
    second.close();
    assert_eq!(fixture.port_hold_count(), 0);
    assert_eq!(
        fixture.reconciler.kernel_mut().port_holder(Protocol::Udp, PORT).expect("the port holders"),
        1,
        "somebody, until the agent hears of the release"
    );
    DONE
}

/// A bind that the kernel refuses keeps what it took until the socket is closed.
fn bind_refused_by_kernel_holds_until_socket_closes() -> Outcome {
    let (mut fixture, mut first, mut second) = fixture(ADOPT);
    assert_eq!(fixture.attempt(&mut first, &Bind::tcp("0.0.0.0", PORT).kept()).errno, 0, "it does not share");
    let bind = Bind::tcp("0.0.0.0", PORT).reusing_port();
    assert_eq!(fixture.attempt(&mut second, &bind).errno, libc::EADDRINUSE, "the kernel's own word");
    assert_eq!(fixture.port_hold_count(), 0, "the socket is closed");
    first.close();
    assert_eq!(verdict(&fixture.attempt(&mut second, &bind)), FREE);
    DONE
}
