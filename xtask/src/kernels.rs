//! `cargo xtask kernels`: the tests of the real kernel on many kernels, each in a virtual machine of its own.
//!
//! A machine has no disk and no program but ours: the test binary is its first process as well
//! (`enforcer/tests/kernel/guest.rs`). Of modules it has those that tests need.

mod console_outcome;
mod debian_packages;
mod initramfs;
mod kernel_images;
mod kernel_modules;
mod progress_line;
mod support_page;
mod virtual_machine;

use std::fmt::Write as _;
use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::slice;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use comfy_table::{Table, presets::NOTHING};
use serde_json::json;

use self::console_outcome::{Outcome, Verdict};
use self::kernel_images::{Image, Wanted};
use self::progress_line::Progress;
use self::virtual_machine::{Accelerator, Machine};
use crate::{output_format::Output, parallel::in_turn, process, setup};

/// What is tried if nothing is named: the floor of support first.
const USUAL: [&str; 4] = ["5.10", "6.1", "6.12", "newest"];

/// Where kernels, logs and the initramfs are kept.
fn folder() -> PathBuf {
    process::root().join("target/kernels")
}

/// What the machines said.
fn logs() -> PathBuf {
    folder().join("logs")
}

/// The flags of `cargo xtask kernels`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Kernels to try, by the beginning of their version or as `newest` [default: 5.10 6.1 6.12 newest, or all of
    /// --kernels]
    #[arg(value_name = "VERSION")]
    versions: Vec<Wanted>,
    /// Only the oldest one that is supported
    #[arg(long, conflicts_with = "versions")]
    quick: bool,
    /// Take kernels from this folder (vmlinuz-VERSION, with config-VERSION beside it if there is one) instead of
    /// Debian's packages
    #[arg(long, value_name = "DIR")]
    kernels: Option<PathBuf>,
    /// Ask for newer packages, even where a kernel was fetched before
    #[arg(long, conflicts_with = "kernels")]
    update: bool,
    /// Run only tests whose name contains this
    #[arg(long, value_name = "FILTER")]
    test: Option<String>,
    /// QEMU, which boots the kernels
    #[arg(long, value_name = "PATH", env = "PORT_ENFORCER_QEMU", default_value = "qemu-system-x86_64")]
    qemu: PathBuf,
    /// Most time that one kernel may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    limit: u64,
    /// How many machines run at once, each on one CPU
    #[arg(long, value_name = "N", default_value_t = NonZero::<usize>::MIN)]
    jobs: NonZero<usize>,
    /// Share each kernel's tests among so many machines
    #[arg(long, value_name = "N", default_value_t = NonZero::<usize>::MIN)]
    parts: NonZero<usize>,
    /// How the result is written
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Write docs/kernel-support.md from what this run shows
    #[arg(long, conflicts_with = "test")]
    document: bool,
}

/// What came of one kernel.
#[derive(Debug)]
struct Run {
    image: Image,
    outcome: Outcome,
    /// How often one of its machines was booted: once more where it died without any verdict.
    tries: u32,
    /// What its machines took together.
    took: Duration,
    logs: Vec<PathBuf>,
}

/// A share of a kernel's tests, for one machine.
#[derive(Clone, Copy, Debug)]
struct Part {
    /// From 1.
    number: usize,
    of: usize,
}

impl Part {
    /// All parts of each thing, in order.
    fn all<T: Clone>(things: &[T], of: usize) -> Vec<(T, Self)> {
        let parts = |thing: &T| (1..=of).map(|number| (thing.clone(), Self { number, of })).collect::<Vec<_>>();
        things.iter().flat_map(parts).collect()
    }

    /// A name that tells it from its fellows.
    fn name(self, of_what: &str) -> String {
        match self.of {
            1 => of_what.to_owned(),
            of => format!("{of_what}-part-{}-of-{of}", self.number),
        }
    }
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Args { versions, quick, kernels, update, test, qemu, limit, jobs, parts, output, document } = args;
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        bail!("the kernels are for x86-64, and so this needs Linux on x86-64");
    }
    let qemu = which::which(&qemu).with_context(|| {
        format!(
            "{} was not found: install QEMU (Debian: apt-get install qemu-system-x86), or name it with --qemu",
            qemu.display()
        )
    })?;
    let folder = folder();
    fs::create_dir_all(logs()).with_context(|| format!("{} cannot be made", logs().display()))?;
    let usual =
        || USUAL.iter().map(|name| name.parse()).collect::<Result<Vec<Wanted>, _>>().map_err(anyhow::Error::msg);
    let images = match &kernels {
        Some(own) => kernel_images::own(own, &versions, quick)?,
        None if quick => oldest(&usual()?, |wanted| debian_packages::images(&folder, slice::from_ref(wanted), update))?,
        None if versions.is_empty() => debian_packages::images(&folder, &usual()?, update)?,
        None => debian_packages::images(&folder, &versions, update)?,
    };

    setup::ensure()?;
    let guest = initramfs::Guest::build()?;
    let limit = Duration::from_secs(limit);
    let accelerator = OnceLock::new();
    let progress = Progress::new();
    let parts = parts.get();
    let unfinished: Mutex<Vec<Run>> = Mutex::default();
    let one = |(image, part): (Image, Part)| {
        let initramfs = guest.pack(&folder.join(part.name(&format!("initramfs-{}", image.release))), &image)?;
        let machine = Machine { qemu: &qemu, kernel: &image.kernel, initramfs: &initramfs };
        let find = || Accelerator::find(&machine, &logs().join("trial.log")).map_err(|error| format!("{error:#}"));
        let accelerator = accelerator.get_or_init(find).clone().map_err(anyhow::Error::msg)?;
        let run = try_kernel(&machine, accelerator, image.clone(), part, test.as_deref(), limit, &progress)?;
        fs::remove_file(&initramfs).with_context(|| format!("{} cannot be removed", initramfs.display()))?;
        if let Some(whole) = join(&unfinished, run, parts) {
            progress.pause(|| output.say(&whole.line()));
            return Ok(Some(whole));
        }
        Ok(None)
    };
    let order: Vec<_> = images.iter().map(|image| image.name.clone()).collect();
    let mut runs: Vec<Run> = in_turn(Part::all(&images, parts), jobs.get(), one)?.into_iter().flatten().collect();
    runs.sort_by_key(|run| order.iter().position(|name| *name == run.image.name));
    drop(progress);

    match output {
        Output::Table => println!("\n{}", table(&runs)),
        Output::Json => println!("{:#}", json!({ "kernels": runs.iter().map(Run::json).collect::<Vec<_>>() })),
    }
    if document {
        let path = process::root().join("docs/kernel-support.md");
        fs::write(&path, support_page::render(&runs))
            .with_context(|| format!("{} cannot be written", path.display()))?;
    }
    let passed = !runs.is_empty() && runs.iter().all(|run| run.outcome.verdict() == Verdict::Passed);
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The first that can be had, with a word on those that cannot.
fn oldest<T>(of: &[Wanted], get: impl Fn(&Wanted) -> anyhow::Result<Vec<T>>) -> anyhow::Result<Vec<T>> {
    let mut last = None;
    for wanted in of {
        match get(wanted) {
            Ok(images) => return Ok(images),
            Err(error) => {
                eprintln!("warning: Linux {wanted} cannot be tried: {error:#}");
                last = Some(error);
            }
        }
    }
    Err(last.context("no kernel is named")?.context("none of the usual kernels can be had"))
}

