//! The cgroup v2 tree: where it is mounted, where the kubelet keeps its pods, and what exists in it.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use enforcer_core::{cgroups::path::is_pods_root, model::kernel_ids::CgroupId};

/// Mounts of this mount namespace.
pub const MOUNTINFO: &str = "/proc/self/mountinfo";
/// Depth to which the kubelet's cgroup is looked for: `kubelet.slice/kubelet-kubepods.slice` (kind) is the deepest
/// seen.
const SEARCH_DEPTH: usize = 3;
/// Depth to which the tree below the kubelet's cgroup is read.
const SCAN_DEPTH: usize = 24;
/// Number of links of a cgroup without children (`kernfs_refresh_inode` in fs/kernfs/inode.c): most cgroups are those of
/// containers, and to list the files of one takes longer than to ask for this.
const NO_CHILDREN: u64 = 2;
/// Id of the root of a whole hierarchy (`kernfs_create_root` in fs/kernfs/dir.c takes the first
/// one); the root of a cgroup namespace has another.
const HIERARCHY_ROOT: CgroupId = CgroupId::new(1);

/// Reason why there is no cgroup to attach to.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// cgroup v2 is not mounted.
    #[error(
        "no cgroup v2 hierarchy is mounted here (looked in {}): boot with systemd.unified_cgroup_hierarchy=1 or mount \
         one, or name its directory with --cgroup-root",
        .0.display()
    )]
    NotMounted(PathBuf),
    /// The given directory is not in a cgroup v2 hierarchy.
    #[error("{} is not a directory of a cgroup v2 hierarchy{}", path.display(), reason(source.as_ref()))]
    NotCgroup {
        /// The directory.
        path: PathBuf,
        /// Error of the system, if it gave one.
        source: Option<io::Error>,
    },
    /// The kubelet has made no cgroup for pods.
    #[error(
        "no cgroup of the kubelet's pods (kubepods or kubepods.slice) is below {}: start the kubelet first, or name \
         the cgroup that holds the pods with --cgroup-root",
        .0.display()
    )]
    NoPods(PathBuf),
    /// There are several.
    #[error("several cgroups could hold the pods ({}): name the right one with --cgroup-root", list(.0))]
    Ambiguous(Vec<PathBuf>),
    /// The tree cannot be read.
    #[error("cannot read the cgroup {}: {source}", path.display())]
    Read {
        /// The directory.
        path: PathBuf,
        /// Reason.
        source: io::Error,
    },
}

fn reason(source: Option<&io::Error>) -> String {
    source.map(|error| format!(": {error}")).unwrap_or_default()
}

fn list(paths: &[PathBuf]) -> String {
    let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    paths.join(", ")
}

/// The cgroup that the programs are attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// Its directory.
    pub path: PathBuf,
    /// Its id.
    pub id: CgroupId,
    /// Its level in the whole hierarchy, or `None` if only a part of the hierarchy is mounted here (a cgroup
    /// namespace), so that the level cannot be seen.
    pub level: Option<u64>,
}

impl Root {
    /// Finds the root of the mounted hierarchy.
    ///
    /// # Errors
    ///
    /// If none is mounted.
    pub fn hierarchy(mountinfo: &Path) -> Result<Self, CgroupError> {
        let path =
            mounts(mountinfo)?.into_iter().next().ok_or_else(|| CgroupError::NotMounted(mountinfo.to_owned()))?;
        let id = id_of(&path)?;
        Ok(Self { id, level: (id == HIERARCHY_ROOT).then_some(0), path })
    }

    /// Makes the cgroup with this path below the root of the hierarchy, if it is not there: the kubelet takes one that is
    /// there for its own. Nothing has to be made of the root itself.
    ///
    /// # Errors
    ///
    /// If no hierarchy is mounted or the cgroup cannot be made.
    pub fn make(below_hierarchy: &str, mountinfo: &Path) -> Result<Self, CgroupError> {
        let hierarchy = Self::hierarchy(mountinfo)?;
        if below_hierarchy.is_empty() {
            return Ok(hierarchy);
        }
        let path = hierarchy.path.join(below_hierarchy.trim_start_matches('/'));
        fs::create_dir_all(&path)
            .map_err(|source| CgroupError::NotCgroup { path: path.clone(), source: Some(source) })?;
        Self::find(Some(&path), mountinfo)
    }

    /// Returns its path below the root of the hierarchy, empty for the root itself; `None` if the root of the hierarchy
    /// cannot be seen.
    #[must_use]
    pub fn below_hierarchy(&self, mountinfo: &Path) -> Option<String> {
        let hierarchy = Self::hierarchy(mountinfo).ok().filter(|hierarchy| hierarchy.level == Some(0))?;
        self.path.strip_prefix(&hierarchy.path).ok()?.to_str().map(str::to_owned)
    }

    /// Finds the given directory, or the kubelet's below the mounted hierarchy.
    ///
    /// # Errors
    ///
    /// If there is none, or more than one.
    pub fn find(given: Option<&Path>, mountinfo: &Path) -> Result<Self, CgroupError> {
        let mounts = mounts(mountinfo)?;
        let path = match given {
            Some(path) => {
                let read = |source| CgroupError::NotCgroup { path: path.to_owned(), source: Some(source) };
                fs::canonicalize(path).map_err(read)?
            }
            None => pods_root(mounts.first().ok_or_else(|| CgroupError::NotMounted(mountinfo.to_owned()))?)?,
        };
        // The longest mount point that holds the directory is the one it is on.
        let mount = mounts.iter().filter(|mount| path.starts_with(mount)).max_by_key(|mount| mount.as_os_str().len());
        let Some(mount) = mount.filter(|_| path.join("cgroup.procs").exists()) else {
            return Err(CgroupError::NotCgroup { path, source: None });
        };
        let whole = id_of(mount)? == HIERARCHY_ROOT;
        let depth = path.strip_prefix(mount).map_or(0, |below| below.components().count());
        Ok(Self { id: id_of(&path)?, level: whole.then_some(depth as u64), path })
    }
}

