//! Tests on the real kernel: real processes in real cgroups, judged by the real programs. They need root.
//!
//! One module is one subject, and its list names its tests: a test that is in no list is dead code, which is an error.

mod overlap;
#[path = "../support/mod.rs"]
mod support;

use libtest_mimic::{Arguments, Trial};
use support::{network, worker};

fn main() {
    worker::run_if_worker();
    let mut arguments = Arguments::from_args();
    // The tests measure what one kernel counts and tells, and time it.
    arguments.test_threads = Some(1);
    if !arguments.list {
        network::isolate();
    }
    libtest_mimic::run(&arguments, trials()).exit();
}

fn trials() -> Vec<Trial> {
    [overlap::trials()].into_iter().flatten().collect()
}
