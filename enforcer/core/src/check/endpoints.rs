//! Where the connections of Services arrive whose pods are on the host network: each endpoint is the node's address with a
//! port that one process of the node has, or nobody.

use std::collections::HashMap;

use super::{
    CheckResult, messages,
    object::{ManifestObject, ManifestService, ServiceTarget, TargetPort},
    pairs::MAX_COMPARISONS,
    placement::CoPlacement,
    port_ranges::is_loopback,
    scheduler_ports::collide,
};
use crate::pods::claims::PodClaim;

/// Most objects of one Service that are compared with each other.
const MAX_SELECTED: usize = 32;

/// Fault of a Service's port.
#[derive(Clone, Copy, Debug)]
pub(super) enum EndpointFault<'a> {
    /// No pod is known to listen on the port.
    Unknown(&'a ManifestObject),
    /// The pods claim it on the loopback only.
    Loopback(&'a ManifestObject),
    /// No container names it.
    NoName(&'a ManifestObject),
    /// The first one listens on it, and the second one does not: where both have a pod, the endpoints are one.
    OneAddress(&'a ManifestObject, &'a ManifestObject),
    /// Pods of one object can be on one node, and nothing keeps them apart.
    Replicas(&'a ManifestObject),
}

/// Checks each Service that selects pods on the host network.
pub(super) fn check_endpoints(objects: &[&ManifestObject], services: &[&ManifestService], outcome: &mut CheckResult) {
    let mut by_namespace: HashMap<&str, Vec<&ManifestObject>> = HashMap::new();
    for object in objects.iter().filter(|object| object.scale.replicas() != Some(0)) {
        by_namespace.entry(&object.namespace).or_default().push(object);
    }
    let mut comparisons = 0;
    for service in services.iter().filter(|service| !service.targets.is_empty()) {
        let candidates = by_namespace.get(service.namespace.as_str()).map(Vec::as_slice).unwrap_or_default();
        comparisons += candidates.len() as u64;
        if comparisons > MAX_COMPARISONS {
            outcome.push(messages::gave_up(service.place.clone()));
            return;
        }
        let mut selected: Vec<&ManifestObject> =
            candidates.iter().filter(|object| service.selects(object)).take(MAX_SELECTED).copied().collect();
        // Which of them a finding names does not depend on the order of the input.
        let name = |object: &ManifestObject| (object.kind_name.clone(), object.name.clone());
        selected.sort_by_cached_key(|object| name(object));
        let on_host: Vec<&ManifestObject> = selected.iter().filter(|object| object.host_network).copied().collect();
        if on_host.is_empty() || service.existing && selected.iter().all(|object| object.existing) {
            continue;
        }
        let mut reports = 0;
        for target in &service.targets {
            if let Some(fault) = fault(target, &selected, &on_host) {
                outcome.push(messages::endpoint(service, target, fault));
                reports += 1;
            }
        }
        if reports == 0
            && let Some((target, object)) = shared_by_replicas(service, &on_host)
        {
            outcome.push(messages::endpoint(service, target, EndpointFault::Replicas(object)));
        }
    }
}

/// Returns the fault of a port of a Service. `on_host`: those of the selected objects that are on the host network.
fn fault<'a>(
    target: &ServiceTarget,
    selected: &[&'a ManifestObject],
    on_host: &[&'a ManifestObject],
) -> Option<EndpointFault<'a>> {
    let port = match &target.port {
        TargetPort::Name(name) => {
            let has_name = |object: &&ManifestObject| object.endpoint.has_port(name, target.protocol);
            return (!selected.iter().any(has_name)).then(|| EndpointFault::NoName(first_new(on_host)));
        }
        TargetPort::Number(port) => *port,
    };
    let is_claim = |claim: &PodClaim| claim.spec.protocol == target.protocol && claim.spec.ports.contains(port);
    let listens =
        |object: &ManifestObject| object.claims.iter().any(|claim| is_claim(claim) && !is_loopback(claim.spec.address));
    if !on_host.iter().any(|object| listens(object)) {
        if on_host.len() < selected.len() {
            // The others may be meant: nothing is declared of them, and nothing needs to be.
            return None;
        }
        let on_loopback = on_host.iter().find(|object| object.claims.iter().any(is_claim));
        return Some(match on_loopback {
            Some(object) => EndpointFault::Loopback(object),
            None => EndpointFault::Unknown(first_new(on_host)),
        });
    }
    let (listeners, others): (Vec<_>, Vec<_>) = on_host.iter().partition(|object| listens(object));
    let pairs = listeners.iter().flat_map(|listener| others.iter().map(move |other| (*listener, *other)));
    // Of an object whose ports are not known, nobody knows that it does not listen.
    let meets = |(listener, other): &(&ManifestObject, &ManifestObject)| {
        (!listener.existing || !other.existing)
            && other.unknown_ports.is_none()
            && listener.placement.co_placement(&other.placement) != CoPlacement::Never
            && !are_kept_apart(listener, other)
    };
    let pairs: Vec<(&ManifestObject, &ManifestObject)> = pairs.collect();
    pairs.into_iter().find(meets).map(|(listener, other)| EndpointFault::OneAddress(listener, other))
}

/// Returns the first object that is new; the first one if none is.
fn first_new<'a>(objects: &[&'a ManifestObject]) -> &'a ManifestObject {
    objects.iter().find(|object| !object.existing).unwrap_or(&objects[0])
}

/// Checks whether the scheduler lets no pods of two objects onto one node.
fn are_kept_apart(one: &ManifestObject, other: &ManifestObject) -> bool {
    let collides = |claim: &PodClaim| {
        other.claims.iter().any(|of| collide((&one.scheduler_ports, claim), (&other.scheduler_ports, of)))
    };
    one.placement.keeps_apart(&other.placement) || one.claims.iter().any(collides)
}

/// Returns an object of which several pods share a port of the Service on one node by intention: with a share group, their
/// endpoints are one.
fn shared_by_replicas<'a, 'b>(
    service: &'b ManifestService,
    on_host: &[&'a ManifestObject],
) -> Option<(&'b ServiceTarget, &'a ManifestObject)> {
    let object = on_host.iter().find(|object| {
        let several = object.scale.replicas().is_some_and(|replicas| replicas > 1);
        several && object.share.is_some() && !object.existing && !are_kept_apart(object, object)
    })?;
    Some((service.targets.first()?, object))
}
