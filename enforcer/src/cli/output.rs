//! The flag `--output` and writing to standard output.

use std::io::{self, Write as _};

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::cli::Failure;

/// `--output` of the commands that answer with text.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct TextOutput {
    /// Output format
    #[arg(id = "output", value_name = "OUTPUT", short, long = "output", value_enum, default_value_t = TextFormat::Text)]
    pub(super) format: TextFormat,
}

/// Formats of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum TextFormat {
    Text,
    Json,
}

/// `--output` of the commands that answer with a table.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct TableOutput {
    /// Output format
    #[arg(id = "output", value_name = "OUTPUT", short, long = "output", value_enum, default_value_t = TableFormat::Table)]
    pub(super) format: TableFormat,
}

/// Formats of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum TableFormat {
    Table,
    Json,
}

/// `--output` of the commands that answer with a table that may be wide.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct WideOutput {
    /// Output format; wide adds container, command, process, user, cgroup and inode of each holder
    #[arg(id = "output", value_name = "OUTPUT", short, long = "output", value_enum, default_value_t = WideFormat::Table)]
    pub(super) format: WideFormat,
}

/// Formats of a table that may be wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum WideFormat {
    Table,
    Wide,
    Json,
}

/// Encodes an answer as JSON of several lines.
pub(super) fn json(answer: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(answer).map(|text| text + "\n").map_err(Failure::runtime)
}

/// Writes an answer to standard output. A reader that does not read it to its end is no failure.
pub(super) fn print(answer: &str) -> Result<(), Failure> {
    print_some(answer).map(|_| ())
}

/// Writes a part of an answer to standard output. Returns whether there is still a reader.
pub(super) fn print_some(answer: &str) -> Result<bool, Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(answer.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::runtime(format!("cannot write the answer: {error}"))),
    }
}
