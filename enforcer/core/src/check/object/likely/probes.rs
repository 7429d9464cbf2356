//! Ports on which the containers of a pod on the host network are probed.
//!
//! The kubelet connects to the node's address, or to the probe's `host`. So a numeric port of a probe is a port of the
//! node, declared or not. The name of a port refers to a declared one.

use enforcer_ebpf::wire::Protocol;

use crate::{
    model::port_spec::{PortRange, PortSpec},
    pods::probes::host_address,
    yaml::spanned::{Node, Value},
};

/// The probes of a container.
pub(in crate::check::object) const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];
/// The handlers of a probe that connect to a port.
pub(in crate::check::object) const HANDLERS: [&str; 3] = ["httpGet", "tcpSocket", "grpc"];

/// Returns the ports that the probes of a container name by number, each with the probe's name and line.
pub(super) fn probed_ports(container: &Node) -> impl Iterator<Item = (PortSpec, &'static str, u32)> {
    let probes = PROBES.into_iter().filter_map(|name| Some((name, container.get(name)?)));
    let handlers =
        probes.flat_map(|(name, probe)| HANDLERS.into_iter().filter_map(move |key| Some((name, probe.get(key)?))));
    handlers.filter_map(|(name, handler)| {
        let port = handler.get("port")?;
        Some((port_spec(handler, port)?, name, port.line))
    })
}

fn port_spec(handler: &Node, port: &Node) -> Option<PortSpec> {
    let Value::Number(number) = &port.value else {
        return None;
    };
    let ports = PortRange::single(number.as_u64().and_then(|number| u16::try_from(number).ok())?).ok()?;
    let address = host_address(handler.get("host").and_then(Node::text).unwrap_or_default())?;
    Some(PortSpec { protocol: Protocol::Tcp, address, ports })
}
