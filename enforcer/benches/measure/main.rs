//! What `cargo xtask bench` measures: prints what was measured as JSON. Needs root.
//!
//! Not a benchmark of cargo's kind: each part sets up cgroups, programs, agents of its own, and compares in rounds.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "times, sizes and counts become ratios; none of them is near what a float holds exactly"
)]

mod agents;
mod cluster;
mod comparison_programs;
mod denial_storm;
mod driver;
mod footprint;
mod hook;
mod peers;
mod pod_latency;
mod samples;
mod services;
mod twins;

use std::process::ExitCode;

use samples::Run;

/// Measures something, quickly or well.
type Measure = fn(bool) -> anyhow::Result<Vec<Run>>;

/// What is measured, by name.
const PARTS: [(&str, Measure); 7] = [
    ("hook", hook::measure),
    ("peers", peers::measure),
    ("claim-latency", pod_latency::measure),
    ("denial-storm", denial_storm::measure),
    ("footprint", footprint::measure),
    ("services", services::measure),
    ("cluster", cluster::measure),
];

fn main() -> ExitCode {
    driver::run_if_driver();
    let (mut quick, mut wanted) = (false, None);
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--quick" => quick = true,
            // What cargo passes on to every benchmark.
            "--bench" => {}
            name => wanted = Some(name.to_owned()),
        }
    }
    let Some((_, measure)) = PARTS.iter().find(|(name, _)| Some(*name) == wanted.as_deref()) else {
        eprintln!("name what to measure: {}", PARTS.map(|(name, _)| name).join(", "));
        return ExitCode::from(2);
    };
    // Its own ports and loopback: no part meets those of the machine.
    enforcer_testing::network::isolate();
    match measure(quick) {
        Ok(runs) => {
            println!("{}", serde_json::to_string(&runs).expect("numbers and strings"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
