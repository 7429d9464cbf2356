//! Pins in a BPF file system: what outlives the agent.
//!
//! ```text
//! FOLDER/                    --bpffs; the process that holds its lock is the one agent (or cleanup) that changes
//! anything
//!   v3/                      version of the layout, LAYOUT_VERSION
//!     shared/COUNTERS …      used by the programs of every generation: counts, the operator's mode, holders
//!     links/bind4 …          the links to the cgroup: they run the programs of the live generation
//!     g7/                    a generation: the objects that one start of an agent loaded
//!       maps/PORTS …         its maps
//!       programs/bind4 …     its programs: their ids show the generation of a link
//!       links/cgroup_mkdir … its links to the raw tracepoints
//! ```
//!
//! The reasons, and the steps of a start, are in docs/adr/0004-state-that-outlives-the-agent.md.
//!
//! A map that was renamed since an earlier version is found under either name ([`RENAMED`]): a start renames the pins in
//! `shared/`, and opens those of an earlier generation by the name that they have.

mod cleanup;
pub(super) mod error;
mod inspect;
mod node_mode;
pub(super) mod pin_store;
mod previous;

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use enforcer_ebpf::wire;
use rustix::fs::{Access, FlockOperation, Mode, OFlags, access, flock, fstat, open, statfs};

use crate::kernel::{
    crash_point::step,
    map_names::{RENAMED, Renamed},
};

pub use self::{
    cleanup::{CleanupSummary, clean_up},
    error::{PersistenceError, PinError},
    inspect::{PinnedState, read_pinned},
    node_mode::{node_mode, recall_node_mode, set_node_mode},
    previous::Previous,
};

/// Default folder of the pins.
pub const DEFAULT_FOLDER: &str = "/sys/fs/bpf/port-enforcer";

/// `BPF_FS_MAGIC` in include/uapi/linux/magic.h.
const BPF_FS_MAGIC: u32 = 0xcafe_4a11;

/// A folder in a BPF file system that can be written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    folder: PathBuf,
    renamed: &'static [Renamed],
}

impl Pins {
    /// Makes the folder if it is not there.
    ///
    /// # Errors
    ///
    /// If nothing can be pinned there. The agent can run without pins.
    pub fn at(folder: &Path) -> Result<Self, PersistenceError> {
        if !on_bpffs(folder) {
            return Err(PersistenceError::NotBpffs(folder.to_owned()));
        }
        fs::create_dir_all(folder)
            .and_then(|()| Ok(access(folder, Access::WRITE_OK)?))
            .map_err(|source| PersistenceError::Refused { path: folder.to_owned(), source })?;
        Ok(Self::new(folder))
    }

