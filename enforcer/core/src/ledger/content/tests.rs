//! What a ledger says of claims, sockets and conflicts, and what it leaves out.

use std::ops::RangeInclusive;

use super::{room::json_bytes, *};
use crate::{ledger::node_host_ports::MAX_BYTES, pods::pod::Workload, tests::node::Node};

const EPHEMERAL: RangeInclusive<u16> = 32768..=60999;

/// A row of a pod that claims a port.
pub(crate) fn row(port: u16) -> LedgerRow {
    LedgerRow {
        protocol: "tcp".to_owned(),
        first_port: port,
        last_port: port,
        address: None,
        who: LedgerActor {
            kind: "pod".to_owned(),
            namespace: Some("default".to_owned()),
            name: Some("web-0".to_owned()),
            ..LedgerActor::default()
        },
        source: Some("hostPort".to_owned()),
        standing: Some("inForce".to_owned()),
        behind: None,
        held: false,
        declared: true,
        never_held: false,
        reach: "all".to_owned(),
        since: None,
    }
}

fn ledger(node: &Node) -> NodeHostPortsStatus {
    content(
        &node.scene(),
        &LedgerInputs { failing: None, observed: None, ephemeral: Some(EPHEMERAL), version: "0.1.0" },
    )
}

/// The rows in a line each.
fn lines(status: &NodeHostPortsStatus) -> Vec<String> {
    let line = |row: &LedgerRow| {
        let who = row.who.name.as_deref().or(row.who.unit.as_deref()).unwrap_or(&row.who.kind);
        let standing = row.standing.as_deref().unwrap_or("-");
        let held = if row.held { "held" } else { "free" };
        let declared = if row.declared { "declared" } else { "undeclared" };
        let (first, last, address) = (row.first_port, row.last_port, row.address.as_deref().unwrap_or("*"));
        format!("{first}-{last}/{} {address} {who} {standing} {held} {declared} {}", row.protocol, row.reach)
    };
    status.ports.iter().map(line).collect()
}

/// A node with a claim that is held, one that is not, one that lost, and sockets that nobody declares.
fn node() -> Node {
    let mut node = Node::new();
    node.pod(10, "default/web-0", "80,8000-8009", |pod| {
        pod.workload = Some(Workload {
            namespace: "default".to_owned(),
            kind: "ReplicaSet".to_owned(),
            name: "web".to_owned(),
            uid: String::new(),
        });
    });
    node.pod(11, "default/web-1", "80", |_| ());
    node.pod(12, "tools/agent", "127.0.0.1:9099", |_| ());
    node.dump(&[
        (10, "0.0.0.0", 80, Activity::Listening),
        (10, "::", 8003, Activity::Listening),
        (12, "127.0.0.1", 9099, Activity::Listening),
        (12, "0.0.0.0", 9500, Activity::Listening),
        (12, "0.0.0.0", 9501, Activity::Listening),
        (12, "10.0.0.1", 9600, Activity::Bound),
        (12, "127.0.0.1", 9700, Activity::Listening),
        // Clients: their ports are no ports of a server.
        (12, "10.0.0.1", 40_000, Activity::Bound),
        (12, "10.0.0.1", 9800, Activity::Connected),
        // A server within the ephemeral ports is a server.
        (11, "0.0.0.0", 40_001, Activity::Listening),
    ]);
    node
}

#[test]
fn rows_are_claims_and_sockets_without_one() {
    let status = ledger(&node());
    assert_eq!(
        lines(&status),
        [
            "22-22/tcp * node inForce free declared all",
            "80-80/tcp * web-0 inForce held declared all",
            "80-80/tcp * web-1 lost free declared all",
            "8000-8002/tcp * web-0 inForce free declared all",
            "8003-8003/tcp * web-0 inForce held declared all",
            "8004-8009/tcp * web-0 inForce free declared all",
            "9099-9099/tcp 127.0.0.1 agent inForce held declared loopback",
            "9500-9501/tcp 0.0.0.0 agent - held undeclared all",
            "9600-9600/tcp 10.0.0.1 agent - held undeclared address",
            "9700-9700/tcp 127.0.0.1 agent - held undeclared loopback",
            "40001-40001/tcp 0.0.0.0 web-1 - held undeclared all",
        ]
    );
    assert_eq!(status.counts, LedgerCounts { claims: 14, held: 7, undeclared: 4, conflicts: 1 });
    let web = &status.ports[1];
    assert_eq!(web.who.workload.as_deref(), Some("Deployment web"));
    assert_eq!(status.ports[2].behind.as_ref().and_then(|winner| winner.name.as_deref()), Some("web-0"));
    assert_eq!(status.ephemeral_ports.as_deref(), Some("32768-60999"));
    let conflict = &status.conflicts[0];
    assert_eq!((conflict.kind.as_str(), conflict.ports.as_str()), ("claimLost", "80/tcp"));
    assert_eq!((conflict.who.name.as_deref(), conflict.other.name.as_deref()), (Some("web-1"), Some("web-0")));
}

