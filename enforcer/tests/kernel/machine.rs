//! What is done to a machine as a whole, and so only to one that was started for it: `--scope node`, attached at the root
//! of the hierarchy, judges every process there is.

use std::path::Path;

use enforcer::host::cgroup::Root;
use enforcer_core::{model::actor::Actor, pods::annotation::parse_list};
use enforcer_ebpf::wire::{KernelError, Policy, Reason, Undeclared, VerdictKind};

use enforcer_testing::{
    kernel_fixture::{ENFORCE, Rig, denied},
    manifest::Manifest,
    own_machine,
    worker::{Bind, Worker, bind_socket},
};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("pods_are_judged_from_the_root_of_the_hierarchy", || {
        Ok(own_machine::only_there(pods_are_judged_from_the_root_of_the_hierarchy))
    }),
    ("host_processes_are_audited_and_never_denied", || {
        Ok(own_machine::only_there(host_processes_are_audited_and_never_denied))
    }),
    ("host_processes_declare_nothing", || Ok(own_machine::only_there(host_processes_declare_nothing))),
];

const PORT: u16 = 20080;

/// An engine as `--scope node` starts it. The pods are still below the root of their own.
fn rig(policy: Policy) -> Rig {
    Rig::with(|start| {
        start.root = Root::hierarchy(Path::new("/proc/self/mountinfo")).expect("a hierarchy");
        assert_eq!((start.root.level, start.root.id), (Some(0), 1), "all of the hierarchy");
        start.policy = Policy { node_scope: true, ..policy };
        start.settings.node_reserved = parse_list("20022/tcp").expect("a list");
    })
}

/// A process of the host in a cgroup of its own, as systemd's services are.
fn service(rig: &Rig) -> Worker {
    Worker::start(&rig.sandbox().make("system.slice/sshd.service"))
}

fn binds(port: u16) -> [Bind; 4] {
    [Bind::tcp("0.0.0.0", port), Bind::tcp("::", port), Bind::tcp("127.0.0.1", port), Bind::tcp("::1", port)]
}

fn pods_are_judged_from_the_root_of_the_hierarchy() {
    let mut rig = rig(ENFORCE);
    let mut owner = rig.start(&Manifest::new("owner").ports("20080/tcp"));
    let mut stranger = rig.start(&Manifest::new("stranger"));
    for bind in binds(PORT) {
        assert_eq!(rig.attempt(&mut owner, &bind).answer(), (0, VerdictKind::Allow, Reason::Owner), "{bind:?}");
        let seen = rig.attempt(&mut stranger, &bind);
        assert_eq!(seen.answer(), (denied(), VerdictKind::Deny, Reason::Claimed), "{bind:?}");
        assert_eq!(seen.owner(), "default/owner");
    }
    let seen = rig.attempt(&mut stranger, &Bind::tcp("0.0.0.0", 20022));
    assert_eq!(seen.answer(), (denied(), VerdictKind::Deny, Reason::Reserved));
    let seen = rig.attempt(&mut stranger, &Bind::tcp("0.0.0.0", 20081));
    assert_eq!(seen.answer(), (0, VerdictKind::Allow, Reason::Unclaimed));
}

fn host_processes_are_audited_and_never_denied() {
    let mut rig = rig(ENFORCE);
    rig.apply(&Manifest::new("owner").ports("20080/tcp"));
    let mut service = service(&rig);
    for bind in binds(PORT) {
        let seen = rig.attempt(&mut service, &bind);
        assert_eq!(seen.answer(), (0, VerdictKind::Audit, Reason::Claimed), "{bind:?}");
        assert_eq!((&seen.report().caller, seen.report().attempt.pid), (&Actor::Host, service.pid()), "{bind:?}");
        assert_eq!(seen.owner(), "default/owner");
    }
    let seen = rig.attempt(&mut service, &Bind::tcp("0.0.0.0", 20022));
    assert_eq!(seen.answer(), (0, VerdictKind::Allow, Reason::Owner), "the node's ports are theirs");
    let seen = rig.attempt(&mut service, &Bind::tcp("0.0.0.0", 20081));
    assert_eq!(seen.answer(), (0, VerdictKind::Allow, Reason::Unclaimed));

    // This process is in the root itself, above every other cgroup.
    let bind = Bind::tcp("0.0.0.0", PORT);
    let seen = rig.watch(|| i32::from(std::net::TcpListener::bind(("0.0.0.0", PORT)).is_err()));
    assert_eq!(seen.answer(), (0, VerdictKind::Audit, Reason::Claimed));
    assert_eq!(seen.report().attempt.pid, std::process::id());
    let socket = service.open(&bind);
    let seen = rig.watch(|| i32::from(bind_socket(&socket, &bind).is_err()));
    assert_eq!(seen.answer(), (0, VerdictKind::Audit, Reason::Claimed), "with the socket of another cgroup");
    assert_eq!(rig.engine.counters().unwrap().errors(KernelError::CallerUnknown), 0, "they are known to be the host's");
}

fn host_processes_declare_nothing() {
    let mut rig = rig(Policy { undeclared: Undeclared::Deny, ..ENFORCE });
    let mut service = service(&rig);
    let mut tenant = rig.start(&Manifest::new("tenant"));
    let bind = Bind::tcp("0.0.0.0", PORT);
    assert_eq!(rig.attempt(&mut service, &bind).answer(), (0, VerdictKind::Allow, Reason::Unclaimed));
    let seen = rig.attempt(&mut tenant, &bind);
    assert_eq!(seen.answer(), (denied(), VerdictKind::Deny, Reason::Undeclared));
}
