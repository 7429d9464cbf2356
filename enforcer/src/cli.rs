//! The command line: one file per subcommand.

mod admin;
mod check;
mod cleanup;
mod completions;
mod explain;
mod mode;
mod pinned;
mod probe;
mod run;
mod status;
mod watch;

use std::{
    fmt::Display,
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

/// Kernel-enforced ownership of host ports for Kubernetes nodes.
#[derive(Debug, Parser)]
#[command(name = "enforcer", version, about, max_term_width = 100, arg_required_else_help = true)]
#[command(after_help = "Examples:\n  \
    enforcer probe                          # will this node do?\n  \
    enforcer run --source dir:/etc/kubernetes/manifests\n  \
    enforcer explain 80/tcp                 # who owns it, who holds it, what would happen to whom\n  \
    enforcer check --nodes 3 manifests/     # before anything is deployed\n  \
    enforcer mode audit                     # break glass: deny nothing on this node\n\n\
    Exit codes: 0 fine, 1 findings of check, 2 wrong usage or input, 3 a privilege or kernel feature is\n\
    missing, 4 failure while running. Colours are for terminals only, and NO_COLOR turns them off.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent: keep the kernel's claims in step with the pods of this node, until SIGTERM
    Run(Box<run::Run>),
    /// Tell what cannot work among manifests, before anything is deployed; needs no cluster
    ///
    /// Reads the Pods, Deployments, DaemonSets, StatefulSets, ReplicaSets, Jobs and CronJobs of one cluster, and tells
    /// which of them cannot share a node, which have more replicas than there are nodes, and what their annotations say
    /// in vain. Exits with 0 if nothing is wrong, with 1 if something is, and with 2 if nothing could be read.
    #[expect(clippy::doc_markdown, reason = "the help text shows no backticks")]
    Check(check::Check),
    /// Set the mode of this node by hand, or take that back: break glass
    ///
    /// Works without an agent and without the API server, counts at once, and outlives agents: until it is cleared, or the
    /// node restarts. In audit nothing is denied on this node, whatever --mode and the labels of namespaces say; enforce
    /// takes the place of --mode, and labels count as ever. Without a mode, tells the one that is set.
    Mode(mode::SetMode),
    /// Tell who owns and who holds the ports of this node, and what conflicts
    ///
    /// Asks the agent by its admin socket. Where none answers, tells what can be read from the pinned maps, the cgroup
    /// tree and the kernel's socket diagnostics, and says so. Needs root.
    Status(status::Status),
    /// Tell who owns and holds a port, and what would happen to whom
    ///
    /// What would happen on binding it now, and why. The verdict is that of the function that runs in the kernel, on the claims that are in force, in the mode that
    /// counts. What the kernel itself would say because of sockets that are there is told beside it. Asks the agent by its
    /// admin socket; where none answers, reads the pinned maps, and says so. Needs root.
    Explain(explain::Explain),
    /// Show bind attempts with their verdicts while they happen, one per line
    ///
    /// Until Ctrl-C, or until the agent ends (exit code 4). Without --conflicts the kernel programs report every attempt
    /// for as long as somebody watches; verdicts and counters stay as they are. Needs root.
    Watch(watch::Watch),
    /// Tell what this kernel and this node support, and what that means
    Probe(probe::Probe),
    /// Remove all that agents of whatever version left: programs, maps, reserved ports
    Cleanup(cleanup::Cleanup),
    /// Write a script by which a shell completes this command line
    Completions(completions::Completions),
}

/// Why a command did not do what it was asked for.
#[derive(Debug)]
struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// What was asked for was done, and there are findings.
    fn findings(message: impl Display) -> Self {
        Self { code: 1, message: message.to_string() }
    }

    /// Bad input or usage.
    fn usage(message: impl Display) -> Self {
        Self { code: 2, message: message.to_string() }
    }

    /// A privilege or a kernel feature is missing.
    fn unsupported(message: impl Display) -> Self {
        Self { code: 3, message: message.to_string() }
    }

    /// Something failed while running.
    fn runtime(message: impl Display) -> Self {
        Self { code: 4, message: message.to_string() }
    }
}

/// Writes an answer to standard output. That nobody reads it to its end is no failure.
fn say(answer: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(answer.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::runtime(format!("cannot write the answer: {error}")))
        }
        _ => Ok(()),
    }
}

/// Runs the command line of this process. Exit codes: 0 fine, 1 findings, 2 usage or bad input, 3 missing privilege or
/// kernel feature, 4 failure while running.
#[must_use]
pub fn main() -> ExitCode {
    let Cli { command } = Cli::parse();
    let result = match command {
        Command::Run(run) => run.run(),
        Command::Check(check) => check.run(),
        Command::Mode(mode) => mode.run(),
        Command::Status(status) => status.run(),
        Command::Explain(explain) => explain.run(),
        Command::Watch(watch) => watch.run(),
        Command::Probe(probe) => probe.run(),
        Command::Cleanup(cleanup) => cleanup.run(),
        Command::Completions(completions) => completions.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { code, message }) => {
            eprintln!("enforcer: {message}");
            ExitCode::from(code)
        }
    }
}
