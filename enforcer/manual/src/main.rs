//! Writes the manual pages and shell completions into a folder, and prints their paths.

use std::{env, path::PathBuf};

use anyhow::Context as _;
use clap::Parser;
use jiff::Timestamp;

/// Write the manual pages and shell completions of enforcer and kubectl host-ports
#[derive(Debug, Parser)]
#[command(name = "enforcer-manual")]
struct Cli {
    /// Folder; it is created
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

/// Returns the date of the sources, where whoever packages them says it.
fn date() -> anyhow::Result<String> {
    let Ok(given) = env::var("SOURCE_DATE_EPOCH") else { return Ok(String::new()) };
    let seconds: i64 =
        given.parse().with_context(|| format!("SOURCE_DATE_EPOCH is {given}, not a number of seconds"))?;
    let time = Timestamp::from_second(seconds).context("SOURCE_DATE_EPOCH is no time")?;
    Ok(time.strftime("%Y-%m-%d").to_string())
}

fn main() -> anyhow::Result<()> {
    let Cli { folder } = Cli::parse();
    for path in enforcer_manual::write(&folder, &date()?)? {
        println!("{}", path.display());
    }
    Ok(())
}
