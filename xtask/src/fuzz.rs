//! `cargo xtask fuzz`: what others write and the enforcer reads, in the hands of libFuzzer.
//!
//! cargo-fuzz builds the targets; they are run here, because its own `run` says neither how far it is nor, for several
//! targets, what came of them.

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

use self::libfuzzer_output::Outcome;
use crate::{output_format::Output, parallel::in_turn, process, setup};

/// The crate with the targets. It is none of the workspace.
const CRATE: &str = "enforcer/fuzz";
/// Where cargo-fuzz builds, and where inputs that were found and what went wrong are kept.
const FOLDER: &str = "target/fuzz";
/// One input that takes longer is a finding, in seconds. Long, because on a busy machine the process itself waits for many.
const TIMEOUT: u64 = 60;
/// Seconds between two lines that say how far a target is.
const TELL_EVERY: Duration = Duration::from_secs(15);
/// How long `cargo xtask test` fuzzes each target, in seconds.
const SHORT: u64 = 4;

/// The flags of `cargo xtask fuzz`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Fuzz only these targets
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// How long each target is fuzzed, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = NonZero::new(600).unwrap())]
    time: NonZero<u64>,
    /// How many targets are fuzzed at once
    #[arg(long, value_name = "N", default_value_t = NonZero::<usize>::MIN)]
    jobs: NonZero<usize>,
    /// Run these inputs of the target, and nothing else: what reproduces a finding
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["time", "jobs"])]
    input: Vec<PathBuf>,
    /// How the result is written
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// What is done with a target.
#[derive(Clone, Copy, Debug)]
enum Task<'a> {
    /// Run the seeds and what was found before, then look for more, for so many seconds; and keep that.
    Long(u64),
    /// Run the seeds, and look for more for so many seconds. Every run begins anew.
    Short(u64),
    /// Run these inputs.
    Inputs(&'a [PathBuf]),
}

