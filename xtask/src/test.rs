//! `cargo xtask test`: every check and test, counted; the last line is the count.
//!
//! The test executables are run here and not by `cargo test`, because some of them need root, which the compiler must
//! not get, and because tests that were skipped have to be named.

mod executables;
pub(crate) mod libtest_output;

use std::io::{self, Read as _, Write};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail};
use clap::ValueEnum;

use self::executables::Executable;
use self::libtest_output::{Reader, Report, Skip};
use crate::sudo::Root;
use crate::{bench, fuzz, process, setup};

/// What of the environment the tests heed.
pub(crate) const ENVIRONMENT: &str = "With PORT_ENFORCER_TEST_FULL=1 in the environment, tests under load run in full \
     length; with PORT_ENFORCER_TEST_EVERY_STEP=1, agents are killed after every step and not after some. With \
     KUBEBUILDER_ASSETS, tests that need no faults run against etcd and kube-apiserver from that folder; else with \
     KUBECONFIG, against that cluster.";

/// The flags of `cargo xtask test`.
#[derive(Debug, clap::Args)]
#[command(after_help = ENVIRONMENT)]
pub(crate) struct Args {
    /// Run only tests whose name contains this, and no other checks
    #[arg(value_name = "FILTER")]
    filter: Option<String>,
    /// Run only these steps
    #[arg(long, value_name = "STEP", value_enum, num_args = 1.., value_delimiter = ',')]
    only: Vec<Step>,
    /// Run only the tests of what is `unsafe`, with the address sanitizer: unit tests and those on the real kernel
    #[arg(long)]
    sanitized: bool,
}

/// In the order in which they run: what is quick and often wrong comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Step {
    /// rustfmt
    Fmt,
    /// Clippy on the host, on the BPF target and on the fuzz targets, warnings denied
    Clippy,
    /// cargo-deny: licences, duplicates, sources
    Deny,
    /// rustdoc, warnings denied
    Doc,
    /// Unit, property and command-line tests
    Tests,
    /// Tests on the real kernel, which need root
    Kernel,
    /// The examples in the documentation
    Doctests,
    /// Every fuzz target: its seeds, and some seconds of fuzzing
    Fuzz,
    /// Instructions of the agent's work, compared with the baseline
    Instructions,
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Self::Fmt => "fmt",
            Self::Clippy => "clippy",
            Self::Deny => "deny",
            Self::Doc => "doc",
            Self::Tests => "tests",
            Self::Kernel => "kernel",
            Self::Doctests => "doctests",
            Self::Fuzz => "fuzz",
            Self::Instructions => "instructions",
        }
    }

    /// Whether the step runs tests that a filter can choose from.
    fn has_tests(self) -> bool {
        matches!(self, Self::Tests | Self::Kernel | Self::Doctests)
    }

    /// Whether the step has tests that can be sanitized.
    fn has_sanitized(self) -> bool {
        matches!(self, Self::Tests | Self::Kernel)
    }

    /// Whether the step compiles the kernel programs.
    fn needs_setup(self) -> bool {
        !matches!(self, Self::Fmt | Self::Deny | Self::Fuzz)
    }
}

/// What to run: the steps asked for, or all that fit.
fn plan(only: &[Step], filter: Option<&str>, sanitized: bool) -> anyhow::Result<Vec<Step>> {
    let fits = |step: &Step| (filter.is_none() || step.has_tests()) && (!sanitized || step.has_sanitized());
    let wanted = |step: &Step| only.contains(step) || (only.is_empty() && fits(step));
    let steps: Vec<Step> = Step::value_variants().iter().copied().filter(wanted).collect();
    if let (Some(filter), Some(step)) = (filter, steps.iter().find(|step| !step.has_tests())) {
        bail!(
            "the filter `{filter}` chooses among tests, and the step `{}` has none: leave one of them out",
            step.name()
        );
    }
    if let Some(step) = steps.iter().find(|step| sanitized && !step.has_sanitized()) {
        bail!("nothing of the step `{}` can be sanitized: leave it or --sanitized out", step.name());
    }
    Ok(steps)
}

