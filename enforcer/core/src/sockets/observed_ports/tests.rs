//! Which binds are kept, with which names, and how many.

use super::*;
use crate::{
    model::kernel_ids::{BootNanos, SocketCookie},
    pods::pod::{ContainerRef, Pod, Workload},
    tests::node::{NOW, Node},
};

const EPHEMERAL: RangeInclusive<u16> = 32_768..=60_999;
const CONTAINER: &str = "5f2b6e2a8c1d4e3f9a0b7c6d5e4f3a2b1c0d9e8f7a6b5c4d3e2f1a0b9c8d7e6f";

fn later(seconds: u64) -> Now {
    Now {
        wall: NOW.wall + i64::try_from(seconds).unwrap() * 1_000_000,
        boottime: NOW.boottime + Duration::from_secs(seconds),
    }
}

fn controlled(pod: &mut Pod, kind: &str, name: &str) {
    let (namespace, uid) = (pod.namespace.clone(), format!("uid of {name}"));
    pod.workload = Some(Workload { namespace, kind: kind.to_owned(), name: name.to_owned(), uid });
}

/// Adds a pod with one container, whose cgroup has the pod's number plus 1000.
fn add(node: &mut Node, number: u64, name: &str, ports: &str, change: impl FnOnce(&mut Pod)) {
    node.pod(number, name, ports, |pod| {
        pod.containers = vec![ContainerRef { id: CONTAINER.to_owned(), name: "main".to_owned() }];
        change(pod);
    });
    let name = format!("cri-containerd-{CONTAINER}.scope");
    node.index.cgroup_created(CgroupId::new(number + 1000), CgroupId::new(number), &name, NOW);
}

fn binding(pod: u64, address: &str, port: u16) -> SocketBinding {
    SocketBinding {
        time: BootNanos::after_boot(NOW.boottime),
        protocol: Protocol::Tcp,
        address: address.parse().unwrap(),
        port,
        cookie: SocketCookie::new(pod * 100_000 + u64::from(port)),
        release: pod * 100_000 + u64::from(port),
        cgroup: CgroupId::new(pod + 1000),
        pid: 1,
        uid: 0,
        command: "server".to_owned(),
        v6only: None,
        reuse: None,
    }
}

/// The ports in a line each.
fn lines(observed: &ObservedPorts) -> Vec<String> {
    let line = |port: ObservedPort<'_>| {
        let ObservedPort { workload, container, port, address, kind, pods, of_pods, .. } = port;
        let WorkloadName { namespace, kind: of, name } = workload;
        let address = address.map_or("*".to_owned(), |address| address.to_string());
        let container = container.unwrap_or("-");
        format!("{of} {namespace}/{name} {container} {address} {port} {} {pods}/{of_pods}", kind.as_str())
    };
    observed.ports(Some(&EPHEMERAL)).map(line).collect()
}

#[test]
fn bind_that_no_scan_shows_is_kept() {
    let mut node = Node::new();
    add(&mut node, 10, "monitoring/exporter-1", "9101", |pod| controlled(pod, "DaemonSet", "exporter"));
    add(&mut node, 11, "monitoring/exporter-2", "9101", |pod| controlled(pod, "DaemonSet", "exporter"));
    let mut observed = ObservedPorts::default();
    for (pod, address, port) in
        [(10, "::", 9100), (11, "0.0.0.0", 9100), (10, "127.0.0.1", 9102), (10, "0.0.0.0", 9101), (10, "::1", 9101)]
    {
        observed.bound(&binding(pod, address, port), true, &node.index, NOW);
    }
    observed.scanned(&node.holders, |_, _| true, &node.index, later(1));
    assert_eq!(
        lines(&observed),
        [
            "DaemonSet monitoring/exporter main * 9100 named 2/2",
            "DaemonSet monitoring/exporter main 127.0.0.1 9102 named 1/2",
        ],
        "what is declared is left out"
    );
    assert_eq!(observed.ports(None).next().map(|port| port.first), Some(NOW.wall));
    // The pod goes, and its workload keeps what is known until nobody came back for long.
    node.index.delete("monitoring", "exporter-1", later(2));
    observed.scanned(&node.holders, |_, _| true, &node.index, later(3600));
    assert_eq!(lines(&observed).len(), 2);
    observed.scanned(&node.holders, |_, _| true, &node.index, later(3600 * 30));
    assert_eq!(lines(&observed), ["DaemonSet monitoring/exporter main * 9100 named 2/2"], "the other pod is there");
    let before = observed.changes();
    observed.bound(&binding(11, "0.0.0.0", 9100), true, &node.index, later(3600 * 30));
    assert_eq!(observed.changes(), before, "nothing new");
}

