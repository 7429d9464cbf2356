//! `cargo xtask image`: builds the container image as an OCI archive, without a container builder.
//!
//! The image contains one static program, the licences of everything that is linked into it, and an SBOM. The same
//! sources, tools and folder give the same bytes.

mod emulation;
mod layer;
mod oci_archive;
mod program;
mod smoke_test;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, bail};

use self::oci_archive::OciImage;
pub(crate) use self::program::{BuiltProgram, ImageProgram};
use crate::{arch::Arch, dependencies::Dependencies, process, setup};

/// Flags of `cargo xtask image`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask image            build it, print its digest and its path
  cargo xtask image --check    build it and run the agent from it (root)
  cargo xtask image --arch amd64,arm64    one image for both
  cargo xtask image --program plugin      the image of the component policy-reports

Import the archive on a node, or into podman:
  ctr -n k8s.io images import target/image/port-enforcer-0.1.0-amd64.tar
  podman load -i target/image/port-enforcer-0.1.0-amd64.tar

All times in the image are SOURCE_DATE_EPOCH (seconds since 1970), or the time of the last commit.")]
pub(crate) struct Args {
    /// Path of the archive [default: target/image/port-enforcer-VERSION-ARCH.tar; without ARCH for several]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Program of the image
    #[arg(long, value_enum, default_value_t = ImageProgram::Agent)]
    program: ImageProgram,
    /// Architectures of the image [default: this machine's]; another one needs a linker for it. With several, the image
    /// is an index of one image for each
    #[arg(long, value_enum, value_delimiter = ',')]
    arch: Vec<Arch>,
    /// Assemble the image twice and compare, then run the program from it: an agent of this machine with the privileges
    /// of the `DaemonSet`, a program of another one under user-mode emulation
    #[arg(long)]
    check: bool,
}

/// Returns the size in bytes of the archive with this agent, which must be for this machine's architecture.
pub(crate) fn archive_size(binary: &Path) -> anyhow::Result<usize> {
    let arch = Arch::host();
    let built = BuiltProgram { arch, binary: binary.to_owned(), dependencies: Dependencies::of_agent(arch)? };
    Ok(OciImage::of(ImageProgram::Agent, &[built], epoch()?)?.archive.len())
}

pub(crate) fn run(Args { out, program, arch, check }: Args) -> anyhow::Result<()> {
    let mut archs = if arch.is_empty() { vec![Arch::host()] } else { arch };
    archs.sort_unstable();
    archs.dedup();
    setup::ensure_build_tools()?;
    let epoch = epoch()?;
    let builds = archs.iter().map(|arch| BuiltProgram::build(program, *arch)).collect::<anyhow::Result<Vec<_>>>()?;
    let image = OciImage::of(program, &builds, epoch)?;
    let path = out.unwrap_or_else(|| process::workspace_root().join("target/image").join(file_name(program, &archs)));
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    fs::write(&path, &image.archive).with_context(|| format!("cannot write {}", path.display()))?;
    if check {
        if OciImage::of(program, &builds, epoch)?.archive != image.archive {
            bail!("two archives of the same binaries differ: the image is not reproducible");
        }
        for (arch, layer) in &image.layers {
            check_layer(program, *arch, layer)?;
        }
        eprintln!("image: two archives are equal, and the program of the image works");
    }
    println!("{} {}", image.digest, path.display());
    Ok(())
}

/// Runs the program of a layer.
fn check_layer(program: ImageProgram, arch: Arch, layer: &[u8]) -> anyhow::Result<()> {
    if program == ImageProgram::Agent && arch == Arch::host() {
        smoke_test::run(layer)
    } else {
        emulation::run(program, arch, layer)
    }
}

/// Assembles the image of a program with these builds of it. Returns its digest and its archive.
pub(crate) fn assemble(
    program: ImageProgram,
    builds: &[BuiltProgram],
    epoch: u64,
) -> anyhow::Result<(String, Vec<u8>)> {
    let image = OciImage::of(program, builds, epoch)?;
    Ok((image.digest, image.archive))
}

/// Returns the name of the archive, which names the architecture if it has only one.
fn file_name(program: ImageProgram, archs: &[Arch]) -> String {
    let (name, version) = (program.name(), env!("CARGO_PKG_VERSION"));
    match archs {
        [arch] => format!("{name}-{version}-{}.tar", arch.as_str()),
        _ => format!("{name}-{version}.tar"),
    }
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
