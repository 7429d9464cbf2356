//! `enforcer release`.

use clap::Args;
use hyper::Method;

use enforcer_core::{
    model::{list_text::and_list, port_spec::protocol_name, text::escape},
    views::release::ReleaseAnswer,
};

use crate::cli::{
    Failure,
    admin::{AgentUnavailable, request, wait},
    agent_or_pins::{AdminSocketFlag, undecodable},
    output::{TextFormat, TextOutput, json, print},
    values::Port,
};

/// Most workloads that are listed.
const MAX_LISTED: usize = 6;

/// End the handover grace of a port now
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    enforcer release 80\n  \
    enforcer release 53/udp -o json | jq '.workloads[]'")]
pub(super) struct Release {
    /// The port, 1 to 65535, and the protocol: tcp (the default), udp or sctp
    #[arg(value_name = "PORT[/PROTOCOL]")]
    port: Port,

    #[command(flatten)]
    output: TextOutput,

    #[command(flatten)]
    socket: AdminSocketFlag,
}

impl Release {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self { port: Port { port, protocol }, output: TextOutput { format }, socket } = self;
        let path = format!("/release?port={port}&protocol={}", protocol_name(protocol));
        let answer = wait(async {
            request(&socket.admin_socket, Method::POST, &path).await.map_err(AgentUnavailable::failure)
        })?;
        let released: ReleaseAnswer = serde_json::from_slice(&answer).map_err(|error| undecodable(&error))?;
        print(&match format {
            TextFormat::Text => text(&released),
            TextFormat::Json => json(&released)?,
        })
    }
}

fn text(ReleaseAnswer { port, workloads, .. }: &ReleaseAnswer) -> String {
    let port = escape(port);
    if workloads.is_empty() {
        return format!("{port} is kept for nobody: nothing to release\n");
    }
    let workloads: Vec<String> = workloads.iter().map(|workload| escape(workload)).collect();
    format!("{port} is no longer kept for {}\n", and_list(&workloads, MAX_LISTED))
}
