//! What is done to a machine as a whole, and so only to one that was started for it: `--scope node`, attached at the root
//! of the hierarchy, judges every process there is.

use std::path::Path;

use enforcer::host::cgroup::Root;
use enforcer_core::{model::actor::Actor, pods::annotation::parse_list};
use enforcer_ebpf::wire::{KernelError, Policy, Reason, Undeclared, VerdictKind};

use enforcer_testing::{
    own_machine,
    pods::Pod,
    reconciler_fixture::{ENFORCE, KernelFixture, denied},
    tests,
    worker::{Bind, Worker, bind_socket},
};

use crate::Test;

pub(crate) const TESTS: &[Test] = tests![own_machine::only_there =>
    root_cgroup_scope_judges_pods,
    host_process_is_audited_never_denied,
    host_process_needs_no_declaration,
];

const PORT: u16 = 20080;

/// An engine as `--scope node` starts it. The pods are still below the root of their own.
fn fixture(policy: Policy) -> KernelFixture {
    KernelFixture::with(|start| {
        start.root = Root::hierarchy(Path::new("/proc/self/mountinfo")).expect("a hierarchy");
        assert_eq!((start.root.level, start.root.id.get()), (Some(0), 1), "all of the hierarchy");
        start.policy = Policy { node_scope: true, ..policy };
        start.settings.node_reserved = parse_list("20022/tcp").expect("a list");
    })
}

/// A process of the host in a cgroup of its own, as systemd's services are.
fn service(fixture: &KernelFixture) -> Worker {
    Worker::start(&fixture.sandbox().make("system.slice/sshd.service"))
}

fn binds(port: u16) -> [Bind; 4] {
    [Bind::tcp("0.0.0.0", port), Bind::tcp("::", port), Bind::tcp("127.0.0.1", port), Bind::tcp("::1", port)]
}

fn root_cgroup_scope_judges_pods() {
    let mut fixture = fixture(ENFORCE);
    let mut owner = fixture.start(&Pod::new("owner").ports("20080/tcp"));
    let mut stranger = fixture.start(&Pod::new("stranger"));
    for bind in binds(PORT) {
        assert_eq!(fixture.attempt(&mut owner, &bind).result(), (0, VerdictKind::Allow, Reason::Owner), "{bind:?}");
        let seen = fixture.attempt(&mut stranger, &bind);
        assert_eq!(seen.result(), (denied(), VerdictKind::Deny, Reason::Claimed), "{bind:?}");
        assert_eq!(seen.owner(), "default/owner");
    }
    let seen = fixture.attempt(&mut stranger, &Bind::tcp("0.0.0.0", 20022));
    assert_eq!(seen.result(), (denied(), VerdictKind::Deny, Reason::Reserved));
    let seen = fixture.attempt(&mut stranger, &Bind::tcp("0.0.0.0", 20081));
    assert_eq!(seen.result(), (0, VerdictKind::Allow, Reason::Unclaimed));
}

fn host_process_is_audited_never_denied() {
    let mut fixture = fixture(ENFORCE);
    fixture.apply(&Pod::new("owner").ports("20080/tcp"));
    let mut service = service(&fixture);
    for bind in binds(PORT) {
        let seen = fixture.attempt(&mut service, &bind);
        assert_eq!(seen.result(), (0, VerdictKind::Audit, Reason::Claimed), "{bind:?}");
        assert_eq!((&seen.report().caller, seen.report().attempt.pid), (&Actor::Host, service.pid()), "{bind:?}");
        assert_eq!(seen.owner(), "default/owner");
    }
    let seen = fixture.attempt(&mut service, &Bind::tcp("0.0.0.0", 20022));
    assert_eq!(seen.result(), (0, VerdictKind::Allow, Reason::Owner), "the node's ports are theirs");
    let seen = fixture.attempt(&mut service, &Bind::tcp("0.0.0.0", 20081));
    assert_eq!(seen.result(), (0, VerdictKind::Allow, Reason::Unclaimed));

    // This process is in the root itself, above every other cgroup.
    let bind = Bind::tcp("0.0.0.0", PORT);
    let seen = fixture.observe(|| i32::from(std::net::TcpListener::bind(("0.0.0.0", PORT)).is_err()));
    assert_eq!(seen.result(), (0, VerdictKind::Audit, Reason::Claimed));
    assert_eq!(seen.report().attempt.pid, std::process::id());
    let socket = service.open(&bind);
    let seen = fixture.observe(|| i32::from(bind_socket(&socket, &bind).is_err()));
    assert_eq!(seen.result(), (0, VerdictKind::Audit, Reason::Claimed), "with the socket of another cgroup");
    assert_eq!(
        fixture.reconciler.counters().unwrap().errors(KernelError::CallerUnknown),
        0,
        "they are known to be the host's"
    );
}

fn host_process_needs_no_declaration() {
    let mut fixture = fixture(Policy { undeclared: Undeclared::Deny, ..ENFORCE });
    let mut service = service(&fixture);
    let mut tenant = fixture.start(&Pod::new("tenant"));
    let bind = Bind::tcp("0.0.0.0", PORT);
    assert_eq!(fixture.attempt(&mut service, &bind).result(), (0, VerdictKind::Allow, Reason::Unclaimed));
    let seen = fixture.attempt(&mut tenant, &bind);
    assert_eq!(seen.result(), (denied(), VerdictKind::Deny, Reason::Undeclared));
}
