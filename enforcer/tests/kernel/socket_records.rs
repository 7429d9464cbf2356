//! Records of bound and released sockets: each bind has one, however often the programs have filled the log, and each
//! socket is known to be gone.

use std::collections::HashSet;

use enforcer::{agent::input::Input, host::clock::now};
use enforcer_ebpf::wire::{KernelError, Policy, SOCKET_LOG_BYTES, SOCKET_LOG_RECORD_BYTES};

use enforcer_testing::{
    agent::wait_until,
    pods::Pod,
    reconciler_fixture::{ENFORCE, KernelFixture, reading_by_helper},
    tests,
    worker::Bind,
};

use crate::{DONE, Outcome, Test};

pub(crate) const TESTS: &[Test] =
    tests![each_bind_has_one_record_in_every_round_of_the_log, lost_releases_are_made_up_for];

/// The same where the records go through a ring.
pub(crate) const BY_HELPER: &[Test] = tests![reading_by_helper => each_bind_has_one_record_in_every_round_of_the_log];

const PORT: u16 = 20_080;
const PORTS: u16 = 100;
/// Binds of a burst, which the agent reads in several batches.
const BINDS: u32 = 800;
const BURSTS: u32 = 40;

const _: () = assert!(
    (BURSTS * BINDS) as usize * SOCKET_LOG_RECORD_BYTES > 4 * SOCKET_LOG_BYTES as usize,
    "the log is begun anew several times"
);

fn each_bind_has_one_record_in_every_round_of_the_log() -> Outcome {
    let mut fixture = KernelFixture::with(|start| {
        start.policy = Policy { report_bound: true, report_attempts: false, ..ENFORCE };
    });
    let mut worker = fixture.start(&Pod::new("a"));
    let lost =
        |fixture: &KernelFixture| fixture.reconciler.counters().expect("counters").errors(KernelError::HolderEventLost);
    let lost_before = lost(&fixture);
    let mut cookies = HashSet::new();
    for burst in 0..BURSTS {
        // Records of two lengths, so that each round of the log has other places.
        let address = if burst % 2 == 0 { "0.0.0.0" } else { "::1" };
        let counts = worker.burst(&Bind::tcp(address, PORT), PORTS, BINDS);
        assert_eq!(counts, [(0, BINDS)].into(), "burst {burst}");
        let mut ports = Vec::new();
        loop {
            // A record that no program wrote is a failure of the fixture.
            let (_, bound) = fixture.outputs();
            if bound.is_empty() {
                break;
            }
            ports.extend(bound.iter().map(|bound| u32::from(bound.port - PORT)));
            cookies.extend(bound.iter().map(|bound| bound.cookie));
        }
        let expected: Vec<u32> = (0..BINDS).map(|place| place % u32::from(PORTS)).collect();
        assert_eq!(ports, expected, "burst {burst}");
        assert!(fixture.reconciler.bound_sockets().is_empty(), "burst {burst}: every release was read");
    }
    assert_eq!(cookies.len(), (BURSTS * BINDS) as usize, "each of another socket");
    assert_eq!(lost(&fixture) - lost_before, 0);
    DONE
}

/// More binds than the agent reads in a batch have a record, and none of their releases has one.
///
/// The sockets are UDP sockets: before 6.8, the kernel does not show TCP sockets that do not listen.
fn lost_releases_are_made_up_for() -> Outcome {
    const KEPT: u16 = 900;
    let mut fixture = KernelFixture::with(|start| {
        start.policy = Policy { report_bound: true, report_attempts: false, ..ENFORCE };
    });
    let mut worker = fixture.start(&Pod::new("a"));
    for port in PORT..PORT + KEPT {
        assert_eq!(worker.bind(&Bind::udp("0.0.0.0", port).kept()), 0);
    }
    worker.burst(&Bind::udp("0.0.0.0", PORT + KEPT), PORTS, BURSTS * BINDS);
    worker.close();
    fixture.reconciler.handle_input(Input::SocketRing, now()).expect("the sockets are read");
    let lost = fixture.reconciler.counters().expect("counters").errors(KernelError::HolderEventLost);
    assert!(lost > u64::from(KEPT), "{lost} records were lost");
    wait_until("no closed socket is taken for open", || {
        fixture.reconciler.handle_timeout(now()).expect("the sockets are read");
        fixture.reconciler.bound_sockets().is_empty()
    });
    DONE
}
