//! `cargo xtask bench`: measures the cost of the enforcer beside its alternatives, and checks it against thresholds.
//!
//! `enforcer/benches/measure` takes the measurements, as root. This module builds and runs it, and reports the results.
#![expect(clippy::cast_precision_loss, reason = "counts become ratios and coordinates in a chart")]

mod bar_chart;
mod callgrind;
mod peers;
mod performance_page;
mod thresholds;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use anyhow::{Context as _, bail, ensure};
use cargo_metadata::TargetKind;
use clap::ValueEnum;
use comfy_table::{Table, presets::NOTHING};
use serde::{Deserialize, Serialize};
use serde_json::json;

pub(crate) use self::callgrind::{baseline_obstacle, compare_with_baseline};
use self::peers::Peers;
pub(crate) use self::performance_page::{day, machine};
use self::thresholds::{ThresholdResult, Verdict};
use crate::sudo::RootAccess;
use crate::{arch::Arch, dist_binary, image, process, setup};

/// Flags of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Measure only this part
    #[arg(value_name = "PART", value_enum)]
    part: Option<BenchPart>,
    /// With `peers`: object files of other BPF programs, each with a description beside it, or descriptions
    /// (docs/benchmark.md)
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Run fewer and shorter rounds: about five minutes for each of the longer parts
    #[arg(long)]
    quick: bool,
    /// Print thresholds and measurements as JSON
    #[arg(long)]
    json: bool,
    /// Write docs/performance.md, its charts and the baseline of instruction counts from these measurements; with
    /// `peers` the table that the page includes
    #[arg(long)]
    document: bool,
}

/// Part of the measurements, with the name that `enforcer/benches/measure` uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum BenchPart {
    /// Time of the kernel programs at every bind and close
    Hook,
    /// Latency from the change of a pod to its claim in the kernel
    ClaimLatency,
    /// Accuracy and stability of the agent in a storm of denied binds
    DenialStorm,
    /// Memory, CPU time while idle, and size of the binary
    Footprint,
    /// Cost of the Services of a large cluster
    Services,
    /// Traffic of the agents of a large cluster with its API server
    Cluster,
    /// Instruction counts of the agent, by Callgrind
    Instructions,
    /// Other BPF programs beside ours: only with their paths
    Peers,
}

impl BenchPart {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// A measured value, in the JSON form of `enforcer/benches/measure`. Here its name begins with the name of its part.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Measurement {
    name: String,
    unit: String,
    median: f64,
    /// Lower quartile.
    low: f64,
    /// Upper quartile.
    high: f64,
    rounds: usize,
}

impl Measurement {
    /// Creates a measurement of one round.
    fn single(name: &str, unit: &str, value: f64) -> Self {
        Self { name: name.to_owned(), unit: unit.to_owned(), median: value, low: value, high: value, rounds: 1 }
    }
}

/// Measurements by name.
type Measurements = BTreeMap<String, Measurement>;

