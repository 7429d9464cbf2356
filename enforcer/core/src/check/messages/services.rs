//! Sentences about Services: the ports that they take, and where their connections arrive.

use super::MAX_LISTED;
use crate::{
    check::{
        endpoints::EndpointFault,
        finding::{Code, Finding, NamedObject, Severity},
        object::{Location, ManifestService, ServiceTarget, TargetPort},
        services::ServiceOverlap,
    },
    model::{kubernetes_ports::NodeComponent, list_text::comma_list, port_spec::PortRange, source::ClaimSource},
    pods::service::{ServiceClaim, ServiceUse},
};

/// A Service and one of its claims.
type Claimed<'a> = (&'a ManifestService, &'a ServiceClaim);

/// Creates a finding about a Service.
fn about(service: &ManifestService, place: Location, code: Code, severity: Severity, message: String) -> Finding {
    let alone = super::alone(place, code, message, "");
    Finding { severity, object: Some(service.named(service.place.clone())), ..alone }
}

fn about_claim((service, claim): Claimed<'_>, code: Code, severity: Severity, message: String) -> Finding {
    let finding = about(service, service.place_of(claim), code, severity, message);
    Finding { ports: vec![claim.spec.to_string()], ..finding }
}

pub(in crate::check) fn duplicate_service(service: &ManifestService, first: &ManifestService) -> Finding {
    let message = format!("{service} is at {} already; that one was checked, and this one was not", first.place);
    let finding = about(service, service.place.clone(), Code::Duplicate, Severity::Note, message);
    Finding {
        remedy: "check variants of one object one by one".to_owned(),
        other: Some(first.named(first.place.clone())),
        ..finding
    }
}

/// Reports a node port that two Services name, or one Service twice.
pub(in crate::check) fn node_port_twice(one: Claimed<'_>, first: Claimed<'_>) -> Finding {
    let (service, claim) = one;
    let (other, of_other) = first;
    let place = other.place_of(of_other);
    let port = claim.spec.ports;
    let message = if std::ptr::eq(service, other) {
        format!("{service} has {port} as {} and as {} ({place}): the API server refuses it", claim.by, of_other.by)
    } else {
        format!(
            "{service} has {port} as {}, which is the {} of {other} ({place}): the API server gives a node port to one \
             Service only, whatever the protocol, and refuses the second",
            claim.by, of_other.by
        )
    };
    let remedy = "give one of them another node port, or none: the API server then finds a free one".to_owned();
    let mut finding = about_claim(one, Code::NodePort, Severity::Error, message);
    finding.set_subject([port.to_string().as_str()]);
    Finding { remedy, other: Some(other.named(place)), ..finding }
}

/// Reports a port of a Service that the node itself uses. `component`: what of Kubernetes does; without one,
/// `--node-reserved` says so.
pub(in crate::check) fn service_on_node_port(
    one: Claimed<'_>,
    port: &str,
    component: Option<&NodeComponent>,
    severity: Severity,
) -> Finding {
    let (service, claim) = one;
    let who = match component {
        Some(component) => format!("{port} is {}", super::reserved::port_of(component)),
        None => format!("{port} is reserved for the node"),
    };
    let message = format!(
        "{service} takes {} on every node ({}), and {who}: packets for it go to the Service",
        claim.spec, claim.by
    );
    let remedy = "give the Service another port".to_owned();
    let mut finding = about_claim(one, Code::Reserved, severity, message);
    finding.set_subject([claim.by.to_string().as_str(), &claim.spec.to_string(), port]);
    Finding { remedy, ..finding }
}

pub(in crate::check) fn node_port_outside(one: Claimed<'_>, range: PortRange) -> Finding {
    let (service, claim) = one;
    let message = format!(
        "{service} has {} as {}, outside of the range {range} for node ports: the API server refuses it, unless its \
         --service-node-port-range is another one",
        claim.spec.ports, claim.by
    );
    let remedy =
        "name a port inside, or none, or the API server's range: --service-node-port-range FIRST-LAST".to_owned();
    let mut finding = about_claim(one, Code::NodePortRange, Severity::Warning, message);
    finding.set_subject([claim.by.to_string().as_str(), &claim.spec.to_string()]);
    Finding { remedy, ..finding }
}