/// Lists the mount points of cgroup v2, the first mounted one first.
fn mounts(mountinfo: &Path) -> Result<Vec<PathBuf>, CgroupError> {
    let text =
        fs::read_to_string(mountinfo).map_err(|source| CgroupError::Read { path: mountinfo.to_owned(), source })?;
    // Fields as in proc_pid_mountinfo(5): the mount point is the fifth, the type the first after " - ".
    let points = text.lines().filter_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        if filesystem.split(' ').next() != Some("cgroup2") {
            return None;
        }
        unescape(mount.split(' ').nth(4)?).map(PathBuf::from)
    });
    Ok(points.collect())
}

/// Replaces octal escapes of mountinfo: `\040` is a space.
fn unescape(field: &str) -> Option<String> {
    let mut out = Vec::new();
    let mut bytes = field.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'\\' {
            let mut code = 0u8;
            for _ in 0..3 {
                code = code.checked_mul(8)?.checked_add(bytes.next()?.checked_sub(b'0')?)?;
            }
            out.push(code);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

fn pods_root(mount: &Path) -> Result<PathBuf, CgroupError> {
    let mut found = Vec::new();
    search(mount, SEARCH_DEPTH, &mut found)?;
    if found.len() > 1 {
        // One was made for a kubelet that now has another: the kubelet's own has children from its start.
        let (used, unused): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|path| children(path).is_ok_and(|children| !children.is_empty()));
        found = if used.len() == 1 { used } else { [used, unused].concat() };
        found.sort();
    }
    match found.len() {
        0 => Err(CgroupError::NoPods(mount.to_owned())),
        1 => Ok(found.remove(0)),
        _ => Err(CgroupError::Ambiguous(found)),
    }
}

fn search(directory: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<(), CgroupError> {
    for (name, path) in children(directory)? {
        if is_pods_root(&name) {
            found.push(path);
        } else if depth > 1 {
            search(&path, depth - 1, found)?;
        }
    }
    Ok(())
}

/// A cgroup below the attached root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its id.
    pub id: CgroupId,
    /// Its parent's id.
    pub parent: CgroupId,
    /// Its name: the last segment of the path.
    pub name: String,
}

/// Reads the whole tree below the root, parents before children. What vanishes meanwhile is left out.
///
/// # Errors
///
/// If the root itself cannot be read.
pub fn scan(root: &Root) -> Result<Vec<Entry>, CgroupError> {
    let mut entries = Vec::new();
    scan_below(&root.path, root.id, SCAN_DEPTH, &mut entries)?;
    Ok(entries)
}

fn scan_below(directory: &Path, parent: CgroupId, depth: usize, entries: &mut Vec<Entry>) -> Result<(), CgroupError> {
    for (name, path) in children(directory)? {
        let Ok(metadata) = fs::metadata(&path) else {
            continue;
        };
        let id = CgroupId::new(metadata.ino());
        entries.push(Entry { id, parent, name });
        if depth > 1 && metadata.nlink() != NO_CHILDREN {
            scan_below(&path, id, depth - 1, entries)?;
        }
    }
    Ok(())
}

/// Lists the child cgroups; none if the directory is gone.
fn children(directory: &Path) -> Result<Vec<(String, PathBuf)>, CgroupError> {
    let failed = |source| CgroupError::Read { path: directory.to_owned(), source };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut children = Vec::new();
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            // The directory was removed while it was being read.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        if entry.file_type().is_ok_and(|kind| kind.is_dir())
            && let Ok(name) = entry.file_name().into_string()
        {
            children.push((name, entry.path()));
        }
    }
    children.sort();
    Ok(children)
}

fn id_of(path: &Path) -> Result<CgroupId, CgroupError> {
    let metadata = fs::metadata(path).map_err(|source| CgroupError::Read { path: path.to_owned(), source })?;
    Ok(CgroupId::new(metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A restore made the cgroup of a kubelet that has another one since then.
    #[test]
    fn unused_cgroup_of_pods_makes_no_doubt() {
        let mount = tempfile::tempdir().unwrap();
        let make = |path: &str| fs::create_dir_all(mount.path().join(path)).unwrap();
        assert!(matches!(pods_root(mount.path()), Err(CgroupError::NoPods(_))));
        make("kubepods.slice");
        assert_eq!(pods_root(mount.path()).unwrap(), mount.path().join("kubepods.slice"));
        make("kubepods");
        assert!(matches!(pods_root(mount.path()), Err(CgroupError::Ambiguous(found)) if found.len() == 2));
        make("kubepods/burstable");
        assert_eq!(pods_root(mount.path()).unwrap(), mount.path().join("kubepods"));
        make("kubepods.slice/kubepods-burstable.slice");
        assert!(matches!(pods_root(mount.path()), Err(CgroupError::Ambiguous(found)) if found.len() == 2));
    }
}
