//! Who is in the way of an attempt that the kernel itself refused.

use std::net::IpAddr;

use enforcer_ebpf::wire::{HOLDER_SOMEBODY, Protocol, Reason, VerdictKind};

use super::existing::Node;
use crate::{
    model::{
        attempt::{Attempt, Reuse},
        kernel_ids::{BootNanos, CgroupId, SocketCookie},
    },
    pods::pod::Workload,
};

const TCP: Protocol = Protocol::Tcp;
const SHARING: Option<Reuse> = Some(Reuse { port: true, address: false });

fn attempt(cgroup: u64, address: &str) -> Attempt {
    Attempt {
        time: BootNanos::new(10),
        protocol: TCP,
        address: address.parse::<IpAddr>().unwrap(),
        port: 80,
        v6only: None,
        verdict: VerdictKind::Allow,
        reason: Reason::Unclaimed,
        cgroup: CgroupId::new(cgroup),
        pod_cgroup: Some(CgroupId::new(cgroup)),
        socket: SocketCookie::new(900),
        caller: None,
        owner: None,
        holder: None,
        held: true,
        reuse: Some(Reuse::default()),
        pid: 1,
        uid: 0,
        command: "x".to_owned(),
    }
}

fn node() -> Node {
    let mut node = Node::new();
    node.pod(2, "one", "", |_| ());
    node.pod(3, "other", "", |_| ());
    node
}

fn named(node: &Node, attempt: &Attempt) -> Option<String> {
    node.holders.incumbent_of(attempt, &node.index).map(|incumbent| incumbent.to_string())
}

#[test]
fn another_pod_and_the_host_are_named() {
    let mut node = node();
    node.hold(2, TCP, "0.0.0.0", 80);
    for address in ["0.0.0.0", "127.0.0.1", "::ffff:127.0.0.1", "::"] {
        assert_eq!(named(&node, &attempt(3, address)).as_deref(), Some("default/one"), "{address}");
    }
    let mut node = Node::new();
    node.pod(3, "other", "", |_| ());
    node.hold(500, TCP, "0.0.0.0", 80);
    assert_eq!(named(&node, &attempt(3, "0.0.0.0")).as_deref(), Some("a host process"));
}

#[test]
fn who_is_not_in_the_way_is_not_named() {
    let mut node = node();
    node.hold(2, TCP, "127.0.0.1", 80);
    assert_eq!(named(&node, &attempt(2, "127.0.0.1")), None, "its own");
    assert_eq!(named(&node, &attempt(3, "127.0.0.2")), None, "another address");
    assert_eq!(named(&node, &attempt(3, "::1")), None, "another family");
    assert_eq!(named(&node, &Attempt { protocol: Protocol::Udp, ..attempt(3, "127.0.0.1") }), None);
    assert_eq!(named(&node, &Attempt { time: BootNanos::new(0), ..attempt(3, "127.0.0.1") }), None, "it came later");
    let mut node = self::node();
    node.hold_as(2, TCP, "127.0.0.1", 80, |binding| binding.reuse = SHARING);
    assert_eq!(named(&node, &Attempt { reuse: SHARING, ..attempt(3, "127.0.0.1") }), None, "both share");
    assert!(named(&node, &attempt(3, "127.0.0.1")).is_some(), "one does not");
}

#[test]
fn an_older_pod_of_the_workload_is_told_as_that() {
    let workload = || {
        let [namespace, kind, name, uid] = ["default", "DaemonSet", "web", "u"].map(str::to_owned);
        Some(Workload { namespace, kind, name, uid })
    };
    let mut node = Node::new();
    node.pod(2, "old", "", |pod| pod.workload = workload());
    node.pod(3, "new", "", |pod| pod.workload = workload());
    node.hold(2, TCP, "0.0.0.0", 80);
    assert!(
        named(&node, &attempt(3, "0.0.0.0")).unwrap().starts_with("default/old, an older pod of the same workload")
    );
    let mut node = self::node();
    node.hold(2, TCP, "0.0.0.0", 80);
    assert_eq!(named(&node, &attempt(3, "0.0.0.0")).unwrap(), "default/one");
}

#[test]
fn a_port_is_marked_with_the_pod_that_alone_holds_it() {
    let mut node = node();
    let marked = |node: &Node| node.holders.port_holder(TCP, 80, &node.index);
    assert_eq!(marked(&node), 0);
    node.hold(2, TCP, "127.0.0.1", 80);
    node.hold(2, TCP, "127.0.0.2", 80);
    assert_eq!(marked(&node), 2);
    node.hold(3, TCP, "127.0.0.3", 80);
    assert_eq!(marked(&node), HOLDER_SOMEBODY);
}
