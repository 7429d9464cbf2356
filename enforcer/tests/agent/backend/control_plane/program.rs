//! One program of the control plane, and its log.

use std::{
    fs::{self, File},
    io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

use super::Failure;

/// How much of a log is told.
const TOLD: usize = 4096;

/// A running program. It is ended when this is dropped, and when the thread ends that started it.
pub(super) struct Program {
    name: &'static str,
    /// As it was started, in words.
    command: String,
    log: PathBuf,
    child: Child,
}

impl Program {
    /// Starts a program with nothing in its environment, in a folder where it also writes its log.
    pub(super) fn start(name: &'static str, path: &Path, folder: &Path, flags: &[String]) -> Result<Self, Failure> {
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log).expect("a log");
        let mut command = Command::new(path);
        command.args(flags).env_clear().current_dir(folder).stdin(Stdio::null());
        command.stdout(file.try_clone().expect("a log")).stderr(file);
        let parent = getpid();
        let die_with_parent = move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // Who was too late hears of nothing.
            if getppid() == Some(parent) { Ok(()) } else { Err(io::ErrorKind::NotConnected.into()) }
        };
        // SAFETY: between fork and exec it only makes two system calls and allocates nothing.
        unsafe { command.pre_exec(die_with_parent) };
        let child = command.spawn().map_err(|error| Failure::of_file(path, name, &error))?;
        Ok(Self { name, command: format!("{} {}", path.display(), flags.join(" ")), log, child })
    }

    /// Why it ended, if it did.
    pub(super) fn ended(&mut self) -> Option<Failure> {
        let status = self.child.try_wait().expect("it is this one's child")?;
        let (command, log) = (self.command.clone(), self.end_of_log());
        Some(Failure::Ended { program: self.name, status: status.to_string(), command, log })
    }

    /// What there is to say when it was waited for in vain.
    pub(super) fn never_ready(&self, timeout: Duration, answer: String) -> Failure {
        let (command, log) = (self.command.clone(), self.end_of_log());
        Failure::NeverReady { program: self.name, timeout, answer, command, log }
    }

    fn end_of_log(&self) -> String {
        let log = fs::read(&self.log).expect("its log");
        let end = &log[log.len().saturating_sub(TOLD)..];
        String::from_utf8_lossy(end).into_owned()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
