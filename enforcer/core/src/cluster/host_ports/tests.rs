//! Rows and conflicts of a cluster, from ledgers, pods and Services.

use super::*;
use crate::{
    cluster::declared::declared_ports,
    index::Settings,
    ledger::content::{self, LedgerInputs, content},
    pods::pod::{Pod, from_api},
    sockets::Activity,
    tests::node::{NOW, Node},
};

pub(in crate::cluster) fn summary(name: &str, known: NodeKnowledge) -> NodeSummary {
    NodeSummary {
        name: name.to_owned(),
        known,
        mode: None,
        agent_version: None,
        updated: None,
        ephemeral_ports: None,
        counts: LedgerCounts::default(),
        left_out: 0,
    }
}

pub(in crate::cluster) fn row(node: &str, first_port: u16, last_port: u16) -> HostPortRow {
    let row = LedgerRow { last_port, ..content::tests::row(first_port) };
    HostPortRow { node: Some(node.to_owned()), row, conflict: false }
}

fn service(name: &str, port: i32, node_port: i32) -> Service {
    serde_json::from_value(serde_json::json!({
        "metadata": { "namespace": "shop", "name": name, "creationTimestamp": "2026-11-01T00:00:00Z" },
        "spec": { "type": "NodePort", "ports": [{ "port": port, "nodePort": node_port }, { "port": 1 }] },
    }))
    .unwrap()
}

fn pod(name: &str, port: u16) -> Pod {
    let object = serde_json::json!({
        "metadata": { "namespace": "default", "name": name, "uid": format!("00000000-0000-4000-8000-{:012x}", name.as_bytes()[0]),
            "creationTimestamp": "2026-11-01T00:00:00Z" },
        "spec": { "hostNetwork": true, "nodeName": "node-2",
            "containers": [{ "name": "c", "ports": [{ "containerPort": port }] }] },
    });
    from_api(&serde_json::from_value(object).unwrap())
}

/// The rows in a line each.
fn lines(ports: &NodePorts) -> Vec<String> {
    let line = |row: &HostPortRow| {
        let conflict = if row.conflict { " conflict" } else { "" };
        format!(
            "{} {}/{} {}{conflict}",
            row.node.as_deref().unwrap_or("*"),
            row.row.first_port,
            row.row.protocol,
            row.row.who
        )
    };
    ports.rows.iter().map(line).collect()
}

#[test]
fn answered_port_marks_the_row_of_the_other_one() {
    let actor = |name: &str| LedgerActor {
        kind: "pod".to_owned(),
        namespace: Some("default".to_owned()),
        name: Some(name.to_owned()),
        ..LedgerActor::default()
    };
    let mut node = Node::new();
    node.pod(11, "default/other", "none", |_| ());
    node.dump(&[(11, "0.0.0.0", 8000, Activity::Listening), (11, "127.0.0.1", 8001, Activity::Listening)]);
    let mut ledger = content(&node.scene(), &LedgerInputs::default());
    for ports in ["10.0.0.5:8000/tcp", "10.0.0.5:8001/tcp"] {
        ledger.conflicts.push(LedgerConflict {
            kind: "answeredByOther".to_owned(),
            ports: ports.to_owned(),
            who: actor("web"),
            other: actor("other"),
            since: None,
        });
    }
    let ports = NodePorts::of("node-1", NodeKnowledge::Ledger, ledger, &ServicePorts::default());
    let marked = [
        "node-1 22/tcp the node",
        "node-1 8000/tcp default/other conflict",
        // On another address.
        "node-1 8001/tcp default/other",
    ];
    assert_eq!(lines(&ports), marked);
    assert_eq!(ports.conflicts[0].message, "default/web is Ready, but default/other answers 10.0.0.5:8000/tcp");
}

#[test]
fn ledger_becomes_rows_and_conflicts_with_sentences() {
    let mut node = Node::new();
    node.pod(10, "default/web-0", "80", |_| ());
    node.pod(11, "default/web-1", "80", |_| ());
    node.pod(12, "shop/web", "30080", |_| ());
    node.dump(&[(11, "0.0.0.0", 80, Activity::Listening)]);
    let ledger = content(&node.scene(), &LedgerInputs::default());
    let services = ServicePorts::of(&[service("front", 80, 30_080)]);
    let ports = NodePorts::of("node-1", NodeKnowledge::Ledger, ledger, &services);
    assert_eq!(
        lines(&ports),
        [
            "node-1 22/tcp the node",
            "node-1 80/tcp default/web-0 conflict",
            "node-1 80/tcp default/web-1 conflict",
            "node-1 30080/tcp shop/web conflict",
        ]
    );
    let messages: Vec<&str> = ports.conflicts.iter().map(|conflict| conflict.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "default/web-1 claims 80/tcp, which is in force for default/web-0",
            "default/web-1 holds 0.0.0.0:80/tcp, which default/web-0 owns",
            "shop/web uses 30080/tcp, which is a NodePort of Service shop/front: packets for it go to the Service",
        ]
    );
    assert_eq!((ports.node.mode.as_deref(), ports.node.counts.conflicts), (Some("enforce"), 2));
}

