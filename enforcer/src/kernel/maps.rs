//! Handles of the maps that the agent writes, and the writing of planned changes.

use std::{io, os::fd::AsFd as _};

use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, MapError},
};
use enforcer_core::{
    model::kernel_ids::{BootNanos, CgroupId},
    plan::{boot_mark, port_state::Change},
};
use enforcer_ebpf::wire::{
    self, AddressKey, AddressOwner, CgroupIdentity, IN_TABLE, NodeMode, OWNER_RECORD_BYTES, Owner, Policy, PortHold,
    PortHolds, Protocol, Slot, SoleHold, UidKey,
};

use crate::kernel::{
    counters::CounterMap,
    error::BpfError,
    lease_deadline,
    loader::LoadOptions,
    map_names::{
        ADDRESS_OWNERS, CONFIG, COUNTERS, NODE_MODE, OWNER_RECORDS, OWNERS, POD_CGROUPS, POD_UIDS, PORT_HOLDERS,
        PORT_HOLDS, PORT_OWNERS, SHARED_PORTS, SOLE_HOLDS,
    },
    mmap_array::{LazyMmapArray, MmapArray},
    word_indexes::{config_word, owner_word, port_holder_word},
};

/// Levels below the root at which the kubelet puts pods: its children (guaranteed pods) and grandchildren (the others).
const USUAL_POD_LEVELS: u64 = 1 << 1 | 1 << 2;

/// Records of owners for the next agent, by slot.
pub(super) type OwnerRecords = HashMap<MapData, u32, [u8; OWNER_RECORD_BYTES]>;

/// The maps of this agent's generation, and those that all generations share.
pub(super) struct Maps {
    config: MmapArray,
    ports: LazyMmapArray,
    owners: LazyMmapArray,
    address_owners: HashMap<MapData, AddressKey, u64>,
    pod_uids: HashMap<MapData, UidKey, u64>,
    pod_cgroups: HashMap<MapData, u64, u64>,
    counters: CounterMap,
    node_mode: MmapArray,
    port_holds: HashMap<MapData, u32, PortHolds>,
    sole_holds: Array<MapData, SoleHold>,
    port_holders: LazyMmapArray,
    /// `None` where nothing is pinned.
    records: Option<OwnerRecords>,
}

impl Maps {
    /// Takes the maps out of the loaded object.
    pub(super) fn take(ebpf: &mut Ebpf, records: Option<OwnerRecords>) -> Result<Self, BpfError> {
        Ok(Self {
            config: mmap_array(ebpf, CONFIG, config_word::COUNT)?,
            ports: lazy_mmap_array(ebpf, PORT_OWNERS, wire::PORT_COUNT as usize)?,
            owners: lazy_mmap_array(ebpf, OWNERS, wire::MAX_OWNERS as usize * owner_word::COUNT)?,
            address_owners: take_map(ebpf, ADDRESS_OWNERS)?,
            pod_uids: take_map(ebpf, POD_UIDS)?,
            pod_cgroups: take_map(ebpf, POD_CGROUPS)?,
            counters: CounterMap::new(take_map(ebpf, COUNTERS)?),
            node_mode: mmap_array(ebpf, NODE_MODE, 1)?,
            port_holds: take_map(ebpf, PORT_HOLDS)?,
            sole_holds: take_map(ebpf, SOLE_HOLDS)?,
            port_holders: lazy_mmap_array(
                ebpf,
                PORT_HOLDERS,
                wire::ENFORCED_PORT_COUNT as usize * port_holder_word::COUNT,
            )?,
            records,
        })
    }

    /// Writes the configuration of the programs.
    pub(super) fn write_config(&self, options: &LoadOptions) {
        let LoadOptions { cgroup: _, cgroup_id, cgroup_level, netns_cookie, policy, lease_deadline, .. } = options;
        self.config.store(config_word::LAYOUT, u64::from(wire::LAYOUT_VERSION));
        self.set_policy(*policy);
        self.config.store(config_word::ROOT_CGROUP, cgroup_id.get());
        self.config.store(config_word::ROOT_LEVEL, cgroup_level.unwrap_or(wire::ROOT_LEVEL_UNKNOWN));
        self.config.store(config_word::POD_LEVELS, USUAL_POD_LEVELS);
        self.config.store(config_word::NETNS_COOKIE, netns_cookie.unwrap_or(0));
        self.set_lease_deadline(*lease_deadline);
    }

