//! All claims port by port, with what the kernel's maps hold for each port.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use enforcer_ebpf::wire::{PortWord, Protocol};

use crate::{
    arbitration::arbiter::{ClaimState, ClaimTransition, PortClaim, arbitrate},
    index::{
        ActiveClaim, Notice,
        owner::{OwnerState, PortClaimSet},
    },
    model::{
        owner::{OwnerId, OwnerKind},
        port_spec::{Address, PortList, compress},
        source::ClaimSource,
    },
    plan::port_state::{ActivePortClaim, Change, PortState},
};

type Key = (Protocol, u16);

/// Most claims on a port whose loss is reported again when another owner than before has the port, the next in turn
/// first. Their pods know that they wait; a thousand that want one port must not be a thousand lines whenever one goes.
const RENOTIFY_AFTER: usize = 10;

#[derive(Debug, Default)]
struct PortEntry {
    stakes: Vec<PortClaim>,
    /// Claims that went since the last settling.
    withdrawn: Vec<PortClaim>,
    /// Contents of the maps.
    state: PortState,
    /// Part of this port in the tally.
    tally: Tally,
}

/// Numbers of claims and map entries, kept while they change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Claims in force.
    pub(super) in_force: usize,
    /// Claims in force of Services.
    pub(super) of_services: usize,
    /// Claims that have lost.
    pub(super) lost: usize,
    /// Ports that somebody owns, at least on some address.
    pub(super) ports: usize,
    /// Single addresses of ports that somebody owns.
    pub(super) exact: usize,
}

impl Tally {
    fn of(stakes: &[PortClaim], state: &PortState, is_service: impl Fn(OwnerId) -> bool) -> Self {
        let has_lost = |stake: &&PortClaim| matches!(stake.state, Some(ClaimState::LostTo(_)));
        let lost = stakes.iter().filter(has_lost).count();
        let of_services = stakes.iter().filter(|stake| !has_lost(stake) && is_service(stake.owner)).count();
        Self {
            in_force: stakes.len() - lost,
            of_services,
            lost,
            ports: usize::from(state.word() != PortWord::UNCLAIMED),
            exact: state.exact().len(),
        }
    }

    /// Checks whether one of these claims is in force for somebody with a socket.
    fn is_for_sockets(&self) -> bool {
        self.in_force > self.of_services
    }

    fn replace(&mut self, before: Self, after: Self) {
        let Self { in_force, of_services, lost, ports, exact } = self;
        *in_force = *in_force - before.in_force + after.in_force;
        *of_services = *of_services - before.of_services + after.of_services;
        *lost = *lost - before.lost + after.lost;
        *ports = *ports - before.ports + after.ports;
        *exact = *exact - before.exact + after.exact;
    }
}

#[derive(Debug, Default)]
pub(super) struct PortTable {
    ports: HashMap<Key, PortEntry>,
    /// The ports on which an owner has a claim.
    by_owner: HashMap<OwnerId, BTreeSet<Key>>,
    dirty: BTreeSet<Key>,
    spent: Vec<OwnerId>,
    tally: Tally,
    /// Number of times that a port began to be in force for somebody with a socket, or ceased to be for anybody.
    generation: u64,
}

