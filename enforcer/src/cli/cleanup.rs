//! `enforcer cleanup`.

use std::{
    io,
    path::{Path, PathBuf},
};

use aya::programs::loaded_programs;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    bpf::pins::{self, Cleaned, PinError, clean_up},
    cli::Failure,
};

/// Remove all that agents left in the kernel: links, programs and maps, of whatever version
#[derive(Debug, Args)]
pub(super) struct Cleanup {
    /// Folder of a BPF file system in which agents keep what outlives them
    #[arg(long, env = "ENFORCER_BPFFS", value_name = "PATH", default_value = pins::DEFAULT_FOLDER)]
    bpffs: PathBuf,

    /// When nothing is left, stay until SIGTERM: a container that ends is started again
    #[arg(long)]
    wait: bool,
}

/// What the names of all our programs begin with.
const PREFIX: &str = "pe_";

impl Cleanup {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self { bpffs, wait } = self;
        if wait { clean_and_wait(&bpffs) } else { clean(&bpffs) }
    }
}

fn clean_and_wait(bpffs: &Path) -> Result<(), Failure> {
    let cannot = |error: io::Error| Failure::runtime(format!("cannot wait for SIGTERM: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot)?;
    runtime.block_on(async {
        // First of all: a signal that is not handled yet does not end the first process of a container.
        let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
        clean(bpffs)?;
        println!("done; waiting for SIGTERM");
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(())
    })
}

fn clean(bpffs: &Path) -> Result<(), Failure> {
    let removed = remove(bpffs)?;
    let mut left = 0;
    for program in loaded_programs() {
        let program = program.map_err(|error| {
            Failure::unsupported(format!(
                "cannot list the kernel's BPF programs: {error}; run this as root or with CAP_SYS_ADMIN"
            ))
        })?;
        left += usize::from(program.name_as_str().is_some_and(|name| name.starts_with(PREFIX)));
    }
    if left > 0 {
        return Err(Failure::runtime(format!(
            "{left} programs of an agent are loaded, because an agent is running; they go with it: stop it"
        )));
    }
    if !removed {
        println!("nothing of an agent is in the kernel");
    }
    Ok(())
}

/// Removes what is pinned, and says what that was: whether it was anything.
fn remove(bpffs: &Path) -> Result<bool, Failure> {
    let folder = bpffs.display();
    let cleaned = clean_up(bpffs).map_err(|error| match &error {
        PinError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            Failure::unsupported(format!("{error}; run this as root"))
        }
        _ => Failure::runtime(error),
    })?;
    let Some(Cleaned { links, pins, held, left_alone }) = cleaned else {
        return Err(Failure::runtime(format!(
            "an agent is running that keeps its state in {folder}: stop it first, then run this again"
        )));
    };
    for path in left_alone {
        println!("left alone, for it is not an agent's: {}", path.display());
    }
    if links + pins == 0 {
        return Ok(false);
    }
    println!("removed {links} links and {pins} other pins below {folder}: nothing of them judges binds any more");
    if held > 0 {
        return Err(Failure::runtime(format!(
            "{held} programs whose pins were removed are loaded all the same, because a process holds them; they go \
             with it: stop it"
        )));
    }
    Ok(true)
}
