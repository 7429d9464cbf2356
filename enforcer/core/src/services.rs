//! Services that take ports of every node: from the API object to claims.
//!
//! Packet rules of kube-proxy, or of what stands in for it, send what arrives on a node port to the Service, before any
//! socket sees it. A listener on that port is shadowed.

use enforcer_ebpf::wire::Protocol;
use k8s_openapi::api::core::v1::{Service as ServiceObject, ServicePort};

use crate::{
    model::{
        name::Name,
        port_spec::{Address, PortRange, PortSpec, protocol_from_name},
        source::ClaimSource,
    },
    pods::{claims::PodClaim, pod::ARRIVAL_UNKNOWN},
};

/// Most ports of one Service that are read. An API server refuses nothing above it, and nobody has that many.
pub const MAX_SERVICE_PORTS: usize = 1024;

/// The facts of a Service that claims are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID; empty if the object has none.
    pub uid: String,
    /// Time of its creation, in microseconds since 1970, else [`ARRIVAL_UNKNOWN`].
    pub created: i64,
    /// Its claims: node ports first, each protocol and port once.
    pub claims: Vec<PodClaim>,
}

impl Service {
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

/// Reads a Service of the API. One that takes no port of the nodes has no claims.
#[must_use]
pub fn from_api(object: &ServiceObject) -> Service {
    let metadata = &object.metadata;
    let mut claims: Vec<PodClaim> = Vec::new();
    for (protocol, port, source) in node_ports(object).take(MAX_SERVICE_PORTS) {
        let Ok(ports) = PortRange::single(port) else { continue };
        let spec = PortSpec { protocol, address: Address::Any, ports };
        if claims.iter().all(|claim| claim.spec != spec) {
            claims.push(PodClaim { spec, source });
        }
    }
    Service {
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        created: metadata.creation_timestamp.as_ref().map_or(ARRIVAL_UNKNOWN, |time| time.0.as_microsecond()),
        claims,
    }
}

/// Returns the ports that a Service takes on every node, and where it says so. Ports that are none are left out.
pub fn node_ports(object: &ServiceObject) -> impl Iterator<Item = (Protocol, u16, ClaimSource)> {
    let spec = object.spec.as_ref();
    let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default().iter();
    let number = |port: i32| u16::try_from(port).ok().filter(|port| *port > 0);
    let node_port = move |port: &ServicePort| {
        let protocol = protocol_from_name(port.protocol.as_deref().filter(|name| !name.is_empty()).unwrap_or("TCP"))?;
        Some((protocol, number(port.node_port?)?, ClaimSource::NodePort))
    };
    let health_check = spec.and_then(|spec| spec.health_check_node_port).and_then(number);
    let health_check = health_check.map(|port| (Protocol::Tcp, port, ClaimSource::HealthCheckNodePort));
    ports.filter_map(node_port).chain(health_check)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims(spec: &serde_json::Value) -> Vec<String> {
        let object = json!({ "metadata": { "namespace": "web", "name": "shop" }, "spec": spec });
        let service = from_api(&serde_json::from_value(object).unwrap());
        assert_eq!(service.owner_name().to_string(), "Service web/shop");
        service.claims.iter().map(|claim| format!("{} ({})", claim.spec, claim.source)).collect()
    }

    #[test]
    fn service_claims_its_node_ports_on_every_address() {
        let spec = json!({ "type": "LoadBalancer", "healthCheckNodePort": 32000, "ports": [
            { "port": 80, "nodePort": 30080 },
            { "port": 53, "nodePort": 30053, "protocol": "UDP" },
            { "port": 53, "nodePort": 30053, "protocol": "TCP" },
        ] });
        let expected =
            ["30080/tcp (nodePort)", "30053/udp (nodePort)", "30053/tcp (nodePort)", "32000/tcp (healthCheckNodePort)"];
        assert_eq!(claims(&spec), expected);
    }

    #[test]
    fn ports_that_are_none_are_left_out() {
        let spec = json!({ "ports": [
            { "port": 80 },
            { "port": 80, "nodePort": 0 },
            { "port": 80, "nodePort": -1 },
            { "port": 80, "nodePort": 65536 },
            { "port": 80, "nodePort": 30001, "protocol": "QUIC" },
            { "port": 80, "nodePort": 30002 },
            { "port": 81, "nodePort": 30002 },
        ], "healthCheckNodePort": 70000 });
        assert_eq!(claims(&spec), ["30002/tcp (nodePort)"]);
        assert_eq!(claims(&json!({ "type": "ClusterIP" })), [""; 0]);
    }
}
