//! `cargo xtask image`: builds the container image as an OCI archive, without a container builder.
//!
//! The image contains the static agent, the licences of everything that is linked into it, and an SBOM. The same
//! sources and tools give the same bytes.

mod dependencies;
mod layer;
mod oci_archive;
mod sbom;
mod smoke_test;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, bail};
use cargo_metadata::TargetKind;
use clap::ValueEnum;

use self::dependencies::Dependencies;
use crate::{dist_binary, process, setup};

/// Flags of `cargo xtask image`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask image            build it, print its digest and its path
  cargo xtask image --check    build it and run the agent from it (root)

Import the archive on a node, or into podman:
  ctr -n k8s.io images import target/image/port-enforcer-0.1.0-amd64.tar
  podman load -i target/image/port-enforcer-0.1.0-amd64.tar

All times in the image are SOURCE_DATE_EPOCH (seconds since 1970), or the time of the last commit.")]
pub(crate) struct Args {
    /// Path of the archive [default: target/image/port-enforcer-VERSION-ARCH.tar]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Architecture of the image; other than this machine's, it needs its Rust target and a linker
    #[arg(long, value_enum, default_value_t = Arch::host())]
    arch: Arch,
    /// Assemble the image twice and compare, then run the agent from it with the privileges of the `DaemonSet`
    #[arg(long)]
    check: bool,
}

/// Processor architecture, by its name in OCI images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Arch {
    Amd64,
    Arm64,
}

impl Arch {
    fn host() -> Self {
        if cfg!(target_arch = "aarch64") { Self::Arm64 } else { Self::Amd64 }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    const fn triple(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }
}

/// Returns the size in bytes of the archive with this binary, which must be for this machine's architecture.
pub(crate) fn archive_size(binary: &Path) -> anyhow::Result<usize> {
    let arch = Arch::host();
    let dependencies = Dependencies::of_agent(arch.triple())?;
    Ok(oci_archive::OciImage::with_agent(binary, &dependencies, arch.as_str(), epoch()?)?.archive.len())
}

pub(crate) fn run(Args { out, arch, check }: Args) -> anyhow::Result<()> {
    if check && arch != Arch::host() {
        bail!("an image for {} cannot run on this machine: omit --check or --arch", arch.as_str());
    }
    setup::ensure_build_tools()?;
    let version = env!("CARGO_PKG_VERSION");
    let epoch = epoch()?;
    let binary = build(arch)?;
    let dependencies = Dependencies::of_agent(arch.triple())?;
    let assemble = || oci_archive::OciImage::with_agent(&binary, &dependencies, arch.as_str(), epoch);
    let image = assemble()?;
    let path = out.unwrap_or_else(|| {
        process::workspace_root().join(format!("target/image/port-enforcer-{version}-{}.tar", arch.as_str()))
    });
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    fs::write(&path, &image.archive).with_context(|| format!("cannot write {}", path.display()))?;
    if check {
        if assemble()?.archive != image.archive {
            bail!("two archives of the same binary differ: the image is not reproducible");
        }
        smoke_test::run(&image.layer)?;
        eprintln!("image: two archives are equal, and the agent of the image works");
    }
    println!("{} {}", image.digest, path.display());
    Ok(())
}

/// Returns the time of everything in the image, in seconds since 1970.
fn epoch() -> anyhow::Result<u64> {
    if let Ok(given) = std::env::var("SOURCE_DATE_EPOCH") {
        return given.parse().with_context(|| format!("SOURCE_DATE_EPOCH is {given}, not a number of seconds"));
    }
    let commit_time = process::output(process::git().args(["log", "-1", "--format=%ct"]))
        .context("cannot get the time of the commit; outside a git checkout, set SOURCE_DATE_EPOCH")?;
    let epoch = commit_time.parse().with_context(|| format!("git printed {commit_time}, not a number of seconds"))?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(u64::MAX, |now| now.as_secs());
    Ok(u64::min(epoch, now))
}

/// Builds the agent and returns its path.
fn build(arch: Arch) -> anyhow::Result<PathBuf> {
    eprintln!("image: building the agent for {} (takes some minutes the first time)", arch.triple());
    let messages = dist_binary::build(arch.triple(), &["--bin", "enforcer"])?;
    process::built_executable(&messages, &TargetKind::Bin, "enforcer")
}