/// Reports two Services of which the load balancer of k3s makes `DaemonSets` with one host port.
pub(in crate::check) fn balanced_twice(one: Claimed<'_>, first: Claimed<'_>) -> Finding {
    let (service, claim) = one;
    let (other, of_other) = first;
    let place = other.place_of(of_other);
    let message = format!(
        "{service} and {other} ({place}) are of type LoadBalancer with {}: ServiceLB makes a DaemonSet with this hostPort \
         of each, and the pods of the second stay Pending",
        claim.spec
    );
    let remedy = "give one of them another port, or put one ingress in front of both".to_owned();
    Finding { remedy, other: Some(other.named(place)), ..about_claim(one, Code::Conflict, Severity::Error, message) }
}

/// Reports pods and a Service that want the same ports of nodes.
pub(in crate::check) fn service_overlap(overlap: &ServiceOverlap<'_>) -> Finding {
    let &ServiceOverlap { object, service, by, claims } = overlap;
    let (claim, of_service) = claims[0];
    let ports = comma_list(claims.iter().map(|(_, of_service)| of_service.spec), MAX_LISTED, 0);
    let verb = if claim.source.is_likely() { "most likely uses" } else { "claims" };
    let (of_object, of_other) = (object.place_of(&claim), service.place_of(&of_service));
    let subject = if object.existing { format!("{object} ({of_object})") } else { object.to_string() };
    let named = if object.existing { service.to_string() } else { format!("{service} ({of_other})") };
    let begin = format!("{subject} {verb} {} ({})", claim.spec, claim.source);
    let listener = if object.host_network { "listener" } else { "hostPort" };
    let is_own = service.selects(object);
    let is_declared = claim.source == ClaimSource::HostPort;
    let (code, severity, what, remedy) = match by {
        ServiceUse::NodePort if is_own => (
            Code::Shadowed,
            Severity::Note,
            format!(
                "which is the nodePort of {named}, its own: packets for {ports} go to any of the Service's pods, and not \
                 to the {listener} of the node"
            ),
            "drop the nodePort, or give the Service another one",
        ),
        ServiceUse::NodePort => (
            Code::Shadowed,
            Severity::Warning,
            format!(
                "which is a nodePort of {named}: {ports} is forwarded on every node without a socket, and so the {listener} \
                 gets no packet, in silence"
            ),
            "give the pods a port outside of the range for node ports, or the Service another nodePort",
        ),
        ServiceUse::HealthCheckNodePort => (
            Code::Shadowed,
            Severity::Warning,
            format!("which is the healthCheckNodePort of {named}: kube-proxy listens on {ports} on every node"),
            "give the pods a port outside of the range for node ports, or the Service another healthCheckNodePort",
        ),
        ServiceUse::ExternalIp => (
            Code::Shadowed,
            Severity::Warning,
            format!(
                "and {named} has {ports} by externalIPs: on a node that has the address, packets for it go to the Service, \
                 and the {listener} gets none"
            ),
            "take the node's address out of externalIPs, or give the pods another port",
        ),
        ServiceUse::LoadBalancer if is_declared => (
            Code::Conflict,
            if object.is_custom() { Severity::Warning } else { Severity::Error },
            format!(
                "and {named} is of type LoadBalancer: ServiceLB makes a DaemonSet with hostPort {ports} of it, the \
                 scheduler sees it, and pods of one of them stay Pending"
            ),
            "give one of them another port, or the Service the type ClusterIP",
        ),
        ServiceUse::LoadBalancer => (
            Code::Shadowed,
            if claim.source.is_likely() || object.is_custom() { Severity::Warning } else { Severity::Error },
            format!(
                "and {named} is of type LoadBalancer: ServiceLB makes a DaemonSet with hostPort {ports} of it, which the \
                 CNI forwards on every node without a socket, and so the {listener} gets no packet, in silence"
            ),
            "give one of them another port, or the Service the type ClusterIP",
        ),
    };
    let message = format!("{begin}, {what}");
    let mut finding = if object.existing {
        let finding = about(service, of_other, code, severity, message);
        Finding { other: Some(NamedObject { place: of_object, ..NamedObject::of(object) }), ..finding }
    } else {
        let finding = super::about(object, of_object, code, severity, message, "");
        Finding { other: Some(service.named(of_other)), ..finding }
    };
    remedy.clone_into(&mut finding.remedy);
    finding.ports = claims.iter().take(MAX_LISTED).map(|(_, of_service)| of_service.spec.to_string()).collect();
    let all = claims.iter().map(|(claim, of_service)| format!("{} {}", claim.spec, of_service.spec));
    let all: Vec<String> = all.collect();
    let by = by.to_string();
    finding.set_subject([by.as_str()].into_iter().chain(super::sorted(&all)));
    finding
}

