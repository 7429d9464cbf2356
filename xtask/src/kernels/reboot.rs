//! `cargo xtask kernels --reboot`: each kernel's machine loses its power while the agent enforces, and boots again
//! (`enforcer/tests/agent/reboot.rs`).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};
use comfy_table::{Table, presets::NOTHING};
use serde_json::{Value, json};

use super::console_outcome::GUEST_PREFIX;
use super::initramfs::GuestExecutables;
use super::kernel_images::KernelImage;
use super::virtual_machine::{Accelerator, Console, Power, VirtualMachine};
use super::{log_folder, work_folder};
use crate::{arch::Arch, output_format::OutputFormat, process};

/// Size of a machine's disk in bytes, most of which is never written.
const DISK_BYTES: u64 = 64 << 20;
/// Program and test of each boot.
const TEST: &str = "-- /bin/agent-tests --color=never reboot::";
/// Line of the guest that wants its power cut.
const CUT: &str = "cut";

/// Figures of one kernel, as its machine printed them: name and value.
#[derive(Debug)]
pub(super) struct RebootFigures {
    /// Name of the kernel.
    kernel: String,
    /// Values by name. Each of [`FIGURES`] is there.
    values: BTreeMap<String, u64>,
}

/// The page with the figures, below the workspace's root.
const PAGE: &str = "docs/boot.md";
/// Heading of its last part.
const HEADING: &str = "\n## Figures\n\n";

/// Names of the figures with their meanings, in the order of the tables.
const FIGURES: [(&str, &str); 8] = [
    ("restoreMillis", "the restore, ms"),
    ("attemptsBeforeAgent", "attempts of foreign pods before the agent came"),
    ("denied", "attempts of foreign pods in all, each denied"),
    ("through", "of them let through"),
    ("bindsOfOwner", "binds of the owner"),
    ("ownerRefused", "of them refused by us"),
    ("gapMillis", "gap without a boot state, ms (agent's start alone)"),
    ("throughInGap", "binds of a foreign pod let through in it"),
];

