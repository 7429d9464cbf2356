//! Steps of `cargo xtask test` that are one check each: format, lints, dependencies, documentation, other platforms.

use std::process::Command;

use anyhow::{Context as _, bail};

use crate::{fuzz, process, setup};

/// Target for which enforcer-core and the kubectl plugin must compile: their users are also on Windows.
const WINDOWS_TARGET: &str = "x86_64-pc-windows-gnu";
/// Compiler of the C parts of crates, and linker, for that target.
const WINDOWS_COMPILER: &str = "x86_64-w64-mingw32-gcc";

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
    if process::find_program(WINDOWS_COMPILER).is_none() {
        return Some(format!("{WINDOWS_COMPILER} is not on PATH (Debian has it in gcc-mingw-w64-x86-64)"));
    }
    setup::ensure_target(WINDOWS_TARGET).err().map(|error| error.to_string())
}

/// Checks that enforcer-core alone compiles for Windows, and builds the kubectl plugin for it. It is not run: its Rust
/// standard library needs bcryptprimitives.dll, which Debian's wine does not have.
pub(super) fn windows() -> anyhow::Result<()> {
    for mut command in windows_commands() {
        process::run(&mut command)?;
    }
    Ok(())
}

fn windows_commands() -> [Command; 2] {
    [("check", "enforcer-core"), ("build", "enforcer-kubectl")].map(|(action, package)| {
        let mut cargo = process::cargo();
        cargo.args([action, "--locked", "--package", package, "--target", WINDOWS_TARGET]);
        cargo
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_check_compiles_what_is_for_other_systems_alone() {
        let commands = windows_commands().map(|command| process::display(&command));
        assert_eq!(
            commands,
            [
                "cargo check --locked --package enforcer-core --target x86_64-pc-windows-gnu",
                "cargo build --locked --package enforcer-kubectl --target x86_64-pc-windows-gnu",
            ]
        );
    }
}