#[test]
fn holder_of_a_port_that_another_one_owns_is_a_row_and_a_conflict() {
    let mut node = Node::new();
    node.pod(10, "default/web-0", "80", |_| ());
    node.pod(11, "tenant/squatter", "none", |_| ());
    node.dump(&[(11, "0.0.0.0", 80, Activity::Listening), (99, "0.0.0.0", 22, Activity::Listening)]);
    let status = ledger(&node);
    assert_eq!(
        lines(&status),
        [
            "22-22/tcp * node inForce held declared all",
            "80-80/tcp * web-0 inForce free declared all",
            "80-80/tcp 0.0.0.0 squatter - held undeclared all",
        ]
    );
    assert_eq!(status.conflicts.len(), 1, "{:?}", status.conflicts);
    assert_eq!(status.conflicts[0].kind, "notOwner");
}

#[test]
fn wide_range_is_one_row_whatever_is_held_of_it() {
    let mut node = Node::new();
    node.pod(10, "media/server", "10000-10999", |_| ());
    node.dump(&[(10, "0.0.0.0", 10_007, Activity::Bound), (10, "0.0.0.0", 10_500, Activity::Bound)]);
    assert_eq!(lines(&ledger(&node))[1..], ["10000-10999/tcp * server inForce held declared all"]);
}

#[test]
fn both_wildcards_are_one_row_and_single_addresses_are_rows_of_their_own() {
    let mut node = Node::new();
    node.pod(10, "kube-system/dns", "none", |_| ());
    let v6only = |node: &mut Node, only: bool| {
        node.holders.begin_dump(Protocol::Tcp, BootNanos::new(600_000_000_000));
        for (number, address, v6only) in
            [(1, "0.0.0.0", None), (2, "::", Some(only)), (3, "169.254.20.10", None), (4, "10.96.0.10", None)]
        {
            let socket = crate::sockets::DumpedSocket {
                protocol: Protocol::Tcp,
                address: address.parse().unwrap(),
                port: if number < 3 { 80 } else { 53 },
                cookie: crate::model::kernel_ids::SocketCookie::new(number),
                cgroup: Some(CgroupId::new(10)),
                uid: 0,
                inode: None,
                device: None,
                activity: Activity::Listening,
                v6only,
            };
            node.holders.record_dumped(&socket, |cgroup| crate::sockets::SocketPlace::of(cgroup, &node.index));
        }
        node.holders.end_dump(Protocol::Tcp, crate::sockets::Scope::Connected);
    };
    v6only(&mut node, true);
    assert_eq!(
        lines(&ledger(&node))[..3],
        [
            "22-22/tcp * node inForce free declared all",
            "53-53/tcp 10.96.0.10 dns - held undeclared address",
            "53-53/tcp 169.254.20.10 dns - held undeclared address",
        ]
    );
    assert_eq!(lines(&ledger(&node))[3..], ["80-80/tcp * dns - held undeclared all"]);
}

#[test]
fn rows_that_pods_make_are_bounded_before_they_are_made() {
    let mut node = Node::new();
    let all: Vec<String> = (1..=10_000).map(|port| (port * 2 + 1000).to_string()).collect();
    for (number, ports) in all.chunks(1000).enumerate() {
        let number = 10 + number as u64;
        node.pod(number, &format!("many/pod-{number}"), &ports.join(","), |_| ());
    }
    let sockets: Vec<(u64, &str, u16, Activity)> =
        (0..8100).map(|place| (19, "0.0.0.0", 22_003 + place * 2, Activity::Listening)).collect();
    node.dump(&sockets);
    let status = ledger(&node);
    assert_eq!(status.counts.claims, 10_001);
    assert!(status.ports.len() <= 2 * MAX_COMPILED, "{}", status.ports.len());
    assert!(status.left_out > 2000, "{}", status.left_out);
}

#[test]
fn content_is_cut_to_its_room_and_counts_the_rest() {
    let mut status = NodeHostPortsStatus::default();
    for port in 1..=5000 {
        let mut row = row(port);
        if port > 4900 {
            row.standing = Some("lost".to_owned());
        } else if port <= 100 {
            (row.standing, row.source) = (None, None);
        }
        status.ports.push(row);
    }
    let room = LedgerRoom::default();
    let mut by_rows = status.clone();
    fit(&mut by_rows, LedgerRoom { bytes: usize::MAX, ..room });
    assert_eq!((by_rows.ports.len(), by_rows.left_out), (2000, 3000));
    let kept = |status: &NodeHostPortsStatus, ports: RangeInclusive<u16>| {
        status.ports.iter().filter(|row| ports.contains(&row.first_port)).count()
    };
    assert_eq!(kept(&by_rows, 4901..=5000), 100, "conflicts stay");
    assert_eq!(kept(&by_rows, 1..=100), 0, "sockets without a claim go first");
    assert!(by_rows.ports.is_sorted_by_key(|row| row.first_port));
    let mut by_bytes = status.clone();
    fit(&mut by_bytes, room);
    let size = serde_json::to_vec(&by_bytes).unwrap().len();
    assert!(size <= MAX_BYTES && size > MAX_BYTES * 9 / 10, "{size}");
    assert_eq!(by_bytes.ports.len() + by_bytes.left_out as usize, 5000);
    fit(&mut by_bytes, room);
    assert_eq!(by_bytes.ports.len() + by_bytes.left_out as usize, 5000, "what fits stays as it is");
}