/// Reports a port of a Service whose connections do not arrive as meant.
pub(in crate::check) fn endpoint(
    service: &ManifestService,
    target: &ServiceTarget,
    fault: EndpointFault<'_>,
) -> Finding {
    let is_name = matches!(target.port, TargetPort::Name(_));
    let kind = match fault {
        EndpointFault::Unknown(_) => "unknown",
        EndpointFault::Loopback(_) => "loopback",
        EndpointFault::NoName(_) => "no name",
        EndpointFault::OneAddress(..) => "one address",
        EndpointFault::Replicas(_) => "replicas",
    };
    let (object, severity, message, remedy) = match fault {
        EndpointFault::Unknown(object) => (
            object,
            Severity::Note,
            format!(
                "{service} sends connections to {target} of {object}, which is on the host network and does not declare \
                 the port"
            ),
            "declare it, so that it is checked and the scheduler counts it, or correct targetPort",
        ),
        EndpointFault::Loopback(object) => (
            object,
            Severity::Warning,
            format!(
                "{service} sends connections to {target} of {object}, which is on the host network and has the port on \
                 the loopback only: no connection arrives"
            ),
            "let the pods listen on all addresses, or correct targetPort",
        ),
        EndpointFault::NoName(object) => (
            object,
            Severity::Warning,
            format!(
                "{service} sends connections to port {target} of {object}, and no container of the pods that it selects \
                 names a port so: it has no endpoint"
            ),
            "name the port in the container, or correct targetPort",
        ),
        EndpointFault::OneAddress(listener, object) => (
            object,
            Severity::Warning,
            format!(
                "{service} selects {listener} and {object}, both on the host network, and only the former is known to have {target}: \
                 the endpoint of the latter is the same address on a node with pods of both, and refuses connections on \
                 the others"
            ),
            "let the selector match the pods of one of them only",
        ),
        EndpointFault::Replicas(object) => (
            object,
            Severity::Note,
            format!(
                "{service} selects {object}, whose pods share their ports on one node: there, their endpoints for \
                 {target} are one address"
            ),
            "connections are spread over nodes and not over pods; no step is needed if that is meant",
        ),
    };
    let place = service.place_of_entry(target.entry);
    // What is there already is no place for people to look at.
    let finding = if service.existing {
        let other = Some(service.named(place));
        Finding { other, ..super::about(object, object.place.clone(), Code::Endpoint, severity, message, "") }
    } else {
        let other = Some(NamedObject::of(object));
        Finding { other, ..about(service, place, Code::Endpoint, severity, message) }
    };
    let ports = if is_name { Vec::new() } else { vec![target.to_string()] };
    let mut finding = Finding { ports, remedy: remedy.to_owned(), ..finding };
    finding.set_subject([kind, &target.to_string()]);
    finding
}
