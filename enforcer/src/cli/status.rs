//! `enforcer status`.

mod table;

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use enforcer_core::views::status::Status as Answer;

use crate::{
    cli::{
        Failure,
        admin::{ADMIN_SOCKET, AdminSocket, get, wait},
        pinned, say,
    },
    kernel::pins,
};

/// Tell who owns and who holds the ports of this node
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    enforcer status\n  \
    enforcer status -o wide\n  \
    enforcer status -o json | jq '.holders[] | select(.port == 9100)'\n  \
    kubectl -n port-enforcer exec ds/port-enforcer -- enforcer status")]
pub(super) struct Status {
    /// How the answer is written; wide adds container, command, process, user, cgroup and inode of each holder
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,

    /// Unix socket of the agent; none asks no agent
    #[arg(long, env = "ENFORCER_ADMIN_SOCKET", value_name = "PATH", default_value = ADMIN_SOCKET)]
    admin_socket: AdminSocket,

    /// Folder of a BPF file system that is read where no agent answers
    #[arg(long, env = "ENFORCER_BPFFS", value_name = "PATH", default_value = pins::DEFAULT_FOLDER)]
    bpffs: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Wide,
    Json,
}

impl Status {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self { output, admin_socket, bpffs } = self;
        let status = match wait(async { Ok(get(&admin_socket, "/status").await) })? {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                Failure::runtime(format!("the agent's answer makes no sense: {error}; see its version"))
            })?,
            Err(no_answer) => pinned::read(&bpffs, no_answer)?.status(),
        };
        say(&match output {
            Output::Table => table::text(&status, false),
            Output::Wide => table::text(&status, true),
            Output::Json => json(&status)?,
        })
    }
}

fn json(status: &Answer) -> Result<String, Failure> {
    serde_json::to_string_pretty(status).map(|text| text + "\n").map_err(Failure::runtime)
}
