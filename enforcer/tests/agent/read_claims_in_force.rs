//! What the kernel's maps say: which claims are in force, and whose.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use aya::maps::{Array, HashMap as BpfHashMap, Map};
use enforcer::kernel::map_names::{ADDRESS_OWNERS, POD_UIDS};
use enforcer_ebpf::wire::{AddressKey, AddressOwner, PortWord, Protocol, Side, UidForm, UidKey, port_index};

use enforcer_testing::agent::Agent;

/// What of a port is claimed: one address family, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ClaimPart {
    AllV4,
    AllV6,
    One(IpAddr),
}

/// Claims in force: by port and part the owner, as its UID is written in the API.
pub(crate) type ClaimsInForce = BTreeMap<(Protocol, u16, ClaimPart), String>;

/// Reads everything that the agent has written of claims; an error if it does not fit together, as may be while the
/// agent writes.
pub(crate) fn claims_in_force(agent: &Agent) -> Result<ClaimsInForce, String> {
    let ports = Array::<_, u64>::try_from(Map::Array(agent.map("PORTS"))).expect("ports");
    let exact = BpfHashMap::<_, AddressKey, u64>::try_from(Map::HashMap(agent.map(ADDRESS_OWNERS))).expect("addresses");
    let uids = BpfHashMap::<_, UidKey, u64>::try_from(Map::HashMap(agent.map(POD_UIDS))).expect("UIDs");
    let owners: HashMap<u64, String> =
        uids.iter().filter_map(Result::ok).map(|(key, slot)| (slot, uid_text(&key))).collect();
    let owner = |slot: u16| owners.get(&slot.into()).cloned().ok_or_else(|| format!("slot {slot} is no pod's"));
    let mut held = ClaimsInForce::new();
    let mut single: BTreeMap<(Protocol, u16, bool), BTreeSet<u16>> = BTreeMap::new();
    for (key, value) in exact.iter().filter_map(Result::ok) {
        let slot = AddressOwner(value).slot(&key).ok_or("a value of another key")?;
        let protocol = Protocol::from_wire(key.protocol).ok_or("no protocol")?;
        let [a, b, c, d, ..] = key.address;
        let v6 = key.family == 6;
        let address = if v6 { Ipv6Addr::from(key.address).into() } else { Ipv4Addr::new(a, b, c, d).into() };
        single.entry((protocol, key.port, v6)).or_default().insert(slot);
        held.insert((protocol, key.port, ClaimPart::One(address)), owner(slot)?);
    }
    for protocol in Protocol::ALL {
        for port in 0..=u16::MAX {
            let word = PortWord(ports.get(&port_index(protocol, port), 0).expect("a port"));
            for (side, v6) in [(word.v4(), false), (word.v6(), true)] {
                let found = single.remove(&(protocol, port, v6)).unwrap_or_default();
                if !fits(side, &found) {
                    return Err(format!("port {port} of {protocol:?}: {side:?} for the addresses of {found:?}"));
                }
                if side.whole {
                    held.insert(
                        (protocol, port, if v6 { ClaimPart::AllV6 } else { ClaimPart::AllV4 }),
                        owner(side.first)?,
                    );
                }
            }
        }
    }
    Ok(held)
}

/// Whether a side says what it must of the owners of single addresses, none of which share.
fn fits(side: Side, single: &BTreeSet<u16>) -> bool {
    let pair: BTreeSet<u16> = [side.first, side.second].into_iter().filter(|slot| *slot != 0).collect();
    if side.whole {
        single.is_empty() && side.first != 0 && side.second == 0
    } else {
        pair.is_subset(single) && pair.len() == single.len().min(2)
    }
}

/// A UID as objects have it.
fn uid_text(key: &UidKey) -> String {
    let hex = format!("{:032x}", u128::from_be_bytes(key.uid));
    if key.form == UidForm::Static as u8 {
        return hex;
    }
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}
