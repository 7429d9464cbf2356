//! `cargo xtask siege`: runs the tests under load in full length, checks the figures that they print, and writes them
//! into `docs/reliability.md`.

mod figures;
mod page;
mod parts;

use std::env;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use clap::ValueEnum as _;
use comfy_table::{Table, presets::NOTHING};

use self::figures::{FigureParser, Figures};
use self::parts::{Expected, Part, Test};
use crate::sudo::RootAccess;
use crate::test::executables::{self, TestExecutable};
use crate::test::run_and_parse;
use crate::{bench, process, setup};

/// Variable with the binary of another version.
const PREDECESSOR: &str = "PORT_ENFORCER_TEST_PREDECESSOR";
/// The page, below the workspace's root.
const PAGE: &str = "docs/reliability.md";

/// Flags of `cargo xtask siege`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A siege in full length takes between one and two hours. With PORT_ENFORCER_TEST_PREDECESSOR=FILE, which names the agent of
another version, the storm has an upgrade from it too.")]
pub(crate) struct Args {
    /// Run only these parts
    #[arg(value_name = "PART", value_enum)]
    parts: Vec<Part>,
    /// Run the short forms of the tests: a few minutes
    #[arg(long)]
    quick: bool,
    /// Seed of the day of API trouble [default: another one each time; with --quick always the same]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Write docs/reliability.md from the figures of this run
    #[arg(long, conflicts_with_all = ["quick", "parts", "page"])]
    document: bool,
    /// Write the page into this file instead, also from short forms or some parts
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
}

/// A part that was run.
#[derive(Debug)]
struct PartRun {
    part: Part,
    tests: Vec<Test>,
    figures: Figures,
    expected: Vec<Expected>,
    duration: Duration,
}

pub(crate) fn run(Args { mut parts, quick, seed, document, page }: Args) -> anyhow::Result<ExitCode> {
    if parts.is_empty() {
        parts = Part::value_variants().to_vec();
    }
    parts.sort_unstable();
    parts.dedup();
    if parts.iter().any(|part| *part != Part::Api) && RootAccess::detect() == RootAccess::Unavailable {
        bail!("the tests under load use the real kernel and need root: run as root or install sudo");
    }
    setup::ensure_build_tools()?;
    let executables = executables::build(false)?;
    let has_predecessor = env::var_os(PREDECESSOR).is_some_and(|path| !path.is_empty());
    let environment = environment(quick, seed);
    let (mut runs, mut failures) = (Vec::new(), Vec::new());
    for part in parts {
        println!("\n== {} ==", part.name());
        match run_part(part, has_predecessor, quick, |test| run_test(&executables, test, &environment)) {
            Ok(run) => {
                println!("\n{}", table(&run));
                runs.push(run);
            }
            Err(error) => {
                println!("error: {error:#}");
                failures.push(part.name());
            }
        }
    }
    if !failures.is_empty() {
        println!("\nfailed: {}", failures.join(", "));
        return Ok(ExitCode::FAILURE);
    }
    if let Some(path) = page.or_else(|| document.then(|| process::workspace_root().join(PAGE))) {
        let text = page::render(&bench::day(), &bench::machine(), quick, &runs);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the variables of the tests. Where they are short, those of the environment have no effect.
fn environment(quick: bool, seed: Option<u64>) -> Vec<(String, String)> {
    let full = if quick { "0" } else { "1" };
    let names = ["PORT_ENFORCER_TEST_FULL", "PORT_ENFORCER_TEST_EVERY_STEP"];
    let mut environment: Vec<_> = names.map(|name| (name.to_owned(), full.to_owned())).into();
    // A number that is new each time finds more, and is printed with the figures.
    let new = || (!quick).then(|| jiff::Timestamp::now().as_second().unsigned_abs());
    if let Some(seed) = seed.or_else(new) {
        environment.push(("PORT_ENFORCER_TEST_SEED".to_owned(), seed.to_string()));
    }
    environment
}

/// Runs the tests of a part, and checks their figures.
fn run_part(
    part: Part,
    has_predecessor: bool,
    quick: bool,
    mut run: impl FnMut(Test) -> anyhow::Result<Figures>,
) -> anyhow::Result<PartRun> {
    let start = Instant::now();
    let tests = part.tests(has_predecessor);
    let mut figures = Figures::default();
    for test in &tests {
        figures.merge(run(*test).with_context(|| format!("{}, {}", test.executable, test.name))?)?;
    }
    let expected = part.expected(has_predecessor);
    if let Err(problems) = part.check(&figures, &expected, quick) {
        bail!("{}", problems.join("\n       "));
    }
    Ok(PartRun { part, tests, figures, expected, duration: start.elapsed() })
}

/// Copies output to standard output, and finds the figures in it.
#[derive(Default)]
struct Tee(FigureParser);

impl Write for Tee {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.feed(bytes);
        io::stdout().write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}

/// Runs one test. It must pass, and must not be skipped.
fn run_test(
    executables: &[TestExecutable],
    Test { executable, name }: Test,
    environment: &[(String, String)],
) -> anyhow::Result<Figures> {
    let executable = executables.iter().find(|known| known.name() == executable);
    let executable = executable.context("there is no such test executable")?;
    // Detected for each test, since sudo may need the password again.
    let access = if executable.needs_root() { RootAccess::detect() } else { RootAccess::Direct };
    let variables = [executable.environment(), environment.to_vec()].concat();
    let mut command = access.command(executable.path().as_std_path(), variables);
    command.current_dir(executable.package_folder());
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]);
    let mut tee = Tee::default();
    let (report, status) = run_and_parse(&mut command, &mut tee)?;
    let counts = report.counts;
    if let Some(skip) = report.skips.first() {
        bail!("the test was skipped: {}", skip.reason.as_deref().unwrap_or("no reason given"));
    }
    ensure!(status.success() && counts.failed == 0, "the test failed ({status}); its output is above");
    ensure!(counts.passed == 1, "{} tests of this name ran", counts.passed);
    tee.0.finish()
}

