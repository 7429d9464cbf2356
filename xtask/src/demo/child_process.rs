//! Child processes of the demo, which end with the demo in every case.

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

/// Time limit for a child to end after SIGTERM.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// Flags of the hidden `cargo xtask demo-child`, which prepares a child process.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Process id of the parent
    #[arg(long)]
    parent: u32,
    /// Cgroup to move into
    #[arg(long)]
    cgroup: Option<PathBuf>,
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, clap::Subcommand)]
enum Role {
    /// Execute another program
    Exec {
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// Run the demo's own server
    Serve(http_server::Args),
}

/// Ties this process to its parent, moves it into its cgroup, and starts its role.
pub(crate) fn run(Args { parent, cgroup, role }: Args) -> anyhow::Result<()> {
    // Only the process itself can set this. It survives `exec`.
    set_parent_process_death_signal(Some(Signal::TERM)).context("cannot set the death signal of the parent")?;
    if parent_id() != parent {
        bail!("the parent process has ended");
    }
    if let Some(cgroup) = cgroup {
        // Before the first socket: a socket always belongs to the cgroup in which it was created.
        fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string())
            .with_context(|| format!("cannot move into the cgroup {}", cgroup.display()))?;
    }
    match role {
        Role::Serve(args) => http_server::run(&args),
        Role::Exec { command } => {
            let Some((program, arguments)) = command.split_first() else { bail!("no program to execute") };
            let error = Command::new(program).args(arguments).exec();
            Err(error).with_context(|| format!("cannot execute {}", Path::new(program).display()))
        }
    }
}

/// A child process with the lines of its standard error. It is ended when dropped.
#[derive(Debug)]
pub(super) struct ChildProcess {
    child: Child,
    receiver: Receiver<String>,
    lines: Vec<String>,
}

impl ChildProcess {
    /// Starts this program as `demo-child` with the arguments of a role, in `cgroup` or in the cgroup of the demo.
    pub(super) fn start(
        cgroup: Option<&Path>,
        role: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(env::current_exe().context("cannot find the path of this program")?);
        command.args(["demo-child", "--parent", &std::process::id().to_string()]);
        if let Some(cgroup) = cgroup {
            command.arg("--cgroup").arg(cgroup);
        }
        command.args(role.into_iter().map(Into::into));
        // Only the demo's flags configure its agent.
        for (name, _) in env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"ENFORCER_")) {
            command.env_remove(name);
        }
        // In its own process group, so that Ctrl-C reaches only the demo, which then ends its children in order.
        let mut child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start a child process")?;
        let (sender, receiver) = channel();
        let stderr = child.stderr.take().context("standard error of a child is not a pipe")?;
        thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n') {
                let Ok(line) = line else { return };
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, receiver, lines: Vec::new() })
    }

    /// Starts another program.
    pub(super) fn start_program(
        cgroup: Option<&Path>,
        program: &Path,
        arguments: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> anyhow::Result<Self> {
        let role = ["exec".into(), "--".into(), program.as_os_str().to_owned()];
        Self::start(cgroup, role.into_iter().chain(arguments.into_iter().map(Into::into)))
    }

    /// Returns all lines so far.
    pub(super) fn lines(&mut self) -> &[String] {
        self.lines.extend(self.receiver.try_iter());
        &self.lines
    }

    /// Returns the exit status, if the process has ended.
    pub(super) fn exit_status(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.child.try_wait().context("cannot wait for a child process")
    }

    /// Ends the process with SIGTERM, and returns its exit status and all lines.
    pub(super) fn end(mut self) -> anyhow::Result<(ExitStatus, Vec<String>)> {
        let deadline = Instant::now() + END_TIMEOUT;
        self.terminate();
        // Not with `wait`, which a signal interrupts: this also runs after a signal.
        let status = loop {
            if let Some(status) = self.exit_status()? {
                break status;
            }
            if Instant::now() >= deadline {
                bail!("process {} did not end within {} s after SIGTERM", self.child.id(), END_TIMEOUT.as_secs());
            }
            thread::sleep(Duration::from_millis(5));
        };
        self.read_to_end(deadline);
        Ok((status, std::mem::take(&mut self.lines)))
    }

    /// Returns all lines of a process that has ended.
    pub(super) fn into_lines(mut self) -> Vec<String> {
        self.read_to_end(Instant::now() + END_TIMEOUT);
        std::mem::take(&mut self.lines)
    }

    /// Reads until the pipe is closed.
    fn read_to_end(&mut self, deadline: Instant) {
        loop {
            match self.receiver.try_recv() {
                Ok(line) => self.lines.push(line),
                Err(TryRecvError::Empty) if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
                Err(_) => return,
            }
        }
    }

    /// Sends SIGTERM if the process runs.
    fn terminate(&mut self) {
        // Once the child has been waited for, its id can belong to another process.
        if matches!(self.child.try_wait(), Ok(None))
            && let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
        {
            // It fails only if the process has ended.
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}

/// Quotes the lines of a process for messages.
pub(super) fn quote_lines(lines: &[String]) -> String {
    if lines.is_empty() { "empty".to_owned() } else { format!("`{}`", lines.join("\n")) }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        self.terminate();
        let deadline = Instant::now() + END_TIMEOUT;
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
