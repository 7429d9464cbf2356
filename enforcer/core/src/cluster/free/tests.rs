//! Which ports are free, and what is said of the others.

use super::*;
use crate::cluster::host_ports::tests::{row, summary};

fn question(first: u16, last: u16, count: usize) -> FreeQuestion {
    FreeQuestion { protocol: Protocol::Tcp, range: PortRange::new(first, last).unwrap(), count }
}

#[test]
fn free_is_what_nobody_uses_on_any_node() {
    let mut used = UsedPorts::new(Protocol::Tcp);
    used.add_node(&summary("node-1", NodeKnowledge::Ledger));
    used.add_node(&summary("node-2", NodeKnowledge::Ledger));
    used.add_row(&row("node-1", 8000, 8003));
    used.add_row(&row("node-2", 8005, 8005));
    let mut udp = row("node-2", 8006, 8006);
    udp.row.protocol = "udp".to_owned();
    used.add_row(&udp);
    let answer = used.answer(&question(8000, 8010, 3));
    assert_eq!((answer.ports.as_slice(), answer.free), (&[8004, 8006, 8007][..], 6));
    assert_eq!(answer.taken, TakenPorts { used: 5, ..TakenPorts::default() });
    assert_eq!(
        answer.message,
        "8004, 8006-8007/tcp are free on each of 2 nodes (6 of 8000-8010/tcp are); not free: 5 used."
    );
}

#[test]
fn ports_of_kubernetes_node_ports_and_ephemeral_ports_are_not_free() {
    let mut used = UsedPorts::new(Protocol::Tcp);
    let mut node = summary("node-1", NodeKnowledge::Ledger);
    node.ephemeral_ports = Some("20000-29999".to_owned());
    used.add_node(&node);
    let counts = |first, last| used.answer(&question(first, last, 1)).taken;
    assert_eq!(counts(10_250, 10_250).kubernetes, 1);
    assert_eq!(counts(29_990, 30_010), TakenPorts { node_ports: 11, ephemeral: 10, ..TakenPorts::default() });
    assert_eq!(used.answer(&question(40_000, 40_000, 1)).ports, [40_000], "this node's range is another one");
    let nothing = used.answer(&question(30_000, 30_001, 1));
    assert_eq!(nothing.message, "No port of 30000-30001/tcp is free on every node; not free: 2 for NodePorts.");
    let mut unknown = UsedPorts::new(Protocol::Tcp);
    unknown.add_node(&summary("node-1", NodeKnowledge::Manifests));
    let answer = unknown.answer(&question(40_000, 40_000, 1));
    assert_eq!(answer.taken.ephemeral, 1, "the usual range counts where none is known");
    let answer = unknown.answer(&question(8000, 8000, 1));
    assert_eq!(
        answer.message,
        "8000/tcp is free on the one node. The node has no ledger, so what is bound there without being declared is not known."
    );
}
