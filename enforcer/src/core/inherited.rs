//! What an earlier agent left in the kernel's maps, read back: the other way round than [`super::plan`].

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use enforcer_ebpf::abi::{ExactKey, FAMILY_V4, FAMILY_V6, Owner, PortWord, Protocol, Record, Side, Slot, UidKey};

use crate::core::address::{Address, PortRange};

/// All that an earlier agent left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inherited {
    /// Id of the cgroup below which it judged. The levels and cgroups of owners mean something only below the same one.
    pub root_cgroup: u64,
    /// The owners by slot, without those that are free.
    pub owners: BTreeMap<Slot, InheritedOwner>,
    /// Which owner each pod UID was.
    pub uids: BTreeMap<UidKey, Slot>,
    /// The claims that were in force.
    pub claims: Vec<InheritedClaim>,
}

/// An owner of an earlier agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InheritedOwner {
    /// What the programs knew of it.
    pub owner: Owner,
    /// What the agent wrote down of it, if it did.
    pub record: Option<Record>,
}

/// A claim that was in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InheritedClaim {
    /// The protocol.
    pub protocol: Protocol,
    /// The address. `0.0.0.0` and `::` are one family's side alone here: claims on both sides of a port are told as
    /// [`Address::Any`] if they are one owner's.
    pub address: Address,
    /// The slot of its owner, which may be one of the free ones if the agent was stopped between two changes.
    pub slot: Slot,
    /// Neighbouring ports are told together.
    pub ports: PortRange,
}

/// The claims in force that the words of `PORTS` and the elements of `EXACT` make up.
#[must_use]
pub fn claims_in(
    word: impl Fn(Protocol, u16) -> PortWord,
    exact: impl IntoIterator<Item = (ExactKey, Slot)>,
) -> Vec<InheritedClaim> {
    let mut single = Vec::new();
    for protocol in Protocol::ALL {
        for port in 1..=u16::MAX {
            let word = word(protocol, port);
            let whole = |side: Side| if side.whole { side.first } else { 0 };
            match (whole(word.v4()), whole(word.v6())) {
                (0, 0) => {}
                (v4, v6) if v4 == v6 => single.push((protocol, Address::Any, v4, port)),
                (v4, v6) => {
                    single.push((protocol, Address::V4(Ipv4Addr::UNSPECIFIED), v4, port));
                    single.push((protocol, Address::V6(Ipv6Addr::UNSPECIFIED), v6, port));
                }
            }
        }
    }
    for (key, slot) in exact {
        let Some((protocol, address)) = protocol_and_address(&key) else {
            continue;
        };
        let word = word(protocol, key.port);
        let side = if key.family == FAMILY_V4 { word.v4() } else { word.v6() };
        // As the programs do: an element counts only while the word sends a bind to look for it. Another one was being
        // written or removed when its agent was stopped.
        if side.first != 0 && !side.whole {
            single.push((protocol, address, slot, key.port));
        }
    }
    single.retain(|(_, _, slot, _)| *slot != 0);
    single.sort_unstable();
    merge(&single)
}

fn protocol_and_address(key: &ExactKey) -> Option<(Protocol, Address)> {
    let [a, b, c, d, ..] = key.address;
    let address = match key.family {
        FAMILY_V4 => Address::V4([a, b, c, d].into()),
        FAMILY_V6 => Address::V6(key.address.into()),
        _ => return None,
    };
    Some((Protocol::from_wire(key.protocol)?, address))
}

