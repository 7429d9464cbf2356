//! Ports that Services take on nodes: among themselves, and against the claims of pods.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, hash_map::Entry};

use enforcer_ebpf::wire::Protocol;

use super::{
    CheckResult, CheckSettings,
    finding::Severity,
    messages,
    object::{Location, ManifestObject, ManifestService, WorkloadKind},
    pairs::{MAX_COMPARISONS, MAX_OVERLAPS, MAX_PAIRS},
    port_ranges::is_loopback,
    reserved::component_of,
};
use crate::{
    model::port_spec::PortSpec,
    pods::{
        claims::PodClaim,
        service::{ServiceClaim, ServiceUse},
    },
};

/// Beginning of the names of the `DaemonSets` that the load balancer of k3s makes of Services.
const SERVICE_LB: &str = "svclb-";

/// A claim of a Service, with the Service's place among all.
type PlacedClaim<'a> = (usize, &'a ServiceClaim);

/// Pods and a Service that want the same ports of nodes.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServiceOverlap<'a> {
    /// The object that makes the pods.
    pub object: &'a ManifestObject,
    /// The Service.
    pub service: &'a ManifestService,
    /// Way in which the Service takes the ports.
    pub by: ServiceUse,
    /// Claims that overlap, as far as there was room; never none.
    pub claims: &'a [(PodClaim, ServiceClaim)],
}

/// Returns the Services without those that are there already: of one that is there twice, the first one counts.
pub(super) fn first_of_each<'a>(
    services: &'a [ManifestService],
    outcome: &mut CheckResult,
) -> Vec<&'a ManifestService> {
    let mut seen: HashMap<(&str, &str), &ManifestService> = HashMap::new();
    let mut first = Vec::new();
    for service in services {
        if service.generated {
            first.push(service);
            continue;
        }
        match seen.entry((&service.namespace, &service.name)) {
            Entry::Vacant(entry) => {
                entry.insert(service);
                first.push(service);
            }
            Entry::Occupied(_) if service.existing => {}
            Entry::Occupied(entry) => outcome.push(messages::duplicate_service(service, entry.get())),
        }
    }
    first
}

/// Checks the ports that Services take. Returns, for each object, its claims on node ports of Services.
pub(super) fn check_services(
    objects: &[&ManifestObject],
    services: &[&ManifestService],
    settings: &CheckSettings,
    outcome: &mut CheckResult,
) -> Vec<BTreeSet<PodClaim>> {
    let claims = counted_claims(objects, services, settings);
    allocated(services, &claims, outcome);
    for &(place, claim) in &claims {
        let service = services[place];
        if !service.existing {
            of_the_node(service, claim, settings, outcome);
        }
    }
    balanced(services, &claims, outcome);
    with_objects(objects, services, &claims, outcome)
}

/// Returns the claims that count: what the load balancer of k3s takes only with `service_lb`, and not where its own
/// `DaemonSet` is there and stands for it.
fn counted_claims<'a>(
    objects: &[&ManifestObject],
    services: &[&'a ManifestService],
    settings: &CheckSettings,
) -> Vec<PlacedClaim<'a>> {
    let has_daemon_set = objects.iter().any(|object| is_service_lb(object));
    let counts = |service: &ManifestService, claim: &ServiceClaim| {
        claim.by != ServiceUse::LoadBalancer || settings.service_lb && !(service.existing && has_daemon_set)
    };
    let all = services.iter().enumerate().flat_map(|(place, service)| {
        service.claims.iter().filter(move |claim| counts(service, claim)).map(move |claim| (place, claim))
    });
    all.collect()
}

fn is_service_lb(object: &ManifestObject) -> bool {
    object.existing && object.kind == WorkloadKind::DaemonSet && object.name.starts_with(SERVICE_LB)
}

