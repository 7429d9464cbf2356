//! A virtual machine: QEMU boots a kernel with an initramfs, and its serial console is captured.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::console_outcome::{GUEST_PREFIX, PANIC};
use crate::{arch::Arch, process};

/// Command line of the kernel. It prints warnings: a test that makes the kernel warn has found a defect.
const COMMAND_LINE: &str = "loglevel=5 panic=-1 oops=panic nokaslr mitigations=off random.trust_cpu=on";

/// Returns what an architecture adds to the command line: the console, and on x86-64 a clock that is not watched.
const fn arch_command_line(arch: Arch) -> &'static str {
    match arch {
        Arch::Amd64 => "console=ttyS0 tsc=reliable",
        Arch::Arm64 => "console=ttyAMA0",
    }
}

/// Returns QEMU's arguments for the kind of the machine.
const fn machine_arguments(arch: Arch) -> [&'static str; 2] {
    match arch {
        Arch::Amd64 => ["-machine", "q35"],
        Arch::Arm64 => ["-machine", "virt,gic-version=3"],
    }
}

/// Time limit of a trial boot, which a working accelerator keeps.
const TRIAL_LIMIT: Duration = Duration::from_mins(1);

/// Accelerator of QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accelerator {
    Kvm,
    Tcg,
}

impl Accelerator {
    /// Returns KVM if the machine boots with it. On some hosts /dev/kvm exists but QEMU aborts during the boot, and
    /// then QEMU does not fall back by itself.
    pub(super) fn detect(machine: &VirtualMachine<'_>, log: &Path) -> anyhow::Result<Self> {
        if machine.arch != Arch::host() {
            return Ok(Self::Tcg);
        }
        let usable = rustix::fs::access("/dev/kvm", rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK).is_ok();
        if !usable {
            return Ok(Self::Tcg);
        }
        let console = machine.boot(Self::Kvm, "", TRIAL_LIMIT, log, &|_| Power::Stays)?;
        let boots = console.text.lines().any(|line| line.starts_with(GUEST_PREFIX));
        Ok(if boots { Self::Kvm } else { Self::Tcg })
    }

    fn arguments(self, arch: Arch) -> [&'static str; 4] {
        match (self, arch) {
            (Self::Kvm, _) => ["-accel", "kvm", "-cpu", "host"],
            // QEMU 7's emulation of cmpxchg16b sometimes makes guests oops, and nothing here needs it. Without fast
            // string instructions the kernel copies words instead of bytes. Each copy is emulated, so this saves a
            // third of the time.
            (Self::Tcg, Arch::Amd64) => ["-accel", "tcg", "-cpu", "max,cx16=off,erms=off,fsrm=off"],
            // A processor of cloud machines. It has the atomic instructions of ARMv8.1, which the kernel's compiler for
            // BPF uses, and no pointer authentication, which is slow to emulate.
            (Self::Tcg, Arch::Arm64) => ["-accel", "tcg", "-cpu", "neoverse-n1"],
        }
    }
}

/// Files that a machine boots with.
#[derive(Debug)]
pub(super) struct VirtualMachine<'a> {
    pub(super) arch: Arch,
    pub(super) qemu: &'a Path,
    pub(super) kernel: &'a Path,
    pub(super) initramfs: &'a Path,
    /// File with the content of the machine's disk; `None` for a machine without one.
    pub(super) disk: Option<&'a Path>,
}

/// Output of a machine.
#[derive(Debug)]
pub(super) struct Console {
    /// Lines of the serial console and messages of QEMU.
    pub(super) text: String,
    /// The machine reached its time limit.
    pub(super) timed_out: bool,
}

/// Power of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Power {
    Stays,
    /// The machine ends at once, whatever it is doing.
    Cut,
}

/// A process that is killed when dropped.
struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        // It fails if the process has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns QEMU's arguments for a disk. The driver of `NVMe` is built into the kernels, unlike that of virtio.
fn disk_arguments(disk: &Path) -> [String; 4] {
    let drive = format!("file={},format=raw,if=none,id=disk", disk.display());
    ["-drive".to_owned(), drive, "-device".to_owned(), "nvme,drive=disk,serial=disk".to_owned()]
}

impl VirtualMachine<'_> {
    /// Boots the machine and waits for its end, the time limit, or a line for which `on_line` returns that the power is to
    /// be cut. Each line of its console is passed to `on_line` and,
    /// with the seconds since the start, written to `log`.
    pub(super) fn boot(
        &self,
        accelerator: Accelerator,
        arguments: &str,
        limit: Duration,
        log: &Path,
        on_line: &dyn Fn(&str) -> Power,
    ) -> anyhow::Result<Console> {
        let mut log = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new(self.qemu);
        command
            .args(accelerator.arguments(self.arch))
            .args(machine_arguments(self.arch))
            .args(["-smp", "1", "-m", "1024M", "-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-serial", "stdio"])
            .arg("-kernel")
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.initramfs)
            .args(["-append", &format!("{} {COMMAND_LINE} {arguments}", arch_command_line(self.arch))])
            .args(self.disk.into_iter().flat_map(disk_arguments))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let start = Instant::now();
        let deadline = start + limit;
        let child = command.spawn();
        let mut qemu = KillOnDrop(child.with_context(|| format!("cannot start `{}`", process::display(&command)))?);
        let stdout = qemu.0.stdout.take().context("QEMU's standard output is not a pipe")?;
        let stderr = qemu.0.stderr.take().context("QEMU's standard error is not a pipe")?;
        let (sender, lines) = mpsc::channel();
        let reader = |stream: Box<dyn std::io::Read + Send>| {
            let sender = sender.clone();
            thread::spawn(move || {
                // An error ends the output as well.
                for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                    let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            })
        };
        reader(Box::new(stdout));
        reader(Box::new(stderr));
        drop(sender);

        let mut console = Console { text: String::new(), timed_out: false };
        loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let seconds = start.elapsed().as_secs_f64();
                    writeln!(log, "{seconds:8.1} {line}").context("cannot write the log")?;
                    let power = on_line(&line);
                    console.text.push_str(&line);
                    console.text.push('\n');
                    if power == Power::Cut {
                        return Ok(console);
                    }
                    // The end of a panic message. Not every kernel manages to restart after it.
                    if line.contains(PANIC) && line.contains("end ") {
                        return Ok(console);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(console),
                Err(RecvTimeoutError::Timeout) => {
                    console.timed_out = true;
                    return Ok(console);
                }
            }
        }
    }
}
