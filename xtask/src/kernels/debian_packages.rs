//! Kernels from Debian's packages: downloaded with apt in a root folder of its own, unpacked without installation, and
//! stored.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use super::kernel_images::{KernelImage, VersionRequest, numbers_of};
use super::{kernel_modules, sorted_entries};
use crate::{arch::Arch, process};

/// Debian's archives: the suffix of a suite's name that identifies the archive among this machine's sources, and the
/// suites with the kernels to test.
const ARCHIVES: [(&str, &[&str]); 2] = [
    ("", &["bookworm", "trixie", "trixie-backports", "sid"]),
    ("-security", &["bullseye-security", "bookworm-security", "trixie-security"]),
];

/// Names of Debian's releases, which identify its archives among this machine's sources.
const RELEASES: [&str; 9] =
    ["bullseye", "bookworm", "trixie", "forky", "sid", "oldstable", "stable", "testing", "unstable"];

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Returns the requested kernels, without duplicates. Uses stored kernels, unless `update` asks for newer ones.
pub(super) fn images(
    folder: &Path,
    arch: Arch,
    requests: &[VersionRequest],
    update: bool,
) -> anyhow::Result<Vec<KernelImage>> {
    let store = folder.join("images");
    fs::create_dir_all(&store).with_context(|| format!("cannot create {}", store.display()))?;
    let mut apt = None;
    let mut images: Vec<KernelImage> = Vec::new();
    for request in requests {
        let stored = if update { None } else { find_stored(&store, request)? };
        let image = if let Some(image) = stored {
            image
        } else {
            let apt = match &mut apt {
                Some(apt) => apt,
                none => none.insert(Apt::new(folder, arch)?),
            };
            apt.download_kernel(&store, request)?
        };
        if !images.contains(&image) {
            images.push(image);
        }
    }
    Ok(images)
}

/// Finds a stored kernel. Only a list of packages shows which kernel is the newest, so there is none before the newest
/// kernel of such a list was stored.
fn find_stored(store: &Path, request: &VersionRequest) -> anyhow::Result<Option<KernelImage>> {
    if *request == VersionRequest::Newest && !store.join(NEWEST_STORED).exists() {
        return Ok(None);
    }
    let folders = sorted_entries(store)?.into_iter();
    let releases = folders.filter_map(|folder| Some((release_and_version(&folder)?.0, folder)));
    let chosen = request.choose(releases, |(release, _)| numbers_of(release));
    Ok(chosen.and_then(|(_, folder)| read_stored(&folder)))
}

/// Parses the name of a kernel's folder: `RELEASE_VERSION`.
fn release_and_version(folder: &Path) -> Option<(String, String)> {
    let (release, version) = folder.file_name()?.to_str()?.split_once('_')?;
    Some((release.to_owned(), version.to_owned()))
}

/// Name of a file that exists once the newest kernel is stored.
const NEWEST_STORED: &str = "newest-was-fetched";

/// Reads the kernel in a folder `RELEASE_VERSION`. Returns `None` if a file is missing.
fn read_stored(folder: &Path) -> Option<KernelImage> {
    let (release, version) = release_and_version(folder)?;
    let (kernel, config) = (folder.join("vmlinuz"), folder.join("config"));
    let modules = kernel_modules::find(folder)?;
    kernel.exists().then(|| KernelImage {
        modules,
        name: format!("{release} ({version})"),
        release,
        kernel,
        config: config.exists().then_some(config),
    })
}

/// apt with its own root folder, which leaves this machine's lists and packages alone.
struct Apt {
    root: PathBuf,
    arch: Arch,
    /// Names of all packages with kernels for virtual machines.
    packages: Vec<String>,
}

