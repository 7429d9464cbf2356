//! `enforcer cleanup`.

use std::{
    fmt::Display,
    io,
    path::{Path, PathBuf},
};

use aya::programs::loaded_programs;
use clap::Args;
use enforcer_core::rollout::RolloutProgress;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    cli::{
        Failure,
        agent_or_pins::BpffsFlag,
        values::{BootStateFlag, ReservedPortsFlags},
    },
    host::{
        boot_state_folder::{self, BootStateFolder},
        reserved_ports_sysctl::{ReservedPorts, Synced, SysctlError},
    },
    k8s::{self, ConnectError},
    kernel::pins::{CleanupSummary, PinError, clean_up},
};

/// Remove everything that agents of any version left behind
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    enforcer cleanup           # on a node whose agent has ended\n  \
    enforcer cleanup --wait    # in the place of an agent, as the overlay uninstall does\n  \
    enforcer cleanup --wait-for-daemonset port-enforcer-cleanup    # as the Job of the chart does")]
pub(super) struct Cleanup {
    #[command(flatten)]
    bpffs: BpffsFlag,

    #[command(flatten)]
    reserved_ports: ReservedPortsFlags,

    /// Folder of the boot state
    #[arg(long, env = "ENFORCER_BOOT_STATE", value_name = "PATH", default_value = boot_state_folder::DEFAULT_FOLDER)]
    boot_state: BootStateFlag,

    /// Wait for SIGTERM after the cleanup, since a container that exits is started again
    #[arg(long)]
    wait: bool,

    /// Clean up nothing here, but wait until the pods of this DaemonSet have cleaned up all nodes
    ///
    /// For the Job of the Helm chart, for which `helm uninstall` waits. The DaemonSet is in the namespace of the Job's
    /// service account, or of the kubeconfig.
    #[expect(clippy::doc_markdown, reason = "the help text shows no backticks")]
    #[arg(long, value_name = "NAME", conflicts_with = "wait")]
    wait_for_daemonset: Option<String>,
}

/// Prefix of the names of all our programs.
const PREFIX: &str = "pe_";

/// Places where agents leave something.
struct LeftBehind {
    bpffs: PathBuf,
    reserved: ReservedPorts,
    boot_state: Option<BootStateFolder>,
}

impl Cleanup {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self { bpffs: BpffsFlag { bpffs }, reserved_ports, boot_state, wait, wait_for_daemonset } = self;
        if let Some(name) = wait_for_daemonset {
            return wait_for_nodes(&name);
        }
        let left = LeftBehind {
            bpffs,
            reserved: reserved_ports.list(),
            boot_state: boot_state.0.map(|path| BootStateFolder::new(&path)),
        };
        if wait { clean_and_wait(&left) } else { clean(&left) }
    }
}

/// Waits until the pods of a `DaemonSet` have cleaned up all nodes, and prints how far they are.
fn wait_for_nodes(daemonset: &str) -> Result<(), Failure> {
    let cannot = |why: &dyn Display| Failure::runtime(format!("cannot wait for the DaemonSet {daemonset}: {why}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| cannot(&error))?;
    runtime.block_on(async {
        let cluster = k8s::connect(None).await.map_err(|error| match error {
            ConnectError::None => Failure::usage("no cluster was found: run this in a pod, or set KUBECONFIG"),
            other => Failure::usage(other),
        })?;
        let report = |seen: Result<RolloutProgress, &str>| match seen {
            Ok(RolloutProgress::Unseen) => println!("waiting for the controller of DaemonSets"),
            Ok(RolloutProgress::Nodes { done, all }) => println!("{done} of {all} nodes are clean"),
            Err(why) => println!("the API server does not answer, trying again: {why}"),
        };
        let waited = k8s::wait_for_daemonset(&cluster, daemonset, report).await;
        waited.map_err(|why| cannot(&why))
    })
}

fn clean_and_wait(left: &LeftBehind) -> Result<(), Failure> {
    let cannot = |error: io::Error| Failure::runtime(format!("cannot wait for SIGTERM: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot)?;
    runtime.block_on(async {
        // First of all: a signal that is not handled yet does not end the first process of a container.
        let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
        clean(left)?;
        println!("done; waiting for SIGTERM");
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(())
    })
}

fn clean(LeftBehind { bpffs, reserved, boot_state }: &LeftBehind) -> Result<(), Failure> {
    let mut removed = remove(bpffs)?;
    removed |= give_back(reserved)?;
    removed |= boot_state.as_ref().map_or(Ok(false), forget)?;
    let mut left = 0;
    for program in loaded_programs() {
        let program = program.map_err(|error| {
            Failure::unsupported(format!(
                "cannot list the kernel's BPF programs: {error}; run this as root or with CAP_SYS_ADMIN"
            ))
        })?;
        left += usize::from(program.name_as_str().is_some_and(|name| name.starts_with(PREFIX)));
    }
    if left > 0 {
        return Err(Failure::runtime(format!(
            "{left} programs of an agent are loaded, because an agent is running; they go with it: stop it"
        )));
    }
    if !removed {
        println!("nothing of an agent is in the kernel");
    }
    Ok(())
}

/// Takes the agents' ports out of the kernel's list and prints their number. Returns whether there were any.
fn give_back(reserved: &ReservedPorts) -> Result<bool, Failure> {
    let Synced { removed, forgotten, .. } = reserved.cleanup().map_err(|error| match &error {
        SysctlError::Write { source, .. } | SysctlError::Memory { source, .. } if is_refused(source) => {
            Failure::unsupported(error)
        }
        _ => Failure::runtime(error),
    })?;
    if let Some(why) = forgotten {
        println!("the ports that agents reserved are unknown and stay reserved until the node restarts: {why}");
    }
    if removed > 0 {
        println!("took {removed} ports out of net.ipv4.ip_local_reserved_ports; what others put there stays");
    }
    Ok(removed > 0)
}

/// Removes the boot state, so that nothing is in force again after a reboot. Returns whether there was one.
fn forget(folder: &BootStateFolder) -> Result<bool, Failure> {
    let found = folder.clean_up().map_err(Failure::runtime)?;
    if found {
        println!("removed the boot state in {}: nothing is restored after a reboot", folder.path().display());
    }
    Ok(found)
}

fn is_refused(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

/// Removes the pins and prints what they were. Returns whether there were any.
fn remove(bpffs: &Path) -> Result<bool, Failure> {
    let folder = bpffs.display();
    let cleaned = clean_up(bpffs).map_err(|error| match &error {
        PinError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            Failure::unsupported(format!("{error}; run this as root"))
        }
        _ => Failure::runtime(error),
    })?;
    let Some(CleanupSummary { links, pins, held, left_alone }) = cleaned else {
        return Err(Failure::runtime(format!(
            "an agent is running that keeps its state in {folder}: stop it first, then run this again"
        )));
    };
    for path in left_alone {
        println!("left in place, because no agent made it: {}", path.display());
    }
    if links + pins == 0 {
        return Ok(false);
    }
    println!("removed {links} links and {pins} other pins below {folder}: nothing of them judges binds any more");
    if held > 0 {
        return Err(Failure::runtime(format!(
            "{held} programs are still loaded after the removal of their pins, because a process holds them; stop that \
             process"
        )));
    }
    Ok(true)
}
