//! The demo's child processes. None of them outlives the demo, whatever ends it.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::{CommandExt as _, parent_id};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use super::http_server;

/// How long a child may take to end when it is asked to.
const ENDING: Duration = Duration::from_secs(10);

/// The flags of the hidden `cargo xtask demo-child`: a process of the demo, as its first step.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The process that is its parent, or was
    #[arg(long)]
    parent: u32,
    /// The cgroup to move into
    #[arg(long)]
    cgroup: Option<PathBuf>,
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, clap::Subcommand)]
enum Role {
    /// Become another program
    Exec {
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// Be the demo's own server
    Serve(http_server::Args),
}

/// What a child does before it is what it shall be.
pub(crate) fn run(Args { parent, cgroup, role }: Args) -> anyhow::Result<()> {
    // Asked for here, since only the process itself can ask for it; it survives `exec`.
    set_parent_process_death_signal(Some(Signal::TERM)).context("cannot be tied to the parent's life")?;
    if parent_id() != parent {
        bail!("the demo is gone");
    }
    if let Some(cgroup) = cgroup {
        // Before any socket is made: a socket belongs for good to the cgroup it was made in.
        fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string())
            .with_context(|| format!("cannot move into the cgroup {}", cgroup.display()))?;
    }
    match role {
        Role::Serve(args) => http_server::run(&args),
        Role::Exec { command } => {
            let Some((program, arguments)) = command.split_first() else { bail!("nothing to execute") };
            let error = Command::new(program).args(arguments).exec();
            Err(error).with_context(|| format!("cannot execute {}", Path::new(program).display()))
        }
    }
}

/// A child process and the lines that it writes to standard error. Ended when dropped.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Process {
    /// Starts this program again as `role` says, in `cgroup` or where the demo itself is.
    pub(super) fn start(
        cgroup: Option<&Path>,
        role: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(env::current_exe().context("cannot find this program itself")?);
        command.args(["demo-child", "--parent", &std::process::id().to_string()]);
        if let Some(cgroup) = cgroup {
            command.arg("--cgroup").arg(cgroup);
        }
        command.args(role.into_iter().map(Into::into));
        // The demo's flags alone say how its agent is run.
        for (name, _) in env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"ENFORCER_")) {
            command.env_remove(name);
        }
        // In a process group of its own, so that Ctrl-C on the terminal reaches the demo alone, which then ends its
        // children in order.
        let mut child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start a process")?;
        let (sender, lines) = channel();
        let stderr = child.stderr.take().context("standard error of a child is not a pipe")?;
        thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n') {
                let Ok(line) = line else { return };
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, lines, said: Vec::new() })
    }

    /// Starts another program.
    pub(super) fn start_program(
        cgroup: Option<&Path>,
        program: &Path,
        arguments: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> anyhow::Result<Self> {
        let head = ["exec".into(), "--".into(), program.as_os_str().to_owned()];
        Self::start(cgroup, head.into_iter().chain(arguments.into_iter().map(Into::into)))
    }

    /// All that it has said until now.
    pub(super) fn said(&mut self) -> &[String] {
        self.said.extend(self.lines.try_iter());
        &self.said
    }

    /// How it ended, if it did.
    pub(super) fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.child.try_wait().context("cannot wait for a process")
    }

    /// Asks it to end; how it ended and all that it said.
    pub(super) fn end(mut self) -> anyhow::Result<(ExitStatus, Vec<String>)> {
        let deadline = Instant::now() + ENDING;
        self.ask();
        // Not ended early by a signal: this is what is done after one.
        let status = loop {
            if let Some(status) = self.ended()? {
                break status;
            }
            if Instant::now() >= deadline {
                bail!("process {} did not end within {} s of being asked to", self.child.id(), ENDING.as_secs());
            }
            thread::sleep(Duration::from_millis(5));
        };
        self.hear_out(deadline);
        Ok((status, std::mem::take(&mut self.said)))
    }

    /// All that a process said that has ended.
    pub(super) fn last_words(mut self) -> Vec<String> {
        self.hear_out(Instant::now() + ENDING);
        std::mem::take(&mut self.said)
    }

    /// Reads until the pipe is closed.
    fn hear_out(&mut self, deadline: Instant) {
        loop {
            match self.lines.try_recv() {
                Ok(line) => self.said.push(line),
                Err(TryRecvError::Empty) if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
                Err(_) => return,
            }
        }
    }

    fn ask(&mut self) {
        // A child that was waited for is gone, and its id may be another's.
        if matches!(self.child.try_wait(), Ok(None))
            && let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
        {
            // It can only fail when there is nothing left to end.
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}

/// Words of a process, for messages.
pub(super) fn in_quotes(words: &[String]) -> String {
    if words.is_empty() { "nothing".to_owned() } else { format!("`{}`", words.join("\n")) }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.ask();
        let deadline = Instant::now() + ENDING;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() >= deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}
