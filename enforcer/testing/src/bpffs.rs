//! A BPF file system for one test.

use std::{
    ffi::{CStr, CString},
    io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    ptr,
};

use tempfile::TempDir;

/// Gives this process mounts of its own, so that no mount of a test outlives it however it ends. To be called before any
/// thread or worker is started.
pub fn isolate() {
    // SAFETY: no memory effects.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNS) };
    assert_eq!(result, 0, "mounts of its own: the tests need root");
    mount(c"none", Path::new("/"), None, libc::MS_REC | libc::MS_PRIVATE).expect("no mount goes back to the machine");
}

/// A mounted BPF file system of its own. Its pins go when it is dropped.
pub struct Bpffs {
    mount: TempDir,
}

impl Bpffs {
    /// Mounts one in a new folder.
    pub fn new() -> Self {
        let folder = TempDir::with_prefix("port-enforcer-bpffs-").expect("a folder");
        mount(c"bpf", folder.path(), Some(c"bpf"), 0).expect("a BPF file system");
        Self { mount: folder }
    }

    /// Returns the mount point.
    pub fn path(&self) -> &Path {
        self.mount.path()
    }

    /// Returns the folder for `--bpffs`.
    pub fn folder(&self) -> PathBuf {
        self.path().join("port-enforcer")
    }

    /// Remounts it without writing.
    pub fn make_read_only(&self) {
        mount(c"bpf", self.path(), None, libc::MS_REMOUNT | libc::MS_RDONLY).expect("a mount without writing");
    }

    /// Lists every pin and every empty folder below the agent's folder, in order.
    pub fn list(&self) -> Vec<String> {
        let mut found = Vec::new();
        list(&self.folder(), &self.folder(), &mut found);
        found.sort();
        found
    }
}

fn list(root: &Path, folder: &Path, found: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries {
        let path = entry.expect("an entry").path();
        let before = found.len();
        if path.is_dir() {
            list(root, &path, found);
        }
        if found.len() == before {
            found.push(path.strip_prefix(root).expect("below").display().to_string());
        }
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        let path = CString::new(self.path().as_os_str().as_bytes()).expect("a path");
        // SAFETY: no memory effects. Detached, so that it goes even where a failed test has something open.
        let result = unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
        if result != 0 {
            eprintln!("cannot unmount {}: {}", self.path().display(), io::Error::last_os_error());
        }
    }
}

fn mount(what: &CStr, at: &Path, kind: Option<&CStr>, flags: libc::c_ulong) -> io::Result<()> {
    let at = CString::new(at.as_os_str().as_bytes())?;
    let kind = kind.map_or(ptr::null(), CStr::as_ptr);
    // SAFETY: all pointers are to strings that live across the call, or null where that is allowed.
    let result = unsafe { libc::mount(what.as_ptr(), at.as_ptr(), kind, flags, ptr::null()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
