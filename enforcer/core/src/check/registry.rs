//! A table of ports and their users that a platform team keeps, and manifests held against it.
//!
//! ```yaml
//! apiVersion: port-enforcer.io/v1alpha1
//! kind: PortRegistry
//! ports:
//! - {port: 9100/tcp, user: DaemonSet monitoring/node-exporter}
//! - {port: 8000-8999, user: [games/*, Service lobby/front], note: ticket 42}
//! - {port: 22, user: node}
//! ```

mod table;
mod text;

pub use table::{PortRegistry, PortUser, RegistryEntry};
pub use text::{registry_text, registry_users};

use std::collections::{BTreeMap, BTreeSet};

use enforcer_ebpf::wire::Protocol;

use self::table::UserName;
use super::{
    CheckResult, CheckSettings, messages,
    object::{Location, ManifestObject, ManifestService},
    pairs::MAX_COMPARISONS,
};
use crate::{
    model::port_spec::PortSpec,
    pods::{
        claims::PodClaim,
        service::{ServiceClaim, ServiceUse},
    },
};

/// Who claims a port, for a message.
#[derive(Clone, Copy, Debug)]
pub(super) enum Claimant<'a> {
    /// The pods of an object.
    Object(&'a ManifestObject, &'a PodClaim),
    /// A Service.
    Service(&'a ManifestService, &'a ServiceClaim),
}

impl Claimant<'_> {
    /// Returns the ports.
    pub(super) const fn spec(self) -> PortSpec {
        match self {
            Self::Object(_, claim) => claim.spec,
            Self::Service(_, claim) => claim.spec,
        }
    }

    /// Checks whether the claim is likely and not declared.
    pub(super) const fn is_likely(self) -> bool {
        match self {
            Self::Object(_, claim) => claim.source.is_likely(),
            Self::Service(..) => false,
        }
    }

    fn name(self) -> UserName {
        match self {
            Self::Object(object, _) => UserName::of_object(object),
            Self::Service(service, _) => UserName::of_service(service),
        }
    }
}

/// What the table says of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Answer {
    /// It is its user's.
    Own,
    /// It is in no entry, or an own entry does not cover all of it.
    Unregistered,
    /// The entry with this place gives it to somebody else.
    Another(usize),
}

/// Checks all new claims against the registry, if there is one.
pub(super) fn check_registry(
    objects: &[&ManifestObject],
    services: &[&ManifestService],
    settings: &CheckSettings,
    outcome: &mut CheckResult,
) {
    let Some(registry) = &settings.registry else {
        return;
    };
    for (place, message) in &registry.problems {
        outcome.push(messages::bad_entry(place.clone(), message));
    }
    if registry.more_problems > 0 {
        outcome.push(messages::more_bad_entries(registry));
    }
    let mut lookup = Lookup::of(registry);
    let new = objects.iter().filter(|object| !object.existing && object.scale.replicas() != Some(0));
    for object in new {
        let claims: Vec<_> = object.claims.iter().map(|claim| Claimant::Object(object, claim)).collect();
        lookup.check(&claims, outcome);
    }
    for service in services.iter().filter(|service| !service.existing) {
        let counts = |by: ServiceUse| by != ServiceUse::LoadBalancer || settings.service_lb;
        let claims = service.claims.iter().filter(|claim| counts(claim.by));
        let claims: Vec<_> = claims.map(|claim| Claimant::Service(service, claim)).collect();
        lookup.check(&claims, outcome);
    }
    if lookup.gave_up {
        outcome.push(messages::gave_up(Location { file: registry.file.clone(), line: None }));
    }
}

/// Entries by their ports.
struct Lookup<'a> {
    registry: &'a PortRegistry,
    /// Entries of one port each.
    single: BTreeMap<(Protocol, u16), Vec<usize>>,
    /// Entries of several ports.
    ranges: Vec<usize>,
    comparisons: u64,
    gave_up: bool,
}

impl<'a> Lookup<'a> {
    fn of(registry: &'a PortRegistry) -> Self {
        let mut lookup = Self { registry, single: BTreeMap::new(), ranges: Vec::new(), comparisons: 0, gave_up: false };
        for (place, RegistryEntry { spec, .. }) in registry.entries.iter().enumerate() {
            if spec.ports.len() == 1 {
                lookup.single.entry((spec.protocol, spec.ports.first())).or_default().push(place);
            } else {
                lookup.ranges.push(place);
            }
        }
        lookup
    }

    /// Checks the claims of one user: one finding for each entry that is somebody else's, and one for all claims that are
    /// in none.
    fn check(&mut self, claims: &[Claimant<'_>], outcome: &mut CheckResult) {
        let mut unregistered = Vec::new();
        let mut of_others: BTreeMap<usize, Vec<Claimant<'_>>> = BTreeMap::new();
        for &claim in claims {
            match self.answer(claim) {
                Answer::Own => {}
                Answer::Unregistered => unregistered.push(claim),
                Answer::Another(entry) => of_others.entry(entry).or_default().push(claim),
            }
        }
        for (entry, claims) in of_others {
            outcome.push(messages::of_another(&claims, self.registry, &self.registry.entries[entry]));
        }
        if !unregistered.is_empty() {
            outcome.push(messages::unregistered(&unregistered, self.registry));
        }
    }

    fn answer(&mut self, claim: Claimant<'_>) -> Answer {
        let (spec, name) = (claim.spec(), claim.name());
        let (first, last) = (spec.ports.first(), spec.ports.last());
        let single = self.single.range((spec.protocol, first)..=(spec.protocol, last)).flat_map(|(_, places)| places);
        let entries = &self.registry.entries;
        let candidates: Vec<usize> =
            single.chain(&self.ranges).copied().filter(|place| entries[*place].spec.overlaps(&spec)).collect();
        // Between two of these, all ports have the same entries.
        let mut starts: BTreeSet<u16> = BTreeSet::from([first]);
        for ports in candidates.iter().map(|place| entries[*place].spec.ports) {
            starts.extend([Some(ports.first()), ports.last().checked_add(1)].into_iter().flatten());
        }
        starts.retain(|start| (first..=last).contains(start));
        self.comparisons += (self.ranges.len() + starts.len() * candidates.len()) as u64;
        if self.comparisons > MAX_COMPARISONS {
            self.gave_up = true;
            return Answer::Own;
        }
        let answers = starts.into_iter().map(|port| {
            let of_port = candidates.iter().copied().filter(|place| entries[*place].spec.ports.contains(port));
            answer_of(entries, of_port.collect(), &spec, &name)
        });
        answers.max().unwrap_or(Answer::Unregistered)
    }
}

/// Returns what the table says of one port. Of the entries that have it, those with the fewest ports count: an entry for a
/// single port takes it out of a range.
fn answer_of(entries: &[RegistryEntry], of_port: Vec<usize>, spec: &PortSpec, name: &UserName) -> Answer {
    let Some(fewest) = of_port.iter().map(|place| entries[*place].spec.ports.len()).min() else {
        return Answer::Unregistered;
    };
    let counting: Vec<usize> = of_port.into_iter().filter(|place| entries[*place].spec.ports.len() == fewest).collect();
    let is_own = |place: &&usize| entries[**place].users.iter().any(|user| user.is(name));
    let own: Vec<&RegistryEntry> = counting.iter().filter(is_own).map(|place| &entries[*place]).collect();
    if own.iter().any(|entry| entry.spec.address.covers(spec.address)) {
        return Answer::Own;
    }
    let another = counting.iter().find(|place| !is_own(place));
    another.map_or(Answer::Unregistered, |place| Answer::Another(*place))
}
