//! Steps of `cargo xtask test` that are one check each: format, lints, dependencies, documentation, other platforms.

use std::process::Command;

use anyhow::{Context as _, bail};

use crate::{fuzz, process, setup};

/// Target for which enforcer-core must compile: its users are also on Windows.
const WINDOWS_TARGET: &str = "x86_64-pc-windows-gnu";

/// Checks the format of the workspace and of the fuzz targets.
pub(super) fn fmt() -> anyhow::Result<()> {
    process::run(process::cargo().args(["fmt", "--all", "--check"])).context("`cargo fmt` corrects the format")?;
    fuzz::fmt()
}

/// Runs clippy on the host code, the BPF code and the fuzz targets. A failure in one does not hide the others.
pub(super) fn clippy() -> anyhow::Result<()> {
    let mut host = process::cargo();
    host.args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    let host = process::run(&mut host).context("on the host");

    setup::ensure_nightly_clippy()?;
    // The flags with which aya-build 0.2 compiles, in a target folder of its own: another toolchain would discard the
    // artifacts in the shared one.
    let order = if cfg!(target_endian = "big") { "bpfeb" } else { "bpfel" };
    let mut bpf = process::nightly("cargo");
    bpf.args(["clippy", "--package", "enforcer-ebpf", "--bin", "port-enforcer-bpf", "-Z", "build-std=core"])
        .args(["--target", &format!("{order}-unknown-none"), "--target-dir", "target/clippy-bpf"])
        .args(["--", "-D", "warnings"])
        .env("CARGO_ENCODED_RUSTFLAGS", format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH));
    let bpf = process::run(&mut bpf).context("on the BPF target");

    let failures: Vec<String> = [host, bpf, fuzz::clippy()]
        .into_iter()
        .filter_map(|result| result.err().map(|error| format!("{error:#}")))
        .collect();
    if failures.is_empty() { Ok(()) } else { bail!("{}", failures.join("; ")) }
}

/// Checks licences, duplicates and sources of the dependencies.
pub(super) fn deny() -> anyhow::Result<()> {
    setup::ensure_cargo_deny()?;
    process::run(process::cargo().args(["deny", "--all-features", "check", "licenses", "bans", "sources"]))
}

/// Builds the documentation.
pub(super) fn doc() -> anyhow::Result<()> {
    process::run(process::cargo().args(["doc", "--no-deps", "--workspace"]).env("RUSTDOCFLAGS", "-Dwarnings"))
}

/// Returns the reason why [`windows`] cannot run here, if there is one, after adding the target if it is missing.
pub(super) fn windows_obstacle() -> Option<String> {
    setup::ensure_target(WINDOWS_TARGET).err().map(|error| error.to_string())
}

/// Checks that enforcer-core compiles for Windows.
pub(super) fn windows() -> anyhow::Result<()> {
    process::run(&mut windows_command())
}

fn windows_command() -> Command {
    let mut cargo = process::cargo();
    cargo.args(["check", "--locked", "--package", "enforcer-core", "--target", WINDOWS_TARGET]);
    cargo
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_check_compiles_enforcer_core_alone() {
        let command = process::display(&windows_command());
        assert_eq!(command, "cargo check --locked --package enforcer-core --target x86_64-pc-windows-gnu");
    }
}
