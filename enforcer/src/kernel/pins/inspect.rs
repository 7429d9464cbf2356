//! What is pinned, read without changing anything: for those who ask where no agent answers.

use std::path::Path;

use aya::maps::{Map, MapError, PerCpuArray};
use enforcer_ebpf::wire::{NodeMode, Policy};

use enforcer_core::plan::recover::RecoveredState;

use crate::kernel::{
    CounterMap, Counters,
    pins::{
        PinError, Pins, node_mode,
        previous::{self, Previous},
        store::live_generation,
    },
};

/// What is pinned.
pub struct PinnedState {
    /// The owners and what they have in force.
    pub recalled: RecoveredState,
    /// What the programs are told.
    pub policy: Policy,
    /// Id of the cgroup that they are attached to.
    pub root_cgroup: u64,
    /// When they lapse: nanoseconds since boot; 0 is never.
    pub lease_deadline: u64,
    /// The mode that an operator set.
    pub local: NodeMode,
    /// What the programs counted.
    pub counters: Counters,
}

/// What is pinned in a folder; `None` if no programs judge by it.
///
/// # Errors
///
/// If another version of the agent left something there, or what is pinned cannot be read.
pub fn read_pinned(folder: &Path) -> Result<Option<PinnedState>, PinError> {
    let pins = Pins { folder: folder.to_owned() };
    pins.check_layout()?;
    let Some(generation) = live_generation(&pins)? else {
        return Ok(None);
    };
    let live = Previous::open(&generation)?;
    let path = pins.shared().join("COUNTERS");
    let failed = previous::failed(&path);
    let map = Map::from_map_data(previous::pinned(&path)?).map_err(&failed)?;
    let counters = CounterMap::new(PerCpuArray::try_from(map).map_err(&failed)?);
    let unreadable = |error| PinError::Io { action: "read", path: path.clone(), source: std::io::Error::other(error) };
    Ok(Some(PinnedState {
        recalled: live.recover().map_err(|error: MapError| previous::failed(&generation)(error))?,
        policy: live.policy(),
        root_cgroup: live.root_cgroup(),
        lease_deadline: live.lease_deadline(),
        local: node_mode(folder)?,
        counters: counters.read().map_err(|error| unreadable(error.to_string()))?,
    }))
}
