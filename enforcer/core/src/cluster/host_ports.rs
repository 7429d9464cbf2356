//! Rows and conflicts of all nodes, as `kubectl host-ports` shows them. The JSON is documented in docs/host-ports.md.

#[cfg(test)]
pub(super) mod tests;

use std::collections::BTreeMap;

use enforcer_ebpf::wire::Protocol;
use k8s_openapi::api::core::v1::Service;
use serde::{Deserialize, Serialize};

use super::messages;
use crate::{
    ledger::node_host_ports::{LedgerActor, LedgerConflict, LedgerCounts, LedgerRow, NodeHostPortsStatus},
    model::{
        port_spec::{Address, PortRange, PortSpec, protocol_from_name, protocol_name},
        text::escape,
    },
    pods::{annotation, service::service_claims},
    views::node_snapshot::API_VERSION,
};

/// Origin of what is known about a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NodeKnowledge {
    /// Its agent's ledger: what is claimed, and what is bound.
    Ledger,
    /// What its pods declare. What is bound is not known.
    Manifests,
}

/// A node, and how much is known about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSummary {
    /// Its name.
    pub name: String,
    /// Origin of what is known.
    pub known: NodeKnowledge,
    /// Mode of its agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Version of its agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_version: Option<String>,
    /// Time of the last change of its ledger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated: Option<String>,
    /// Ephemeral ports, as FIRST-LAST.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ephemeral_ports: Option<String>,
    /// Counts of its ledger.
    #[serde(default)]
    pub counts: LedgerCounts,
    /// Count of rows and conflicts that its ledger had no room for.
    #[serde(default)]
    pub left_out: u32,
}

/// Ports of one user on one node, or on every node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostPortRow {
    /// Name of the node; absent for every node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The ports and their user.
    #[serde(flatten)]
    pub row: LedgerRow,
    /// The row takes part in a conflict.
    pub conflict: bool,
}

/// A conflict on one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterConflict {
    /// Name of the node.
    pub node: String,
    /// The conflict.
    #[serde(flatten)]
    pub conflict: LedgerConflict,
    /// Message for people; its words may change.
    pub message: String,
}

/// Host ports of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostPorts {
    /// Version of the API.
    pub api_version: String,
    /// Kind of the object: `HostPorts`.
    pub kind: String,
    /// Nodes, by name.
    pub nodes: Vec<NodeSummary>,
    /// Rows, by node, protocol and port; those of every node come last.
    pub ports: Vec<HostPortRow>,
    /// Conflicts, by node.
    pub conflicts: Vec<ClusterConflict>,
}

impl Default for HostPorts {
    fn default() -> Self {
        Self {
            api_version: API_VERSION.to_owned(),
            kind: "HostPorts".to_owned(),
            nodes: Vec::new(),
            ports: Vec::new(),
            conflicts: Vec::new(),
        }
    }
}

/// Wish for some of the rows. Empty, it wants all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowFilter {
    /// A port.
    pub port: Option<u16>,
    /// A protocol.
    pub protocol: Option<Protocol>,
    /// Namespace of the pod or Service.
    pub namespace: Option<String>,
    /// A node.
    pub node: Option<String>,
    /// Only rows of pods that bound a port and do not declare it.
    pub undeclared: bool,
    /// Only rows that take part in a conflict.
    pub conflicts: bool,
}

impl RowFilter {
    /// Checks whether a row is wanted.
    #[must_use]
    pub fn wants(&self, row: &HostPortRow) -> bool {
        let HostPortRow { node, row, conflict } = row;
        self.wants_ports(&row.protocol, row.first_port, row.last_port)
            && self.namespace.as_ref().is_none_or(|wanted| row.who.namespace.as_ref() == Some(wanted))
            // What is on every node is on this one.
            && self.node.as_ref().is_none_or(|wanted| node.as_ref().is_none_or(|node| node == wanted))
            && (!self.undeclared || is_undeclared(row))
            && (!self.conflicts || *conflict)
    }

    /// Checks whether a conflict is wanted.
    #[must_use]
    pub fn wants_conflict(&self, conflict: &ClusterConflict) -> bool {
        let ports = self.port.is_none() && self.protocol.is_none()
            || specs(&conflict.conflict)
                .iter()
                .any(|spec| self.wants_ports(protocol_name(spec.protocol), spec.ports.first(), spec.ports.last()));
        let LedgerConflict { who, other, .. } = &conflict.conflict;
        let is_in = |wanted: &String| [who, other].iter().any(|actor| actor.namespace.as_ref() == Some(wanted));
        ports
            && self.namespace.as_ref().is_none_or(is_in)
            && self.node.as_ref().is_none_or(|wanted| *wanted == conflict.node)
            && !self.undeclared
    }

