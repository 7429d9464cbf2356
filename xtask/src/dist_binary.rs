//! Build of the binaries that are shipped: static, optimized for size, and reproducible in the same folder. The image
//! contains the agent, and the benchmark measures it.

use std::path::PathBuf;

use anyhow::Context as _;
use cargo_metadata::{Message, TargetKind};

use crate::release::{NO_UNWINDING, Platform};
use crate::{arch::Arch, process};

/// Name of the profile in the workspace's manifest.
const PROFILE: &str = "dist";

/// Builds targets of the package `enforcer` for an architecture, and returns cargo's messages. Cargo shows its progress on
/// standard error.
pub(crate) fn build(arch: Arch, cargo_targets: &[&str]) -> anyhow::Result<Vec<Message>> {
    let flags = [
        "-Ctarget-feature=+crt-static",
        // The binary is a third of a megabyte smaller. It relocates itself at its start, with code of the static libc: glibc
        // can do that since 2.36. Linkers that cannot, those for arm64, ignore it.
        "-Clink-arg=-Wl,-z,pack-relative-relocs",
    ];
    // On amd64 the start-up code of the static C library does not refer to the tables.
    let script = format!("-Clink-arg=-Wl,-T,{}", process::workspace_root().join("xtask/src/dist_binary.ld").display());
    let without_tables = if arch == Arch::Amd64 { Some(&*script) } else { None };
    let flags: Vec<&str> = flags.into_iter().chain(NO_UNWINDING).chain(without_tables).collect();
    let mut cargo = cargo_build("enforcer", arch.triple(), &flags);
    cargo.args(cargo_targets);
    arch.prepare(&mut cargo)?;
    process::cargo_messages(&mut cargo).with_context(|| format!("cannot build the agent for {}", arch.triple()))
}

/// Builds the kubectl plugin for a platform, and returns its path.
pub(crate) fn plugin_executable(platform: &Platform) -> anyhow::Result<PathBuf> {
    eprintln!("building the kubectl plugin for {}", platform.triple);
    let mut cargo = cargo_build("enforcer-kubectl", platform.triple, platform.flags);
    platform.prepare(&mut cargo)?;
    let messages = process::cargo_messages(&mut cargo)
        .with_context(|| format!("cannot build the kubectl plugin for {}", platform.triple))?;
    process::built_executable(&messages, &TargetKind::Bin, "kubectl-host_ports")
}

/// Returns the command that builds a package for a target, with these flags beside the common ones.
fn cargo_build(package: &str, triple: &str, flags: &[&str]) -> std::process::Command {
    let cargo_home = std::env::var("CARGO_HOME")
        .or_else(|_| std::env::var("HOME").map(|home| format!("{home}/.cargo")))
        .unwrap_or_default();
    let mut all: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
    all.extend([
        format!("--remap-path-prefix={}=/source", process::workspace_root().display()),
        format!("--remap-path-prefix={cargo_home}=/cargo"),
    ]);
    let mut cargo = process::cargo();
    cargo
        // With --target, even for this machine, cargo does not pass the flags to build scripts and macros. Those cannot
        // be linked statically.
        .args(["build", "--locked", "--package", package, "--profile", PROFILE, "--target", triple])
        .arg("--message-format=json-render-diagnostics")
        .env("CARGO_ENCODED_RUSTFLAGS", all.join("\x1f"));
    cargo
}
