//! What the pods of each workload bind and claim, from the ledgers of all nodes.

use std::collections::{BTreeMap, BTreeSet};

use enforcer_ebpf::wire::Protocol;
use jiff::{SignedDuration, Timestamp};

use super::{NeverBoundPort, Seen};
use crate::{
    cluster::host_ports::spec_of,
    ledger::node_host_ports::{LedgerRow, ObservedRow},
    model::{
        port_spec::{Address, PortRange, PortSpec, compress, protocol_from_name},
        text::escape,
    },
    sockets::observed_ports::{WorkloadName, is_declared_by},
};

/// Most ports that are kept of one workload. An agent knows fewer; whoever may write ledgers could write more.
const MAX_PORTS: usize = 1024;
/// Most rows of claims that are kept of one workload.
const MAX_CLAIMS: usize = 4096;
/// Widest claim of which bound ports are shown apart: as in ledgers.
const MAX_SPLIT: u32 = 64;
/// Age from which on a claim without a socket counts as one that nobody uses.
const SETTLED: SignedDuration = SignedDuration::from_mins(10);

/// Port of a container on an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PortPlace {
    pub(super) container: Option<String>,
    pub(super) protocol: Protocol,
    pub(super) address: Address,
    pub(super) port: u16,
}

/// What ledgers say of one port.
#[derive(Clone, Debug, Default)]
pub(super) struct PortFacts {
    /// Kinds of its binds, as ledgers have them.
    pub(super) kinds: BTreeSet<String>,
    /// Count of pods by node.
    pub(super) pods: BTreeMap<String, u32>,
    pub(super) since: String,
}

impl PortFacts {
    pub(super) fn pod_count(&self) -> u64 {
        self.pods.values().copied().map(u64::from).sum()
    }
}

/// Undeclared ports of one workload.
#[derive(Clone, Debug, Default)]
pub(super) struct ObservedWorkload {
    pub(super) ports: BTreeMap<PortPlace, PortFacts>,
    /// Count of pods that bound undeclared ports, by node.
    pub(super) pods: BTreeMap<String, u32>,
}

impl ObservedWorkload {
    /// Returns it without the ports that are declared.
    pub(super) fn undeclared(&self, is_declared: impl Fn(&PortSpec) -> bool) -> Self {
        let is_undeclared = |place: &PortPlace| place.spec().is_some_and(|spec| !is_declared(&spec));
        let ports = self.ports.iter().filter(|(place, _)| is_undeclared(place));
        Self { ports: ports.map(|(place, facts)| (place.clone(), facts.clone())).collect(), pods: self.pods.clone() }
    }

    /// Returns how often something was seen.
    pub(super) fn seen(&self, facts: &PortFacts) -> Seen {
        Seen {
            pods: facts.pod_count(),
            of_pods: self.pods.values().copied().map(u64::from).sum(),
            nodes: facts.pods.len(),
            since: facts.since.clone(),
        }
    }
}

impl PortPlace {
    pub(super) fn spec(&self) -> Option<PortSpec> {
        let ports = PortRange::single(self.port).ok()?;
        Some(PortSpec { protocol: self.protocol, address: self.address, ports })
    }
}

/// Reads the observed ports of a ledger.
pub(super) fn add_observed(workloads: &mut BTreeMap<WorkloadName, ObservedWorkload>, node: &str, rows: &[ObservedRow]) {
    for row in rows {
        let name = row.workload.split_once(' ');
        let ports = PortRange::new(row.first_port, row.last_port).ok();
        let address = row.address.as_deref().map_or(Ok(Address::Any), str::parse);
        let (Some((kind, name)), Some(ports), Some(protocol), Ok(address)) =
            (name, ports, protocol_from_name(&row.protocol), address)
        else {
            continue;
        };
        let name = WorkloadName { namespace: escape(&row.namespace), kind: escape(kind), name: escape(name) };
        let workload = workloads.entry(name).or_default();
        let of_pods = workload.pods.entry(node.to_owned()).or_default();
        *of_pods = row.of_pods.max(*of_pods);
        for port in ports {
            let place = PortPlace { container: row.container.as_deref().map(escape), protocol, address, port };
            if workload.ports.len() >= MAX_PORTS && !workload.ports.contains_key(&place) {
                break;
            }
            let facts = workload.ports.entry(place).or_default();
            facts.kinds.insert(escape(&row.kind));
            facts.pods.insert(node.to_owned(), row.pods);
            let since = escape(&row.since);
            if facts.since.is_empty() || since < facts.since {
                facts.since = since;
            }
        }
    }
}

/// A claim of one pod, or a part of it.
#[derive(Clone, Debug)]
struct ClaimFacts {
    spec: PortSpec,
    source: String,
    pod: String,
    node: String,
    never_held: bool,
    since: Option<Timestamp>,
}

