//! `cargo xtask kernels`: runs the kernel tests on several kernels, each in its own virtual machine.
//!
//! A machine has no disk, but for a reboot. Its initramfs contains the agent, the test executables and the kernel modules that tests
//! need. The executable of the kernel tests is also the first process (`enforcer/tests/kernel/guest.rs`).

mod console_outcome;
mod debian_packages;
mod initramfs;
mod kernel_images;
mod kernel_modules;
mod progress_line;
mod reboot;
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

use self::console_outcome::{ConsoleOutcome, Verdict};
use self::kernel_images::{KernelImage, VersionRequest};
use self::progress_line::ProgressLine;
use self::virtual_machine::{Accelerator, Power, VirtualMachine};
use crate::{arch::Arch, output_format::OutputFormat, parallel, process, setup};

/// Kernels to test if none is requested, beginning with the oldest supported one.
const DEFAULT_VERSIONS: [&str; 4] = ["5.10", "6.1", "6.12", "newest"];

/// Returns the kernels to test if none is requested. Debian's archive has no kernel before 6.1 for arm64 any more.
fn default_versions(arch: Arch) -> &'static [&'static str] {
    match arch {
        Arch::Amd64 => &DEFAULT_VERSIONS,
        Arch::Arm64 => &DEFAULT_VERSIONS[1..],
    }
}

/// Returns the folder of an architecture's kernels and initramfs archives.
fn work_folder(arch: Arch) -> PathBuf {
    process::workspace_root().join("target/kernels").join(arch.as_str())
}

/// Returns the folder of the consoles' logs.
fn log_folder() -> PathBuf {
    process::workspace_root().join("target/kernels/logs")
}

/// Flags of `cargo xtask kernels`.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(crate) struct Args {
    /// Kernels to test, by the beginning of their version or as `newest` [default: 5.10 (amd64 only), 6.1, 6.12 and newest, or all of
    /// --kernels]
    #[arg(value_name = "VERSION")]
    versions: Vec<VersionRequest>,
    /// Test only the oldest supported kernel
    #[arg(long, conflicts_with = "versions")]
    quick: bool,
    /// Use the kernels of this folder (vmlinuz-VERSION, optionally with config-VERSION) instead of Debian's packages
    #[arg(long, value_name = "DIR")]
    kernels: Option<PathBuf>,
    /// Look for newer packages, even if a matching kernel was downloaded before
    #[arg(long, conflicts_with = "kernels")]
    update: bool,
    /// Run only tests whose name contains this
    #[arg(long, value_name = "FILTER")]
    test: Option<String>,
    /// Instead of the tests, cut each machine off while the agent enforces, and boot it again: with a restore before the
    /// first pod, and without a boot state
    #[arg(long, conflicts_with_all = ["test", "jobs", "parts"])]
    reboot: bool,
    /// Architecture of the kernels; another one than this machine's is emulated, and needs a linker for it
    #[arg(long, value_enum, default_value_t = Arch::host())]
    arch: Arch,
    /// Path of QEMU [default: qemu-system-x86_64 or qemu-system-aarch64]
    #[arg(long, value_name = "PATH", env = "PORT_ENFORCER_QEMU")]
    qemu: Option<PathBuf>,
    /// Time limit of each machine, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    limit: u64,
    /// Number of machines to run at once, each with one CPU
    #[arg(long, value_name = "N", default_value_t = NonZero::<usize>::MIN)]
    jobs: NonZero<usize>,
    /// Number of machines that share the tests of each kernel
    #[arg(long, value_name = "N", default_value_t = NonZero::<usize>::MIN)]
    parts: NonZero<usize>,
    /// Output format of the result
    #[arg(short, long, value_enum, default_value_t = OutputFormat::Table)]
    output: OutputFormat,
    /// Write this architecture's part of docs/kernel-support.md from these results, or docs/boot.md from those of --reboot
    #[arg(long, conflicts_with = "test")]
    document: bool,
}

/// Result of one kernel.
#[derive(Debug)]
struct KernelRun {
    image: KernelImage,
    outcome: ConsoleOutcome,
    /// Greatest number of boots of one of its machines. A machine that ends without any verdict boots again.
    tries: u32,
    /// Sum of the times of its machines.
    duration: Duration,
    logs: Vec<PathBuf>,
}

/// Share of a kernel's tests that runs in one machine.
#[derive(Clone, Copy, Debug)]
struct Shard {
    /// Counts from 1.
    number: usize,
    count: usize,
}