pub(crate) fn run(Args { filter, only, sanitized }: Args) -> anyhow::Result<ExitCode> {
    let filter = filter.as_deref();
    let mut steps = plan(&only, filter, sanitized)?;
    let mut tally = Tally::default();

    if steps.iter().any(|step| step.needs_setup())
        && let Err(error) = setup::ensure()
    {
        heading("setup");
        println!("error: {error:#}");
        tally.fail("setup");
        steps.retain(|step| !step.needs_setup());
    }

    let mut built = Built::NotYet;
    for step in steps {
        heading(step.name());
        let start = Instant::now();
        let failed_before = tally.failed;
        let done = match step {
            Step::Fmt => tally.check(step, fmt()),
            Step::Clippy => tally.check(step, clippy()),
            Step::Deny => tally.check(step, deny()),
            Step::Doc => tally.check(step, doc()),
            Step::Tests | Step::Kernel => run_executables(step, filter, sanitized, &mut built, &mut tally),
            Step::Doctests => doctests(filter, &mut tally),
            Step::Fuzz => fuzz::short().map(|results| tally.fuzzed(results)),
            Step::Instructions => instructions(&mut tally),
        };
        if let Err(error) = done {
            println!("error: {error:#}");
            tally.fail(step.name());
        }
        let verdict = match &built {
            Built::Broken if matches!(step, Step::Tests | Step::Kernel) => "NOT RUN",
            _ if tally.failed == failed_before => "passed",
            _ => "FAILED",
        };
        println!("-- {}: {verdict} in {:.1} s", step.name(), start.elapsed().as_secs_f64());
    }

    if let Some(filter) = filter
        && tally == Tally::default()
    {
        tally.fail(&format!("no test's name contains `{filter}`"));
    }
    tally.print();
    Ok(if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The test executables, which several steps share.
enum Built {
    NotYet,
    Broken,
    Done(Vec<Executable>),
}

fn heading(name: &str) {
    println!("\n== {name} ==");
}

/// Everything counted so far.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: usize,
    failed: usize,
    skipped: usize,
    failures: Vec<String>,
    skips: Vec<Skip>,
}

impl Tally {
    fn fail(&mut self, name: &str) {
        self.failed += 1;
        self.failures.push(name.to_owned());
    }

    fn skip(&mut self, name: &str, reason: String) {
        self.skipped += 1;
        self.skips.push(Skip { name: name.to_owned(), reason: Some(reason) });
    }

    /// Counts a step that is one test.
    #[expect(clippy::unnecessary_wraps, reason = "the other steps can fail in ways that are no verdict")]
    fn check(&mut self, step: Step, result: anyhow::Result<()>) -> anyhow::Result<()> {
        match result {
            Ok(()) => self.passed += 1,
            Err(error) => {
                println!("error: {error:#}");
                self.fail(step.name());
            }
        }
        Ok(())
    }

    /// Counts each target as one test.
    fn fuzzed(&mut self, results: Vec<(String, bool)>) {
        for (target, clean) in results {
            if clean {
                self.passed += 1;
            } else {
                self.fail(&format!("fuzz: {target}"));
            }
        }
    }

    /// Counts what a run of tests reported, and how it ended.
    fn add(&mut self, name: &str, report: Report, status: ExitStatus) {
        let Report { closings, counts, failures, skips } = report;
        self.passed += counts.passed;
        self.failed += counts.failed;
        self.skipped += counts.ignored;

        let unnamed = |total: usize, named: usize| total.saturating_sub(named);
        let nameless = unnamed(counts.failed, failures.len());
        self.failures.extend(failures.into_iter().map(|failure| format!("{name}: {failure}")));
        self.failures.extend((0..nameless).map(|_| format!("{name}: a test whose name was not printed")));
        let nameless = unnamed(counts.ignored, skips.len());
        self.skips.extend(skips.into_iter().map(|skip| Skip { name: format!("{name}: {}", skip.name), ..skip }));
        let skip = Skip { name: format!("{name}: a test whose name was not printed"), reason: None };
        self.skips.extend((0..nameless).map(|_| skip.clone()));

        if closings == 0 {
            self.fail(&format!("{name}: ended without a test result ({status})"));
        } else if !status.success() && counts.failed == 0 {
            self.fail(&format!("{name}: no test failed, but it ended with {status}"));
        }
    }

    fn print(&self) {
        println!();
        if !self.skips.is_empty() {
            println!("skipped:");
            for Skip { name, reason } in &self.skips {
                println!("    {name} ({})", reason.as_deref().unwrap_or("no reason given"));
            }
        }
        if !self.failures.is_empty() {
            println!("failed:");
            for name in &self.failures {
                println!("    {name}");
            }
        }
        println!("{}", self.closing_line());
    }

    fn closing_line(&self) -> String {
        let Self { passed, failed, skipped, .. } = self;
        match skipped {
            0 => format!("{passed} passed, {failed} failed"),
            skipped => format!("{passed} passed, {failed} failed, {skipped} skipped"),
        }
    }
}

fn fmt() -> anyhow::Result<()> {
    process::run(process::cargo().args(["fmt", "--all", "--check"])).context("`cargo fmt` mends the format")?;
    fuzz::fmt()
}

/// All are always checked, so that one run shows everything.
fn clippy() -> anyhow::Result<()> {
    let mut host = process::cargo();
    host.args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    let host = process::run(&mut host).context("on the host");

    setup::ensure_clippy()?;
    // What aya-build 0.2 compiles with, but in a target folder of its own: another toolchain would throw away what is
    // in the shared one.
    let order = if cfg!(target_endian = "big") { "bpfeb" } else { "bpfel" };
    let mut bpf = process::nightly("cargo");
    bpf.args(["clippy", "--package", "enforcer-ebpf", "--bin", "port-enforcer-bpf", "-Z", "build-std=core"])
        .args(["--target", &format!("{order}-unknown-none"), "--target-dir", "target/clippy-bpf"])
        .args(["--", "-D", "warnings"])
        .env("CARGO_ENCODED_RUSTFLAGS", format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH));
    let bpf = process::run(&mut bpf).context("on the BPF target");

    let failures: Vec<String> = [host, bpf, fuzz::clippy()]
        .into_iter()
        .filter_map(|result| result.err().map(|error| format!("{error:#}")))
        .collect();
    if failures.is_empty() { Ok(()) } else { bail!("{}", failures.join("; ")) }
}

