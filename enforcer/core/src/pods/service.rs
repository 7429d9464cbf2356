//! Ports of nodes that a Service takes: by packet rules, with no socket that anybody could see.

use std::fmt;

use k8s_openapi::api::core::v1::{Service, ServicePort};

use super::{claims::PodClaim, pod::ARRIVAL_UNKNOWN};
use crate::model::{
    name::Name,
    port_spec::{Address, PortRange, PortSpec, Protocol, protocol_from_name},
    source::ClaimSource,
};

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

/// Most ports of one Service that are read. No API server refuses more, and nobody has that many.
const MAX_SERVICE_PORTS: usize = 1024;

/// A Service as the agent knows it: the ports that it takes on every node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePortService {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID; empty if the object has none.
    pub uid: String,
    /// Time of its creation, in microseconds since 1970, else [`ARRIVAL_UNKNOWN`].
    pub created: i64,
    /// Its claims, each protocol and port once. None if it takes no port of every node.
    pub claims: Vec<PodClaim>,
}

impl NodePortService {
    /// Reads a Service of the API.
    #[must_use]
    pub fn from_api(object: &Service) -> Self {
        let metadata = &object.metadata;
        let mut claims: Vec<PodClaim> = Vec::new();
        for ServiceClaim { spec, by, .. } in service_claims(object, false).into_iter().take(MAX_SERVICE_PORTS) {
            let source = match by {
                ServiceUse::NodePort => ClaimSource::NodePort,
                ServiceUse::HealthCheckNodePort => ClaimSource::HealthCheckNodePort,
                ServiceUse::ExternalIp | ServiceUse::LoadBalancer => continue,
            };
            if claims.iter().all(|claim| claim.spec != spec) {
                claims.push(PodClaim { spec, source });
            }
        }
        Self {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
            created: metadata.creation_timestamp.as_ref().map_or(ARRIVAL_UNKNOWN, |time| time.0.as_microsecond()),
            claims,
        }
    }

    /// Returns the name that the Service has as an owner.
    #[must_use]
    pub fn owner_name(&self) -> Name {
        let Self { namespace, name, uid, .. } = self;
        Name {
            namespace: namespace.clone(),
            name: name.clone(),
            uid: uid.clone(),
            mirror: None,
            handover: None,
            service: true,
        }
    }
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

    #[test]
    fn agent_claims_what_is_taken_on_every_node() {
        let spec = json!({ "type": "LoadBalancer", "healthCheckNodePort": 32_000, "externalIPs": ["192.0.2.1"], "ports": [
            { "port": 80, "nodePort": 30_080 },
            { "port": 53, "nodePort": 30_053, "protocol": "UDP" },
            { "port": 81, "nodePort": 30_080 },
            { "port": 82, "nodePort": 65_536 },
            { "port": 83, "nodePort": -1 },
        ] });
        let object = json!({ "metadata": { "namespace": "web", "name": "shop" }, "spec": spec });
        let service = NodePortService::from_api(&serde_json::from_value(object).unwrap());
        let claims: Vec<_> = service.claims.iter().map(|claim| format!("{} ({})", claim.spec, claim.source)).collect();
        assert_eq!(claims, ["30080/tcp (nodePort)", "30053/udp (nodePort)", "32000/tcp (healthCheckNodePort)"]);
        assert_eq!(service.owner_name().to_string(), "Service web/shop");
        assert_eq!(service.created, ARRIVAL_UNKNOWN);
    }
}
