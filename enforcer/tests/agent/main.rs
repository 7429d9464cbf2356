//! The whole agent: the real binary on a folder of manifests, with real processes in real cgroups. These tests need
//! root.
//!
//! One module is one subject, and its list names its tests.

mod cluster;
mod conflicts;
mod end;
mod events;
mod flags;
mod folder;
mod handover;
mod machine;
mod malformed;
mod refusals;
mod stage;
#[path = "../support"]
mod support {
    pub(crate) mod agent;
    #[expect(dead_code, reason = "its own tests use the rest")]
    pub(crate) mod apiserver;
    pub(crate) mod network;
    pub(crate) mod own_machine;
    pub(crate) mod sandbox;
    pub(crate) mod worker;
}

use libtest_mimic::{Arguments, Trial};
use support::{network, worker};

fn main() {
    worker::run_if_worker();
    let mut arguments = Arguments::from_args();
    // What one agent attaches to the kernel must not be mistaken for another's.
    arguments.test_threads = Some(1);
    if !arguments.list {
        network::isolate();
    }
    libtest_mimic::run(&arguments, trials()).exit();
}

fn trials() -> Vec<Trial> {
    let mut trials = machine::trials();
    for (subject, tests) in [
        ("conflicts", conflicts::TESTS),
        ("folder", folder::TESTS),
        ("malformed", malformed::TESTS),
        ("end", end::TESTS),
        ("handover", handover::TESTS),
        ("flags", flags::TESTS),
        ("refusals", refusals::TESTS),
        ("cluster", cluster::TESTS),
        ("events", events::TESTS),
    ] {
        trials.extend(tests.iter().map(|&(name, run)| {
            Trial::test(format!("{subject}::{name}"), move || {
                run();
                Ok(())
            })
        }));
    }
    trials
}

/// A test: its name, and what it does. It panics to fail.
type Test = (&'static str, fn());
