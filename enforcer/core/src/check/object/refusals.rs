//! What the API server refuses of ports and updates, and what a container runtime refuses of ports.
//!
//! The rules are those of Kubernetes, by name: `validateContainerPorts`, `checkHostPortConflicts`,
//! `validatePodHostNetworkDeps` and `validateProbe` in pkg/apis/core/validation/validation.go;
//! `ValidateDeploymentStrategy`, `ValidateRollingUpdateDeployment`, `ValidateDaemonSetUpdateStrategy` and
//! `ValidateRollingUpdateDaemonSet` in pkg/apis/apps/validation/validation.go. They apply after the defaults
//! (pkg/apis/core/v1/defaults.go).

use std::collections::{BTreeMap, BTreeSet};

use super::{
    MAX_QUOTED, is_sidecar,
    kinds::WorkloadKind,
    likely::{HANDLERS, PROBES},
};
use crate::{
    check::finding::{Code, Severity},
    model::{port_spec::Address, text::escape_bounded},
    yaml::spanned::{Node, Value},
};

/// Most refusals that are kept of one object.
const MAX_REFUSALS: usize = 64;
/// Longest name of a port (`IsValidPortName` in k8s.io/apimachinery/pkg/util/validation).
const MAX_PORT_NAME: usize = 15;

/// Part of an object that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiRefusal {
    /// Code of the finding.
    pub code: Code,
    /// Severity of the finding.
    pub severity: Severity,
    /// Line of the file.
    pub line: u32,
    /// The field, and who refuses it and why. Safe to show.
    pub message: String,
    /// The remedy.
    pub remedy: &'static str,
}

/// Collects the refusals of an object.
#[derive(Debug)]
pub(super) struct Refusals {
    lines_before: u32,
    pub(super) found: Vec<ApiRefusal>,
    pub(super) more: usize,
}

impl Refusals {
    pub(super) fn new(lines_before: u32) -> Self {
        Self { lines_before, found: Vec::new(), more: 0 }
    }

    fn add(&mut self, code: Code, severity: Severity, node: &Node, message: String, remedy: &'static str) {
        if self.found.len() < MAX_REFUSALS {
            let line = self.lines_before.saturating_add(node.line);
            self.found.push(ApiRefusal { code, severity, line, message, remedy });
        } else {
            self.more += 1;
        }
    }

    fn port(&mut self, node: &Node, message: String, remedy: &'static str) {
        self.add(Code::Port, Severity::Error, node, message, remedy);
    }

    /// Adds a warning about an API version or a kind that no API server serves.
    pub(super) fn api_version(&mut self, kind: WorkloadKind, version: &str, name: &str, root: &Node) {
        let (served_version, served_kind) = (kind.api_version(), kind.as_str());
        if (version, name) == (served_version, served_kind) {
            return;
        }
        let node = root.get(if version == served_version { "kind" } else { "apiVersion" }).unwrap_or(root);
        let [version, name] = [version, name].map(|text| escape_bounded(text, MAX_QUOTED));
        let instead = if name == served_kind {
            format!("write {served_version}")
        } else {
            format!("write kind: {served_kind} with {served_version}")
        };
        let message = format!("is {version} {name}, and no API server serves it; {instead}");
        let remedy = "correct apiVersion and kind; the object is checked as if they were right";
        self.add(Code::ApiVersion, Severity::Warning, node, message, remedy);
    }

    /// Adds what is refused of the pods' spec, which has this path.
    pub(super) fn pod_spec(&mut self, spec: &Node, path: &str) {
        let host_network = spec.get("hostNetwork").is_some_and(|node| node.value == Value::Bool(true));
        let mut taken = BTreeMap::new();
        for key in ["containers", "initContainers"] {
            for (place, container) in spec.get(key).map(Node::items).unwrap_or_default().iter().enumerate() {
                let path = format!("{path}.{key}[{place}]");
                let main = key == "containers";
                let sidecar = !main && is_sidecar(container);
                self.container_ports(container, &path, host_network, main, main || sidecar);
                if main {
                    self.host_port_conflicts(container, &path, host_network, &mut taken);
                } else {
                    // Init containers run one by one, so each is compared with itself only.
                    self.host_port_conflicts(container, &path, host_network, &mut BTreeMap::new());
                    if sidecar {
                        self.sidecar_conflicts(container, &path, host_network, &taken);
                    }
                }
                self.probes(container, &path);
            }
        }
    }

