//! The root of a container of the image, where `cargo xtask image --check` says where the unpacked image is: read-only,
//! with what a runtime and the manifests mount, and nothing else of the machine's.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use rustix::process::{chdir, chroot};

use crate::bind_mount;

/// Where the unpacked image is.
const ROOT: &str = "PORT_ENFORCER_TEST_IMAGE";

/// What a runtime mounts, the manifests' mounts among it; and where the tests keep what they mount instead of the others.
fn mounted() -> [PathBuf; 4] {
    ["/dev".into(), "/proc".into(), "/sys".into(), env::temp_dir()]
}

/// The calling thread, whose mounts must be its own, and all that it starts see the image's root from now on. Nothing
/// happens where no image is to be tried.
pub(crate) fn enter() {
    let Some(root) = env::var_os(ROOT).map(PathBuf::from) else {
        return;
    };
    bind_mount(&root, &root, 0);
    for folder in mounted() {
        let place = root.join(folder.strip_prefix("/").expect("an absolute path"));
        fs::create_dir_all(&place).expect("a mount point");
        bind_mount(&folder, &place, libc::MS_REC);
    }
    bind_mount(&root, &root, libc::MS_REMOUNT | libc::MS_RDONLY);
    chroot(&root).and_then(|()| chdir("/")).expect("root");
    assert_eq!(fs::write("/usr/bin/other", "").map_err(|error| error.kind()), Err(io::ErrorKind::ReadOnlyFilesystem));
    assert!(!Path::new("/bin").exists() && !Path::new("/usr/bin/sh").exists(), "there is no shell");
}