pub(crate) fn run(Args { part, paths, quick, json, document }: Args) -> anyhow::Result<ExitCode> {
    if part == Some(BenchPart::Peers) {
        return compare_with_peers(&paths, quick, json, document);
    }
    ensure!(paths.is_empty(), "only `peers` takes paths");
    ensure!(part.is_none() || !document, "`--document` takes all measurements, or those of `peers`");
    let is_wanted = |known: &BenchPart| *known != BenchPart::Peers && part.is_none_or(|part| part == *known);
    let parts: Vec<BenchPart> = BenchPart::value_variants().iter().copied().filter(is_wanted).collect();
    let mut measurements = Measurements::new();
    if parts.iter().any(|part| *part != BenchPart::Instructions) {
        let executables = prepare()?;
        for part in parts.iter().filter(|part| **part != BenchPart::Instructions) {
            measure(&executables, *part, quick, None, &mut measurements)?;
        }
        if parts.contains(&BenchPart::Footprint) {
            let size = image::archive_size(&executables.enforcer)? as f64 / f64::from(1 << 20);
            let image = Measurement::single("footprint/image", "MiB", size);
            measurements.insert(image.name.clone(), image);
        }
    }
    if parts.contains(&BenchPart::Instructions) {
        let counts = callgrind::count()?;
        if document {
            callgrind::write_baseline(&counts)?;
        }
        let counts = callgrind::measurements(&counts)?;
        measurements.extend(counts.into_iter().map(|count| (count.name.clone(), count)));
    }
    let results = thresholds::check(&measurements);
    if json {
        println!("{:#}", json!({ "thresholds": results, "measurements": measurements.values().collect::<Vec<_>>() }));
    } else {
        println!("{}\n\n{}", measurements_table(&measurements), thresholds_table(&results));
    }
    if document {
        performance_page::write(&results, &measurements)?;
    }
    let is_exceeded = results.iter().any(|result| result.verdict == Verdict::Exceeded);
    Ok(if is_exceeded { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Measures the programs of others beside ours. There are no thresholds: what they do differs.
fn compare_with_peers(paths: &[PathBuf], quick: bool, json: bool, document: bool) -> anyhow::Result<ExitCode> {
    let peers = Peers::read(paths)?;
    let executables = prepare()?;
    let mut measurements = Measurements::new();
    measure(&executables, BenchPart::Peers, quick, Some(&peers), &mut measurements)?;
    if json {
        println!("{:#}", json!({ "measurements": measurements.values().collect::<Vec<_>>() }));
    } else {
        println!("{}", peers.table(&measurements));
    }
    if document {
        let text = peers.markdown(&day(), &machine(), &measurements);
        write_file(&process::workspace_root().join(peers::TABLE_PATH), &text)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds what measures, as root needs it.
fn prepare() -> anyhow::Result<BenchExecutables> {
    if RootAccess::detect() == RootAccess::Unavailable {
        bail!("the benchmark loads programs into the kernel and needs root: run it as root or install sudo");
    }
    setup::ensure_build_tools()?;
    // Before it becomes root: files that cargo writes must belong to the developer.
    build()
}

/// Executables of the benchmark.
struct BenchExecutables {
    measure: PathBuf,
    enforcer: PathBuf,
}

/// Builds the measuring program and the agent. Cargo shows its progress.
fn build() -> anyhow::Result<BenchExecutables> {
    let messages = dist_binary::build(Arch::host(), &["--bin", "enforcer", "--bench", "measure"])?;
    Ok(BenchExecutables {
        measure: process::built_executable(&messages, &TargetKind::Bench, "measure")?,
        enforcer: process::built_executable(&messages, &TargetKind::Bin, "enforcer")?,
    })
}

/// Measures one part. The measuring program shows its progress on standard error.
fn measure(
    BenchExecutables { measure, enforcer }: &BenchExecutables,
    part: BenchPart,
    quick: bool,
    peers: Option<&Peers>,
    measurements: &mut Measurements,
) -> anyhow::Result<()> {
    let mut environment = vec![("CARGO_BIN_EXE_enforcer".to_owned(), enforcer.display().to_string())];
    if let Some(peers) = peers {
        environment.push((peers::DESCRIPTIONS.to_owned(), peers.file().display().to_string()));
    }
    // Detected for each part, since sudo may need the password again.
    let mut command = RootAccess::detect().command(measure, environment);
    command.arg(part.name()).stderr(Stdio::inherit()).stdin(Stdio::null());
    if quick {
        command.arg("--quick");
    }
    let output = command.output().with_context(|| format!("cannot start {}", measure.display()))?;
    if !output.status.success() {
        bail!("`{}` failed ({}); its output is above", process::display(&command), output.status);
    }
    let measured: Vec<Measurement> =
        serde_json::from_slice(&output.stdout).context("cannot read the output of the measuring program")?;
    measurements.extend(measured.into_iter().map(|measurement| {
        let name = format!("{}/{}", part.name(), measurement.name);
        (name.clone(), Measurement { name, ..measurement })
    }));
    Ok(())
}

impl Measurement {
    /// Formats the quartiles, if there is more than one round.
    fn quartiles(&self) -> String {
        if self.rounds > 1 { format!("{} to {}", round(self.low), round(self.high)) } else { String::new() }
    }
}

fn measurements_table(measurements: &Measurements) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(["MEASUREMENT", "MEDIAN", "QUARTILES", "UNIT"]);
    for measurement in measurements.values() {
        let Measurement { name, unit, median, .. } = measurement;
        table.add_row([name, &round(*median), &measurement.quartiles(), unit]);
    }
    table
}

fn thresholds_table(results: &[ThresholdResult]) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(["THRESHOLD", "VALUE", "LIMIT", ""]);
    for ThresholdResult { name, value, limit, verdict } in results {
        let verdict = match verdict {
            Verdict::Ok => "ok".to_owned(),
            Verdict::Exceeded => "EXCEEDED".to_owned(),
            Verdict::Skipped(reason) => format!("SKIPPED: {reason}"),
        };
        let number = |number: &Option<f64>| number.map_or_else(String::new, round);
        table.add_row([(*name).to_owned(), number(value), number(limit), verdict]);
    }
    table
}

/// Formats a number with about three significant digits.
fn round(number: f64) -> String {
    match number.abs() {
        small if small < 10.0 => format!("{number:.2}"),
        medium if medium < 100.0 => format!("{number:.1}"),
        _ => format!("{number:.0}"),
    }
}

fn write_file(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_about_three_digits() {
        assert_eq!([0.0, 1.456, 12.34, 1234.5].map(round), ["0.00", "1.46", "12.3", "1234"]);
    }

    #[test]
    fn parts_have_the_names_of_the_measuring_program() {
        let names: Vec<_> = BenchPart::value_variants().iter().map(|part| part.name()).collect();
        assert_eq!(
            names,
            ["hook", "claim-latency", "denial-storm", "footprint", "services", "cluster", "instructions", "peers"]
        );
    }
}
