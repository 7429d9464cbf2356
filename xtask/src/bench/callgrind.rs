//! Instruction counts of the agent's code paths, by Callgrind. They do not depend on the load of the machine, so they
//! can be compared with a baseline.
//!
//! The counts are of a development build, which the tests need anyway: growth there is growth in a release build too.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, ensure};
use cargo_metadata::TargetKind;
use serde::{Deserialize, Serialize};

use super::{Measurement, write_file};
use crate::process;

/// Greatest ratio of a count and its baseline.
const MAX_RATIO: f64 = 1.1;
/// Code paths, each a function of `enforcer/benches/paths`.
const PATHS: [&str; 5] = ["read_annotations", "decode_pods", "take_in_pods", "change_pods", "report_binds"];

/// Instruction counts by code path.
type InstructionCounts = BTreeMap<String, u64>;

fn baseline_path() -> PathBuf {
    process::workspace_root().join("enforcer/benches/paths/baseline.json")
}

/// Counts the instructions of every code path.
pub(super) fn count() -> anyhow::Result<InstructionCounts> {
    ensure!(
        process::find_program("valgrind").is_some(),
        "valgrind is not installed (Debian: apt-get install valgrind)"
    );
    let mut cargo = process::cargo();
    cargo.args(["build", "--package", "enforcer", "--bench", "paths", "--profile", "dev"]);
    cargo.arg("--message-format=json-render-diagnostics");
    let program = process::built_executable(&process::cargo_messages(&mut cargo)?, &TargetKind::Bench, "paths")?;
    let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
    let mut counts = InstructionCounts::new();
    for path in PATHS {
        let out = folder.path().join(path);
        let mut valgrind = Command::new("valgrind");
        valgrind.args(["--tool=callgrind", "--quiet", &format!("--callgrind-out-file={}", out.display())]);
        valgrind.arg(format!("--toggle-collect=paths::{path}")).arg(&program).arg(path);
        process::output(&mut valgrind)?;
        let text = fs::read_to_string(&out).with_context(|| format!("cannot read {}", out.display()))?;
        let count = text.lines().find_map(|line| line.strip_prefix("totals:")?.trim().parse().ok());
        let count = count.with_context(|| format!("callgrind reports no total for {path}"))?;
        ensure!(count > 0, "callgrind counted nothing for {path}: is there a function of that name?");
        counts.insert(path.to_owned(), count);
    }
    Ok(counts)
}

/// Counts to compare with. Only counts of the same compiler and the same architecture are comparable.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Baseline {
    compiler: String,
    architecture: String,
    instructions: InstructionCounts,
}

/// Writes these counts as the new baseline.
pub(super) fn write_baseline(counts: &InstructionCounts) -> anyhow::Result<()> {
    let architecture = std::env::consts::ARCH.to_owned();
    let baseline = Baseline { compiler: compiler_version()?, architecture, instructions: counts.clone() };
    write_file(&baseline_path(), &format!("{}\n", serde_json::to_string_pretty(&baseline)?))
}

fn read_baseline() -> anyhow::Result<Baseline> {
    let path = baseline_path();
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("cannot parse {}", path.display()))
}

/// Returns cargo's version, which is that of its compiler.
fn compiler_version() -> anyhow::Result<String> {
    process::output(process::cargo().arg("--version"))
}

/// Returns the reason why [`compare_with_baseline`] cannot run here, if there is one.
pub(crate) fn baseline_obstacle() -> anyhow::Result<Option<String>> {
    if !baseline_path().exists() {
        return Ok(Some("there is no baseline; cargo xtask bench --document writes one".to_owned()));
    }
    let (baseline, compiler) = (read_baseline()?, compiler_version()?);
    Ok(if process::find_program("valgrind").is_none() {
        Some("valgrind is not installed".to_owned())
    } else if baseline.architecture != std::env::consts::ARCH {
        Some(format!("the baseline is of {}", baseline.architecture))
    } else if baseline.compiler != compiler {
        Some(format!("the baseline is of {}, this is {compiler}", baseline.compiler))
    } else {
        None
    })
}

/// Returns each count as a measurement, and the greatest ratio of a count and its baseline.
pub(super) fn measurements(counts: &InstructionCounts) -> anyhow::Result<Vec<Measurement>> {
    let single = |name: &str, unit: &str, value: f64| Measurement::single(&format!("instructions/{name}"), unit, value);
    let mut measurements: Vec<_> =
        counts.iter().map(|(name, count)| single(name, "instructions", *count as f64)).collect();
    if baseline_path().exists() {
        let (_, ratio) = greatest_ratio(counts, &read_baseline()?.instructions)?;
        measurements.push(single("worst ÷ baseline", "ratio", ratio));
    }
    Ok(measurements)
}

/// Returns the code path with the greatest ratio of its count and its baseline, and that ratio.
fn greatest_ratio(counts: &InstructionCounts, baseline: &InstructionCounts) -> anyhow::Result<(String, f64)> {
    let mut greatest = (String::new(), 0.0);
    for (name, count) in counts {
        let before = baseline.get(name).with_context(|| format!("the baseline has no {name}"))?;
        let ratio = *count as f64 / *before as f64;
        if ratio > greatest.1 {
            greatest = (name.clone(), ratio);
        }
    }
    Ok(greatest)
}

/// Counts the instructions again.
///
/// # Errors
///
/// If a count exceeds its baseline by more than a tenth, or cannot be taken.
pub(crate) fn compare_with_baseline() -> anyhow::Result<()> {
    let (counts, baseline) = (count()?, read_baseline()?.instructions);
    for (name, count) in &counts {
        println!("{name}: {count} instructions, {} in the baseline", baseline.get(name).copied().unwrap_or_default());
    }
    let (name, ratio) = greatest_ratio(&counts, &baseline)?;
    ensure!(
        ratio <= MAX_RATIO,
        "{name} takes {ratio:.2} times the instructions of the baseline; if that is intended, \
         `cargo xtask bench --document` writes a new one"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greatest_ratio_is_found_and_a_new_path_needs_a_baseline() {
        let counts = |values: &[(&str, u64)]| values.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        let before: InstructionCounts = counts(&[("a", 100), ("b", 1000)]);
        let (name, ratio) = greatest_ratio(&counts(&[("a", 115), ("b", 900)]), &before).unwrap();
        assert!(name == "a" && (ratio - 1.15).abs() < 1e-9, "{name} {ratio}");
        let error = greatest_ratio(&counts(&[("c", 1)]), &before).unwrap_err().to_string();
        assert_eq!(error, "the baseline has no c");
    }
}
