//! Instructions of the agent's own work, counted by Callgrind: a number that is the same on a busy machine, which is what makes
//! it fit to be compared with a baseline.
//!
//! They are counted in a development build, which is there wherever the tests are: what grows there grows in the other too.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, ensure};
use cargo_metadata::Message;
use serde::{Deserialize, Serialize};

use super::{Run, write};
use crate::process;

/// How much more than the baseline is too much.
const MOST: f64 = 1.1;
/// What is counted; each is a function of `enforcer/benches/paths`.
const PATHS: [&str; 5] = ["read_annotations", "decode_pods", "take_in_pods", "change_pods", "report_binds"];

/// Instructions by the name of what was done.
type Counts = BTreeMap<String, u64>;

fn baseline() -> PathBuf {
    process::root().join("enforcer/benches/paths/baseline.json")
}

/// Counts.
pub(super) fn count() -> anyhow::Result<Counts> {
    ensure!(
        process::find("valgrind").is_some(),
        "valgrind was not found: install it (Debian: apt-get install valgrind)"
    );
    let mut cargo = process::cargo();
    cargo.args(["build", "--package", "enforcer", "--bench", "paths", "--profile", "dev"]);
    cargo.arg("--message-format=json-render-diagnostics");
    let program = process::cargo_messages(&mut cargo)?.into_iter().find_map(|message| match message {
        Message::CompilerArtifact(artifact) if artifact.target.name == "paths" => artifact.executable,
        _ => None,
    });
    let program = program.context("cargo did not say where it put the benchmark")?;
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    let mut counts = Counts::new();
    for path in PATHS {
        let out = folder.path().join(path);
        let mut valgrind = Command::new("valgrind");
        valgrind.args(["--tool=callgrind", "--quiet", &format!("--callgrind-out-file={}", out.display())]);
        valgrind.arg(format!("--toggle-collect=paths::{path}")).arg(&program).arg(path);
        process::output(&mut valgrind)?;
        let text = fs::read_to_string(&out).with_context(|| format!("{} cannot be read", out.display()))?;
        let count = text.lines().find_map(|line| line.strip_prefix("totals:")?.trim().parse().ok());
        let count = count.with_context(|| format!("callgrind says no total for {path}"))?;
        ensure!(count > 0, "nothing was counted of {path}: is there a function of that name?");
        counts.insert(path.to_owned(), count);
    }
    Ok(counts)
}

/// What is compared with: only counts of one compiler and one machine's instructions can be.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Baseline {
    compiler: String,
    architecture: String,
    instructions: Counts,
}

/// Makes these the baseline.
pub(super) fn keep(counts: &Counts) -> anyhow::Result<()> {
    let architecture = std::env::consts::ARCH.to_owned();
    let kept = Baseline { compiler: compiler()?, architecture, instructions: counts.clone() };
    write(&baseline(), &format!("{}\n", serde_json::to_string_pretty(&kept)?))
}

fn kept() -> anyhow::Result<Baseline> {
    let path = baseline();
    let text = fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} cannot be read", path.display()))
}

/// Cargo's version, which is that of its compiler.
fn compiler() -> anyhow::Result<String> {
    process::output(process::cargo().arg("--version"))
}

/// Why nothing can be compared here, if so.
pub(crate) fn obstacle() -> anyhow::Result<Option<String>> {
    if !baseline().exists() {
        return Ok(Some("there is no baseline; cargo xtask bench --document writes one".to_owned()));
    }
    let (kept, compiler) = (kept()?, compiler()?);
    Ok(if process::find("valgrind").is_none() {
        Some("valgrind is not installed".to_owned())
    } else if kept.architecture != std::env::consts::ARCH {
        Some(format!("the baseline is of {}", kept.architecture))
    } else if kept.compiler != compiler {
        Some(format!("the baseline is of {}, and this is {compiler}", kept.compiler))
    } else {
        None
    })
}

/// One count as a run, and how many times the baseline the worst of all is.
pub(super) fn runs(counts: &Counts) -> anyhow::Result<Vec<Run>> {
    let run = |name: &str, unit: &str, value: f64| Run::one(&format!("instructions/{name}"), unit, value);
    let mut runs: Vec<_> = counts.iter().map(|(name, count)| run(name, "instructions", *count as f64)).collect();
    if baseline().exists() {
        let (_, worst) = worst(counts, &kept()?.instructions)?;
        runs.push(run("worst ÷ baseline", "ratio", worst));
    }
    Ok(runs)
}

/// What grew most, and how many times the baseline it is.
fn worst(counts: &Counts, baseline: &Counts) -> anyhow::Result<(String, f64)> {
    let mut worst = (String::new(), 0.0);
    for (name, count) in counts {
        let before = baseline.get(name).with_context(|| format!("the baseline has no {name}"))?;
        let ratio = *count as f64 / *before as f64;
        if ratio > worst.1 {
            worst = (name.clone(), ratio);
        }
    }
    Ok(worst)
}

/// Counts, and fails if there is too much more of anything than in the baseline.
pub(crate) fn compare() -> anyhow::Result<()> {
    let (counts, baseline) = (count()?, kept()?.instructions);
    for (name, count) in &counts {
        println!("{name}: {count} instructions, {} in the baseline", baseline.get(name).copied().unwrap_or_default());
    }
    let (name, ratio) = worst(&counts, &baseline)?;
    ensure!(
        ratio <= MOST,
        "{name} takes {ratio:.2} times the instructions of the baseline; if that is meant, \
         `cargo xtask bench --document` writes a new one"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grew_most_is_found_and_what_is_new_needs_a_baseline() {
        let counts = |values: &[(&str, u64)]| values.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        let before: Counts = counts(&[("a", 100), ("b", 1000)]);
        let (name, ratio) = worst(&counts(&[("a", 115), ("b", 900)]), &before).unwrap();
        assert!(name == "a" && (ratio - 1.15).abs() < 1e-9, "{name} {ratio}");
        let error = worst(&counts(&[("c", 1)]), &before).unwrap_err().to_string();
        assert_eq!(error, "the baseline has no c");
    }
}
