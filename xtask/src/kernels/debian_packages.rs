//! Kernels as Debian's packages: fetched by apt into a root of its own, unpacked and not installed, and kept.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use super::kernel_images::{Image, Wanted, numbers_of};
use super::kernel_modules;
use super::list;
use crate::process;

/// The archives of Debian: the suites with the kernels that are tried, and a part of a release's name that says which
/// archive of this machine's own sources has them.
const ARCHIVES: [(&str, &[&str]); 2] = [
    ("", &["bookworm", "trixie", "trixie-backports", "sid"]),
    ("-security", &["bullseye-security", "bookworm-security", "trixie-security"]),
];

/// Names of Debian's releases, by which its archives are known among this machine's sources.
const RELEASES: [&str; 9] =
    ["bullseye", "bookworm", "trixie", "forky", "sid", "oldstable", "stable", "testing", "unstable"];

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The kernels that are asked for, each once. One that was fetched before is taken as it is, unless newer ones are asked
/// for.
pub(super) fn images(folder: &Path, wanted: &[Wanted], update: bool) -> anyhow::Result<Vec<Image>> {
    let store = folder.join("images");
    fs::create_dir_all(&store).with_context(|| format!("{} cannot be made", store.display()))?;
    let mut apt = None;
    let mut images: Vec<Image> = Vec::new();
    for wanted in wanted {
        let kept = if update { None } else { kept(&store, wanted)? };
        let image = if let Some(image) = kept {
            image
        } else {
            let apt = match &mut apt {
                Some(apt) => apt,
                none => none.insert(Apt::new(folder)?),
            };
            apt.fetch(&store, wanted)?
        };
        if !images.contains(&image) {
            images.push(image);
        }
    }
    Ok(images)
}

/// A kernel that was fetched before. What is newest only a list of packages can say, and so the newest of all is the one
/// that such a list named.
fn kept(store: &Path, wanted: &Wanted) -> anyhow::Result<Option<Image>> {
    if *wanted == Wanted::Newest && !store.join(NEWEST).exists() {
        return Ok(None);
    }
    let named = list(store)?.into_iter().filter_map(|folder| Some((named(&folder)?.0, folder)));
    let chosen = wanted.choose(named, |(release, _)| numbers_of(release));
    Ok(chosen.and_then(|(_, folder)| read(&folder)))
}

/// Release and version of the kernel that a folder is named after.
fn named(folder: &Path) -> Option<(String, String)> {
    let (release, version) = folder.file_name()?.to_str()?.split_once('_')?;
    Some((release.to_owned(), version.to_owned()))
}

/// A file beside the kernels that says that the newest is among them.
const NEWEST: &str = "newest-was-fetched";

/// The kernel in a folder that is named `RELEASE_VERSION`, if it is whole.
fn read(folder: &Path) -> Option<Image> {
    let (release, version) = named(folder)?;
    let (kernel, config) = (folder.join("vmlinuz"), folder.join("config"));
    let modules = kernel_modules::of(folder)?;
    kernel.exists().then(|| Image {
        modules,
        name: format!("{release} ({version})"),
        release,
        kernel,
        config: config.exists().then_some(config),
    })
}

/// apt with a root of its own: this machine's lists and packages stay as they are.
struct Apt {
    root: PathBuf,
    /// Names of all packages with kernels for virtual machines.
    packages: Vec<String>,
}