impl Apt {
    fn new(folder: &Path, arch: Arch) -> anyhow::Result<Self> {
        for program in ["apt-get", "dpkg-deb"] {
            if process::find_program(program).is_none() {
                bail!(
                    "{program} is not installed, which downloads kernels as Debian's packages: set --kernels to a folder \
                     of kernels"
                );
            }
        }
        let root = folder.join("apt");
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(root.join(part)).with_context(|| format!("cannot create {}", root.display()))?;
        }
        let targets = process::output(Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(RELEASE) $(REPO_URI)",
            "Created-By: Packages",
        ]))?;
        let sources = sources(&targets, Path::new(KEYRING).exists().then_some(KEYRING))?;
        fs::write(root.join("sources.list"), sources).context("cannot write the list of sources")?;
        let mut apt = Self { root, arch, packages: Vec::new() };
        eprintln!("kernels: updating the lists of packages");
        // A missing suite must not hide the others. A kernel that is missing in the end is reported by name.
        if let Err(error) = process::output(apt.command("apt-get").args(["update", "-q"])) {
            eprintln!("kernels: {error:#}");
        }
        let found = process::output(apt.command("apt-cache").args([
            "search",
            "--names-only",
            &format!("^linux-(image|binary)-[0-9].*-cloud-{}$", arch.as_str()),
        ]))?;
        apt.packages = found.lines().filter_map(|line| Some(line.split(' ').next()?.to_owned())).collect();
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let root = self.root.display();
        for option in [
            format!("Dir::Etc::sourcelist={root}/sources.list"),
            "Dir::Etc::sourceparts=-".to_owned(),
            format!("APT::Architecture={}", self.arch.as_str()),
            format!("APT::Architectures={}", self.arch.as_str()),
            format!("Dir::State::lists={root}/lists"),
            format!("Dir::Cache={root}/cache"),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            // The folder belongs to the user of this command, not to apt's own user.
            "APT::Sandbox::User=".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command
    }

    /// Downloads a package and unpacks it below `work`. Returns the folder and the package's version.
    fn download_and_unpack(&self, work: &Path, package: &str) -> anyhow::Result<(PathBuf, String)> {
        let (downloaded, unpacked) = (work.join("downloaded").join(package), work.join(package));
        fs::create_dir_all(&downloaded)?;
        eprintln!("kernels: downloading {package}");
        process::output(self.command("apt-get").args(["download", "-q", package]).current_dir(&downloaded))?;
        let deb = sorted_entries(&downloaded)?.pop().with_context(|| format!("apt-get did not download {package}"))?;
        let version = deb
            .file_name()
            .and_then(|name| name.to_str()?.split('_').nth(1))
            .with_context(|| format!("the file name {} contains no version", deb.display()))?;
        process::output(Command::new("dpkg-deb").arg("--extract").args([&deb, &unpacked]))?;
        Ok((unpacked, version.to_owned()))
    }

    /// Downloads a kernel into the store.
    fn download_kernel(&self, store: &Path, request: &VersionRequest) -> anyhow::Result<KernelImage> {
        let Some((package, release)) = choose_package(&self.packages, request) else {
            bail!("no package contains kernel {request}; the packages are {}", self.packages.join(" "));
        };
        let work = tempfile::tempdir_in(&self.root).context("cannot create a temporary folder")?;
        let (unpacked, version) = self.download_and_unpack(work.path(), package)?;
        let image = work.path().join("image");
        fs::create_dir(&image)?;
        let first = |paths: [String; 2]| paths.iter().map(|path| unpacked.join(path)).find(|path| path.exists());
        // The paths since 6.19 and before.
        let kernel = first([format!("usr/lib/modules/{release}/vmlinuz"), format!("boot/vmlinuz-{release}")]);
        fs::rename(kernel.with_context(|| format!("{package} contains no kernel"))?, image.join("vmlinuz"))?;
        if let Some(config) = first([format!("usr/lib/modules/{release}/config"), format!("boot/config-{release}")]) {
            fs::rename(config, image.join("config"))?;
        }
        let mut roots = vec![unpacked.clone()];
        // Since 6.19 the modules are in their own package.
        if package.starts_with("linux-binary-") {
            roots.push(self.download_and_unpack(work.path(), &format!("linux-modules-{release}"))?.0);
        }
        kernel_modules::extract(&roots, release, &image)?;
        // In one step, so that a stored kernel is complete.
        let stored = store.join(format!("{release}_{}", version.replace("%3a", ":")));
        if stored.exists() && read_stored(&stored).is_none() {
            fs::remove_dir_all(&stored).with_context(|| format!("cannot remove {}", stored.display()))?;
        }
        if !stored.exists() {
            fs::rename(&image, &stored).with_context(|| format!("cannot create {}", stored.display()))?;
        }
        if *request == VersionRequest::Newest {
            fs::write(store.join(NEWEST_STORED), package)?;
        }
        read_stored(&stored).with_context(|| format!("{} is not complete", stored.display()))
    }
}