    /// `validateContainerPorts`, and `validatePodHostNetworkDeps` for the main containers.
    fn container_ports(&mut self, container: &Node, path: &str, host_network: bool, main: bool, runs: bool) {
        let mut names = BTreeSet::new();
        for (place, port) in ports_of(container) {
            let path = format!("{path}.ports[{place}]");
            if let Some((node, name)) = text_of(port, "name") {
                let shown = escape_bounded(name, MAX_QUOTED);
                if let Some(reason) = port_name_problem(name) {
                    let message = format!("{path}.name is '{shown}', and the API server refuses it: {reason}");
                    self.port(node, message, "name it with up to 15 of a-z, 0-9 and -, and a letter among them");
                } else if !names.insert(name) {
                    let message =
                        format!("{path}.name is '{shown}', as another port of the container: Duplicate value");
                    self.port(node, message, "give each port of a container a name of its own");
                }
            }
            let container_port = number_of(port, "containerPort");
            let host_port = number_of(port, "hostPort");
            let refused = "ports are 1 to 65535, and the API server refuses all others";
            match port.get("containerPort").zip(container_port) {
                None | Some((_, 0)) => {
                    let message = format!("{path} has no containerPort, and the API server refuses it");
                    self.port(port, message, "write the port on which the program listens");
                }
                Some((node, number)) if !is_port(number) => {
                    self.port(node, format!("{path}.containerPort is {number}; {refused}"), "correct the port");
                }
                Some(_) => {}
            }
            if let Some((node, number)) = port.get("hostPort").zip(host_port)
                && number != 0
            {
                if !is_port(number) {
                    self.port(node, format!("{path}.hostPort is {number}; {refused}"), "correct the port");
                } else if host_network
                    && main
                    && let Some(other) = container_port.filter(|other| *other != number)
                {
                    let message = format!(
                        "{path}.hostPort is {number} and containerPort is {other}: with hostNetwork the API server \
                         refuses it unless they are equal"
                    );
                    self.port(node, message, "remove hostPort: with hostNetwork the program's own port is the node's");
                }
            }
            if let Some((node, protocol)) = text_of(port, "protocol")
                && !matches!(protocol, "TCP" | "UDP" | "SCTP")
            {
                let protocol = escape_bounded(protocol, MAX_QUOTED);
                let message = format!("{path}.protocol is '{protocol}', and the API server refuses it");
                self.port(node, message, "write TCP, UDP or SCTP, in capitals");
            }
            // Only the port of a container that runs beside the others is one of the node.
            let published = runs && (host_network || host_port.unwrap_or_default() != 0);
            if published {
                self.host_ip(port, &path, host_network);
            }
        }
    }

    /// No validation looks at a `hostIP`, but whoever forwards the port must bind it.
    fn host_ip(&mut self, port: &Node, path: &str, host_network: bool) {
        let Some((node, text)) = text_of(port, "hostIP") else {
            return;
        };
        let Err(error) = text.parse::<Address>() else {
            return;
        };
        let outcome = if host_network {
            "the API server accepts it, the scheduler compares it as a text, and it claims nothing"
        } else {
            "the API server accepts it, but the container runtime does not, and the pod never starts"
        };
        let text = escape_bounded(text, MAX_QUOTED);
        let message = format!("{path}.hostIP is '{text}', which {error}: {outcome}");
        self.port(node, message, "write an address of the node, or remove hostIP for all addresses");
    }

