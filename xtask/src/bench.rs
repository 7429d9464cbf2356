//! `cargo xtask bench`: what the enforcer costs, beside what people would use instead, and whether that is little enough.
//!
//! What measures is `enforcer/benches/measure`, which is run here as root; here it is judged and told.
#![expect(clippy::cast_precision_loss, reason = "counts become ratios and places in a plot")]

mod bar_chart;
mod instruction_counts;
mod performance_page;
mod thresholds;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use anyhow::{Context as _, bail};
use cargo_metadata::Message;
use clap::ValueEnum;
use comfy_table::{Table, presets::NOTHING};
use serde::{Deserialize, Serialize};
use serde_json::json;

pub(crate) use self::instruction_counts::{compare, obstacle};
use self::thresholds::Bar;
use crate::sudo::Root;
use crate::{dist_binary, image, process, setup};

/// The flags of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Measure only this
    #[arg(value_enum)]
    name: Option<Part>,
    /// Fewer and shorter rounds: all ratios in under five minutes, once it is built
    #[arg(long)]
    quick: bool,
    /// Print bars and runs as JSON
    #[arg(long)]
    json: bool,
    /// Write docs/performance.md and its plots from this run, and the baseline of instruction counts
    #[arg(long, conflicts_with = "name")]
    document: bool,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// What the kernel programs cost at every bind and close
    Hook,
    /// From a change of a pod to its claim in the kernel
    WayIn,
    /// A storm of binds that are denied
    WayOut,
    /// Memory, processor time while nothing happens, size of the binary
    Footprint,
    /// Instructions of the agent's own work, counted by Callgrind
    Instructions,
}

impl Part {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// One measured thing, as what measures prints it; its name has that of its part in front here.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Run {
    name: String,
    unit: String,
    median: f64,
    low: f64,
    high: f64,
    rounds: usize,
}

impl Run {
    /// Of one measurement.
    fn one(name: &str, unit: &str, value: f64) -> Self {
        Self { name: name.to_owned(), unit: unit.to_owned(), median: value, low: value, high: value, rounds: 1 }
    }
}

/// All of them, by name.
type Runs = BTreeMap<String, Run>;

pub(crate) fn run(Args { name, quick, json, document }: Args) -> anyhow::Result<ExitCode> {
    let parts: Vec<Part> =
        Part::value_variants().iter().copied().filter(|part| name.is_none_or(|it| it == *part)).collect();
    let mut runs = Runs::new();
    if parts.iter().any(|part| *part != Part::Instructions) {
        if Root::find() == Root::Unavailable {
            bail!("this needs root, because it loads programs into the kernel: run it as root or install sudo");
        }
        setup::ensure()?;
        // Before it becomes root: what cargo writes shall belong to the developer.
        let built = build()?;
        for part in parts.iter().filter(|part| **part != Part::Instructions) {
            measure(&built, *part, quick, &mut runs)?;
        }
        if parts.contains(&Part::Footprint) {
            let image =
                Run::one("footprint/image", "MiB", image::size_with(&built.enforcer)? as f64 / f64::from(1 << 20));
            runs.insert(image.name.clone(), image);
        }
    }
    if parts.contains(&Part::Instructions) {
        let counts = instruction_counts::count()?;
        if document {
            instruction_counts::keep(&counts)?;
        }
        runs.extend(instruction_counts::runs(&counts)?.into_iter().map(|run| (run.name.clone(), run)));
    }
    let bars = thresholds::judge(&runs);
    if json {
        println!("{:#}", json!({ "bars": bars, "runs": runs.values().collect::<Vec<_>>() }));
    } else {
        println!("{}\n\n{}", runs_table(&runs), bars_table(&bars));
    }
    if document {
        performance_page::write(&bars, &runs)?;
    }
    Ok(if bars.iter().all(|bar| bar.ok) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What is run.
struct Built {
    measure: PathBuf,
    enforcer: PathBuf,
}

/// Builds what measures and what is measured; cargo shows its progress.
fn build() -> anyhow::Result<Built> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let (mut measure, mut enforcer) = (None, None);
    for message in dist_binary::build(&target, &["--bin", "enforcer", "--bench", "measure"])? {
        if let Message::CompilerArtifact(artifact) = message {
            match artifact.target.name.as_str() {
                "measure" => measure = artifact.executable,
                "enforcer" if artifact.executable.is_some() => enforcer = artifact.executable,
                _ => {}
            }
        }
    }
    let path = |path: Option<cargo_metadata::camino::Utf8PathBuf>, what: &str| {
        path.map(PathBuf::from).with_context(|| format!("cargo did not say where it put {what}"))
    };
    Ok(Built { measure: path(measure, "what measures")?, enforcer: path(enforcer, "the enforcer")? })
}

/// Measures one part. What it is at it says on standard error.
fn measure(Built { measure, enforcer }: &Built, part: Part, quick: bool, runs: &mut Runs) -> anyhow::Result<()> {
    let environment = vec![("CARGO_BIN_EXE_enforcer".to_owned(), enforcer.display().to_string())];
    // Asked each time, since sudo may have forgotten the password.
    let mut command = Root::find().command(measure, environment);
    command.arg(part.name()).stderr(Stdio::inherit()).stdin(Stdio::null());
    if quick {
        command.arg("--quick");
    }
    let output = command.output().with_context(|| format!("{} could not be started", measure.display()))?;
    if !output.status.success() {
        bail!("`{}` failed ({}); what it said is above", process::display(&command), output.status);
    }
    let measured: Vec<Run> = serde_json::from_slice(&output.stdout).context("what was measured cannot be read")?;
    runs.extend(measured.into_iter().map(|run| {
        let name = format!("{}/{}", part.name(), run.name);
        (name.clone(), Run { name, ..run })
    }));
    Ok(())
}

fn runs_table(runs: &Runs) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(["RUN", "MEDIAN", "QUARTILES", "UNIT"]);
    for run in runs.values() {
        let quartiles =
            if run.rounds > 1 { format!("{} to {}", short(run.low), short(run.high)) } else { String::new() };
        table.add_row([&run.name, &short(run.median), &quartiles, &run.unit]);
    }
    table
}

fn bars_table(bars: &[Bar]) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(["BAR", "VALUE", "LIMIT", ""]);
    for Bar { name, value, limit, ok } in bars {
        let verdict = if *ok { "ok" } else { "MISSED" };
        table.add_row([*name, &short(*value), &short(*limit), verdict]);
    }
    table
}

/// A number with as many digits as say something.
fn short(number: f64) -> String {
    match number.abs() {
        small if small < 10.0 => format!("{number:.2}"),
        medium if medium < 100.0 => format!("{number:.1}"),
        _ => format!("{number:.0}"),
    }
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_as_many_digits_as_say_something() {
        assert_eq!([0.0, 1.456, 12.34, 1234.5].map(short), ["0.00", "1.46", "12.3", "1234"]);
    }

    #[test]
    fn parts_are_named_as_what_measures_names_them() {
        let names: Vec<_> = Part::value_variants().iter().map(|part| part.name()).collect();
        assert_eq!(names, ["hook", "way-in", "way-out", "footprint", "instructions"]);
    }
}