/// What came of a target.
#[derive(Debug)]
struct Run {
    target: String,
    outcome: Outcome,
    took: Duration,
    log: PathBuf,
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Args { targets, time, jobs, input, output } = args;
    let targets = chosen(&all()?, &targets)?;
    if !input.is_empty() && targets.len() != 1 {
        bail!("name the one target that the inputs are for: cargo xtask fuzz TARGET --input FILE");
    }
    let input =
        input.iter().map(|path| path.canonicalize().with_context(|| format!("{} cannot be read", path.display())));
    let input: Vec<PathBuf> = input.collect::<anyhow::Result<_>>()?;
    build()?;
    let task = if input.is_empty() { Task::Long(time.get()) } else { Task::Inputs(&input) };
    let say = |line: &str| output.say(line);
    let runs = in_turn(targets, jobs.get(), |target| {
        let run = fuzz(&target, task, &say)?;
        say(&run.line());
        Ok(run)
    })?;
    match output {
        Output::Table => println!("\n{}", table(&runs)),
        Output::Json => println!("{:#}", json!({ "targets": runs.iter().map(Run::json).collect::<Vec<_>>() })),
    }
    Ok(if runs.iter().all(Run::is_clean) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// For `cargo xtask test`: all targets, shortly. The name of each, and whether nothing was found.
pub(crate) fn short() -> anyhow::Result<Vec<(String, bool)>> {
    let targets = all()?;
    build()?;
    let mut results = Vec::new();
    for target in targets {
        let run = fuzz(&target, Task::Short(SHORT), &|_| {})?;
        println!("{}", run.line());
        results.push((target, run.is_clean()));
    }
    Ok(results)
}

/// Rustfmt for the crate with the targets.
pub(crate) fn fmt() -> anyhow::Result<()> {
    process::run(process::cargo().args(["fmt", "--check", "--manifest-path"]).arg(manifest()))
        .with_context(|| format!("`cargo fmt --manifest-path {CRATE}/Cargo.toml` mends the format"))
}

/// Clippy for the crate with the targets.
pub(crate) fn clippy() -> anyhow::Result<()> {
    let mut clippy = process::cargo();
    // In the workspace's own target folder, where most of the dependencies are checked already. Not all targets: the
    // modules' own tests belong to the crates that they are of.
    clippy.args(["clippy", "--locked", "--lib", "--bins", "--target-dir", "target", "--manifest-path"]).arg(manifest());
    process::run(clippy.args(["--", "-D", "warnings"])).with_context(|| {
        format!(
            "in {CRATE}; if its Cargo.lock is not up to date, `cargo update --workspace --manifest-path \
             {CRATE}/Cargo.toml` mends it"
        )
    })
}

fn manifest() -> PathBuf {
    process::root().join(CRATE).join("Cargo.toml")
}

/// The names of all targets, sorted.
fn all() -> anyhow::Result<Vec<String>> {
    let folder = process::root().join(CRATE).join("fuzz_targets");
    let entries = fs::read_dir(&folder).with_context(|| format!("{} cannot be read", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("{} cannot be read", folder.display()))?.path();
        names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

/// The targets that were asked for: all, if none was.
fn chosen(all: &[String], wanted: &[String]) -> anyhow::Result<Vec<String>> {
    if let Some(unknown) = wanted.iter().find(|name| !all.contains(name)) {
        bail!("there is no target `{unknown}`; there are {}", all.join(", "));
    }
    let is_wanted = |name: &&String| wanted.is_empty() || wanted.contains(name);
    Ok(all.iter().filter(is_wanted).cloned().collect())
}

fn build() -> anyhow::Result<()> {
    setup::ensure_cargo_fuzz()?;
    let mut cargo = process::nightly("cargo");
    cargo.args(["fuzz", "build", "--fuzz-dir", CRATE, "--target", &process::triple(), "--target-dir", FOLDER]);
    process::run_on_stderr(&mut cargo).context("the fuzz targets could not be built")
}

/// A folder below [`FOLDER`] that is there.
fn folder(kind: &str, target: &str) -> anyhow::Result<PathBuf> {
    let folder = process::root().join(FOLDER).join(kind).join(target);
    fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    Ok(folder)
}

/// As [`folder`], with nothing in it.
fn empty(kind: &str, target: &str) -> anyhow::Result<PathBuf> {
    let emptied = folder(kind, target)?;
    fs::remove_dir_all(&emptied).with_context(|| format!("{} cannot be emptied", emptied.display()))?;
    folder(kind, target)
}

fn command(target: &str, task: Task<'_>, artifacts: &Path, kept: &Path) -> Command {
    let executable = process::root().join(FOLDER).join(process::triple()).join("release").join(target);
    let mut command = Command::new(executable);
    command.arg(format!("-artifact_prefix={}/", artifacts.display())).arg(format!("-timeout={TIMEOUT}"));
    let seeds = process::root().join(CRATE).join("seeds").join(target);
    match task {
        // What is found goes to the first folder, and never to the seeds.
        Task::Long(seconds) | Task::Short(seconds) => {
            command.args([kept, &seeds]).arg(format!("-max_total_time={seconds}"))
        }
        Task::Inputs(inputs) => command.args(inputs),
    };
    // Nothing here can leak but by intent. Looking for leaks after every input, and for the names of functions whenever
    // one is new, takes nearly all of the time.
    command.args(["-print_final_stats=1", "-detect_leaks=0", "-print_funcs=0"]);
    command
}

fn fuzz(target: &str, task: Task<'_>, say: &dyn Fn(&str)) -> anyhow::Result<Run> {
    let artifacts = folder("artifacts", target)?;
    let kept = match task {
        Task::Short(_) => empty("short", target)?,
        Task::Long(_) | Task::Inputs(_) => folder("corpus", target)?,
    };
    let log = folder("logs", target)?.join("log");
    let mut command = command(target, task, &artifacts, &kept);
    let start = Instant::now();
    let written = || format!("{} cannot be written", log.display());
    let mut file = fs::File::create(&log).with_context(written)?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("`{}` could not be started", process::display(&command)))?;
    let output = child.stderr.take().context("the target's standard error is not a pipe")?;
    let mut outcome = Outcome::default();
    let mut told = start;
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("the target's output could not be read")?;
        file.write_all(&line).and_then(|()| file.write_all(b"\n")).with_context(written)?;
        if outcome.line(&String::from_utf8_lossy(&line)) && told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            say(&progress(target, &outcome, start.elapsed()));
        }
    }
    let status = child.wait().context("the target could not be waited for")?;
    if !status.success() {
        outcome.whole = false;
        outcome.wrong.get_or_insert_with(|| format!("it ended with {status}"));
    }
    Ok(Run { target: target.to_owned(), outcome, took: start.elapsed(), log })
}

/// `annotation: 120 s, 1048576 executions, coverage 78, 20 inputs`.
fn progress(target: &str, outcome: &Outcome, took: Duration) -> String {
    let libfuzzer_output::Progress { executions, coverage, inputs, .. } = outcome.progress;
    format!("{target}: {} s, {executions} executions, coverage {coverage}, {inputs} inputs", took.as_secs())
}

impl Run {
    fn is_clean(&self) -> bool {
        self.outcome.whole && self.outcome.wrong.is_none() && self.outcome.reproducer.is_none()
    }

    fn per_second(&self) -> u64 {
        self.outcome.progress.executions / self.took.as_secs().max(1)
    }

    fn finding(&self) -> &str {
        match &self.outcome.wrong {
            _ if self.is_clean() => "none",
            Some(wrong) => wrong,
            None => "it ended before its time",
        }
    }

