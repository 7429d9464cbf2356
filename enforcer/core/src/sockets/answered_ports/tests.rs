use super::*;
use crate::{
    model::kernel_ids::CgroupId,
    sockets::{
        Activity, DumpedSocket,
        answered_by_other::tests::{probes, serve},
    },
    tests::node::Node,
};

const WEB: u64 = 10;
const OTHER: u64 = 11;

fn node(period: u16) -> Node {
    let mut node = Node::new();
    node.pod(WEB, "default/web", "", |pod| {
        pod.probes = Some(Box::new(probes(&[("10.0.0.5", 8000), ("10.0.0.5", 8001)])));
        pod.probes.as_mut().unwrap().period = period;
    });
    node.pod(OTHER, "default/other", "", |_| ());
    node
}

fn listening(port: u16) -> DumpedSocket {
    DumpedSocket {
        protocol: enforcer_ebpf::wire::Protocol::Tcp,
        address: "0.0.0.0".parse().unwrap(),
        port,
        cookie: crate::model::kernel_ids::SocketCookie::new(1),
        cgroup: Some(CgroupId::new(OTHER)),
        uid: 0,
        inode: None,
        device: None,
        activity: Activity::Listening,
        v6only: None,
    }
}

fn at(millis: u64) -> Now {
    Now { wall: i64::try_from(millis).unwrap() * 1000, boottime: Duration::from_millis(millis) }
}

fn refresh(ports: &mut AnsweredPorts, node: &Node, millis: u64) -> Vec<String> {
    let inputs = AnswerInputs { sockets: &node.holders, index: &node.index, shared: &[], is_own: &|_| false };
    ports.refresh(&inputs, at(millis));
    ports.take_settled(at(millis).boottime).iter().map(|answered| answered.port.to_string()).collect()
}

const NONE: [&str; 0] = [];

#[test]
fn it_must_hold_for_half_a_period_and_at_most_four_seconds() {
    for (period, settled) in [(1, 500), (4, 2000), (10, 4000), (3600, 4000)] {
        let mut node = node(period);
        let mut ports = AnsweredPorts::default();
        serve(&mut node, &[listening(8000)]);
        assert_eq!(refresh(&mut ports, &node, 1000), NONE);
        assert_eq!(ports.poll_timeout(), Some(Duration::from_millis(1000 + settled)));
        assert_eq!(refresh(&mut ports, &node, 1000 + settled - 1), NONE, "{period}");
        assert!(ports.is_empty());
        assert_eq!(refresh(&mut ports, &node, 1000 + settled), ["10.0.0.5:8000/tcp"], "{period}");
        assert_eq!((ports.poll_timeout(), ports.len()), (None, 1));
    }
}

#[test]
fn it_is_reported_once_and_again_when_it_returns() {
    let mut node = node(2);
    let mut ports = AnsweredPorts::default();
    serve(&mut node, &[listening(8000)]);
    refresh(&mut ports, &node, 1000);
    assert_eq!(refresh(&mut ports, &node, 2000).len(), 1);
    assert_eq!(refresh(&mut ports, &node, 9000), NONE, "once");
    // One more begins, and the first one goes on.
    serve(&mut node, &[listening(8000), listening(8001)]);
    refresh(&mut ports, &node, 10_000);
    assert_eq!(refresh(&mut ports, &node, 11_000), ["10.0.0.5:8001/tcp"]);
    let sorted: Vec<_> = ports.sorted().into_iter().map(|(answered, since)| (answered.port.port(), since)).collect();
    assert_eq!(sorted, [(8000, 1_000_000), (8001, 10_000_000)]);

    serve(&mut node, &[]);
    assert_eq!(refresh(&mut ports, &node, 12_000), NONE);
    assert!(ports.is_empty());
    serve(&mut node, &[listening(8000)]);
    assert_eq!(refresh(&mut ports, &node, 13_000), NONE, "the time begins anew");
    assert_eq!(refresh(&mut ports, &node, 14_000), ["10.0.0.5:8000/tcp"]);
}

#[test]
fn what_ends_before_it_settled_is_never_reported() {
    let mut node = node(10);
    let mut ports = AnsweredPorts::default();
    for round in 0..10 {
        serve(&mut node, &[listening(8000)]);
        assert_eq!(refresh(&mut ports, &node, 1000 + round * 4000), NONE);
        serve(&mut node, &[]);
        assert_eq!(refresh(&mut ports, &node, 4900 + round * 4000), NONE);
        assert_eq!(ports.poll_timeout(), None);
    }
}

#[test]
fn a_socket_that_nobody_saw_listen_is_not_reported() {
    let mut node = node(2);
    let mut ports = AnsweredPorts::default();
    node.bound(OTHER, "0.0.0.0", 8000, "nginx", None);
    assert_eq!(refresh(&mut ports, &node, 1000), NONE);
    assert_eq!(ports.poll_timeout(), Some(Duration::from_secs(2)));
    assert!(!ports.needs_scan(at(1999).boottime) && ports.needs_scan(at(2000).boottime));
    assert_eq!(refresh(&mut ports, &node, 2000), NONE);
    assert_eq!(ports.poll_timeout(), None, "it waits for what the kernel says");
    assert!(!ports.needs_scan(at(3000).boottime), "which it was asked for");

    node.dump(&[(OTHER, "0.0.0.0", 8000, Activity::Listening)]);
    assert_eq!(refresh(&mut ports, &node, 3000), ["10.0.0.5:8000/tcp"]);
    let mut bound = self::node(2);
    bound.bound(OTHER, "0.0.0.0", 8000, "nginx", None);
    refresh(&mut ports, &bound, 4000);
    bound.dump(&[(OTHER, "0.0.0.0", 8000, Activity::Bound)]);
    assert_eq!(refresh(&mut ports, &bound, 9000), NONE);
}

#[test]
fn ports_are_bounded() {
    let mut node = Node::new();
    let all: Vec<u16> = (1..=u16::try_from(MAX_ANSWERED).unwrap() + 9).map(|port| 20_000 + port).collect();
    for (number, ports) in all.chunks(20).enumerate() {
        let targets: Vec<(&str, u16)> = ports.iter().map(|port| ("10.0.0.5", *port)).collect();
        let number = 100 + u64::try_from(number).unwrap();
        node.pod(number, &format!("default/web-{number}"), "", |pod| pod.probes = Some(Box::new(probes(&targets))));
    }
    node.pod(OTHER, "default/other", "", |_| ());
    let sockets: Vec<_> = all.iter().map(|port| listening(*port)).collect();
    serve(&mut node, &sockets);
    let mut ports = AnsweredPorts::default();
    refresh(&mut ports, &node, 1000);
    let first = refresh(&mut ports, &node, 9000);
    assert_eq!(first.len(), MAX_ANSWERED);
    refresh(&mut ports, &node, 10_000);
    assert_eq!(refresh(&mut ports, &node, 20_000), NONE, "those that are known stay");
}
