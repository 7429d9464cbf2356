//! Cgroups of the demo's pods, in the layout of the kubelet.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// Time limit for killed processes to leave a cgroup.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Slices of the systemd driver that contain the pods.
const ALL_PODS: &str = "kubepods.slice";
const QOS_CLASS: &str = "kubepods-besteffort.slice";

/// A cgroup subtree. It is removed with all of its processes when dropped.
#[derive(Debug)]
pub(super) struct PodCgroups {
    path: PathBuf,
}

impl PodCgroups {
    pub(super) fn new() -> anyhow::Result<Self> {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
        let mount = mount_point(&mountinfo).context(
            "no cgroup v2 hierarchy is mounted here: boot with systemd.unified_cgroup_hierarchy=1, or mount one",
        )?;
        let path = mount.join(format!("port-enforcer-demo-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot create the cgroup {}", path.display()))?;
        Ok(Self { path })
    }

    /// Returns the root of the subtree.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the cgroup that contains all pods.
    pub(super) fn all_pods(&self) -> PathBuf {
        self.path.join(ALL_PODS)
    }

    /// Creates the cgroup of a pod's container.
    pub(super) fn create_container(&self, uid: &str, container: &str) -> anyhow::Result<PathBuf> {
        let path = self.all_pods().join(QOS_CLASS).join(container_path(uid, container));
        fs::create_dir_all(&path).with_context(|| format!("cannot create the cgroup {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for PodCgroups {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            eprintln!("warning: cannot remove the cgroup {}: {error}", self.path.display());
        }
    }
}

fn container_path(uid: &str, container: &str) -> String {
    let uid = uid.replace('-', "_");
    format!("kubepods-besteffort-pod{uid}.slice/cri-containerd-{container}.scope")
}

/// Finds the mount point of cgroup v2. `proc_pid_mountinfo(5)` describes the fields.
fn mount_point(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let is_cgroup2 = filesystem.split(' ').next() == Some("cgroup2");
        mount.split(' ').nth(4).filter(|_| is_cgroup2).map(PathBuf::from)
    })
}

/// Removes a cgroup and its descendants. Kills the processes in them, which belong to the demo.
fn remove(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    let deadline = Instant::now() + REMOVAL_TIMEOUT;
    loop {
        match fs::remove_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                for pid in fs::read_to_string(path.join("cgroup.procs"))?.lines() {
                    if let Some(pid) = pid.parse().ok().and_then(rustix::process::Pid::from_raw) {
                        // It fails if the process has ended meanwhile.
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
    fn mount_point_of_cgroup2_is_found() {
        let mountinfo = "\
            24 29 0:22 / /sys/fs/cgroup rw,nosuid - tmpfs tmpfs rw,mode=755\n\
            31 24 0:27 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu\n\
            32 24 0:28 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_point(mountinfo), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(mount_point("31 24 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu"), None);
    }

    #[test]
    fn container_path_has_the_layout_of_the_systemd_driver() {
        assert_eq!(container_path("0c7a-11", "beef"), "kubepods-besteffort-pod0c7a_11.slice/cri-containerd-beef.scope");
    }
}
