//! `enforcer watch`.

use clap::Args;
use hyper::Method;
use tokio::signal::unix::{SignalKind, signal};

use enforcer_core::{model::text::escape, views::watch::WatchLine};

use crate::cli::{
    Failure,
    admin::{AdminAnswer, AgentUnavailable, open, wait},
    agent_or_pins::{AdminSocketFlag, undecodable},
    output::{TextFormat, TextOutput, print_some},
};

/// Most bytes of one line; the agent's have a tenth of that.
const MAX_LINE_BYTES: usize = 1 << 16;

/// Show bind attempts and their verdicts as they happen
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    enforcer watch --conflicts\n  \
    enforcer watch -o json | jq -r 'select(.port == 80) | .message'")]
pub(super) struct Watch {
    #[command(flatten)]
    output: TextOutput,

    /// Only those that are denied, or would be
    #[arg(long)]
    conflicts: bool,

    #[command(flatten)]
    socket: AdminSocketFlag,
}

impl Watch {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self { output: TextOutput { format }, conflicts, socket: AdminSocketFlag { admin_socket } } = self;
        wait(async {
            let cannot = |error| Failure::runtime(format!("cannot wait for signals: {error}"));
            let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
            let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
            let path = format!("/watch?conflicts={conflicts}");
            let answer = open(&admin_socket, Method::GET, &path).await.map_err(AgentUnavailable::failure)?;
            tokio::select! {
                _ = interrupt.recv() => Ok(()),
                _ = terminate.recv() => Ok(()),
                ended = show(answer, format) => ended,
            }
        })
    }
}

/// Prints attempts until the agent ends or nobody reads any more.
async fn show(mut answer: AdminAnswer, format: TextFormat) -> Result<(), Failure> {
    let mut rest = Vec::new();
    // However the answer ends, the agent does not end it while it runs.
    while let Ok(Some(bytes)) = answer.next().await {
        rest.extend_from_slice(&bytes);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            if !print_attempt(&line, format)? {
                return Ok(());
            }
        }
        if rest.len() > MAX_LINE_BYTES {
            return Err(undecodable(&"it has no lines"));
        }
    }
    Err(Failure::runtime("the agent has ended; start the watch again when the next one runs"))
}

/// Prints an attempt. Returns whether there is still a reader.
fn print_attempt(line: &[u8], format: TextFormat) -> Result<bool, Failure> {
    let line: WatchLine = serde_json::from_slice(line).map_err(|error| undecodable(&error))?;
    let text = match format {
        TextFormat::Text => escape(&line.text()),
        TextFormat::Json => serde_json::to_string(&line).map_err(Failure::runtime)?,
    };
    print_some(&(text + "\n"))
}
