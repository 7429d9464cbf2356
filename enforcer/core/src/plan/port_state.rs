//! From the claims in force to what the kernel's maps hold, and the steps from one state of them to the next.

use std::collections::BTreeMap;

use enforcer_ebpf::wire::{AddressKey, Owner, PortWord, Protocol, Side, Slot, UidForm, UidKey};

use crate::{
    model::{owner::ClaimGroup, port_spec::Address},
    plan::owner_record::RecordBytes,
};

/// One step in the kernel's maps. Steps are to be carried out in order: a program that runs between any two of them
/// sees a claim in force either as before or as after, never as missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Writes the record of an owner for the next agent. It comes before the owner that it is of.
    OwnerRecord {
        /// The owner's slot.
        slot: Slot,
        /// A [`crate::plan::owner_record::OwnerRecord`].
        bytes: RecordBytes,
    },
    /// Removes the record of an owner. It comes after the slot is free.
    OwnerRecordGone {
        /// The owner's slot.
        slot: Slot,
    },
    /// Writes an owner; all zeros frees the slot.
    Owner {
        /// Slot of the owner.
        slot: Slot,
        /// Owner as the kernel's maps have it.
        owner: Owner,
    },
    /// Writes the owner of a pod UID.
    Uid {
        /// The UID.
        key: UidKey,
        /// The owner's slot.
        slot: Slot,
    },
    /// Removes a pod UID.
    UidGone {
        /// The UID.
        key: UidKey,
    },
    /// Writes the owner of a pod's cgroup.
    Cgroup {
        /// Cgroup id.
        id: u64,
        /// Its level below the attached root.
        level: u8,
        /// The owner's slot, 0 while no pod with that UID is known.
        slot: Slot,
        /// Form in which the UID is written.
        form: UidForm,
    },
    /// Removes a cgroup.
    CgroupGone {
        /// Cgroup id.
        id: u64,
    },
    /// Takes out a cgroup inside a pod's that is named like another pod's own. `cgroup_mkdir` notes none that it knows to be
    /// inside a pod, but the pod around it may have been there before and not be noted yet.
    CgroupInPod {
        /// Cgroup id.
        id: u64,
        /// Slot of the owner that it is named after, whose cgroup it is not; 0 if there is none.
        slot: Slot,
    },
    /// Writes the owner of one address of a port.
    AddressOwner {
        /// Protocol, port and address.
        key: AddressKey,
        /// The owner's slot.
        slot: Slot,
    },
    /// Removes one address of a port.
    AddressOwnerGone {
        /// Protocol, port and address.
        key: AddressKey,
    },
    /// Writes the owners of a port.
    Port {
        /// The protocol.
        protocol: Protocol,
        /// The port.
        port: u16,
        /// The word.
        word: PortWord,
    },
}

/// A claim in force on the port in question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActivePortClaim {
    /// Its address.
    pub address: Address,
    /// Its owner's slot.
    pub slot: Slot,
    /// Group that the claim is for.
    pub group: ClaimGroup,
    /// The workload that may bind the port because the owner has a deletionTimestamp.
    pub handover_to: Option<u32>,
}

/// Contents of the maps for one port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortState {
    word: PortWord,
    exact: BTreeMap<AddressKey, Slot>,
}

impl PortState {
    /// Returns what the maps are to hold for these claims in force.
    #[must_use]
    pub fn of(protocol: Protocol, port: u16, claims: &[ActivePortClaim]) -> Self {
        let claims = &with_stand_ins(claims);
        let mut exact = BTreeMap::new();
        let v4 = side(
            claims,
            is_v4_wildcard,
            |address| match address {
                Address::V4(address) => Some(AddressKey::v4(protocol, port, address.octets())),
                _ => None,
            },
            &mut exact,
        );
        let v6 = side(
            claims,
            is_v6_wildcard,
            |address| match address {
                Address::V6(address) => Some(AddressKey::v6(protocol, port, address.octets())),
                _ => None,
            },
            &mut exact,
        );
        Self { word: PortWord::new(v4, v6), exact }
    }

