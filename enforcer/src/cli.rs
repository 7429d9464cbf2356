//! The command line: one file per subcommand.

mod admin;
mod agent_failure;
mod agent_or_pins;
mod boot;
mod check;
mod cleanup;
mod completions;
mod explain;
mod host_name;
mod mode;
mod output;
mod pinned;
mod probe;
mod release;
mod restore;
mod run;
mod status;
mod suggest;
mod values;
mod watch;

use std::{fmt::Display, process::ExitCode};

use clap::{CommandFactory as _, Parser, Subcommand};

/// Kernel-enforced ownership of host ports for Kubernetes nodes.
#[derive(Debug, Parser)]
#[command(name = "enforcer", version, about, max_term_width = 100, arg_required_else_help = true)]
#[command(after_help = "Examples:\n  \
    enforcer probe                          # does this node support it?\n  \
    enforcer run --source dir:/etc/kubernetes/manifests\n  \
    enforcer explain 80/tcp                 # who owns it, who holds it, what would a bind get\n  \
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
    /// Find conflicts among manifests before they are deployed; needs no cluster
    ///
    /// Reads the Pods, ReplicationControllers, Deployments, DaemonSets, StatefulSets, ReplicaSets, Jobs and CronJobs of
    /// one cluster, and reports which of them cannot share a node, which have more replicas than there are nodes, which
    /// ports the API server refuses, and which of their annotations have no effect. Exits with 0 if nothing is wrong,
    /// with 1 if something is, and with 2 if nothing could be read.
    #[expect(clippy::doc_markdown, reason = "the help text shows no backticks")]
    Check(check::Check),
    /// Override this node's mode (break glass), or clear the override
    ///
    /// Works without an agent and without the API server, takes effect at once, and outlives agents, and restarts of the
    /// node where a boot state is kept, until it is cleared. In audit, nothing is denied on this node, whatever --mode and the labels of
    /// namespaces say. Enforce replaces --mode; the labels of namespaces still apply. Without a mode, shows the current
    /// override.
    Mode(mode::SetMode),
    /// Show who owns and who holds the ports of this node, and the conflicts
    ///
    /// Asks the agent by its admin socket. If no agent answers, shows what the pinned maps, the cgroup tree and the
    /// kernel's socket diagnostics contain, and notes that. Needs root.
    Status(status::Status),
    /// Show who owns and who holds a port, and what would happen to a bind
    ///
    /// The verdict is that of the function that runs in the kernel, for the claims in force and the mode that applies.
    /// A refusal by the kernel itself, because of sockets that exist, is shown beside it. Asks the agent by its admin
    /// socket; if no agent answers, reads the pinned maps, and notes that. Needs root.
    Explain(explain::Explain),
    /// Show bind attempts and their verdicts as they happen, one per line
    ///
    /// Runs until Ctrl-C, or until the agent ends (exit code 4). Without --conflicts, the kernel programs report every
    /// attempt for as long as somebody watches; verdicts and counters do not change. Needs root.
    Watch(watch::Watch),
    /// Suggest how workloads declare the ports that their pods bind on this node
    ///
    /// Shows which ports the pods of each workload bound by name since the agent watches and do not declare, and a
    /// strategic merge patch that declares them. For a whole cluster, see kubectl host-ports suggest. Asks the agent by
    /// its admin socket, and needs one. Needs root.
    Suggest(suggest::Suggest),
    /// End the handover grace of a port now, so that another workload can have it
    ///
    /// The ports of a pod that is gone stay with its workload for --handover-grace. Asks the agent by its admin socket,
    /// and needs one. Needs root.
    Release(release::Release),
    /// Put in force again what was in force before the node started, until an agent comes
    ///
    /// Reads the boot state that the agent wrote (run --boot-state), loads the kernel programs with its claims, and exits.
    /// Meant to run at boot, before the kubelet has started any pod. Only a boot state of this machine and of an earlier
    /// boot counts, and only until its lease ends. A damaged one denies nothing.
    Restore(restore::Restore),
    /// Install or remove the systemd unit that runs restore at boot
    Boot(boot::Boot),
    /// Show what this kernel and this node support, and what that means
    Probe(probe::Probe),
    /// Remove everything that agents of any version left behind
    Cleanup(cleanup::Cleanup),
    /// Generate shell completions
    Completions(completions::Completions),
}

/// Failure of a command: its exit code and the sentence for the user.
#[derive(Debug)]
struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// Makes the failure of a command that did its work and has findings.
    fn findings(message: impl Display) -> Self {
        Self { code: 1, message: message.to_string() }
    }

    /// Makes the failure for bad input or usage.
    fn usage(message: impl Display) -> Self {
        Self { code: 2, message: message.to_string() }
    }

    /// Makes the failure for a missing privilege or kernel feature.
    fn unsupported(message: impl Display) -> Self {
        Self { code: 3, message: message.to_string() }
    }

    /// Makes the failure for something that failed while running.
    fn runtime(message: impl Display) -> Self {
        Self { code: 4, message: message.to_string() }
    }
}

/// Returns the command line, for what is generated from it.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
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
        Command::Suggest(suggest) => suggest.run(),
        Command::Release(release) => release.run(),
        Command::Restore(restore) => restore.run(),
        Command::Boot(boot) => boot.run(),
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