#[test]
fn container_is_named_when_its_status_comes() {
    let mut node = Node::new();
    add(&mut node, 10, "tools/debug", "none", |pod| pod.containers.clear());
    let mut observed = ObservedPorts::default();
    observed.bound(&binding(10, "0.0.0.0", 8080), true, &node.index, NOW);
    observed.scanned(&node.holders, |_, _| true, &node.index, later(5));
    assert_eq!(lines(&observed), <[&str; 0]>::default());
    // The container is gone, and then its status comes.
    node.index.cgroup_removed(CgroupId::new(1010), later(6));
    add(&mut node, 10, "tools/debug", "none", |_| ());
    observed.scanned(&node.holders, |_, _| true, &node.index, later(10));
    assert_eq!(lines(&observed), ["Pod tools/debug main * 8080 named 1/1"]);
    // Nobody ever says which container it was.
    add(&mut node, 11, "tools/other", "none", |pod| pod.containers.clear());
    observed.bound(&binding(11, "0.0.0.0", 8081), true, &node.index, later(20));
    observed.scanned(&node.holders, |_, _| true, &node.index, later(85));
    assert_eq!(lines(&observed)[1], "Pod tools/other - * 8081 named 1/1");
}

#[test]
fn bind_of_a_pod_that_is_not_known_yet_waits_for_it() {
    let mut node = Node::new();
    let uid = crate::tests::node::uid(10);
    let root = crate::tests::node::ROOT;
    node.index.cgroup_created(CgroupId::new(10), root, &format!("pod{uid}"), NOW);
    let name = format!("cri-containerd-{CONTAINER}.scope");
    node.index.cgroup_created(CgroupId::new(1010), CgroupId::new(10), &name, NOW);
    let mut observed = ObservedPorts::default();
    observed.bound(&binding(10, "0.0.0.0", 8080), true, &node.index, NOW);
    add(&mut node, 10, "tools/debug", "none", |_| ());
    observed.scanned(&node.holders, |_, _| true, &node.index, later(5));
    assert_eq!(lines(&observed), ["Pod tools/debug main * 8080 named 1/1"]);
}

#[test]
fn pods_off_the_host_network_and_host_processes_are_left_out() {
    let mut node = Node::new();
    // It entered the node's network by itself.
    add(&mut node, 10, "kube-system/cni", "none", |pod| pod.host_network = false);
    let mut observed = ObservedPorts::default();
    for pod in [10, 99] {
        observed.bound(&binding(pod, "0.0.0.0", 8080), true, &node.index, NOW);
    }
    node.dump(&[(99, "0.0.0.0", 22, Activity::Listening)]);
    observed.scanned(&node.holders, |_, _| true, &node.index, later(100));
    assert_eq!(lines(&observed), <[&str; 0]>::default());
}

#[test]
fn port_that_the_kernel_chose_counts_only_for_a_server() {
    let mut node = Node::new();
    for (number, name) in [(10, "one"), (11, "two")] {
        add(&mut node, number, &format!("rpc/{name}"), "none", |pod| controlled(pod, "DaemonSet", "rpc"));
    }
    let mut observed = ObservedPorts::default();
    // A client, which binds port 0 and connects, and a server that listens on what it got.
    for port in [40_000, 40_001] {
        let bind = binding(10, "0.0.0.0", port);
        observed.bound(&bind, false, &node.index, NOW);
        node.holders.bound(bind, |cgroup| crate::sockets::SocketPlace::of(cgroup, &node.index));
    }
    node.dump(&[
        (10, "0.0.0.0", 40_000, Activity::Connected),
        (10, "0.0.0.0", 40_001, Activity::Listening),
        // From before the agent: nobody knows who chose them.
        (10, "0.0.0.0", 40_002, Activity::Listening),
        (10, "0.0.0.0", 8080, Activity::Listening),
    ]);
    observed.scanned(&node.holders, |_, _| false, &node.index, later(100));
    assert_eq!(
        lines(&observed),
        [
            "DaemonSet rpc/rpc - * 8080 named 1/1",
            "DaemonSet rpc/rpc - * 40002 chosen 1/1",
            "DaemonSet rpc/rpc main * 40001 chosen 1/1",
        ],
        "outside of the ephemeral range the process chose"
    );
    // Two pods do not get the same number by chance.
    node.dump(&[(11, "0.0.0.0", 40_002, Activity::Listening)]);
    observed.scanned(&node.holders, |_, _| false, &node.index, later(200));
    assert!(lines(&observed).contains(&"DaemonSet rpc/rpc - * 40002 named 2/2".to_owned()), "{:?}", lines(&observed));
}

