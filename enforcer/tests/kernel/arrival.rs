//! Processes that bind while their pod is only just being told of.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
};

use crate::{
    DONE, Outcome, Test,
    support::{
        manifest::Manifest,
        rig::{Rig, denied},
        worker::Bind,
    },
};

pub(crate) const TESTS: &[Test] = &[
    ("an_owner_is_known_before_its_claim_is", an_owner_is_known_before_its_claim_is),
    ("an_owner_in_a_list_is_known_before_its_claim_is", an_owner_in_a_list_is_known_before_its_claim_is),
];

const PORT: u16 = 20080;
const ROUNDS: usize = 20;

/// Lets a process bind without a pause while something happens: the error numbers that it saw.
fn during(rig: &mut Rig, manifest: &Manifest, happen: impl FnOnce(&mut Rig)) -> BTreeSet<i32> {
    let mut worker = rig.worker(manifest);
    let (stop, orders) = (AtomicBool::new(false), AtomicU32::new(0));
    let bind = Bind::tcp("0.0.0.0", PORT);
    thread::scope(|scope| {
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
        happen(rig);
        stop.store(true, Ordering::Relaxed);
        storm.join().expect("the storm")
    })
}

/// The agent has not yet read that the pod's cgroup was made when it is told of the pod.
fn an_owner_is_known_before_its_claim_is() -> Outcome {
    let mut rig = Rig::new();
    for round in 0..ROUNDS {
        let owner = Manifest::new(&format!("owner-{round}")).ports(&format!("{PORT}"));
        let seen = during(&mut rig, &owner, |rig| rig.apply(&owner));
        assert_eq!(seen, [0].into(), "round {round}");
        let stranger = Manifest::new("stranger");
        assert_eq!(rig.worker(&stranger).bind(&Bind::tcp("0.0.0.0", PORT)), denied());
        rig.delete(&owner);
    }
    DONE
}

/// The same, where it is told of many at once, and it takes a while until all is written.
fn an_owner_in_a_list_is_known_before_its_claim_is() -> Outcome {
    let mut rig = Rig::new();
    for round in 0..ROUNDS {
        let owner = Manifest::new(&format!("owner-{round}")).ports(&format!("{PORT}"));
        let others =
            (0..1000).map(|number| Manifest::new(&format!("other-{number}")).ports(&(30_000 + number).to_string()));
        let list: Vec<_> = others.chain([owner.clone()]).map(|manifest| manifest.pod()).collect();
        let seen = during(&mut rig, &owner, |rig| rig.engine.reset(list));
        assert_eq!(seen, [0].into(), "round {round}");
        rig.engine.reset(Vec::new());
    }
    DONE
}
