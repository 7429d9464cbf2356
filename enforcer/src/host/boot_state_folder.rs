//! Folder of what outlives a reboot: the boot state ([`enforcer_core::boot_state`]) and the mode that an operator set on
//! the node.
//!
//! What is read from it becomes law in the kernel, so only files count that nobody but root could have written.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use enforcer_core::{
    boot_state::{BootState, BootStateError, MAX_BYTES, Origin, Unfit},
    model::now::Now,
};
use enforcer_ebpf::wire::NodeMode;

/// Default folder.
pub const DEFAULT_FOLDER: &str = "/var/lib/port-enforcer";

/// File with the boot state.
const STATE: &str = "boot-state";
/// File with the mode that an operator set, in one word; there is none where none is set.
const MODE: &str = "node-mode";
/// Ending of a file that becomes the one before the ending once it is written.
const NEXT: &str = "next";
/// Most bytes of the mode that are read.
const MAX_MODE_BYTES: u64 = 64;

/// Path of the boot's id.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Path of the machine's id, which an installation has for life (machine-id(5)).
const MACHINE_ID: &str = "/etc/machine-id";

/// Reason why a file of the folder is of no use.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Reason.
        source: io::Error,
    },
    /// Others than root could have written the file.
    #[error("{} is not trusted: {why}", path.display())]
    Untrusted {
        /// The file.
        path: PathBuf,
        /// Fault of the file.
        why: &'static str,
    },
    /// The bytes are no boot state.
    #[error("{} {source}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// Fault of the bytes.
        source: BootStateError,
    },
    /// The boot state is whole, and does not count here and now.
    #[error("{} {source}", path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// Reason.
        source: Unfit,
    },
    /// There are more bytes than a boot state may have.
    #[error("the boot state has more than {MAX_BYTES} bytes, so that none is kept")]
    TooLarge,
}

impl FolderError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

/// The folder. It need not be there.
#[derive(Clone, Debug)]
pub struct BootStateFolder {
    path: PathBuf,
}

impl BootStateFolder {
    /// Takes the path.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Returns the path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether it is there.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.path.is_dir()
    }

    /// Reads the boot state; `None` if there is none.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or nothing of it may be used on this machine, in this boot, at this time.
    pub fn read(&self, now: Now) -> Result<Option<BootState>, FolderError> {
        let path = self.path.join(STATE);
        // One byte more, so that a file that is too large is seen to be.
        let Some(bytes) = read_trusted(&path, MAX_BYTES as u64 + 1)? else {
            return Ok(None);
        };
        let state = match BootState::decode(&bytes, now) {
            Ok(state) => state,
            Err(source) => return Err(FolderError::State { path, source }),
        };
        match state.check(machine_id().as_deref(), &boot_id()?, now) {
            Ok(()) => Ok(Some(state)),
            Err(source) => Err(FolderError::Unfit { path, source }),
        }
    }

    /// Writes the bytes of a boot state in the place of the last one. After a crash one of the two is there, whole.
    ///
    /// # Errors
    ///
    /// If the system refuses. Then the old one is removed, if that is possible: none is better than a wrong one.
    pub fn write(&self, bytes: &[u8]) -> Result<(), FolderError> {
        self.replace(STATE, bytes).inspect_err(|_| {
            // The first error says why.
            let _ = self.remove();
        })
    }

    /// Removes the boot state. Returns whether there was one.
    ///
    /// # Errors
    ///
    /// If the system refuses.
    pub fn remove(&self) -> Result<bool, FolderError> {
        self.remove_file(STATE)
    }

    /// Reads the mode that an operator set. One that cannot be read is `audit`, since it may be that; then the reason is
    /// there too.
    #[must_use]
    pub fn node_mode(&self) -> (NodeMode, Option<FolderError>) {
        let path = self.path.join(MODE);
        match read_trusted(&path, MAX_MODE_BYTES) {
            Ok(None) => (NodeMode::Unset, None),
            Ok(Some(bytes)) => match bytes.trim_ascii() {
                b"audit" => (NodeMode::Audit, None),
                b"enforce" => (NodeMode::Enforce, None),
                _ => {
                    let why = "it holds neither the word audit nor enforce, so it counts as audit";
                    (NodeMode::Audit, Some(FolderError::Untrusted { path, why }))
                }
            },
            Err(error) => (NodeMode::Audit, Some(error)),
        }
    }

    /// Keeps the mode that an operator set.
    ///
    /// # Errors
    ///
    /// If the system refuses.
    pub fn set_node_mode(&self, mode: NodeMode) -> Result<(), FolderError> {
        match mode {
            NodeMode::Unset => self.remove_file(MODE).map(drop),
            NodeMode::Audit => self.replace(MODE, b"audit\n"),
            NodeMode::Enforce => self.replace(MODE, b"enforce\n"),
        }
    }

    /// Removes all files, and the folder if nothing else is in it. Returns whether there was something.
    ///
    /// # Errors
    ///
    /// If the system refuses.
    pub fn clean_up(&self) -> Result<bool, FolderError> {
        let mut found = false;
        for name in [STATE, MODE] {
            found |= self.remove_file(name)?;
            found |= self.remove_file(&format!("{name}.{NEXT}"))?;
        }
        // It stays where it is a mount, or holds what is not ours.
        let _ = fs::remove_dir(&self.path);
        Ok(found)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), FolderError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.path);
        made.map_err(FolderError::io("make the folder", &self.path))?;
        let next = self.path.join(format!("{name}.{NEXT}"));
        // What a crash left; a new file has the right mode whatever was there.
        self.remove_file(&format!("{name}.{NEXT}"))?;
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&next)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&next, self.path.join(name))?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(FolderError::io("write", &self.path.join(name)))
    }

    fn remove_file(&self, name: &str) -> Result<bool, FolderError> {
        let path = self.path.join(name);
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
            Err(error) => Err(FolderError::io("remove", &path)(error)),
        }
    }
}