fn table(run: &PartRun) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(["FIGURE", "VALUE", ""]);
    for Expected { name, text, .. } in &run.expected {
        let value = run.figures.get(&run.part.figure(name)).map_or_else(String::new, |value| value.to_string());
        table.add_row([name, value.as_str(), text]);
    }
    table
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::figures::tests::parse_all;
    use super::*;

    fn races(figures: &str, quick: bool) -> anyhow::Result<PartRun> {
        run_part(Part::Races, false, quick, |_| parse_all(figures))
    }

    const GOOD: &str = "figure races.kinds 7\nfigure races.rounds 700000\nfigure races.one_holder 700000\n\
                        figure races.two_holders 0\nfigure races.no_holder 0\n";

    #[test]
    fn figures_within_their_limits_pass() {
        let run = races(GOOD, false).unwrap();
        assert_eq!((run.part, run.expected.len()), (Part::Races, 5));
    }

    #[test]
    fn missing_other_and_bad_figures_fail_the_run() {
        for (change, to, why) in [
            ("figure races.no_holder 0\n", "", "`races.no_holder` was not printed"),
            ("no_holder 0", "no_holder 0\nfigure races.more 1", "races.more: no such figure"),
            ("rounds 700000", "rounds 699999", "must be 700000 or more"),
            ("one_holder 700000", "one_holder 699999", "it is 699999, and `rounds` is 700000"),
            ("two_holders 0", "two_holders 1", "must be 0"),
            ("two_holders 0", "two_holders none", "no line of a figure"),
            ("no_holder 0", "no_holder 0\nfigure races.no_holder 0", "printed twice"),
        ] {
            let error = format!("{:#}", races(&GOOD.replace(change, to), false).unwrap_err());
            assert!(error.contains(why), "{why}: {error}");
        }
    }

    #[test]
    fn short_forms_are_held_to_what_must_never_happen() {
        let short = GOOD.replace("700000", "14000");
        assert!(races(&short, true).is_ok());
        assert!(races(&short.replace("two_holders 0", "two_holders 1"), true).is_err());
        assert!(races(&short.replace("rounds 14000", "rounds 0"), true).is_err());
        let environment = environment(true, None);
        assert!(environment.iter().all(|(_, value)| value == "0"), "{environment:?}");
        assert_eq!(super::environment(false, Some(5)).pop().unwrap().1, "5");
    }

    #[test]
    fn failed_test_fails_its_part() {
        let error = run_part(Part::Soak, false, true, |_| bail!("the test failed")).unwrap_err();
        assert!(format!("{error:#}").contains("soak::pod_churn_leaves_no_residue: the test failed"), "{error:#}");
    }

    /// The names are those of the sources: a test that was renamed is found here, and not after an hour.
    #[test]
    fn tests_and_figures_are_those_of_the_sources() {
        let root = process::workspace_root();
        let source = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        let mut names = BTreeSet::new();
        for part in Part::value_variants() {
            for Test { executable, name } in part.tests(true) {
                let (module, function) = name.rsplit_once("::").unwrap();
                let path = match executable.split_once('/') {
                    Some((_, target)) => format!("enforcer/tests/{target}/{module}.rs"),
                    None => format!("enforcer/core/src/{}.rs", module.replace("::", "/")),
                };
                assert!(source(&path).contains(&format!("fn {function}()")), "{path} has no {function}");
            }
            for Expected { name, .. } in part.expected(true) {
                assert!(names.insert(part.figure(name)), "{} {name} is expected twice", part.name());
            }
            assert!(!part.title().is_empty() && !part.description().is_empty());
        }
        let texts = [
            "enforcer/core/src/index/tests/api_trouble.rs",
            "enforcer/tests/agent/absence.rs",
            "enforcer/tests/agent/soak.rs",
            "enforcer/tests/agent/upgrade.rs",
            "enforcer/tests/kernel/crash_points.rs",
            "enforcer/tests/kernel/socket_holds.rs",
        ];
        let texts: String = texts.into_iter().map(source).collect();
        for name in names {
            let own = name.strip_prefix("api.").unwrap_or(&name);
            assert!(texts.contains(&format!("\"{own}\"")) || own == "seed", "no test prints {name}");
        }
    }
}
