//! The whole agent: the real binary on a folder of manifests, with real processes in real cgroups. These tests need
//! root.
//!
//! One module is one subject, and its list names its tests.

mod absence;
mod abuse;
mod answered_by_other;
mod api_server_source;
mod backend;
mod bind_burst;
mod bind_load;
mod boot_state;
mod churn;
mod conflicts;
mod contention;
mod end;
mod ephemeral_sockets;
mod events;
mod existing;
mod explain;
mod flags;
mod folder;
mod handover;
mod in_use;
mod jam;
mod ledger;
mod lists;
mod malformed;
mod metrics;
mod pod_replacement;
mod read_claims_in_force;
mod reboot;
mod refusals;
mod reserved_ports;
mod scope_node;
mod service_ports;
mod soak;
mod startup_taint;
mod status;
mod suggest;
mod unwritable_outputs;
mod upgrade;
mod watch;

use enforcer_testing::{bpffs, network, own_machine, worker};
use libtest_mimic::{Arguments, Trial};

fn main() {
    worker::run_if_worker();
    backend::run_if_marked();
    let mut arguments = Arguments::from_args();
    // What one agent attaches to the kernel must not be mistaken for another's.
    arguments.test_threads = Some(1);
    if !arguments.list {
        bpffs::isolate();
    }
    // From there nobody could reach a cluster.
    if !arguments.list && !backend::is_outside() {
        network::isolate();
    }
    let conclusion = libtest_mimic::run(&arguments, own_machine::part(trials()));
    backend::stop_control_plane();
    conclusion.exit();
}

fn trials() -> Vec<Trial> {
    let mut trials = scope_node::trials();
    trials.extend(reboot::trials());
    trials.extend(reserved_ports::trials());
    trials.extend(upgrade::trials());
    for (subject, tests) in [
        ("abuse", abuse::TESTS),
        ("answered_by_other", answered_by_other::TESTS),
        ("unwritable_outputs", unwritable_outputs::TESTS),
        ("soak", soak::TESTS),
        ("conflicts", conflicts::TESTS),
        ("folder", folder::TESTS),
        ("malformed", malformed::TESTS),
        ("end", end::TESTS),
        ("handover", handover::TESTS),
        ("flags", flags::TESTS),
        ("refusals", refusals::TESTS),
        ("backend", backend::TESTS),
        ("control_plane", backend::CONTROL_PLANE_TESTS),
        ("api_server_source", api_server_source::TESTS),
        ("events", events::TESTS),
        ("bind_burst", bind_burst::TESTS),
        ("existing", existing::TESTS),
        ("boot_state", boot_state::TESTS),
        ("jam", jam::TESTS),
        ("in_use", in_use::TESTS),
        ("absence", absence::TESTS),
        ("metrics", metrics::TESTS),
        ("lists", lists::TESTS),
        ("pod_replacement", pod_replacement::TESTS),
        ("churn", churn::TESTS),
        ("contention", contention::TESTS),
        ("ledger", ledger::TESTS),
        ("service_ports", service_ports::TESTS),
        ("startup_taint", startup_taint::TESTS),
        ("status", status::TESTS),
        ("explain", explain::TESTS),
        ("suggest", suggest::TESTS),
        ("watch", watch::TESTS),
    ] {
        trials.extend(tests.iter().map(|&(name, run)| {
            Trial::test(format!("{subject}::{name}"), move || {
                run();
                Ok(())
            })
        }));
    }
    for (subject, bodies) in [
        ("api_server_source", api_server_source::BODIES),
        ("events", events::BODIES),
        ("answered_by_other", answered_by_other::BODIES),
        ("pod_replacement", pod_replacement::BODIES),
    ] {
        trials.extend(backend::trials(subject, bodies));
    }
    trials
}

/// A test: its name, and what it does. It panics to fail.
type Test = (&'static str, fn());
