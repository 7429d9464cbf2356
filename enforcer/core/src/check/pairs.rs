//! Which claims of which objects exclude each other, to the agent or to the scheduler.

use std::collections::BTreeMap;

use super::scheduler_ports::{SchedulerPorts, collide};
use crate::{
    arbitration::arbiter::excludes,
    model::{owner::ClaimGroup, port_spec::PortSpec, source::ClaimSource},
    pods::claims::PodClaim,
};

/// Most comparisons of two claims, so that no input keeps the check busy for minutes.
pub(super) const MAX_COMPARISONS: u64 = 20_000_000;
/// Most pairs that are found.
pub(super) const MAX_PAIRS: usize = 10_000;
/// Most overlaps that are kept of one pair.
pub(super) const MAX_OVERLAPS: usize = 64;

/// Whoever claims something.
#[derive(Clone, Copy, Debug)]
pub struct PairSide<'a> {
    /// Group that the claims are for.
    pub group: ClaimGroup,
    /// Claims of the holder.
    pub claims: &'a [PodClaim],
    /// Host ports that the scheduler counts.
    pub scheduler_ports: &'a SchedulerPorts,
    /// It is there already: of two of them nothing is asked.
    pub existing: bool,
}

/// Two claims on ports of one protocol that cannot both be in force, or that the scheduler keeps apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Overlap {
    /// The claim of the first one of the pair.
    pub first: PodClaim,
    /// The claim of the second one.
    pub second: PodClaim,
    /// The claims cannot both be in force.
    pub excluded: bool,
    /// The scheduler refuses to place both on one node.
    pub seen_by_scheduler: bool,
}

/// Two holders that cannot have all that they claim on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pair {
    /// Overlaps that make the pair, as far as there was room, in ascending order.
    pub overlaps: Vec<Overlap>,
    /// Count of further overlaps.
    pub more: usize,
}

/// All pairs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pairs {
    /// Pairs by the places of the two holders, the lower one first.
    pub pairs: BTreeMap<(usize, usize), Pair>,
    /// There was too much to compare; there may be more pairs.
    pub gave_up: bool,
}

impl Overlap {
    /// Checks whether both are ports that containers declare.
    #[must_use]
    pub fn is_declared(&self) -> bool {
        self.first.source == ClaimSource::HostPort && self.second.source == ClaimSource::HostPort
    }

    /// Checks whether one of them is likely and not declared.
    #[must_use]
    pub fn is_likely(&self) -> bool {
        self.first.source.is_likely() || self.second.source.is_likely()
    }

    /// Checks whether both claim the same.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.first.spec == self.second.spec
    }
}

/// Checks whether claims on these, for these, cannot both be in force on some port.
#[must_use]
pub fn exclude(one: (ClaimGroup, &PortSpec), other: (ClaimGroup, &PortSpec)) -> bool {
    one.1.protocol == other.1.protocol
        && one.1.ports.overlaps(other.1.ports)
        && excludes((one.0, one.1.address), (other.0, other.1.address))
}

/// Finds all pairs. The time is that of sorting, plus that of comparing claims whose ports overlap.
#[must_use]
pub fn pairs(holders: &[PairSide<'_>]) -> Pairs {
    let mut claims: Vec<(PodClaim, usize)> = holders
        .iter()
        .enumerate()
        .flat_map(|(place, holder)| holder.claims.iter().map(move |claim| (*claim, place)))
        .collect();
    claims.sort_unstable_by_key(|(claim, place)| (claim.spec.protocol, claim.spec.ports, *place, claim.spec.address));
    let mut found = Pairs::default();
    let mut comparisons = 0;
    // Those that reach to the port at hand.
    let mut active: Vec<(PodClaim, usize)> = Vec::new();
    for (claim, place) in claims {
        active.retain(|(before, _)| {
            before.spec.protocol == claim.spec.protocol && before.spec.ports.last() >= claim.spec.ports.first()
        });
        // Those among themselves are skipped at once.
        let is_new = |(_, other): &&(PodClaim, usize)| !holders[place].existing || !holders[*other].existing;
        comparisons += active.iter().filter(is_new).count() as u64;
        if comparisons > MAX_COMPARISONS {
            found.gave_up = true;
            break;
        }
        for &(before, other) in &active {
            let key = (other.min(place), other.max(place));
            // There is no room for the pair, and the finding says so already.
            if other == place
                || (holders[other].existing && holders[place].existing)
                || found.gave_up && !found.has_room(key)
            {
                continue;
            }
            let (one, two) = (&holders[other], &holders[place]);
            let excluded = exclude((one.group, &before.spec), (two.group, &claim.spec));
            let seen_by_scheduler = collide((one.scheduler_ports, &before), (two.scheduler_ports, &claim));
            if excluded || seen_by_scheduler {
                let (first, second) = if other < place { (before, claim) } else { (claim, before) };
                found.add(key, Overlap { first, second, excluded, seen_by_scheduler });
            }
        }
        active.push((claim, place));
    }
    for pair in found.pairs.values_mut() {
        pair.overlaps.sort_unstable();
    }
    found
}

impl Pairs {
    fn has_room(&self, key: (usize, usize)) -> bool {
        self.pairs.len() < MAX_PAIRS || self.pairs.contains_key(&key)
    }

    fn add(&mut self, key: (usize, usize), overlap: Overlap) {
        if !self.has_room(key) {
            self.gave_up = true;
            return;
        }
        let pair = self.pairs.entry(key).or_default();
        if pair.overlaps.len() < MAX_OVERLAPS {
            pair.overlaps.push(overlap);
        } else {
            pair.more += 1;
        }
    }
}