impl Shard {
    /// Pairs each item with all of its shards, in order.
    fn all<T: Clone>(items: &[T], count: usize) -> Vec<(T, Self)> {
        let shards = |item: &T| (1..=count).map(|number| (item.clone(), Self { number, count })).collect::<Vec<_>>();
        items.iter().flat_map(shards).collect()
    }

    /// Returns a file name that is unique among the shards.
    fn file_name(self, base: &str) -> String {
        match self.count {
            1 => base.to_owned(),
            count => format!("{base}-part-{}-of-{count}", self.number),
        }
    }
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Args { versions, quick, kernels, update, test, reboot, arch, qemu, limit, jobs, parts, output, document } =
        args;
    if !cfg!(target_os = "linux") {
        bail!("the test executables are for Linux, so this command needs Linux");
    }
    let qemu = qemu.unwrap_or_else(|| format!("qemu-system-{}", arch.machine()).into());
    let qemu = which::which(&qemu).with_context(|| {
        format!(
            "{} was not found: install QEMU (Debian: apt-get install qemu-system-{}), or set --qemu",
            qemu.display(),
            if arch == Arch::Amd64 { "x86" } else { "arm" }
        )
    })?;
    let folder = work_folder(arch);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    fs::create_dir_all(log_folder()).with_context(|| format!("cannot create {}", log_folder().display()))?;
    let parse_all = || default_versions(arch).iter().map(|version| version.parse()).collect::<Result<Vec<_>, _>>();
    let defaults = || parse_all().map_err(anyhow::Error::msg);
    let images = match &kernels {
        Some(kernels) => kernel_images::find_in_folder(kernels, &versions, quick)?,
        None if quick => {
            let get = |version: &_| debian_packages::images(&folder, arch, slice::from_ref(version), update);
            first_available(&defaults()?, get)?
        }
        None if versions.is_empty() => debian_packages::images(&folder, arch, &defaults()?, update)?,
        None => debian_packages::images(&folder, arch, &versions, update)?,
    };

