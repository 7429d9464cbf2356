//! The node's own ports, and node software: never denied, only audited.

use enforcer_core::pods::annotation::parse_list;
use enforcer_ebpf::wire::{Reason, VerdictKind};

use enforcer_testing::{
    kernel_fixture::{Rig, denied},
    manifest::{Manifest, SYSTEMD_BESTEFFORT, cgroup_for, static_uid},
    worker::{Bind, Worker, bind_socket},
};

use crate::{DONE, Outcome, Test};

pub(crate) const TESTS: &[Test] = &[
    ("reserved_ports_are_for_node_software", reserved_ports_are_for_node_software),
    ("a_tenant_cannot_claim_a_reserved_port", a_tenant_cannot_claim_a_reserved_port),
    ("node_software_is_audited_on_a_tenants_port", node_software_is_audited_on_a_tenants_port),
];

/// A pod of a system namespace, a static pod, and a static pod that nobody has told of.
fn software(rig: &mut Rig) -> [(&'static str, Worker); 3] {
    [
        ("system namespace", rig.start(&Manifest::new("proxy").namespace("kube-system"))),
        ("static pod", rig.start(&Manifest::new("etcd").uid(&static_uid()))),
        ("unknown static pod", Worker::start(&rig.make(&cgroup_for(&static_uid(), SYSTEMD_BESTEFFORT)))),
    ]
}

fn reserved_ports_are_for_node_software() -> Outcome {
    let mut rig = Rig::with(|start| {
        start.settings.node_reserved = parse_list("20022/tcp 192.0.2.1:20053/udp").expect("a list");
    });
    let mut tenant = rig.start(&Manifest::new("tenant"));
    let reserved = (denied(), VerdictKind::Deny, Reason::Reserved);
    let binds = [
        Bind::tcp("0.0.0.0", 20022),
        Bind::tcp("::1", 20022),
        Bind::udp("192.0.2.1", 20053),
        Bind::udp("0.0.0.0", 20053),
    ];
    let mut software = software(&mut rig);
    for bind in &binds {
        let seen = rig.attempt(&mut tenant, bind);
        assert_eq!(seen.answer(), reserved, "{bind:?}");
        assert_eq!(seen.owner(), "the node");
        for (who, worker) in &mut software {
            let seen = rig.attempt(worker, bind);
            assert_eq!(seen.answer(), (0, VerdictKind::Allow, Reason::Owner), "{who}: {bind:?}");
        }
        let socket = tenant.open(bind);
        let seen = rig.watch(|| i32::from(bind_socket(&socket, bind).is_err()));
        assert_eq!(seen.answer(), (0, VerdictKind::Allow, Reason::Owner), "a host process: {bind:?}");
        tenant.close();
    }
    for bind in [Bind::udp("192.0.2.2", 20053), Bind::udp("0.0.0.0", 20022)] {
        assert_eq!(rig.attempt(&mut tenant, &bind).answer(), (0, VerdictKind::Allow, Reason::Unclaimed), "{bind:?}");
    }
    DONE
}

fn a_tenant_cannot_claim_a_reserved_port() -> Outcome {
    let mut rig = Rig::with(|start| start.settings.node_reserved = parse_list("20022").expect("a list"));
    // Whatever it says of its age.
    let mut tenant = rig.start(&Manifest::new("tenant").created("1970-01-01T00:00:00Z").ports("127.0.0.1:20022 20023"));
    let seen = rig.attempt(&mut tenant, &Bind::tcp("127.0.0.1", 20022));
    assert_eq!(seen.answer(), (denied(), VerdictKind::Deny, Reason::Reserved));
    let seen = rig.attempt(&mut tenant, &Bind::tcp("0.0.0.0", 20023));
    assert_eq!(seen.answer(), (0, VerdictKind::Allow, Reason::Owner));
    DONE
}

fn node_software_is_audited_on_a_tenants_port() -> Outcome {
    let mut rig = Rig::new();
    rig.apply(&Manifest::new("owner").ports("20080/tcp 192.0.2.1:20053/udp"));
    for (who, worker) in &mut software(&mut rig) {
        for bind in [Bind::tcp("0.0.0.0", 20080), Bind::udp("192.0.2.1", 20053), Bind::udp("::", 20053)] {
            let seen = rig.attempt(worker, &bind);
            assert_eq!(seen.answer(), (0, VerdictKind::Audit, Reason::Claimed), "{who}: {bind:?}");
            assert_eq!(seen.owner(), "default/owner");
        }
    }
    DONE
}