#[test]
fn node_without_an_agent_is_arbitrated_by_the_same_rules() {
    let pods = vec![pod("b", 80), pod("a", 80), pod("c", 81)];
    let ledger = declared_ports("node-2", pods, Settings::default(), NOW);
    assert_eq!((ledger.mode.as_deref(), ledger.counts.held), (None, 0));
    let ports = NodePorts::of("node-2", NodeKnowledge::Manifests, ledger, &ServicePorts::default());
    assert_eq!(
        lines(&ports),
        ["node-2 80/tcp default/a conflict", "node-2 80/tcp default/b conflict", "node-2 81/tcp default/c",]
    );
    assert_eq!(ports.conflicts[0].message, "default/b claims 80/tcp, which is in force for default/a");
}

#[test]
fn services_are_rows_of_every_node() {
    let mut balancer = service("lb", 443, 30_443);
    balancer.spec.as_mut().unwrap().health_check_node_port = Some(31_000);
    let services = ServicePorts::of(&[balancer, service("none", 80, 0)]);
    let rows: Vec<String> = services
        .rows()
        .map(|row| format!("{}/{} {} {}", row.first_port, row.protocol, row.who, row.source.as_deref().unwrap_or("-")))
        .collect();
    assert_eq!(rows, ["30443/tcp Service shop/lb nodePort", "31000/tcp Service shop/lb healthCheckNodePort"]);
}

#[test]
fn service_that_the_agent_knows_too_is_one_row_and_one_conflict() {
    let mut node = Node::new();
    node.pod(10, "shop/claimer", "30080", |_| ());
    node.pod(11, "shop/holder", "", |_| ());
    node.service("front", "30080");
    node.service("back", "30081");
    node.dump(&[(11, "0.0.0.0", 30_081, Activity::Listening)]);
    let ledger = content(&node.scene(), &LedgerInputs::default());
    assert_eq!(ledger.conflicts.len(), 2, "one of them lost, and the other one's port is held");
    let in_default = |name: &str, node_port| {
        let mut service = service(name, 80, node_port);
        service.metadata.namespace = Some("default".to_owned());
        service
    };
    let services = ServicePorts::of(&[in_default("front", 30_080), in_default("back", 30_081)]);
    let ports = NodePorts::of("node-1", NodeKnowledge::Ledger, ledger.clone(), &services);
    let conflicts: Vec<_> =
        ports.conflicts.iter().map(|found| (&*found.conflict.kind, found.conflict.who.to_string())).collect();
    assert_eq!(conflicts, [("shadowed", "shop/claimer".to_owned()), ("shadowed", "shop/holder".to_owned())]);
    let rows: Vec<String> = lines(&ports).into_iter().filter(|line| line.contains("3008")).collect();
    assert_eq!(
        rows,
        [
            "node-1 30080/tcp shop/claimer conflict",
            "node-1 30080/tcp Service default/front conflict",
            "node-1 30081/tcp shop/holder conflict",
        ]
    );
    // Who may not read Services has what the agent knows.
    let ports = NodePorts::of("node-1", NodeKnowledge::Ledger, ledger, &ServicePorts::default());
    assert_eq!((ports.conflicts.len(), lines(&ports).len()), (2, 5));
}

#[test]
fn filter_wants_by_port_namespace_node_and_state() {
    let mut held = row("node-1", 9000, 9010);
    (held.row.held, held.row.declared) = (true, false);
    let mut everywhere = row("node-1", 30_080, 30_080);
    everywhere.node = None;
    let all = [row("node-1", 80, 80), row("node-2", 80, 80), held, everywhere];
    let wanted = |filter: RowFilter| {
        all.iter().enumerate().filter(|(_, row)| filter.wants(row)).map(|(place, _)| place).collect::<Vec<_>>()
    };
    assert_eq!(wanted(RowFilter::default()), [0, 1, 2, 3]);
    assert_eq!(wanted(RowFilter { port: Some(9005), ..RowFilter::default() }), [2]);
    assert_eq!(wanted(RowFilter { protocol: Some(Protocol::Udp), ..RowFilter::default() }), [0_usize; 0]);
    assert_eq!(wanted(RowFilter { node: Some("node-2".to_owned()), ..RowFilter::default() }), [1, 3]);
    assert_eq!(wanted(RowFilter { namespace: Some("other".to_owned()), ..RowFilter::default() }), [0_usize; 0]);
    assert_eq!(wanted(RowFilter { undeclared: true, ..RowFilter::default() }), [2]);
    assert_eq!(wanted(RowFilter { conflicts: true, ..RowFilter::default() }), [0_usize; 0]);
}

#[test]
fn text_of_a_ledger_is_made_safe_and_bad_rows_are_left_out() {
    let mut hostile = row("n", 80, 80).row;
    hostile.who.name = Some("evil\u{1b}[2J".to_owned());
    hostile.reach = "\u{202e}all".to_owned();
    let mut reversed = row("n", 80, 80).row;
    (reversed.first_port, reversed.last_port) = (90, 80);
    let mut address = row("n", 80, 80).row;
    address.address = Some("<script>".to_owned());
    let ledger = NodeHostPortsStatus { ports: vec![hostile, reversed, address], ..NodeHostPortsStatus::default() };
    let ports = NodePorts::of("node\n1", NodeKnowledge::Ledger, ledger, &ServicePorts::default());
    assert_eq!(ports.rows.len(), 1);
    let json = serde_json::to_string(&ports.rows).unwrap();
    assert!(
        json.contains(r"evil\\u{1b}[2J") && json.contains(r"\\u{202e}all") && json.contains(r"node\\u{a}1"),
        "{json}"
    );
}
