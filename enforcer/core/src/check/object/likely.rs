//! Ports that a pod on the host network most likely listens on, though it does not declare them.
//!
//! | source | rules |
//! | --- | --- |
//! | probes | [`probes`]: the kubelet connects there |
//! | arguments and variables | [`rules`], of the [`settings`] by their [`names`] and [`values`]; a [`shell`] may be between |
//! | `prometheus.io/port` | here |
//!
//! A likely claim is never more than a warning, and so a rule that is not sure makes none.

mod names;
mod probes;
mod rules;
mod settings;
mod shell;
mod values;

pub(super) use probes::{HANDLERS, PROBES};

use std::fmt;

use enforcer_ebpf::wire::Protocol;

use super::{MAX_NAME, MAX_QUOTED, is_sidecar};
use crate::{
    model::{
        port_spec::{Address, PortSpec, protocol_name},
        source::ClaimSource,
        text::escape_bounded,
    },
    pods::claims::PodClaim,
    yaml::spanned::Node,
};

/// Most likely claims of one pod.
const MAX_LIKELY: usize = 64;
/// Annotation that says where Prometheus reads metrics.
const SCRAPE_PORT: &str = "prometheus.io/port";
/// Annotation that says whether Prometheus reads metrics.
const SCRAPE: &str = "prometheus.io/scrape";

/// A port that a pod most likely listens on and does not declare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LikelyPort {
    /// The likely claim.
    pub claim: PodClaim,
    /// Name of the container, safe to show; `None` for an annotation, which is the pod's.
    pub container: Option<String>,
    /// What names the port, safe to show: a flag, a variable, a probe, an annotation.
    pub name: String,
    /// Line of the file; 0 if it is not known.
    pub(super) line: u32,
}

impl LikelyPort {
    /// Returns the line of a manifest that declares the port.
    #[must_use]
    pub fn declaration(&self) -> String {
        let PortSpec { address, ports, protocol } = self.claim.spec;
        let port = ports.first();
        let address = match address {
            Address::Any => String::new(),
            Address::V4(address) => format!(", hostIP: {address}"),
            Address::V6(address) => format!(", hostIP: \"{address}\""),
        };
        let protocol = match protocol {
            Protocol::Tcp => String::new(),
            other => format!(", protocol: {}", protocol_name(other).to_ascii_uppercase()),
        };
        format!("ports: [{{containerPort: {port}{address}{protocol}}}]")
    }
}

/// What the claim rests on: `argument --metrics-addr of container manager (line 12)`.
impl fmt::Display for LikelyPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { claim, container, name, line } = self;
        match claim.source {
            ClaimSource::ScrapeAnnotation => write!(f, "annotation {name}")?,
            ClaimSource::Probe => f.write_str(name)?,
            source => write!(f, "{source} {name}")?,
        }
        if let Some(container) = container {
            write!(f, " of container {container}")?;
        }
        if *line > 0 { write!(f, " (line {line})") } else { Ok(()) }
    }
}

/// Checks whether one of these claims overlaps a port.
pub(super) fn is_covered(claims: &[PodClaim], spec: &PortSpec) -> bool {
    claims.iter().any(|claim| overlaps(&claim.spec, spec))
}

fn overlaps(one: &PortSpec, other: &PortSpec) -> bool {
    one.protocol == other.protocol && one.ports.overlaps(other.ports) && one.address.overlaps(other.address)
}

/// Likely claims, as they are found.
struct Found<'a> {
    /// Claims of the pod.
    known: &'a [PodClaim],
    ports: Vec<LikelyPort>,
    lines_before: u32,
}

impl Found<'_> {
    fn add(&mut self, spec: PortSpec, source: ClaimSource, container: Option<&Node>, name: &str, line: u32) {
        // One source is enough for a port; of one source, each address counts.
        let is_known = |other: &LikelyPort| {
            let (claim, spec) = (&other.claim, &spec);
            claim.spec == *spec || claim.source != source && overlaps(&claim.spec, spec)
        };
        if self.ports.len() == MAX_LIKELY || is_covered(self.known, &spec) || self.ports.iter().any(is_known) {
            return;
        }
        let of = |node: &Node| escape_bounded(node.get("name").and_then(Node::text).unwrap_or_default(), MAX_NAME);
        self.ports.push(LikelyPort {
            claim: PodClaim { spec, source },
            container: container.map(of),
            name: escape_bounded(name, MAX_QUOTED),
            line: self.lines_before.saturating_add(line),
        });
    }
}

/// Returns the ports that a pod's probes, arguments, variables and annotations name and no claim covers, the surest source
/// first. The pod is on the host network.
pub(super) fn likely_ports(
    spec: &Node,
    annotations: Option<&Node>,
    known: &[PodClaim],
    lines_before: u32,
) -> Vec<LikelyPort> {
    let mut found = Found { known, ports: Vec::new(), lines_before };
    for container in running_containers(spec) {
        for (spec, probe, line) in probes::probed_ports(container) {
            found.add(spec, ClaimSource::Probe, Some(container), probe, line);
        }
    }
    let scopes: Vec<_> = running_containers(spec).map(|container| (container, settings::scopes(container))).collect();
    for source in [ClaimSource::Argument, ClaimSource::Environment] {
        for (container, scopes) in &scopes {
            for scope in scopes.iter().filter(|scope| scope.source == source) {
                for (spec, setting) in rules::listeners(scope) {
                    found.add(spec, source, Some(container), &setting.shown, setting.line);
                }
            }
        }
    }
    if let Some((spec, line)) = annotations.and_then(scraped_port) {
        found.add(spec, ClaimSource::ScrapeAnnotation, None, SCRAPE_PORT, line);
    }
    found.ports
}

/// Returns the port of which the annotations say that Prometheus reads metrics there.
fn scraped_port(annotations: &Node) -> Option<(PortSpec, u32)> {
    let node = annotations.get(SCRAPE_PORT)?;
    if annotations.get(SCRAPE).and_then(Node::text).is_some_and(|text| text.eq_ignore_ascii_case("false")) {
        return None;
    }
    let ports = values::port(node.text()?.trim())?;
    Some((PortSpec { protocol: Protocol::Tcp, address: Address::Any, ports }, node.line))
}

/// Returns the containers that run beside each other: all but the plain init containers.
pub(super) fn running_containers(spec: &Node) -> impl Iterator<Item = &Node> {
    let of = |key| spec.get(key).map(Node::items).unwrap_or_default().iter();
    of("containers").chain(of("initContainers").filter(|container| is_sidecar(container)))
}