#[test]
fn conflicts_never_take_all_the_room() {
    let who = row(1).who;
    let conflict = LedgerConflict {
        kind: "x".repeat(2000),
        ports: "80/tcp".to_owned(),
        who: who.clone(),
        other: who,
        since: None,
    };
    let mut status = NodeHostPortsStatus { conflicts: vec![conflict; 200], ..NodeHostPortsStatus::default() };
    status.ports = (1..=100).map(row).collect();
    fit(&mut status, LedgerRoom { rows: MAX_ROWS, bytes: 64 << 10 });
    assert_eq!(status.ports.len(), 100);
    assert!(status.conflicts.len() > 5 && status.left_out as usize == 200 - status.conflicts.len());
}

#[test]
fn service_is_a_row_only_where_somebody_else_claims_or_holds_its_port() {
    let mut node = Node::new();
    node.pod(10, "default/listener", "", |_| {});
    node.pod(11, "default/claimer", "30081", |_| {});
    node.pod(12, "kube-system/kube-proxy", "", |_| {});
    node.service("quiet", "30079");
    node.service("held", "30080");
    node.service("claimed", "30081");
    node.service("proxied", "30082");
    node.bound(10, "0.0.0.0", 30080, "listener", None);
    node.bound(12, "0.0.0.0", 30082, "kube-proxy", None);
    node.dump(&[(10, "0.0.0.0", 30080, Activity::Listening), (12, "0.0.0.0", 30082, Activity::Listening)]);
    let status = ledger(&node);
    assert_eq!(
        lines(&status),
        [
            "22-22/tcp * node inForce free declared all",
            "30080-30080/tcp * held inForce free declared all",
            "30080-30080/tcp 0.0.0.0 listener - held undeclared all",
            "30081-30081/tcp * claimer inForce free declared all",
            "30081-30081/tcp * claimed lost free declared all",
            "30082-30082/tcp 0.0.0.0 kube-proxy - held undeclared all",
        ]
    );
    let conflicts: Vec<_> = status.conflicts.iter().map(|conflict| (&*conflict.kind, &*conflict.other.kind)).collect();
    assert_eq!(conflicts, [("claimLost", "pod"), ("notOwner", "service")]);
    assert_eq!(status.counts.claims, 4, "the Services that nobody meets do not count");
}

#[test]
fn observed_ports_are_rows_until_a_pod_of_the_workload_declares_them() {
    let daemon_set = |pod: &mut crate::pods::pod::Pod| {
        pod.workload = Some(Workload {
            namespace: "monitoring".to_owned(),
            kind: "DaemonSet".to_owned(),
            name: "exporter".to_owned(),
            uid: "u".to_owned(),
        });
    };
    let mut node = Node::new();
    node.pod(10, "monitoring/exporter-1", "9000,9001", daemon_set);
    let sockets: Vec<_> = [9000, 9100, 9101, 9102, 9200].map(|port| (10, "0.0.0.0", port, Activity::Listening)).into();
    node.dump(&sockets);
    let mut observed = ObservedPorts::default();
    observed.scanned(&node.holders, |_, _| false, &node.index, crate::tests::node::NOW);
    let ledger = |node: &Node| {
        let inputs = LedgerInputs { observed: Some(&observed), ephemeral: Some(EPHEMERAL), ..LedgerInputs::default() };
        content(&node.scene(), &inputs)
    };
    let rows = |status: &NodeHostPortsStatus| {
        let row = |row: &crate::ledger::node_host_ports::ObservedRow| {
            format!("{} {}-{} {} {}/{}", row.workload, row.first_port, row.last_port, row.kind, row.pods, row.of_pods)
        };
        status.observed.iter().map(row).collect::<Vec<_>>()
    };
    let status = ledger(&node);
    assert_eq!(rows(&status), ["DaemonSet exporter 9100-9102 named 1/1", "DaemonSet exporter 9200-9200 named 1/1"]);
    // The next revision declares some of them. The first claim was bound, and the second one never.
    node.pod(11, "monitoring/exporter-2", "9101", daemon_set);
    let owner = node.index.pod_named("monitoring", "exporter-1").unwrap();
    node.index.note_bound(owner, Protocol::Tcp, 9000);
    let status = ledger(&node);
    assert_eq!(
        rows(&status),
        [
            "DaemonSet exporter 9100-9100 named 1/1",
            "DaemonSet exporter 9102-9102 named 1/1",
            "DaemonSet exporter 9200-9200 named 1/1",
        ]
    );
    let never: Vec<u16> = status.ports.iter().filter(|row| row.never_held).map(|row| row.first_port).collect();
    assert_eq!(never, [9001, 9101]);
    // What does not fit is counted.
    let mut small = status.clone();
    fit(&mut small, LedgerRoom { rows: 2000, bytes: 1200 });
    assert!(json_bytes(&small) <= 1200 && small.observed.len() < 3, "{small:?}");
    assert_eq!(small.observed.len() + small.observed_left_out as usize, 3);
}
