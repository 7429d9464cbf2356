//! Which kernels: how they are asked for, and those of a folder.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::bail;

use super::list;

/// A kernel that can be booted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Image {
    /// Its release as `uname -r` says it, and the version of its package where it has one: what tells it from others.
    pub(super) name: String,
    /// `uname -r`.
    pub(super) release: String,
    /// The image that the boot loader takes.
    pub(super) kernel: PathBuf,
    /// What it was built with, if that came with it.
    pub(super) config: Option<PathBuf>,
    /// Modules that tests need, in the order in which they are loaded.
    pub(super) modules: Vec<PathBuf>,
}

/// A kernel that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The newest whose version begins with these numbers.
    Series(Vec<u64>),
    /// The newest of all.
    Newest,
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "newest" {
            return Ok(Self::Newest);
        }
        let series: Option<Vec<u64>> = text.split('.').map(|number| number.parse().ok()).collect();
        series.map(Self::Series).ok_or_else(|| format!("'{text}' is no version; write it as 5.10 or 6.1.0, or newest"))
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Newest => write!(f, "newest"),
            Self::Series(numbers) => {
                let numbers: Vec<_> = numbers.iter().map(u64::to_string).collect();
                write!(f, "{}", numbers.join("."))
            }
        }
    }
}

impl Wanted {
    /// The newest that fits, by the numbers in its release.
    pub(super) fn choose<T>(&self, from: impl IntoIterator<Item = T>, numbers: impl Fn(&T) -> Vec<u64>) -> Option<T> {
        let fits = |item: &T| match self {
            Self::Newest => true,
            Self::Series(series) => numbers(item).starts_with(series),
        };
        from.into_iter().filter(fits).max_by_key(|item| numbers(item))
    }
}

/// All numbers in a release, in their order and without that of its flavour: what `6.1.0-56-cloud-amd64` is newer by than
/// `6.1.0-9-cloud-amd64`.
pub(super) fn numbers_of(release: &str) -> Vec<u64> {
    let release = release.strip_suffix("-amd64").unwrap_or(release);
    let numbers = release.split(|c: char| !c.is_ascii_digit()).filter(|number| !number.is_empty());
    numbers.map(|number| number.parse().unwrap_or(u64::MAX)).collect()
}

/// The kernels of a folder: those that are asked for, or all, the oldest first.
pub(super) fn own(folder: &Path, wanted: &[Wanted], oldest_only: bool) -> anyhow::Result<Vec<Image>> {
    let files = list(folder)?;
    let mut all: Vec<Image> = files
        .iter()
        .filter_map(|path| {
            let release = path.file_name()?.to_str()?.strip_prefix("vmlinuz-")?;
            let config = folder.join(format!("config-{release}"));
            Some(Image {
                name: release.to_owned(),
                release: release.to_owned(),
                kernel: path.clone(),
                config: config.exists().then_some(config),
                // What such a kernel was built with and its modules are for who brings it.
                modules: Vec::new(),
            })
        })
        .collect();
    if all.is_empty() {
        bail!("no kernel is in {}: their files are named vmlinuz-VERSION", folder.display());
    }
    all.sort_by_key(|image| numbers_of(&image.release));
    if oldest_only {
        all.truncate(1);
    }
    if wanted.is_empty() {
        return Ok(all);
    }
    let mut chosen = Vec::new();
    for wanted in wanted {
        match wanted.choose(&all, |image| numbers_of(&image.release)) {
            Some(image) => chosen.push(image.clone()),
            None => bail!("no kernel {wanted} is in {}", folder.display()),
        }
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn wanted(text: &str) -> Wanted {
        text.parse().unwrap()
    }

    #[test]
    fn versions_are_numbers_and_not_letters() {
        let all =
            ["6.1.0-9-cloud-amd64", "6.1.0-56-cloud-amd64", "6.12.117+deb13-cloud-amd64", "5.10.0-46-cloud-amd64"];
        let choose = |text| wanted(text).choose(all, |release| numbers_of(release));
        assert_eq!(choose("6.1"), Some("6.1.0-56-cloud-amd64"), "6.12 is no 6.1, and 56 is more than 9");
        assert_eq!(choose("6.1.0"), Some("6.1.0-56-cloud-amd64"));
        assert_eq!(choose("newest"), Some("6.12.117+deb13-cloud-amd64"));
        assert_eq!(choose("6.2"), None);
        assert!("6.x".parse::<Wanted>().is_err() && "".parse::<Wanted>().is_err());
        assert_eq!(wanted("5.10").to_string(), "5.10");
    }

    #[test]
    fn a_folder_of_kernels() {
        let folder = tempfile::tempdir().unwrap();
        let names = ["vmlinuz-6.2.0", "vmlinuz-5.15.0", "config-5.15.0", "System.map-6.2.0", "vmlinuz-6.12.1"];
        for name in names {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let names = |wanted: &[Wanted], oldest| -> Vec<String> {
            own(folder.path(), wanted, oldest).unwrap().into_iter().map(|image| image.name).collect()
        };
        assert_eq!(names(&[], false), ["5.15.0", "6.2.0", "6.12.1"]);
        assert_eq!(names(&[], true), ["5.15.0"]);
        assert_eq!(names(&[wanted("newest"), wanted("6.2")], false), ["6.12.1", "6.2.0"]);
        let images = own(folder.path(), &[], false).unwrap();
        assert_eq!(images[0].config, Some(folder.path().join("config-5.15.0")));
        assert_eq!(images[1].config, None);
        assert!(own(folder.path(), &[wanted("6.3")], false).unwrap_err().to_string().contains("no kernel 6.3"));
        assert!(own(tempfile::tempdir().unwrap().path(), &[], false).is_err(), "an empty folder");
    }
}
