//! What a server makes of pods and namespaces before it keeps them, and what it would refuse.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::core::v1::{
        Container, Namespace, NamespaceSpec, NamespaceStatus, Node, NodeSpec, NodeStatus, Pod, PodStatus, Service,
        ServiceStatus,
    },
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};
use serde_json::Value;

/// The label that every namespace has.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Number of bytes that the annotations of an object may have.
const ANNOTATIONS: usize = 256 * 1024;

/// Checks whether it is one part of a name: letters and digits, and the others only inside.
fn is_part(text: &str, longest: usize, inside: &str, letter: impl Fn(char) -> bool) -> bool {
    text.len() <= longest
        && text.starts_with(&letter)
        && text.ends_with(&letter)
        && text.chars().all(|one| letter(one) || inside.contains(one))
}

fn lower(letter: char) -> bool {
    letter.is_ascii_lowercase() || letter.is_ascii_digit()
}

pub(super) fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(|part| is_part(part, 253, "-", lower))
}

/// Checks for `name` or `prefix/name`.
pub(super) fn is_qualified_name(text: &str) -> bool {
    let (prefix, name) = text.split_once('/').unwrap_or(("x", text));
    is_subdomain(prefix) && is_part(name, 63, "-_.", |letter| letter.is_ascii_alphanumeric())
}

pub(super) fn check_metadata(metadata: &ObjectMeta) -> Result<(), String> {
    let annotations = metadata.annotations.iter().flatten();
    if annotations.map(|(key, value)| key.len() + value.len()).sum::<usize>() > ANNOTATIONS {
        return Err(format!("annotations have at most {ANNOTATIONS} bytes"));
    }
    let labels = metadata.labels.iter().flatten();
    let bad = labels.clone().map(|(key, _)| key).chain(metadata.annotations.iter().flatten().map(|(key, _)| key));
    if let Some(key) = bad.into_iter().find(|key| !is_qualified_name(&key.to_ascii_lowercase())) {
        return Err(format!("{key:?} is no key"));
    }
    let value = |text: &str| text.is_empty() || is_part(text, 63, "-_.", |letter| letter.is_ascii_alphanumeric());
    match labels.into_iter().find(|(_, text)| !value(text)) {
        Some((key, text)) => Err(format!("{text:?} is no value for the label {key}")),
        None => Ok(()),
    }
}

/// Sets what a server sets, and checks the part of a pod that the project reads.
pub(super) fn admit_pod(mut pod: Pod, before: Option<&Value>) -> Result<Pod, String> {
    check_metadata(&pod.metadata)?;
    for (what, text) in [("name", &pod.metadata.name), ("namespace", &pod.metadata.namespace)] {
        if !text.as_deref().is_some_and(is_subdomain) {
            return Err(format!("{text:?} is no {what}"));
        }
    }
    let spec = pod.spec.as_mut().filter(|spec| !spec.containers.is_empty()).ok_or("a pod has containers")?;
    let host_network = spec.host_network == Some(true);
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        admit_container(container, host_network)?;
    }
    let mut taken = BTreeSet::new();
    for port in spec.containers.iter().flat_map(|container| container.ports.iter().flatten()) {
        let Some(number) = port.host_port.filter(|number| *number != 0) else { continue };
        if !taken.insert((&port.protocol, &port.host_ip, number)) {
            return Err(format!("the host port {number} is declared twice"));
        }
    }
    let status = pod.status.get_or_insert_with(PodStatus::default);
    status.phase.get_or_insert_with(|| "Pending".to_owned());
    if let Some(before) = before {
        let spec = pod.spec.as_ref();
        let node = spec.and_then(|spec| spec.node_name.as_deref());
        let bound = before["spec"]["nodeName"].as_str();
        if bound.is_some() && bound != node {
            return Err(format!("a pod stays on its node: {bound:?}, not {node:?}"));
        }
        if before["spec"]["hostNetwork"].as_bool().unwrap_or_default() != host_network {
            return Err("spec.hostNetwork cannot be edited".to_owned());
        }
    }
    Ok(pod)
}