/// Neighbours of a sorted list told together.
fn merge(single: &[(Protocol, Address, Slot, u16)]) -> Vec<InheritedClaim> {
    let runs = single.chunk_by(|one, next| {
        (one.0, one.1, one.2) == (next.0, next.1, next.2) && one.3.checked_add(1) == Some(next.3)
    });
    let claims = runs.filter_map(|run| {
        let (&(protocol, address, slot, first), &(.., last)) = (run.first()?, run.last()?);
        Some(InheritedClaim { protocol, address, slot, ports: PortRange::new(first, last).ok()? })
    });
    claims.collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::core::{
        arbiter::Entity,
        plan::{InForce, PortState},
    };

    fn range(first: u16, last: u16) -> PortRange {
        PortRange::new(first, last).expect("a range")
    }

    #[test]
    fn claims_of_every_kind() {
        let whole = |first| Side { first, second: 0, whole: true };
        let some = |first, second| Side { first, second, whole: false };
        let none = Side::default();
        let words = BTreeMap::from([
            ((Protocol::Tcp, 80), PortWord::new(whole(3), whole(3))),
            ((Protocol::Tcp, 81), PortWord::new(whole(3), whole(3))),
            ((Protocol::Tcp, 82), PortWord::new(whole(4), whole(4))),
            ((Protocol::Udp, 80), PortWord::new(whole(3), none)),
            ((Protocol::Udp, 81), PortWord::new(whole(3), whole(4))),
            ((Protocol::Tcp, 65535), PortWord::new(some(5, 6), none)),
            ((Protocol::Sctp, 1), PortWord::new(none, some(7, 0))),
            ((Protocol::Sctp, 2), PortWord::new(none, whole(7))),
        ]);
        let a = [192, 0, 2, 1];
        let b = [192, 0, 2, 2];
        let c = Ipv6Addr::LOCALHOST;
        let exact = [
            (ExactKey::v4(Protocol::Tcp, 65535, a), 5),
            (ExactKey::v4(Protocol::Tcp, 65535, b), 6),
            (ExactKey::v6(Protocol::Sctp, 1, c.octets()), 7),
            // Left from before, or not yet in force.
            (ExactKey::v6(Protocol::Sctp, 2, c.octets()), 8),
            (ExactKey::v4(Protocol::Udp, 9, a), 8),
        ];
        let claims = claims_in(|protocol, port| words.get(&(protocol, port)).copied().unwrap_or_default(), exact);
        let claim = |protocol, address, slot, ports| InheritedClaim { protocol, address, slot, ports };
        let v4 = Address::V4(Ipv4Addr::UNSPECIFIED);
        let v6 = Address::V6(Ipv6Addr::UNSPECIFIED);
        let expected = [
            claim(Protocol::Tcp, Address::Any, 3, range(80, 81)),
            claim(Protocol::Tcp, Address::Any, 4, range(82, 82)),
            claim(Protocol::Tcp, Address::V4(a.into()), 5, range(65535, 65535)),
            claim(Protocol::Tcp, Address::V4(b.into()), 6, range(65535, 65535)),
            claim(Protocol::Udp, v4, 3, range(80, 81)),
            claim(Protocol::Udp, v6, 4, range(81, 81)),
            claim(Protocol::Sctp, v6, 7, range(2, 2)),
            claim(Protocol::Sctp, Address::V6(c), 7, range(1, 1)),
        ];
        assert_eq!(claims, expected);
    }

    fn address() -> impl Strategy<Value = Address> {
        prop_oneof![
            Just(Address::Any),
            Just(Address::V4(Ipv4Addr::UNSPECIFIED)),
            Just(Address::V4([192, 0, 2, 1].into())),
            Just(Address::V4([192, 0, 2, 2].into())),
            Just(Address::V6(Ipv6Addr::LOCALHOST)),
            Just(Address::V6(Ipv6Addr::UNSPECIFIED)),
        ]
    }

    proptest! {
        /// What is read back leads to the same maps again.
        #[test]
        fn what_is_planned_is_read_back(wanted in prop::collection::vec((address(), 1u16..5), 0..5)) {
            // Claims in force of different owners do not overlap.
            let mut claims: Vec<InForce> = Vec::new();
            for (address, slot) in wanted {
                let mut others = claims.iter().filter(|claim| claim.slot != slot);
                if others.all(|claim| !claim.address.overlaps(address)) {
                    let entity = Entity::Pod(u32::from(slot));
                    claims.push(InForce { address, slot, entity, handover_to: None });
                }
            }
            let state = PortState::of(Protocol::Tcp, 80, &claims);
            let here = |protocol, port| (protocol, port) == (Protocol::Tcp, 80);
            let word = |protocol, port| if here(protocol, port) { state.word() } else { PortWord::UNCLAIMED };
            let read = claims_in(word, state.exact().iter().map(|(key, slot)| (*key, *slot)));
            let slots = |slots: &mut dyn Iterator<Item = Slot>| slots.collect::<BTreeSet<_>>();
            prop_assert_eq!(
                slots(&mut read.iter().map(|claim| claim.slot)),
                slots(&mut claims.iter().map(|claim| claim.slot))
            );
            let again: Vec<InForce> = read
                .iter()
                .map(|claim| {
                    let entity = Entity::Pod(u32::from(claim.slot));
                    InForce { address: claim.address, slot: claim.slot, entity, handover_to: None }
                })
                .collect();
            let again = PortState::of(Protocol::Tcp, 80, &again);
            prop_assert_eq!(again.word(), state.word());
        }
    }
}
