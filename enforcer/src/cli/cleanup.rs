//! `enforcer cleanup`.

use std::io;

use aya::programs::loaded_programs;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::Failure;

/// Tell whether anything of an agent is left in the kernel, and remove it
#[derive(Debug, Args)]
pub(super) struct Cleanup {
    /// When nothing is left, stay until SIGTERM: a container that ends is started again
    #[arg(long)]
    wait: bool,
}

/// What the names of all our programs begin with.
const PREFIX: &str = "pe_";

impl Cleanup {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self { wait } = self;
        if wait { clean_and_wait() } else { clean() }
    }
}

fn clean_and_wait() -> Result<(), Failure> {
    let cannot = |error: io::Error| Failure::runtime(format!("cannot wait for SIGTERM: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot)?;
    runtime.block_on(async {
        // First of all: a signal that is not handled yet does not end the first process of a container.
        let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
        clean()?;
        println!("done; waiting for SIGTERM");
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(())
    })
}

fn clean() -> Result<(), Failure> {
    let mut left = 0;
    for program in loaded_programs() {
        let program = program.map_err(|error| {
            Failure::unsupported(format!(
                "cannot list the kernel's BPF programs: {error}; run this as root or with CAP_SYS_ADMIN"
            ))
        })?;
        left += usize::from(program.name_as_str().is_some_and(|name| name.starts_with(PREFIX)));
    }
    // This version pins nothing: programs and maps live as long as the agent that loaded them.
    if left == 0 {
        println!("nothing of an agent is in the kernel");
        return Ok(());
    }
    Err(Failure::runtime(format!(
        "{left} programs of an agent are loaded, because an agent is running; they go with it: stop it"
    )))
}
