//! From the claims in force to what the kernel's maps hold, and the steps from one state of them to the next.

use std::collections::BTreeMap;

use enforcer_ebpf::wire::{AddressKey, Owner, PortWord, Protocol, Side, Slot, UidForm, UidKey};

use crate::{
    model::{
        kernel_ids::CgroupId,
        owner::{ClaimGroup, ClaimParty},
        port_spec::Address,
    },
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
        id: CgroupId,
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
        id: CgroupId,
    },
    /// Takes out a cgroup inside a pod's that is named like another pod's own. `cgroup_mkdir` notes none that it knows
    /// to be inside a pod, but the pod around it may have been there before and not be noted yet.
    CgroupInPod {
        /// Cgroup id.
        id: CgroupId,
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

impl Change {
    /// Checks whether it may change who has what in force, as opposed to where the pods' cgroups are: those are written
    /// again with each read of the tree.
    #[must_use]
    pub const fn concerns_claims(&self) -> bool {
        match self {
            Self::OwnerRecord { .. }
            | Self::OwnerRecordGone { .. }
            | Self::AddressOwner { .. }
            | Self::AddressOwnerGone { .. }
            | Self::Port { .. } => true,
            Self::Owner { .. }
            | Self::Uid { .. }
            | Self::UidGone { .. }
            | Self::Cgroup { .. }
            | Self::CgroupGone { .. }
            | Self::CgroupInPod { .. } => false,
        }
    }
}

/// A claim in force on the port in question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActivePortClaim {
    /// Its address.
    pub address: Address,
    /// Its owner's slot.
    pub slot: Slot,
    /// Party that the claim is for.
    pub party: ClaimParty,
    /// The owner has a deletionTimestamp, or is the reservation of a deleted pod.
    pub is_leaving: bool,
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

/// Adds members that stand in: a share group's port is not its leaving member's workload's as long as a member that stays
/// claims it: such a member stands in for those that leave, on whatever address they claim the port.
fn with_stand_ins(claims: &[ActivePortClaim]) -> Vec<ActivePortClaim> {
    let mut staying: BTreeMap<ClaimGroup, &ActivePortClaim> = BTreeMap::new();
    for claim in claims.iter().filter(|claim| !claim.is_leaving) {
        let first = staying.entry(claim.party.group).or_insert(claim);
        // The one that stands for the group on its own address too, so that the maps name one member wherever they can.
        let rank = |claim: &ActivePortClaim| (claim.party.workload.is_some(), claim.slot);
        if rank(claim) < rank(first) {
            *first = claim;
        }
    }
    let stand_in = |claim: &ActivePortClaim| match staying.get(&claim.party.group) {
        Some(&member) if claim.is_leaving => ActivePortClaim { address: claim.address, ..*member },
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
    let whole: Vec<&ActivePortClaim> = claims.iter().filter(|claim| is_wildcard(claim.address)).collect();
    if let Some(claim) = representative(&whole) {
        let (first, second) = if stands_for_all(claim, &whole, true) { (claim.slot, 0) } else { pair(&whole) };
        return Side { first, second, whole: true };
    }
    let mut by_key: BTreeMap<AddressKey, Vec<&ActivePortClaim>> = BTreeMap::new();
    for claim in claims {
        if let Some(key) = key(claim.address) {
            by_key.entry(key).or_default().push(claim);
        }
    }
    let mut owners: Vec<&ActivePortClaim> = by_key.values().flatten().copied().collect();
    for (key, claims) in by_key {
        if let Some(claim) = representative(&claims) {
            exact.insert(key, claim.slot);
        }
    }
    owners.sort_by_key(|claim| (claim.is_leaving, claim.slot));
    let sole = owners.iter().find(|claim| stands_for_all(claim, &owners, false));
    let (first, second) = sole.map_or_else(|| pair(&owners), |claim| (claim.slot, 0));
    Side { first, second, whole: false }
}

/// Returns, of several claims that are in force together on one address, the one that stands for all: a caller to whom
/// its owner is not foreign is a stranger to none of the others, if there is such a claim. Of several, one whose owner
/// stays.
fn representative<'a>(claims: &[&'a ActivePortClaim]) -> Option<&'a ActivePortClaim> {
    claims.iter().copied().min_by_key(|claim| (!stands_for_all(claim, claims, true), claim.is_leaving, claim.slot))
}

