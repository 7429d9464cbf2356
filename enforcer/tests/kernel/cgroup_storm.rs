//! No cgroup is missed, however many come at once and whatever else uses BPF maps meanwhile.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
};

use aya::maps::{HashMap, MapData};
use enforcer_core::model::kernel_ids::CgroupId;
use enforcer_ebpf::wire::KernelError;

use enforcer_testing::{cgroup_sandbox::cgroup_id, pods::Pod, reconciler_fixture::KernelFixture, tests};

use crate::{DONE, Outcome, Test};

pub(crate) const TESTS: &[Test] = tests![six_thousand_new_cgroups_are_all_seen];

const MAKERS: usize = 2;
const BATCHES: usize = 30;
/// Cgroups of one batch of one maker.
const BATCH: usize = 100;
const TOTAL: usize = MAKERS * BATCHES * BATCH;
const CHANGING_UID: &str = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";

/// A *perf* tracepoint's program is not run where another one, or an update of a map, holds the CPU's place for BPF:
/// thousands of cgroups would be missed.
fn six_thousand_new_cgroups_are_all_seen() -> Outcome {
    let mut fixture = KernelFixture::new();
    let parent = fixture.make_cgroup("kubepods-besteffort.slice");
    fixture.drain_reports();
    let before = fixture.reconciler.cgroup_events_seen();
    let stop = AtomicBool::new(false);
    let ready = Barrier::new(MAKERS + 2);
    // No more at once than the ring has room for, however fast they are made.
    let (made, batches) = mpsc::sync_channel(1);
    thread::scope(|scope| {
        for maker in 0..MAKERS {
            let (made, parent, ready) = (made.clone(), &parent, &ready);
            scope.spawn(move || {
                ready.wait();
                for batch in 0..BATCHES {
                    let names = (0..BATCH).map(|n| parent.join(format!("cri-{maker}-{batch}-{n}.scope")));
                    // If nobody listens any more, the test has failed already.
                    let _ = made.send(make(names));
                }
            });
        }
        drop(made);
        let hammer = scope.spawn(|| {
            ready.wait();
            hammer(&stop)
        });
        ready.wait();
        let mut turns = 0u32;
        let all_known = batches.into_iter().all(|batch| {
            // Meanwhile the engine changes its own maps too.
            let port = 20_000 + turns % 100;
            fixture.apply(&Pod::new("changing").uid(CHANGING_UID).ports(&format!("192.0.2.1:{port}")));
            turns += 1;
            fixture.drain_reports();
            let known = batch.iter().all(|(id, _)| fixture.reconciler.index().knows_cgroup(*id));
            for (_, path) in batch {
                fs::remove_dir(path).expect("removing a cgroup");
            }
            known
        });
        stop.store(true, Ordering::Relaxed);
        let updates = hammer.join().expect("a hammer");
        assert!(all_known, "the engine knows every cgroup of a batch");
        assert!(updates > 1000 && turns as usize == MAKERS * BATCHES, "{updates} updates, {turns} turns");
    });
    fixture.drain_reports();
    // Every one came and went.
    assert_eq!(fixture.reconciler.cgroup_events_seen() - before, 2 * TOTAL as u64);
    let counters = fixture.reconciler.counters().unwrap();
    for error in [KernelError::CgroupEventLost, KernelError::ReadFailed, KernelError::CgroupsFull] {
        assert_eq!(counters.errors(error), 0, "{error:?}");
    }
    assert_eq!(recursion_misses(), 0);
    DONE
}

/// Makes the cgroups: their ids and paths.
fn make(paths: impl Iterator<Item = PathBuf>) -> Vec<(CgroupId, PathBuf)> {
    paths
        .map(|path| {
            fs::create_dir(&path).expect("creating a cgroup");
            (cgroup_id(&path), path)
        })
        .collect()
}

/// Updates a map of its own until it is told to stop: how often.
fn hammer(stop: &AtomicBool) -> u64 {
    let mut map = HashMap::<MapData, u64, u64>::create(64, 0).expect("a map");
    let mut updates = 0;
    while !stop.load(Ordering::Relaxed) {
        for key in 0..64 {
            map.insert(key, updates, 0).expect("updating a map");
            updates += 1;
        }
    }
    updates
}

/// How often a raw tracepoint's program of this process was not run because it was running already, as far as the kernel
/// tells (since 5.12).
fn recursion_misses() -> u64 {
    const RAW_TRACEPOINT: &str = "17";
    let field = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map(|value| value.trim_start_matches(':').trim().to_owned())
    };
    let descriptors = fs::read_dir("/proc/self/fdinfo").expect("fdinfo");
    // The descriptor of that folder itself is gone by now.
    let texts = descriptors.filter_map(|entry| fs::read_to_string(entry.expect("a descriptor").path()).ok());
    let programs: Vec<String> =
        texts.filter(|text| field(text, "prog_type").as_deref() == Some(RAW_TRACEPOINT)).collect();
    assert!(!programs.is_empty(), "this process holds the programs");
    programs.iter().filter_map(|text| field(text, "recursion_misses")?.parse::<u64>().ok()).sum()
}
