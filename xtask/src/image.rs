//! `cargo xtask image`: builds the container image as an OCI archive, without a container builder.
//!
//! The image contains the static agent, the licences of everything that is linked into it, and an SBOM. The same
//! sources and tools give the same bytes.

mod emulation;
mod layer;
mod oci_archive;
mod smoke_test;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, bail};
use cargo_metadata::TargetKind;

pub(crate) use self::oci_archive::Agent;
use self::oci_archive::OciImage;
use crate::{arch::Arch, dependencies::Dependencies, dist_binary, process, setup};

/// Flags of `cargo xtask image`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask image            build it, print its digest and its path
  cargo xtask image --check    build it and run the agent from it (root)
  cargo xtask image --arch amd64,arm64    one image for both

Import the archive on a node, or into podman:
  ctr -n k8s.io images import target/image/port-enforcer-0.1.0-amd64.tar
  podman load -i target/image/port-enforcer-0.1.0-amd64.tar

All times in the image are SOURCE_DATE_EPOCH (seconds since 1970), or the time of the last commit.")]
pub(crate) struct Args {
    /// Path of the archive [default: target/image/port-enforcer-VERSION-ARCH.tar; without ARCH for several]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Architectures of the image [default: this machine's]; another one needs a linker for it. With several, the image
    /// is an index of one image for each
    #[arg(long, value_enum, value_delimiter = ',')]
    arch: Vec<Arch>,
    /// Assemble the image twice and compare, then run the agent from it: this machine's with the privileges of the
    /// `DaemonSet`, another one's under user-mode emulation
    #[arg(long)]
    check: bool,
}

/// Returns the size in bytes of the archive with this binary, which must be for this machine's architecture.
pub(crate) fn archive_size(binary: &Path) -> anyhow::Result<usize> {
    let arch = Arch::host();
    let agent = Agent { arch, binary: binary.to_owned(), dependencies: Dependencies::of_agent(arch)? };
    Ok(OciImage::with_agents(&[agent], epoch()?)?.archive.len())
}

pub(crate) fn run(Args { out, arch, check }: Args) -> anyhow::Result<()> {
    let mut archs = if arch.is_empty() { vec![Arch::host()] } else { arch };
    archs.sort_unstable();
    archs.dedup();
    if check && !archs.contains(&Arch::host()) {
        bail!(
            "the image would have no agent for this machine, which --check runs: add --arch {}",
            Arch::host().as_str()
        );
    }
    setup::ensure_build_tools()?;
    let epoch = epoch()?;
    let agents = archs.iter().map(|arch| agent(*arch)).collect::<anyhow::Result<Vec<_>>>()?;
    let image = OciImage::with_agents(&agents, epoch)?;
    let path = out.unwrap_or_else(|| process::workspace_root().join("target/image").join(file_name(&archs)));
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    fs::write(&path, &image.archive).with_context(|| format!("cannot write {}", path.display()))?;
    if check {
        if OciImage::with_agents(&agents, epoch)?.archive != image.archive {
            bail!("two archives of the same binaries differ: the image is not reproducible");
        }
        for (arch, layer) in &image.layers {
            if *arch == Arch::host() {
                smoke_test::run(layer)?;
            } else {
                emulation::run(*arch, layer)?;
            }
        }
        eprintln!("image: two archives are equal, and the agent of the image works");
    }
    println!("{} {}", image.digest, path.display());
    Ok(())
}

/// Returns the name of the archive, which names the architecture if it has only one.
fn file_name(archs: &[Arch]) -> String {
    let version = env!("CARGO_PKG_VERSION");
    match archs {
        [arch] => format!("port-enforcer-{version}-{}.tar", arch.as_str()),
        _ => format!("port-enforcer-{version}.tar"),
    }
}

/// Assembles the image with these agents. Returns its digest and its archive.
pub(crate) fn assemble(agents: &[Agent], epoch: u64) -> anyhow::Result<(String, Vec<u8>)> {
    let image = OciImage::with_agents(agents, epoch)?;
    Ok((image.digest, image.archive))
}

/// Builds the agent.
pub(crate) fn agent(arch: Arch) -> anyhow::Result<Agent> {
    eprintln!("image: building the agent for {} (takes some minutes the first time)", arch.triple());
    let messages = dist_binary::build(arch, &["--bin", "enforcer"])?;
    let binary = process::built_executable(&messages, &TargetKind::Bin, "enforcer")?;
    Ok(Agent { arch, binary, dependencies: Dependencies::of_agent(arch)? })
}

/// Returns the time of everything in the image, in seconds since 1970.
pub(crate) fn epoch() -> anyhow::Result<u64> {
    if let Ok(given) = std::env::var("SOURCE_DATE_EPOCH") {
        return given.parse().with_context(|| format!("SOURCE_DATE_EPOCH is {given}, not a number of seconds"));
    }
    let commit_time = process::output(process::git().args(["log", "-1", "--format=%ct"]))
        .context("cannot get the time of the commit; outside a git checkout, set SOURCE_DATE_EPOCH")?;
    let epoch = commit_time.parse().with_context(|| format!("git printed {commit_time}, not a number of seconds"))?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(u64::MAX, |now| now.as_secs());
    Ok(u64::min(epoch, now))
}
