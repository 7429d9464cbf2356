//! What is counted is exact, whatever the load, and what cannot be told is counted too.

use std::{collections::HashMap, thread};

use enforcer::kernel::Counters;
use enforcer_ebpf::wire::{KernelError, Policy, Protocol, Reason, VerdictKind};

use enforcer_testing::{
    pods::Pod,
    reconciler_fixture::{AUDIT, ENFORCE, KernelFixture, denied},
    tests,
    worker::{Bind, Worker},
};

use crate::{DONE, Outcome, Test};

pub(crate) const TESTS: &[Test] = tests![
    thousand_denied_binds_are_counted_exactly,
    thousand_audited_binds_are_counted_exactly,
    lost_events_are_counted,
    every_attempt_is_counted_once,
    claim_prevents_sharing_by_reuseaddr,
    claim_prevents_sharing_by_reuseport
];

const PROCESSES: u32 = 4;
const THREADS: u32 = 2;

/// A fixture with an owner of the port and several strangers.
fn fixture(policy: Policy) -> (KernelFixture, Vec<Worker>) {
    let mut fixture = KernelFixture::with(|start| start.policy = policy);
    fixture.apply(&Pod::new("owner").ports("20080/tcp 20080/udp"));
    let strangers = (0..PROCESSES).map(|n| fixture.start(&Pod::new(&format!("stranger-{n}")))).collect();
    fixture.drain_reports();
    (fixture, strangers)
}

/// Lets every worker bind so many times at once: what they saw.
fn storm(workers: &mut [Worker], times_each: u32) -> Vec<HashMap<i32, u32>> {
    // UDP with SO_REUSEADDR, so that no bind is refused because another one is under way.
    let bind = Bind::udp("0.0.0.0", 20080).reusing_addr();
    thread::scope(|scope| {
        let storms: Vec<_> =
            workers.iter_mut().map(|worker| scope.spawn(|| worker.storm(&bind, times_each, THREADS))).collect();
        storms.into_iter().map(|storm| storm.join().expect("a storm")).collect()
    })
}

/// Attempts of all verdicts and reasons.
fn total(counters: &Counters) -> u64 {
    VerdictKind::ALL.iter().flat_map(|kind| Reason::ALL.map(|reason| counters.of(*kind, reason))).sum()
}

fn a_thousand(policy: Policy, kind: VerdictKind, errno: i32) -> Outcome {
    let (mut fixture, mut strangers) = fixture(policy);
    assert_eq!(storm(&mut strangers, 250), vec![HashMap::from([(errno, 250)]); 4]);
    let counters = fixture.reconciler.counters().unwrap();
    assert_eq!(counters.attempts(kind, Reason::Claimed, Protocol::Udp), 1000);
    assert_eq!(total(&counters), 1000);
    let told = fixture.drain_reports();
    let lost = fixture.reconciler.counters().unwrap().errors(KernelError::BindEventLost);
    assert_eq!((told.len(), lost), (1000, 0));
    assert!(told.iter().all(|report| report.attempt.verdict == kind && report.attempt.reason == Reason::Claimed));
    DONE
}

fn thousand_denied_binds_are_counted_exactly() -> Outcome {
    a_thousand(ENFORCE, VerdictKind::Deny, denied())
}

fn thousand_audited_binds_are_counted_exactly() -> Outcome {
    a_thousand(AUDIT, VerdictKind::Audit, 0)
}

/// More than the ring holds, and nobody reads it meanwhile.
fn lost_events_are_counted() -> Outcome {
    const EACH: u32 = 4000;
    let (mut fixture, mut strangers) = fixture(ENFORCE);
    assert_eq!(storm(&mut strangers, EACH), vec![HashMap::from([(denied(), EACH)]); 4]);
    let counters = fixture.reconciler.counters().unwrap();
    assert_eq!(counters.of(VerdictKind::Deny, Reason::Claimed), u64::from(EACH * PROCESSES));
    let lost = counters.errors(KernelError::BindEventLost);
    let told = fixture.drain_reports().len();
    assert!(lost > 0 && told > 0, "{told} told, {lost} lost");
    assert_eq!(told as u64 + lost, u64::from(EACH * PROCESSES));
    // The ring is usable again.
    let seen = fixture.attempt(&mut strangers[0], &Bind::tcp("0.0.0.0", 20080));
    assert_eq!(seen.result(), (denied(), VerdictKind::Deny, Reason::Claimed));
    DONE
}

fn every_attempt_is_counted_once() -> Outcome {
    let (mut fixture, mut strangers) = fixture(ENFORCE);
    let stranger = &mut strangers[0];
    for bind in [
        Bind::tcp("0.0.0.0", 20080),
        Bind::tcp("::", 20080),
        Bind::udp("::1", 20080),
        Bind::tcp("0.0.0.0", 20081),
        Bind::udp("127.0.0.1", 20081),
        Bind::tcp("0.0.0.0", 0),
    ] {
        fixture.attempt(stranger, &bind);
    }
    let counters = fixture.reconciler.counters().unwrap();
    let of = |kind, reason, protocol| counters.attempts(kind, reason, protocol);
    assert_eq!(of(VerdictKind::Deny, Reason::Claimed, Protocol::Tcp), 2);
    assert_eq!(of(VerdictKind::Deny, Reason::Claimed, Protocol::Udp), 1);
    assert_eq!(of(VerdictKind::Allow, Reason::Unclaimed, Protocol::Tcp), 2);
    assert_eq!(of(VerdictKind::Allow, Reason::Unclaimed, Protocol::Udp), 1);
    assert_eq!(total(&counters), 6);
    DONE
}

/// Without a claim in the way, the second socket would silently get a part of the first one's traffic.
fn silent_sharing(bind: &Bind) -> Outcome {
    let mut fixture = KernelFixture::with(|start| start.policy = AUDIT);
    let mut owner = fixture.start(&Pod::new("owner").ports("20080/tcp 20080/udp"));
    let mut squatter = fixture.start(&Pod::new("squatter"));
    assert_eq!(fixture.attempt(&mut owner, bind).result(), (0, VerdictKind::Allow, Reason::Owner));
    assert_eq!(
        fixture.attempt(&mut squatter, bind).result(),
        (0, VerdictKind::Audit, Reason::Claimed),
        "it does share"
    );
    squatter.close();
    fixture.reconciler.set_policy(ENFORCE);
    let seen = fixture.attempt(&mut squatter, bind);
    assert_eq!(seen.result(), (denied(), VerdictKind::Deny, Reason::Claimed));
    assert_eq!(fixture.attempt(&mut owner, bind).result(), (0, VerdictKind::Allow, Reason::Owner));
    DONE
}

fn claim_prevents_sharing_by_reuseaddr() -> Outcome {
    silent_sharing(&Bind::udp("0.0.0.0", 20080).reusing_addr().kept())
}

fn claim_prevents_sharing_by_reuseport() -> Outcome {
    silent_sharing(&Bind::tcp("0.0.0.0", 20080).reusing_port().kept())
}