    pub(super) fn set_policy(&self, policy: Policy) {
        self.config.store(config_word::POLICY, policy.to_word());
    }

    pub(super) fn policy(&self) -> Policy {
        Policy::from_word(self.config.load(config_word::POLICY))
    }

    /// Sets the end of the lease; `None` is never.
    pub(super) fn set_lease_deadline(&self, deadline: Option<BootNanos>) {
        self.config.store(config_word::LEASE_DEADLINE, lease_deadline::to_word(deadline));
    }

    /// Returns the end of the lease; `None` is never.
    pub(super) fn lease_deadline(&self) -> Option<BootNanos> {
        lease_deadline::from_word(self.config.load(config_word::LEASE_DEADLINE))
    }

    pub(super) fn root_level(&self) -> Option<u64> {
        let level = self.config.load(config_word::ROOT_LEVEL);
        (level != wire::ROOT_LEVEL_UNKNOWN).then_some(level)
    }

    pub(super) fn node_mode(&self) -> NodeMode {
        NodeMode::from_word(self.node_mode.load(0))
    }

    pub(super) fn counters(&self) -> &CounterMap {
        &self.counters
    }

    /// Returns whether there are records for the next agent.
    pub(super) fn has_records(&self) -> bool {
        self.records.is_some()
    }

    /// Notes in the records that the maps were filled from a boot state.
    pub(super) fn mark_boot_restore(&mut self, at: BootNanos) -> Result<(), BpfError> {
        match &mut self.records {
            Some(records) => records
                .insert(boot_mark::SLOT, *boot_mark::encode(at), 0)
                .map_err(BpfError::map("write", OWNER_RECORDS)),
            None => Ok(()),
        }
    }

    /// Writes one planned change.
    pub(super) fn apply(&mut self, change: &Change) -> Result<(), BpfError> {
        match *change {
            Change::OwnerRecord { slot, ref bytes } => match &mut self.records {
                Some(records) => {
                    records.insert(u32::from(slot), **bytes, 0).map_err(BpfError::map("write", OWNER_RECORDS))
                }
                None => Ok(()),
            },
            Change::OwnerRecordGone { slot } => match &mut self.records {
                Some(records) => removed(records.remove(&u32::from(slot)), OWNER_RECORDS),
                None => Ok(()),
            },
            Change::Port { protocol, port, word } => {
                let index = wire::port_index(protocol, port) as usize;
                self.ports.store(index, word.0).map_err(BpfError::mmap(PORT_OWNERS))
            }
            Change::Owner { slot, owner } => self.write_owner(slot, &owner).map_err(BpfError::mmap(OWNERS)),
            Change::AddressOwner { key, slot } => {
                let value = AddressOwner::new(slot, &key).0;
                self.address_owners.insert(key, value, 0).map_err(BpfError::map("write", ADDRESS_OWNERS))
            }
            Change::AddressOwnerGone { key } => removed(self.address_owners.remove(&key), ADDRESS_OWNERS),
            Change::Uid { key, slot } => {
                self.pod_uids.insert(key, u64::from(slot), 0).map_err(BpfError::map("write", POD_UIDS))
            }
            Change::UidGone { key } => removed(self.pod_uids.remove(&key), POD_UIDS),
            Change::Cgroup { id, level, slot, form } => {
                self.add_pod_level(level);
                let value = CgroupIdentity::new(id.get(), slot, form).0;
                self.pod_cgroups.insert(id.get(), value, 0).map_err(BpfError::map("write", POD_CGROUPS))
            }
            Change::CgroupGone { id } => removed(self.pod_cgroups.remove(&id.get()), POD_CGROUPS),
            Change::CgroupInPod { id, slot } => {
                removed(self.pod_cgroups.remove(&id.get()), POD_CGROUPS)?;
                if slot == 0 { Ok(()) } else { self.clear_owner_cgroup(slot, id).map_err(BpfError::mmap(OWNERS)) }
            }
        }
    }