impl Apt {
    fn new(folder: &Path) -> anyhow::Result<Self> {
        for program in ["apt-get", "dpkg-deb"] {
            if process::find(program).is_none() {
                bail!(
                    "kernels are fetched as Debian's packages, and {program} is not here: name a folder of kernels \
                       with --kernels"
                );
            }
        }
        let root = folder.join("apt");
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(root.join(part)).with_context(|| format!("{} cannot be made", root.display()))?;
        }
        let targets = process::output(Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(RELEASE) $(REPO_URI)",
            "Created-By: Packages",
        ]))?;
        let sources = sources(&targets, Path::new(KEYRING).exists().then_some(KEYRING))?;
        fs::write(root.join("sources.list"), sources).context("the list of sources cannot be written")?;
        let mut apt = Self { root, packages: Vec::new() };
        eprintln!("kernels: asking for packages");
        // A suite that is gone must not hide the others; what is missing in the end is told by name.
        if let Err(error) = process::output(apt.command("apt-get").args(["update", "-q"])) {
            eprintln!("kernels: {error:#}");
        }
        let found = process::output(apt.command("apt-cache").args([
            "search",
            "--names-only",
            "^linux-(image|binary)-[0-9].*-cloud-amd64$",
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
            format!("Dir::State::lists={root}/lists"),
            format!("Dir::Cache={root}/cache"),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            // The folder belongs to whoever runs this, and not to apt's own user.
            "APT::Sandbox::User=".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command
    }

    /// Fetches a package and unpacks it below a folder: where, and its version.
    fn unpack(&self, work: &Path, package: &str) -> anyhow::Result<(PathBuf, String)> {
        let (fetched, unpacked) = (work.join("fetched").join(package), work.join(package));
        fs::create_dir_all(&fetched)?;
        eprintln!("kernels: fetching {package}");
        process::output(self.command("apt-get").args(["download", "-q", package]).current_dir(&fetched))?;
        let deb = list(&fetched)?.pop().with_context(|| format!("apt-get fetched no {package}"))?;
        let version = deb
            .file_name()
            .and_then(|name| name.to_str()?.split('_').nth(1))
            .with_context(|| format!("{} names no version", deb.display()))?;
        process::output(Command::new("dpkg-deb").arg("--extract").args([&deb, &unpacked]))?;
        Ok((unpacked, version.to_owned()))
    }

    fn fetch(&self, store: &Path, wanted: &Wanted) -> anyhow::Result<Image> {
        let Some((package, release)) = choose(&self.packages, wanted) else {
            bail!("no package has a kernel {wanted}; those there are: {}", self.packages.join(" "));
        };
        let work = tempfile::tempdir_in(&self.root).context("no temporary folder")?;
        let (unpacked, version) = self.unpack(work.path(), package)?;
        let place = work.path().join("image");
        fs::create_dir(&place)?;
        let first = |paths: [String; 2]| paths.iter().map(|path| unpacked.join(path)).find(|path| path.exists());
        // Where it is since 6.19 and before.
        let kernel = first([format!("usr/lib/modules/{release}/vmlinuz"), format!("boot/vmlinuz-{release}")]);
        fs::rename(kernel.with_context(|| format!("{package} holds no kernel"))?, place.join("vmlinuz"))?;
        if let Some(config) = first([format!("usr/lib/modules/{release}/config"), format!("boot/config-{release}")]) {
            fs::rename(config, place.join("config"))?;
        }
        let mut roots = vec![unpacked.clone()];
        // Since 6.19 the modules are in a package of their own.
        if package.starts_with("linux-binary-") {
            roots.push(self.unpack(work.path(), &format!("linux-modules-{release}"))?.0);
        }
        kernel_modules::take(&roots, release, &place)?;
        // In one step, so that a kernel that is there is whole.
        let kept = store.join(format!("{release}_{}", version.replace("%3a", ":")));
        if kept.exists() && read(&kept).is_none() {
            fs::remove_dir_all(&kept).with_context(|| format!("{} cannot be removed", kept.display()))?;
        }
        if !kept.exists() {
            fs::rename(&place, &kept).with_context(|| format!("{} cannot be made", kept.display()))?;
        }
        if *wanted == Wanted::Newest {
            fs::write(store.join(NEWEST), package)?;
        }
        read(&kept).with_context(|| format!("{} is not whole", kept.display()))
    }
}

/// The package with the newest kernel that fits, and its release. Since 6.19 the image is in `linux-binary-*`, and
/// `linux-image-*` of the same release only depends on it.
fn choose<'a>(packages: &'a [String], wanted: &Wanted) -> Option<(&'a str, &'a str)> {
    let named = packages.iter().filter_map(|package| {
        let release = package.strip_prefix("linux-binary-").or_else(|| package.strip_prefix("linux-image-"))?;
        // Packages without a kernel, which only depend on the newest of a series, have shorter names.
        (numbers_of(release).len() > 2).then_some((package.as_str(), release))
    });
    let mut named: Vec<_> = named.collect();
    // Of two with one release the last one is taken.
    named.sort_by_key(|(package, release)| (numbers_of(release), package.starts_with("linux-binary-")));
    wanted.choose(named, |(_, release)| numbers_of(release))
}