fn admit_container(container: &mut Container, host_network: bool) -> Result<(), String> {
    for port in container.ports.iter_mut().flatten() {
        port.protocol.get_or_insert_with(|| "TCP".to_owned());
        let number = port.container_port;
        if host_network {
            let declared = port.host_port.filter(|declared| *declared != 0);
            if *port.host_port.insert(declared.unwrap_or(number)) != number {
                return Err(format!("the container port {number} of a pod on the host network is its host port"));
            }
        }
        let host = port.host_port.unwrap_or_default();
        if !(1..=65535).contains(&number) || !(0..=65535).contains(&host) {
            return Err(format!("{number}, {host}: a port lies between 1 and 65535"));
        }
    }
    Ok(())
}

/// Sets what a server sets, and checks a namespace.
pub(super) fn admit_namespace(mut namespace: Namespace) -> Result<Namespace, String> {
    check_metadata(&namespace.metadata)?;
    let name = namespace.metadata.name.clone().unwrap_or_default();
    if !is_part(&name, 63, "-", lower) {
        return Err(format!("{name:?} is no name of a namespace"));
    }
    namespace.metadata.labels.get_or_insert_default().insert(NAME_LABEL.to_owned(), name);
    let spec = namespace.spec.get_or_insert_with(NamespaceSpec::default);
    spec.finalizers.get_or_insert_with(|| vec!["kubernetes".to_owned()]);
    let status = namespace.status.get_or_insert_with(NamespaceStatus::default);
    let phase = if namespace.metadata.deletion_timestamp.is_some() { "Terminating" } else { "Active" };
    status.phase = Some(phase.to_owned());
    Ok(namespace)
}

/// Sets what a server sets, and checks a node.
pub(super) fn admit_node(mut node: Node) -> Result<Node, String> {
    check_metadata(&node.metadata)?;
    let name = node.metadata.name.as_deref();
    if !name.is_some_and(is_subdomain) {
        return Err(format!("{name:?} is no name of a node"));
    }
    node.spec.get_or_insert_with(NodeSpec::default);
    node.status.get_or_insert_with(NodeStatus::default);
    Ok(node)
}

/// Sets what a server sets, and checks the part of a Service that the project reads. `taken` says which Service has a
/// node port already.
pub(super) fn admit_service(
    mut service: Service,
    taken: impl Fn(i32, &str) -> Option<String>,
) -> Result<Service, String> {
    check_metadata(&service.metadata)?;
    let name = service.metadata.name.as_deref();
    // Unlike other names it begins with a letter (RFC 1035).
    let begins = |name: &&str| name.starts_with(|letter: char| letter.is_ascii_lowercase());
    if !name.filter(begins).is_some_and(|name| is_part(name, 63, "-", lower)) {
        return Err(format!("{name:?} is no name of a Service"));
    }
    let spec = service.spec.as_mut().ok_or("a Service has a spec")?;
    let kind = spec.type_.get_or_insert_with(|| "ClusterIP".to_owned()).as_str();
    if !matches!(kind, "ClusterIP" | "NodePort" | "LoadBalancer" | "ExternalName") {
        return Err(format!("{kind:?} is no type of a Service"));
    }
    let has_node_ports = matches!(kind, "NodePort" | "LoadBalancer");
    let needs_node_ports =
        kind == "NodePort" || (has_node_ports && spec.allocate_load_balancer_node_ports != Some(false));
    for port in spec.ports.iter_mut().flatten() {
        let protocol = port.protocol.get_or_insert_with(|| "TCP".to_owned());
        port.target_port.get_or_insert(IntOrString::Int(port.port));
        let given = port.node_port.filter(|port| *port != 0);
        if ![Some(port.port), given].into_iter().flatten().all(|number| (1..=65535).contains(&number)) {
            return Err(format!("{}, {given:?}: a port lies between 1 and 65535", port.port));
        }
        match given {
            Some(_) if !has_node_ports => return Err(format!("nodePort may not be used when the type is {kind}")),
            None if needs_node_ports => {
                return Err("a server would choose a node port by chance: the test has to".to_owned());
            }
            Some(given) => {
                if let Some(other) = taken(given, protocol) {
                    return Err(format!("the node port {given} is already allocated, to {other}"));
                }
            }
            None => {}
        }
    }
    service.status.get_or_insert_with(ServiceStatus::default).load_balancer.get_or_insert_default();
    Ok(service)
}
