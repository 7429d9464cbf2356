//! Source of the nightly toolchain's library, which `-Z build-std=core` compiles for the BPF target.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};

use super::nightly_version;
use crate::process::{self, NIGHTLY};

/// Variable with the path of a library source, for machines whose rustup cannot download it.
const LIBRARY_VARIABLE: &str = "PORT_ENFORCER_RUST_SRC";

/// Files that every complete `library` folder has. `-Z build-std` resolves the library's own workspace with the first
/// two, and that workspace refers to the others.
const MARKERS: [&str; 6] =
    ["Cargo.lock", "Cargo.toml", "core/src/lib.rs", "alloc/src/lib.rs", "std/src/lib.rs", "sysroot/Cargo.toml"];

/// Greatest distance, in minor versions, between a nightly and the release whose source it can compile: `core` depends on
/// compiler internals, which come and go.
const MAX_RELEASE_DISTANCE: u32 = 3;

/// Installs the library source, and describes its path and its origin.
///
/// # Errors
///
/// If no source is complete; the error names the ways to provide one.
pub(super) fn ensure() -> anyhow::Result<String> {
    let sysroot = PathBuf::from(process::output(process::nightly("rustc").args(["--print", "sysroot"]))?);
    let library = sysroot.join("lib/rustlib/src/rust/library");
    if is_complete(&library, Path::exists) {
        return Ok(format!("present at {}", library.display()));
    }

    eprintln!("setup: the nightly toolchain's library source is missing, adding it with rustup");
    let from_rustup =
        process::run_on_stderr(process::rustup().args(["component", "add", "rust-src", "--toolchain", NIGHTLY]));
    if from_rustup.is_ok() && is_complete(&library, Path::exists) {
        return Ok(format!("installed by rustup at {}", library.display()));
    }

    // A person set it, so a mistake is an error and not a reason to try the next source.
    if let Some(source) = std::env::var_os(LIBRARY_VARIABLE) {
        let source = PathBuf::from(source);
        install_provided(&source, &library)
            .with_context(|| format!("cannot use the library source in {LIBRARY_VARIABLE}"))?;
        return Ok(format!("from {} at {}", source.display(), library.display()));
    }

    let nightly = nightly_version().ok().as_deref().and_then(minor_version);
    if let Some(found) = choose_distribution(&distribution_candidates(), nightly, Path::exists) {
        link(found, &library)?;
        eprintln!("setup: linked the distribution's library source, {}", found.display());
        return Ok(format!("linked to {}", found.display()));
    }

    // rustup does not install again what it considers installed.
    let remove_first =
        if from_rustup.is_ok() { "remove rust-src --toolchain nightly` and then `rustup component " } else { "" };
    Err(anyhow!(
        "the nightly toolchain has no complete library source at {library} and rustup cannot add it: run `rustup \
         component {remove_first}add rust-src --toolchain {NIGHTLY}` where there is a network, or set {LIBRARY_VARIABLE} to an \
         unpacked `library` folder (as in the package `rust-src` of a distribution) or to an archive of its contents",
        library = library.display()
    ))
}

/// Returns true if `library` contains the whole library source.
fn is_complete(library: &Path, exists: impl Fn(&Path) -> bool) -> bool {
    MARKERS.iter().all(|marker| exists(&library.join(marker)))
}

/// Kinds of library source that [`LIBRARY_VARIABLE`] can name.
#[derive(Debug, PartialEq, Eq)]
enum SourceKind {
    Folder,
    Archive,
}

