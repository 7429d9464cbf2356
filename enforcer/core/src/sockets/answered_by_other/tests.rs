use std::slice;

use jiff::Timestamp;

use super::*;
use crate::{
    model::{
        kernel_ids::{BootNanos, CgroupId},
        port_spec::PortRange,
    },
    pods::{
        pod::{DeclaredPort, Pod, Workload},
        probes::Probes,
    },
    sockets::{DumpedSocket, Scope, SocketPlace},
    tests::node::Node,
};

const WEB: u64 = 10;
const OTHER: u64 = 11;
/// A cgroup outside of the attached root.
const HOST: u64 = 900;

/// Probes of a pod that is Ready on 10.0.0.5, with these targets.
pub(in crate::sockets) fn probes(targets: &[(&str, u16)]) -> Probes {
    let target = |&(address, port): &(&str, u16)| {
        let is_local = matches!(address, "10.0.0.5" | "fd00::5" | "127.0.0.1");
        ProbeTarget { port, address: address.parse().unwrap(), is_local }
    };
    let address = Some("10.0.0.5".parse().unwrap());
    Probes { is_ready: true, address, period: 10, targets: targets.iter().map(target).collect() }
}

fn declared(port: u16, address: &str, protocol: Protocol) -> DeclaredPort {
    let host_ip = if address.is_empty() { Address::Any } else { address.parse().unwrap() };
    DeclaredPort { host_port: port, host_ip, protocol, container: "server".to_owned() }
}

fn socket(cgroup: u64, address: &str, port: u16) -> DumpedSocket {
    DumpedSocket {
        protocol: Protocol::Tcp,
        address: address.parse().unwrap(),
        port,
        cookie: SocketCookie::new(1),
        cgroup: Some(CgroupId::new(cgroup)),
        uid: 0,
        inode: None,
        device: None,
        activity: Activity::Listening,
        v6only: None,
    }
}

fn udp(socket: &DumpedSocket) -> DumpedSocket {
    DumpedSocket { protocol: Protocol::Udp, activity: Activity::Bound, ..socket.clone() }
}

pub(in crate::sockets) fn serve(node: &mut Node, sockets: &[DumpedSocket]) {
    for _ in 0..2 {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            node.holders.begin_dump(protocol, BootNanos::new(600_000_000_000));
            for (place, socket) in sockets.iter().enumerate().filter(|(_, socket)| socket.protocol == protocol) {
                let cookie = SocketCookie::new(u64::try_from(place).unwrap() + 100 * u64::from(socket.port));
                let socket = DumpedSocket { cookie, ..socket.clone() };
                node.holders.record_dumped(&socket, |cgroup| SocketPlace::of(cgroup, &node.index));
            }
            node.holders.end_dump(protocol, Scope::Connected);
        }
    }
}

/// What is found of the pod `default/web`: port, holder, and whether the pod has it too.
fn found(node: &Node, shared: &[PortSpec]) -> Vec<(String, String, bool)> {
    let inputs = AnswerInputs { sockets: &node.holders, index: &node.index, shared, is_own: &|_| false };
    let mut all = Vec::new();
    for pod in node.index.ready_pods().filter(|pod| pod.name.name == "web") {
        find(&inputs, &pod, |_, finding| {
            assert!(finding.is_confirmed);
            let holder = node.holders.place(finding.holder).who.to_string();
            all.push((finding.port.to_string(), holder, finding.is_shared));
        });
    }
    all.sort();
    all
}

fn answer(port: &str, holder: &str, is_shared: bool) -> (String, String, bool) {
    (port.to_owned(), holder.to_owned(), is_shared)
}

/// The pod `default/web`, and another one.
fn node(web: impl FnOnce(&mut Pod)) -> Node {
    let mut node = Node::new();
    node.pod(WEB, "default/web", "", |pod| {
        pod.probes = Some(Box::new(probes(&[])));
        web(pod);
    });
    node.pod(OTHER, "default/other", "", |_| ());
    node
}

fn probed(targets: &[(&str, u16)]) -> Node {
    node(|pod| pod.probes = Some(Box::new(probes(targets))))
}

const OWN: &[(&str, u16)] = &[("10.0.0.5", 8000)];

