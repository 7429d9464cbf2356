//! Builds this crate's own binary for the BPF target, so that the library can carry it (`OBJECT`).

use std::env;

use anyhow::Context as _;
use aya_build::{Package, Toolchain};

fn main() -> anyhow::Result<()> {
    if env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("bpf") {
        // This is the inner build.
        return Ok(());
    }
    aya_build::build_ebpf(
        [Package { name: env!("CARGO_PKG_NAME"), root_dir: env!("CARGO_MANIFEST_DIR"), ..Package::default() }],
        Toolchain::default(),
    )
    .context("building the BPF object failed; `cargo xtask setup` finds or installs what it needs")
}
