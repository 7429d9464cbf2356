//! Ports that a pod on the host network most likely listens on, because it is probed there.
//!
//! The kubelet connects to the node's address, or to the probe's `host`. So a numeric port of a probe is a port of the
//! node, declared or not. The name of a port refers to a declared one.

use std::net::Ipv4Addr;

use enforcer_ebpf::wire::Protocol;

use super::{MAX_NAME, is_sidecar};
use crate::{
    model::{
        port_spec::{Address, PortRange, PortSpec},
        source::ClaimSource,
        text::escape_bounded,
    },
    pods::claims::PodClaim,
    yaml::spanned::{Node, Value},
};

/// The probes of a container.
pub(super) const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];
/// The handlers of a probe that connect to a port.
pub(super) const HANDLERS: [&str; 3] = ["httpGet", "tcpSocket", "grpc"];
/// Most ports that are taken from the probes of one pod.
const MAX_PROBED: usize = 64;

/// A port on which a probe expects a listener that no container declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbedPort {
    /// The likely claim.
    pub claim: PodClaim,
    /// Name of the container that has the probe, safe to show.
    pub container: String,
    /// Line of the file.
    pub(super) line: u32,
}

impl ProbedPort {
    /// Returns the line of a manifest that declares the port.
    #[must_use]
    pub fn declaration(&self) -> String {
        let PortSpec { address, ports, .. } = self.claim.spec;
        let port = ports.first();
        match address {
            Address::Any => format!("ports: [{{containerPort: {port}}}]"),
            Address::V4(address) => format!("ports: [{{containerPort: {port}, hostIP: {address}}}]"),
            Address::V6(address) => format!("ports: [{{containerPort: {port}, hostIP: \"{address}\"}}]"),
        }
    }
}

/// Checks whether one of these claims overlaps a port.
pub(super) fn is_covered(claims: &[PodClaim], spec: &PortSpec) -> bool {
    claims.iter().any(|claim| {
        claim.spec.protocol == spec.protocol
            && claim.spec.ports.overlaps(spec.ports)
            && claim.spec.address.overlaps(spec.address)
    })
}

/// Returns the ports that the probes of a pod's containers and sidecars name by number and no claim covers. The pod is on
/// the host network.
pub(super) fn probed_ports(spec: &Node, known: &[PodClaim], lines_before: u32) -> Vec<ProbedPort> {
    let mut found: Vec<ProbedPort> = Vec::new();
    for (container, handler) in running_containers(spec).flat_map(handlers) {
        let Some((spec, line)) = handler.get("port").and_then(|port| Some((port_spec(handler, port)?, port.line)))
        else {
            continue;
        };
        if is_covered(known, &spec) || found.iter().any(|other| other.claim.spec == spec) {
            continue;
        }
        let name = container.get("name").and_then(Node::text).unwrap_or_default();
        found.push(ProbedPort {
            claim: PodClaim { spec, source: ClaimSource::Probe },
            container: escape_bounded(name, MAX_NAME),
            line: lines_before.saturating_add(line),
        });
        if found.len() == MAX_PROBED {
            break;
        }
    }
    found
}

/// Returns the containers that run beside each other: all but the plain init containers.
pub(super) fn running_containers(spec: &Node) -> impl Iterator<Item = &Node> {
    let of = |key| spec.get(key).map(Node::items).unwrap_or_default().iter();
    of("containers").chain(of("initContainers").filter(|container| is_sidecar(container)))
}

fn handlers(container: &Node) -> impl Iterator<Item = (&Node, &Node)> {
    let probes = PROBES.into_iter().filter_map(|probe| container.get(probe));
    probes.flat_map(move |probe| HANDLERS.into_iter().filter_map(move |key| Some((container, probe.get(key)?))))
}

fn port_spec(handler: &Node, port: &Node) -> Option<PortSpec> {
    let Value::Number(number) = &port.value else {
        return None;
    };
    let ports = PortRange::single(number.as_u64().and_then(|number| u16::try_from(number).ok())?).ok()?;
    let address = match handler.get("host").and_then(Node::text).unwrap_or_default() {
        "" => Address::Any,
        "localhost" => Address::V4(Ipv4Addr::LOCALHOST),
        // Another name may be another machine.
        host => host.trim_start_matches('[').trim_end_matches(']').parse().ok()?,
    };
    Some(PortSpec { protocol: Protocol::Tcp, address, ports })
}
