//! Port holders: those that the programs write, before the agent has read about them, and those that the agent writes.

use enforcer::host::clock::now;
use enforcer_ebpf::wire::{HOLDER_SOCKET, HOLDER_SOMEBODY, Policy, Protocol};

use enforcer_testing::{
    pods::Pod,
    reconciler_fixture::{ENFORCE, KernelFixture, reading_by_helper},
    tests,
    worker::{Bind, Worker},
};

use crate::{DONE, Outcome, Test};

pub(crate) const TESTS: &[Test] = tests![
    closed_port_is_free_before_the_agent_knows,
    shared_port_is_held_until_the_last_socket_is_closed,
    holder_without_a_record_stays,
];

/// The same where sockets are read by a helper, and their records go through a ring.
pub(crate) const BY_HELPER: &[Test] = tests![reading_by_helper =>
    closed_port_is_free_before_the_agent_knows,
    shared_port_is_held_until_the_last_socket_is_closed,
    holder_without_a_record_stays,
];

const PORT: u16 = 20_080;
/// Binds whose records are one batch of the agent's: two for each.
const BATCH_BINDS: u32 = 256;

fn fixture() -> (KernelFixture, [Worker; 2]) {
    let mut fixture = KernelFixture::with(|start| {
        start.policy = Policy { report_bound: true, report_attempts: false, ..ENFORCE };
    });
    let workers = ["a", "b"].map(|name| fixture.start(&Pod::new(name)));
    fixture.outputs();
    (fixture, workers)
}

fn holder(fixture: &KernelFixture) -> u64 {
    fixture.reconciler.kernel().port_holder(Protocol::Tcp, PORT).expect("the port holders")
}

fn tcp() -> Bind {
    Bind::tcp("0.0.0.0", PORT)
}

fn closed_port_is_free_before_the_agent_knows() -> Outcome {
    let (mut fixture, [mut one, mut other]) = fixture();
    for worker in [&mut one, &mut other] {
        assert_eq!(worker.bind(&tcp().kept()), 0);
        assert_ne!(holder(&fixture) & HOLDER_SOCKET, 0, "it has the socket's cookie");
        worker.close();
        assert_eq!(holder(&fixture), 0);
    }
    assert_eq!(fixture.outputs().1.len(), 2, "each bind is told none the less");
    assert_eq!(holder(&fixture), 0);
    DONE
}

fn shared_port_is_held_until_the_last_socket_is_closed() -> Outcome {
    let (mut fixture, [mut one, _]) = fixture();
    let mut second = fixture.worker(&Pod::new("a"));
    assert_eq!(one.bind(&tcp().reusing_port().kept()), 0);
    assert_eq!(second.bind(&tcp().reusing_port().kept()), 0);
    assert_eq!(holder(&fixture), HOLDER_SOMEBODY);
    one.close();
    assert_eq!(holder(&fixture), HOLDER_SOMEBODY);
    fixture.outputs();
    assert!(holder(&fixture) > HOLDER_SOMEBODY, "the agent knows which pod it is");
    second.close();
    fixture.outputs();
    assert_eq!(holder(&fixture), 0);
    DONE
}

fn holder_without_a_record_stays() -> Outcome {
    let (mut fixture, [mut one, mut other]) = fixture();
    one.burst(&tcp(), 1, BATCH_BINDS);
    assert_eq!(other.bind(&tcp().kept()), 0);
    let written = holder(&fixture);
    assert_ne!(written & HOLDER_SOCKET, 0);
    fixture.reconciler.drain_verdict_ring(now()).expect("the rings");
    assert!(fixture.reconciler.bound_sockets().is_empty(), "a batch ends before the record of the last socket");
    assert_eq!(holder(&fixture), written);
    fixture.outputs();
    assert!(holder(&fixture) > HOLDER_SOMEBODY && holder(&fixture) & HOLDER_SOCKET == 0);
    DONE
}
