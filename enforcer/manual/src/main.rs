//! Writes the manual pages and shell completions into a folder, and prints their paths.

use std::path::PathBuf;

use clap::Parser;

/// Write the manual pages and shell completions of enforcer and kubectl host-ports
#[derive(Debug, Parser)]
#[command(name = "enforcer-manual")]
struct Cli {
    /// Folder; it is created
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let Cli { folder } = Cli::parse();
    for path in enforcer_manual::write(&folder)? {
        println!("{}", path.display());
    }
    Ok(())
}