/// Runs the three boots of each kernel, one machine at a time.
pub(super) fn run(
    images: &[KernelImage],
    arch: Arch,
    qemu: &Path,
    executables: &GuestExecutables,
    limit: Duration,
) -> anyhow::Result<Vec<RebootFigures>> {
    let folder = work_folder(arch);
    let mut all = Vec::new();
    let mut accelerator = None;
    for image in images {
        let initramfs = folder.join(format!("initramfs-{}-reboot", image.release));
        executables.pack(&initramfs, image)?;
        let disk = make_disk(&folder.join(format!("disk-{}", image.release)))?;
        let machine = VirtualMachine { arch, qemu, kernel: &image.kernel, initramfs: &initramfs, disk: Some(&disk) };
        let accelerator = match accelerator {
            Some(known) => known,
            None => *accelerator.insert(Accelerator::detect(&machine, &log_folder().join("trial.log"))?),
        };
        let mut values = BTreeMap::new();
        for boot in ["cut", "restore", "gap"] {
            eprintln!("reboot: {} boots: {boot}", image.name);
            let log = log_folder().join(format!("{}-reboot-{boot}.log", image.release));
            let arguments = format!("PORT_ENFORCER_TEST_BOOT={boot} {TEST}");
            let console = machine.boot(accelerator, &arguments, limit, &log, &|line| match says(line) {
                Some(CUT) => Power::Cut,
                _ => Power::Stays,
            })?;
            check(&console, boot).with_context(|| format!("{}: {boot}: see {}", image.name, log.display()))?;
            values.extend(figures(&console));
        }
        for (name, _) in FIGURES {
            if !values.contains_key(name) {
                bail!("{}: the machine printed no figure {name}", image.name);
            }
        }
        for path in [&initramfs, &disk] {
            fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        all.push(RebootFigures { kernel: image.name.clone(), values });
    }
    Ok(all)
}

/// Prints the figures.
pub(super) fn print(all: &[RebootFigures], output: OutputFormat) {
    match output {
        OutputFormat::Json => {
            let rows: Vec<Value> =
                all.iter().map(|row| json!({ "kernel": row.kernel, "figures": row.values })).collect();
            println!("{:#}", json!({ "reboots": rows }));
        }
        OutputFormat::Table => {
            let mut table = Table::new();
            let names = all.iter().map(|row| row.kernel.clone());
            table.load_preset(NOTHING).set_header(std::iter::once(String::new()).chain(names));
            for (name, meaning) in FIGURES {
                let values = all.iter().map(|row| row.values[name].to_string());
                table.add_row(std::iter::once(meaning.to_owned()).chain(values));
            }
            println!("\n{table}");
        }
    }
}

/// Writes the figures into the page, behind the heading that begins its last part.
pub(super) fn document(all: &[RebootFigures]) -> anyhow::Result<()> {
    let path = process::workspace_root().join(PAGE);
    let page = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let (head, _) = page.split_once(HEADING).with_context(|| format!("{PAGE} has no heading '{}'", HEADING.trim()))?;
    let day = jiff::Zoned::now().date().to_string();
    fs::write(&path, format!("{head}{}", render(&day, all))).with_context(|| format!("cannot write {}", path.display()))
}

fn render(day: &str, all: &[RebootFigures]) -> String {
    let mut text = format!(
        "{HEADING}Written by `cargo xtask kernels --reboot --document` on {day}; do not edit. The machines are emulated, where a restore takes\n\
         as long as the verifier needs there.\n\n"
    );
    let mut row = |cells: Vec<String>| {
        text.push_str("| ");
        text.push_str(&cells.join(" | "));
        text.push_str(" |\n");
    };
    row([String::new()].into_iter().chain(all.iter().map(|row| row.kernel.clone())).collect());
    row(vec!["---".to_owned(); all.len() + 1]);
    for (name, meaning) in FIGURES {
        row([meaning.to_owned()].into_iter().chain(all.iter().map(|row| row.values[name].to_string())).collect());
    }
    text
}

/// Makes an empty disk.
fn make_disk(path: &Path) -> anyhow::Result<PathBuf> {
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    file.set_len(DISK_BYTES).with_context(|| format!("cannot write {}", path.display()))?;
    process::output(Command::new("mke2fs").args(["-q", "-F", "-t", "ext4"]).arg(path))
        .context("mke2fs makes the machine's disk (Debian: package e2fsprogs)")?;
    Ok(path.to_owned())
}

/// Returns what the guest says in a line for this program.
fn says(line: &str) -> Option<&str> {
    line.strip_prefix(GUEST_PREFIX).map(str::trim)
}

/// Checks how a boot ended.
fn check(console: &Console, boot: &str) -> anyhow::Result<()> {
    let wanted = if boot == "cut" { CUT } else { "ended well" };
    if console.text.lines().any(|line| says(line) == Some(wanted)) {
        return Ok(());
    }
    let last = console.text.lines().rev().find_map(says).unwrap_or("nothing");
    bail!(
        "the machine did not say '{wanted}'{}; its last word: {last}",
        if console.timed_out { " in time" } else { "" }
    )
}

/// Returns the figures that the guest printed.
fn figures(console: &Console) -> BTreeMap<String, u64> {
    let lines = console.text.lines().filter_map(|line| says(line)?.strip_prefix("figure "));
    let parts = lines.filter_map(|line| line.split_once(' '));
    parts.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_and_ends_are_read() {
        let console = |text: &str| Console { text: text.to_owned(), timed_out: false };
        let text = "port-enforcer-guest: figure denied 42\nfigure through 1\nport-enforcer-guest: figure x y\n\
                    port-enforcer-guest: ended well\n";
        assert_eq!(figures(&console(text)), BTreeMap::from([("denied".to_owned(), 42)]));
        assert!(check(&console(text), "restore").is_ok());
        let error = check(&console("port-enforcer-guest: ended badly: code 101"), "gap").unwrap_err().to_string();
        assert!(error.contains("ended badly: code 101"), "{error}");
        assert!(check(&console(text), "cut").is_err(), "it went on");
    }

    #[test]
    fn page_has_a_column_for_each_kernel() {
        let figures = |kernel: &str, value| RebootFigures {
            kernel: kernel.to_owned(),
            values: FIGURES.iter().map(|(name, _)| ((*name).to_owned(), value)).collect(),
        };
        let text = render("2026-11-30", &[figures("5.10", 1), figures("7.3", 2)]);
        for line in ["|  | 5.10 | 7.3 |", "| --- | --- | --- |", "| the restore, ms | 1 | 2 |"] {
            assert!(text.lines().any(|written| written == line), "{line}: {text}");
        }
        assert!(text.starts_with("\n## Figures\n\nWritten by ") && text.contains("on 2026-11-30"));
        let page = fs::read_to_string(process::workspace_root().join(PAGE)).unwrap();
        assert_eq!(page.matches(HEADING).count(), 1, "the page has room for it");
    }
}