/// apt's list of all suites with kernels, in the archives that this machine's own sources name (lines of a release's name
/// and its archive's address).
fn sources(targets: &str, keyring: Option<&str>) -> anyhow::Result<String> {
    let signed = keyring.map(|path| format!(" [signed-by={path}]")).unwrap_or_default();
    let mut text = String::new();
    for (kind, suites) in ARCHIVES {
        let address = targets.lines().find_map(|line| {
            let (release, address) = line.split_once(' ')?;
            let name = if kind.is_empty() { release } else { release.strip_suffix(kind)? };
            RELEASES.contains(&name).then_some(address)
        });
        // Without the security archive, say on sid, there are fewer kernels; which is told where one is asked for.
        if let Some(address) = address {
            for suite in suites {
                text.extend(["deb", &signed, " ", address, " ", suite, " main\n"]);
            }
        }
    }
    if text.is_empty() {
        bail!("apt knows no archive of Debian here: name a folder of kernels with --kernels");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_are_asked_of_the_archives_that_the_machine_uses() {
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
    fn the_package_with_the_image_is_chosen() {
        let packages: Vec<String> = [
            "linux-binary-7.3.4+deb13-cloud-amd64",
            "linux-image-7.3.4+deb13-cloud-amd64",
            "linux-image-6.1-cloud-amd64",
            "linux-image-6.1.0-0.deb11.52-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64",
        ]
        .map(str::to_owned)
        .into();
        let choose = |wanted: &str| choose(&packages, &wanted.parse().unwrap()).map(|(package, _)| package);
        assert_eq!(choose("newest"), Some("linux-binary-7.3.4+deb13-cloud-amd64"));
        assert_eq!(choose("6.1"), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(choose("5.10"), None);
    }

    #[test]
    fn a_kept_kernel_is_taken_as_it_is() {
        let store = tempfile::tempdir().unwrap();
        let folder = store.path().join("5.10.0-46-cloud-amd64_5.10.262-1");
        fs::create_dir(&folder).unwrap();
        let five_ten: Wanted = "5.10".parse().unwrap();
        assert_eq!(kept(store.path(), &five_ten).unwrap(), None, "without its image it is not whole");
        fs::write(folder.join("vmlinuz"), "").unwrap();
        assert!(read(&folder).is_none(), "nobody looked for its modules");
        fs::create_dir(folder.join("modules")).unwrap();
        let image = kept(store.path(), &five_ten).unwrap().unwrap();
        assert_eq!((image.name.as_str(), &image.config), ("5.10.0-46-cloud-amd64 (5.10.262-1)", &None));
        assert_eq!(kept(store.path(), &Wanted::Newest).unwrap(), None, "nobody said that it is the newest");
        fs::write(store.path().join(NEWEST), "").unwrap();
        assert_eq!(kept(store.path(), &Wanted::Newest).unwrap(), Some(image));
        fs::create_dir(store.path().join("7.3.4-cloud-amd64_7.3.4-1")).unwrap();
        assert_eq!(kept(store.path(), &Wanted::Newest).unwrap(), None, "the newest is not whole");
    }
}