impl PortTable {
    /// Makes these all the claims of the owner. New ones arrived at `since`; the others keep their place. A new one is in
    /// force from the beginning where one that is (or was until now) in force for the same party (`is_one`) covers it:
    /// who says less or otherwise what was his already has lost nothing.
    pub(super) fn set_claims(
        &mut self,
        owner: OwnerId,
        wanted: PortClaimSet,
        since: i64,
        is_one: impl Fn(OwnerId) -> bool,
    ) {
        let held = self.by_owner.remove(&owner).unwrap_or_default();
        for key in &held {
            let entry = self.ports.entry(*key).or_default();
            let leaves =
                |stake: &mut PortClaim| stake.owner == owner && !wanted.contains_key(&(key.0, key.1, stake.address));
            let before = entry.withdrawn.len();
            entry.withdrawn.extend(entry.stakes.extract_if(.., leaves));
            if entry.withdrawn.len() != before {
                self.dirty.insert(*key);
            }
        }
        let mut keys = BTreeSet::new();
        for ((protocol, port, address), source) in wanted {
            let key = (protocol, port);
            keys.insert(key);
            let entry = self.ports.entry(key).or_default();
            if let Some(stake) = entry.stakes.iter_mut().find(|stake| stake.owner == owner && stake.address == address)
            {
                stake.source = source;
                continue;
            }
            let covering: Vec<&PortClaim> = (entry.stakes.iter().chain(&entry.withdrawn))
                .filter(|stake| stake.state == Some(ClaimState::InForce) && stake.address.covers(address))
                .filter(|stake| stake.owner == owner || is_one(stake.owner))
                .collect();
            let standing = covering.first().and_then(|stake| stake.state);
            let own = covering.iter().find(|stake| stake.owner == owner);
            let since = own.map_or(since, |stake| stake.since);
            entry.stakes.push(PortClaim { owner, address, source, since, state: standing });
            self.dirty.insert(key);
        }
        if !keys.is_empty() {
            self.by_owner.insert(owner, keys);
        }
    }

    /// Marks the owner as changed: its ports are to be arbitrated and written anew.
    pub(super) fn touch(&mut self, owner: OwnerId) {
        if let Some(keys) = self.by_owner.get(&owner) {
            self.dirty.extend(keys);
        }
    }

    /// Passes what an owner has in force on the ports that it had bound to another one. What it has lost stays with it,
    /// and so does what another owner of its party (`is_one`) has in force too: the party needs no heir there.
    pub(super) fn transfer_claims(
        &mut self,
        from: OwnerId,
        to: OwnerId,
        had_bound: impl Fn(Protocol, u16) -> bool,
        is_one: impl Fn(OwnerId) -> bool,
    ) {
        let mut keys = BTreeSet::new();
        let own = self.by_owner.get(&from).into_iter().flatten();
        for key in own.filter(|(protocol, port)| had_bound(*protocol, *port)) {
            let Some(entry) = self.ports.get_mut(key) else {
                continue;
            };
            let shared: Vec<Address> = entry
                .stakes
                .iter()
                .filter(|stake| stake.state == Some(ClaimState::InForce) && is_one(stake.owner))
                .map(|stake| stake.address)
                .collect();
            for stake in &mut entry.stakes {
                if shared.iter().any(|address| address.overlaps(stake.address)) {
                    continue;
                }
                if stake.owner == from && stake.state == Some(ClaimState::InForce) {
                    stake.owner = to;
                    keys.insert(*key);
                }
            }
        }
        self.dirty.extend(&keys);
        if keys.is_empty() {
            self.spent.push(to);
        } else {
            self.by_owner.insert(to, keys);
        }
    }

    /// Returns the owner's claims on the ports that `is_wanted` accepts.
    pub(super) fn claims_of(&self, owner: OwnerId, is_wanted: impl Fn(Key) -> bool) -> PortClaimSet {
        let keys = self.by_owner.get(&owner).into_iter().flatten().copied().filter(|key| is_wanted(*key));
        keys.filter_map(|key| self.ports.get(&key).map(|entry| (key, entry)))
            .flat_map(|((protocol, port), entry)| {
                let own = entry.stakes.iter().filter(|stake| stake.owner == owner);
                own.map(move |stake| ((protocol, port, stake.address), stake.source))
            })
            .collect()
    }

    /// Returns whether the owner has a claim on the port, in force or not.
    pub(super) fn has_claim(&self, owner: OwnerId, protocol: Protocol, port: u16) -> bool {
        self.by_owner.get(&owner).is_some_and(|keys| keys.contains(&(protocol, port)))
    }

    /// Returns whether the owner has a claim in force on a port that it had bound.
    pub(super) fn any_in_force(&self, owner: OwnerId, had_bound: impl Fn(Protocol, u16) -> bool) -> bool {
        let own = self.by_owner.get(&owner).into_iter().flatten();
        own.filter(|(protocol, port)| had_bound(*protocol, *port)).any(|key| {
            let stakes = self.ports.get(key).map(|entry| entry.stakes.as_slice()).unwrap_or_default();
            stakes.iter().any(|stake| stake.owner == owner && stake.state == Some(ClaimState::InForce))
        })
    }

