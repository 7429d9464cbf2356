//! Tests on the real kernel: real processes in real cgroups, judged by the real programs. They need root.
//!
//! One module is one subject, and its list names its tests: a test that is in no list is dead code, which is an error.

mod bypass;
mod cgroup_storm;
mod claim_extents;
mod cleanup;
mod counts;
mod crash_points;
mod diag;
mod guest;
mod layouts;
mod mode_override;
mod node_software;
mod oracle;
mod overlap;
mod owner_before_claim;
mod policy_changes;
mod port_holders;
mod reserved_ports;
mod scope;
mod scope_node;
mod share_and_handover;
mod skip_excuses;
mod socket_holds;
mod socket_records;
mod takeover;
mod undeclared;

use enforcer_testing::{bpffs, mini_agent, network, own_machine, worker};
use libtest_mimic::{Arguments, Completion, Failed, Trial};

fn main() {
    guest::run_if_init();
    worker::run_if_worker();
    mini_agent::run_if_child();
    reserved_ports::run_if_reserver();
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
        ("claim_extents", claim_extents::TESTS),
        ("node_software", node_software::TESTS),
        ("share_and_handover", share_and_handover::TESTS),
        ("policy_changes", policy_changes::TESTS),
        ("counts", counts::TESTS),
        ("cgroup_storm", cgroup_storm::TESTS),
        ("owner_before_claim", owner_before_claim::TESTS),
        ("takeover", takeover::TESTS),
        ("undeclared", undeclared::TESTS),
        ("socket_holds", socket_holds::TESTS),
        ("socket_records", socket_records::TESTS),
        ("port_holders", port_holders::TESTS),
        ("reserving", undeclared::RESERVING),
        ("taking_nothing", undeclared::TAKING_NOTHING),
        ("reserving", socket_holds::RESERVING),
        ("by_helper", diag::BY_HELPER),
        ("by_helper", scope::BY_HELPER),
        ("by_helper", overlap::BY_HELPER),
        ("by_helper", undeclared::BY_HELPER),
        ("by_helper", socket_holds::BY_HELPER),
        ("by_helper", socket_records::BY_HELPER),
        ("by_helper", port_holders::BY_HELPER),
        ("mode_override", mode_override::TESTS),
        ("cleanup", cleanup::TESTS),
        ("crash_points", crash_points::TESTS),
        ("oracle", oracle::TESTS),
        ("diag", diag::TESTS),
        ("reserved_ports", reserved_ports::TESTS),
        ("skip_excuses", skip_excuses::TESTS),
        ("bypass", bypass::TESTS),
        ("scope_node", scope_node::TESTS),
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