    /// `checkHostPortConflicts`: the same protocol, `hostIP` (as text) and `hostPort` twice. `taken` has the paths of
    /// those that came before.
    fn host_port_conflicts(
        &mut self,
        container: &Node,
        path: &str,
        host_network: bool,
        taken: &mut BTreeMap<HostPortKey, String>,
    ) {
        for (place, port) in ports_of(container) {
            let Some(key) = host_port_of(port, host_network) else {
                continue;
            };
            let path = format!("{path}.ports[{place}]");
            let Some(first) = taken.get(&key) else {
                taken.insert(key, path);
                continue;
            };
            let message = format!(
                "{path} has {}, and so has {first}: the API server refuses the pod (Duplicate value), and only one of two \
                 programs could bind it",
                shown(&key)
            );
            self.port(port.get("hostPort").unwrap_or(port), message, "remove one of them, or give it another port");
        }
    }

    /// A sidecar runs beside the main containers, which no validation considers.
    fn sidecar_conflicts(
        &mut self,
        container: &Node,
        path: &str,
        host_network: bool,
        taken: &BTreeMap<HostPortKey, String>,
    ) {
        for (place, port) in ports_of(container) {
            let Some((key, first)) = host_port_of(port, host_network).and_then(|key| taken.get_key_value(&key)) else {
                continue;
            };
            let message = format!(
                "{path}.ports[{place}] has {}, and so has {first}: the API server accepts it of a sidecar, and only one of \
                 two programs can bind it",
                shown(key)
            );
            let node = port.get("hostPort").unwrap_or(port);
            self.add(Code::Port, Severity::Warning, node, message, "give one of them another port");
        }
    }

    /// `ValidatePortNumOrName` of the ports of probes.
    fn probes(&mut self, container: &Node, path: &str) {
        for (probe, handler) in PROBES.iter().flat_map(|probe| HANDLERS.map(|handler| (*probe, handler))) {
            let Some(node) = container.at(&[probe, handler, "port"]) else {
                continue;
            };
            let path = format!("{path}.{probe}.{handler}.port");
            match &node.value {
                Value::Number(number) if !number.as_i64().is_some_and(is_port) => {
                    let message =
                        format!("{path} is {number}; ports are 1 to 65535, and the API server refuses all others");
                    self.port(node, message, "correct the port");
                }
                Value::Text(name) => {
                    let Some(reason) = port_name_problem(name) else {
                        continue;
                    };
                    let number = name.parse::<u16>().is_ok();
                    let name = escape_bounded(name, MAX_QUOTED);
                    let message = format!("{path} is the text \"{name}\", and the API server refuses it: {reason}");
                    let remedy = if number { "leave out the quotes" } else { "write a port or its name" };
                    self.port(node, message, remedy);
                }
                _ => {}
            }
        }
    }

    /// Adds what is refused of the update strategy.
    pub(super) fn update_strategy(&mut self, kind: WorkloadKind, spec: &Node) {
        let (key, types) = match kind {
            WorkloadKind::Deployment => ("strategy", ["RollingUpdate", "Recreate"]),
            WorkloadKind::DaemonSet => ("updateStrategy", ["RollingUpdate", "OnDelete"]),
            _ => return,
        };
        if let Some((node, name)) = spec.get(key).and_then(|strategy| text_of(strategy, "type"))
            && !types.contains(&name)
        {
            let name = escape_bounded(name, MAX_QUOTED);
            let message = format!("spec.{key}.type is '{name}', and the API server refuses it of a {}", kind.as_str());
            let remedy = if kind == WorkloadKind::DaemonSet {
                "write RollingUpdate or OnDelete"
            } else {
                "write RollingUpdate or Recreate"
            };
            self.add(Code::Surge, Severity::Error, node, message, remedy);
            return;
        }
        let Some(rolling) = spec.at(&[key, "rollingUpdate"]) else {
            return;
        };
        let path = format!("spec.{key}.rollingUpdate");
        let mut refuse = |node: &Node, message: String, remedy| {
            self.add(Code::Surge, Severity::Error, node, message, remedy);
        };
        match spec.at(&[key, "type"]).and_then(Node::text) {
            Some("OnDelete") => return,
            Some("Recreate") => {
                let message = format!("{path} is set beside type: Recreate, and the API server refuses it");
                refuse(rolling, message, "remove rollingUpdate; in a patch, set it to null");
                return;
            }
            _ => {}
        }
        let int_or_percent = |key: &str| rolling.get(key).and_then(|node| Some((node, amount(node)?)));
        let (surge, unavailable) = (int_or_percent("maxSurge"), int_or_percent("maxUnavailable"));
        let mut percentages = vec![("maxUnavailable", unavailable)];
        if kind == WorkloadKind::DaemonSet {
            percentages.push(("maxSurge", surge));
        }
        for (key, value) in percentages {
            if let Some((node, number)) = value.filter(|(node, number)| node.text().is_some() && *number > 100) {
                let message = format!("{path}.{key} is {number}%, and the API server refuses more than 100%");
                refuse(node, message, "write at most 100%");
            }
        }
        let remedy = "set one of them to 0 and the other one not: maxSurge: 0 and maxUnavailable: 1";
        match (kind, surge, unavailable) {
            // The default of a Deployment is 25% each, that of a DaemonSet 0 and 1.
            (_, Some((_, 0)), Some((node, 0))) | (WorkloadKind::DaemonSet, None, Some((node, 0))) => {
                let message = format!(
                    "{path}.maxUnavailable may not be 0 while maxSurge is 0: the API server refuses it, because no pod \
                     could ever be replaced"
                );
                refuse(node, message, remedy);
            }
            (WorkloadKind::DaemonSet, Some((node, 1..)), unavailable)
                if unavailable.is_none_or(|(_, number)| number > 0) =>
            {
                let default = if unavailable.is_none() { " (1 by default)" } else { "" };
                let message = format!(
                    "{path}.maxSurge may not be set while maxUnavailable is not 0{default}: the API server refuses it"
                );
                refuse(node, message, remedy);
            }
            _ => {}
        }
    }
}

