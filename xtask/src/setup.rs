//! `cargo xtask setup`: finds or installs the tools that compile the kernel programs, beyond a stable toolchain.
//!
//! `core` is compiled for the BPF target, so the build needs a nightly toolchain and the source of its library, and
//! `bpf-linker` links the programs. Nothing is downloaded or changed where a tool is present.

mod cargo_tool;
mod rust_src;

use std::fs;

use anyhow::{Context as _, bail};

use self::cargo_tool::CargoTool;
use crate::process::{self, NIGHTLY};

const BPF_LINKER: CargoTool = CargoTool { name: "bpf-linker", version: "0.10.3" };
const CARGO_DEB: CargoTool = CargoTool { name: "cargo-deb", version: "3.8.0" };
const CARGO_DENY: CargoTool = CargoTool { name: "cargo-deny", version: "0.20.2" };
const CARGO_FUZZ: CargoTool = CargoTool { name: "cargo-fuzz", version: "0.13.2" };

/// Flags of `cargo xtask setup`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Also install the tools of `cargo xtask test`: cargo-deny, cargo-fuzz, and clippy for the nightly toolchain
    #[arg(long)]
    tools: bool,
}

pub(crate) fn run(Args { tools }: Args) -> anyhow::Result<()> {
    println!("nightly: {}", ensure_nightly()?);
    println!("library source: {}", rust_src::ensure()?);
    println!("bpf-linker: {}", BPF_LINKER.describe(&BPF_LINKER.ensure()?));
    if tools {
        ensure_nightly_clippy()?;
        println!("clippy: {}", process::output(process::nightly("cargo").args(["clippy", "--version"]))?);
        println!("cargo-deny: {}", CARGO_DENY.describe(&CARGO_DENY.ensure()?));
        println!("cargo-fuzz: {}", CARGO_FUZZ.describe(&CARGO_FUZZ.ensure()?));
    }
    Ok(())
}

/// Installs the tools that every build of the kernel programs needs. Prints nothing if all are present.
pub(crate) fn ensure_build_tools() -> anyhow::Result<()> {
    ensure_nightly()?;
    rust_src::ensure()?;
    BPF_LINKER.ensure()?;
    Ok(())
}

/// Installs clippy for the nightly toolchain, which checks the code for the BPF target.
pub(crate) fn ensure_nightly_clippy() -> anyhow::Result<()> {
    let mut version = process::nightly("cargo");
    version.args(["clippy", "--version"]);
    if process::output(&mut version).is_ok() {
        return Ok(());
    }
    eprintln!("setup: adding clippy to the nightly toolchain");
    process::run_on_stderr(process::rustup().args(["component", "add", "clippy", "--toolchain", NIGHTLY]))
        .context("clippy for the nightly toolchain is missing and cannot be installed")
}

/// Installs cargo-deny.
pub(crate) fn ensure_cargo_deny() -> anyhow::Result<()> {
    CARGO_DENY.ensure().map(drop)
}

/// Installs cargo-deb.
pub(crate) fn ensure_cargo_deb() -> anyhow::Result<()> {
    CARGO_DEB.ensure().map(drop)
}

/// Installs the tools that build the fuzz targets, which need no BPF target.
pub(crate) fn ensure_cargo_fuzz() -> anyhow::Result<()> {
    ensure_nightly()?;
    CARGO_FUZZ.ensure().map(drop)
}

/// Installs the standard library of the target `triple` for the toolchain that runs this program.
pub(crate) fn ensure_target(triple: &str) -> anyhow::Result<()> {
    let libraries = process::output(process::rustc().args(["--print", "target-libdir", "--target", triple]))?;
    if fs::read_dir(libraries).is_ok_and(|mut entries| entries.next().is_some()) {
        return Ok(());
    }
    if process::find_program("rustup").is_none() {
        bail!("the Rust target {triple} is not installed, and rustup is not on PATH");
    }
    eprintln!("setup: adding the target {triple} to this toolchain");
    process::run_on_stderr(process::rustup_for_this_toolchain().args(["target", "add", triple]))
        .with_context(|| format!("the Rust target {triple} is not installed and cannot be added"))
}

/// Installs the nightly toolchain, and returns its compiler's version.
fn ensure_nightly() -> anyhow::Result<String> {
    if process::find_program("rustup").is_none() {
        bail!(
            "rustup is not on PATH, and the kernel programs need the nightly toolchain: install rustup, then run \
             `rustup toolchain install {NIGHTLY}`"
        );
    }
    if let Ok(version) = nightly_version() {
        return Ok(version);
    }
    eprintln!("setup: installing the nightly toolchain");
    process::run_on_stderr(process::rustup().args([
        "toolchain",
        "install",
        NIGHTLY,
        "--profile",
        "minimal",
        "--component",
        "clippy",
    ]))
    .context("the nightly toolchain is missing and cannot be installed")?;
    nightly_version()
}

fn nightly_version() -> anyhow::Result<String> {
    process::output(process::nightly("rustc").arg("--version"))
}
