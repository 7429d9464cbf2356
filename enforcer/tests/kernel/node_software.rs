//! The node's own ports, and node software: never denied, only audited.

use enforcer_core::pods::annotation::parse_list;
use enforcer_ebpf::wire::{Reason, VerdictKind};

use enforcer_testing::{
    pods::{Pod, SYSTEMD_BESTEFFORT, cgroup_for, static_uid},
    reconciler_fixture::{KernelFixture, denied},
    tests,
    worker::{Bind, Worker, bind_socket},
};

use crate::{DONE, Outcome, Test};

pub(crate) const TESTS: &[Test] = tests![
    reserved_port_is_for_node_software_only,
    tenant_cannot_claim_reserved_port,
    node_software_on_claimed_port_is_audited
];

/// A pod of a system namespace, a static pod, and a static pod that nobody has told of.
fn software(fixture: &mut KernelFixture) -> [(&'static str, Worker); 3] {
    [
        ("system namespace", fixture.start(&Pod::new("proxy").namespace("kube-system"))),
        ("static pod", fixture.start(&Pod::new("etcd").uid(&static_uid()))),
        ("unknown static pod", Worker::start(&fixture.make_cgroup(&cgroup_for(&static_uid(), SYSTEMD_BESTEFFORT)))),
    ]
}

fn reserved_port_is_for_node_software_only() -> Outcome {
    let mut fixture = KernelFixture::with(|start| {
        start.settings.node_reserved = parse_list("20022/tcp 192.0.2.1:20053/udp").expect("a list");
    });
    let mut tenant = fixture.start(&Pod::new("tenant"));
    let reserved = (denied(), VerdictKind::Deny, Reason::Reserved);
    let binds = [
        Bind::tcp("0.0.0.0", 20022),
        Bind::tcp("::1", 20022),
        Bind::udp("192.0.2.1", 20053),
        Bind::udp("0.0.0.0", 20053),
    ];
    let mut software = software(&mut fixture);
    for bind in &binds {
        let seen = fixture.attempt(&mut tenant, bind);
        assert_eq!(seen.result(), reserved, "{bind:?}");
        assert_eq!(seen.owner(), "the node");
        for (who, worker) in &mut software {
            let seen = fixture.attempt(worker, bind);
            assert_eq!(seen.result(), (0, VerdictKind::Allow, Reason::Owner), "{who}: {bind:?}");
        }
        let socket = tenant.open(bind);
        let seen = fixture.observe(|| i32::from(bind_socket(&socket, bind).is_err()));
        assert_eq!(seen.result(), (0, VerdictKind::Allow, Reason::Owner), "a host process: {bind:?}");
        tenant.close();
    }
    for bind in [Bind::udp("192.0.2.2", 20053), Bind::udp("0.0.0.0", 20022)] {
        assert_eq!(
            fixture.attempt(&mut tenant, &bind).result(),
            (0, VerdictKind::Allow, Reason::Unclaimed),
            "{bind:?}"
        );
    }
    DONE
}

fn tenant_cannot_claim_reserved_port() -> Outcome {
    let mut fixture = KernelFixture::with(|start| start.settings.node_reserved = parse_list("20022").expect("a list"));
    // Whatever it says of its age.
    let mut tenant =
        fixture.start(&Pod::new("tenant").created_at("1970-01-01T00:00:00Z").ports("127.0.0.1:20022 20023"));
    let seen = fixture.attempt(&mut tenant, &Bind::tcp("127.0.0.1", 20022));
    assert_eq!(seen.result(), (denied(), VerdictKind::Deny, Reason::Reserved));
    let seen = fixture.attempt(&mut tenant, &Bind::tcp("0.0.0.0", 20023));
    assert_eq!(seen.result(), (0, VerdictKind::Allow, Reason::Owner));
    DONE
}

fn node_software_on_claimed_port_is_audited() -> Outcome {
    let mut fixture = KernelFixture::new();
    fixture.apply(&Pod::new("owner").ports("20080/tcp 192.0.2.1:20053/udp"));
    for (who, worker) in &mut software(&mut fixture) {
        for bind in [Bind::tcp("0.0.0.0", 20080), Bind::udp("192.0.2.1", 20053), Bind::udp("::", 20053)] {
            let seen = fixture.attempt(worker, &bind);
            assert_eq!(seen.result(), (0, VerdictKind::Audit, Reason::Claimed), "{who}: {bind:?}");
            assert_eq!(seen.owner(), "default/owner");
        }
    }
    DONE
}