    /// Returns the word in `PORTS`.
    #[must_use]
    pub fn word(&self) -> PortWord {
        self.word
    }

    /// Returns the owner of each single address, in `ADDRESS_OWNERS`.
    #[must_use]
    pub fn exact(&self) -> &BTreeMap<AddressKey, Slot> {
        &self.exact
    }

    /// Adds the steps from this state to `next`. Owners of single addresses are written before the word that sends a
    /// bind to look for them, and removed after it.
    pub fn steps_to(&self, next: &Self, protocol: Protocol, port: u16, steps: &mut Vec<Change>) {
        for (&key, &slot) in &next.exact {
            if self.exact.get(&key) != Some(&slot) {
                steps.push(Change::AddressOwner { key, slot });
            }
        }
        if self.word != next.word {
            steps.push(Change::Port { protocol, port, word: next.word });
        }
        for &key in self.exact.keys() {
            if !next.exact.contains_key(&key) {
                steps.push(Change::AddressOwnerGone { key });
            }
        }
    }
}

/// Adds members that stand in: a share group's port is not handed over as long as a member that stays claims it: such a
/// member stands in for those that go, on whatever address they claim the port.
fn with_stand_ins(claims: &[ActivePortClaim]) -> Vec<ActivePortClaim> {
    let mut staying: BTreeMap<ClaimGroup, &ActivePortClaim> = BTreeMap::new();
    for claim in claims.iter().filter(|claim| claim.handover_to.is_none()) {
        let first = staying.entry(claim.group).or_insert(claim);
        if claim.slot < first.slot {
            *first = claim;
        }
    }
    let stand_in = |claim: &ActivePortClaim| match staying.get(&claim.group) {
        Some(&member) if claim.handover_to.is_some() => ActivePortClaim { address: claim.address, ..*member },
        _ => *claim,
    };
    claims.iter().map(stand_in).collect()
}

fn is_v4_wildcard(address: Address) -> bool {
    match address {
        Address::Any => true,
        Address::V4(address) => address.is_unspecified(),
        // A claim on `::` is for dual-stack sockets.
        Address::V6(address) => address.is_unspecified(),
    }
}

fn is_v6_wildcard(address: Address) -> bool {
    match address {
        Address::Any => true,
        Address::V4(_) => false,
        Address::V6(address) => address.is_unspecified(),
    }
}

fn side(
    claims: &[ActivePortClaim],
    is_wildcard: impl Fn(Address) -> bool,
    key: impl Fn(Address) -> Option<AddressKey>,
    exact: &mut BTreeMap<AddressKey, Slot>,
) -> Side {
    let whole = claims.iter().filter(|claim| is_wildcard(claim.address));
    if let Some(claim) = representative(whole) {
        return Side { first: claim.slot, second: 0, whole: true };
    }
    let mut by_key: BTreeMap<AddressKey, Vec<&ActivePortClaim>> = BTreeMap::new();
    for claim in claims {
        if let Some(key) = key(claim.address) {
            by_key.entry(key).or_default().push(claim);
        }
    }
    let mut owners: Vec<&ActivePortClaim> = Vec::new();
    for (key, claims) in by_key {
        if let Some(claim) = representative(claims.into_iter()) {
            exact.insert(key, claim.slot);
            owners.push(claim);
        }
    }
    let (first, second) = pair(&owners);
    Side { first, second, whole: false }
}

/// Returns, of several claims of one entity on one address, the one that stands for all. If all members of a group go,
/// the port is handed over to the workload of this one alone.
fn representative<'a>(claims: impl Iterator<Item = &'a ActivePortClaim>) -> Option<&'a ActivePortClaim> {
    claims.min_by_key(|claim| (claim.handover_to.is_some(), claim.slot))
}