/// Checks whether every caller that the owner of this claim is not foreign to is a stranger to none of the others, which
/// are in force together with it, all on its address or not.
fn stands_for_all(claim: &ActivePortClaim, others: &[&ActivePortClaim], one_address: bool) -> bool {
    let ClaimParty { group, workload } = claim.party;
    // A single pod gets along with those on its own address and with its siblings, or they would not be in force.
    let is_pod = matches!(group, ClaimGroup::Pod(_));
    others.iter().all(|other| {
        let is_sibling = workload.is_some() && workload == other.party.workload;
        (group == other.party.group || is_pod && (one_address || is_sibling)) && (workload.is_none() || is_sibling)
    })
}

/// Returns two owners such that a bind to the wildcard address, which overlaps all of them, is foreign to at least one
/// of the two whenever it is foreign to any.
///
/// A caller gets along with its own group and with its siblings, and with nobody else. So two of different groups
/// without a workload will do. So will two of different workloads and different groups, save for a caller that is of
/// one's group and a sibling of the other, which is let in even if there is a third owner: no two owners can express
/// that. Else all are of one group or of one workload.
fn pair(owners: &[&ActivePortClaim]) -> (Slot, Slot) {
    let (controlled, alone): (Vec<&ActivePortClaim>, Vec<&ActivePortClaim>) =
        owners.iter().partition(|owner| owner.party.workload.is_some());
    let lone = two(&alone, |one, other| one.party.group != other.party.group);
    if lone.1 != 0 {
        return lone;
    }
    let unlike = two_unlike(&controlled);
    if unlike.1 != 0 {
        return unlike;
    }
    let Some(first) = alone.first() else {
        return two(&controlled, |one, other| one.party != other.party);
    };
    // Whoever gets along with the first is of its group, and so with all of that group.
    let other = controlled.iter().find(|other| other.party.group != first.party.group).or(controlled.first());
    (first.slot, other.map_or(0, |other| other.slot))
}

/// Returns the slots of the first owner and of the first one that differs from it, 0 where there is none.
fn two(owners: &[&ActivePortClaim], differ: impl Fn(&ActivePortClaim, &ActivePortClaim) -> bool) -> (Slot, Slot) {
    let Some(first) = owners.first() else {
        return (0, 0);
    };
    let other = owners.iter().find(|other| differ(first, other));
    (first.slot, other.map_or(0, |other| other.slot))
}

