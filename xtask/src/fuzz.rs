//! `cargo xtask fuzz`: runs libFuzzer on the code that reads untrusted input.
//!
//! cargo-fuzz builds the targets. This module runs them itself, because `cargo fuzz run` reports no progress and, for
//! several targets, no summary.

mod libfuzzer_output;

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use comfy_table::{Table, presets::NOTHING};
use serde_json::json;

use self::libfuzzer_output::{FuzzStats, LibfuzzerOutput};
use crate::{output_format::OutputFormat, parallel, process, setup};

/// Crate with the fuzz targets, which is not in the workspace.
const CRATE: &str = "enforcer/fuzz";
/// Folder for the builds of cargo-fuzz, for inputs that were found, and for reproducers and logs.
const WORK_FOLDER: &str = "target/fuzz";
/// Time in seconds after which an input is a finding. Long, because on a busy machine the process itself has to wait.
const INPUT_TIMEOUT: u64 = 60;
/// Time between two progress lines of a target.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(15);
/// Time in seconds for which `cargo xtask test` fuzzes each target.
const SHORT_TIME: u64 = 4;

/// Flags of `cargo xtask fuzz`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Fuzz only these targets
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// Time to fuzz each target, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = NonZero::new(600).unwrap())]
    time: NonZero<u64>,
    /// Number of targets to fuzz at once
    #[arg(long, value_name = "N", default_value_t = NonZero::<usize>::MIN)]
    jobs: NonZero<usize>,
    /// Run the target on these files only, to reproduce a finding
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["time", "jobs"])]
    input: Vec<PathBuf>,
    /// Output format of the result
    #[arg(short, long, value_enum, default_value_t = OutputFormat::Table)]
    output: OutputFormat,
}

/// Way to run a target.
#[derive(Clone, Copy, Debug)]
enum FuzzMode<'a> {
    /// Starts with the seeds and the corpus, fuzzes for so many seconds, and keeps new inputs in the corpus.
    Long(u64),
    /// Starts with the seeds alone, and fuzzes for so many seconds.
    Short(u64),
    /// Runs these inputs only.
    Inputs(&'a [PathBuf]),
}