/// Reads a file that only its owner, who is the user of this process, could have written; `None` if there is none.
fn read_trusted(path: &Path, most: u64) -> Result<Option<Vec<u8>>, FolderError> {
    let failed = FolderError::io("read", path);
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(failed(error)),
    };
    let untrusted = |why| Err(FolderError::Untrusted { path: path.to_owned(), why });
    let metadata = match file.metadata() {
        Ok(metadata) => metadata,
        Err(error) => return Err(failed(error)),
    };
    if !metadata.is_file() {
        return untrusted("it is no file");
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return untrusted("it belongs to another user");
    }
    if metadata.mode() & 0o022 != 0 {
        return untrusted("others may write to it");
    }
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes).map_err(failed)?;
    Ok(Some(bytes))
}

/// Returns the origin of a boot state of this machine and boot, on the node with this name.
///
/// # Errors
///
/// If the id of the boot cannot be read.
pub fn origin(node: &str) -> Result<Origin, FolderError> {
    Ok(Origin { node: node.to_owned(), machine: machine_id(), boot: boot_id()? })
}

fn boot_id() -> Result<String, FolderError> {
    let path = Path::new(BOOT_ID);
    fs::read_to_string(path).map(|text| text.trim().to_owned()).map_err(FolderError::io("read", path))
}

fn machine_id() -> Option<String> {
    let text = fs::read_to_string(MACHINE_ID).ok()?;
    Some(text.trim()).filter(|id| !id.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use tempfile::TempDir;

    use super::*;
    use crate::host::clock::now;

    fn folder() -> (TempDir, BootStateFolder) {
        let top = TempDir::new().unwrap();
        let folder = BootStateFolder::new(&top.path().join("a/b"));
        (top, folder)
    }

    #[test]
    fn files_are_roots_alone_and_whole() {
        let (_top, folder) = folder();
        assert!(folder.read(now()).unwrap().is_none() && !folder.exists());
        fs::create_dir_all(folder.path()).unwrap();
        fs::write(folder.path().join("boot-state.next"), "left by a crash").unwrap();
        folder.write(b"something").unwrap();
        let path = folder.path().join(STATE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read(&path).unwrap(), b"something");
        let error = folder.read(now()).unwrap_err().to_string();
        assert_eq!(error, format!("{} is no boot state of port-enforcer", path.display()));
        assert!(folder.clean_up().unwrap() && !folder.exists());
        assert!(!folder.clean_up().unwrap());
    }

    #[test]
    fn what_others_could_have_written_is_not_read() {
        let (_top, folder) = folder();
        folder.write(b"something").unwrap();
        let path = folder.path().join(STATE);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o620)).unwrap();
        assert!(matches!(folder.read(now()), Err(FolderError::Untrusted { .. })));
        fs::rename(&path, folder.path().join("elsewhere")).unwrap();
        symlink("elsewhere", &path).unwrap();
        assert!(matches!(folder.read(now()), Err(FolderError::Io { .. })));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(folder.read(now()), Err(FolderError::Untrusted { .. })));
    }

    #[test]
    fn a_state_that_cannot_be_written_is_none() {
        let (_top, folder) = folder();
        folder.write(b"old").unwrap();
        fs::create_dir(folder.path().join("boot-state.next")).unwrap();
        assert!(folder.write(b"new").is_err());
        assert!(!folder.path().join(STATE).exists(), "the old one says what is not so any more");
    }

    #[test]
    fn the_mode_is_kept_and_doubt_is_audit() {
        let (_top, folder) = folder();
        assert!(matches!(folder.node_mode(), (NodeMode::Unset, None)));
        for mode in [NodeMode::Audit, NodeMode::Enforce] {
            folder.set_node_mode(mode).unwrap();
            assert_eq!(folder.node_mode().0, mode);
        }
        folder.set_node_mode(NodeMode::Unset).unwrap();
        assert!(matches!(folder.node_mode(), (NodeMode::Unset, None)));
        folder.replace(MODE, b"enf").unwrap();
        assert!(matches!(folder.node_mode(), (NodeMode::Audit, Some(_))));
    }
}