/// Finds node ports that two Services name. The API server gives a number to one Service, whatever the protocol; within
/// one, protocols may share it.
fn allocated(services: &[&ManifestService], claims: &[PlacedClaim<'_>], outcome: &mut CheckResult) {
    let mut first: HashMap<u16, PlacedClaim<'_>> = HashMap::new();
    // Places of Services and ports that are reported.
    let mut reported = HashSet::new();
    for &(place, claim) in claims.iter().filter(|(_, claim)| claim.by.is_allocated()) {
        let port = claim.spec.ports.first();
        let (other_place, other) = match first.entry(port) {
            Entry::Vacant(entry) => {
                entry.insert((place, claim));
                continue;
            }
            Entry::Occupied(entry) => *entry.get(),
        };
        let may_share = place == other_place && claim.by == other.by && claim.spec.protocol != other.spec.protocol;
        if !may_share && !services[place].existing && reported.insert((place, port)) {
            outcome.push(messages::node_port_twice((services[place], claim), (services[other_place], other)));
        }
    }
}

/// Checks a port of a Service against those of the node, and a node port against their range.
fn of_the_node(service: &ManifestService, claim: &ServiceClaim, settings: &CheckSettings, outcome: &mut CheckResult) {
    if claim.by == ServiceUse::ExternalIp {
        // Whether a node has the address, nobody knows.
        return;
    }
    let is_taken = |spec: &&PortSpec| spec.overlaps(&claim.spec);
    if let Some(spec) = settings.node_reserved.iter().find(is_taken) {
        outcome.push(messages::service_on_node_port((service, claim), &spec.to_string(), None, Severity::Error));
    } else if let Some((component, severity)) = component_of(&claim.spec, settings) {
        let port = claim.spec.to_string();
        outcome.push(messages::service_on_node_port((service, claim), &port, Some(component), severity));
    } else if let Some(range) = settings.allocated.node_ports
        && claim.by.is_allocated()
        && !range.contains(claim.spec.ports.first())
    {
        outcome.push(messages::node_port_outside((service, claim), range));
    }
}

/// Finds Services of which the load balancer of k3s makes `DaemonSets` with one host port.
fn balanced(services: &[&ManifestService], claims: &[PlacedClaim<'_>], outcome: &mut CheckResult) {
    let mut first: HashMap<PortSpec, PlacedClaim<'_>> = HashMap::new();
    for &(place, claim) in claims.iter().filter(|(_, claim)| claim.by == ServiceUse::LoadBalancer) {
        match first.entry(claim.spec) {
            Entry::Vacant(entry) => {
                entry.insert((place, claim));
            }
            Entry::Occupied(entry) => {
                let (other_place, other) = *entry.get();
                if other_place != place && !services[place].existing {
                    outcome.push(messages::balanced_twice((services[place], claim), (services[other_place], other)));
                }
            }
        }
    }
}

/// Finds claims of pods on ports that Services take.
fn with_objects(
    objects: &[&ManifestObject],
    services: &[&ManifestService],
    claims: &[PlacedClaim<'_>],
    outcome: &mut CheckResult,
) -> Vec<BTreeSet<PodClaim>> {
    let mut by_port: BTreeMap<(Protocol, u16), Vec<PlacedClaim<'_>>> = BTreeMap::new();
    for &(place, claim) in claims {
        by_port.entry((claim.spec.protocol, claim.spec.ports.first())).or_default().push((place, claim));
    }
    let mut found = Overlaps::default();
    for (place, object) in objects.iter().enumerate() {
        if object.scale.replicas() == Some(0) || is_service_lb(object) {
            continue;
        }
        for claim in object.claims.iter().filter(|claim| !is_loopback(claim.spec.address)) {
            let PortSpec { protocol, ports, .. } = claim.spec;
            let taken =
                by_port.range((protocol, ports.first())..=(protocol, ports.last())).flat_map(|(_, taken)| taken);
            for &(service, of_service) in taken {
                let is_new = !object.existing || !services[service].existing;
                if is_new && found.has_time() && claim.spec.address.overlaps(of_service.spec.address) {
                    found.add((place, service, of_service.by), (*claim, *of_service));
                }
            }
        }
    }
    let mut shadowed = vec![BTreeSet::new(); objects.len()];
    for ((place, service, by), claims) in &found.pairs {
        if by.is_allocated() {
            shadowed[*place].extend(claims.iter().map(|(claim, _)| *claim));
        }
        let overlap = ServiceOverlap { object: objects[*place], service: services[*service], by: *by, claims };
        outcome.push(messages::service_overlap(&overlap));
    }
    if let Some(last) = services.last().filter(|_| found.gave_up) {
        outcome.push(messages::gave_up(Location { line: None, ..last.place.clone() }));
    }
    shadowed
}

/// Overlaps by the places of object and Service, and the way in which the Service takes the port.
#[derive(Default)]
struct Overlaps {
    pairs: BTreeMap<(usize, usize, ServiceUse), Vec<(PodClaim, ServiceClaim)>>,
    comparisons: u64,
    gave_up: bool,
}

impl Overlaps {
    /// Counts a comparison. Returns whether there is time for it.
    fn has_time(&mut self) -> bool {
        self.comparisons += 1;
        self.gave_up |= self.comparisons > MAX_COMPARISONS;
        !self.gave_up
    }

    fn add(&mut self, key: (usize, usize, ServiceUse), claims: (PodClaim, ServiceClaim)) {
        if self.pairs.len() >= MAX_PAIRS && !self.pairs.contains_key(&key) {
            self.gave_up = true;
            return;
        }
        let overlaps = self.pairs.entry(key).or_default();
        if overlaps.len() < MAX_OVERLAPS {
            overlaps.push(claims);
        }
    }
}
