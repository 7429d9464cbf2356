//! `enforcer status`.

mod table;

use clap::Args;

use crate::cli::{
    Failure,
    agent_or_pins::NodeAccess,
    output::{WideFormat, WideOutput, json, print},
};

/// Show who owns and who holds the ports of this node, and the conflicts
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    enforcer status\n  \
    enforcer status -o wide\n  \
    enforcer status -o json | jq '.holders[] | select(.port == 9100)'\n  \
    kubectl -n port-enforcer exec ds/port-enforcer -- enforcer status")]
pub(super) struct Status {
    #[command(flatten)]
    output: WideOutput,

    #[command(flatten)]
    node: NodeAccess,
}

impl Status {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self { output: WideOutput { format }, node } = self;
        let status = node.ask("/status", |pinned| Ok(pinned.status()))?;
        print(&match format {
            WideFormat::Table => table::text(&status, false),
            WideFormat::Wide => table::text(&status, true),
            WideFormat::Json => json(&status)?,
        })
    }
}
