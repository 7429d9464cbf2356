//! Arbitration of a port: all claims on one port of one protocol, ranked, and those of them in force.

use std::cmp::Reverse;

use crate::model::{
    owner::{ClaimParty, OwnerClass, OwnerId, OwnerKind, rank},
    port_spec::Address,
    source::ClaimSource,
};

/// One claim on one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortClaim {
    /// Its owner.
    pub owner: OwnerId,
    /// The address.
    pub address: Address,
    /// Place where it is declared.
    pub source: ClaimSource,
    /// Its arrival, in microseconds since 1970: the pod's arrival on the node or, for a claim added by editing,
    /// the edit.
    pub since: i64,
    /// Its state; `None` before its first arbitration.
    pub state: Option<ClaimState>,
}

/// State of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimState {
    /// It is in force.
    InForce,
    /// It lost to a claim of this owner.
    LostTo(OwnerId),
}

/// Facts of an owner that arbitration uses.
#[derive(Clone, Copy, Debug)]
pub struct Claimant<'a> {
    /// Its kind. The handover reservation of a pod gives way to a successor of its workload.
    pub kind: OwnerKind,
    /// Its class.
    pub class: OwnerClass,
    /// Party that its claims are for.
    pub party: ClaimParty,
    /// Namespace and name, the last thing that ranks.
    pub name: (&'a str, &'a str),
}

impl Claimant<'_> {
    fn is_reservation(&self) -> bool {
        self.kind == OwnerKind::HandoverReservation
    }
}

/// Change of a claim's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimTransition {
    /// Owner of the claim.
    pub owner: OwnerId,
    /// Its address.
    pub address: Address,
    /// State before; `None` if it is new.
    pub before: Option<ClaimState>,
    /// State now.
    pub now: ClaimState,
}

/// Returns whether two claims on one port of one protocol cannot both be in force: some socket would fall under both, and
/// they are for different parties.
#[must_use]
pub fn excludes(one: (impl Into<ClaimParty>, Address), other: (impl Into<ClaimParty>, Address)) -> bool {
    one.1.overlaps(other.1) && !one.0.into().is_one_with(other.0.into())
}

/// Ranks the claims on one port and puts those in force that do not overlap a better one of another party. The
/// reservation of a deleted pod gives way to a pod of the same workload.
pub fn arbitrate<'a>(stakes: &mut Vec<PortClaim>, claimant: impl Fn(OwnerId) -> Claimant<'a>) -> Vec<ClaimTransition> {
    let successors = transfer_to_successors(stakes, &claimant);
    let mut order: Vec<usize> = (0..stakes.len()).collect();
    order.sort_by_cached_key(|&place| {
        let stake = &stakes[place];
        let Claimant { kind, class, name: (namespace, name), .. } = claimant(stake.owner);
        // A successor may claim more than it succeeds to: that much is not taken from whoever has it.
        let in_force = stake.state == Some(ClaimState::InForce);
        (
            rank(kind, class),
            Reverse(in_force),
            Reverse(successors.contains(&place)),
            stake.since,
            namespace.to_owned(),
            name.to_owned(),
            stake.address,
        )
    });
    let mut in_force: Vec<usize> = Vec::new();
    let mut turns = Vec::new();
    for place in order {
        let stake = &stakes[place];
        let party = claimant(stake.owner).party;
        let better = in_force
            .iter()
            .map(|&better| &stakes[better])
            .find(|better| excludes((claimant(better.owner).party, better.address), (party, stake.address)));
        let now = better.map_or(ClaimState::InForce, |better| ClaimState::LostTo(better.owner));
        if now == ClaimState::InForce {
            in_force.push(place);
        }
        let stake = &mut stakes[place];
        let before = stake.state.replace(now);
        if before != Some(now) {
            turns.push(ClaimTransition { owner: stake.owner, address: stake.address, before, now });
        }
    }
    turns
}

