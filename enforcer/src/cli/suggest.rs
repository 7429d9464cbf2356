//! `enforcer suggest`.

use clap::{Args, ValueEnum};
use hyper::Method;

use enforcer_core::cluster::suggest::{
    Suggestions,
    choice::WorkloadChoice,
    text::{no_patch, one_patch, patches_yaml, people},
};

use crate::cli::{
    Failure,
    admin::{AgentUnavailable, request, wait},
    agent_or_pins::{AdminSocketFlag, undecodable},
    output::{json, print},
};

/// Suggest how workloads declare the ports that their pods bind on this node
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    enforcer suggest\n  \
    enforcer suggest -n monitoring ds/node-exporter -o patch\n  \
    enforcer suggest -o json | jq '.suggestions[].ports[].ports'")]
pub(super) struct Suggest {
    /// Only this workload, with the short names of kubectl: ds/node-exporter
    #[arg(value_name = "KIND/NAME")]
    workload: Option<WorkloadChoice>,

    /// Only workloads of this namespace
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,

    /// Output format; patch is that of one workload, yaml has all patches as documents
    #[arg(short, long, value_enum, default_value_t = SuggestFormat::Text)]
    output: SuggestFormat,

    #[command(flatten)]
    socket: AdminSocketFlag,
}

/// Formats of suggestions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SuggestFormat {
    Text,
    Patch,
    Yaml,
    Json,
}

impl Suggest {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self { workload, namespace, output, socket } = self;
        // Only an agent knows what was bound and is not any more.
        let answer = wait(async {
            request(&socket.admin_socket, Method::GET, "/suggest").await.map_err(AgentUnavailable::failure)
        })?;
        let mut answer: Suggestions = serde_json::from_slice(&answer).map_err(|error| undecodable(&error))?;
        answer.retain(namespace.as_deref(), workload.as_ref());
        print(&match output {
            SuggestFormat::Text => people(&answer, "enforcer suggest"),
            SuggestFormat::Json => json(&answer)?,
            SuggestFormat::Yaml => patches_yaml(&answer),
            SuggestFormat::Patch => {
                let patch = one_patch(&answer).map_err(Failure::usage)?;
                if patch.is_none() {
                    eprintln!("{}", no_patch(&answer));
                }
                patch.unwrap_or_default()
            }
        })
    }
}
