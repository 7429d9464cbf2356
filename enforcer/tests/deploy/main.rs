//! The manifests in `deploy/`: what they say, and that the rendered ones are those that were looked at. No root needed.
//!
//! What an overlay renders to is committed as a snapshot. Most tests read the snapshots, so they run without kubectl
//! too; the snapshots themselves are compared with a fresh rendering wherever kubectl is installed. After a change that
//! was meant, `INSTA_UPDATE=always cargo test --package enforcer --test deploy` writes them anew.

mod admission_review;
mod binary;
mod chart;
mod ci_files;
mod components;
mod examples;
mod monitoring;
mod overlays;
mod policies;
mod rendering;
mod scheduling;
mod source_files;
mod strict;
mod systemd;

use libtest_mimic::{Arguments, Trial};

fn main() {
    let arguments = Arguments::from_args();
    libtest_mimic::run(&arguments, trials()).exit();
}

/// A test: its name, and what it does. It panics to fail.
type Test = (&'static str, fn());

fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (subject, tests) in [
        ("source_files", source_files::TESTS),
        ("overlays", overlays::TESTS),
        ("binary", binary::TESTS),
        ("ci_files", ci_files::TESTS),
        ("examples", examples::TESTS),
        ("monitoring", monitoring::TESTS),
        ("policies", policies::TESTS),
        ("scheduling", scheduling::TESTS),
        ("systemd", systemd::TESTS),
    ] {
        trials.extend(tests.iter().map(|&(name, run)| {
            Trial::test(format!("{subject}::{name}"), move || {
                run();
                Ok(())
            })
        }));
    }
    trials.extend(rendering::trials());
    trials.extend(chart::trials());
    trials.extend(monitoring::trials());
    trials.extend(systemd::trials());
    trials
}
