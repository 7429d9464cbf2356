//! Ports that are free on every node.

#[cfg(test)]
mod tests;

use enforcer_ebpf::wire::Protocol;
use serde::{Deserialize, Serialize};

use super::host_ports::{HostPortRow, NodeKnowledge, NodeSummary};
use crate::{
    model::{
        free_ports::{AllocatedRanges, free_ports_near},
        kubernetes_ports::{EPHEMERAL_PORTS, NODE_PORTS, is_kubernetes_port},
        port_spec::{PortRange, compress, protocol_from_name, protocol_name},
    },
    views::node_snapshot::API_VERSION,
};

/// Question for free ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreeQuestion {
    /// The protocol.
    pub protocol: Protocol,
    /// Ports that would do.
    pub range: PortRange,
    /// Most ports in the answer.
    pub count: usize,
}

/// Answer to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FreePorts {
    /// Version of the API.
    pub api_version: String,
    /// Kind of the object: `FreePorts`.
    pub kind: String,
    /// The protocol.
    pub protocol: String,
    /// Ports that were asked for, as FIRST-LAST.
    pub range: String,
    /// Free ports, the lowest first.
    pub ports: Vec<u16>,
    /// Count of all free ports of the range.
    pub free: u32,
    /// Ports of the range that are not free, by the reason that counts first.
    pub taken: TakenPorts,
    /// Count of nodes with a ledger.
    pub nodes_with_ledger: usize,
    /// Count of nodes of which only the pods' declarations are known.
    pub nodes_without_ledger: usize,
    /// Message for people; its words may change.
    pub message: String,
}

/// Counts of ports that are not free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TakenPorts {
    /// Claimed, or held, on a node at least.
    pub used: u32,
    /// Used by a part of Kubernetes, on some nodes at least.
    pub kubernetes: u32,
    /// In the range of `NodePort`s.
    pub node_ports: u32,
    /// In the ephemeral range of a node: an outgoing connection may have it at any time.
    pub ephemeral: u32,
}

/// Ports that are used, of one protocol.
#[derive(Debug)]
pub struct UsedPorts {
    protocol: &'static str,
    used: Vec<bool>,
    ephemeral: Vec<bool>,
    ledgers: usize,
    others: usize,
}

impl UsedPorts {
    /// Starts with none.
    #[must_use]
    pub fn new(protocol: Protocol) -> Self {
        let all = || vec![false; 1 << 16];
        Self { protocol: protocol_name(protocol), used: all(), ephemeral: all(), ledgers: 0, others: 0 }
    }

    /// Adds the ports of a row, on whatever address: a port is only free if it is free on each.
    pub fn add_row(&mut self, row: &HostPortRow) {
        if row.row.protocol == self.protocol && row.row.first_port <= row.row.last_port {
            self.used[usize::from(row.row.first_port)..=usize::from(row.row.last_port)].fill(true);
        }
    }

    /// Adds the ephemeral ports of a node: the usual ones if they are not known.
    pub fn add_node(&mut self, node: &NodeSummary) {
        match node.known {
            NodeKnowledge::Ledger => self.ledgers += 1,
            NodeKnowledge::Manifests => self.others += 1,
        }
        let known = node.ephemeral_ports.as_deref().and_then(|text| {
            let (first, last) = text.split_once('-')?;
            PortRange::new(first.parse().ok()?, last.parse().ok()?).ok()
        });
        let range = known.unwrap_or(EPHEMERAL_PORTS);
        self.ephemeral[usize::from(range.first())..=usize::from(range.last())].fill(true);
    }

    /// Returns ports near one that are free on each node, two at most.
    #[must_use]
    pub fn near(&self, port: u16) -> Vec<u16> {
        let ranges = AllocatedRanges { node_ports: Some(NODE_PORTS), ephemeral: None };
        let is_used = |other: u16| self.used[usize::from(other)] || self.ephemeral[usize::from(other)];
        let protocol = protocol_from_name(self.protocol).unwrap_or(Protocol::Tcp);
        free_ports_near((protocol, port), &ranges, is_used)
    }

    /// Answers a question about the protocol.
    #[must_use]
    pub fn answer(&self, question: &FreeQuestion) -> FreePorts {
        let mut taken = TakenPorts::default();
        let mut free = Vec::new();
        for port in question.range {
            let place = usize::from(port);
            let reason = if self.used[place] {
                &mut taken.used
            } else if is_kubernetes_port(question.protocol, port) {
                &mut taken.kubernetes
            } else if NODE_PORTS.contains(port) {
                &mut taken.node_ports
            } else if self.ephemeral[place] {
                &mut taken.ephemeral
            } else {
                free.push(port);
                continue;
            };
            *reason += 1;
        }
        let count = u32::try_from(free.len()).unwrap_or(u32::MAX);
        let shown: Vec<u16> = free.iter().copied().take(question.count).collect();
        FreePorts {
            api_version: API_VERSION.to_owned(),
            kind: "FreePorts".to_owned(),
            protocol: self.protocol.to_owned(),
            range: question.range.to_string(),
            free: count,
            taken,
            nodes_with_ledger: self.ledgers,
            nodes_without_ledger: self.others,
            message: self.message(question, &free, &shown, taken),
            ports: shown,
        }
    }

    fn message(&self, question: &FreeQuestion, free: &[u16], shown: &[u16], taken: TakenPorts) -> String {
        let nodes = self.ledgers + self.others;
        let on = match nodes {
            1 => "on the one node".to_owned(),
            _ => format!("on each of {nodes} nodes"),
        };
        let range = format!("{}/{}", question.range, self.protocol);
        let mut message = if free.is_empty() {
            format!("No port of {range} is free on every node")
        } else {
            let ranges: Vec<String> = compress(shown.iter().copied()).iter().map(ToString::to_string).collect();
            let of = if free.len() > shown.len() { format!(" ({} of {range} are)", free.len()) } else { String::new() };
            format!("{}/{} free {on}{of}", ranges.join(", "), self.protocol).replacen(
                " free ",
                if shown.len() == 1 { " is free " } else { " are free " },
                1,
            )
        };
        let reasons: Vec<String> = [
            (taken.used, "used"),
            (taken.kubernetes, "of Kubernetes itself"),
            (taken.node_ports, "for NodePorts"),
            (taken.ephemeral, "ephemeral"),
        ]
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, reason)| format!("{count} {reason}"))
        .collect();
        if !reasons.is_empty() {
            message = format!("{message}; not free: {}", reasons.join(", "));
        }
        message.push('.');
        if self.others > 0 {
            let which = match self.others {
                1 if nodes == 1 => "The node has no ledger".to_owned(),
                _ if self.others == nodes => "No node has a ledger".to_owned(),
                1 => "One of the nodes has no ledger".to_owned(),
                others => format!("{others} of the nodes have no ledger"),
            };
            message = format!("{message} {which}, so what is bound there without being declared is not known.");
        }
        message
    }
}
