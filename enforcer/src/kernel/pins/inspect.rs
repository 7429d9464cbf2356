//! Reading of the pinned state without changing it, for commands that find no agent.

use std::path::Path;

use aya::maps::MapError;
use enforcer_ebpf::wire::{NodeMode, Policy};

use enforcer_core::{
    index::RestoredFrom,
    model::kernel_ids::{BootNanos, CgroupId},
    plan::recover::RecoveredState,
};

use crate::kernel::{
    counters::{CounterMap, Counters},
    map_names::COUNTERS,
    pins::{
        PinError, Pins, node_mode,
        pin_store::live_generation,
        previous::{Previous, open_map},
    },
};

/// Pinned state of an agent that may have ended.
pub struct PinnedState {
    /// Owners and their claims in force.
    pub recalled: RecoveredState,
    /// Who filled the maps.
    pub restored_from: RestoredFrom,
    /// Policy of the programs.
    pub policy: Policy,
    /// Id of the cgroup that the programs are attached to.
    pub root_cgroup: CgroupId,
    /// End of the lease; `None` is never.
    pub lease_deadline: Option<BootNanos>,
    /// Mode that an operator set on the node.
    pub local: NodeMode,
    /// Counts of the programs.
    pub counters: Counters,
}

/// Reads what is pinned in a folder; `None` if no attached programs are pinned there.
///
/// # Errors
///
/// If another version of the agent left something there, or what is pinned cannot be read.
pub fn read_pinned(folder: &Path) -> Result<Option<PinnedState>, PinError> {
    let pins = Pins::new(folder);
    pins.check_layout()?;
    let Some(generation) = live_generation(&pins)? else {
        return Ok(None);
    };
    let live = Previous::open(&pins, &generation)?;
    let path = pins.map_pin(&pins.shared(), COUNTERS);
    let counters = CounterMap::new(open_map(&path)?);
    let unreadable = |error| PinError::Io { action: "read", path: path.clone(), source: std::io::Error::other(error) };
    let unreadable_map = |error: MapError| PinError::map(&generation)(error);
    let boot_restore = live.boot_restore().map_err(unreadable_map)?;
    Ok(Some(PinnedState {
        recalled: live.recover().map_err(unreadable_map)?,
        restored_from: if boot_restore.is_some() { RestoredFrom::BootState } else { RestoredFrom::Agent },
        policy: live.policy(),
        root_cgroup: live.root_cgroup(),
        lease_deadline: live.lease_deadline(),
        local: node_mode(folder)?,
        counters: counters.read().map_err(|error| unreadable(error.to_string()))?,
    }))
}