#[test]
fn probe_is_answered_by_whom_the_kernel_chooses() {
    const V4: &str = "10.0.0.5";
    let by = |is_shared| vec![("other", is_shared)];
    for (target, sockets, expected) in [
        (V4, vec![(OTHER, "0.0.0.0")], by(false)),
        (V4, vec![(OTHER, "10.0.0.5")], by(false)),
        (V4, vec![(OTHER, "::")], by(false)),
        // Nobody answers.
        (V4, vec![], vec![]),
        (V4, vec![(OTHER, "127.0.0.1")], vec![]),
        (V4, vec![(OTHER, "10.0.0.6")], vec![]),
        (V4, vec![(OTHER, "fd00::5")], vec![]),
        // The pod answers.
        (V4, vec![(WEB, "0.0.0.0")], vec![]),
        (V4, vec![(WEB, "10.0.0.5"), (OTHER, "0.0.0.0")], vec![]),
        (V4, vec![(WEB, "0.0.0.0"), (OTHER, "127.0.0.1")], vec![]),
        (V4, vec![(WEB, "0.0.0.0"), (OTHER, "::")], vec![]),
        // The pod listens where the probe does not come.
        (V4, vec![(WEB, "0.0.0.0"), (OTHER, "10.0.0.5")], by(false)),
        (V4, vec![(WEB, "127.0.0.1"), (OTHER, "0.0.0.0")], by(false)),
        (V4, vec![(WEB, "::"), (OTHER, "0.0.0.0")], by(false)),
        // Now one, now the other.
        (V4, vec![(WEB, "0.0.0.0"), (OTHER, "0.0.0.0")], by(true)),
        (V4, vec![(WEB, "::"), (OTHER, "::")], by(true)),
        // Other targets.
        ("127.0.0.1", vec![(OTHER, "127.0.0.1")], by(false)),
        ("127.0.0.1", vec![(OTHER, "10.0.0.5")], vec![]),
        ("fd00::5", vec![(OTHER, "::")], by(false)),
        ("fd00::5", vec![(OTHER, "0.0.0.0")], vec![]),
        // Perhaps another machine's address.
        ("192.0.2.1", vec![(OTHER, "0.0.0.0")], vec![]),
        ("192.0.2.1", vec![(OTHER, "192.0.2.1")], by(false)),
    ] {
        let mut node = probed(&[(target, 8000)]);
        let sockets: Vec<_> = sockets.iter().map(|&(cgroup, address)| socket(cgroup, address, 8000)).collect();
        serve(&mut node, &sockets);
        let found: Vec<_> = found(&node, &[]).into_iter().map(|(_, who, is_shared)| (who, is_shared)).collect();
        let expected: Vec<_> =
            expected.into_iter().map(|(who, is_shared)| (format!("default/{who}"), is_shared)).collect();
        assert_eq!(found, expected, "{target}: {sockets:?}");
    }
}

#[test]
fn only_sockets_that_take_connections_of_the_node_answer() {
    let listening = socket(OTHER, "::", 8000);
    for other in [
        DumpedSocket { activity: Activity::Bound, ..listening.clone() },
        DumpedSocket { activity: Activity::Connected, ..listening.clone() },
        DumpedSocket { v6only: Some(true), ..listening.clone() },
        DumpedSocket { device: Some(7), ..listening.clone() },
        DumpedSocket { cgroup: None, ..listening.clone() },
        udp(&listening),
    ] {
        let mut node = probed(OWN);
        serve(&mut node, slice::from_ref(&other));
        assert_eq!(found(&node, &[]), [], "{other:?}");
    }
    let mut node = probed(OWN);
    serve(&mut node, &[DumpedSocket { device: Some(LOOPBACK_DEVICE), ..listening }]);
    assert_eq!(found(&node, &[]), [answer("10.0.0.5:8000/tcp", "default/other", false)]);
}

