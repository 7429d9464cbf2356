//! A cgroup subtree of the demo's own, laid out as the kubelet does it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// How long the processes in a cgroup may take to end once they were killed.
const EMPTYING: Duration = Duration::from_secs(5);

/// Where the pods' cgroups are, below the subtree's root: the layout of the systemd driver.
const PODS: &str = "kubepods.slice";
const CLASS: &str = "kubepods-besteffort.slice";

/// The subtree. Removed with everything in it when dropped.
#[derive(Debug)]
pub(super) struct Subtree {
    path: PathBuf,
}

impl Subtree {
    pub(super) fn new() -> anyhow::Result<Self> {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").context("cannot read the list of mounts")?;
        let mount = mount_point(&mountinfo).context(
            "no cgroup v2 hierarchy is mounted here: boot with systemd.unified_cgroup_hierarchy=1, or mount one",
        )?;
        let path = mount.join(format!("port-enforcer-demo-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot make the cgroup {}", path.display()))?;
        Ok(Self { path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The cgroup that holds all pods.
    pub(super) fn pods(&self) -> PathBuf {
        self.path.join(PODS)
    }

    /// Makes the cgroup of a pod's only container.
    pub(super) fn make_container(&self, uid: &str, container: &str) -> anyhow::Result<PathBuf> {
        let path = self.pods().join(CLASS).join(container_path(uid, container));
        fs::create_dir_all(&path).with_context(|| format!("cannot make the cgroup {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Subtree {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            eprintln!("warning: the cgroup {} is left behind: {error}", self.path.display());
        }
    }
}

fn container_path(uid: &str, container: &str) -> String {
    let uid = uid.replace('-', "_");
    format!("kubepods-besteffort-pod{uid}.slice/cri-containerd-{container}.scope")
}

/// Where cgroup v2 is mounted; fields as in `proc_pid_mountinfo(5)`.
fn mount_point(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let is_cgroup2 = filesystem.split(' ').next() == Some("cgroup2");
        mount.split(' ').nth(4).filter(|_| is_cgroup2).map(PathBuf::from)
    })
}

/// Removes a cgroup and what is below it. The processes in it are the demo's, and have been told to end; what is left
/// of them is killed.
fn remove(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    let deadline = Instant::now() + EMPTYING;
    loop {
        match fs::remove_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                for pid in fs::read_to_string(path.join("cgroup.procs"))?.lines() {
                    if let Some(pid) = pid.parse().ok().and_then(rustix::process::Pid::from_raw) {
                        // It may have ended meanwhile.
                        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                    }
                }
                thread::sleep(Duration::from_millis(5));
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchy_is_found_wherever_it_is() {
        let mountinfo = "\
            24 29 0:22 / /sys/fs/cgroup rw,nosuid - tmpfs tmpfs rw,mode=755\n\
            31 24 0:27 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu\n\
            32 24 0:28 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_point(mountinfo), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(mount_point("31 24 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu"), None);
    }

    #[test]
    fn path_is_that_of_the_systemd_driver() {
        assert_eq!(container_path("0c7a-11", "beef"), "kubepods-besteffort-pod0c7a_11.slice/cri-containerd-beef.scope");
    }
}