    setup::ensure_build_tools()?;
    let executables = initramfs::GuestExecutables::build(arch)?;
    let limit = Duration::from_secs(limit);
    if reboot {
        let figures = reboot::run(&images, arch, &qemu, &executables, limit)?;
        reboot::print(&figures, output);
        if document {
            reboot::document(&figures)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let accelerator = OnceLock::new();
    let progress = ProgressLine::new();
    let parts = parts.get();
    let unfinished: Mutex<Vec<KernelRun>> = Mutex::default();
    let run_shard = |(image, shard): (KernelImage, Shard)| {
        let initramfs = folder.join(shard.file_name(&format!("initramfs-{}", image.release)));
        executables.pack(&initramfs, &image)?;
        let machine = VirtualMachine { arch, qemu: &qemu, kernel: &image.kernel, initramfs: &initramfs, disk: None };
        let detect =
            || Accelerator::detect(&machine, &log_folder().join("trial.log")).map_err(|error| format!("{error:#}"));
        let accelerator = accelerator.get_or_init(detect).clone().map_err(anyhow::Error::msg)?;
        let run = run_tests(&machine, accelerator, image.clone(), shard, test.as_deref(), limit, &progress)?;
        fs::remove_file(&initramfs).with_context(|| format!("cannot remove {}", initramfs.display()))?;
        let complete = merge_shard(&unfinished, run, parts);
        if let Some(run) = &complete {
            progress.pause(|| output.print_progress(&run.summary()));
        }
        Ok(complete)
    };
    let order: Vec<_> = images.iter().map(|image| image.name.clone()).collect();
    let runs = parallel::map(Shard::all(&images, parts), jobs.get(), run_shard)?;
    let mut runs: Vec<KernelRun> = runs.into_iter().flatten().collect();
    runs.sort_by_key(|run| order.iter().position(|name| *name == run.image.name));
    drop(progress);

    match output {
        OutputFormat::Table => println!("\n{}", table(&runs)),
        OutputFormat::Json => {
            println!("{:#}", json!({ "kernels": runs.iter().map(KernelRun::json).collect::<Vec<_>>() }));
        }
    }
    if document {
        let path = process::workspace_root().join("docs/kernel-support.md");
        let page = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        fs::write(&path, support_page::render(&page, arch, &runs))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let passed = !runs.is_empty() && runs.iter().all(|run| run.outcome.verdict() == Verdict::Passed);
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns the images of the first request that can be fulfilled, after a warning for each that cannot.
fn first_available<T>(
    requests: &[VersionRequest],
    get: impl Fn(&VersionRequest) -> anyhow::Result<Vec<T>>,
) -> anyhow::Result<Vec<T>> {
    let mut last = None;
    for request in requests {
        match get(request) {
            Ok(images) => return Ok(images),
            Err(error) => {
                eprintln!("warning: Linux {request} is not available: {error:#}");
                last = Some(error);
            }
        }
    }
    Err(last.context("no kernel is requested")?.context("none of the default kernels is available"))
}

/// Merges a shard's run with those of the same kernel. Returns the kernel's run after the last shard.
fn merge_shard(unfinished: &Mutex<Vec<KernelRun>>, shard: KernelRun, count: usize) -> Option<KernelRun> {
    let mut runs = unfinished.lock().unwrap_or_else(PoisonError::into_inner);
    let position = runs.iter().position(|run| run.image.name == shard.image.name);
    let merged = match position {
        Some(position) => runs.swap_remove(position).merge(shard),
        None => shard,
    };
    if merged.logs.len() == count {
        return Some(merged);
    }
    runs.push(merged);
    None
}

/// Boots a machine and runs a shard of the tests in it.
fn run_tests(
    machine: &VirtualMachine<'_>,
    accelerator: Accelerator,
    image: KernelImage,
    shard: Shard,
    test: Option<&str>,
    limit: Duration,
    progress: &ProgressLine,
) -> anyhow::Result<KernelRun> {
    let name = shard.file_name(&image.release);
    let log = log_folder().join(format!("{name}.log"));
    let start = Instant::now();
    let arguments = initramfs::kernel_arguments(shard, test);
    let progress = progress.add_machine(&name);
    for tries in 1.. {
        let console = machine.boot(accelerator, &arguments, limit, &log, &|line| {
            progress.console_line(line);
            Power::Stays
        })?;
        let outcome = ConsoleOutcome::parse(&console, initramfs::TEST_PROGRAMS.len());
        // A machine that ends without a verdict or a panic is a fault of QEMU or of the host, so it boots once more. The
        // summary reports the second try.
        if tries < 2 && outcome.is_silent() {
            continue;
        }
        return Ok(KernelRun { image, outcome, tries, duration: start.elapsed(), logs: vec![log] });
    }
    unreachable!("the second try returns")
}

impl KernelRun {
    /// Merges the runs of two shards of one kernel.
    fn merge(self, other: Self) -> Self {
        Self {
            image: self.image,
            outcome: self.outcome.merge(other.outcome),
            tries: self.tries.max(other.tries),
            duration: self.duration + other.duration,
            logs: [self.logs, other.logs].concat(),
        }
    }

    /// Summarizes the run in a line with the verdict, followed by a line for each skipped and failed test.
    fn summary(&self) -> String {
        let Self { image, outcome, tries, duration, logs } = self;
        let mut text = format!("{}: {}", image.name, outcome.verdict().text());
        // Writing to a string cannot fail.
        let _ = write!(text, "; {} in {:.0} s", outcome.counts(), duration.as_secs_f64());
        if *tries > 1 {
            let _ = write!(text, ", tries={tries}");
        }
        for skip in outcome.skips() {
            let _ = write!(text, "\n    skipped: {skip}");
        }
        for failure in outcome.failures() {
            let _ = write!(text, "\n    failed: {failure}");
        }
        if outcome.verdict() != Verdict::Passed {
            for log in logs {
                let _ = write!(text, "\n    log: {}", log.display());
            }
        }
        text
    }

    fn json(&self) -> serde_json::Value {
        let Self { image, outcome, tries, duration, logs } = self;
        let mut value = outcome.json();
        value["kernel"] = image.name.as_str().into();
        value["tries"] = (*tries).into();
        value["seconds"] = duration.as_secs().into();
        value["logs"] = logs.iter().map(|log| log.display().to_string()).collect::<Vec<_>>().into();
        value
    }
}

fn table(runs: &[KernelRun]) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(["KERNEL", "VERDICT", "TESTS", "SECONDS", "MISSING FEATURES"]);
    for run in runs {
        let missing = run.outcome.missing_features().join(", ");
        let verdict = run.outcome.verdict().word();
        let seconds = run.duration.as_secs().to_string();
        table.add_row([run.image.name.as_str(), verdict, &run.outcome.counts(), &seconds, &missing]);
    }
    table
}

/// Returns the paths in a folder, sorted by name.
fn sorted_entries(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let cannot_read = || format!("cannot read the folder {}", folder.display());
    let entries = fs::read_dir(folder).with_context(cannot_read)?;
    let paths: Result<Vec<_>, _> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut paths = paths.with_context(cannot_read)?;
    paths.sort();
    Ok(paths)
}