    fn write_owner(&self, slot: Slot, owner: &Owner) -> io::Result<()> {
        let base = usize::from(slot) * owner_word::COUNT;
        let free = owner.id() == 0;
        self.owners.store(base + owner_word::KINSHIP, owner.kinship)?;
        // `cgroup_mkdir` may have written the cgroup before the agent learned of it: an unknown one is not overwritten.
        if free || owner.cgroup != wire::CGROUP_UNKNOWN {
            self.owners.store(base + owner_word::LEVEL, owner.level)?;
            self.owners.store(base + owner_word::CGROUP, owner.cgroup)?;
        }
        self.owners.store(base + owner_word::IDENTITY, owner.identity)
    }

    /// Makes an owner's cgroup unknown if it is this one. If the right one is written at the same moment, the owner is
    /// recognised the long way.
    fn clear_owner_cgroup(&self, slot: Slot, cgroup: CgroupId) -> io::Result<()> {
        let base = usize::from(slot) * owner_word::COUNT;
        if self.owners.load(base + owner_word::CGROUP)? == cgroup.get() {
            self.owners.store(base + owner_word::LEVEL, 0)?;
            self.owners.store(base + owner_word::CGROUP, wire::CGROUP_UNKNOWN)?;
        }
        Ok(())
    }

    fn add_pod_level(&self, level: u8) {
        let bit = 1u64 << (level & 63);
        let levels = self.config.load(config_word::POD_LEVELS);
        if levels & bit == 0 {
            self.config.store(config_word::POD_LEVELS, levels | bit);
        }
    }

    /// Sets [`wire::PortHolder::holder`] of a port. Nothing where the protocol is not enforced.
    pub(super) fn set_port_holder(&self, protocol: Protocol, port: u16, holder: u64) -> Result<(), BpfError> {
        match port_holder_index(protocol, port) {
            Some(index) => {
                self.port_holders.change(index + port_holder_word::HOLDER, holder).map_err(BpfError::mmap(PORT_HOLDERS))
            }
            None => Ok(()),
        }
    }

    /// Returns [`wire::PortHolder::holder`] of a port; 0 where the protocol is not enforced.
    pub(super) fn port_holder(&self, protocol: Protocol, port: u16) -> Result<u64, BpfError> {
        match port_holder_index(protocol, port) {
            Some(index) => {
                self.port_holders.load(index + port_holder_word::HOLDER).map_err(BpfError::mmap(PORT_HOLDERS))
            }
            None => Ok(0),
        }
    }

    /// Returns the ports that have a [`wire::PortHolder::holder`].
    pub(super) fn held_ports(&self) -> Result<Vec<(Protocol, u16)>, BpfError> {
        let words = self.port_holders.load_all().map_err(BpfError::mmap(PORT_HOLDERS))?;
        let mut ports = Vec::new();
        for protocol in Protocol::ENFORCED {
            for port in 0..=u16::MAX {
                let index = wire::port_index(protocol, port) as usize * port_holder_word::COUNT;
                if words[index + port_holder_word::HOLDER] != 0 {
                    ports.push((protocol, port));
                }
            }
        }
        Ok(ports)
    }

    /// Checks whether a bind named this very port ([`wire::PortHolder::asked`]).
    pub(super) fn was_named(&self, protocol: Protocol, port: u16) -> Result<bool, BpfError> {
        match port_holder_index(protocol, port) {
            Some(index) => {
                let asked = self.port_holders.load(index + port_holder_word::ASKED);
                asked.map(|asked| asked != 0).map_err(BpfError::mmap(PORT_HOLDERS))
            }
            None => Ok(false),
        }
    }

