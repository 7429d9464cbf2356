//! Errors of the kernel side.

use std::{io, path::PathBuf};

use aya::{maps::MapError, programs::ProgramError};

use crate::kernel::{btf::BtfError, pins::error::PinError};

/// Error of the kernel side.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// The object could not be loaded, or one of its maps is not as expected.
    #[error("cannot load the BPF object: {0}")]
    Object(#[from] aya::EbpfError),
    /// The kernel refused a program.
    #[error("the kernel refused the program {program}: {source}")]
    Program {
        /// Name of the program.
        program: &'static str,
        /// Error of the kernel.
        source: Box<ProgramError>,
    },
    /// The kernel refused to attach a program.
    #[error("cannot attach the program {program}: {source}")]
    Attach {
        /// Name of the program.
        program: &'static str,
        /// Error of the kernel.
        source: io::Error,
    },
    /// A pin cannot be used.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// A map could not be opened, read or written.
    #[error("cannot {action} the map {map}: {source}")]
    Map {
        /// Verb of the operation that failed.
        action: &'static str,
        /// Name of the map.
        map: &'static str,
        /// Error of the kernel.
        source: Box<MapError>,
    },
    /// A map could not be mapped into memory.
    #[error("cannot map {map} into memory: {source}")]
    Mmap {
        /// Name of the map.
        map: &'static str,
        /// Error of the kernel.
        source: io::Error,
    },
    /// The cgroup could not be opened.
    #[error("cannot open the cgroup {}: {source}", path.display())]
    Cgroup {
        /// Directory of the cgroup.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// The kernel's type information could not be read.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// A map or program that the code expects is not in the object.
    #[error("the BPF object has no {0}: it was built from other sources than the agent")]
    Missing(&'static str),
}

impl BpfError {
    /// Wraps a map's error: `action` is the verb of the operation.
    pub(super) fn map(action: &'static str, map: &'static str) -> impl FnOnce(MapError) -> Self {
        move |source| Self::Map { action, map, source: Box::new(source) }
    }

    /// Wraps an error of mapping a map into memory.
    pub(super) fn mmap(map: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Mmap { map, source }
    }

    /// Wraps the error of loading a program.
    pub(super) fn program(program: &'static str) -> impl FnOnce(ProgramError) -> Self {
        move |source| Self::Program { program, source: Box::new(source) }
    }
}
