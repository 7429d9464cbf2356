//! Host ports as the scheduler counts them (`GetHostPorts` and `HostPortInfo` in pkg/scheduler): declared ports alone,
//! with addresses that are compared as texts, and no share.

use std::collections::{BTreeMap, BTreeSet};

use enforcer_ebpf::wire::Protocol;
use k8s_openapi::api::core::v1 as api;

use crate::{
    model::{
        port_spec::{Address, PortRange, PortSpec, protocol_from_name},
        source::ClaimSource,
    },
    pods::claims::PodClaim,
};

/// The only text that stands for every address (`DefaultBindAllHostIP`), of IPv6 too.
const EVERY_ADDRESS: &str = "0.0.0.0";

/// Declared host ports with the texts of their addresses. One port may be declared with several texts of one address.
pub type SchedulerPorts = BTreeMap<PortSpec, BTreeSet<String>>;

/// Returns the host ports of a pod. An address that is none is left out.
#[must_use]
pub fn scheduler_ports(pod: &api::Pod) -> SchedulerPorts {
    let mut found = SchedulerPorts::new();
    let Some(spec) = &pod.spec else {
        return found;
    };
    let host_network = spec.host_network.unwrap_or_default();
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    for port in spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten()) {
        let number = match port.host_port.unwrap_or_default() {
            0 if host_network => port.container_port,
            number => number,
        };
        let ports = u16::try_from(number).ok().and_then(|number| PortRange::single(number).ok());
        let name = port.protocol.as_deref().filter(|name| !name.is_empty());
        let protocol = name.map_or(Some(Protocol::Tcp), protocol_from_name);
        let text = port.host_ip.as_deref().unwrap_or_default();
        let address = if text.is_empty() { Some(Address::Any) } else { text.parse().ok() };
        if let (Some(protocol), Some(ports), Some(address)) = (protocol, ports, address) {
            let text = if text.is_empty() { EVERY_ADDRESS } else { text };
            found.entry(PortSpec { protocol, address, ports }).or_default().insert(text.to_owned());
        }
    }
    found
}

/// Checks whether the scheduler keeps two claims apart (`CheckConflict` of `HostPortInfo`).
#[must_use]
pub fn collide(one: (&SchedulerPorts, &PodClaim), other: (&SchedulerPorts, &PodClaim)) -> bool {
    let key = |claim: &PodClaim| (claim.spec.protocol, claim.spec.ports);
    let is_declared = |claim: &PodClaim| claim.source == ClaimSource::HostPort;
    if key(one.1) != key(other.1) || !is_declared(one.1) || !is_declared(other.1) {
        return false;
    }
    match (one.0.get(&one.1.spec), other.0.get(&other.1.spec)) {
        (Some(one), Some(other)) => {
            one.contains(EVERY_ADDRESS) || other.contains(EVERY_ADDRESS) || !one.is_disjoint(other)
        }
        _ => false,
    }
}

/// Returns the protocol and the port of a claim that the scheduler takes for one on every address: it keeps any two of
/// them apart.
#[must_use]
pub fn wildcard_port(ports: &SchedulerPorts, claim: &PodClaim) -> Option<(Protocol, u16)> {
    let is_wildcard = claim.source == ClaimSource::HostPort && ports.get(&claim.spec)?.contains(EVERY_ADDRESS);
    is_wildcard.then(|| (claim.spec.protocol, claim.spec.ports.first()))
}
