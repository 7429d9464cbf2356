//! `enforcer mode`.

use std::{io, path::PathBuf};

use clap::{Args, ValueEnum};
use enforcer_ebpf::wire::NodeMode;
use serde_json::{Value, json};

use enforcer_core::views::json::API_VERSION;

use crate::{
    cli::{Failure, say},
    kernel::pins::{self, PinError, node_mode, set_node_mode},
};

/// Set the mode of this node by hand, or take that back
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    enforcer mode audit      # nothing is denied on this node any more\n  \
    enforcer mode --clear    # the agent's own mode counts again\n  \
    enforcer mode -o json    # what is set, for a program")]
pub(super) struct SetMode {
    /// The mode
    #[arg(value_enum)]
    mode: Option<Word>,

    /// Take back what was set
    #[arg(long, conflicts_with = "mode")]
    clear: bool,

    /// How the answer is written
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,

    /// Folder of a BPF file system in which agents keep what outlives them
    #[arg(long, env = "ENFORCER_BPFFS", value_name = "PATH", default_value = pins::DEFAULT_FOLDER)]
    bpffs: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Word {
    /// Deny nothing
    Audit,
    /// Deny, as with run --mode enforce
    Enforce,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

impl SetMode {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self { mode, clear, output, bpffs } = self;
        let wanted = match (mode, clear) {
            (Some(Word::Audit), _) => Some(NodeMode::Audit),
            (Some(Word::Enforce), _) => Some(NodeMode::Enforce),
            (None, true) => Some(NodeMode::Unset),
            (None, false) => None,
        };
        if let Some(wanted) = wanted {
            set_node_mode(&bpffs, wanted).map_err(|error| pin_failure(&error))?;
        }
        let mode = node_mode(&bpffs).map_err(|error| pin_failure(&error))?;
        match output {
            Output::Text => say(&format!("{}\n", sentence(mode))),
            Output::Json => say(&format!("{}\n", json(mode))),
        }
    }
}

/// What is set; `null` is nothing.
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
        NodeMode::Unset => "no mode is set on this node: the agent's own counts",
        NodeMode::Audit => "this node is set to audit: nothing is denied, until `enforcer mode --clear`",
        NodeMode::Enforce => {
            "this node is set to enforce, whatever the agent's --mode says, until `enforcer mode --clear`"
        }
    }
}

/// Also for others that read pins.
pub(super) fn pin_failure(error: &PinError) -> Failure {
    match error {
        PinError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            Failure::unsupported(format!("{error}; run this as root"))
        }
        _ => Failure::runtime(error),
    }
}
