//! State that the last agent left behind: from the contents of the kernel's maps to the owners and their claims in force.
//!
//! The maps may stem from an agent that died between any two steps. They are read as the programs read them: an address
//! in `ADDRESS_OWNERS` counts only where the port's word sends a bind to look for it.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use enforcer_ebpf::wire::{self, AddressKey, CGROUP_UNKNOWN, PortWord, Protocol, Slot};

use crate::{
    model::{
        kernel_ids::CgroupId,
        owner::OwnerId,
        port_spec::{Address, PortSpec, compress},
    },
    plan::owner_record::{OwnerRecord, OwnerRecordError},
};

/// An owner that the last agent knew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredOwner {
    /// Its id. The kernel's events that nobody has read yet carry it.
    pub id: OwnerId,
    /// Its pod's cgroup and the level of that, as the kernel has them; `None` if there never was one.
    pub cgroup: Option<(CgroupId, u8)>,
    /// Its record.
    pub record: OwnerRecord,
    /// Its claims in force.
    pub claims: Vec<PortSpec>,
}

/// Owner that cannot be restored: its claims end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableOwner {
    /// Its id.
    pub id: OwnerId,
    /// Its claims in force.
    pub claims: Vec<PortSpec>,
    /// The error of its record; `None` if there is none.
    pub why: Option<OwnerRecordError>,
}

/// Contents of the maps.
#[derive(Debug, Default)]
pub struct RecoveredState {
    /// The owners, in the order of their slots: of several members of a share group, the kernel names the first one.
    pub owners: Vec<RecoveredOwner>,
    /// Owners of whom too little is known. Those that have nothing in force are left out: nothing is lost with them.
    pub unreadable: Vec<UnreadableOwner>,
}

/// Reads the contents of `OWNERS`, `OWNER_RECORDS`, `PORTS` and `ADDRESS_OWNERS`. Free slots and unclaimed ports may be
/// left out. The slots in `exact` are those of `wire::AddressOwner`.
pub fn recover<B: AsRef<[u8]>>(
    owners: impl IntoIterator<Item = (Slot, wire::Owner)>,
    record: impl Fn(Slot) -> Option<B>,
    ports: impl IntoIterator<Item = (Protocol, u16, PortWord)>,
    exact: impl IntoIterator<Item = (AddressKey, Slot)>,
) -> RecoveredState {
    let mut claims = in_force(ports, exact);
    let owners: BTreeMap<Slot, (OwnerId, wire::Owner)> =
        owners.into_iter().filter_map(|(slot, owner)| Some((slot, (OwnerId::new(owner.id())?, owner)))).collect();
    let mut recalled = RecoveredState::default();
    for (slot, (id, owner)) in owners {
        let claims = claims.remove(&slot).unwrap_or_default();
        match record(slot).map(|bytes| OwnerRecord::decode(bytes.as_ref())) {
            Some(Ok(record)) => {
                recalled.owners.push(RecoveredOwner { id, cgroup: cgroup(&owner), record, claims });
            }
            Some(Err(_)) | None if claims.is_empty() => {}
            Some(Err(why)) => recalled.unreadable.push(UnreadableOwner { id, claims, why: Some(why) }),
            None => recalled.unreadable.push(UnreadableOwner { id, claims, why: None }),
        }
    }
    recalled
}

/// Returns the element's cgroup. `cgroup_mkdir` may have put it there while no agent was looking.
fn cgroup(owner: &wire::Owner) -> Option<(CgroupId, u8)> {
    let level = u8::try_from(owner.level).ok().filter(|level| *level != 0)?;
    let cgroup = CgroupId::from_wire(owner.cgroup).filter(|cgroup| cgroup.get() != CGROUP_UNKNOWN)?;
    Some((cgroup, level))
}

/// Returns the claims in force by slot. Where several members of a share group claim a port, or several addresses are
/// covered by one claim, they are one claim of one member here, as in the maps.
fn in_force(
    ports: impl IntoIterator<Item = (Protocol, u16, PortWord)>,
    exact: impl IntoIterator<Item = (AddressKey, Slot)>,
) -> HashMap<Slot, Vec<PortSpec>> {
    let mut found: BTreeMap<(Slot, Protocol, Address), Vec<u16>> = BTreeMap::new();
    let mut words = HashMap::new();
    for (protocol, port, word) in ports {
        if word == PortWord::UNCLAIMED {
            continue;
        }
        words.insert((protocol, port), word);
        let mut claim = |slot, address| found.entry((slot, protocol, address)).or_default().push(port);
        let (v4, v6) = (word.v4(), word.v6());
        if v6.whole {
            // No claim takes all of IPv6 and leaves IPv4 out. What it says of IPv4 another member of the group may say
            // too.
            claim(v6.first, Address::Any);
        }
        if v4.whole && !(v6.whole && v6.first == v4.first) {
            claim(v4.first, Address::V4(Ipv4Addr::UNSPECIFIED));
        }
    }
    for (key, slot) in exact {
        let word = Protocol::from_wire(key.protocol).and_then(|protocol| words.get(&(protocol, key.port)));
        let (Some(protocol), Some(word), Some(address)) = (Protocol::from_wire(key.protocol), word, address(&key))
        else {
            continue;
        };
        let side = if key.family == 4 { word.v4() } else { word.v6() };
        if side.first != 0 && !side.whole {
            found.entry((slot, protocol, address)).or_default().push(key.port);
        }
    }
    let mut claims: HashMap<Slot, Vec<PortSpec>> = HashMap::new();
    for ((slot, protocol, address), ports) in found {
        let specs = compress(ports).into_iter().map(|ports| PortSpec { protocol, address, ports });
        claims.entry(slot).or_default().extend(specs);
    }
    claims
}

fn address(key: &AddressKey) -> Option<Address> {
    match key.family {
        4 => {
            let [a, b, c, d, ..] = key.address;
            Some(Address::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d))))
        }
        6 => Some(Address::new(IpAddr::V6(Ipv6Addr::from(key.address)))),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
