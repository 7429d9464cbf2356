//! A cgroup subtree for one test.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use enforcer_core::model::kernel_ids::CgroupId;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// Returns the mount points of cgroup v2 in the mount namespace of this thread.
pub fn mount_points() -> Vec<PathBuf> {
    let mountinfo = fs::read_to_string("/proc/thread-self/mountinfo").expect("reading mountinfo");
    let lines = mountinfo.lines().filter(|line| line.contains(" - cgroup2 "));
    lines.filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect()
}

/// Returns the id of the cgroup with this directory.
pub fn cgroup_id(directory: &Path) -> CgroupId {
    CgroupId::new(fs::metadata(directory).expect("a cgroup").ino())
}

/// A subtree that is removed with everything in it when dropped, also when the test fails.
pub struct Sandbox {
    path: PathBuf,
}

impl Sandbox {
    /// Makes an empty subtree below the root of the hierarchy.
    pub fn new() -> Self {
        let name = format!("port-enforcer-test-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = mount_points().first().expect("cgroup v2 is mounted").join(name);
        fs::create_dir(&path).expect("creating a cgroup: the tests need root");
        Self { path }
    }

    /// Returns its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a cgroup, with its parents.
    pub fn make(&self, relative: &str) -> PathBuf {
        let path = self.path.join(relative);
        fs::create_dir_all(&path).expect("creating a cgroup");
        path
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            eprintln!("cannot remove the cgroup {}: {error}", self.path.display());
        }
    }
}

/// Removes a cgroup and what is below it; processes that are still in there are killed.
pub fn remove(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match fs::remove_dir(path) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                for pid in fs::read_to_string(path.join("cgroup.procs"))?.lines() {
                    let pid: i32 = pid.parse().expect("a pid");
                    // SAFETY: kill has no memory effects; the process is in this test's own cgroup.
                    unsafe { libc::kill(pid, libc::SIGKILL) };
                }
                thread::sleep(Duration::from_millis(5));
            }
            result => return result,
        }
    }
}