/// Drops what is left of gone pods where a pod of the same workload wants the port, and returns the places of the
/// claims that take over: they rank right after those in force.
fn transfer_to_successors<'a>(stakes: &mut Vec<PortClaim>, claimant: &impl Fn(OwnerId) -> Claimant<'a>) -> Vec<usize> {
    if !stakes.iter().any(|stake| claimant(stake.owner).is_reservation()) {
        return Vec::new();
    }
    let heirs = |left: &PortClaim, stakes: &[PortClaim]| {
        let workload = claimant(left.owner).party.workload;
        let heir = |stake: &&PortClaim| {
            let other = claimant(stake.owner);
            !other.is_reservation()
                && workload.is_some()
                && other.party.workload == workload
                && stake.address.overlaps(left.address)
        };
        let earliest = stakes.iter().filter(heir).min_by_key(|stake| (stake.since, claimant(stake.owner).name));
        earliest.map(|stake| stake.owner)
    };
    let mut winners = Vec::new();
    let snapshot = stakes.clone();
    stakes.retain(|stake| {
        if !claimant(stake.owner).is_reservation() {
            return true;
        }
        let heir = heirs(stake, &snapshot);
        winners.extend(heir);
        heir.is_none()
    });
    (0..stakes.len()).filter(|&place| winners.contains(&stakes[place].owner)).collect()
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, net::Ipv4Addr};

    use super::*;
    use crate::model::owner::ClaimGroup;

    fn id(id: u32) -> OwnerId {
        OwnerId::new(id).expect("no test owner is nobody")
    }

    struct Owners(HashMap<OwnerId, Claimant<'static>>);

    fn tenant(number: u32, name: &'static str) -> Claimant<'static> {
        Claimant {
            kind: OwnerKind::Pod,
            class: OwnerClass::Tenant,
            party: ClaimGroup::Pod(id(number)).into(),
            name: ("default", name),
        }
    }

    fn sibling(number: u32, workload: u32, name: &'static str) -> Claimant<'static> {
        let party = ClaimParty { group: ClaimGroup::Pod(id(number)), workload: Some(workload) };
        Claimant { party, ..tenant(number, name) }
    }

    impl Owners {
        fn new(parties: impl IntoIterator<Item = (u32, Claimant<'static>)>) -> Self {
            Self(parties.into_iter().map(|(number, party)| (id(number), party)).collect())
        }

        fn settle(&self, stakes: &mut Vec<PortClaim>) -> Vec<(OwnerId, ClaimState)> {
            arbitrate(stakes, |owner| self.0[&owner]);
            let mut standings: Vec<_> = stakes.iter().map(|stake| (stake.owner, stake.state.unwrap())).collect();
            standings.sort_by_key(|(owner, _)| *owner);
            standings
        }
    }

    fn stake(owner: u32, since: i64) -> PortClaim {
        PortClaim { owner: id(owner), address: Address::Any, source: ClaimSource::Annotation, since, state: None }
    }

    use ClaimState::{InForce, LostTo};

    #[test]
    fn rank_is_class_then_force_then_arrival_then_name() {
        let owners = Owners::new([
            (
                1,
                Claimant {
                    kind: OwnerKind::Node,
                    class: OwnerClass::Node,
                    party: ClaimGroup::Node.into(),
                    ..tenant(1, "")
                },
            ),
            (2, Claimant { class: OwnerClass::Static, ..tenant(2, "z") }),
            (3, Claimant { class: OwnerClass::System, ..tenant(3, "y") }),
            (4, tenant(4, "x")),
            (5, tenant(5, "b")),
            (6, tenant(6, "a")),
        ]);
        let mut all: Vec<PortClaim> =
            [(6, 9), (5, 9), (4, 7), (3, 8), (2, 8), (1, 9)].map(|(id, at)| stake(id, at)).into();
        for winner in [1, 2, 3, 4, 6, 5] {
            let standings = owners.settle(&mut all.clone());
            assert!(standings.contains(&(id(winner), InForce)), "{winner} among {standings:?}");
            assert_eq!(standings.iter().filter(|(_, standing)| *standing == InForce).count(), 1);
            all.retain(|stake| stake.owner != id(winner));
        }
    }

    #[test]
    fn what_is_in_force_stays_against_an_equal_and_yields_to_a_better_class() {
        let owners = Owners::new([
            (1, tenant(1, "b")),
            (2, tenant(2, "a")),
            (3, Claimant { class: OwnerClass::System, ..tenant(3, "c") }),
        ]);
        let mut stakes = vec![stake(1, 5)];
        owners.settle(&mut stakes);
        stakes.push(stake(2, 1));
        assert_eq!(owners.settle(&mut stakes), [(id(1), InForce), (id(2), LostTo(id(1)))]);
        stakes.push(stake(3, 9));
        assert_eq!(owners.settle(&mut stakes), [(id(1), LostTo(id(3))), (id(2), LostTo(id(3))), (id(3), InForce)]);
        stakes.retain(|stake| stake.owner != id(3));
        assert_eq!(
            owners.settle(&mut stakes),
            [(id(1), LostTo(id(2))), (id(2), InForce)],
            "by arrival, since neither was in force"
        );
    }

    #[test]
    fn a_group_shares_and_stays_while_any_member_does() {
        let member = |id, name| Claimant { party: ClaimGroup::Group(7).into(), ..tenant(id, name) };
        let owners = Owners::new([(1, member(1, "a")), (2, tenant(2, "b")), (3, member(3, "c"))]);
        let mut stakes = vec![stake(1, 1), stake(2, 2), stake(3, 3)];
        assert_eq!(owners.settle(&mut stakes), [(id(1), InForce), (id(2), LostTo(id(1))), (id(3), InForce)]);
        stakes.remove(0);
        assert_eq!(owners.settle(&mut stakes), [(id(2), LostTo(id(3))), (id(3), InForce)]);
    }

    #[test]
    fn siblings_are_in_force_together_and_a_stranger_loses_to_the_first() {
        let owners = Owners::new([
            (1, sibling(1, 4, "never-started")),
            (2, tenant(2, "squatter")),
            (3, sibling(3, 4, "successor")),
            (4, sibling(4, 5, "other-workload")),
        ]);
        let mut stakes = vec![stake(1, 1), stake(2, 2), stake(3, 3), stake(4, 4)];
        assert_eq!(
            owners.settle(&mut stakes),
            [(id(1), InForce), (id(2), LostTo(id(1))), (id(3), InForce), (id(4), LostTo(id(1)))]
        );
        stakes.remove(0);
        assert_eq!(owners.settle(&mut stakes)[0], (id(2), LostTo(id(3))), "the port stays with the workload");
    }

    #[test]
    fn who_is_one_with_a_pod_is_not_one_with_its_siblings() {
        let group = ClaimGroup::Group(7);
        let sharing = |number, workload, name| Claimant {
            party: ClaimParty { group, workload: Some(workload) },
            ..tenant(number, name)
        };
        let owners = Owners::new([(1, sharing(1, 4, "a")), (2, sharing(2, 5, "b")), (3, sibling(3, 5, "c"))]);
        let mut stakes = vec![stake(1, 1), stake(2, 2), stake(3, 3)];
        assert_eq!(owners.settle(&mut stakes), [(id(1), InForce), (id(2), InForce), (id(3), LostTo(id(1)))]);
    }

    #[test]
    fn addresses_that_do_not_overlap_are_both_in_force() {
        let owners = Owners::new([(1, tenant(1, "a")), (2, tenant(2, "b")), (3, tenant(3, "c"))]);
        let at = |owner, address: [u8; 4], since| PortClaim {
            address: Address::V4(Ipv4Addr::from(address)),
            ..stake(owner, since)
        };
        let mut stakes = vec![at(1, [127, 0, 0, 1], 1), at(2, [10, 0, 0, 1], 2), at(3, [0, 0, 0, 0], 3)];
        assert_eq!(owners.settle(&mut stakes), [(id(1), InForce), (id(2), InForce), (id(3), LostTo(id(1)))]);
    }

    #[test]
    fn what_is_left_waits_for_its_workload_and_for_no_other() {
        let left = Claimant { kind: OwnerKind::HandoverReservation, ..sibling(1, 4, "old") };
        let owners = Owners::new([
            (1, left),
            (2, tenant(2, "squatter")),
            (3, sibling(3, 4, "new")),
            (4, sibling(4, 4, "newer")),
        ]);
        let mut stakes = vec![PortClaim { state: Some(InForce), ..stake(1, 1) }, stake(2, 2)];
        assert_eq!(owners.settle(&mut stakes), [(id(1), InForce), (id(2), LostTo(id(1)))]);
        stakes.extend([stake(4, 10), stake(3, 9)]);
        assert_eq!(owners.settle(&mut stakes), [(id(2), LostTo(id(3))), (id(3), InForce), (id(4), InForce)]);
    }

    #[test]
    fn a_successor_takes_over_what_was_left_and_no_more() {
        let left = Claimant { kind: OwnerKind::HandoverReservation, ..sibling(1, 4, "old") };
        let owners = Owners::new([(1, left), (2, tenant(2, "runs")), (3, sibling(3, 4, "new"))]);
        let at = |owner, last, since| PortClaim {
            address: Address::V4(Ipv4Addr::new(10, 0, 0, last)),
            state: Some(InForce),
            ..stake(owner, since)
        };
        let mut stakes = vec![at(1, 1, 8), at(2, 2, 9), stake(3, 1)];
        assert_eq!(
            owners.settle(&mut stakes),
            [(id(2), InForce), (id(3), LostTo(id(2)))],
            "nothing is taken from who runs"
        );
    }

    #[test]
    fn only_turns_are_told() {
        let owners = Owners::new([(1, tenant(1, "a")), (2, tenant(2, "b"))]);
        let mut stakes = vec![stake(1, 1), stake(2, 2)];
        let turns = arbitrate(&mut stakes, |owner| owners.0[&owner]);
        assert_eq!(turns.len(), 2);
        assert!(arbitrate(&mut stakes, |owner| owners.0[&owner]).is_empty());
        stakes.remove(0);
        let turns = arbitrate(&mut stakes, |owner| owners.0[&owner]);
        assert_eq!(
            turns,
            [ClaimTransition { owner: id(2), address: Address::Any, before: Some(LostTo(id(1))), now: InForce }]
        );
    }
}