/// Adds a part to those of its kernel that have ended: the whole, if it was the last one.
fn join(unfinished: &Mutex<Vec<Run>>, part: Run, parts: usize) -> Option<Run> {
    let mut runs = unfinished.lock().unwrap_or_else(PoisonError::into_inner);
    let place = runs.iter().position(|run| run.image.name == part.image.name);
    let whole = match place {
        Some(place) => runs.swap_remove(place).and(part),
        None => part,
    };
    if whole.logs.len() == parts {
        return Some(whole);
    }
    runs.push(whole);
    None
}

fn try_kernel(
    machine: &Machine<'_>,
    accelerator: Accelerator,
    image: Image,
    part: Part,
    test: Option<&str>,
    limit: Duration,
    progress: &Progress,
) -> anyhow::Result<Run> {
    let log = logs().join(format!("{}.log", part.name(&image.release)));
    let start = Instant::now();
    let arguments = initramfs::arguments(part, test);
    let shown = progress.machine(&part.name(&image.release));
    for tries in 1.. {
        let console = machine.boot(accelerator, &arguments, limit, &log, &|line| shown.line(line))?;
        let outcome = Outcome::read(&console, initramfs::PROGRAMS.len());
        // A machine that ends and says nothing is QEMU's fault or the host's, and gets one more chance, which is told.
        if tries < 2 && outcome.is_silent() {
            continue;
        }
        return Ok(Run { image, outcome, tries, took: start.elapsed(), logs: vec![log] });
    }
    unreachable!("the loop ends by itself")
}

impl Run {
    /// This and another part of one kernel's tests together.
    fn and(self, other: Self) -> Self {
        Self {
            image: self.image,
            outcome: self.outcome.and(other.outcome),
            tries: self.tries.max(other.tries),
            took: self.took + other.took,
            logs: [self.logs, other.logs].concat(),
        }
    }

    /// The verdict in one line, with what failed below it.
    fn line(&self) -> String {
        let Self { image, outcome, tries, took, logs } = self;
        let mut line = format!("{}: {}", image.name, outcome.verdict().text());
        // Writing to a string cannot fail.
        let _ = write!(line, "; {} in {:.0} s", outcome.counts(), took.as_secs_f64());
        if *tries > 1 {
            let _ = write!(line, ", tries={tries}");
        }
        for skip in outcome.skips() {
            let _ = write!(line, "\n    skipped: {skip}");
        }
        for failure in outcome.failures() {
            let _ = write!(line, "\n    failed: {failure}");
        }
        if outcome.verdict() != Verdict::Passed {
            for log in logs {
                let _ = write!(line, "\n    all it said: {}", log.display());
            }
        }
        line
    }

    fn json(&self) -> serde_json::Value {
        let Self { image, outcome, tries, took, logs } = self;
        let mut value = outcome.json();
        value["kernel"] = image.name.as_str().into();
        value["tries"] = (*tries).into();
        value["seconds"] = took.as_secs().into();
        value["logs"] = logs.iter().map(|log| log.display().to_string()).collect::<Vec<_>>().into();
        value
    }
}

fn table(runs: &[Run]) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(["KERNEL", "VERDICT", "TESTS", "SECONDS", "LACKS"]);
    for run in runs {
        let lacks = run.outcome.lacking().join(", ");
        let verdict = run.outcome.verdict().word();
        let seconds = run.took.as_secs().to_string();
        table.add_row([run.image.name.as_str(), verdict, &run.outcome.counts(), &seconds, &lacks]);
    }
    table
}

/// The files of a folder, sorted by name.
fn list(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let unreadable = || format!("the folder {} cannot be read", folder.display());
    let entries = fs::read_dir(folder).with_context(unreadable)?;
    let paths: Result<Vec<_>, _> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut paths = paths.with_context(unreadable)?;
    paths.sort();
    Ok(paths)
}
