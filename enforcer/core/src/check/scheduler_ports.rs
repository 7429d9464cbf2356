//! Host ports as the scheduler counts them (`GetHostPorts` and `HostPortInfo` in pkg/scheduler): declared ports alone,
//! with addresses that are compared as texts, and no share.

use std::collections::{BTreeMap, BTreeSet};

use enforcer_ebpf::wire::Protocol;
use k8s_openapi::api::core::v1 as api;

use crate::{
    model::{
        port_spec::{PortRange, PortSpec},
        source::ClaimSource,
    },
    pods::{
        claims::PodClaim,
        pod::{declared_port, running_containers},
    },
};

/// The only text that stands for every address (`DefaultBindAllHostIP`), of IPv6 too.
const EVERY_ADDRESS: &str = "0.0.0.0";

/// Declared host ports with the texts of their addresses. One port may be declared with several texts of one address.
pub type SchedulerPorts = BTreeMap<PortSpec, BTreeSet<String>>;

/// Returns the host ports of a pod. An entry that is no port or address is left out.
#[must_use]
pub fn scheduler_ports(pod: &api::Pod) -> SchedulerPorts {
    let mut found = SchedulerPorts::new();
    let Some(spec) = &pod.spec else {
        return found;
    };
    let host_network = spec.host_network.unwrap_or_default();
    for container in running_containers(spec) {
        for entry in container.ports.iter().flatten() {
            let Ok(Some(port)) = declared_port(host_network, &container.name, entry) else {
                continue;
            };
            let Ok(ports) = PortRange::single(port.host_port) else {
                continue;
            };
            let text = entry.host_ip.as_deref().filter(|text| !text.is_empty()).unwrap_or(EVERY_ADDRESS);
            let spec = PortSpec { protocol: port.protocol, address: port.host_ip, ports };
            found.entry(spec).or_default().insert(text.to_owned());
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
