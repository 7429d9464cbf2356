//! `enforcer restore`.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use clap::Args;
use enforcer_core::{
    boot_state::BootState,
    model::{kernel_ids::BootNanos, now::Now},
    views::unenforced_time::should_enforce,
};

use crate::{
    agent::{
        AgentError,
        reconciler::{Reconciler, Start},
    },
    cli::{
        Failure,
        agent_failure::{agent_failure, program_failure},
        agent_or_pins::BpffsFlag,
        mode::pin_failure,
        values::ReservedPortsFlags,
    },
    host::{
        boot_state_folder::{self, BootStateFolder, FolderError},
        cgroup::{MOUNTINFO, Root},
        clock,
        reserved_ports_sysctl::ReservedPorts,
    },
    kernel::{
        pins::{Persistence, Pins, recall_node_mode},
        probe,
    },
};

/// What follows where nothing is restored.
const NOTHING: &str = "nothing is enforced until an agent comes";

/// Put in force again what was in force before the node started, until an agent comes
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    enforcer restore    # at boot, before the kubelet: see enforcer boot install")]
pub(super) struct Restore {
    /// Folder of the boot state that the agent writes (run --boot-state)
    #[arg(long, env = "ENFORCER_BOOT_STATE", value_name = "PATH", default_value = boot_state_folder::DEFAULT_FOLDER)]
    boot_state: PathBuf,

    #[command(flatten)]
    bpffs: BpffsFlag,

    #[command(flatten)]
    reserved_ports: ReservedPortsFlags,
}

impl Restore {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self { boot_state, bpffs: BpffsFlag { bpffs }, reserved_ports } = self;
        let began = Instant::now();
        let folder = BootStateFolder::new(&boot_state);
        let pins = Pins::at(&bpffs).map_err(Failure::unsupported)?;
        let Some(guard) = pins.try_lock().map_err(|error| pin_failure(&error))? else {
            println!("an agent is running, so that nothing is to be restored");
            return Ok(());
        };
        // First of all, since it may stand against all that follows.
        let (mode, doubt) = folder.node_mode();
        recall_node_mode(&bpffs, mode).map_err(|error| pin_failure(&error))?;
        if let Some(doubt) = doubt {
            eprintln!("enforcer: {doubt}");
        }
        if pins.is_live().map_err(|error| pin_failure(&error))? {
            println!("an agent left its claims in force, so that nothing is to be restored");
            return Ok(());
        }
        let now = clock::now();
        let state = match folder.read(now) {
            Ok(Some(state)) => state,
            Ok(None) => {
                println!("there is no boot state in {}: {NOTHING}", boot_state.display());
                return Ok(());
            }
            // That is no failure of anything.
            Err(unfit @ FolderError::Unfit { .. }) => {
                println!("{unfit}; {NOTHING}");
                return Ok(());
            }
            Err(error) => return Err(Failure::runtime(format!("{error}; {NOTHING}"))),
        };
        let summary = restore(state, Persistence { guard, persist: true }, now, &reserved_ports.list())?;
        println!("{summary}, in {} ms", began.elapsed().as_millis());
        Ok(())
    }
}

/// Loads the programs with the claims of a boot state, and leaves them attached. Returns what was done, for people.
fn restore(state: BootState, persistence: Persistence, now: Now, reserved: &ReservedPorts) -> Result<String, Failure> {
    let features = probe::features().map_err(|error| program_failure(&error))?;
    let root = Root::make(&state.cgroup, Path::new(MOUNTINFO)).map_err(Failure::unsupported)?;
    let (policy, lease, reserves_ports) = (state.policy_at_boot(), state.remaining_lease(now), state.reserves_ports);
    let written = jiff::Timestamp::from_microsecond(state.written).unwrap_or_default();
    let start = Start {
        root,
        settings: state.settings,
        policy,
        features,
        trace: false,
        lease,
        shared_ports: state.shared_ports,
        boot_state: Some(state.owners),
    };
    let failed = |error| agent_failure(&AgentError::Reconciler(error));
    let mut reconciler = Reconciler::load(start, Some(persistence)).map_err(failed)?;
    // Before anything is judged, so that the agent finds the mark whenever this ends.
    let at = BootNanos::after_boot(clock::now().boottime);
    reconciler.kernel_mut().mark_boot_restore(at).map_err(Failure::runtime)?;
    reconciler.attach().map_err(failed)?;
    let enforced = should_enforce(policy.enforce, reconciler.node_mode());
    if enforced && reserves_ports {
        // Without it everything else is as it should be.
        if let Err(error) = reserved.add(&reconciler.index().ports_in_force()) {
            eprintln!("enforcer: {error}");
        }
    }
    let (claims, _) = reconciler.index().claim_counts();
    Ok(format!(
        "restored {claims} claims of {} pods, as they were in force at {written:.0}, in mode {}",
        reconciler.index().pod_count(),
        if enforced { "enforce" } else { "audit" },
    ))
}