/// Classifies the path of a library source. `is_folder` and `exists` ask the file system.
fn classify(
    path: &Path,
    is_folder: impl Fn(&Path) -> bool,
    exists: impl Fn(&Path) -> bool,
) -> anyhow::Result<SourceKind> {
    if is_folder(path) {
        if is_complete(path, exists) {
            return Ok(SourceKind::Folder);
        }
        bail!("{} is not a complete `library` folder, which has {}", path.display(), MARKERS.join(", "));
    }
    if !exists(path) {
        bail!("{} does not exist", path.display());
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if [".tar.xz", ".tar.gz"].iter().any(|ending| name.ends_with(ending)) {
        return Ok(SourceKind::Archive);
    }
    bail!("{} is neither a folder nor a .tar.xz or .tar.gz archive", path.display())
}

/// Installs the library source that a person provides.
fn install_provided(source: &Path, library: &Path) -> anyhow::Result<()> {
    let kind = classify(source, Path::is_dir, Path::exists)?;
    let source = source.canonicalize().with_context(|| format!("cannot resolve {}", source.display()))?;
    match kind {
        SourceKind::Folder => {
            eprintln!("setup: linking the library source {}", source.display());
            link(&source, library)
        }
        SourceKind::Archive => {
            eprintln!("setup: unpacking the library source {}", source.display());
            unpack(&source, library)
        }
    }
}

/// Unpacks an archive of the contents of `library`. The folder gets its name when it is complete, so that an interrupted
/// run leaves nothing that looks complete.
fn unpack(archive: &Path, library: &Path) -> anyhow::Result<()> {
    let folder = parent(library)?;
    let scratch = tempfile::Builder::new()
        .prefix(".library-")
        .tempdir_in(folder)
        .with_context(|| format!("cannot create a folder in {}", folder.display()))?;
    let unpacked = scratch.path().join("library");
    fs::create_dir(&unpacked).with_context(|| format!("cannot create {}", unpacked.display()))?;
    process::run_on_stderr(process::tar().arg("-xf").arg(archive).arg("-C").arg(&unpacked).arg("--no-same-owner"))
        .context("cannot unpack the archive, which takes tar, and xz for .tar.xz")?;
    if !is_complete(&unpacked, Path::exists) {
        bail!("{} does not contain the files of a `library` folder ({})", archive.display(), MARKERS.join(", "));
    }
    put_in_place(library, |library| fs::rename(&unpacked, library))
}

fn link(source: &Path, library: &Path) -> anyhow::Result<()> {
    parent(library)?;
    put_in_place(library, |library| symlink(source, library))
}

/// Returns the folder that contains `library`, after creating it if it is missing.
fn parent(library: &Path) -> anyhow::Result<&Path> {
    let parent = library.parent().with_context(|| format!("{} has no parent folder", library.display()))?;
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    Ok(parent)
}

/// Removes an incomplete `library` and calls `place` to create it anew. If a concurrent run was faster, its result stays.
fn put_in_place(library: &Path, place: impl Fn(&Path) -> io::Result<()>) -> anyhow::Result<()> {
    remove(library).with_context(|| format!("cannot remove the incomplete {}", library.display()))?;
    match place(library) {
        Err(_) if is_complete(library, Path::exists) => Ok(()),
        result => result.with_context(|| format!("cannot put the library source at {}", library.display())),
    }
}

/// Removes a folder or a link, never the target of a link.
fn remove(path: &Path) -> io::Result<()> {
    let metadata = match path.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        metadata => metadata?,
    };
    if metadata.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

/// Returns the paths at which packages of distributions install the library source.
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

/// Returns the complete candidate whose release is nearest to the nightly's and within [`MAX_RELEASE_DISTANCE`]. A path
/// without a version comes last.
fn choose_distribution(candidates: &[PathBuf], nightly: Option<u32>, exists: impl Fn(&Path) -> bool) -> Option<&Path> {
    let distance = |candidate: &Path| {
        let release = candidate.components().find_map(|part| minor_version(&part.as_os_str().to_string_lossy()));
        release.zip(nightly).map(|(release, nightly)| release.abs_diff(nightly))
    };
    candidates
        .iter()
        .map(PathBuf::as_path)
        .map(|candidate| (distance(candidate).unwrap_or(MAX_RELEASE_DISTANCE), candidate))
        .filter(|&(distance, candidate)| distance <= MAX_RELEASE_DISTANCE && is_complete(candidate, &exists))
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// Returns the minor version, such as 97 for `rustc 1.97.0-nightly (…)`, `rustc-1.97.1` or `rust-1.97`.
fn minor_version(text: &str) -> Option<u32> {
    text.split([' ', '-']).find_map(|word| {
        let digits = word.strip_prefix("1.")?;
        digits.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(roots: &'static [&'static str]) -> impl Fn(&Path) -> bool {
        |path| roots.iter().any(|root| MARKERS.iter().any(|marker| Path::new(root).join(marker) == path))
    }

    fn paths(names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn library_without_a_marker_file_is_incomplete() {
        assert!(is_complete(Path::new("/l"), complete(&["/l"])));
        for marker in MARKERS {
            let missing = Path::new("/l").join(marker);
            assert!(!is_complete(Path::new("/l"), |path| path != missing), "without {marker}");
        }
    }

    #[test]
    fn provided_source_is_a_complete_folder_or_an_archive() {
        let folder = |path: &Path| path == Path::new("/l");
        let kind = |path: &str| classify(Path::new(path), folder, |path| path != Path::new("/none"));
        assert_eq!(kind("/l").unwrap(), SourceKind::Folder);
        assert_eq!(kind("/library.tar.xz").unwrap(), SourceKind::Archive);
        assert_eq!(kind("/library-1.97.1.tar.gz").unwrap(), SourceKind::Archive);
        assert_eq!(kind("/none").unwrap_err().to_string(), "/none does not exist");
        assert!(kind("/library.zip").unwrap_err().to_string().contains("neither a folder nor"));
        let partial = classify(Path::new("/l"), folder, |path| path.ends_with("core/src/lib.rs"));
        assert!(partial.unwrap_err().to_string().contains("not a complete `library` folder"));
    }

    #[test]
    fn distribution_with_the_nearest_release_is_chosen() {
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
        assert_eq!(choose(Some(120), &all), Some(candidates[3].as_path()), "no release is within the distance");
        assert_eq!(choose(None, &|path| path.starts_with("/usr/lib")), Some(candidates[3].as_path()));
        assert_eq!(choose(Some(97), &complete(&["/usr/src/rustc-1.63.0/library"])), None, "too old");
        assert_eq!(choose(Some(97), &|_| false), None);
    }

    #[test]
    fn minor_version_is_read_from_versions_and_folder_names() {
        assert_eq!(minor_version("rustc 1.97.0-nightly (e50aa6fba 2026-05-19)"), Some(97));
        assert_eq!(minor_version("rustc-1.63.0+dfsg1"), Some(63));
        assert_eq!(minor_version("rust-1.80"), Some(80));
        assert_eq!(minor_version("library"), None);
    }

    #[test]
    fn incomplete_library_is_replaced_and_the_target_of_a_link_stays() {
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
        install_provided(&archive, &library).unwrap();
        assert!(is_complete(&library, Path::exists));
        let left = fs::read_dir(library.parent().unwrap()).unwrap().count();
        assert_eq!(left, 1, "only the library is left");

        install_provided(&source, &library).unwrap();
        assert!(library.is_symlink());
        install_provided(&archive, &library).unwrap();
        assert!(!library.is_symlink());
        assert!(is_complete(&source, Path::exists), "the target of the link is untouched");
    }

    #[test]
    fn archive_of_other_files_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("rust/library");
        fs::write(folder.path().join("README"), "").unwrap();
        let archive = folder.path().join("other.tar.gz");
        process::run(process::tar().arg("-czf").arg(&archive).arg("-C").arg(folder.path()).arg("README")).unwrap();
        let error = install_provided(&archive, &library).unwrap_err().to_string();
        assert!(error.contains("does not contain the files of a `library` folder"), "{error}");
        assert!(!library.exists());
    }
}
