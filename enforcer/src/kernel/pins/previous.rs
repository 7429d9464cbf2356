//! The generation that is live when an agent starts: what the agent before it left.

use std::{collections::BTreeMap, io, os::fd::AsFd as _, path::Path};

use aya::{
    Pod,
    maps::{HashMap, Map, MapData, MapError, RingBuf},
};
use enforcer_ebpf::wire::{
    self, AddressKey, AddressOwner, Config, OWNER_RECORD_BYTES, Owner, Policy, PortWord, Protocol, Slot,
};

use enforcer_core::plan::recover::{RecoveredState, recover};

use crate::kernel::{
    config_word, lease, link,
    mmap_array::MmapArray,
    owner_word,
    pins::{PinError, store::MAPS},
};

/// What the agent before this one left. Its programs judge until [`crate::kernel::Kernel::attach`], and what it holds stays
/// readable for as long as this lives.
pub struct Previous {
    /// Cgroups that came and went: what nobody has read yet, and what its programs still tell.
    pub cgroup_events: RingBuf<MapData>,
    /// Bind attempts, likewise.
    pub bind_events: RingBuf<MapData>,
    config: MmapArray,
    ports: MmapArray,
    owners: MmapArray,
    exact: HashMap<MapData, AddressKey, u64>,
    records: HashMap<MapData, u32, [u8; OWNER_RECORD_BYTES]>,
}

impl Previous {
    /// Opens the maps of a generation.
    pub(super) fn open(generation: &Path) -> Result<Self, PinError> {
        let maps = generation.join(MAPS);
        let words = |name, count| words(&maps.join(name), count);
        let config = words("CONFIG", size_of::<Config>() / 8)?;
        if config.load(config_word::LAYOUT) != u64::from(wire::LAYOUT_VERSION) {
            return Err(PinError::Unknown(generation.to_owned()));
        }
        Ok(Self {
            config,
            ports: words("PORTS", wire::PORT_COUNT as usize)?,
            owners: words("OWNERS", wire::MAX_OWNERS as usize * owner_word::COUNT)?,
            exact: typed(&maps.join("EXACT"))?,
            records: typed(&maps.join("RECORDS"))?,
            cgroup_events: typed(&maps.join("CGROUP_EVENTS"))?,
            bind_events: typed(&maps.join("BIND_EVENTS"))?,
        })
    }

    /// What its programs are told.
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy::from_word(self.config.load(config_word::POLICY))
    }

    /// The cgroup that they are attached to.
    pub(super) fn root_cgroup(&self) -> u64 {
        self.config.load(config_word::ROOT_CGROUP)
    }

    /// When they lapse: nanoseconds since boot; 0 is never.
    #[must_use]
    pub fn lease_deadline(&self) -> u64 {
        lease::from_word(self.config.load(config_word::LEASE_DEADLINE))
    }

    /// Waits until its programs have told all they will, when others were put in their place: one that was started before
    /// that may still run.
    ///
    /// # Errors
    ///
    /// If the kernel refuses what is waited with.
    pub fn wait_for_programs(&self) -> io::Result<()> {
        link::wait_for_programs()
    }

    /// What its maps hold. Nobody changes that any more, but for the cgroups of owners, which its programs still note.
    ///
    /// # Errors
    ///
    /// If a map cannot be read.
    pub fn recover(&self) -> Result<RecoveredState, MapError> {
        let records: BTreeMap<u32, [u8; OWNER_RECORD_BYTES]> = self.records.iter().collect::<Result<_, _>>()?;
        let exact: Vec<(AddressKey, u64)> = self.exact.iter().collect::<Result<_, _>>()?;
        let exact = exact.into_iter().filter_map(|(key, value)| Some((key, AddressOwner(value).slot(&key)?)));
        let owner = |slot: Slot| {
            let base = usize::from(slot) * owner_word::COUNT;
            Owner {
                cgroup: self.owners.load(base + owner_word::CGROUP),
                identity: self.owners.load(base + owner_word::IDENTITY),
                kinship: self.owners.load(base + owner_word::KINSHIP),
                level: self.owners.load(base + owner_word::LEVEL),
            }
        };
        let slots = (1..wire::MAX_OWNERS).filter_map(|slot| Slot::try_from(slot).ok());
        let ports = Protocol::ALL.into_iter().flat_map(|protocol| (1..=u16::MAX).map(move |port| (protocol, port)));
        let word = |protocol, port| PortWord(self.ports.load(wire::port_index(protocol, port) as usize));
        Ok(recover(
            slots.map(|slot| (slot, owner(slot))),
            |slot| records.get(&u32::from(slot)),
            ports.map(|(protocol, port)| (protocol, port, word(protocol, port))),
            exact,
        ))
    }
}

/// A pinned map.
pub(super) fn pinned(path: &Path) -> Result<MapData, PinError> {
    MapData::from_pin(path).map_err(failed(path))
}

/// A pinned array as words.
pub(super) fn words(path: &Path, count: usize) -> Result<MmapArray, PinError> {
    let map = pinned(path)?;
    MmapArray::map(map.fd().as_fd(), count).map_err(PinError::io("map into memory", path))
}

fn typed<M>(path: &Path) -> Result<M, PinError>
where
    M: TryFrom<Map, Error = MapError>,
{
    let map = Map::from_map_data(pinned(path)?).map_err(failed(path))?;
    M::try_from(map).map_err(failed(path))
}

/// The hash of records that is pinned there.
pub(super) fn pinned_hash<K: Pod, V: Pod>(path: &Path) -> Result<HashMap<MapData, K, V>, PinError> {
    typed(path)
}

pub(super) fn failed(path: &Path) -> impl Fn(MapError) -> PinError {
    move |source| PinError::Map { path: path.to_owned(), source: Box::new(source) }
}
