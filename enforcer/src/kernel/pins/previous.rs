//! The generation that is live when an agent starts: the maps of the previous agent.

use std::{collections::BTreeMap, io, os::fd::AsFd as _, path::Path};

use aya::maps::{HashMap, Map, MapData, MapError, RingBuf};
use enforcer_ebpf::wire::{
    self, AddressKey, AddressOwner, OWNER_RECORD_BYTES, Owner, Policy, PortWord, Protocol, Slot,
};

use enforcer_core::{
    model::kernel_ids::{BootNanos, CgroupId},
    plan::{
        boot_mark,
        recover::{RecoveredState, recover},
    },
};

use crate::kernel::{
    grace_period, lease_deadline,
    map_names::{ADDRESS_OWNERS, CGROUP_RING, CONFIG, OWNER_RECORDS, OWNERS, PORT_OWNERS, VERDICT_RING},
    mmap_array::MmapArray,
    pins::{PinError, Pins, pin_store::MAPS},
    word_indexes::{config_word, owner_word},
};

/// Maps of the previous agent. Its programs judge until [`crate::kernel::Kernel::attach`], and the maps stay readable for
/// as long as this lives.
pub struct Previous {
    /// Ring of cgroups: the records that nobody has read yet, and those that its programs still write.
    pub cgroup_events: RingBuf<MapData>,
    /// Ring of judged binds, likewise.
    pub bind_events: RingBuf<MapData>,
    config: MmapArray,
    ports: MmapArray,
    owners: MmapArray,
    address_owners: HashMap<MapData, AddressKey, u64>,
    records: HashMap<MapData, u32, [u8; OWNER_RECORD_BYTES]>,
}

impl Previous {
    /// Opens the maps of a generation.
    pub(super) fn open(pins: &Pins, generation: &Path) -> Result<Self, PinError> {
        let maps = generation.join(MAPS);
        let pin = |name| pins.map_pin(&maps, name);
        let config = open_array(&pin(CONFIG), config_word::COUNT)?;
        if config.load(config_word::LAYOUT) != u64::from(wire::LAYOUT_VERSION) {
            return Err(PinError::Unknown(generation.to_owned()));
        }
        Ok(Self {
            config,
            ports: open_array(&pin(PORT_OWNERS), wire::PORT_COUNT as usize)?,
            owners: open_array(&pin(OWNERS), wire::MAX_OWNERS as usize * owner_word::COUNT)?,
            address_owners: open_map(&pin(ADDRESS_OWNERS))?,
            records: open_map(&pin(OWNER_RECORDS))?,
            cgroup_events: open_map(&pin(CGROUP_RING))?,
            bind_events: open_map(&pin(VERDICT_RING))?,
        })
    }

    /// Returns the policy of its programs.
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy::from_word(self.config.load(config_word::POLICY))
    }

    /// Returns the id of the cgroup that its programs are attached to.
    pub(super) fn root_cgroup(&self) -> CgroupId {
        CgroupId::new(self.config.load(config_word::ROOT_CGROUP))
    }

    /// Returns the end of its lease; `None` is never.
    #[must_use]
    pub fn lease_deadline(&self) -> Option<BootNanos> {
        lease_deadline::from_word(self.config.load(config_word::LEASE_DEADLINE))
    }

    /// Returns when its maps were filled from a boot state; `None` if an agent filled them.
    ///
    /// # Errors
    ///
    /// If the map of records cannot be read.
    pub fn boot_restore(&self) -> Result<Option<BootNanos>, MapError> {
        match self.records.get(&boot_mark::SLOT, 0) {
            Ok(bytes) => Ok(boot_mark::decode(&bytes)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Waits until its programs have written their last record, after they were replaced: one that was started before
    /// that may still run.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the maps that the wait needs.
    pub fn wait_for_programs(&self) -> io::Result<()> {
        grace_period::wait_for_programs()
    }

    /// Reads its maps. Nobody changes them any more, but for the cgroups of owners, which its programs still write.
    ///
    /// # Errors
    ///
    /// If a map cannot be read.
    pub fn recover(&self) -> Result<RecoveredState, MapError> {
        let records: BTreeMap<u32, [u8; OWNER_RECORD_BYTES]> = self.records.iter().collect::<Result<_, _>>()?;
        let addresses: Vec<(AddressKey, u64)> = self.address_owners.iter().collect::<Result<_, _>>()?;
        let addresses = addresses.into_iter().filter_map(|(key, value)| Some((key, AddressOwner(value).slot(&key)?)));
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
            addresses,
        ))
    }
}

/// Opens a pinned array as words.
pub(super) fn open_array(path: &Path, count: usize) -> Result<MmapArray, PinError> {
    let map = MapData::from_pin(path).map_err(PinError::map(path))?;
    MmapArray::map(map.fd().as_fd(), count).map_err(PinError::io("map into memory", path))
}

/// Opens a pinned map.
pub(super) fn open_map<M>(path: &Path) -> Result<M, PinError>
where
    M: TryFrom<Map, Error = MapError>,
{
    let map = MapData::from_pin(path).and_then(Map::from_map_data).map_err(PinError::map(path))?;
    M::try_from(map).map_err(PinError::map(path))
}