#[test]
fn declared_port_is_held_by_whoever_overlaps() {
    const NOTHING: &[(u64, &str)] = &[];
    for (host_ip, sockets, expected) in [
        // The pod has not bound it.
        ("", &[(OTHER, "0.0.0.0")][..], Some(false)),
        ("", &[(OTHER, "127.0.0.53")], Some(false)),
        ("10.0.0.5", &[(OTHER, "0.0.0.0")], Some(false)),
        ("10.0.0.5", &[(OTHER, "10.0.0.5")], Some(false)),
        ("10.0.0.5", &[(OTHER, "10.0.0.6")], None),
        ("127.0.0.1", &[(OTHER, "10.0.0.5")], None),
        ("", NOTHING, None),
        // It has.
        ("", &[(WEB, "0.0.0.0")], None),
        ("", &[(WEB, "0.0.0.0"), (OTHER, "0.0.0.0")], Some(true)),
        ("", &[(WEB, "0.0.0.0"), (OTHER, "127.0.0.1")], Some(true)),
        ("", &[(WEB, "10.0.0.5"), (OTHER, "0.0.0.0")], Some(true)),
        // Two servers on two addresses.
        ("", &[(WEB, "169.254.20.10"), (OTHER, "127.0.0.53")], None),
        ("", &[(WEB, "10.0.0.5"), (OTHER, "10.0.0.6")], None),
        // What is for the pod's address goes to the other one.
        ("", &[(WEB, "127.0.0.1"), (OTHER, "10.0.0.5")], Some(false)),
        ("", &[(OTHER, "224.0.0.251")], None),
    ] {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let mut node = node(|pod| pod.ports = vec![declared(53, host_ip, protocol)]);
            let sockets: Vec<_> = sockets.iter().map(|&(cgroup, address)| socket(cgroup, address, 53)).collect();
            let udp_sockets: Vec<_> = sockets.iter().map(udp).collect();
            serve(&mut node, if protocol == Protocol::Udp { &udp_sockets } else { &sockets });
            let found: Vec<_> = found(&node, &[]).into_iter().map(|(_, who, is_shared)| (who, is_shared)).collect();
            let expected: Vec<_> = expected.iter().map(|is_shared| ("default/other".to_owned(), *is_shared)).collect();
            assert_eq!(found, expected, "{host_ip} {protocol:?}: {sockets:?}");
        }
    }
}

#[test]
fn port_of_the_annotation_is_declared_too() {
    let mut node = node(|pod| pod.ports_annotation = Some("8000-8009, 127.0.0.1:9000".to_owned()));
    let sockets = [("0.0.0.0", 8001), ("0.0.0.0", 8009), ("0.0.0.0", 8010), ("127.0.0.1", 9000)];
    serve(&mut node, &sockets.map(|(address, port)| socket(OTHER, address, port)));
    let ports: Vec<String> = found(&node, &[]).into_iter().map(|(port, ..)| port).collect();
    assert_eq!(ports, ["127.0.0.1:9000/tcp", "8001/tcp", "8009/tcp"]);
}

#[test]
fn probe_says_more_than_a_declaration() {
    let mut node = node(|pod| {
        pod.probes = Some(Box::new(probes(OWN)));
        pod.ports = vec![declared(8000, "", Protocol::Tcp)];
    });
    serve(&mut node, &[socket(OTHER, "0.0.0.0", 8000)]);
    assert_eq!(found(&node, &[]), [answer("10.0.0.5:8000/tcp", "default/other", false)], "once");
}

fn workload(pod: &mut Pod, revision: &str) {
    let text = |text: &str| text.to_owned();
    pod.workload =
        Some(Workload { namespace: text("default"), kind: text("ReplicaSet"), name: text("web"), uid: String::new() });
    pod.revision = revision.to_owned();
}

#[test]
fn only_another_party_that_stays_is_a_stranger() {
    let with = |web: &dyn Fn(&mut Pod), other: &dyn Fn(&mut Pod)| {
        let mut node = node(|pod| {
            pod.probes = Some(Box::new(probes(OWN)));
            web(pod);
        });
        node.pod(OTHER, "default/other", "", |pod| other(pod));
        serve(&mut node, &[socket(OTHER, "0.0.0.0", 8000)]);
        found(&node, &[]).len()
    };
    let nothing: &dyn Fn(&mut Pod) = &|_| ();
    let going: &dyn Fn(&mut Pod) = &|pod| pod.deletion = Some(Timestamp::UNIX_EPOCH);
    assert_eq!(with(nothing, nothing), 1);
    assert_eq!(with(nothing, going), 0, "it goes");
    assert_eq!(with(going, nothing), 0, "and so does this one");
    assert_eq!(with(&|pod| workload(pod, "1"), &|pod| workload(pod, "2")), 0, "a rollout");
    assert_eq!(with(&|pod| workload(pod, "1"), nothing), 1);
    let group: &dyn Fn(&mut Pod) = &|pod| pod.share = Some("web".to_owned());
    assert_eq!(with(group, group), 0, "a share group");
    assert_eq!(with(group, nothing), 1);
    let unready: &dyn Fn(&mut Pod) = &|pod| pod.probes.as_mut().unwrap().is_ready = false;
    assert_eq!(with(unready, nothing), 0, "its probe fails");
    assert_eq!(with(&|pod| pod.uid = None, nothing), 0, "its own sockets could not be told from others");
}