    fn wants_ports(&self, protocol: &str, first: u16, last: u16) -> bool {
        self.port.is_none_or(|port| (first..=last).contains(&port))
            && self.protocol.is_none_or(|wanted| protocol_name(wanted) == protocol)
    }
}

/// Checks whether a row is of a pod that bound a port and does not declare it.
#[must_use]
pub fn is_undeclared(row: &LedgerRow) -> bool {
    row.held && !row.declared && matches!(row.who.kind.as_str(), "pod" | "unknownPod")
}

/// Ports that Services of type `NodePort` and `LoadBalancer` take on every node.
#[derive(Clone, Debug, Default)]
pub struct ServicePorts {
    rows: Vec<LedgerRow>,
    by_port: BTreeMap<(Protocol, u16), usize>,
}

impl ServicePorts {
    /// Returns the ports of these Services.
    #[must_use]
    pub fn of<'a>(services: impl IntoIterator<Item = &'a Service>) -> Self {
        let mut ports = Self::default();
        for service in services {
            ports.add(service);
        }
        ports
    }

    /// Adds the ports of a Service.
    pub fn add(&mut self, service: &Service) {
        let metadata = &service.metadata;
        let who = LedgerActor {
            kind: "service".to_owned(),
            namespace: metadata.namespace.as_deref().map(escape),
            name: metadata.name.as_deref().map(escape),
            ..LedgerActor::default()
        };
        let since = metadata.creation_timestamp.as_ref().map(|time| time.0.to_string());
        // The others are not on every node.
        for claim in service_claims(service, false).into_iter().filter(|claim| claim.by.is_allocated()) {
            let (protocol, port) = (claim.spec.protocol, claim.spec.ports.first());
            self.by_port.entry((protocol, port)).or_insert(self.rows.len());
            self.rows.push(LedgerRow {
                protocol: protocol_name(protocol).to_owned(),
                first_port: port,
                last_port: port,
                address: None,
                who: who.clone(),
                source: Some(claim.by.as_str().to_owned()),
                standing: None,
                behind: None,
                held: false,
                declared: true,
                never_held: false,
                reach: "all".to_owned(),
                since: since.clone(),
            });
        }
    }

    /// Returns the rows, by protocol and port.
    pub fn rows(&self) -> impl Iterator<Item = &LedgerRow> {
        self.by_port.values().map(|place| &self.rows[*place])
    }

    /// Checks whether a row is one of these ports, of the same Service.
    fn have(&self, row: &LedgerRow) -> bool {
        let place =
            protocol_from_name(&row.protocol).and_then(|protocol| self.by_port.get(&(protocol, row.first_port)));
        row.first_port == row.last_port && place.is_some_and(|place| is_same(&self.rows[*place].who, &row.who))
    }

    /// Returns the conflict of a listener with a Service in its way.
    fn shadow(&self, row: &LedgerRow) -> Option<LedgerConflict> {
        let service = self.shadow_of(row)?;
        Some(LedgerConflict {
            kind: "shadowed".to_owned(),
            ports: format!("{}/{}", service.first_port, service.protocol),
            who: row.who.clone(),
            other: service.who.clone(),
            since: None,
        })
    }

    /// Returns the row of a Service in the way of a listener: packets for its port go to the Service and never reach a
    /// socket.
    fn shadow_of(&self, row: &LedgerRow) -> Option<&LedgerRow> {
        let protocol = protocol_from_name(&row.protocol)?;
        // kube-proxy leaves the loopback alone, except in iptables mode: nobody knows which.
        let is_reached = row.reach != "loopback" && row.who.kind != "service";
        let range = (protocol, row.first_port)..=(protocol, row.last_port);
        let (_, place) = self.by_port.range(range).next().filter(|_| is_reached)?;
        Some(&self.rows[*place])
    }
}

/// Summary, rows and conflicts of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePorts {
    /// The summary.
    pub node: NodeSummary,
    /// The rows.
    pub rows: Vec<HostPortRow>,
    /// The conflicts.
    pub conflicts: Vec<ClusterConflict>,
}