    /// Arbitrates whatever changed, plans the steps for the maps and returns the notices.
    pub(super) fn arbitrate_dirty<'a>(
        &mut self,
        owner: impl Fn(OwnerId) -> Option<&'a OwnerState>,
        changes: &mut Vec<Change>,
    ) -> Vec<Notice> {
        let mut turns: Vec<(Key, ClaimTransition)> = Vec::new();
        for key in std::mem::take(&mut self.dirty) {
            let Some(entry) = self.ports.get_mut(&key) else {
                continue;
            };
            entry.withdrawn.clear();
            let owners_before: BTreeSet<OwnerId> = entry.stakes.iter().map(|stake| stake.owner).collect();
            entry.stakes.retain(|stake| owner(stake.owner).is_some());
            let party = |id| owner(id).map_or_else(|| unreachable!("only known owners are left"), OwnerState::claimant);
            turns.extend(arbitrate(&mut entry.stakes, party).into_iter().map(|turn| (key, turn)));
            let owners_after: BTreeSet<OwnerId> = entry.stakes.iter().map(|stake| stake.owner).collect();
            for id in owners_before.difference(&owners_after) {
                if let Some(keys) = self.by_owner.get_mut(id) {
                    keys.remove(&key);
                    if keys.is_empty() {
                        self.by_owner.remove(id);
                        self.spent.push(*id);
                    }
                }
            }
            let in_force: Vec<ActivePortClaim> = entry
                .stakes
                .iter()
                .filter(|stake| stake.state == Some(ClaimState::InForce))
                .filter_map(|stake| {
                    let owner = owner(stake.owner)?;
                    Some(ActivePortClaim {
                        address: stake.address,
                        slot: owner.slot?,
                        party: owner.party(),
                        is_leaving: owner.terminating,
                    })
                })
                .collect();
            let state = PortState::of(key.0, key.1, &in_force);
            entry.state.steps_to(&state, key.0, key.1, changes);
            entry.state = state;
            let is_service = |id| owner(id).is_some_and(|owner| owner.kind == OwnerKind::Service);
            let tally = Tally::of(&entry.stakes, &entry.state, is_service);
            let before = std::mem::replace(&mut entry.tally, tally);
            self.generation += u64::from(before.is_for_sockets() != tally.is_for_sockets());
            self.tally.replace(before, tally);
            if entry.stakes.is_empty() {
                self.ports.remove(&key);
            }
        }
        self.report_transition(&turns, &owner)
    }

    /// Takes the owners that have no claim left after the last settling.
    pub(super) fn take_owners_without_claims(&mut self) -> Vec<OwnerId> {
        std::mem::take(&mut self.spent)
    }

    fn report_transition<'a>(
        &self,
        turns: &[(Key, ClaimTransition)],
        owner: &impl Fn(OwnerId) -> Option<&'a OwnerState>,
    ) -> Vec<Notice> {
        let mut lost: BTreeMap<(OwnerId, OwnerId), Vec<(Key, Address)>> = BTreeMap::new();
        let mut granted: BTreeMap<OwnerId, Vec<(Key, Address)>> = BTreeMap::new();
        let mut told_again: BTreeMap<Key, usize> = BTreeMap::new();
        for &(key, ClaimTransition { owner: id, address, before, now }) in turns {
            if let (Some(ClaimState::LostTo(_)), ClaimState::LostTo(_)) = (before, now) {
                let count = told_again.entry(key).or_default();
                *count += 1;
                if *count > RENOTIFY_AFTER {
                    continue;
                }
            }
            match (before, now) {
                (_, ClaimState::LostTo(winner)) => lost.entry((id, winner)).or_default().push((key, address)),
                (Some(ClaimState::LostTo(_)), ClaimState::InForce) => {
                    granted.entry(id).or_default().push((key, address));
                }
                (_, ClaimState::InForce) => {}
            }
        }
        let mut notices = Vec::new();
        for ((loser_id, winner_id), ports) in lost {
            let (Some(loser), Some(winner)) = (owner(loser_id), owner(winner_id)) else {
                continue;
            };
            let source =
                ports.first().and_then(|&((protocol, port), address)| self.source(winner_id, protocol, port, address));
            notices.push(Notice::Conflict {
                loser: loser.name.clone(),
                winner: winner.name.clone(),
                source: source.unwrap_or(ClaimSource::Annotation),
                ports: list(&ports),
            });
        }
        for (id, ports) in granted {
            if let Some(owner) = owner(id) {
                notices.push(Notice::Granted { pod: owner.name.clone(), ports: list(&ports) });
            }
        }
        notices
    }

    /// Returns the claims on one port, and what the kernel's maps hold for it.
    pub(super) fn port(&self, protocol: Protocol, port: u16) -> Option<(&[PortClaim], &PortState)> {
        self.ports.get(&(protocol, port)).map(|entry| (entry.stakes.as_slice(), &entry.state))
    }

    /// Returns all claims.
    pub(super) fn claims(&self) -> impl Iterator<Item = (Protocol, u16, &PortClaim)> {
        self.ports.iter().flat_map(|(key, entry)| entry.stakes.iter().map(|stake| (key.0, key.1, stake)))
    }

    /// Returns the source of the owner's claim that overlaps the address, one in force before one that lost; without
    /// one, of its first claim on the port.
    pub(super) fn source(
        &self,
        owner: OwnerId,
        protocol: Protocol,
        port: u16,
        address: Address,
    ) -> Option<ClaimSource> {
        let own = self.ports.get(&(protocol, port))?.stakes.iter().filter(|stake| stake.owner == owner);
        let distance =
            |stake: &&PortClaim| (!stake.address.overlaps(address), stake.state != Some(ClaimState::InForce));
        own.min_by_key(distance).map(|stake| stake.source)
    }

    pub(super) fn in_force(&self, protocol: Protocol, port: u16) -> Vec<ActiveClaim> {
        let stakes = self.ports.get(&(protocol, port)).map(|entry| entry.stakes.as_slice()).unwrap_or_default();
        let in_force = stakes.iter().filter(|stake| stake.state == Some(ClaimState::InForce));
        in_force.map(|&PortClaim { owner, address, source, .. }| ActiveClaim { owner, address, source }).collect()
    }

    /// Returns each port on which one of these owners has a claim in force, of whatever protocol, with the arrival of the
    /// earliest.
    pub(super) fn ports_in_force(&self, is_wanted: impl Fn(OwnerId) -> bool) -> HashMap<u16, i64> {
        let mut ports = HashMap::new();
        for ((_, port), entry) in &self.ports {
            let in_force = entry.stakes.iter().filter(|stake| stake.state == Some(ClaimState::InForce));
            let in_force = in_force.filter(|stake| is_wanted(stake.owner));
            if let Some(since) = in_force.map(|stake| stake.since).min() {
                let earliest = ports.entry(*port).or_insert(since);
                *earliest = since.min(*earliest);
            }
        }
        ports
    }

    /// Returns a number, which is another one where [`Self::ports_in_force`] says other ports.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Returns the numbers at the last arbitration.
    pub(super) fn tally(&self) -> Tally {
        self.tally
    }

    /// Counts the same anew.
    #[cfg(test)]
    pub(super) fn recount(&self, is_service: impl Fn(OwnerId) -> bool) -> Tally {
        let mut tally = Tally::default();
        for entry in self.ports.values() {
            tally.replace(Tally::default(), Tally::of(&entry.stakes, &entry.state, &is_service));
        }
        tally
    }
}

/// Writes ports as few ranges.
fn list(ports: &[(Key, Address)]) -> PortList {
    let mut by_address: BTreeMap<(Protocol, Address), Vec<u16>> = BTreeMap::new();
    for &((protocol, port), address) in ports {
        by_address.entry((protocol, address)).or_default().push(port);
    }
    by_address
        .into_iter()
        .flat_map(|((protocol, address), ports)| {
            compress(ports).into_iter().map(move |range| (protocol, address, range))
        })
        .collect()
}
