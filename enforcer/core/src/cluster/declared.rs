//! What a node without a ledger is known to use: the ports that its pods declare, arbitrated as the agent would.

use enforcer_ebpf::{decide::ModeOverride, wire::Policy};

use crate::{
    index::{Index, Settings},
    ledger::{
        content::{LedgerInputs, content},
        node_host_ports::NodeHostPortsStatus,
    },
    model::{kernel_ids::CgroupId, now::Now},
    pods::pod::Pod,
    sockets::{BoundSockets, SocketLimits},
    views::node_snapshot::NodeSnapshot,
};

/// Returns the ledger of a node by its pods alone: nobody knows what is bound there, nor its mode.
#[must_use]
pub fn declared_ports(node: &str, pods: Vec<Pod>, settings: Settings, now: Now) -> NodeHostPortsStatus {
    let mut index = Index::new(settings, CgroupId::new(1));
    index.reset(pods, now);
    let holders = BoundSockets::new(SocketLimits::default(), true);
    let scene = NodeSnapshot {
        node,
        index: &index,
        holders: &holders,
        policy: Policy::from_word(0),
        overrule: ModeOverride::default(),
        shared: &[],
        answered: None,
        now,
    };
    let known = content(&scene, &LedgerInputs::default());
    NodeHostPortsStatus { mode: None, undeclared: None, ..known }
}