/// Returns two owners such that a bind to the wildcard address, which overlaps all of them, is foreign to at least one
/// of the two whenever it is foreign to any.
///
/// A caller gets along with its own entity and with owners that hand over to its workload, and with nobody else. So two
/// that stay and are different entities will do. So will two that hand over to different workloads and are different
/// entities, save for a caller that is one's entity and of the other's workload, which is let in even if there is a
/// third owner: no two owners can express that. Else all that go are one entity or are of one workload.
fn pair(owners: &[&ActivePortClaim]) -> (Slot, Slot) {
    let (going, staying): (Vec<&ActivePortClaim>, Vec<&ActivePortClaim>) =
        owners.iter().partition(|owner| owner.handover_to.is_some());
    let (stays, other_stays) = two(&staying, |one, other| one.group != other.group);
    if other_stays != 0 {
        return (stays, other_stays);
    }
    let (goes, other_goes) = two_unlike(&going);
    if other_goes != 0 {
        return (goes, other_goes);
    }
    if stays != 0 {
        return (stays, goes);
    }
    two(&going, |one, other| one.group != other.group || one.handover_to != other.handover_to)
}

/// Returns the slots of the first owner and of the first one that differs from it, 0 where there is none.
fn two(owners: &[&ActivePortClaim], differ: impl Fn(&ActivePortClaim, &ActivePortClaim) -> bool) -> (Slot, Slot) {
    let Some(first) = owners.first() else {
        return (0, 0);
    };
    let other = owners.iter().find(|other| differ(first, other));
    (first.slot, other.map_or(0, |other| other.slot))
}

