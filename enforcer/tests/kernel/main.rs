//! Tests on the real kernel: real processes in real cgroups, judged by the real programs. They need root.
//!
//! One module is one subject, and its list names its tests: a test that is in no list is dead code, which is an error.

mod adoption;
mod arrival;
mod cgroups;
mod cleanup;
mod counts;
mod diag;
mod faults;
mod guest;
mod holding;
mod kin;
mod layouts;
mod machine;
mod needs;
mod node;
mod oracle;
mod overlap;
mod overrule;
mod policy;
mod ports;
mod reserved;
mod scope;
#[path = "../support/mod.rs"]
mod support;
mod undeclared;
mod way_round;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use support::{bpffs, keeper, network, own_machine, worker};

fn main() {
    guest::run_if_init();
    worker::run_if_worker();
    keeper::run_if_ordered();
    reserved::run_if_reserver();
    let mut arguments = Arguments::from_args();
    // The tests measure what one kernel counts and tells, and time it.
    arguments.test_threads = Some(1);
    if !arguments.list {
        network::isolate();
        bpffs::isolate();
    }
    libtest_mimic::run(&arguments, own_machine::part(trials())).exit();
}

fn trials() -> Vec<Trial> {
    let mut trials = overlap::trials();
    for (subject, tests) in [
        ("scope", scope::TESTS),
        ("layouts", layouts::TESTS),
        ("ports", ports::TESTS),
        ("node", node::TESTS),
        ("kin", kin::TESTS),
        ("policy", policy::TESTS),
        ("counts", counts::TESTS),
        ("cgroups", cgroups::TESTS),
        ("arrival", arrival::TESTS),
        ("adoption", adoption::TESTS),
        ("undeclared", undeclared::TESTS),
        ("holding", holding::TESTS),
        ("reserving", undeclared::RESERVING),
        ("reserving", holding::RESERVING),
        ("by_helper", scope::BY_HELPER),
        ("by_helper", overlap::BY_HELPER),
        ("by_helper", undeclared::BY_HELPER),
        ("by_helper", holding::BY_HELPER),
        ("overrule", overrule::TESTS),
        ("cleanup", cleanup::TESTS),
        ("faults", faults::TESTS),
        ("oracle", oracle::TESTS),
        ("diag", diag::TESTS),
        ("reserved", reserved::TESTS),
        ("needs", needs::TESTS),
        ("way_round", way_round::TESTS),
        ("machine", machine::TESTS),
    ] {
        trials.extend(tests.iter().map(|&(name, run)| Trial::ignorable_test(format!("{subject}::{name}"), run)));
    }
    trials
}

/// A test: its name, and what it does.
type Test = (&'static str, fn() -> Outcome);

/// A test panics to fail, and says why where it cannot be run.
type Outcome = Result<Completion, Failed>;

/// The test was run to its end.
const DONE: Outcome = Ok(Completion::Completed);
