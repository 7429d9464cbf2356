//! What outlives the agent: pins in a BPF file system.
//!
//! ```text
//! FOLDER/                    --bpffs; whoever holds its lock is the one agent (or cleanup) that changes anything
//!   v3/                      version of the layout, LAYOUT_VERSION
//!     shared/COUNTERS …      used by the programs of every generation: counts, the operator's mode, who holds what
//!     links/bind4 …          the links to the cgroup: whose programs they run is the live generation
//!     g7/                    a generation: what one start of an agent loaded
//!       maps/PORTS …         its maps
//!       programs/bind4 …     its programs, by which a link tells the generation
//!       links/cgroup_mkdir … its links to the raw tracepoints
//! ```
//!
//! Why it is like that, and what a start does with it, is in docs/adr/0004-state-that-outlives-the-agent.md.

mod cleanup;
mod inspect;
mod node_mode;
mod previous;
pub(super) mod store;

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use aya::maps::MapError;
use enforcer_ebpf::wire;
use rustix::fs::{Access, FlockOperation, Mode, OFlags, access, flock, fstat, open, statfs};

pub use self::{
    cleanup::{CleanupSummary, clean_up},
    inspect::{PinnedState, read_pinned},
    node_mode::{node_mode, set_node_mode},
    previous::Previous,
};

/// Where pins are kept unless somebody says otherwise.
pub const DEFAULT_FOLDER: &str = "/sys/fs/bpf/port-enforcer";

/// `BPF_FS_MAGIC` in include/uapi/linux/magic.h.
const BPF_FS_MAGIC: u32 = 0xcafe_4a11;

/// Why nothing can be kept. The agent works all the same, and what it does ends with it.
#[derive(Debug, thiserror::Error)]
pub enum PersistenceError {
    /// No BPF file system is mounted there.
    #[error(
        "{} is not on a BPF file system: mount one (mount -t bpf bpf /sys/fs/bpf), or name a folder on one with --bpffs",
        .0.display()
    )]
    NotBpffs(PathBuf),
    /// The folder cannot be made or written to.
    #[error("cannot write to the BPF file system folder {}: {source}; mount it read-write, run as root", path.display())]
    Refused {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Why something of what is kept cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// An object cannot be pinned, opened or removed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A pinned map cannot be used.
    #[error("cannot use the pinned map {}: {source}", path.display())]
    Map {
        /// Its pin.
        path: PathBuf,
        /// Why.
        source: Box<MapError>,
    },
    /// Another version of the agent left something that this one does not know.
    #[error(
        "{} was left by another version of the agent, and this one knows layout v{} only: run the version that left \
         it, or `enforcer cleanup`, which removes it and with it all enforcement until an agent runs again",
        .0.display(),
        wire::LAYOUT_VERSION
    )]
    Unknown(PathBuf),
    /// Somebody else changed things at the same time.
    #[error("{} was removed while it was written to: try again", .0.display())]
    Contended(PathBuf),
}

impl PinError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

/// A folder in a BPF file system that can be written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    folder: PathBuf,
}

