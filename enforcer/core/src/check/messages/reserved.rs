//! Sentences about claims on ports that the node uses, or that somebody else gives away.

use super::{MAX_LISTED, about, likely::basis, sorted};
use crate::{
    check::{
        finding::{Code, Finding, Severity},
        object::ManifestObject,
    },
    model::{
        kubernetes_ports::{ComponentNodes, NodeComponent},
        list_text::comma_list,
        port_spec::{PortRange, PortSpec},
    },
    pods::claims::PodClaim,
};

/// Names the user of a port of the node, and the nodes on which it is one.
pub(super) fn port_of(component: &NodeComponent) -> String {
    let name = component.name;
    match component.nodes {
        ComponentNodes::Every => format!("a port of {name}, on every node"),
        ComponentNodes::ControlPlane => format!("a port of {name}, on nodes of the control plane"),
        ComponentNodes::Some => format!("a port of {name}, on nodes that run it"),
    }
}

fn verb(claims: &[PodClaim]) -> &'static str {
    if claims.iter().all(|claim| claim.source.is_likely()) { "most likely uses" } else { "claims" }
}

/// Reports a claim on a port of `--node-reserved`.
pub(in crate::check) fn reserved(object: &ManifestObject, claim: &PodClaim, spec: &PortSpec) -> Finding {
    let severity = if claim.source.is_likely() { Severity::Warning } else { Severity::Error };
    let verb = verb(&[*claim]);
    let message =
        format!("{object} {verb} {} ({}), and {spec} is reserved for the node", claim.spec, basis(object, claim));
    let remedy = "choose another port, or take this one out of --node-reserved here and in the agent";
    let finding = about(object, object.place_of(claim), Code::Reserved, severity, message, remedy);
    let mut finding = Finding { ports: vec![claim.spec.to_string()], ..finding };
    finding.set_subject([claim.spec.to_string().as_str(), &spec.to_string()]);
    finding
}

/// Reports a claim on a port of a component of Kubernetes.
pub(in crate::check) fn component_port(
    object: &ManifestObject,
    claim: &PodClaim,
    (component, spec): (&NodeComponent, &PortSpec),
    severity: Severity,
) -> Finding {
    let severity = if claim.source.is_likely() { severity.max(Severity::Warning) } else { severity };
    let verb = verb(&[*claim]);
    let message =
        format!("{object} {verb} {} ({}), and {spec} is {}", claim.spec, basis(object, claim), port_of(component));
    let remedy = "choose another port, or name the ports that your nodes use: --node-reserved LIST, or none";
    let finding = about(object, object.place_of(claim), Code::Reserved, severity, message, remedy);
    let mut finding = Finding { ports: vec![claim.spec.to_string()], ..finding };
    finding.set_subject([claim.spec.to_string().as_str(), &spec.to_string()]);
    finding
}

/// Reports claims that the API server may give to a Service.
pub(in crate::check) fn node_port_range(object: &ManifestObject, claims: &[PodClaim], range: PortRange) -> Finding {
    let message = format!(
        "{object} {} {} inside the range {range} for node ports: the API server may give it to a Service at any time, \
         whose packets then never reach the pod",
        verb(claims),
        ports(claims)
    );
    let remedy = "choose a port outside of the range; --service-node-port-range names another one";
    of_range(object, claims, Code::NodePortRange, message, remedy)
}

/// Reports claims that the kernel may give to an outgoing connection.
pub(in crate::check) fn ephemeral(object: &ManifestObject, claims: &[PodClaim], range: PortRange) -> Finding {
    let message = format!(
        "{object} {} {} inside the ephemeral range {range}: an outgoing connection of the node may have it when the pod \
         binds it",
        verb(claims),
        ports(claims)
    );
    let remedy = "choose a port outside of the range, or reserve it on every node: the agent does that in enforce mode, \
                  else net.ipv4.ip_local_reserved_ports; then --ephemeral-ports none";
    of_range(object, claims, Code::Ephemeral, message, remedy)
}

fn ports(claims: &[PodClaim]) -> String {
    comma_list(claims.iter().map(|claim| format!("{} ({})", claim.spec, claim.source)), MAX_LISTED, 0)
}

fn of_range(object: &ManifestObject, claims: &[PodClaim], code: Code, message: String, remedy: &str) -> Finding {
    let finding = about(object, object.place_of(&claims[0]), code, Severity::Warning, message, remedy);
    let all: Vec<String> = claims.iter().map(|claim| claim.spec.to_string()).collect();
    let mut finding = Finding { ports: all.iter().take(MAX_LISTED).cloned().collect(), ..finding };
    finding.set_subject(sorted(&all));
    finding
}
