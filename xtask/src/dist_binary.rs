//! Build of the binary that is shipped: static, optimized for size, and reproducible wherever the sources are. The image
//! contains it, and the benchmark measures it.

use anyhow::Context as _;
use cargo_metadata::Message;

use crate::{arch::Arch, process};

/// Name of the profile in the workspace's manifest.
const PROFILE: &str = "dist";

/// Builds targets of the package `enforcer` for an architecture, and returns cargo's messages. Cargo shows its progress on
/// standard error.
pub(crate) fn build(arch: Arch, cargo_targets: &[&str]) -> anyhow::Result<Vec<Message>> {
    let triple = arch.triple();
    let cargo_home = std::env::var("CARGO_HOME")
        .or_else(|_| std::env::var("HOME").map(|home| format!("{home}/.cargo")))
        .unwrap_or_default();
    let flags = [
        "-Ctarget-feature=+crt-static".to_owned(),
        // Nothing unwinds: a panic ends the agent.
        "-Cforce-unwind-tables=no".to_owned(),
        "-Clink-arg=-Wl,--no-eh-frame-hdr".to_owned(),
        // The binary is a third of a megabyte smaller. It relocates itself at its start, with code of the static libc: glibc
        // can do that since 2.36.
        "-Clink-arg=-Wl,-z,pack-relative-relocs".to_owned(),
        format!("--remap-path-prefix={}=/source", process::workspace_root().display()),
        format!("--remap-path-prefix={cargo_home}=/cargo"),
    ];
    let mut cargo = process::cargo();
    cargo
        // With --target, even for this machine, cargo does not pass the flags to build scripts and macros. Those cannot
        // be linked statically.
        .args(["build", "--locked", "--package", "enforcer", "--profile", PROFILE, "--target", triple])
        .args(cargo_targets)
        .arg("--message-format=json-render-diagnostics")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    arch.prepare(&mut cargo)?;
    process::cargo_messages(&mut cargo).with_context(|| format!("cannot build the agent for {triple}"))
}
