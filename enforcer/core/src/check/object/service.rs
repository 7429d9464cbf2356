//! Services: the ports of nodes that they take, and the pods that they send connections to.

use std::{collections::BTreeMap, fmt, sync::Arc};

use enforcer_ebpf::wire::Protocol;
use serde_json::{Value as Json, json};

use super::{
    Location, MAX_NAME, ManifestObject,
    fields::{Expected, FieldError, field, items, metadata_text},
    pod_json::part,
};
use crate::{
    check::finding::NamedObject,
    model::{
        port_spec::{protocol_from_name, protocol_name},
        text::escape_bounded,
    },
    pods::service::{ServiceClaim, service_claims},
    yaml::spanned::{Node, Value},
};

/// Fields of a Service and of its ports that are read.
const FIELDS: [&str; 6] = ["clusterIP", "externalIPs", "healthCheckNodePort", "loadBalancerClass", "selector", "type"];
const PORT_FIELDS: [&str; 3] = ["nodePort", "port", "protocol"];

/// A Service.
#[derive(Clone, Debug)]
pub struct ManifestService {
    /// Its namespace; `default` if it names none.
    pub namespace: String,
    /// Its name, or the beginning of it where the API server makes one.
    pub name: String,
    /// The API server makes the name, a new one each time.
    pub generated: bool,
    /// Place of the Service.
    pub place: Location,
    /// It is there already: only what others bring is reported.
    pub existing: bool,
    /// Ports of nodes that it takes, also as the load balancer of k3s takes them.
    pub claims: Vec<ServiceClaim>,
    /// Labels of the pods that it selects; empty if it selects none.
    selector: BTreeMap<String, String>,
    /// Ports of the selected pods that it sends connections to; none if clients connect to the pods themselves.
    pub targets: Vec<ServiceTarget>,
    /// Lines of its ports.
    lines: Vec<u32>,
    /// Line of its `healthCheckNodePort`.
    health_check: Option<u32>,
}

/// Port of pods that a Service sends connections to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceTarget {
    /// The protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: TargetPort,
    /// Place of its entry in `spec.ports`, counted from 0.
    pub entry: usize,
}

/// Number or name of a port of pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// The number.
    Number(u16),
    /// The name that a container gives to one of its ports.
    Name(String),
}

impl fmt::Display for ServiceTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.port {
            TargetPort::Number(port) => write!(f, "{port}/{}", protocol_name(self.protocol)),
            TargetPort::Name(name) => {
                write!(f, "'{}' ({})", escape_bounded(name, MAX_NAME), protocol_name(self.protocol))
            }
        }
    }
}

/// Facts about a pod that decide whether a Service reaches it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointFacts {
    /// Labels of the pod.
    labels: BTreeMap<String, String>,
    /// Names of the ports of its containers and sidecars.
    port_names: Vec<(String, Protocol)>,
}

impl EndpointFacts {
    /// Reads the facts from the labels and the spec of a pod.
    pub(super) fn of<'a>(labels: Option<&Node>, containers: impl Iterator<Item = &'a Node>) -> Self {
        let ports = containers.filter_map(|container| container.get("ports")).flat_map(Node::items);
        let port_names = ports.filter_map(|port| {
            let protocol = port.get("protocol").and_then(Node::text).map_or(Some(Protocol::Tcp), protocol_from_name);
            Some((port.get("name")?.text()?.to_owned(), protocol?))
        });
        Self { labels: text_entries(labels), port_names: port_names.collect() }
    }

    /// Checks whether a container names a port.
    #[must_use]
    pub fn has_port(&self, name: &str, protocol: Protocol) -> bool {
        self.port_names.iter().any(|(other, of)| other == name && *of == protocol)
    }
}

/// The kind, namespace and name, safe to show.
impl fmt::Display for ManifestService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Service {}/{}", self.shown_namespace(), self.shown_name())
    }
}

impl ManifestService {
    /// Returns its namespace, safe to show.
    #[must_use]
    pub fn shown_namespace(&self) -> String {
        escape_bounded(&self.namespace, MAX_NAME)
    }

    /// Returns its name, safe to show; ends in `*` where the API server makes the rest.
    #[must_use]
    pub fn shown_name(&self) -> String {
        let name = escape_bounded(&self.name, MAX_NAME);
        if self.generated { name + "*" } else { name }
    }

    /// Refers to the Service, at a place.
    #[must_use]
    pub fn named(&self, place: Location) -> NamedObject {
        NamedObject { kind: "Service".into(), namespace: self.shown_namespace(), name: self.shown_name(), place }
    }

    /// Returns the place of a claim.
    #[must_use]
    pub fn place_of(&self, claim: &ServiceClaim) -> Location {
        match claim.entry {
            Some(entry) => self.place_of_entry(entry),
            None => self.at(self.health_check),
        }
    }

    /// Returns the place of an entry of its ports.
    #[must_use]
    pub fn place_of_entry(&self, entry: usize) -> Location {
        self.at(self.lines.get(entry).copied())
    }

