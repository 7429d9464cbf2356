//! `cargo xtask demo`.

use anyhow::bail;

/// The flags of `cargo xtask demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print the acts as JSON
    #[arg(long)]
    json: bool,
    /// The port to fight for, instead of 80 or a free one
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
}

pub(crate) fn run(Args { json: _, port: _ }: Args) -> anyhow::Result<()> {
    bail!("not written yet")
}
