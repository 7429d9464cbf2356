//! `cargo xtask image`: the container image, as an OCI archive, without any builder: the static agent, the licences of all
//! that is linked into it, and a list of that. The same sources and tools give the same bytes.

mod dependencies;
mod layer;
mod oci_archive;
mod sbom;
mod smoke_test;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, bail};
use cargo_metadata::Message;
use clap::ValueEnum;

use self::dependencies::Dependencies;
use crate::{dist_binary, process, setup};

/// The flags of `cargo xtask image`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask image                                      build it; the path and the digest are printed
  ctr -n k8s.io images import target/image/port-enforcer-0.1.0-amd64.tar    put it on a node
  podman load -i target/image/port-enforcer-0.1.0-amd64.tar                 or into podman
  cargo xtask image --check                              run the agent from it (root)

Times in it are SOURCE_DATE_EPOCH, or the last commit's.")]
pub(crate) struct Args {
    /// Where the archive goes [default: target/image/port-enforcer-VERSION-ARCH.tar]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// For which processors; another one than this machine's takes its Rust target and linker
    #[arg(long, value_enum, default_value_t = Arch::here())]
    arch: Arch,
    /// Build it twice, compare the two, unpack one, and run the agent from it with the privileges of the `DaemonSet`
    #[arg(long)]
    check: bool,
}

/// Processors, by the names that images use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Arch {
    Amd64,
    Arm64,
}

impl Arch {
    fn here() -> Self {
        if cfg!(target_arch = "aarch64") { Self::Arm64 } else { Self::Amd64 }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    const fn target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }
}

/// Size in bytes of the archive with this binary, which is for this machine's processor.
pub(crate) fn size_with(binary: &Path) -> anyhow::Result<usize> {
    let arch = Arch::here();
    let dependencies = Dependencies::of_the_agent(arch.target())?;
    Ok(oci_archive::Image::of(binary, &dependencies, arch.as_str(), epoch()?)?.archive.len())
}

pub(crate) fn run(Args { out, arch, check }: Args) -> anyhow::Result<()> {
    if check && arch != Arch::here() {
        bail!("an image for {} cannot run on this machine: leave --check or --arch out", arch.as_str());
    }
    setup::ensure()?;
    let version = env!("CARGO_PKG_VERSION");
    let epoch = epoch()?;
    let binary = build(arch)?;
    let dependencies = Dependencies::of_the_agent(arch.target())?;
    let image = || oci_archive::Image::of(&binary, &dependencies, arch.as_str(), epoch);
    let made = image()?;
    let path = out
        .unwrap_or_else(|| process::root().join(format!("target/image/port-enforcer-{version}-{}.tar", arch.as_str())));
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    }
    fs::write(&path, &made.archive).with_context(|| format!("{} cannot be written", path.display()))?;
    if check {
        if image()?.archive != made.archive {
            bail!("two archives of the same binary differ: the image is not reproducible");
        }
        smoke_test::run(&made.layer)?;
        eprintln!("image: two builds are the same, and the agent enforces from it");
    }
    println!("{} {}", made.digest, path.display());
    Ok(())
}

/// The time of everything in the image: seconds since 1970.
fn epoch() -> anyhow::Result<u64> {
    if let Ok(given) = std::env::var("SOURCE_DATE_EPOCH") {
        return given.parse().with_context(|| format!("SOURCE_DATE_EPOCH is {given}, which is no number of seconds"));
    }
    let said = process::output(process::git().args(["log", "-1", "--format=%ct"]))
        .context("the commit's date cannot be had; outside a git checkout, set SOURCE_DATE_EPOCH")?;
    let epoch = said.parse().with_context(|| format!("git says {said}, which is no number of seconds"))?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(u64::MAX, |now| now.as_secs());
    Ok(u64::min(epoch, now))
}

/// The agent as it is shipped.
fn build(arch: Arch) -> anyhow::Result<PathBuf> {
    eprintln!("image: building the agent for {} (some minutes, if it is the first time)", arch.target());
    let messages = dist_binary::build(arch.target(), &["--bin", "enforcer"])?;
    let built = messages.into_iter().find_map(|message| match message {
        Message::CompilerArtifact(artifact) if artifact.target.name == "enforcer" => artifact.executable,
        _ => None,
    });
    Ok(built.context("cargo built no binary named enforcer")?.into())
}
