//! Checks of a release's files, as someone has them who downloads them: sums, contents, and the programs that this
//! machine can run.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};
use flate2::read::GzDecoder;
use tar::Archive;
use tempfile::TempDir;

use super::platform::PLATFORMS;
use super::{SUMS, debian, plugin};
use crate::arch::Arch;
use crate::{process, sbom};

/// Checks all files in a folder.
pub(super) fn run(folder: &Path) -> anyhow::Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    check_sums(folder)?;
    for arch in Arch::ALL {
        let unpacked = unpack(&folder.join(format!("enforcer-{version}-linux-{}.tar.gz", arch.as_str())))?;
        let root = unpacked.path().join(format!("enforcer-{version}"));
        require(
            &root,
            &["enforcer", "sbom.spdx.json", "LICENSE-MIT", "systemd/port-enforcer.service", "man/enforcer.1"],
        )?;
        if arch == Arch::host() {
            expect_version(&root.join("enforcer"), version)?;
        }
        check_package(&folder.join(debian::file_name(version, arch)), arch, version)?;
    }
    let krew = fs::read_to_string(folder.join("host-ports.yaml")).context("cannot read host-ports.yaml")?;
    for platform in &PLATFORMS {
        let name = plugin::file_name(version, platform);
        let path = folder.join(&name);
        let sum = sbom::sha256(&fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?);
        if !krew.contains(&format!("/{name}\n      sha256: {sum}\n")) {
            bail!("host-ports.yaml does not name {name} with its checksum {sum}");
        }
        let unpacked = unpack(&path)?;
        require(unpacked.path(), &[platform.program, "sbom.spdx.json", "LICENSE-MIT", "LICENSE-APACHE"])?;
        if platform.is_host() {
            expect_version(&unpacked.path().join(platform.program), version)?;
        }
    }
    let chart = unpack(&folder.join(format!("port-enforcer-{version}.tgz")))?;
    require(&chart.path().join("port-enforcer"), &["Chart.yaml", "values.yaml", "values.schema.json", "templates"])
}

/// Compares each file with its checksum.
fn check_sums(folder: &Path) -> anyhow::Result<()> {
    let sums = fs::read_to_string(folder.join(SUMS)).with_context(|| format!("cannot read {SUMS}"))?;
    let mut count = 1;
    for line in sums.lines() {
        let (sum, name) = line.split_once("  ").with_context(|| format!("{SUMS} has the line '{line}'"))?;
        let content = fs::read(folder.join(name)).with_context(|| format!("{SUMS} names {name}"))?;
        if sbom::sha256(&content) != sum {
            bail!("{name} does not have the checksum of {SUMS}");
        }
        count += 1;
    }
    let present = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?.count();
    if present != count {
        bail!("{} has {present} files, and {SUMS} with itself {count}", folder.display());
    }
    Ok(())
}

/// Unpacks a compressed archive.
fn unpack(path: &Path) -> anyhow::Result<TempDir> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let folder = TempDir::new().context("cannot create a folder")?;
    let mut archive = Archive::new(GzDecoder::new(&bytes[..]));
    archive.unpack(folder.path()).with_context(|| format!("cannot unpack {}", path.display()))?;
    Ok(folder)
}

fn require(folder: &Path, paths: &[&str]) -> anyhow::Result<()> {
    match paths.iter().find(|path| !folder.join(path).exists()) {
        Some(missing) => bail!("an archive lacks {missing}"),
        None => Ok(()),
    }
}

/// Runs a program, without anything that its path or its environment could lend it.
fn expect_version(program: &Path, version: &str) -> anyhow::Result<()> {
    let printed = process::output(Command::new(program).arg("--version").env_clear())?;
    if !printed.ends_with(&format!(" {version}")) {
        bail!("{} says '{printed}', not version {version}", program.display());
    }
    Ok(())
}

/// Checks the fields, the files and the scripts of a Debian package.
fn check_package(path: &Path, arch: Arch, version: &str) -> anyhow::Result<()> {
    let fields = process::output(Command::new("dpkg-deb").arg("--field").arg(path))?;
    for field in [
        "Package: port-enforcer".to_owned(),
        format!("Version: {version}-1"),
        format!("Architecture: {}", arch.as_str()),
    ] {
        if !fields.lines().any(|line| line == field) {
            bail!("{} has no field '{field}':\n{fields}", path.display());
        }
    }
    let folder = TempDir::new().context("cannot create a folder")?;
    process::output(Command::new("dpkg-deb").arg("--raw-extract").args([path, folder.path()]))?;
    require(
        folder.path(),
        &[
            "usr/bin/enforcer",
            "usr/lib/systemd/system/port-enforcer.service",
            "usr/lib/systemd/system/port-enforcer-restore.service",
            "usr/share/man/man1/enforcer.1.gz",
            "usr/share/bash-completion/completions/enforcer",
            "usr/share/doc/port-enforcer/copyright",
            "etc/port-enforcer/environment",
            "DEBIAN/conffiles",
        ],
    )?;
    for script in ["postinst", "prerm", "postrm"] {
        process::output(Command::new("sh").arg("-n").arg(folder.path().join("DEBIAN").join(script)))?;
    }
    if arch == Arch::host() {
        expect_version(&folder.path().join("usr/bin/enforcer"), version)?;
    }
    Ok(())
}
