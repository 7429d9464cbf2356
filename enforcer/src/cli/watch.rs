//! `enforcer watch`.

use std::io::{self, Write as _};

use clap::{Args, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use enforcer_core::{model::text::escape, views::watch::WatchLine};

use crate::cli::{
    Failure,
    admin::{ADMIN_SOCKET, AdminSocket, Answer, open, wait},
};

/// Most bytes of one line; the agent's have a tenth of that.
const LONGEST: usize = 1 << 16;

/// Show bind attempts with their verdicts while they happen
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    enforcer watch --conflicts\n  \
    enforcer watch -o json | jq -r 'select(.port == 80) | .message'")]
pub(super) struct Watch {
    /// How each attempt is written, one per line
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,

    /// Only those that are denied, or would be
    #[arg(long)]
    conflicts: bool,

    /// Unix socket of the agent
    #[arg(long, env = "ENFORCER_ADMIN_SOCKET", value_name = "PATH", default_value = ADMIN_SOCKET)]
    admin_socket: AdminSocket,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

impl Watch {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self { output, conflicts, admin_socket } = self;
        wait(async {
            let cannot = |error| Failure::runtime(format!("cannot wait for signals: {error}"));
            let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
            let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
            let path = format!("/watch?conflicts={conflicts}");
            let answer = open(&admin_socket, &path).await.map_err(super::admin::AgentUnavailable::failure)?;
            tokio::select! {
                _ = interrupt.recv() => Ok(()),
                _ = terminate.recv() => Ok(()),
                ended = show(answer, output) => ended,
            }
        })
    }
}

/// Until the agent ends, or nobody reads any more.
async fn show(mut answer: Answer, output: Output) -> Result<(), Failure> {
    let mut rest = Vec::new();
    // However the answer ends, the agent does not end it while it runs.
    while let Ok(Some(bytes)) = answer.next().await {
        rest.extend_from_slice(&bytes);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            if !print(&line, output)? {
                return Ok(());
            }
        }
        if rest.len() > LONGEST {
            return Err(Failure::runtime("the agent's answer makes no sense: it has no lines; see its version"));
        }
    }
    Err(Failure::runtime("the agent has ended; start the watch again when the next one runs"))
}

/// Whether somebody still reads.
fn print(line: &[u8], output: Output) -> Result<bool, Failure> {
    let line: WatchLine = serde_json::from_slice(line)
        .map_err(|error| Failure::runtime(format!("the agent's answer makes no sense: {error}; see its version")))?;
    let text = match output {
        Output::Text => escape(&line.text()),
        Output::Json => serde_json::to_string(&line).map_err(Failure::runtime)?,
    };
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::runtime(format!("cannot write the answer: {error}"))),
    }
}
