//! `cargo xtask test`: runs all checks and tests, and counts them in its last line.
//!
//! It runs the test executables itself and not through `cargo test`: some tests need root, which the compiler must not
//! have, and skipped tests must be named.

mod checks;
pub(crate) mod executables;
pub(crate) mod libtest_output;
mod steps;
mod tally;

use std::env;
use std::io::{self, Read as _, Write};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::Instant;

use anyhow::Context as _;

use self::executables::TestExecutable;
use self::libtest_output::{OutputParser, TestReport};
use self::steps::{Step, plan};
use self::tally::Tally;
use crate::sudo::RootAccess;
use crate::{bench, fuzz, process, setup};

/// Environment variables of the tests, for the help.
pub(crate) const ENVIRONMENT_HELP: &str = "\
Environment variables:
  PORT_ENFORCER_TEST_FULL=1        run tests under load in full length
  PORT_ENFORCER_TEST_EVERY_STEP=1  kill agents after every step of their start, not after some
  PORT_ENFORCER_TEST_PAIRS=N       compare this many pairs of generated objects with the model of the
                                   scheduler, not 10000
  PORT_ENFORCER_TEST_SEED=N         seed of the day of API trouble
  PORT_ENFORCER_TEST_PREDECESSOR=FILE
                                   upgrade from this binary of another version
  PORT_ENFORCER_SCREENSHOTS=FOLDER write the pictures of the plugin's page that docs/ has
  KUBEBUILDER_ASSETS=FOLDER        test with etcd and kube-apiserver of this folder (absolute path)
  KUBECONFIG=FILE                  otherwise test with the cluster of this file

Tests that inject faults always use the project's own API server.";

/// Variable with the number of generated pairs of objects. Without it, `cargo test` compares fewer than this command.
const PAIRS_VARIABLE: &str = "PORT_ENFORCER_TEST_PAIRS";
const PAIRS: &str = "10000";

/// Flags of `cargo xtask test`.
#[derive(Debug, clap::Args)]
#[command(after_help = ENVIRONMENT_HELP)]
pub(crate) struct Args {
    /// Run only tests whose name contains FILTER, and no other checks
    #[arg(value_name = "FILTER")]
    filter: Option<String>,
    /// Run only these steps
    #[arg(long, value_name = "STEP", value_enum, num_args = 1.., value_delimiter = ',')]
    only: Vec<Step>,
    /// Run only tests of code that is `unsafe`, with the address sanitizer: unit tests and kernel tests
    #[arg(long)]
    sanitized: bool,
}

