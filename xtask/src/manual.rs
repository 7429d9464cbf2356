//! `cargo xtask manual`: writes the manual pages and shell completions of both programs into a folder.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::{process, setup};

/// Flags of `cargo xtask manual`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask manual
  man -l target/manual/man/man1/enforcer-run.1

Below the folder are man/man1/ and completions/. Pages have the date of SOURCE_DATE_EPOCH (seconds since 1970), or
none: the same sources give the same bytes.")]
pub(crate) struct Args {
    /// Folder [default: target/manual]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

pub(crate) fn run(Args { out }: Args) -> anyhow::Result<()> {
    let folder = out.unwrap_or_else(|| process::workspace_root().join("target/manual"));
    for path in write(&folder)? {
        println!("{}", folder.join(path).display());
    }
    Ok(())
}

/// Writes all pages and completions, and returns their paths below the folder.
pub(crate) fn write(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    setup::ensure_build_tools()?;
    let mut cargo = process::cargo();
    cargo.args(["run", "--quiet", "--locked", "--package", "enforcer-manual", "--"]).arg(folder);
    let printed = process::output(&mut cargo)
        .with_context(|| format!("cannot write the manual pages into {}", folder.display()))?;
    Ok(printed.lines().map(PathBuf::from).collect())
}