/// Result of a target.
#[derive(Debug)]
struct FuzzRun {
    target: String,
    output: LibfuzzerOutput,
    duration: Duration,
    log: PathBuf,
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Args { targets, time, jobs, input, output } = args;
    let targets = choose(&all_targets()?, &targets)?;
    if !input.is_empty() && targets.len() != 1 {
        bail!("--input needs exactly one target: cargo xtask fuzz TARGET --input FILE");
    }
    let inputs =
        input.iter().map(|path| path.canonicalize().with_context(|| format!("cannot read {}", path.display())));
    let inputs: Vec<PathBuf> = inputs.collect::<anyhow::Result<_>>()?;
    build()?;
    let mode = if inputs.is_empty() { FuzzMode::Long(time.get()) } else { FuzzMode::Inputs(&inputs) };
    let print_progress = |line: &str| output.print_progress(line);
    let runs = parallel::map(targets, jobs.get(), |target| {
        let run = fuzz(&target, mode, &print_progress)?;
        print_progress(&run.summary());
        Ok(run)
    })?;
    match output {
        OutputFormat::Table => println!("\n{}", table(&runs)),
        OutputFormat::Json => {
            println!("{:#}", json!({ "targets": runs.iter().map(FuzzRun::json).collect::<Vec<_>>() }));
        }
    }
    Ok(if runs.iter().all(FuzzRun::is_clean) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Fuzzes every target for a short time, for `cargo xtask test`. Returns each name, with true if there is no finding.
pub(crate) fn short() -> anyhow::Result<Vec<(String, bool)>> {
    let targets = all_targets()?;
    build()?;
    let mut results = Vec::new();
    for target in targets {
        let run = fuzz(&target, FuzzMode::Short(SHORT_TIME), &|_| {})?;
        println!("{}", run.summary());
        results.push((target, run.is_clean()));
    }
    Ok(results)
}

/// Checks the format of the crate with the targets.
pub(crate) fn fmt() -> anyhow::Result<()> {
    process::run(process::cargo().args(["fmt", "--check", "--manifest-path"]).arg(manifest()))
        .with_context(|| format!("`cargo fmt --manifest-path {CRATE}/Cargo.toml` corrects the format"))
}

/// Runs clippy on the crate with the targets.
pub(crate) fn clippy() -> anyhow::Result<()> {
    let mut clippy = process::cargo();
    // In the workspace's target folder, where most of the dependencies are checked already. Not with --all-targets: the
    // tests of the modules under test belong to their own crates.
    clippy.args(["clippy", "--locked", "--lib", "--bins", "--target-dir", "target", "--manifest-path"]).arg(manifest());
    process::run(clippy.args(["--", "-D", "warnings"])).with_context(|| {
        format!(
            "in {CRATE}; if its Cargo.lock is not up to date, `cargo update --workspace --manifest-path \
             {CRATE}/Cargo.toml` updates it"
        )
    })
}

fn manifest() -> PathBuf {
    process::workspace_root().join(CRATE).join("Cargo.toml")
}

/// Returns the names of all targets, sorted.
fn all_targets() -> anyhow::Result<Vec<String>> {
    let folder = process::workspace_root().join(CRATE).join("fuzz_targets");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read {}", folder.display()))?.path();
        names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

/// Returns the requested targets, or all if none is requested.
fn choose(all: &[String], requested: &[String]) -> anyhow::Result<Vec<String>> {
    if let Some(unknown) = requested.iter().find(|name| !all.contains(name)) {
        bail!("unknown target `{unknown}`; the targets are {}", all.join(", "));
    }
    let is_requested = |name: &&String| requested.is_empty() || requested.contains(name);
    Ok(all.iter().filter(is_requested).cloned().collect())
}

fn build() -> anyhow::Result<()> {
    setup::ensure_cargo_fuzz()?;
    let mut cargo = process::nightly("cargo");
    cargo.args([
        "fuzz",
        "build",
        "--fuzz-dir",
        CRATE,
        "--target",
        &process::host_triple(),
        "--target-dir",
        WORK_FOLDER,
    ]);
    process::run_on_stderr(&mut cargo).context("cannot build the fuzz targets")
}

/// Creates a target's folder of this kind in [`WORK_FOLDER`], unless it exists.
fn work_folder(kind: &str, target: &str) -> anyhow::Result<PathBuf> {
    let folder = process::workspace_root().join(WORK_FOLDER).join(kind).join(target);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}

/// Creates an empty folder in the same place.
fn empty_work_folder(kind: &str, target: &str) -> anyhow::Result<PathBuf> {
    let folder = work_folder(kind, target)?;
    fs::remove_dir_all(&folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    work_folder(kind, target)
}

/// Returns the command that runs a target. `corpus` is for new inputs, `artifacts` for reproducers.
fn command(target: &str, mode: FuzzMode<'_>, artifacts: &Path, corpus: &Path) -> Command {
    let executable =
        process::workspace_root().join(WORK_FOLDER).join(process::host_triple()).join("release").join(target);
    let mut command = Command::new(executable);
    command.arg(format!("-artifact_prefix={}/", artifacts.display())).arg(format!("-timeout={INPUT_TIMEOUT}"));
    let seeds = process::workspace_root().join(CRATE).join("seeds").join(target);
    match mode {
        // libFuzzer writes new inputs to the first folder, never to the seeds.
        FuzzMode::Long(seconds) | FuzzMode::Short(seconds) => {
            command.args([corpus, &seeds]).arg(format!("-max_total_time={seconds}"))
        }
        FuzzMode::Inputs(inputs) => command.args(inputs),
    };
    // The code leaks only on purpose. The search for leaks after every input, and for the name of each new function,
    // would take nearly all of the time.
    command.args(["-print_final_stats=1", "-detect_leaks=0", "-print_funcs=0"]);
    command
}

/// Runs a target to its end, writes its log, and reports its progress now and then.
fn fuzz(target: &str, mode: FuzzMode<'_>, print_progress: &dyn Fn(&str)) -> anyhow::Result<FuzzRun> {
    let artifacts = work_folder("artifacts", target)?;
    let corpus = match mode {
        FuzzMode::Short(_) => empty_work_folder("short", target)?,
        FuzzMode::Long(_) | FuzzMode::Inputs(_) => work_folder("corpus", target)?,
    };
    let log = work_folder("logs", target)?.join("log");
    let mut command = command(target, mode, &artifacts, &corpus);
    let start = Instant::now();
    let cannot_write = || format!("cannot write {}", log.display());
    let mut log_file = fs::File::create(&log).with_context(cannot_write)?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", process::display(&command)))?;
    let stderr = child.stderr.take().context("the target's standard error is not a pipe")?;
    let mut output = LibfuzzerOutput::default();
    let mut last_progress = start;
    for line in BufReader::new(stderr).split(b'\n') {
        let line = line.context("cannot read the target's output")?;
        log_file.write_all(&line).and_then(|()| log_file.write_all(b"\n")).with_context(cannot_write)?;
        if output.parse_line(&String::from_utf8_lossy(&line)) && last_progress.elapsed() >= PROGRESS_INTERVAL {
            last_progress = Instant::now();
            print_progress(&progress(target, output.stats, start.elapsed()));
        }
    }
    let status = child.wait().context("cannot wait for the target")?;
    if !status.success() {
        output.is_complete = false;
        output.error.get_or_insert_with(|| format!("it ended with {status}"));
    }
    Ok(FuzzRun { target: target.to_owned(), output, duration: start.elapsed(), log })
}

/// Formats the progress: `annotation: 120 s, 1048576 executions, coverage 78, 20 inputs`.
fn progress(target: &str, stats: FuzzStats, duration: Duration) -> String {
    let FuzzStats { executions, coverage, inputs, .. } = stats;
    format!("{target}: {} s, {executions} executions, coverage {coverage}, {inputs} inputs", duration.as_secs())
}

impl FuzzRun {
    /// Returns true if the run came to its end without a finding.
    fn is_clean(&self) -> bool {
        self.output.is_complete && self.output.error.is_none() && self.output.reproducer.is_none()
    }

    fn executions_per_second(&self) -> u64 {
        self.output.stats.executions / self.duration.as_secs().max(1)
    }

    fn finding(&self) -> &str {
        match &self.output.error {
            _ if self.is_clean() => "none",
            Some(error) => error,
            None => "the run ended early",
        }
    }

    /// Summarizes the run. A finding comes with its reproducer and the next steps.
    fn summary(&self) -> String {
        let Self { target, output, duration, log } = self;
        let mut text = format!("{}; finding: {}", progress(target, output.stats, *duration), self.finding());
        // Writing to a string cannot fail.
        if let Some(reproducer) = &output.reproducer {
            let reproducer = reproducer.strip_prefix(process::workspace_root()).unwrap_or(reproducer).display();
            let _ = write!(
                text,
                "\n    reproducer: {reproducer}\n    run it: cargo xtask fuzz {target} --input {reproducer}\n    \
                 after the fix, keep it as a seed: cp {reproducer} {CRATE}/seeds/{target}/"
            );
        }
        if !self.is_clean() {
            let _ = write!(text, "\n    log: {}", log.display());
        }
        text
    }

    fn json(&self) -> serde_json::Value {
        let FuzzStats { executions, coverage, features, inputs } = self.output.stats;
        json!({
            "target": self.target,
            "executions": executions,
            "perSecond": self.executions_per_second(),
            "coverage": coverage,
            "features": features,
            "inputs": inputs,
            "seconds": self.duration.as_secs(),
            "finding": if self.is_clean() { None } else { Some(self.finding()) },
            "reproducer": self.output.reproducer,
            "log": self.log,
        })
    }
}

fn table(runs: &[FuzzRun]) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING);
    table.set_header(["TARGET", "SECONDS", "EXECUTIONS", "PER SECOND", "COVERAGE", "INPUTS", "FINDING"]);
    for run in runs {
        let FuzzStats { executions, coverage, inputs, .. } = run.output.stats;
        let numbers = [run.duration.as_secs(), executions, run.executions_per_second(), coverage, inputs]
            .map(|number| number.to_string());
        let mut row = vec![run.target.clone()];
        row.extend(numbers);
        row.push(run.finding().to_owned());
        table.add_row(row);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn parse(lines: &[&str]) -> LibfuzzerOutput {
        let mut output = LibfuzzerOutput::default();
        for line in lines {
            output.parse_line(line);
        }
        output
    }

    fn run(output: LibfuzzerOutput) -> FuzzRun {
        FuzzRun { target: "text".into(), output, duration: Duration::from_secs(10), log: "/log".into() }
    }

    #[test]
    fn target_is_a_binary_and_has_seeds() {
        let all = all_targets().unwrap();
        assert!(all.len() >= 6, "{all:?}");
        let manifest = fs::read_to_string(manifest()).unwrap();
        for target in all {
            assert!(
                manifest.contains(&format!("name = \"{target}\"\npath = \"fuzz_targets/{target}.rs\"")),
                "{target}"
            );
            let seeds = process::workspace_root().join(CRATE).join("seeds").join(&target);
            assert!(fs::read_dir(&seeds).unwrap().count() > 0, "{target}");
        }
    }

    #[test]
    fn requested_targets_are_chosen_by_name() {
        let all = names(&["annotation", "ring", "text"]);
        assert_eq!(choose(&all, &[]).unwrap(), all);
        assert_eq!(choose(&all, &names(&["text", "annotation"])).unwrap(), names(&["annotation", "text"]));
        let error = choose(&all, &names(&["txt"])).unwrap_err().to_string();
        assert_eq!(error, "unknown target `txt`; the targets are annotation, ring, text");
    }

    #[test]
    fn new_inputs_go_to_the_corpus_and_not_to_the_seeds() {
        for mode in [FuzzMode::Long(7), FuzzMode::Short(7)] {
            let command = command("text", mode, Path::new("/artifacts"), Path::new("/corpus"));
            let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
            let folders: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
            assert_eq!(folders.len(), 2, "{arguments:?}");
            assert_eq!(folders[0], "/corpus", "libFuzzer writes to the first one");
            assert!(folders[1].ends_with("enforcer/fuzz/seeds/text"), "{arguments:?}");
            assert!(arguments.contains(&"-max_total_time=7".into()), "{arguments:?}");
        }
    }

    #[test]
    fn summary_of_a_finding_names_the_next_steps() {
        let reproducer = process::workspace_root().join("target/fuzz/artifacts/text/crash-1");
        let written = format!("artifact_prefix=''; Test unit written to {}", reproducer.display());
        let found = run(parse(&["==1==ERROR: boom", &written]));
        assert!(!found.is_clean());
        let summary = found.summary();
        assert!(summary.contains("finding: boom"), "{summary}");
        let next = "run it: cargo xtask fuzz text --input target/fuzz/artifacts/text/crash-1\n";
        assert!(summary.contains(next), "{summary}");
        assert_eq!(found.json()["finding"], "boom");
    }

    #[test]
    fn run_that_ends_early_is_not_clean() {
        let executed = "stat::number_of_executed_units: 1000";
        let clean = run(parse(&["Done 1000 runs in 10 second(s)", executed]));
        assert!(clean.is_clean());
        assert_eq!((clean.json()["finding"].clone(), clean.executions_per_second()), (serde_json::Value::Null, 100));
        let ended = run(parse(&[executed]));
        assert!(!ended.is_clean());
        assert!(ended.summary().contains("finding: the run ended early"), "{}", ended.summary());
        assert!(table(&[clean, ended]).to_string().contains("none"));
    }
}