#[test]
fn host_process_is_a_stranger_and_an_unknown_pod_is_not() {
    let mut node = probed(OWN);
    serve(&mut node, &[socket(HOST, "0.0.0.0", 8000)]);
    assert_eq!(found(&node, &[]), [answer("10.0.0.5:8000/tcp", "a host process", false)]);

    let mut node = probed(OWN);
    serve(&mut node, &[socket(OTHER, "0.0.0.0", 8000)]);
    assert_eq!(found(&node, &[]).len(), 1);
    node.index.delete("default", "other", crate::tests::node::NOW);
    assert_eq!(found(&node, &[]), [], "its object is gone, and its processes are about to go");
}

#[test]
fn shared_ports_and_own_sockets_are_no_conflict() {
    let mut node = node(|pod| {
        pod.probes = Some(Box::new(probes(OWN)));
        pod.ports = vec![declared(5353, "", Protocol::Udp)];
    });
    serve(&mut node, &[socket(OTHER, "0.0.0.0", 8000), udp(&socket(OTHER, "0.0.0.0", 5353))]);
    assert_eq!(found(&node, &[]).len(), 2);
    let shared = |protocol, port| PortSpec { protocol, address: Address::Any, ports: PortRange::single(port).unwrap() };
    let spec = [shared(Protocol::Udp, 5353)];
    assert_eq!(found(&node, &spec), [answer("10.0.0.5:8000/tcp", "default/other", false)]);
    assert_eq!(found(&node, &[shared(Protocol::Tcp, 8000), spec[0]]), []);

    let pod = node.index.ready_pods().find(|pod| pod.name.name == "web").unwrap();
    let inputs = AnswerInputs { sockets: &node.holders, index: &node.index, shared: &spec, is_own: &|_| true };
    find(&inputs, &pod, |_, finding| panic!("a socket of the agent: {finding:?}"));
}

#[test]
fn sentences_name_both_and_show_tenants_no_process() {
    let mut node = node(|pod| {
        pod.probes = Some(Box::new(probes(OWN)));
        pod.ports = vec![declared(9100, "", Protocol::Tcp)];
    });
    node.bound(OTHER, "0.0.0.0", 8000, "sly", None);
    node.bound(OTHER, "127.0.0.1", 9100, "sly", None);
    let inputs = AnswerInputs { sockets: &node.holders, index: &node.index, shared: &[], is_own: &|_| false };
    let pod = node.index.ready_pods().find(|pod| pod.name.name == "web").unwrap();
    let mut sentences = Vec::new();
    find(&inputs, &pod, |_, Finding { port, holder, is_confirmed, .. }| {
        assert!(!is_confirmed, "nobody has seen it listen");
        let holder = NamedSocket::new(holder, &node.holders);
        for is_shared in [false, true] {
            let (pod, holder) = (Actor::Known(pod.name.clone()), holder.clone());
            let answered = AnsweredByOther { pod, port, holder, is_shared };
            sentences.push(answered.sentence("node-1", Audience::Operators));
            let tenants = answered.sentence("node-1", Audience::Tenants);
            assert!(!tenants.contains("sly") && !tenants.contains("4711"), "{tenants}");
        }
    });
    let expected = [
        "its probe on 10.0.0.5:8000/tcp is answered by default/other (command sly, pid 4711), which holds 0.0.0.0:8000/tcp",
        "its probe on 10.0.0.5:8000/tcp is answered by default/other (command sly, pid 4711) too, which holds \
         0.0.0.0:8000/tcp at the same time",
        "9100/tcp, which it declares, is held by default/other (command sly, pid 4711) as 127.0.0.1:9100/tcp",
        "9100/tcp, which it declares, is held by default/other (command sly, pid 4711) too, as 127.0.0.1:9100/tcp",
    ]
    .map(|what| format!("default/web is Ready on node-1, but {what}; give one of the two another port"));
    assert_eq!(sentences, expected);
}