/// Returns the slots of two owners that differ in both entity and workload; if there are no two, of the first one
/// alone.
fn two_unlike(owners: &[&ActivePortClaim]) -> (Slot, Slot) {
    let unlike = |one: &ActivePortClaim, other: &ActivePortClaim| {
        one.group != other.group && one.handover_to != other.handover_to
    };
    let pair = two(owners, unlike);
    let Some(first) = owners.first().filter(|_| pair.1 == 0) else {
        return pair;
    };
    // All others have the first one's entity or its workload. One that has only the former differs in both from one
    // that has only the latter.
    let same_entity = owners.iter().find(|other| other.handover_to != first.handover_to);
    let same_workload = owners.iter().find(|other| other.group != first.group);
    match (same_entity, same_workload) {
        (Some(one), Some(other)) => (one.slot, other.slot),
        _ => pair,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::model::owner::OwnerId;

    const TCP: Protocol = Protocol::Tcp;

    fn claim(slot: Slot, address: Address) -> ActivePortClaim {
        let owner = OwnerId::new(slot.into()).expect("slot 0 is nobody's");
        ActivePortClaim { address, slot, group: ClaimGroup::Pod(owner), handover_to: None }
    }

    fn v4(last: u8) -> Address {
        Address::V4(Ipv4Addr::new(10, 0, 0, last))
    }

    fn sides(claims: &[ActivePortClaim]) -> (Side, Side, usize) {
        let state = PortState::of(TCP, 80, claims);
        (state.word.v4(), state.word.v6(), state.exact.len())
    }

    fn whole(first: Slot) -> Side {
        Side { first, second: 0, whole: true }
    }

    fn some(first: Slot, second: Slot) -> Side {
        Side { first, second, whole: false }
    }

    #[test]
    fn wildcards_take_a_whole_side() {
        let nobody = Side::default();
        assert_eq!(sides(&[]), (nobody, nobody, 0));
        assert_eq!(sides(&[claim(1, Address::Any)]), (whole(1), whole(1), 0));
        assert_eq!(sides(&[claim(1, Address::V6(Ipv6Addr::UNSPECIFIED))]), (whole(1), whole(1), 0));
        assert_eq!(sides(&[claim(1, Address::V4(Ipv4Addr::UNSPECIFIED))]), (whole(1), nobody, 0));
        let mixed = [claim(1, Address::V4(Ipv4Addr::UNSPECIFIED)), claim(2, Address::V6(Ipv6Addr::LOCALHOST))];
        assert_eq!(sides(&mixed), (whole(1), some(2, 0), 1));
        assert_eq!(sides(&[claim(1, Address::Any), claim(1, v4(1))]), (whole(1), whole(1), 0));
    }

    #[test]
    fn addresses_are_looked_up_and_summed_up() {
        let nobody = Side::default();
        assert_eq!(sides(&[claim(1, v4(1))]), (some(1, 0), nobody, 1));
        assert_eq!(sides(&[claim(1, v4(1)), claim(1, v4(2))]), (some(1, 0), nobody, 2));
        assert_eq!(sides(&[claim(1, v4(1)), claim(2, v4(2)), claim(3, v4(3))]), (some(1, 2), nobody, 3));
    }

    #[test]
    fn the_pair_is_foreign_to_whoever_is_foreign_to_any() {
        let going = |slot, last, workload| ActivePortClaim { handover_to: Some(workload), ..claim(slot, v4(last)) };
        // One that stays outweighs two that hand over to the same workload, and so on.
        assert_eq!(sides(&[going(1, 1, 9), going(2, 2, 9), claim(3, v4(3))]).0, some(3, 1));
        assert_eq!(sides(&[going(1, 1, 9), going(2, 2, 9)]).0, some(1, 2));
        assert_eq!(sides(&[going(1, 1, 9), going(2, 2, 8), claim(3, v4(3))]).0, some(1, 2));
        assert_eq!(sides(&[going(1, 1, 9), claim(2, v4(2)), claim(3, v4(3))]).0, some(2, 3));
    }

    #[test]
    fn the_pair_tells_kin_by_group_from_kin_by_workload() {
        let going = |slot, last, group, workload| ActivePortClaim {
            group: ClaimGroup::Group(group),
            handover_to: Some(workload),
            ..claim(slot, v4(last))
        };
        // A caller of group 4 is foreign to group 5, and one of workload 9 is foreign to workload 8.
        assert_eq!(sides(&[going(1, 1, 4, 9), going(2, 2, 5, 9)]).0, some(1, 2));
        assert_eq!(sides(&[going(1, 1, 4, 9), going(2, 2, 4, 8)]).0, some(1, 2));
        assert_eq!(sides(&[going(1, 1, 4, 9), going(2, 2, 4, 8), going(3, 3, 5, 9)]).0, some(2, 3));
        assert_eq!(sides(&[going(1, 1, 4, 9), going(2, 2, 4, 9)]).0, some(1, 0));
        // Who stays stands in for the group, so the other group is the second.
        let staying = ActivePortClaim { group: ClaimGroup::Group(4), ..claim(3, v4(3)) };
        assert_eq!(sides(&[going(1, 1, 4, 9), going(2, 2, 5, 9), staying]).0, some(3, 2));
    }

    #[test]
    fn a_group_is_one_entity_and_is_represented_by_who_stays() {
        let member = |slot, address| ActivePortClaim { group: ClaimGroup::Group(4), ..claim(slot, address) };
        let going = ActivePortClaim { handover_to: Some(9), ..member(1, Address::Any) };
        assert_eq!(sides(&[going, member(2, Address::Any)]).0, whole(2));
        assert_eq!(sides(&[going, member(2, v4(1))]), (whole(2), whole(2), 0), "also if it claims less");
        assert_eq!(sides(&[member(1, v4(1)), member(2, v4(2))]).0, some(1, 0));
    }

    #[test]
    fn steps_never_leave_a_claim_in_force_unseen() {
        let specific = PortState::of(TCP, 80, &[claim(1, v4(1)), claim(2, v4(2))]);
        let wild = PortState::of(TCP, 80, &[claim(1, Address::Any)]);
        let kinds = |from: &PortState, to: &PortState| {
            let mut steps = Vec::new();
            from.steps_to(to, TCP, 80, &mut steps);
            steps
                .into_iter()
                .map(|step| match step {
                    Change::AddressOwner { .. } => '+',
                    Change::AddressOwnerGone { .. } => '-',
                    Change::Port { .. } => 'p',
                    _ => '?',
                })
                .collect::<String>()
        };
        assert_eq!(kinds(&wild, &specific), "++p");
        assert_eq!(kinds(&specific, &wild), "p--");
        assert_eq!(kinds(&specific, &specific), "");
    }
}