    /// Takes the path of a folder that need not be there.
    fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), renamed: RENAMED }
    }

    /// Replaces the table of earlier names of maps, which is [`RENAMED`], by another one. For tests.
    #[must_use]
    pub fn with_renamed(self, renamed: &'static [Renamed]) -> Self {
        Self { renamed, ..self }
    }

    /// Returns the pin of a map in this folder: under an earlier name if there is one, else under its present name.
    ///
    /// Of two, the one under the earlier name is in use: a start renames what it finds ([`Self::rename_pins`]), so an
    /// earlier version of the agent has come after that and made it.
    fn map_pin(&self, folder: &Path, name: &str) -> PathBuf {
        let earlier = self.renamed.iter().filter(|(_, present)| *present == name);
        let earlier = earlier.map(|(earlier, _)| folder.join(earlier)).find(|path| path.exists());
        earlier.unwrap_or_else(|| folder.join(name))
    }

    /// Renames the pins in this folder that have an earlier name.
    fn rename_pins(&self, folder: &Path) -> Result<(), PinError> {
        for (earlier, present) in self.renamed {
            let earlier = folder.join(earlier);
            if earlier.exists() {
                fs::rename(&earlier, folder.join(present)).map_err(PinError::io("rename", &earlier))?;
                step("renamed the map", present);
            }
        }
        Ok(())
    }

    /// Returns the folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Takes the lock of the folder; `None` while another process has it. It ends with the guard or with the process.
    ///
    /// # Errors
    ///
    /// If the folder cannot be opened or locked.
    pub fn try_lock(&self) -> Result<Option<PinsGuard>, PinError> {
        self.lock_with(FlockOperation::NonBlockingLockExclusive)
    }

    /// Takes the lock of the folder, and blocks the thread while another process has it. Calls `waits` before that.
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
            // The process that had the lock removed the folder: what was opened is not in the tree any more.
        }
    }

    /// Returns whether programs of an agent of this version are attached that are pinned here.
    ///
    /// # Errors
    ///
    /// If what is pinned cannot be read, or is of another version.
    pub fn is_live(&self) -> Result<bool, PinError> {
        self.check_layout()?;
        pin_store::live_generation(self).map(|live| live.is_some())
    }

    /// Returns the folder of this version's layout.
    fn layout(&self) -> PathBuf {
        self.folder.join(layout_name(wire::LAYOUT_VERSION))
    }

    fn shared(&self) -> PathBuf {
        self.layout().join("shared")
    }

    fn links(&self) -> PathBuf {
        self.layout().join("links")
    }

    /// Refuses pins of another layout version.
    fn check_layout(&self) -> Result<(), PinError> {
        match layouts(&self.folder)?.into_iter().find(|path| *path != self.layout()) {
            Some(other) => Err(PinError::Unknown(other)),
            None => Ok(()),
        }
    }
}

/// Lock of the folder: no other agent and no cleanup changes the pins meanwhile.
#[derive(Debug)]
pub struct PinsGuard {
    pins: Pins,
    _lock: OwnedFd,
}

impl PinsGuard {
    /// Returns the folder that is locked.
    #[must_use]
    pub fn pins(&self) -> &Pins {
        &self.pins
    }
}

/// Pins of a kernel side, and whether they stay.
#[derive(Debug)]
pub struct Persistence {
    /// Lock of the folder.
    pub guard: PinsGuard,
    /// Switch for pins that outlive the agent. If off, what an earlier agent left is taken over and removed, and
    /// nothing stays but the mode that an operator set on the node.
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

/// Returns whether the path still leads to what was opened.
fn is_still(folder: &Path, lock: &OwnedFd) -> bool {
    match (fstat(lock), fs::metadata(folder)) {
        (Ok(opened), Ok(present)) => (opened.st_dev, opened.st_ino) == (present.dev(), present.ino()),
        _ => false,
    }
}

/// Returns whether the path, or the nearest of its parents that exists, is on a BPF file system.
fn on_bpffs(path: &Path) -> bool {
    let nearest = path.ancestors().find(|ancestor| ancestor.exists());
    let magic = nearest.and_then(|nearest| statfs(nearest).ok()).map(|stat| stat.f_type);
    magic.is_some_and(|magic| u32::try_from(magic) == Ok(BPF_FS_MAGIC))
}

fn layout_name(version: u32) -> String {
    format!("v{version}")
}

/// Returns the folders of layouts of any version.
fn layouts(folder: &Path) -> Result<Vec<PathBuf>, PinError> {
    let is_layout = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix('v'));
        name.is_some_and(|version| !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit()))
    };
    Ok(entries(folder)?.into_iter().filter(is_layout).collect())
}

/// Returns the entries of a folder, sorted by name; none if the folder is not there.
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

/// Removes a pin. Returns whether it was there.
fn remove_pin(path: &Path) -> Result<bool, PinError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(PinError::io("remove", path)(error)),
    }
}

/// Removes a folder if it is there and empty.
fn remove_empty_folder(path: &Path) {
    // What is left in it, or mounted on it, is not ours.
    let _ = fs::remove_dir(path);
}