/// Protocol, `hostIP` and `hostPort` of an entry, after the defaults.
type HostPortKey = (String, String, i64);

fn shown((protocol, address, port): &HostPortKey) -> String {
    let [protocol, address] = [protocol, address].map(|text| escape_bounded(text, MAX_QUOTED));
    if address.is_empty() {
        format!("host port {port}/{protocol}")
    } else {
        format!("host port {port}/{protocol} on {address}")
    }
}

fn host_port_of(port: &Node, host_network: bool) -> Option<HostPortKey> {
    let declared = number_of(port, "hostPort").unwrap_or_default();
    let number = if declared == 0 && host_network { number_of(port, "containerPort")? } else { declared };
    let text = |key| text_of(port, key).map(|(_, text)| text.to_owned());
    (number != 0)
        .then(|| (text("protocol").unwrap_or_else(|| "TCP".to_owned()), text("hostIP").unwrap_or_default(), number))
}

fn ports_of(container: &Node) -> impl Iterator<Item = (usize, &Node)> {
    container.get("ports").map(Node::items).unwrap_or_default().iter().enumerate()
}

fn text_of<'a>(node: &'a Node, key: &str) -> Option<(&'a Node, &'a str)> {
    let node = node.get(key)?;
    Some((node, node.text().filter(|text| !text.is_empty())?))
}

fn number_of(node: &Node, key: &str) -> Option<i64> {
    if let Value::Number(number) = &node.get(key)?.value { number.as_i64() } else { None }
}

fn is_port(number: i64) -> bool {
    (1..=65_535).contains(&number)
}

/// Returns the number of pods, or the percentage.
fn amount(node: &Node) -> Option<i64> {
    match &node.value {
        Value::Number(number) => number.as_i64(),
        Value::Text(text) => text.strip_suffix('%')?.parse().ok(),
        _ => None,
    }
}

/// `IsValidPortName` in k8s.io/apimachinery/pkg/util/validation.
fn port_name_problem(name: &str) -> Option<&'static str> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.len() > MAX_PORT_NAME {
        Some("it has more than 15 characters")
    } else if !name.bytes().all(allowed) {
        Some("it may have a-z, 0-9 and - only")
    } else if !name.bytes().any(|byte| byte.is_ascii_lowercase()) {
        Some("it has no letter")
    } else if name.contains("--") {
        Some("it has two - side by side")
    } else if name.starts_with('-') || name.ends_with('-') {
        Some("it begins or ends with -")
    } else {
        None
    }
}