    /// Lets sockets take sole holds. To be called when no program of an earlier agent runs any more: programs that know
    /// no sole holds put holds into the table of ports that are not marked.
    pub(super) fn allow_sole_holds(&mut self) -> Result<(), BpfError> {
        /// Writes under the element's lock (include/uapi/linux/bpf.h).
        const BPF_F_LOCK: u64 = 4;
        for port in self.port_holds.keys() {
            let port = port.map_err(BpfError::map("read", PORT_HOLDS))?;
            let hold = self.sole_holds.get(&port, 0).map_err(BpfError::map("read", SOLE_HOLDS))?;
            // A port with a sole hold and holds in the table is marked, by the programs that made the first.
            if hold.socket == 0 {
                let in_table = SoleHold { socket: IN_TABLE, ..SoleHold::default() };
                self.sole_holds.set(port, in_table, BPF_F_LOCK).map_err(BpfError::map("write", SOLE_HOLDS))?;
            }
        }
        self.config.store(config_word::SOLE_HOLDS, 1);
        Ok(())
    }

    /// Returns the sole hold of a port, by [`wire::port_index`].
    pub(super) fn sole_hold(&self, port: u32) -> Result<SoleHold, BpfError> {
        self.sole_holds.get(&port, 0).map_err(BpfError::map("read", SOLE_HOLDS))
    }

    /// Returns the holds of all ports that have any, by [`wire::port_index`].
    pub(super) fn port_holds(&self) -> Result<Vec<(u32, Vec<PortHold>)>, BpfError> {
        let mut ports = Vec::new();
        for (port, sole) in (0..).zip(self.sole_holds.iter()) {
            let SoleHold { extent, holder, address, .. } = sole.map_err(BpfError::map("read", SOLE_HOLDS))?;
            if extent != 0 {
                ports.push((port, vec![PortHold { holder, address, extent, count: 1 }]));
            }
        }
        for entry in &self.port_holds {
            let (port, PortHolds { holds, .. }) = entry.map_err(BpfError::map("read", PORT_HOLDS))?;
            let holds: Vec<_> = holds.into_iter().filter(|hold| hold.holder != 0).collect();
            if !holds.is_empty() {
                ports.push((port, holds));
            }
        }
        Ok(ports)
    }
}

/// Returns the index of the first word of a port's [`wire::PortHolder`]; `None` where the protocol is not enforced.
fn port_holder_index(protocol: Protocol, port: u16) -> Option<usize> {
    let index = wire::port_index(protocol, port) as usize;
    protocol.is_enforced().then_some(index * port_holder_word::COUNT)
}

/// Writes the ports that everybody may share, by [`wire::port_index`].
pub(super) fn write_shared_ports(ebpf: &mut Ebpf, ports: &[u32]) -> Result<(), BpfError> {
    let shared = mmap_array(ebpf, SHARED_PORTS, wire::SHARED_PORT_WORDS as usize)?;
    for index in ports {
        let (word, bit) = (*index as usize / 64, index % 64);
        shared.store(word, shared.load(word) | 1 << bit);
    }
    Ok(())
}

/// Takes a map out of the object.
pub(super) fn take_map<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, BpfError>
where
    M: TryFrom<Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or(BpfError::Missing(name))?;
    M::try_from(map).map_err(BpfError::map("use", name))
}

pub(super) fn take_array(ebpf: &mut Ebpf, name: &'static str) -> Result<MapData, BpfError> {
    match ebpf.take_map(name) {
        Some(Map::Array(data)) => Ok(data),
        _ => Err(BpfError::Missing(name)),
    }
}

fn mmap_array(ebpf: &mut Ebpf, name: &'static str, count: usize) -> Result<MmapArray, BpfError> {
    MmapArray::map(take_array(ebpf, name)?.fd().as_fd(), count).map_err(BpfError::mmap(name))
}

fn lazy_mmap_array(ebpf: &mut Ebpf, name: &'static str, count: usize) -> Result<LazyMmapArray, BpfError> {
    let map = take_array(ebpf, name)?.fd().as_fd().try_clone_to_owned().map_err(BpfError::mmap(name))?;
    Ok(LazyMmapArray::new(map, count))
}

/// Accepts that a key is gone already: the kernel removed it (`cgroup_rmdir`), as was wanted.
fn removed(result: Result<(), MapError>, map: &'static str) -> Result<(), BpfError> {
    match result {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(BpfError::map("remove from", map)(source)),
    }
}