    /// What came of it, and of a finding where to look and what to do.
    fn line(&self) -> String {
        let Self { target, outcome, took, log } = self;
        let mut line = format!("{}; finding: {}", progress(target, outcome, *took), self.finding());
        // Writing to a string cannot fail.
        if let Some(reproducer) = &outcome.reproducer {
            let reproducer = reproducer.strip_prefix(process::root()).unwrap_or(reproducer).display();
            let _ = write!(
                line,
                "\n    reproducer: {reproducer}\n    run it: cargo xtask fuzz {target} --input {reproducer}\n    \
                 once it is mended, keep it: cp {reproducer} {CRATE}/seeds/{target}/"
            );
        }
        if !self.is_clean() {
            let _ = write!(line, "\n    all it said: {}", log.display());
        }
        line
    }

    fn json(&self) -> serde_json::Value {
        let libfuzzer_output::Progress { executions, coverage, features, inputs } = self.outcome.progress;
        json!({
            "target": self.target,
            "executions": executions,
            "perSecond": self.per_second(),
            "coverage": coverage,
            "features": features,
            "inputs": inputs,
            "seconds": self.took.as_secs(),
            "finding": if self.is_clean() { None } else { Some(self.finding()) },
            "reproducer": self.outcome.reproducer,
            "log": self.log,
        })
    }
}

fn table(runs: &[Run]) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING);
    table.set_header(["TARGET", "SECONDS", "EXECUTIONS", "PER SECOND", "COVERAGE", "INPUTS", "FINDING"]);
    for run in runs {
        let libfuzzer_output::Progress { executions, coverage, inputs, .. } = run.outcome.progress;
        let numbers =
            [run.took.as_secs(), executions, run.per_second(), coverage, inputs].map(|number| number.to_string());
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

    /// The outcome of these lines.
    fn outcome(lines: &[&str]) -> Outcome {
        let mut outcome = Outcome::default();
        for line in lines {
            outcome.line(line);
        }
        outcome
    }

    fn run(outcome: Outcome) -> Run {
        Run { target: "text".into(), outcome, took: Duration::from_secs(10), log: "/log".into() }
    }

    #[test]
    fn every_target_is_a_binary_and_has_seeds() {
        let all = all().unwrap();
        assert!(all.len() >= 6, "{all:?}");
        let manifest = fs::read_to_string(manifest()).unwrap();
        for target in all {
            assert!(
                manifest.contains(&format!("name = \"{target}\"\npath = \"fuzz_targets/{target}.rs\"")),
                "{target}"
            );
            let seeds = process::root().join(CRATE).join("seeds").join(&target);
            assert!(fs::read_dir(&seeds).unwrap().count() > 0, "{target}");
        }
    }

    #[test]
    fn targets_are_chosen_by_name() {
        let all = names(&["annotation", "ring", "text"]);
        assert_eq!(chosen(&all, &[]).unwrap(), all);
        assert_eq!(chosen(&all, &names(&["text", "annotation"])).unwrap(), names(&["annotation", "text"]));
        let error = chosen(&all, &names(&["txt"])).unwrap_err().to_string();
        assert_eq!(error, "there is no target `txt`; there are annotation, ring, text");
    }

    #[test]
    fn what_is_found_does_not_go_to_the_seeds() {
        for task in [Task::Long(7), Task::Short(7)] {
            let command = command("text", task, Path::new("/artifacts"), Path::new("/kept"));
            let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
            let folders: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
            assert_eq!(folders.len(), 2, "{arguments:?}");
            assert_eq!(folders[0], "/kept", "libFuzzer writes to the first one");
            assert!(folders[1].ends_with("enforcer/fuzz/seeds/text"), "{arguments:?}");
            assert!(arguments.contains(&"-max_total_time=7".into()), "{arguments:?}");
        }
    }

    #[test]
    fn a_finding_says_what_to_do() {
        let reproducer = process::root().join("target/fuzz/artifacts/text/crash-1");
        let written = format!("artifact_prefix=''; Test unit written to {}", reproducer.display());
        let found = run(outcome(&["==1==ERROR: boom", &written]));
        assert!(!found.is_clean());
        let line = found.line();
        assert!(line.contains("finding: boom"), "{line}");
        assert!(line.contains("run it: cargo xtask fuzz text --input target/fuzz/artifacts/text/crash-1\n"), "{line}");
        assert_eq!(found.json()["finding"], "boom");
    }

    #[test]
    fn what_did_not_come_to_its_end_is_not_clean() {
        let executed = "stat::number_of_executed_units: 1000";
        let clean = run(outcome(&["Done 1000 runs in 10 second(s)", executed]));
        assert!(clean.is_clean());
        assert_eq!((clean.json()["finding"].clone(), clean.per_second()), (serde_json::Value::Null, 100));
        let ended = run(outcome(&[executed]));
        assert!(!ended.is_clean());
        assert!(ended.line().contains("finding: it ended before its time"), "{}", ended.line());
        assert!(table(&[clean, ended]).to_string().contains("none"));
    }
}
