//! Which of the ports that pods bound their workload can declare, and why not the others.

use std::collections::{BTreeMap, BTreeSet};

use enforcer_ebpf::wire::Protocol;

use super::{
    PortApart, Seen,
    facts::{ObservedWorkload, PortFacts},
};
use crate::{
    model::port_spec::{Address, PortRange, PortSpec, compress},
    sockets::observed_ports::BindKind,
};

/// Most ranges of one container, protocol and address that a patch declares.
const MAX_RANGES: usize = 16;
/// Most neighbours that are declared one by one, where the scheduler counts them.
const MAX_SINGLES: u32 = 10;

/// A port, or neighbours of it, that a workload can declare.
#[derive(Clone, Debug)]
pub(super) struct NamedPort {
    pub(super) spec: PortSpec,
    pub(super) container: Option<String>,
    pub(super) seen: Seen,
}

/// Reason why a port is not declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    Chosen,
    Outgoing,
    Differs,
    NodeAddress,
    Many,
}

impl Reason {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Chosen => "chosen",
            Self::Outgoing => "outgoing",
            Self::Differs => "differs",
            Self::NodeAddress => "nodeAddress",
            Self::Many => "many",
        }
    }

    fn message(self, hull: &PortSpec) -> String {
        match self {
            Self::Chosen => "the kernel chose the port of this server, so it is another one next time; give it a port \
                             of its own"
                .to_owned(),
            Self::Outgoing => "the source port of outgoing connections: nobody is served there".to_owned(),
            Self::Differs => "the port differs from pod to pod; give it a fixed port, or claim the range that it is \
                              chosen from in the annotation port-enforcer.io/ports"
                .to_owned(),
            Self::NodeAddress => {
                "an address of one node, which the template of all pods cannot name; declare the port \
                                  for all addresses if no other pod uses it on another one"
                    .to_owned()
            }
            Self::Many => format!(
                "many ports; claim the range that they are chosen from in the annotation port-enforcer.io/ports, for \
                 instance {hull}"
            ),
        }
    }
}

type Group<'a> = (Option<&'a str>, Protocol, Address);
type GroupPorts<'a> = BTreeMap<u16, &'a PortFacts>;

/// Divides the ports of a workload into those that it can declare, and others with the reason.
pub(super) fn split(observed: &ObservedWorkload) -> (Vec<NamedPort>, Vec<PortApart>) {
    let mut reasons: BTreeMap<(Option<Reason>, Group<'_>), GroupPorts<'_>> = BTreeMap::new();
    let mut named: BTreeMap<Group<'_>, GroupPorts<'_>> = BTreeMap::new();
    for (place, facts) in &observed.ports {
        let group = (place.container.as_deref(), place.protocol, place.address);
        let has = |kind: BindKind| facts.kinds.contains(kind.as_str());
        let reason = if has(BindKind::Named) {
            let is_portable = is_portable(place.address) || facts.pods.len() > 1;
            (!is_portable).then_some(Reason::NodeAddress)
        } else if has(BindKind::Outgoing) {
            Some(Reason::Outgoing)
        } else {
            // Two nodes do not choose one number by chance.
            (facts.pods.len() < 2).then_some(Reason::Chosen)
        };
        match reason {
            Some(reason) => reasons.entry((Some(reason), group)).or_default().insert(place.port, facts),
            None => named.entry(group).or_default().insert(place.port, facts),
        };
    }
    for (group, ports) in named {
        let differing = differing(observed, &ports);
        let is_many = compress(ports.keys().copied()).len() > MAX_RANGES;
        for (port, facts) in ports {
            let reason =
                if differing.contains(&port) { Some(Reason::Differs) } else { is_many.then_some(Reason::Many) };
            reasons.entry((reason, group)).or_default().insert(port, facts);
        }
    }
    let mut declared = Vec::new();
    let mut apart = Vec::new();
    for ((reason, (container, protocol, address)), ports) in reasons {
        let container = container.map(str::to_owned);
        let Some(reason) = reason else {
            declared.extend(runs(observed, &ports, MAX_SINGLES).into_iter().map(|(ports, seen)| NamedPort {
                spec: PortSpec { protocol, address, ports },
                container: container.clone(),
                seen,
            }));
            continue;
        };
        let hull = ports.keys().next().zip(ports.keys().next_back());
        let Some(hull) = hull.and_then(|(first, last)| PortRange::new(*first, *last).ok()) else { continue };
        let hull = PortSpec { protocol, address, ports: hull };
        let message = reason.message(&hull);
        let mut push = |ports: String, seen: Seen| {
            let (reason, message) = (reason.as_str().to_owned(), message.clone());
            apart.push(PortApart { ports, container: container.clone(), reason, message, seen });
        };
        if reason == Reason::Many {
            push(hull.to_string(), total(observed, ports.values().copied()));
        } else {
            for (ports, seen) in runs(observed, &ports, 0) {
                push(PortSpec { protocol, address, ports }.to_string(), seen);
            }
        }
    }
    (declared, apart)
}

/// Checks whether the address is the same on every node.
fn is_portable(address: Address) -> bool {
    match address {
        Address::Any => true,
        Address::V4(address) => address.is_loopback() || address.is_link_local(),
        Address::V6(address) => address.is_loopback(),
    }
}

/// Returns the ports that differ from pod to pod: several ports that one pod each bound, on several nodes, or on one
/// where no two pods have a port in common.
fn differing(observed: &ObservedWorkload, ports: &GroupPorts<'_>) -> BTreeSet<u16> {
    let singles: BTreeMap<u16, &String> = ports
        .iter()
        .filter(|(_, facts)| facts.pod_count() == 1)
        .filter_map(|(port, facts)| Some((*port, facts.pods.keys().next()?)))
        .collect();
    let nodes: BTreeSet<&String> = singles.values().copied().collect();
    let has_common = ports.values().any(|facts| facts.pod_count() > 1);
    let differs = match nodes.len() {
        0 => false,
        1 => {
            let pods = nodes.first().and_then(|node| observed.pods.get(*node)).copied().unwrap_or_default();
            singles.len() > 1 && pods > 1 && !has_common
        }
        _ => true,
    };
    if differs { singles.into_keys().collect() } else { BTreeSet::new() }
}

/// Returns neighbouring ports as ranges if there are more than `most_singles` of them, else one by one.
fn runs(observed: &ObservedWorkload, ports: &GroupPorts<'_>, most_singles: u32) -> Vec<(PortRange, Seen)> {
    let ranges = compress(ports.keys().copied())
        .into_iter()
        .flat_map(|range| if range.len() > most_singles { vec![range] } else { compress_singles(range) });
    let with_seen = |range: PortRange| {
        let facts = range.iter().filter_map(|port| ports.get(&port).copied());
        (range, total(observed, facts))
    };
    ranges.map(with_seen).collect()
}

fn compress_singles(range: PortRange) -> Vec<PortRange> {
    range.iter().filter_map(|port| PortRange::single(port).ok()).collect()
}

/// Returns how often ports were seen: as many pods as bound one of them, the earliest time.
fn total<'a>(observed: &ObservedWorkload, facts: impl Iterator<Item = &'a PortFacts>) -> Seen {
    let mut sum = PortFacts::default();
    for facts in facts {
        for (node, pods) in &facts.pods {
            let known = sum.pods.entry(node.clone()).or_default();
            *known = (*known).max(*pods);
        }
        if sum.since.is_empty() || facts.since < sum.since {
            sum.since.clone_from(&facts.since);
        }
    }
    observed.seen(&sum)
}
