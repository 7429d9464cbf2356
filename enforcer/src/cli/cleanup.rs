//! `enforcer cleanup`.

use aya::programs::loaded_programs;
use clap::Args;

use crate::cli::Failure;

/// Tell whether anything of an agent is left in the kernel, and remove it
#[derive(Debug, Args)]
pub(super) struct Cleanup {}

/// What the names of all our programs begin with.
const PREFIX: &str = "pe_";

impl Cleanup {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self {} = self;
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
}