#[test]
fn named_source_port_is_no_port_of_a_server() {
    let mut node = Node::new();
    add(&mut node, 10, "net/peer", "none", |_| ());
    let mut observed = ObservedPorts::default();
    for port in [179, 180] {
        let bind = binding(10, "0.0.0.0", port);
        observed.bound(&bind, true, &node.index, NOW);
        node.holders.bound(bind, |cgroup| crate::sockets::SocketPlace::of(cgroup, &node.index));
    }
    let dump = |node: &mut Node, activity| {
        node.holders.begin_dump(Protocol::Tcp, BootNanos::after_boot(later(5).boottime));
        for (port, activity) in [(179, Activity::Connected), (180, activity)] {
            let SocketBinding { protocol, address, cookie, cgroup, uid, .. } = binding(10, "0.0.0.0", port);
            let socket = crate::sockets::DumpedSocket {
                protocol,
                address,
                port,
                cookie,
                cgroup: Some(cgroup),
                uid,
                inode: None,
                device: None,
                activity,
                v6only: None,
            };
            node.holders.record_dumped(&socket, |cgroup| crate::sockets::SocketPlace::of(cgroup, &node.index));
        }
    };
    dump(&mut node, Activity::Listening);
    observed.scanned(&node.holders, |_, _| true, &node.index, later(6));
    assert_eq!(lines(&observed), ["Pod net/peer main * 179 outgoing 1/1", "Pod net/peer main * 180 named 1/1"]);
}

#[test]
fn memory_is_bounded_and_recent_ports_stay() {
    let mut node = Node::new();
    add(&mut node, 10, "rtp/many", "none", |_| ());
    add(&mut node, 11, "web/server", "none", |_| ());
    let mut observed = ObservedPorts::default();
    let bind = |observed: &mut ObservedPorts, node: &Node, ports: std::ops::Range<u16>, now| {
        for port in ports {
            observed.bound(&binding(10, "0.0.0.0", port), true, &node.index, now);
        }
    };
    bind(&mut observed, &node, 10_000..10_300, NOW);
    let most = u64::try_from(MAX_WORKLOAD_PORTS).unwrap();
    assert_eq!((lines(&observed).len(), observed.left_out()), (MAX_WORKLOAD_PORTS, 300 - most));
    assert!(lines(&observed)[0].contains(" 10000 "), "the first ones stay");
    observed.bound(&binding(11, "0.0.0.0", 80), true, &node.index, NOW);
    assert_eq!(lines(&observed).len(), MAX_WORKLOAD_PORTS + 1, "others have room");
    // Once nobody has bound them for long, new ones take their place.
    node.index.delete("rtp", "many", later(1));
    add(&mut node, 10, "rtp/many", "none", |_| ());
    bind(&mut observed, &node, 20_000..20_010, later(3700));
    assert_eq!(lines(&observed).len(), MAX_WORKLOAD_PORTS + 1);
    assert_eq!(lines(&observed).iter().filter(|line| line.contains(" 200")).count(), 10);
    // All workloads together.
    for number in 100..120 {
        add(&mut node, number, &format!("rtp/n{number}"), "none", |_| ());
        for port in 1..=256 {
            observed.bound(&binding(number, "0.0.0.0", port), true, &node.index, later(3701));
        }
    }
    assert_eq!(observed.count, MAX_PORTS);
    assert_eq!(observed.workloads.values().map(|workload| workload.ports.len()).sum::<usize>(), MAX_PORTS);
    // Waiting binds too.
    add(&mut node, 200, "rtp/unnamed", "none", |pod| pod.containers.clear());
    for port in 1..=u16::try_from(MAX_WAITING).unwrap() + 9 {
        observed.bound(&binding(200, "0.0.0.0", port), true, &node.index, later(3702));
    }
    assert_eq!(observed.waiting.len(), MAX_WAITING);
}

#[test]
fn workload_is_the_object_with_the_template() {
    let of = |kind: &str, name: &str| {
        let WorkloadName { kind, name, .. } = WorkloadName::of_controller("n", kind, name);
        format!("{kind} {name}")
    };
    assert_eq!(of("Job", "backup-29345678"), "CronJob backup");
    assert_eq!(of("Job", "backup-2024"), "Job backup-2024");
    assert_eq!(of("DaemonSet", "backup-29345678"), "DaemonSet backup-29345678");
}

#[test]
fn wildcards_declare_each_other() {
    let (any, v4, v6, one) =
        (Address::Any, Address::V4([0; 4].into()), Address::V6([0; 16].into()), Address::V4([127, 0, 0, 1].into()));
    for (socket, claim, declared) in [
        (any, any, true),
        (any, v4, true),
        (v6, v4, true),
        (one, v4, true),
        (one, any, true),
        (one, one, true),
        (any, one, false),
        (v4, one, false),
        (Address::V6([1; 16].into()), v4, false),
    ] {
        assert_eq!(is_declared_by(socket, claim), declared, "{socket} {claim}");
    }
}