impl Pins {
    /// The folder, made if it is not there.
    ///
    /// # Errors
    ///
    /// If nothing can be kept there; the agent can then run without.
    pub fn at(folder: &Path) -> Result<Self, PersistenceError> {
        if !on_bpffs(folder) {
            return Err(PersistenceError::NotBpffs(folder.to_owned()));
        }
        fs::create_dir_all(folder)
            .and_then(|()| Ok(access(folder, Access::WRITE_OK)?))
            .map_err(|source| PersistenceError::Refused { path: folder.to_owned(), source })?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The right to change what is kept, or `None` while another process has it. It ends with the guard and, whatever
    /// happens, with the process.
    ///
    /// # Errors
    ///
    /// If the folder cannot be opened or locked.
    pub fn try_lock(&self) -> Result<Option<PinsGuard>, PinError> {
        self.lock_with(FlockOperation::NonBlockingLockExclusive)
    }

    /// The same, and waits for as long as another process has it, which is told first. Blocks the thread.
    ///
    /// # Errors
    ///
    /// If the folder cannot be opened or locked.
    pub fn lock(&self, waits: impl FnOnce()) -> Result<PinsGuard, PinError> {
        if let Some(guard) = self.try_lock()? {
            return Ok(guard);
        }
        waits();
        loop {
            // It blocks; there is no guard only where the folder was removed meanwhile.
            if let Some(guard) = self.lock_with(FlockOperation::LockExclusive)? {
                return Ok(guard);
            }
        }
    }

    fn lock_with(&self, operation: FlockOperation) -> Result<Option<PinsGuard>, PinError> {
        loop {
            fs::create_dir_all(&self.folder).map_err(PinError::io("make the folder", &self.folder))?;
            let Some(lock) = lock_folder(&self.folder, operation)? else {
                return Ok(None);
            };
            if is_still(&self.folder, &lock) {
                return Ok(Some(PinsGuard { pins: self.clone(), _lock: lock }));
            }
            // Whoever had the lock has removed the folder: it is nobody's lock any more.
        }
    }

    /// The folder of this version's layout.
    fn layout(&self) -> PathBuf {
        self.folder.join(layout_name(wire::LAYOUT_VERSION))
    }

    fn shared(&self) -> PathBuf {
        self.layout().join("shared")
    }

    fn links(&self) -> PathBuf {
        self.layout().join("links")
    }

    /// Refuses what another version left.
    fn check_layout(&self) -> Result<(), PinError> {
        match layouts(&self.folder)?.into_iter().find(|path| *path != self.layout()) {
            Some(other) => Err(PinError::Unknown(other)),
            None => Ok(()),
        }
    }
}

/// The right to change what is kept. No other process has it meanwhile.
#[derive(Debug)]
pub struct PinsGuard {
    pins: Pins,
    _lock: OwnedFd,
}

impl PinsGuard {
    /// What it is the right to change.
    #[must_use]
    pub fn pins(&self) -> &Pins {
        &self.pins
    }
}

/// How a kernel side is kept.
#[derive(Debug)]
pub struct Persistence {
    /// The right to change what is kept.
    pub guard: PinsGuard,
    /// Whether it outlives the agent. Else what an earlier agent left is taken over and removed, and nothing is kept but
    /// the mode that an operator set on the node.
    pub persist: bool,
}

/// Opens and locks a folder; `None` if it is locked and the operation does not wait.
fn lock_folder(folder: &Path, operation: FlockOperation) -> Result<Option<OwnedFd>, PinError> {
    let failed = |error: rustix::io::Errno| PinError::io("lock the folder", folder)(error.into());
    let lock = open(folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    loop {
        match flock(&lock, operation) {
            Ok(()) => return Ok(Some(lock)),
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

/// Whether the path still leads to what was opened.
fn is_still(folder: &Path, lock: &OwnedFd) -> bool {
    match (fstat(lock), fs::metadata(folder)) {
        (Ok(opened), Ok(present)) => (opened.st_dev, opened.st_ino) == (present.dev(), present.ino()),
        _ => false,
    }
}

/// Whether the path, or the nearest of its parents that exists, is on a BPF file system.
fn on_bpffs(path: &Path) -> bool {
    let nearest = path.ancestors().find(|ancestor| ancestor.exists());
    let magic = nearest.and_then(|nearest| statfs(nearest).ok()).map(|stat| stat.f_type);
    magic.is_some_and(|magic| u32::try_from(magic) == Ok(BPF_FS_MAGIC))
}

fn layout_name(version: u32) -> String {
    format!("v{version}")
}

/// The folders of all layouts there are, of any version.
fn layouts(folder: &Path) -> Result<Vec<PathBuf>, PinError> {
    let is_layout = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix('v'));
        name.is_some_and(|version| !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit()))
    };
    Ok(entries(folder)?.into_iter().filter(is_layout).collect())
}

/// What is in a folder, by name; nothing if the folder is not there.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, PinError> {
    let failed = PinError::io("read the folder", folder);
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut paths: Vec<_> = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>().map_err(failed)?;
    paths.sort();
    Ok(paths)
}

/// Makes a folder that may be there already.
fn make_folder(path: &Path) -> Result<(), PinError> {
    fs::create_dir_all(path).map_err(PinError::io("make the folder", path))
}

/// Removes one pin; it need not be there.
fn remove_pin(path: &Path) -> Result<bool, PinError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(PinError::io("remove", path)(error)),
    }
}

/// Removes a folder if it is there and empty.
fn remove_empty_folder(path: &Path) {
    // What is left in it, or mounted on it, is for somebody else to remove.
    let _ = fs::remove_dir(path);
}
