//! Output format of a command: a table for people, or JSON for programs.

use clap::ValueEnum;

/// Value of `--output`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    Table,
    Json,
}

impl OutputFormat {
    /// Prints a line about the progress: on standard output beside a table, on standard error beside JSON.
    pub(crate) fn print_progress(self, line: &str) {
        match self {
            Self::Table => println!("{line}"),
            Self::Json => eprintln!("{line}"),
        }
    }
}