impl NodePorts {
    /// Reads the ledger of a node. Text in it was written by an agent, or by whoever may write such objects, and is made
    /// safe to show.
    #[must_use]
    pub fn of(name: &str, known: NodeKnowledge, ledger: NodeHostPortsStatus, services: &ServicePorts) -> Self {
        let name = escape(name);
        let mut conflicts: Vec<LedgerConflict> = ledger.conflicts.into_iter().map(safe_conflict).collect();
        let mut rows: Vec<LedgerRow> = ledger.ports.into_iter().filter_map(safe_row).collect();
        // It is a row of every node already.
        rows.retain(|row| row.standing.as_deref() == Some("lost") || !services.have(row));
        let shadowed: Vec<LedgerConflict> = rows.iter().filter_map(|row| services.shadow(row)).collect();
        // The agent may know the same two by another name; what it means for packets says more.
        conflicts.retain(|conflict| !shadowed.iter().any(|shadowed| is_between_the_same(conflict, shadowed)));
        let claimed = conflicts.len();
        conflicts.extend(shadowed);
        let parties: Vec<(Vec<PortSpec>, &LedgerConflict)> =
            conflicts[..claimed].iter().map(|conflict| (specs(conflict), conflict)).collect();
        let rows = rows
            .into_iter()
            .map(|row| {
                let conflict = row.standing.as_deref() == Some("lost")
                    || services.shadow_of(&row).is_some()
                    || parties.iter().any(|(specs, conflict)| is_party(&row, specs, conflict));
                HostPortRow { node: Some(name.clone()), row, conflict }
            })
            .collect();
        let conflicts = conflicts
            .into_iter()
            .map(|conflict| {
                let message = messages::conflict(&conflict);
                ClusterConflict { node: name.clone(), conflict, message }
            })
            .collect();
        let node = NodeSummary {
            name,
            known,
            mode: ledger.mode.map(|mode| escape(&mode)),
            agent_version: ledger.agent_version.map(|version| escape(&version)),
            updated: ledger.updated.map(|updated| escape(&updated)),
            ephemeral_ports: ledger.ephemeral_ports.map(|ports| escape(&ports)),
            counts: ledger.counts,
            left_out: ledger.left_out,
        };
        Self { node, rows, conflicts }
    }
}

/// Returns the ports of a conflict; none if they cannot be read.
fn specs(conflict: &LedgerConflict) -> Vec<PortSpec> {
    annotation::parse_list(&conflict.ports).unwrap_or_default()
}

/// Checks whether two conflicts are of the same two users about the same port.
fn is_between_the_same(one: &LedgerConflict, other: &LedgerConflict) -> bool {
    let users = |conflict: &LedgerConflict, who: &LedgerActor, other: &LedgerActor| {
        is_same(&conflict.who, who) && is_same(&conflict.other, other)
    };
    (users(one, &other.who, &other.other) || users(one, &other.other, &other.who))
        && specs(one).iter().any(|spec| specs(other).iter().any(|other| other.overlaps(spec)))
}

fn is_party(row: &LedgerRow, specs: &[PortSpec], conflict: &LedgerConflict) -> bool {
    let Some(spec) = spec_of(row) else { return false };
    let is_named = [&conflict.who, &conflict.other].iter().any(|actor| is_same(actor, &row.who));
    is_named && specs.iter().any(|other| other.overlaps(&spec))
}

/// Checks whether two actors are one, whatever else is known of them.
#[must_use]
pub fn is_same(one: &LedgerActor, other: &LedgerActor) -> bool {
    let key = |actor: &LedgerActor| {
        let LedgerActor { kind, namespace, name, uid, unit, .. } = actor;
        let uid = uid.clone().filter(|_| name.is_none());
        (kind.clone(), namespace.clone(), name.clone(), uid, unit.clone())
    };
    key(one) == key(other)
}

/// Returns the ports of a row; `None` if they are none.
#[must_use]
pub fn spec_of(row: &LedgerRow) -> Option<PortSpec> {
    let address = match &row.address {
        None => Address::Any,
        Some(address) => address.parse().ok()?,
    };
    let protocol = protocol_from_name(&row.protocol)?;
    let ports = PortRange::new(row.first_port, row.last_port).ok()?;
    Some(PortSpec { protocol, address, ports })
}

/// Returns the row with safe text; `None` if its ports are none.
fn safe_row(mut row: LedgerRow) -> Option<LedgerRow> {
    spec_of(&row)?;
    make_safe(&mut row.who);
    if let Some(behind) = &mut row.behind {
        make_safe(behind);
    }
    for text in [&mut row.source, &mut row.standing, &mut row.since] {
        make_text_safe(text);
    }
    row.reach = escape(&row.reach);
    Some(row)
}

fn safe_conflict(mut conflict: LedgerConflict) -> LedgerConflict {
    make_safe(&mut conflict.who);
    make_safe(&mut conflict.other);
    make_text_safe(&mut conflict.since);
    LedgerConflict { kind: escape(&conflict.kind), ports: escape(&conflict.ports), ..conflict }
}

fn make_safe(actor: &mut LedgerActor) {
    let LedgerActor { kind, namespace, name, uid, workload, container, unit, kept_for, until } = actor;
    *kind = escape(kind);
    for text in [namespace, name, uid, workload, container, unit, kept_for, until] {
        make_text_safe(text);
    }
}

fn make_text_safe(text: &mut Option<String>) {
    if let Some(unsafe_text) = text.take() {
        *text = Some(escape(&unsafe_text));
    }
}
