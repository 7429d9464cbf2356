//! `cargo xtask setup`: what the build of the kernel programs needs beyond a stable toolchain.
//!
//! `core` is compiled for the BPF target, so the nightly toolchain's library source has to be there, and the code is
//! linked by `bpf-linker`. What is present is never touched and nothing is downloaded then.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, anyhow, bail};

use crate::process::{self, NIGHTLY};

/// Where to find the library source when rustup cannot download it.
const SOURCE_VARIABLE: &str = "PORT_ENFORCER_RUST_SRC";

/// A `library` folder without one of these was unpacked only in part: `-Z build-std` reads the first two to resolve
/// the library's own workspace, and that workspace names the others.
const MARKERS: [&str; 6] =
    ["Cargo.lock", "Cargo.toml", "core/src/lib.rs", "alloc/src/lib.rs", "std/src/lib.rs", "sysroot/Cargo.toml"];

/// A nightly compiles the source of a release only when the two are near: between them `core` gains and loses
/// compiler internals.
const NEAREST_RELEASES: u32 = 3;

const BPF_LINKER: Tool = Tool { name: "bpf-linker", version: "0.10.3" };
const CARGO_DENY: Tool = Tool { name: "cargo-deny", version: "0.20.2" };
const CARGO_FUZZ: Tool = Tool { name: "cargo-fuzz", version: "0.13.2" };

/// The flags of `cargo xtask setup`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Also what only `cargo xtask test` needs: cargo-deny, cargo-fuzz and the nightly toolchain's clippy
    #[arg(long)]
    tools: bool,
}

pub(crate) fn run(Args { tools }: Args) -> anyhow::Result<()> {
    println!("nightly: {}", ensure_nightly()?);
    println!("library source: {}", ensure_library()?);
    println!("bpf-linker: {}", BPF_LINKER.describe(&BPF_LINKER.ensure()?));
    if tools {
        ensure_clippy()?;
        println!("clippy: {}", process::output(process::nightly("cargo").args(["clippy", "--version"]))?);
        println!("cargo-deny: {}", CARGO_DENY.describe(&CARGO_DENY.ensure()?));
        println!("cargo-fuzz: {}", CARGO_FUZZ.describe(&CARGO_FUZZ.ensure()?));
    }
    Ok(())
}

/// What every build needs. Says something only when there is something to do.
pub(crate) fn ensure() -> anyhow::Result<()> {
    ensure_nightly()?;
    ensure_library()?;
    BPF_LINKER.ensure()?;
    Ok(())
}

/// What clippy needs on the BPF target.
pub(crate) fn ensure_clippy() -> anyhow::Result<()> {
    let mut version = process::nightly("cargo");
    version.args(["clippy", "--version"]);
    if process::output(&mut version).is_ok() {
        return Ok(());
    }
    eprintln!("setup: adding clippy to the nightly toolchain");
    process::run_on_stderr(process::rustup().args(["component", "add", "clippy", "--toolchain", NIGHTLY]))
        .context("clippy for the nightly toolchain is missing and could not be installed")
}

pub(crate) fn ensure_cargo_deny() -> anyhow::Result<()> {
    CARGO_DENY.ensure().map(drop)
}

/// What building the fuzz targets needs. Nothing of it is for the BPF target.
pub(crate) fn ensure_cargo_fuzz() -> anyhow::Result<()> {
    ensure_nightly()?;
    CARGO_FUZZ.ensure().map(drop)
}

