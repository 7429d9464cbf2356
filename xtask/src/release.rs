//! `cargo xtask release`: makes everything that a release consists of, in one folder: programs, packages, the image, the
//! chart, manifests, and the checksums of all. The same sources, tools and folder give the same bytes.

mod agent;
mod chart;
mod compare;
mod debian;
mod krew;
mod platform;
mod plugin;
mod verify;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use self::platform::PLATFORMS;
pub(crate) use self::platform::{NO_UNWINDING, Platform};
use crate::arch::Arch;
use crate::image::{self, BuiltProgram, ImageProgram};
use crate::{manual, process, sbom, setup};

/// Name of the file with the checksums.
const SUMS: &str = "SHA256SUMS";

/// Flags of `cargo xtask release`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask release --url https://example.org/port-enforcer/v0.1.0    all files, in target/publish
  cargo xtask release --check                                           build the last commit twice, and compare

All times in the files are SOURCE_DATE_EPOCH (seconds since 1970), or the time of the last commit.")]
pub(crate) struct Args {
    /// Folder to write; the files of an earlier release in it are removed first
    #[arg(long, value_name = "DIR", default_value = "target/publish")]
    out: PathBuf,
    /// Address under which the files will be published; without it, krew refuses the manifest of the plugin
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Instead, build everything twice from scratch, each time in a new clone of the last commit, and compare the files
    #[arg(long, conflicts_with_all = ["out", "url"])]
    check: bool,
}

/// Files of a release by name.
type Files = BTreeMap<String, Vec<u8>>;

pub(crate) fn run(Args { out, url, check }: Args) -> anyhow::Result<()> {
    require_tools()?;
    let out = process::workspace_root().join(out);
    require_replaceable(&out)?;
    if check {
        return compare::run();
    }
    setup::ensure_build_tools()?;
    setup::ensure_cargo_deb()?;
    let url = url.as_deref().map(parse_url).transpose()?;
    let epoch = image::epoch()?;
    let version = env!("CARGO_PKG_VERSION");
    let root = process::workspace_root();
    let manual = root.join("target/manual");
    recreate(&manual)?;
    eprintln!("release: writing the manual pages and completions");
    manual::write(&manual)?;

    let mut files = Files::new();
    let mut agents = Vec::new();
    for arch in Arch::ALL {
        let built = BuiltProgram::build(ImageProgram::Agent, arch)?;
        let contents = agent::Contents::read(&built, &manual, version, epoch)?;
        files.insert(format!("enforcer-{version}-linux-{}.tar.gz", arch.as_str()), contents.archive(version, epoch)?);
        files.insert(debian::file_name(version, arch), debian::package(&contents, arch, version, epoch)?);
        agents.push(built);
    }
    let plugins = Arch::ALL.into_iter().map(|arch| BuiltProgram::build(ImageProgram::Plugin, arch));
    let plugins = plugins.collect::<anyhow::Result<Vec<_>>>()?;
    let mut digests = String::new();
    for (program, builds) in [(ImageProgram::Agent, &agents), (ImageProgram::Plugin, &plugins)] {
        let (digest, archive) = image::assemble(program, builds, epoch)?;
        let name = format!("{}-{version}.tar", program.name());
        // Writing to a string cannot fail.
        let _ = writeln!(digests, "{digest}  {name}");
        files.insert(name, archive);
    }
    files.insert("image-digests.txt".to_owned(), digests.into_bytes());
    for platform in &PLATFORMS {
        files.insert(plugin::file_name(version, platform), plugin::archive(platform, &manual, version, epoch)?);
    }
    files.insert(format!("port-enforcer-{version}.tgz"), chart::archive(epoch)?);
    for (name, path) in
        [("install.yaml", "deploy/install.yaml"), ("nodehostports.yaml", "deploy/base/nodehostports.yaml")]
    {
        files.insert(name.to_owned(), fs::read(root.join(path)).with_context(|| format!("cannot read {path}"))?);
    }
    files.insert("host-ports.yaml".to_owned(), krew::manifest(&files, version, url.as_deref())?.into_bytes());
    files.insert(SUMS.to_owned(), sums(&files).into_bytes());

    recreate(&out)?;
    for (name, content) in &files {
        let path = out.join(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    }
    verify::run(&out)?;
    if url.is_none() {
        eprintln!("release: warning: host-ports.yaml names no address, because --url is missing: krew refuses it");
    }
    print!("{}", sums(&files));
    eprintln!("release: {} files in {}", files.len(), out.display());
    Ok(())
}

/// Reports all missing programs at once, before hours of building.
fn require_tools() -> anyhow::Result<()> {
    let mut missing: Vec<String> = PLATFORMS.iter().filter_map(Platform::missing).collect();
    if process::find_program("dpkg-deb").is_none() {
        missing.push("dpkg-deb (Debian: dpkg)".to_owned());
    }
    missing.sort();
    missing.dedup();
    if missing.is_empty() { Ok(()) } else { bail!("a release needs more programs on PATH: {}", missing.join(", ")) }
}

/// Removes the slash at the end of an address, which must be one of the web.
fn parse_url(url: &str) -> anyhow::Result<String> {
    let is_plain = url.chars().all(|character| character.is_ascii_graphic() && !"\"'<>\\".contains(character));
    if !url.starts_with("https://") || !is_plain {
        bail!("--url is '{url}': write an address that begins with https://, without spaces and quotes");
    }
    Ok(url.trim_end_matches('/').to_owned())
}

/// Refuses a folder with other files than those of a release: what is in it is removed.
fn require_replaceable(folder: &Path) -> anyhow::Result<()> {
    let is_empty = fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none());
    if is_empty || folder.join(SUMS).exists() {
        return Ok(());
    }
    bail!(
        "{} has files and no {SUMS}, so they are not those of a release: choose another folder with --out",
        folder.display()
    )
}

/// Removes a folder with all that is in it, and makes it again.
fn recreate(folder: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => fs::create_dir_all(folder),
    }
    .with_context(|| format!("cannot make the folder {}", folder.display()))
}

/// Returns the checksums in the form of `sha256sum`.
fn sums(files: &Files) -> String {
    let lines = files.iter().filter(|(name, _)| *name != SUMS);
    lines.map(|(name, content)| format!("{}  {name}\n", sbom::sha256(content))).collect::<Vec<_>>().concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_one_of_the_web() {
        assert_eq!(parse_url("https://example.org/v0.1.0/").unwrap(), "https://example.org/v0.1.0");
        for bad in ["http://example.org", "example.org", "https://example.org/a b", "https://example.org/\"", ""] {
            assert!(parse_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_an_earlier_release_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        assert!(require_replaceable(folder.path()).is_ok() && require_replaceable(&folder.path().join("new")).is_ok());
        fs::write(folder.path().join("letter"), "").unwrap();
        assert!(require_replaceable(folder.path()).is_err());
        fs::write(folder.path().join(SUMS), "").unwrap();
        assert!(require_replaceable(folder.path()).is_ok());
    }

    #[test]
    fn sums_are_those_of_sha256sum_without_their_own_file() {
        let files = Files::from([("b".to_owned(), b"".to_vec()), (SUMS.to_owned(), b"old".to_vec())]);
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sums(&files), format!("{empty}  b\n"));
    }
}