/// Ports that the pods of one workload claim.
#[derive(Clone, Debug, Default)]
pub(super) struct DeclaredClaims(Vec<ClaimFacts>);

/// Reads the claims of pods in a ledger.
pub(super) fn add_claims(workloads: &mut BTreeMap<WorkloadName, DeclaredClaims>, node: &str, rows: &[LedgerRow]) {
    for row in rows.iter().filter(|row| row.declared && row.who.kind == "pod") {
        let (Some(spec), Some(source), Some(namespace), Some(pod)) =
            (spec_of(row), &row.source, &row.who.namespace, &row.who.name)
        else {
            continue;
        };
        let controller = row.who.workload.as_deref().and_then(|text| text.split_once(' '));
        let (kind, name) = controller.unwrap_or(("Pod", pod));
        let name = WorkloadName::of_controller(&escape(namespace), &escape(kind), &escape(name));
        let claims = workloads.entry(name).or_default();
        if claims.0.len() < MAX_CLAIMS {
            claims.0.push(ClaimFacts {
                spec,
                source: escape(source),
                pod: pod.clone(),
                node: node.to_owned(),
                never_held: row.never_held,
                since: row.since.as_deref().and_then(|since| since.parse().ok()),
            });
        }
    }
}

/// Checks whether claims declare a port for a socket.
pub(super) fn declare<'a>(claims: impl IntoIterator<Item = &'a PortSpec>, socket: &PortSpec) -> bool {
    claims.into_iter().any(|claim| {
        claim.protocol == socket.protocol
            && claim.ports.contains(socket.ports.first())
            && is_declared_by(socket.address, claim.address)
    })
}

impl DeclaredClaims {
    /// Checks whether they declare a port for a socket.
    pub(super) fn declares(&self, socket: &PortSpec) -> bool {
        declare(self.0.iter().map(|claim| &claim.spec), socket)
    }

    /// Returns the ports from one source, without repetitions, by protocol and address.
    pub(super) fn of_source(&self, source: &str) -> Vec<PortSpec> {
        let mut groups: BTreeMap<(Protocol, Address), Vec<PortRange>> = BTreeMap::new();
        for claim in self.0.iter().filter(|claim| claim.source == source) {
            groups.entry((claim.spec.protocol, claim.spec.address)).or_default().push(claim.spec.ports);
        }
        let merged = groups.into_iter().flat_map(|((protocol, address), ranges)| {
            merge(ranges).into_iter().map(move |ports| PortSpec { protocol, address, ports })
        });
        merged.collect()
    }

    /// Returns the ports that every pod that claims them never bound, since some time.
    pub(super) fn never_bound(&self, now: Timestamp) -> Vec<NeverBoundPort> {
        let mut groups: BTreeMap<(Protocol, Address, &str), Vec<&ClaimFacts>> = BTreeMap::new();
        for claim in self.0.iter().filter(|claim| claim.spec.ports.len() <= MAX_SPLIT) {
            groups.entry((claim.spec.protocol, claim.spec.address, &claim.source)).or_default().push(claim);
        }
        let mut never = Vec::new();
        for ((protocol, address, source), claims) in groups {
            let is_settled = |claim: &ClaimFacts| claim.since.is_some_and(|since| now.duration_since(since) >= SETTLED);
            let ports_of = |wanted: bool| {
                let claims = claims.iter().filter(move |claim| (claim.never_held && is_settled(claim)) == wanted);
                claims.flat_map(|claim| claim.spec.ports).collect::<BTreeSet<u16>>()
            };
            let (unused, used) = (ports_of(true), ports_of(false));
            for ports in compress(unused.difference(&used).copied()) {
                let of = claims.iter().filter(|claim| claim.spec.ports.overlaps(ports));
                let pods: BTreeSet<_> = of.clone().map(|claim| (&claim.node, &claim.pod)).collect();
                let nodes: BTreeSet<_> = of.map(|claim| &claim.node).collect();
                never.push(NeverBoundPort {
                    ports: PortSpec { protocol, address, ports }.to_string(),
                    source: source.to_owned(),
                    pods: pods.len() as u64,
                    nodes: nodes.len(),
                });
            }
        }
        never
    }
}

/// Returns the fewest ranges with the ports of these.
fn merge(mut ranges: Vec<PortRange>) -> Vec<PortRange> {
    ranges.sort_unstable();
    let mut merged: Vec<PortRange> = Vec::new();
    for range in ranges {
        let last = merged.last_mut().filter(|last| u32::from(range.first()) <= u32::from(last.last()) + 1);
        let joined = last.as_ref().and_then(|last| PortRange::new(last.first(), last.last().max(range.last())).ok());
        match (last, joined) {
            (Some(last), Some(joined)) => *last = joined,
            _ => merged.push(range),
        }
    }
    merged
}