/// Returns the slots of two owners that differ in both group and workload; if there are no two, of the first one alone.
fn two_unlike(owners: &[&ActivePortClaim]) -> (Slot, Slot) {
    let unlike = |one: &ActivePortClaim, other: &ActivePortClaim| {
        one.party.group != other.party.group && one.party.workload != other.party.workload
    };
    let pair = two(owners, unlike);
    let Some(first) = owners.first().filter(|_| pair.1 == 0) else {
        return pair;
    };
    // All others have the first one's group or its workload. One that has only the former differs in both from one
    // that has only the latter.
    let same_group = owners.iter().find(|other| other.party.workload != first.party.workload);
    let same_workload = owners.iter().find(|other| other.party.group != first.party.group);
    match (same_group, same_workload) {
        (Some(one), Some(other)) => (one.slot, other.slot),
        _ => pair,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;
    use crate::model::owner::OwnerId;

    const TCP: Protocol = Protocol::Tcp;

    fn claim(slot: Slot, address: Address) -> ActivePortClaim {
        let owner = OwnerId::new(slot.into()).expect("slot 0 is nobody's");
        ActivePortClaim { address, slot, party: ClaimGroup::Pod(owner).into(), is_leaving: false }
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

    fn of(slot: Slot, group: u32, workload: u32, address: Address) -> ActivePortClaim {
        let claim = claim(slot, address);
        let group = if group == 0 { claim.party.group } else { ClaimGroup::Group(group) };
        ActivePortClaim { party: ClaimParty { group, workload: (workload != 0).then_some(workload) }, ..claim }
    }

    #[test]
    fn a_sibling_or_member_stands_for_all_where_one_can() {
        let any = Address::Any;
        assert_eq!(sides(&[of(1, 0, 9, any), of(2, 0, 9, any)]).0, whole(1), "siblings");
        assert_eq!(sides(&[of(1, 4, 0, any), of(2, 4, 9, any)]).0, whole(1), "a group");
        let leaving = ActivePortClaim { is_leaving: true, ..of(1, 0, 9, any) };
        assert_eq!(sides(&[leaving, of(2, 0, 9, any)]).0, whole(2), "one that stays");
        let both = Side { first: 1, second: 2, whole: true };
        assert_eq!(sides(&[of(1, 4, 8, any), of(2, 4, 9, any)]).0, both, "a sibling of one is a stranger to the other");
        assert_eq!(PortState::of(TCP, 80, &[of(1, 4, 8, any), of(2, 4, 9, any)]).word.sole(), 0);
    }

    #[test]
    fn a_group_is_represented_by_who_stays() {
        let member = |slot, address| of(slot, 4, 0, address);
        let leaving = ActivePortClaim { is_leaving: true, ..of(1, 4, 9, Address::Any) };
        assert_eq!(sides(&[leaving, member(2, Address::Any)]).0, whole(2));
        assert_eq!(sides(&[leaving, member(2, v4(1))]), (whole(2), whole(2), 0), "also if it claims less");
        assert_eq!(sides(&[member(1, v4(1)), member(2, v4(2))]).0, some(1, 0));
    }

    /// Groups 0 to 2 and workloads 0 to 2 of owners and callers; 0 is none.
    fn party() -> impl Strategy<Value = (u32, u32)> {
        (0u32..3, 0u32..3)
    }

    fn foreign(claim: &ActivePortClaim, caller: ClaimParty) -> bool {
        !claim.party.is_one_with(caller)
    }

    proptest! {
        /// The words that the kernel has against all claims in force: whoever is foreign to none is let in, and whoever
        /// is foreign to any is not, but where two owners cannot express it.
        #[test]
        fn a_wildcard_bind_meets_whoever_is_foreign(
            parties in prop::collection::vec((party(), 0u8..4, any::<bool>()), 1..6), caller in party(), own in 0usize..6,
        ) {
            let mut claims: Vec<ActivePortClaim> = Vec::new();
            for (slot, ((group, workload), last, is_leaving)) in (1..).zip(parties) {
                let address = if last == 0 { Address::Any } else { v4(last) };
                let claim = ActivePortClaim { is_leaving, ..of(slot, group, workload, address) };
                let excluded = claims.iter().any(|other| other.address.overlaps(address) && foreign(other, claim.party));
                if !excluded {
                    claims.push(claim);
                }
            }
            let stranger = of(100, caller.0, caller.1, Address::Any).party;
            let caller = claims.get(own).map_or(stranger, |claim| claim.party);
            let by_slot: BTreeMap<Slot, &ActivePortClaim> = claims.iter().map(|claim| (claim.slot, claim)).collect();
            let Side { first, second, .. } = PortState::of(TCP, 80, &claims).word.v4();
            let met = [first, second].into_iter().filter_map(|slot| by_slot.get(&slot));
            let is_refused = met.into_iter().any(|claim| foreign(claim, caller));
            // A member of a group stands in for one that leaves.
            let claims = with_stand_ins(&claims);
            // Claims on single addresses beside one on all of them are not asked: both are in force only for pods of one
            // workload of which some share.
            let has_wildcard = claims.iter().any(|claim| claim.address == Address::Any);
            let met = claims.iter().filter(|claim| !has_wildcard || claim.address == Address::Any);
            let strangers = met.filter(|claim| foreign(claim, caller)).count();
            if strangers == 0 {
                prop_assert!(!is_refused, "{claims:?}");
            }
            let is_of_group = claims.iter().any(|claim| claim.party.group == caller.group);
            let is_sibling = claims.iter().any(|claim| {
                claim.party.group != caller.group && claim.party.is_one_with(caller)
            });
            if strangers > 0 && !(is_of_group && is_sibling) {
                prop_assert!(is_refused, "{claims:?}");
            }
        }
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
