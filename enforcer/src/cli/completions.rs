//! `enforcer completions`.

use clap::{Args, CommandFactory as _};
use clap_complete::{Shell, generate};

use crate::cli::{Cli, Failure, output::print};

/// Generate shell completions
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    enforcer completions bash > /etc/bash_completion.d/enforcer\n  \
    source <(enforcer completions zsh)")]
pub(super) struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self { shell } = self;
        let mut script = Vec::new();
        generate(shell, &mut Cli::command(), "enforcer", &mut script);
        print(&String::from_utf8_lossy(&script))
    }
}
