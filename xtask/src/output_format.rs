//! How a command writes what it found.

use clap::ValueEnum;

/// For people or for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Table,
    Json,
}

impl Output {
    /// Says how far it is. Where standard output is for a program, people read standard error.
    pub(crate) fn say(self, line: &str) {
        match self {
            Self::Table => println!("{line}"),
            Self::Json => eprintln!("{line}"),
        }
    }
}
