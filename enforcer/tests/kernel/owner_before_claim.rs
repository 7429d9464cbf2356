//! Processes that bind while their pod is only just being told of.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
};

use enforcer::host::clock::now;
use enforcer_ebpf::wire::{Reason, VerdictKind};

use enforcer_testing::{
    pods::Pod,
    reconciler_fixture::{KernelFixture, denied},
    tests,
    worker::Bind,
};

use crate::{DONE, Outcome, Test};

pub(crate) const TESTS: &[Test] = tests![owner_is_written_before_its_claim, listed_owner_is_written_before_its_claim];

const PORT: u16 = 20080;
const ROUNDS: usize = 20;

/// Lets a process bind without a pause while something happens: how many of its binds were denied, and the error
/// numbers that it saw.
fn during(
    fixture: &mut KernelFixture,
    manifest: &Pod,
    happen: impl FnOnce(&mut KernelFixture),
) -> (u64, BTreeSet<i32>) {
    let mut worker = fixture.worker(manifest);
    let before = denials(fixture);
    let (stop, orders) = (AtomicBool::new(false), AtomicU32::new(0));
    let bind = Bind::tcp("0.0.0.0", PORT);
    let seen = thread::scope(|scope| {
        let storm = scope.spawn(|| {
            let mut seen = BTreeMap::new();
            while !stop.load(Ordering::Relaxed) {
                for (errno, count) in worker.storm(&bind, 2000, 1) {
                    *seen.entry(errno).or_insert(0) += count;
                }
                orders.fetch_add(1, Ordering::Relaxed);
            }
            seen.into_keys().collect()
        });
        while orders.load(Ordering::Relaxed) == 0 {
            thread::yield_now();
        }
        happen(fixture);
        stop.store(true, Ordering::Relaxed);
        storm.join().expect("the storm")
    });
    (denials(fixture) - before, seen)
}

/// How many binds were denied.
fn denials(fixture: &KernelFixture) -> u64 {
    let counters = fixture.reconciler.counters().expect("the counters");
    Reason::ALL.into_iter().map(|reason| counters.of(VerdictKind::Deny, reason)).sum()
}

/// Whether nobody was denied. On a machine with much to do the kernel itself refuses a bind once in some hundred
/// thousand, of a port that the same thread has closed a moment before; that is no denial.
fn is_undisturbed((denied, seen): &(u64, BTreeSet<i32>)) -> bool {
    *denied == 0 && seen.contains(&0) && seen.iter().all(|errno| [0, libc::EADDRINUSE].contains(errno))
}

/// The agent has not yet read that the pod's cgroup was made when it is told of the pod.
fn owner_is_written_before_its_claim() -> Outcome {
    let mut fixture = KernelFixture::new();
    for round in 0..ROUNDS {
        let owner = Pod::new(&format!("owner-{round}")).ports(&format!("{PORT}"));
        let seen = during(&mut fixture, &owner, |fixture| fixture.apply(&owner));
        assert!(is_undisturbed(&seen), "round {round}: {seen:?}");
        let stranger = Pod::new("stranger");
        assert_eq!(fixture.worker(&stranger).bind(&Bind::tcp("0.0.0.0", PORT)), denied());
        fixture.delete(&owner);
    }
    DONE
}

/// The same, where it is told of many at once, and it takes a while until all is written.
fn listed_owner_is_written_before_its_claim() -> Outcome {
    let mut fixture = KernelFixture::new();
    for round in 0..ROUNDS {
        let owner = Pod::new(&format!("owner-{round}")).ports(&format!("{PORT}"));
        let others = (0..1000).map(|number| Pod::new(&format!("other-{number}")).ports(&(30_000 + number).to_string()));
        let list: Vec<_> = others.chain([owner.clone()]).map(|manifest| manifest.parsed()).collect();
        let seen = during(&mut fixture, &owner, |fixture| fixture.reconciler.reset(list, now()));
        assert!(is_undisturbed(&seen), "round {round}: {seen:?}");
        fixture.reconciler.reset(Vec::new(), now());
    }
    DONE
}
