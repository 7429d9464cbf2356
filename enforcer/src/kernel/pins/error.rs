//! Errors of pins.

use std::{
    io,
    path::{Path, PathBuf},
};

use aya::maps::MapError;
use enforcer_ebpf::wire;

/// Reason why nothing can be pinned. The agent works without pins, and its enforcement ends with it.
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
        /// Error of the system.
        source: io::Error,
    },
}

/// Error of a pin.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// An object cannot be pinned, opened or removed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// Verb of the operation that failed.
        action: &'static str,
        /// The pin or folder.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// A pinned map cannot be used.
    #[error("cannot use the pinned map {}: {source}", path.display())]
    Map {
        /// Path of the pin.
        path: PathBuf,
        /// Error of the kernel.
        source: Box<MapError>,
    },
    /// Another version of the agent left pins that this version does not know.
    #[error(
        "{} was left by another version of the agent, and this one knows layout v{} only: run the version that left \
         it, or `enforcer cleanup`, which removes it and with it all enforcement until an agent runs again",
        .0.display(),
        wire::LAYOUT_VERSION
    )]
    Unknown(PathBuf),
    /// Another process changed the pins at the same time.
    #[error("{} was removed while it was written to: try again", .0.display())]
    Contended(PathBuf),
}

impl PinError {
    /// Wraps an error of the system: `action` is the verb of the operation.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }

    /// Wraps an error of a pinned map.
    pub(super) fn map(path: &Path) -> impl Fn(MapError) -> Self {
        move |source| Self::Map { path: path.to_owned(), source: Box::new(source) }
    }
}
