//! One machine: QEMU, a kernel, an initramfs, and what comes out of the serial line.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::console_outcome::{PANIC, SAYS};
use crate::process;

/// What the kernel is told. Warnings are shown: a test that makes the kernel warn has found something.
const COMMAND_LINE: &str =
    "console=ttyS0 loglevel=5 panic=-1 oops=panic nokaslr mitigations=off tsc=reliable random.trust_cpu=on";

/// How long a trial boot takes at most, with an accelerator that works.
const TRIAL: Duration = Duration::from_mins(1);

/// How QEMU runs the machine's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accelerator {
    Kvm,
    Tcg,
}

impl Accelerator {
    /// KVM if a machine boots with it. On some hosts it is there and QEMU aborts in the midst of a boot, and then QEMU
    /// does not fall back by itself.
    pub(super) fn find(machine: &Machine<'_>, log: &Path) -> anyhow::Result<Self> {
        let usable = rustix::fs::access("/dev/kvm", rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK).is_ok();
        if usable && machine.boot(Self::Kvm, "", TRIAL, log, &|_| ())?.text.lines().any(|line| line.starts_with(SAYS)) {
            return Ok(Self::Kvm);
        }
        Ok(Self::Tcg)
    }

    fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            // QEMU 7's emulation of cmpxchg16b makes guests oops now and then; nothing here needs it. Without fast string
            // instructions the kernel copies words and not bytes, each of which is emulated: a third less time.
            Self::Tcg => ["-accel", "tcg", "-cpu", "max,cx16=off,erms=off,fsrm=off"],
        }
    }
}

/// What is booted.
#[derive(Debug)]
pub(super) struct Machine<'a> {
    pub(super) qemu: &'a Path,
    pub(super) kernel: &'a Path,
    pub(super) initramfs: &'a Path,
}

/// What a machine said, and how it ended.
#[derive(Debug)]
pub(super) struct Console {
    /// Its serial line, and below it what QEMU itself had to say.
    pub(super) text: String,
    /// The time was up before it ended.
    pub(super) stopped: bool,
}

/// A QEMU that does not outlive this process's interest in it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself, which is no error here.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Machine<'_> {
    /// Boots it and waits until it is off, or the time is up. What it says is written to a file, with the
    /// seconds since the start, and told, as it comes.
    pub(super) fn boot(
        &self,
        accelerator: Accelerator,
        arguments: &str,
        limit: Duration,
        log: &Path,
        heard: &dyn Fn(&str),
    ) -> anyhow::Result<Console> {
        let mut log = File::create(log).with_context(|| format!("{} cannot be written", log.display()))?;
        let mut command = Command::new(self.qemu);
        command
            .args(accelerator.arguments())
            .args(["-machine", "q35", "-smp", "1", "-m", "1024M", "-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-serial", "stdio"])
            .arg("-kernel")
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.initramfs)
            .args(["-append", &format!("{COMMAND_LINE} {arguments}")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let start = Instant::now();
        let deadline = start + limit;
        let child = command.spawn();
        let mut running =
            Running(child.with_context(|| format!("`{}` could not be started", process::display(&command)))?);
        let stdout = running.0.stdout.take().context("QEMU's standard output is not a pipe")?;
        let stderr = running.0.stderr.take().context("QEMU's standard error is not a pipe")?;
        let (sender, lines) = mpsc::channel();
        let reader = |stream: Box<dyn std::io::Read + Send>| {
            let sender = sender.clone();
            thread::spawn(move || {
                // An end that is an error is an end.
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

        let mut console = Console { text: String::new(), stopped: false };
        loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let seconds = start.elapsed().as_secs_f64();
                    writeln!(log, "{seconds:8.1} {line}").context("the log cannot be written")?;
                    heard(&line);
                    console.text.push_str(&line);
                    console.text.push('\n');
                    // It is over, even where the kernel does not manage to restart.
                    if line.contains(PANIC) && line.contains("end ") {
                        return Ok(console);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(console),
                Err(RecvTimeoutError::Timeout) => {
                    console.stopped = true;
                    return Ok(console);
                }
            }
        }
    }
}