/// Where the baseline says nothing, that is a skip with its reason.
fn instructions(tally: &mut Tally) -> anyhow::Result<()> {
    let step = Step::Instructions;
    if let Some(reason) = bench::obstacle()? {
        println!("skipped: {reason}");
        tally.skip(step.name(), reason);
        return Ok(());
    }
    tally.check(step, bench::compare())
}

fn deny() -> anyhow::Result<()> {
    setup::ensure_cargo_deny()?;
    process::run(process::cargo().args(["deny", "--all-features", "check", "licenses", "bans", "sources"]))
}

fn doc() -> anyhow::Result<()> {
    process::run(process::cargo().args(["doc", "--no-deps", "--workspace"]).env("RUSTDOCFLAGS", "-Dwarnings"))
}

/// Runs the executables that belong to the step. They are built by the first step that asks for them.
fn run_executables(
    step: Step,
    filter: Option<&str>,
    sanitized: bool,
    built: &mut Built,
    tally: &mut Tally,
) -> anyhow::Result<()> {
    if let Built::NotYet = built {
        *built = match executables::build(sanitized) {
            Ok(executables) => Built::Done(executables),
            Err(error) => {
                println!("error: {error:#}");
                Built::Broken
            }
        };
        if let Built::Broken = built {
            tally.fail("the tests do not compile");
        }
    }
    let Built::Done(executables) = built else {
        // It is one failure, however many steps meet it.
        println!("not run: the tests do not compile");
        return Ok(());
    };
    let as_root = step == Step::Kernel;
    let executables: Vec<_> = executables.iter().filter(|executable| executable.needs_root() == as_root).collect();
    if executables.is_empty() {
        println!("no tests");
        return Ok(());
    }

    let root = if as_root { Root::find() } else { Root::Already };
    if root == Root::Unavailable {
        tally.fail("kernel tests need root: run as root or install sudo");
        return Ok(());
    }
    for executable in executables {
        let mut environment = executable.environment();
        if sanitized {
            // Tests leak on purpose, and a process that is traced cannot be searched for leaks.
            environment.push(("ASAN_OPTIONS".to_owned(), "detect_leaks=0".to_owned()));
        }
        let mut command = root.command(executable.path().as_std_path(), environment);
        command.current_dir(executable.package_folder());
        if as_root {
            // They share one kernel: cgroups, programs, ports, sysctls.
            command.arg("--test-threads=1");
        }
        command.args(filter);
        println!("\n-- {}", executable.name());
        let (report, status) = tee(&mut command, &mut io::stdout())?;
        tally.add(&executable.name(), report, status);
    }
    Ok(())
}

fn doctests(filter: Option<&str>, tally: &mut Tally) -> anyhow::Result<()> {
    let mut command = process::cargo();
    command.args(["test", "--doc", "--workspace", "--no-fail-fast"]);
    if let Some(filter) = filter {
        command.args(["--", filter]);
    }
    let (report, status) = tee(&mut command, &mut io::stdout())?;
    // A workspace in which no library has documentation to test is fine.
    if report.closings == 0 && status.success() {
        println!("no tests");
    } else {
        tally.add("doctests", report, status);
    }
    Ok(())
}

