//! Kernel images: requests by version, and the images of a folder.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::bail;

use super::sorted_entries;

/// A kernel image with the files that belong to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KernelImage {
    /// Unique name: the release, with the version of the package if there is one.
    pub(super) name: String,
    /// Release, as `uname -r` prints it.
    pub(super) release: String,
    /// Image that the boot loader loads.
    pub(super) kernel: PathBuf,
    /// Build configuration, if it is available.
    pub(super) config: Option<PathBuf>,
    /// Modules that tests need, in the order of loading.
    pub(super) modules: Vec<PathBuf>,
}

/// Request for a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum VersionRequest {
    /// The newest kernel whose version begins with these numbers.
    Series(Vec<u64>),
    /// The newest kernel.
    Newest,
}

impl FromStr for VersionRequest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "newest" {
            return Ok(Self::Newest);
        }
        let series: Option<Vec<u64>> = text.split('.').map(|number| number.parse().ok()).collect();
        series.map(Self::Series).ok_or_else(|| format!("invalid version '{text}': write 5.10, 6.1.0 or newest"))
    }
}

impl std::fmt::Display for VersionRequest {
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

impl VersionRequest {
    /// Returns the newest item that fulfils the request. `numbers` returns the numbers of its release.
    pub(super) fn choose<T>(&self, items: impl IntoIterator<Item = T>, numbers: impl Fn(&T) -> Vec<u64>) -> Option<T> {
        let fulfils = |item: &T| match self {
            Self::Newest => true,
            Self::Series(series) => numbers(item).starts_with(series),
        };
        items.into_iter().filter(fulfils).max_by_key(|item| numbers(item))
    }
}

/// Returns the numbers of a release in their order, without the one in its architecture. They order releases:
/// `6.1.0-56-cloud-arm64` is newer than `6.1.0-9-cloud-arm64`.
pub(super) fn numbers_of(release: &str) -> Vec<u64> {
    let release = ["-amd64", "-arm64"].iter().find_map(|arch| release.strip_suffix(arch)).unwrap_or(release);
    let numbers = release.split(|c: char| !c.is_ascii_digit()).filter(|number| !number.is_empty());
    numbers.map(|number| number.parse().unwrap_or(u64::MAX)).collect()
}

/// Returns the images of a folder: the requested ones, or all from the oldest to the newest.
pub(super) fn find_in_folder(
    folder: &Path,
    requests: &[VersionRequest],
    oldest_only: bool,
) -> anyhow::Result<Vec<KernelImage>> {
    let files = sorted_entries(folder)?;
    let mut all: Vec<KernelImage> = files
        .iter()
        .filter_map(|path| {
            let release = path.file_name()?.to_str()?.strip_prefix("vmlinuz-")?;
            let config = folder.join(format!("config-{release}"));
            Some(KernelImage {
                name: release.to_owned(),
                release: release.to_owned(),
                kernel: path.clone(),
                config: config.exists().then_some(config),
                // The features that tests need must be built in.
                modules: Vec::new(),
            })
        })
        .collect();
    if all.is_empty() {
        bail!("{} contains no kernel named vmlinuz-VERSION", folder.display());
    }
    all.sort_by_key(|image| numbers_of(&image.release));
    if oldest_only {
        all.truncate(1);
    }
    if requests.is_empty() {
        return Ok(all);
    }
    let mut chosen = Vec::new();
    for request in requests {
        match request.choose(&all, |image| numbers_of(&image.release)) {
            Some(image) => chosen.push(image.clone()),
            None => bail!("{} contains no kernel {request}", folder.display()),
        }
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn request(text: &str) -> VersionRequest {
        text.parse().unwrap()
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        let all =
            ["6.1.0-9-cloud-amd64", "6.1.0-56-cloud-amd64", "6.12.117+deb13-cloud-amd64", "5.10.0-46-cloud-amd64"];
        let choose = |text| request(text).choose(all, |release| numbers_of(release));
        assert_eq!(choose("6.1"), Some("6.1.0-56-cloud-amd64"), "6.12 is no 6.1, and 56 is more than 9");
        assert_eq!(choose("6.1.0"), Some("6.1.0-56-cloud-amd64"));
        assert_eq!(choose("newest"), Some("6.12.117+deb13-cloud-amd64"));
        assert_eq!(choose("6.2"), None);
        assert!("6.x".parse::<VersionRequest>().is_err() && "".parse::<VersionRequest>().is_err());
        assert_eq!(request("5.10").to_string(), "5.10");
    }

    #[test]
    fn requested_kernels_are_found_in_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let names = ["vmlinuz-6.2.0", "vmlinuz-5.15.0", "config-5.15.0", "System.map-6.2.0", "vmlinuz-6.12.1"];
        for name in names {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let names = |requests: &[VersionRequest], oldest| -> Vec<String> {
            find_in_folder(folder.path(), requests, oldest).unwrap().into_iter().map(|image| image.name).collect()
        };
        assert_eq!(names(&[], false), ["5.15.0", "6.2.0", "6.12.1"]);
        assert_eq!(names(&[], true), ["5.15.0"]);
        assert_eq!(names(&[request("newest"), request("6.2")], false), ["6.12.1", "6.2.0"]);
        let images = find_in_folder(folder.path(), &[], false).unwrap();
        assert_eq!(images[0].config, Some(folder.path().join("config-5.15.0")));
        assert_eq!(images[1].config, None);
        let error = find_in_folder(folder.path(), &[request("6.3")], false).unwrap_err().to_string();
        assert!(error.contains("contains no kernel 6.3"), "{error}");
        assert!(find_in_folder(tempfile::tempdir().unwrap().path(), &[], false).is_err(), "an empty folder");
    }
}
