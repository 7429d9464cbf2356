//! What `cargo xtask bench` measures: prints what was measured as JSON. Needs root.
//!
//! Not a benchmark of cargo's kind: each part sets up cgroups, programs, agents of its own, and compares in rounds.

mod driver;
mod hook;
mod raw;
mod samples;
#[path = "../../tests/support"]
mod support {
    #[expect(dead_code, reason = "the tests use the rest")]
    pub(crate) mod manifest;
    pub(crate) mod network;
    pub(crate) mod sandbox;
}

use std::process::ExitCode;

use samples::Run;

/// What is measured, by name.
const PARTS: [(&str, fn(bool) -> anyhow::Result<Vec<Run>>); 1] = [("hook", hook::measure)];

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
