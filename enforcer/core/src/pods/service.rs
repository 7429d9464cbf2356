//! Ports of nodes that a Service takes: by packet rules, with no socket that anybody could see.

use std::fmt;

use k8s_openapi::api::core::v1::{Service, ServicePort};

use crate::model::port_spec::{Address, PortRange, PortSpec, Protocol, protocol_from_name};

/// Way in which a Service takes a port of nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceUse {
    /// `nodePort`: kube-proxy, or what replaces it, forwards it on every node.
    NodePort,
    /// `healthCheckNodePort`: kube-proxy itself listens on it, on every node.
    HealthCheckNodePort,
    /// `externalIPs`: the Service's port is forwarded on each node that has the address.
    ExternalIp,
    /// Type `LoadBalancer` where the load balancer of k3s makes a `DaemonSet` with this `hostPort` of it.
    LoadBalancer,
}

impl ServiceUse {
    /// Returns the name of the field, in messages and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NodePort => "nodePort",
            Self::HealthCheckNodePort => "healthCheckNodePort",
            Self::ExternalIp => "externalIPs",
            Self::LoadBalancer => "loadBalancer",
        }
    }

    /// Checks whether the API server gives the port to one Service only.
    #[must_use]
    pub const fn is_allocated(self) -> bool {
        matches!(self, Self::NodePort | Self::HealthCheckNodePort)
    }
}

impl fmt::Display for ServiceUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Port of nodes that a Service takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceClaim {
    /// The port.
    pub spec: PortSpec,
    /// Way in which it is taken.
    pub by: ServiceUse,
    /// Place of its entry in `spec.ports`, counted from 0; `None` for a port that is in no entry.
    pub entry: Option<usize>,
}

/// Returns the ports that a Service takes on nodes. With `service_lb`, those of type `LoadBalancer` are host ports on every
/// node, as the load balancer of k3s makes them. A Service that names no `nodePort` gets one from the API server, which
/// nobody can know before.
#[must_use]
pub fn service_claims(service: &Service, service_lb: bool) -> Vec<ServiceClaim> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let is_type = |name: &str| spec.type_.as_deref() == Some(name);
    if is_type("ExternalName") {
        return Vec::new();
    }
    let mut claims = Vec::new();
    let mut add = |protocol, address, port: Option<i32>, by, entry| {
        let port = port.and_then(|port| u16::try_from(port).ok());
        if let Some((protocol, Ok(ports))) = protocol_of(protocol).zip(port.map(PortRange::single)) {
            claims.push(ServiceClaim { spec: PortSpec { protocol, address, ports }, by, entry });
        }
    };
    let entries = || spec.ports.iter().flatten().enumerate();
    if !is_type("ClusterIP") {
        for (entry, ServicePort { protocol, node_port, .. }) in entries() {
            add(protocol.as_deref(), Address::Any, *node_port, ServiceUse::NodePort, Some(entry));
        }
        add(None, Address::Any, spec.health_check_node_port, ServiceUse::HealthCheckNodePort, None);
    }
    for address in spec.external_ips.iter().flatten().filter_map(|address| address.parse::<Address>().ok()) {
        for (entry, ServicePort { protocol, port, .. }) in entries() {
            add(protocol.as_deref(), address, Some(*port), ServiceUse::ExternalIp, Some(entry));
        }
    }
    // Another class, or no address of its own, and k3s leaves it alone.
    let is_balanced = is_type("LoadBalancer") && spec.load_balancer_class.is_none();
    if service_lb && is_balanced && spec.cluster_ip.as_deref() != Some("None") {
        for (entry, ServicePort { protocol, port, .. }) in entries() {
            add(protocol.as_deref(), Address::Any, Some(*port), ServiceUse::LoadBalancer, Some(entry));
        }
    }
    claims
}

fn protocol_of(name: Option<&str>) -> Option<Protocol> {
    protocol_from_name(name.unwrap_or("TCP"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claims(spec: &Value, service_lb: bool) -> Vec<String> {
        let service = serde_json::from_value(json!({ "spec": spec })).unwrap();
        let claims = service_claims(&service, service_lb);
        claims.iter().map(|claim| format!("{} {} {:?}", claim.spec, claim.by, claim.entry)).collect()
    }

    #[test]
    fn ports_that_services_take_on_nodes() {
        let ports = json!([{ "port": 53, "protocol": "UDP", "nodePort": 30_053 }, { "port": 80 }, { "port": 81, "nodePort": 0 }]);
        for (spec, expected) in [
            (json!({ "type": "NodePort", "ports": ports }), &["30053/udp nodePort Some(0)"][..]),
            (json!({ "type": "ClusterIP", "ports": ports }), &[]),
            (json!({ "type": "ExternalName", "ports": ports, "externalIPs": ["192.0.2.1"] }), &[]),
            (
                json!({ "type": "LoadBalancer", "healthCheckNodePort": 31_000, "ports": ports }),
                &["30053/udp nodePort Some(0)", "31000/tcp healthCheckNodePort None"],
            ),
            (
                json!({ "externalIPs": ["192.0.2.1", "2001:db8::1", "x"], "ports": [{ "port": 80 }] }),
                &["192.0.2.1:80/tcp externalIPs Some(0)", "[2001:db8::1]:80/tcp externalIPs Some(0)"],
            ),
            (json!({ "type": "NodePort", "ports": [{ "port": 1, "protocol": "ICMP", "nodePort": 30_000 }] }), &[]),
        ] {
            assert_eq!(claims(&spec, false), expected, "{spec}");
        }
    }

    #[test]
    fn load_balancer_of_k3s_takes_host_ports() {
        let balanced = json!({ "type": "LoadBalancer", "ports": [{ "port": 443 }] });
        assert_eq!(claims(&balanced, true), ["443/tcp loadBalancer Some(0)"]);
        assert_eq!(claims(&balanced, false), [""; 0]);
        for (key, value) in [("loadBalancerClass", "example.com/lb"), ("clusterIP", "None"), ("type", "NodePort")] {
            let mut other = balanced.clone();
            other[key] = value.into();
            assert_eq!(claims(&other, true), [""; 0], "{other}");
        }
    }
}