/// Runs a command, copies its standard output to `shown` as it comes, and reads it at the same time.
fn tee(command: &mut Command, shown: &mut impl Write) -> anyhow::Result<(Report, ExitStatus)> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("`{}` could not be started", process::display(command)))?;
    let mut output = child.stdout.take().context("the test's standard output is not a pipe")?;
    let mut reader = Reader::default();
    let mut buffer = [0; 8192];
    loop {
        let length = match output.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            length => length.context("the test's output could not be read")?,
        };
        if length == 0 {
            break;
        }
        reader.feed(&buffer[..length]);
        shown.write_all(&buffer[..length]).and_then(|()| shown.flush()).context("the output cannot be shown")?;
    }
    let status = child.wait().context("the test could not be waited for")?;
    Ok((reader.finish(), status))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::libtest_output::Counts;
    use super::*;

    fn exit(code: i32) -> ExitStatus {
        ExitStatus::from_raw(code << 8)
    }

    fn report(passed: usize, failed: usize, ignored: usize) -> Report {
        Report { closings: 1, counts: Counts { passed, failed, ignored }, ..Report::default() }
    }

    #[test]
    fn filter_restricts_to_tests() {
        let all = Step::value_variants();
        assert_eq!(plan(&[], None, false).unwrap(), all);
        assert_eq!(plan(&[], Some("x"), false).unwrap(), [Step::Tests, Step::Kernel, Step::Doctests]);
        assert_eq!(plan(&[Step::Doc, Step::Fmt], None, false).unwrap(), [Step::Fmt, Step::Doc], "in the usual order");
        assert_eq!(plan(&[Step::Kernel], Some("x"), false).unwrap(), [Step::Kernel]);
        assert!(plan(&[Step::Kernel, Step::Fmt], Some("x"), false).is_err());
    }

    #[test]
    fn sanitizing_restricts_to_what_runs_unsafe_code() {
        assert_eq!(plan(&[], None, true).unwrap(), [Step::Tests, Step::Kernel]);
        assert_eq!(plan(&[], Some("x"), true).unwrap(), [Step::Tests, Step::Kernel]);
        assert_eq!(plan(&[Step::Kernel], None, true).unwrap(), [Step::Kernel]);
        assert!(plan(&[Step::Kernel, Step::Doctests], None, true).is_err());
    }

    #[test]
    fn closing_line_names_skips_only_if_there_are_any() {
        let mut tally = Tally::default();
        tally.add("a", report(3, 0, 0), exit(0));
        assert_eq!(tally.closing_line(), "3 passed, 0 failed");
        tally.add("b", report(2, 1, 4), exit(101));
        assert_eq!(tally.closing_line(), "5 passed, 1 failed, 4 skipped");
        assert_eq!(tally.failures, ["b: a test whose name was not printed"]);
        assert_eq!(tally.skips.len(), 4);
    }

    #[test]
    fn bad_end_of_an_executable_is_a_failure() {
        let mut tally = Tally::default();
        tally.add("silent", Report::default(), exit(0));
        tally.add("liar", report(1, 0, 0), exit(1));
        tally.add("aborted", Report::default(), ExitStatus::from_raw(6));
        assert_eq!((tally.passed, tally.failed), (1, 3));
        assert!(tally.failures[0].starts_with("silent: ended without a test result"), "{:?}", tally.failures);
        assert!(tally.failures[1].starts_with("liar: no test failed, but it ended with"), "{:?}", tally.failures);
        assert!(tally.failures[2].contains("signal: 6"), "{:?}", tally.failures);
    }

    #[test]
    fn every_fuzz_target_is_a_test() {
        let mut tally = Tally::default();
        tally.fuzzed(vec![("ring".into(), true), ("text".into(), false), ("pod".into(), true)]);
        assert_eq!(tally.closing_line(), "2 passed, 1 failed");
        assert_eq!(tally.failures, ["fuzz: text"]);
    }

    #[test]
    fn names_carry_their_executable() {
        let skips = vec![Skip { name: "s".into(), reason: Some("why".into()) }];
        let mut tally = Tally::default();
        tally.add("enforcer/kernel", Report { failures: vec!["f".into()], skips, ..report(0, 1, 1) }, exit(101));
        assert_eq!(tally.failures, ["enforcer/kernel: f"]);
        assert_eq!(tally.skips, [Skip { name: "enforcer/kernel: s".into(), reason: Some("why".into()) }]);
    }

    #[test]
    fn output_is_read_and_the_end_is_known() {
        let script = "echo 'test a ... ignored, why'; echo 'test result: ok. 1 passed; 0 failed; 1 ignored; 0'; exit 3";
        let mut shown = Vec::new();
        let (report, status) = tee(Command::new("sh").args(["-c", script]), &mut shown).unwrap();
        assert_eq!(report.counts, Counts { passed: 1, failed: 0, ignored: 1 });
        assert_eq!(status.code(), Some(3));
        assert!(String::from_utf8(shown).unwrap().starts_with("test a ... ignored, why\ntest result: "));
    }
}
