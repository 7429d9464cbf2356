//! The mode that an operator sets on the node: one word that outlives every agent, and can be set without one.

use std::{io, path::Path};

use aya::{
    maps::{Array, MapInfo, MapType},
    pin::PinError as AyaPinError,
};
use enforcer_ebpf::wire::NodeMode;

use crate::kernel::{
    map_names::NODE_MODE,
    mmap_array::MmapArray,
    pins::{PinError, Pins, make_folder, on_bpffs, previous::open_array},
};

/// `BPF_F_MMAPABLE` in include/uapi/linux/bpf.h.
const MMAPABLE: u32 = 1 << 10;

/// Attempts to set a mode whose map an ending agent removes at the same time.
const TRIES: u32 = 8;

/// Reads the mode that an operator set on this node, whether or not an agent runs.
///
/// # Errors
///
/// If another version of the agent left something there, or what is pinned cannot be read.
pub fn node_mode(folder: &Path) -> Result<NodeMode, PinError> {
    let pins = Pins::new(folder);
    pins.check_layout()?;
    Ok(open(&pins)?.map_or(NodeMode::Unset, |mode| mode.get()))
}

/// Sets the mode of this node, or clears it with [`NodeMode::Unset`]. Running programs obey at once, and so do those of
/// every later agent.
///
/// # Errors
///
/// If the folder is not on a BPF file system or cannot be written to, or another version of the agent left something
/// there.
pub fn set_node_mode(folder: &Path, mode: NodeMode) -> Result<(), PinError> {
    let pins = Pins::new(folder);
    pins.check_layout()?;
    if mode == NodeMode::Unset {
        if let Some(set) = open(&pins)? {
            set.set(mode);
        }
        return Ok(());
    }
    for _ in 0..TRIES {
        open_or_make(&pins)?.set(mode);
        // An agent without persistence removes the map at its end if no mode is set: it may have read it before this.
        if node_mode(folder)? == mode {
            return Ok(());
        }
    }
    Err(PinError::Contended(folder.to_owned()))
}

/// Sets the mode of this node after a reboot: unless one was set or cleared since then.
///
/// # Errors
///
/// As [`set_node_mode`].
pub fn recall_node_mode(folder: &Path, mode: NodeMode) -> Result<(), PinError> {
    let pins = Pins::new(folder);
    pins.check_layout()?;
    if mode == NodeMode::Unset || open(&pins)?.is_some() { Ok(()) } else { set_node_mode(folder, mode) }
}

/// Map of the mode.
pub(super) struct NodeModeMap(MmapArray);

impl NodeModeMap {
    pub(super) fn get(&self) -> NodeMode {
        NodeMode::from_word(self.0.load(0))
    }

    fn set(&self, mode: NodeMode) {
        self.0.store(0, mode.to_word());
    }
}

/// Opens the map, if it is pinned.
pub(super) fn open(pins: &Pins) -> Result<Option<NodeModeMap>, PinError> {
    let path = pins.map_pin(&pins.shared(), NODE_MODE);
    if !path.exists() {
        return Ok(None);
    }
    let info = MapInfo::from_pin(&path).map_err(PinError::map(&path))?;
    if !matches!(info.map_type(), Ok(MapType::Array)) || (info.value_size(), info.max_entries()) != (8, 1) {
        return Err(PinError::Unknown(path));
    }
    open_array(&path, 1).map(|array| Some(NodeModeMap(array)))
}

/// Opens the map; makes and pins it if it is not there.
pub(super) fn open_or_make(pins: &Pins) -> Result<NodeModeMap, PinError> {
    if let Some(mode) = open(pins)? {
        return Ok(mode);
    }
    if !on_bpffs(&pins.folder) {
        let source = io::Error::other("it is not on a BPF file system; mount one there, or name another folder");
        return Err(PinError::Io { action: "keep the mode in", path: pins.folder.clone(), source });
    }
    make_folder(&pins.shared())?;
    let path = pins.shared().join(NODE_MODE);
    let map: Array<_, u64> = Array::create(1, MMAPABLE).map_err(PinError::map(&path))?;
    match map.pin(&path) {
        // Another process was quicker.
        Err(AyaPinError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(AyaPinError::SyscallError(error)) => return Err(PinError::io("pin", &path)(error.io_error)),
        Err(error) => return Err(PinError::io("pin", &path)(io::Error::other(error))),
        Ok(()) => {}
    }
    open(pins)?.ok_or(PinError::Contended(path))
}
