//! Tests on the real kernel: real processes in real cgroups, judged by the real programs. They need root.
//!
//! One module is one subject, and its list names its tests: a test that is in no list is dead code, which is an error.

mod arrival;
mod bypass;
mod cgroups;
mod cleanup;
mod counts;
mod diag;
mod faults;
mod guest;
mod holders;
mod layouts;
mod machine;
mod node;
mod oracle;
mod overlap;
mod overrule;
mod policy;
mod ports;
mod requirements;
mod reserved;
mod scope;
mod sharing;
mod takeover;
mod undeclared;

use enforcer_testing::{bpffs, mini_agent, network, own_machine, worker};
use libtest_mimic::{Arguments, Completion, Failed, Trial};

fn main() {
    guest::run_if_init();
    worker::run_if_worker();
    mini_agent::run_if_child();
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
        ("sharing", sharing::TESTS),
        ("policy", policy::TESTS),
        ("counts", counts::TESTS),
        ("cgroups", cgroups::TESTS),
        ("arrival", arrival::TESTS),
        ("takeover", takeover::TESTS),
        ("undeclared", undeclared::TESTS),
        ("holders", holders::TESTS),
        ("reserving", undeclared::RESERVING),
        ("reserving", holders::RESERVING),
        ("by_helper", scope::BY_HELPER),
        ("by_helper", overlap::BY_HELPER),
        ("by_helper", undeclared::BY_HELPER),
        ("by_helper", holders::BY_HELPER),
        ("overrule", overrule::TESTS),
        ("cleanup", cleanup::TESTS),
        ("faults", faults::TESTS),
        ("oracle", oracle::TESTS),
        ("diag", diag::TESTS),
        ("reserved", reserved::TESTS),
        ("requirements", requirements::TESTS),
        ("bypass", bypass::TESTS),
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