/// Returns the package with the newest kernel that fulfils the request, and the kernel's release. Since 6.19 the image
/// is in `linux-binary-*`, and `linux-image-*` of the same release only depends on it.
fn choose_package<'a>(packages: &'a [String], request: &VersionRequest) -> Option<(&'a str, &'a str)> {
    let candidates = packages.iter().filter_map(|package| {
        let release = package.strip_prefix("linux-binary-").or_else(|| package.strip_prefix("linux-image-"))?;
        // A package without a kernel, which depends on the newest of a series, has fewer numbers in its name.
        (numbers_of(release).len() > 2).then_some((package.as_str(), release))
    });
    let mut candidates: Vec<_> = candidates.collect();
    // `choose` returns the last one of two with the same release.
    candidates.sort_by_key(|(package, release)| (numbers_of(release), package.starts_with("linux-binary-")));
    request.choose(candidates, |(_, release)| numbers_of(release))
}

/// Returns apt's list of all suites with kernels, in the archives of this machine's own sources. A line of `targets`
/// has a suite's name and its archive's address.
fn sources(targets: &str, keyring: Option<&str>) -> anyhow::Result<String> {
    let signed = keyring.map(|path| format!(" [signed-by={path}]")).unwrap_or_default();
    let mut text = String::new();
    for (suffix, suites) in ARCHIVES {
        let address = targets.lines().find_map(|line| {
            let (release, address) = line.split_once(' ')?;
            let name = if suffix.is_empty() { release } else { release.strip_suffix(suffix)? };
            RELEASES.contains(&name).then_some(address)
        });
        // Sid has no security archive. A kernel that is missing for this reason is reported when it is requested.
        if let Some(address) = address {
            for suite in suites {
                text.extend(["deb", &signed, " ", address, " ", suite, " main\n"]);
            }
        }
    }
    if text.is_empty() {
        bail!("the sources of apt contain no archive of Debian: set --kernels to a folder of kernels");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_come_from_the_archives_of_this_machine() {
        let targets = "nodistro https://example.org/node/\nbookworm http://example.org/debian/\n\
                       bookworm-updates http://example.org/debian/\nbookworm-security http://example.org/security/";
        let text = sources(targets, Some("/keyring")).unwrap();
        assert!(text.contains("deb [signed-by=/keyring] http://example.org/debian/ trixie-backports main\n"), "{text}");
        assert!(text.contains("deb [signed-by=/keyring] http://example.org/security/ bullseye-security main\n"));
        assert!(!text.contains("node"), "{text}");
        assert!(!sources("sid http://example.org/debian/", None).unwrap().contains("security"));
        assert!(sources("noble http://example.org/ubuntu/", None).is_err());
    }

    #[test]
    fn package_with_the_image_is_chosen() {
        let packages: Vec<String> = [
            "linux-binary-7.3.4+deb13-cloud-amd64",
            "linux-image-7.3.4+deb13-cloud-amd64",
            "linux-image-6.1-cloud-amd64",
            "linux-image-6.1.0-0.deb11.52-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64",
        ]
        .map(str::to_owned)
        .into();
        let choose = |version: &str| choose_package(&packages, &version.parse().unwrap()).map(|(package, _)| package);
        assert_eq!(choose("newest"), Some("linux-binary-7.3.4+deb13-cloud-amd64"));
        assert_eq!(choose("6.1"), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(choose("5.10"), None);
    }

    #[test]
    fn stored_kernel_is_used_if_it_is_complete() {
        let store = tempfile::tempdir().unwrap();
        let folder = store.path().join("5.10.0-46-cloud-amd64_5.10.262-1");
        fs::create_dir(&folder).unwrap();
        let five_ten: VersionRequest = "5.10".parse().unwrap();
        assert_eq!(find_stored(store.path(), &five_ten).unwrap(), None, "the image is missing");
        fs::write(folder.join("vmlinuz"), "").unwrap();
        assert!(read_stored(&folder).is_none(), "the modules are missing");
        fs::create_dir(folder.join("modules")).unwrap();
        let image = find_stored(store.path(), &five_ten).unwrap().unwrap();
        assert_eq!((image.name.as_str(), &image.config), ("5.10.0-46-cloud-amd64 (5.10.262-1)", &None));
        assert_eq!(find_stored(store.path(), &VersionRequest::Newest).unwrap(), None, "it may not be the newest");
        fs::write(store.path().join(NEWEST_STORED), "").unwrap();
        assert_eq!(find_stored(store.path(), &VersionRequest::Newest).unwrap(), Some(image));
        fs::create_dir(store.path().join("7.3.4-cloud-amd64_7.3.4-1")).unwrap();
        assert_eq!(find_stored(store.path(), &VersionRequest::Newest).unwrap(), None, "the newest is incomplete");
    }
}
