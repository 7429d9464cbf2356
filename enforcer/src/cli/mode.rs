//! `enforcer mode`.

use std::io;

use clap::{Args, ValueEnum};
use enforcer_ebpf::wire::NodeMode;
use serde_json::{Value, json};

use enforcer_core::views::node_snapshot::API_VERSION;

use crate::{
    cli::{
        Failure,
        agent_or_pins::BpffsFlag,
        output::{TextFormat, TextOutput, print},
        values::BootStateFlag,
    },
    host::boot_state_folder::{self, BootStateFolder},
    kernel::pins::{PinError, node_mode, set_node_mode},
};

/// Override this node's mode (break glass), or clear the override
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    enforcer mode audit      # nothing is denied on this node any more\n  \
    enforcer mode --clear    # the agent's --mode applies again\n  \
    enforcer mode -o json    # the override, for a program")]
pub(super) struct SetMode {
    /// Mode of this node
    #[arg(value_enum)]
    mode: Option<Word>,

    /// Clear the override
    #[arg(long, conflicts_with = "mode")]
    clear: bool,

    #[command(flatten)]
    output: TextOutput,

    #[command(flatten)]
    bpffs: BpffsFlag,

    /// Folder of the boot state, if there is one: the override is kept there over a restart of the node; none keeps it
    /// nowhere
    #[arg(long, env = "ENFORCER_BOOT_STATE", value_name = "PATH", default_value = boot_state_folder::DEFAULT_FOLDER)]
    boot_state: BootStateFlag,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Word {
    /// Deny nothing
    Audit,
    /// Deny, as with run --mode enforce
    Enforce,
}

impl SetMode {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self { mode, clear, output: TextOutput { format }, bpffs: BpffsFlag { bpffs }, boot_state } = self;
        let wanted = match (mode, clear) {
            (Some(Word::Audit), _) => Some(NodeMode::Audit),
            (Some(Word::Enforce), _) => Some(NodeMode::Enforce),
            (None, true) => Some(NodeMode::Unset),
            (None, false) => None,
        };
        if let Some(wanted) = wanted {
            set_node_mode(&bpffs, wanted).map_err(|error| pin_failure(&error))?;
            keep(boot_state, wanted);
        }
        let mode = node_mode(&bpffs).map_err(|error| pin_failure(&error))?;
        match format {
            TextFormat::Text => print(&format!("{}\n", sentence(mode))),
            TextFormat::Json => print(&format!("{}\n", json(mode))),
        }
    }
}

/// Keeps the override over a restart of the node, where a boot state is kept. It is in force now, whatever comes of that.
fn keep(boot_state: BootStateFlag, mode: NodeMode) {
    let Some(folder) = boot_state.0.map(|path| BootStateFolder::new(&path)).filter(BootStateFolder::exists) else {
        return;
    };
    if let Err(error) = folder.set_node_mode(mode) {
        eprintln!("enforcer: {error}; after a restart of the node the mode may be another one");
    }
}

/// Encodes the override; `null` is none.
fn json(mode: NodeMode) -> Value {
    let word = match mode {
        NodeMode::Unset => None,
        NodeMode::Audit => Some("audit"),
        NodeMode::Enforce => Some("enforce"),
    };
    json!({ "apiVersion": API_VERSION, "kind": "LocalMode", "mode": word })
}

fn sentence(mode: NodeMode) -> &'static str {
    match mode {
        NodeMode::Unset => "no mode is set on this node: the agent's --mode applies",
        NodeMode::Audit => "this node is set to audit: nothing is denied, until `enforcer mode --clear`",
        NodeMode::Enforce => {
            "this node is set to enforce, whatever the agent's --mode says, until `enforcer mode --clear`"
        }
    }
}

/// Maps an error of reading pins to an exit code and a sentence.
pub(super) fn pin_failure(error: &PinError) -> Failure {
    match error {
        PinError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            Failure::unsupported(format!("{error}; run this as root"))
        }
        _ => Failure::runtime(error),
    }
}