/// The nightly compiler's version.
fn ensure_nightly() -> anyhow::Result<String> {
    if process::find("rustup").is_none() {
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
    .context("the nightly toolchain is missing and could not be installed")?;
    nightly_version()
}

fn nightly_version() -> anyhow::Result<String> {
    process::output(process::nightly("rustc").arg("--version"))
}

/// Where the library source is and where it came from.
fn ensure_library() -> anyhow::Result<String> {
    let sysroot = PathBuf::from(process::output(process::nightly("rustc").args(["--print", "sysroot"]))?);
    let library = sysroot.join("lib/rustlib/src/rust/library");
    if is_complete(&library, Path::exists) {
        return Ok(format!("present at {}", library.display()));
    }

    eprintln!("setup: the nightly toolchain's library source is missing, asking rustup for it");
    let from_rustup =
        process::run_on_stderr(process::rustup().args(["component", "add", "rust-src", "--toolchain", NIGHTLY]));
    if from_rustup.is_ok() && is_complete(&library, Path::exists) {
        return Ok(format!("installed by rustup at {}", library.display()));
    }

    // Named by a person, so a mistake in it is an error and no reason to look further.
    if let Some(given) = std::env::var_os(SOURCE_VARIABLE) {
        let given = PathBuf::from(given);
        install_given(&given, &library)
            .with_context(|| format!("the library source named by {SOURCE_VARIABLE} could not be used"))?;
        return Ok(format!("from {} at {}", given.display(), library.display()));
    }

    let nightly = nightly_version().ok().as_deref().and_then(minor_version);
    if let Some(found) = choose_distribution(&distribution_candidates(), nightly, Path::exists) {
        link(found, &library)?;
        eprintln!("setup: linked the distribution's library source, {}", found.display());
        return Ok(format!("linked to {}", found.display()));
    }

    // What rustup takes for installed it does not install again.
    let again =
        if from_rustup.is_ok() { "remove rust-src --toolchain nightly` and then `rustup component " } else { "" };
    Err(anyhow!(
        "the nightly toolchain has no (complete) library source at {library} and rustup could not add it: run `rustup \
         component {again}add rust-src --toolchain {NIGHTLY}` where there is a network, or set {SOURCE_VARIABLE} to an \
         unpacked `library` folder (a distribution's package `rust-src` has one) or to an archive of its contents",
        library = library.display()
    ))
}

/// Whether `library` holds the whole library source.
fn is_complete(library: &Path, exists: impl Fn(&Path) -> bool) -> bool {
    MARKERS.iter().all(|marker| exists(&library.join(marker)))
}

/// What a person can name in [`SOURCE_VARIABLE`].
#[derive(Debug, PartialEq, Eq)]
enum Given {
    Folder,
    Archive,
}

/// What `path` is, by what exists and by its name.
fn classify(path: &Path, is_folder: impl Fn(&Path) -> bool, exists: impl Fn(&Path) -> bool) -> anyhow::Result<Given> {
    if is_folder(path) {
        if is_complete(path, exists) {
            return Ok(Given::Folder);
        }
        bail!("{} is not a whole `library` folder (one that holds {})", path.display(), MARKERS.join(", "));
    }
    if !exists(path) {
        bail!("{} does not exist", path.display());
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if [".tar.xz", ".tar.gz"].iter().any(|ending| name.ends_with(ending)) {
        return Ok(Given::Archive);
    }
    bail!("{} is neither a folder nor a .tar.xz or .tar.gz archive", path.display())
}

fn install_given(given: &Path, library: &Path) -> anyhow::Result<()> {
    let kind = classify(given, Path::is_dir, Path::exists)?;
    let given = given.canonicalize().with_context(|| format!("{} could not be resolved", given.display()))?;
    match kind {
        Given::Folder => {
            eprintln!("setup: linking the library source {}", given.display());
            link(&given, library)
        }
        Given::Archive => {
            eprintln!("setup: unpacking the library source {}", given.display());
            unpack(&given, library)
        }
    }
}

/// Unpacks an archive of the contents of `library`. The folder gets its name only when all of it is there, so that an
/// interrupted run leaves nothing that looks whole.
fn unpack(archive: &Path, library: &Path) -> anyhow::Result<()> {
    let beside = parent(library)?;
    let scratch = tempfile::Builder::new()
        .prefix(".library-")
        .tempdir_in(beside)
        .with_context(|| format!("no folder could be made in {}", beside.display()))?;
    let unpacked = scratch.path().join("library");
    fs::create_dir(&unpacked).with_context(|| format!("{} could not be made", unpacked.display()))?;
    process::run_on_stderr(process::tar().arg("-xf").arg(archive).arg("-C").arg(&unpacked).arg("--no-same-owner"))
        .context("the archive could not be unpacked (tar, and xz for .tar.xz, are needed)")?;
    if !is_complete(&unpacked, Path::exists) {
        bail!("{} does not hold the contents of a `library` folder ({})", archive.display(), MARKERS.join(", "));
    }
    put_in_place(library, |library| fs::rename(&unpacked, library))
}

fn link(source: &Path, library: &Path) -> anyhow::Result<()> {
    parent(library)?;
    put_in_place(library, |library| symlink(source, library))
}

/// The folder that holds `library`, made if it is missing.
fn parent(library: &Path) -> anyhow::Result<&Path> {
    let parent = library.parent().with_context(|| format!("{} has no parent folder", library.display()))?;
    fs::create_dir_all(parent).with_context(|| format!("{} could not be made", parent.display()))?;
    Ok(parent)
}

/// Replaces an incomplete `library` by what `place` puts there. If another run was faster, its work stays.
fn put_in_place(library: &Path, place: impl Fn(&Path) -> io::Result<()>) -> anyhow::Result<()> {
    remove(library).with_context(|| format!("the incomplete {} could not be removed", library.display()))?;
    match place(library) {
        Err(_) if is_complete(library, Path::exists) => Ok(()),
        result => result.with_context(|| format!("the library source could not be put at {}", library.display())),
    }
}

/// Removes a folder, or a link and never what it points to.
fn remove(path: &Path) -> io::Result<()> {
    let metadata = match path.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        metadata => metadata?,
    };
    if metadata.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

/// Where distributions' packages put the library source.
fn distribution_candidates() -> Vec<PathBuf> {
    let mut candidates = Vec::new();
    for (folder, prefix, below) in [
        ("/usr/src", "rustc-", "library"),
        ("/usr/lib", "rust-", "lib/rustlib/src/rust/library"),
        ("/usr/share", "rust-src", "library"),
    ] {
        let Ok(entries) = fs::read_dir(folder) else { continue };
        let names = entries.flatten().map(|entry| entry.file_name());
        let mut names: Vec<_> = names.filter(|name| name.to_string_lossy().starts_with(prefix)).collect();
        names.sort();
        candidates.extend(names.into_iter().map(|name| Path::new(folder).join(name).join(below)));
    }
    candidates.push("/usr/lib/rustlib/src/rust/library".into());
    candidates
}

/// The candidate whose release is nearest to the nightly's, not farther away than [`NEAREST_RELEASES`]. A path that
/// names no release comes last.
fn choose_distribution(candidates: &[PathBuf], nightly: Option<u32>, exists: impl Fn(&Path) -> bool) -> Option<&Path> {
    let distance = |candidate: &Path| {
        let release = candidate.components().find_map(|part| minor_version(&part.as_os_str().to_string_lossy()));
        release.zip(nightly).map(|(release, nightly)| release.abs_diff(nightly))
    };
    candidates
        .iter()
        .map(PathBuf::as_path)
        .map(|candidate| (distance(candidate).unwrap_or(NEAREST_RELEASES), candidate))
        .filter(|&(distance, candidate)| distance <= NEAREST_RELEASES && is_complete(candidate, &exists))
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// 97 of `rustc 1.97.0-nightly (…)`, `rustc-1.97.1` or `rust-1.97`.
fn minor_version(text: &str) -> Option<u32> {
    text.split([' ', '-']).find_map(|word| {
        let digits = word.strip_prefix("1.")?;
        digits.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
    })
}

/// A program that is installed by `cargo install`.
struct Tool {
    name: &'static str,
    version: &'static str,
}

impl Tool {
    /// Where the tool is, after installing it if need be. Any version that is already there is taken.
    fn ensure(&self) -> anyhow::Result<PathBuf> {
        let Self { name, version } = self;
        if let Some(path) = process::find(name) {
            return Ok(path);
        }
        eprintln!("setup: installing {name} {version} with cargo (a minute or so)");
        let mut install = process::cargo();
        // A shared target folder, or flags meant for this project, are not for the tool.
        install.env_remove("CARGO_TARGET_DIR").env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
        process::run_on_stderr(install.args(["install", name, "--version", version, "--locked"]))
            .with_context(|| format!("{name} is not on PATH and could not be installed"))?;
        process::find(name).with_context(|| {
            format!("cargo installed {name}, but its folder is not on PATH: add ~/.cargo/bin (or $CARGO_HOME/bin)")
        })
    }

    /// What the tool says of its version, and where it is.
    fn describe(&self, path: &Path) -> String {
        let version = process::output(Command::new(path).arg("--version"));
        format!("{} at {}", version.as_deref().unwrap_or(self.name), path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(roots: &'static [&'static str]) -> impl Fn(&Path) -> bool {
        |path| roots.iter().any(|root| MARKERS.iter().any(|marker| Path::new(root).join(marker) == path))
    }

    fn paths(names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn library_without_a_marker_is_incomplete() {
        assert!(is_complete(Path::new("/l"), whole(&["/l"])));
        for marker in MARKERS {
            let missing = Path::new("/l").join(marker);
            assert!(!is_complete(Path::new("/l"), |path| path != missing), "without {marker}");
        }
    }

    #[test]
    fn given_source_is_a_whole_folder_or_an_archive() {
        let folder = |path: &Path| path == Path::new("/l");
        let kind = |path: &str| classify(Path::new(path), folder, |path| path != Path::new("/none"));
        assert_eq!(kind("/l").unwrap(), Given::Folder);
        assert_eq!(kind("/library.tar.xz").unwrap(), Given::Archive);
        assert_eq!(kind("/library-1.97.1.tar.gz").unwrap(), Given::Archive);
        assert_eq!(kind("/none").unwrap_err().to_string(), "/none does not exist");
        assert!(kind("/library.zip").unwrap_err().to_string().contains("neither a folder nor"));
        let partial = classify(Path::new("/l"), folder, |path| path.ends_with("core/src/lib.rs"));
        assert!(partial.unwrap_err().to_string().contains("not a whole `library` folder"));
    }

    #[test]
    fn nearest_release_of_a_distribution_is_chosen() {
        let candidates = paths(&[
            "/usr/src/rustc-1.63.0/library",
            "/usr/src/rustc-1.95.0+dfsg/library",
            "/usr/src/rustc-1.97.1/library",
            "/usr/lib/rustlib/src/rust/library",
        ]);
        let all = |_: &Path| true;
        let choose = |nightly, exists: &dyn Fn(&Path) -> bool| choose_distribution(&candidates, nightly, exists);
        assert_eq!(choose(Some(97), &all), Some(candidates[2].as_path()));
        assert_eq!(choose(Some(94), &all), Some(candidates[1].as_path()));
        assert_eq!(choose(Some(120), &all), Some(candidates[3].as_path()), "no release is near");
        assert_eq!(choose(None, &|path| path.starts_with("/usr/lib")), Some(candidates[3].as_path()));
        assert_eq!(choose(Some(97), &whole(&["/usr/src/rustc-1.63.0/library"])), None, "far too old");
        assert_eq!(choose(Some(97), &|_| false), None);
    }

    #[test]
    fn minor_version_is_found_in_versions_and_folder_names() {
        assert_eq!(minor_version("rustc 1.97.0-nightly (e50aa6fba 2026-05-19)"), Some(97));
        assert_eq!(minor_version("rustc-1.63.0+dfsg1"), Some(63));
        assert_eq!(minor_version("rust-1.80"), Some(80));
        assert_eq!(minor_version("library"), None);
    }

    #[test]
    fn incomplete_library_is_replaced_and_a_links_target_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("rust/library");
        let source = folder.path().join("source");
        for marker in MARKERS {
            let file = source.join(marker);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "").unwrap();
        }
        let archive = folder.path().join("library.tar.gz");
        process::run(process::tar().arg("-czf").arg(&archive).arg("-C").arg(&source).arg(".")).unwrap();

        fs::create_dir_all(library.join("core/src")).unwrap();
        fs::write(library.join("core/src/lib.rs"), "").unwrap();
        install_given(&archive, &library).unwrap();
        assert!(is_complete(&library, Path::exists));
        let left = fs::read_dir(library.parent().unwrap()).unwrap().count();
        assert_eq!(left, 1, "nothing but the library is left behind");

        install_given(&source, &library).unwrap();
        assert!(library.is_symlink());
        install_given(&archive, &library).unwrap();
        assert!(!library.is_symlink());
        assert!(is_complete(&source, Path::exists), "what the link pointed to is untouched");
    }

    #[test]
    fn archive_of_something_else_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("rust/library");
        fs::write(folder.path().join("README"), "").unwrap();
        let archive = folder.path().join("other.tar.gz");
        process::run(process::tar().arg("-czf").arg(&archive).arg("-C").arg(folder.path()).arg("README")).unwrap();
        let error = install_given(&archive, &library).unwrap_err().to_string();
        assert!(error.contains("does not hold the contents of a `library` folder"), "{error}");
        assert!(!library.exists());
    }
}