pub(crate) fn run(Args { filter, only, sanitized }: Args) -> anyhow::Result<ExitCode> {
    let filter = filter.as_deref();
    let mut steps = plan(&only, filter, sanitized)?;
    let mut tally = Tally::default();

    if steps.iter().any(|step| step.compiles_kernel_programs())
        && let Err(error) = setup::ensure_build_tools()
    {
        heading("setup");
        tally.add_check("setup", Err(error));
        steps.retain(|step| !step.compiles_kernel_programs());
    }

    let mut build = TestBuild::Pending;
    for step in steps {
        heading(step.name());
        let start = Instant::now();
        let before = tally.totals();
        if let Err(error) = run_step(step, filter, sanitized, &mut build, &mut tally) {
            println!("error: {error:#}");
            tally.fail(step.name());
        }
        let verdict = match &build {
            TestBuild::Failed if matches!(step, Step::Tests | Step::Kernel) => "NOT RUN",
            _ => tally.totals().verdict_since(before),
        };
        println!("-- {}: {verdict} in {:.1} s", step.name(), start.elapsed().as_secs_f64());
    }

    if let Some(filter) = filter
        && tally.is_empty()
    {
        tally.fail(&format!("no test's name contains `{filter}`"));
    }
    tally.print();
    Ok(if tally.has_failures() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Runs a step and counts its results.
///
/// # Errors
///
/// If the step cannot run. A check or test that fails is no error here.
fn run_step(
    step: Step,
    filter: Option<&str>,
    sanitized: bool,
    build: &mut TestBuild,
    tally: &mut Tally,
) -> anyhow::Result<()> {
    let name = step.name();
    match step {
        Step::Fmt => tally.add_check(name, checks::fmt()),
        Step::Clippy => tally.add_check(name, checks::clippy()),
        Step::Deny => tally.add_check(name, checks::deny()),
        Step::Doc => tally.add_check(name, checks::doc()),
        Step::Windows => tally.check_or_skip(name, checks::windows_obstacle(), checks::windows),
        Step::Tests | Step::Kernel => run_executables(step, filter, sanitized, build, tally)?,
        Step::Doctests => run_doctests(filter, tally)?,
        Step::Fuzz => tally.add_fuzz_targets(fuzz::short()?),
        Step::Instructions => {
            tally.check_or_skip(name, bench::baseline_obstacle()?, bench::compare_with_baseline);
        }
    }
    Ok(())
}

/// State of the build of the test executables, which several steps share.
enum TestBuild {
    Pending,
    Failed,
    Done(Vec<TestExecutable>),
}

fn heading(name: &str) {
    println!("\n== {name} ==");
}

/// Runs the test executables of a step. The first step that needs them builds them all.
fn run_executables(
    step: Step,
    filter: Option<&str>,
    sanitized: bool,
    build: &mut TestBuild,
    tally: &mut Tally,
) -> anyhow::Result<()> {
    if let TestBuild::Pending = build {
        *build = match executables::build(sanitized) {
            Ok(executables) => TestBuild::Done(executables),
            Err(error) => {
                println!("error: {error:#}");
                // One failure, however many steps need the executables.
                tally.fail("the tests do not compile");
                TestBuild::Failed
            }
        };
    }
    let TestBuild::Done(executables) = build else {
        println!("not run: the tests do not compile");
        return Ok(());
    };
    let as_root = step == Step::Kernel;
    let executables: Vec<_> = executables.iter().filter(|executable| executable.needs_root() == as_root).collect();
    if executables.is_empty() {
        println!("no tests");
        return Ok(());
    }

    let access = if as_root { RootAccess::detect() } else { RootAccess::Direct };
    if access == RootAccess::Unavailable {
        tally.fail("kernel tests need root: run as root or install sudo");
        return Ok(());
    }
    for executable in executables {
        let mut environment = executable.environment();
        if sanitized {
            // Tests leak on purpose, and the leak sanitizer does not work in a traced process.
            environment.push(("ASAN_OPTIONS".to_owned(), "detect_leaks=0".to_owned()));
        }
        if !as_root && !sanitized && env::var_os(PAIRS_VARIABLE).is_none() {
            environment.push((PAIRS_VARIABLE.to_owned(), PAIRS.to_owned()));
        }
        let mut command = access.command(executable.path().as_std_path(), environment);
        command.current_dir(executable.package_folder());
        if as_root {
            // The tests share one kernel: cgroups, programs, ports, sysctls.
            command.arg("--test-threads=1");
        }
        command.args(filter);
        println!("\n-- {}", executable.name());
        let (report, status) = run_and_parse(&mut command, &mut io::stdout())?;
        tally.add_report(&executable.name(), report, status);
    }
    Ok(())
}

fn run_doctests(filter: Option<&str>, tally: &mut Tally) -> anyhow::Result<()> {
    let mut command = process::cargo();
    command.args(["test", "--doc", "--workspace", "--no-fail-fast"]);
    if let Some(filter) = filter {
        command.args(["--", filter]);
    }
    let (report, status) = run_and_parse(&mut command, &mut io::stdout())?;
    // A workspace without any doctest is fine.
    if report.closing_lines == 0 && status.success() {
        println!("no tests");
    } else {
        tally.add_report("doctests", report, status);
    }
    Ok(())
}

/// Runs a command, copies its standard output to `copy` at once, and parses it as the output of tests.
pub(crate) fn run_and_parse(command: &mut Command, copy: &mut impl Write) -> anyhow::Result<(TestReport, ExitStatus)> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", process::display(command)))?;
    let mut output = child.stdout.take().context("the test's standard output is not a pipe")?;
    let mut parser = OutputParser::default();
    let mut buffer = [0; 8192];
    loop {
        let length = match output.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            length => length.context("cannot read the test's output")?,
        };
        if length == 0 {
            break;
        }
        parser.feed(&buffer[..length]);
        copy.write_all(&buffer[..length]).and_then(|()| copy.flush()).context("cannot print the test's output")?;
    }
    let status = child.wait().context("cannot wait for the test")?;
    Ok((parser.finish(), status))
}

#[cfg(test)]
mod tests {
    use super::libtest_output::TestCounts;
    use super::*;

    #[test]
    fn output_is_copied_and_parsed_with_the_exit_status() {
        let script = "echo 'test a ... ignored, why'; echo 'test result: ok. 1 passed; 0 failed; 1 ignored; 0'; exit 3";
        let mut copy = Vec::new();
        let (report, status) = run_and_parse(Command::new("sh").args(["-c", script]), &mut copy).unwrap();
        assert_eq!(report.counts, TestCounts { passed: 1, failed: 0, ignored: 1 });
        assert_eq!(status.code(), Some(3));
        assert!(String::from_utf8(copy).unwrap().starts_with("test a ... ignored, why\ntest result: "));
    }
}