    /// Checks whether it selects the pods of an object.
    #[must_use]
    pub fn selects(&self, object: &ManifestObject) -> bool {
        let labels = &object.endpoint.labels;
        !self.selector.is_empty()
            && self.namespace == object.namespace
            && self.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    /// Forgets the lines on which its parts stand: it was never a file that people know.
    pub(in crate::check) fn forget_lines(&mut self) {
        self.place.line = None;
        self.lines.clear();
        self.health_check = None;
    }

    fn at(&self, line: Option<u32>) -> Location {
        Location { file: self.place.file.clone(), line: line.or(self.place.line) }
    }
}

/// Reads a Service. `lines_before` is how many lines of the file come before the document.
pub(super) fn read_service(root: &Node, file: &Arc<str>, lines_before: u32) -> Result<ManifestService, FieldError> {
    let metadata = root.get("metadata").ok_or("it has no metadata")?;
    let (name, generated) = match (metadata_text(metadata, "name")?, metadata_text(metadata, "generateName")?) {
        (Some(name), _) => (name, false),
        (None, Some(beginning)) => (beginning, true),
        (None, None) => return Err("it has no metadata.name".into()),
    };
    let none = Node { line: root.line, value: Value::Null };
    let spec = root.get("spec").unwrap_or(&none);
    check_types(spec)?;
    let service = serde_json::from_value(json!({ "spec": json_of(spec) })).map_err(|error| error.to_string())?;
    let line = |node: &Node| lines_before.saturating_add(node.line);
    let entries = spec.get("ports").map(Node::items).unwrap_or_default();
    let text = |key: &str| spec.get(key).and_then(Node::text);
    // An external name leads elsewhere; without an address of its own, clients choose the port themselves.
    let is_forwarded = text("type") != Some("ExternalName") && text("clusterIP") != Some("None");
    let selector = if is_forwarded { text_entries(spec.get("selector")) } else { BTreeMap::new() };
    let targets = entries.iter().enumerate().filter_map(target);
    Ok(ManifestService {
        namespace: metadata_text(metadata, "namespace")?.unwrap_or_else(|| "default".to_owned()),
        name,
        generated,
        place: Location { file: file.clone(), line: Some(line(root)) },
        existing: false,
        claims: service_claims(&service, true),
        targets: if selector.is_empty() { Vec::new() } else { targets.collect() },
        selector,
        lines: entries.iter().map(line).collect(),
        health_check: spec.get("healthCheckNodePort").map(line),
    })
}

/// Checks the types of the fields that are read.
fn check_types(spec: &Node) -> Result<(), FieldError> {
    for (key, expected) in [
        ("clusterIP", Expected::Text),
        ("externalIPs", Expected::List),
        ("healthCheckNodePort", Expected::Number),
        ("loadBalancerClass", Expected::Text),
        ("type", Expected::Text),
    ] {
        field(spec, "spec", key, expected)?;
    }
    if let Some((selector, path)) = field(spec, "spec", "selector", Expected::Map)? {
        for (key, _) in selector.entries() {
            field(selector, &path, key, Expected::Text)?;
        }
    }
    items(spec, "spec", "ports", |port, path| {
        for (key, expected) in [
            ("port", Expected::Number),
            ("nodePort", Expected::Number),
            ("targetPort", Expected::PortOrName),
            ("protocol", Expected::Text),
        ] {
            field(port, path, key, expected)?;
        }
        Ok(())
    })
}

fn json_of(spec: &Node) -> Json {
    let mut json = part(spec, &FIELDS);
    let ports = spec.get("ports").map(Node::items).unwrap_or_default();
    json["ports"] = ports.iter().map(|port| part(port, &PORT_FIELDS)).collect();
    json
}

fn target((entry, node): (usize, &Node)) -> Option<ServiceTarget> {
    let name = node.get("protocol").and_then(Node::text).filter(|name| !name.is_empty());
    let protocol = name.map_or(Some(Protocol::Tcp), protocol_from_name)?;
    let number = |node: &Node| {
        let Value::Number(number) = &node.value else { return None };
        number.as_u64().and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0)
    };
    let port = match node.get("targetPort") {
        // The API server takes digits in quotes for a name, and refuses them.
        Some(target) if target.text().is_some_and(|text| !text.is_empty()) => {
            TargetPort::Name(target.text()?.to_owned())
        }
        Some(target) if number(target).is_some() => TargetPort::Number(number(target)?),
        // 0 and nothing mean the Service's own port.
        _ => TargetPort::Number(number(node.get("port")?)?),
    };
    Some(ServiceTarget { protocol, port, entry })
}

fn text_entries(map: Option<&Node>) -> BTreeMap<String, String> {
    let entries = map.map(Node::entries).unwrap_or_default();
    entries.iter().filter_map(|(key, value)| Some((key.clone(), value.text()?.to_owned()))).collect()
}
