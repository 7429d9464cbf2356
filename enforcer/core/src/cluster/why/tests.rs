//! The paragraph, word for word, for pods that pend, are denied, fail, wait or are well.

use serde_json::{Value as Json, json};

use super::*;
use crate::{
    cluster::{declared::declared_ports, host_ports::ServicePorts},
    index::Settings,
    ledger::content::{LedgerInputs, content},
    pods::pod::Workload,
    sockets::Activity,
    tests::node::{NOW, Node},
};

fn object(name: &str, port: u16, change: impl FnOnce(&mut Json)) -> api::Pod {
    let mut object = json!({
        "metadata": { "namespace": "default", "name": name, "uid": "00000000-0000-4000-8000-00000000000b" },
        "spec": { "hostNetwork": true, "containers": [{ "name": "c", "ports": [{ "containerPort": port }] }] },
        "status": { "phase": "Pending", "conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/2 nodes are available: 2 node(s) didn't have free ports for the requested pod ports.",
        }] },
    });
    change(&mut object);
    serde_json::from_value(object).unwrap()
}

fn running(name: &str, port: u16, ready: bool, waiting: Option<&str>) -> api::Pod {
    object(name, port, |pod| {
        pod["spec"]["nodeName"] = "node-1".into();
        let ready = if ready { "True" } else { "False" };
        pod["status"] = json!({ "phase": "Running", "conditions": [{ "type": "Ready", "status": ready }] });
        if let Some(reason) = waiting {
            pod["status"]["containerStatuses"] = json!([{ "name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 3,
                         "state": { "waiting": { "reason": reason } } }]);
        }
    })
}

fn node(name: &str, known: NodeKnowledge, rows: Vec<LedgerRow>) -> AskedNode {
    let traits = NodeTraits { name: name.to_owned(), ..NodeTraits::default() };
    AskedNode { traits, known, mode: Some("enforce".to_owned()), rows, conflicts: Vec::new() }
}

/// Rows of a node without an agent whose pods declare these ports.
fn declared(pods: &[(&str, u16)]) -> Vec<LedgerRow> {
    let pods = pods.iter().map(|(name, port)| {
        let object = object(name, *port, |pod| {
            pod["metadata"]["uid"] = format!("00000000-0000-4000-8000-{port:012}").into();
            pod["metadata"]["ownerReferences"] = json!([{
                "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "web", "uid": "d", "controller": true }]);
        });
        from_api(&object)
    });
    declared_ports("node", pods.collect(), Settings::default(), NOW).ports
}

fn ask(object: &api::Pod, nodes: &[AskedNode]) -> WhyAnswer {
    why(&AskedPod::of(object), nodes, &[], &[])
}

#[test]
fn pending_pod_names_who_has_its_port_on_each_node() {
    let pod = object("new", 80, |_| ());
    let nodes = [
        node("node-1", NodeKnowledge::Manifests, declared(&[("old", 80)])),
        node("node-2", NodeKnowledge::Manifests, declared(&[("other", 80), ("more", 81)])),
    ];
    let answer = ask(&pod, &nodes);
    assert_eq!(answer.verdict, PodVerdict::PendingForPorts);
    assert_eq!(
        answer.message,
        "default/new is Pending because on each of the 2 nodes that suit it another pod declares one of its ports \
         (80/tcp). On node-1, default/old (DaemonSet web) declares 80/tcp. On node-2, default/other (DaemonSet web) \
         declares 80/tcp. The scheduler says: 0/2 nodes are available: 2 node(s) didn't have free ports for the requested \
         pod ports. Remove one of the two, give one another port (kubectl host-ports free), or let them go to different \
         nodes. These nodes have no ledger: what is bound there without being declared is not known."
    );
}

#[test]
fn pending_pod_is_told_of_free_nodes_and_of_nodes_that_do_not_suit_it() {
    let pod = object("new", 80, |pod| pod["spec"]["nodeSelector"] = json!({ "pool": "a" }));
    let labelled = |mut node: AskedNode, taint: bool| {
        node.traits.labels.insert("pool".to_owned(), "a".to_owned());
        if taint {
            node.traits.taints.push(Taint {
                key: "dedicated".to_owned(),
                value: String::new(),
                effect: "NoSchedule".to_owned(),
            });
        }
        node
    };
    let nodes = [
        labelled(node("node-1", NodeKnowledge::Ledger, declared(&[("old", 80)])), false),
        labelled(node("node-2", NodeKnowledge::Ledger, Vec::new()), false),
        labelled(node("node-3", NodeKnowledge::Ledger, Vec::new()), true),
        node("node-4", NodeKnowledge::Ledger, Vec::new()),
    ];
    let answer = ask(&pod, &nodes);
    assert_eq!(answer.verdict, PodVerdict::PendingForOther);
    assert_eq!(
        answer.message,
        "default/new is Pending, and ports (80/tcp) are not the reason: on node-2 no other pod declares them. On node-1, \
         default/old (DaemonSet web) declares 80/tcp. 2 other nodes do not suit it: its labels or name are not what the pod \
         demands, the pod does not tolerate its taint dedicated. The scheduler says: 0/2 nodes are available: 2 node(s) \
         didn't have free ports for the requested pod ports."
    );
    let none = ask(&pod, &nodes[3..]);
    assert!(
        none.message.starts_with("default/new is Pending because no node suits it; ports (80/tcp) are not"),
        "{none:?}"
    );
    let portless = ask(&object("new", 80, |pod| pod["spec"]["hostNetwork"] = false.into()), &nodes);
    assert_eq!(portless.verdict, PodVerdict::NoPorts);
}

/// The node of a ledger with a pod `default/web-1` that claims 80.
fn ledger(build: impl FnOnce(&mut Node)) -> AskedNode {
    let mut scene = Node::new();
    build(&mut scene);
    let ledger = content(&scene.scene(), &LedgerInputs::default());
    AskedNode { conflicts: ledger.conflicts, ..node("node-1", NodeKnowledge::Ledger, ledger.ports) }
}

#[test]
fn denied_pod_reads_claim_owner_and_mode() {
    let node = ledger(|node| {
        node.pod(10, "default/web-0", "80", |_| ());
        node.pod(11, "default/web-1", "80", |_| ());
    });
    let answer = ask(&running("web-1", 80, false, Some("CrashLoopBackOff")), &[node]);
    assert_eq!(answer.verdict, PodVerdict::Denied);
    assert_eq!(
        answer.message,
        "default/web-1 is Running (CrashLoopBackOff) on node-1. Its claim is not in force: default/web-0 claims 80/tcp \
         (annotation) since 1970-01-01T00:00:00.00001Z. In mode enforce its binds there are denied."
    );
}

#[test]
fn failing_pod_names_the_holder_and_ready_pod_is_warned() {
    let build = |node: &mut Node| {
        node.pod(11, "default/web-1", "80", |_| ());
        node.pod(12, "tools/squatter", "none", |_| ());
        node.dump(&[(12, "0.0.0.0", 80, Activity::Listening)]);
    };
    let failing = ask(&running("web-1", 80, false, Some("CrashLoopBackOff")), &[ledger(build)]);
    assert_eq!(failing.verdict, PodVerdict::InUse);
    assert_eq!(
        failing.message,
        "default/web-1 is Running (CrashLoopBackOff) on node-1. It cannot bind: tools/squatter holds 0.0.0.0:80/tcp since \
         2023-11-14T22:06:40Z without declaring it. Stop one of the two, give one another port (kubectl host-ports free), \
         or let them go to different nodes."
    );
    let ready = ask(&running("web-1", 80, true, None), &[ledger(build)]);
    assert_eq!(ready.verdict, PodVerdict::AnsweredByOther);
    assert!(ready.message.ends_with("Its probes may be answered by a stranger."), "{}", ready.message);
}

#[test]
fn ready_pod_reads_who_answers_its_probe() {
    let conflict = |ports: &str| LedgerConflict {
        kind: "answeredByOther".to_owned(),
        ports: ports.to_owned(),
        who: AskedPod::of(&running("web-1", 80, true, None)).actor,
        other: LedgerActor {
            kind: "pod".to_owned(),
            namespace: Some("tools".to_owned()),
            name: Some("squatter".to_owned()),
            ..LedgerActor::default()
        },
        since: Some("2023-11-14T22:06:40Z".to_owned()),
    };
    let mut pod = running("web-1", 80, true, None);
    pod.status.as_mut().unwrap().pod_ip = Some("10.0.0.5".to_owned());
    let probe = json!({ "tcpSocket": { "port": 8000 } });
    pod.spec.as_mut().unwrap().containers[0].readiness_probe = serde_json::from_value(probe).unwrap();
    for (ports, what) in [
        ("10.0.0.5:8000/tcp", "probe on 10.0.0.5:8000/tcp"),
        ("80/tcp", "port 80/tcp"),
        ("10.0.0.5:8000/udp", "port 10.0.0.5:8000/udp"),
    ] {
        let mut node = ledger(|node| {
            node.pod(11, "default/web-1", "80", |_| ());
            node.pod(12, "tools/squatter", "none", |_| ());
            node.dump(&[(12, "0.0.0.0", 80, Activity::Listening)]);
        });
        node.conflicts = vec![conflict(ports)];
        let answer = ask(&pod, &[node]);
        assert_eq!(answer.verdict, PodVerdict::AnsweredByOther);
        let users = &answer.nodes[0].users;
        assert_eq!(users.len(), if ports == "80/tcp" { 1 } else { 2 }, "each is named once: {users:?}");
        assert_eq!(
            answer.message,
            format!(
                "default/web-1 is Running and Ready on node-1. But its {what} is answered by tools/squatter \
                 since 2023-11-14T22:06:40Z. Give one of the two another port, and look why the pod did not bind it."
            )
        );
    }
}

#[test]
fn owner_is_fine_and_one_that_has_not_bound_is_told() {
    let held = ledger(|node| {
        node.pod(11, "default/web-1", "80", |_| ());
        node.pod(12, "tools/late", "80", |_| ());
        node.dump(&[(11, "0.0.0.0", 80, Activity::Listening)]);
    });
    let answer = ask(&running("web-1", 80, true, None), &[held]);
    assert_eq!(
        (answer.verdict, answer.message.as_str()),
        (PodVerdict::Fine, "default/web-1 is Running and Ready on node-1. It holds what it claims: 80/tcp.")
    );
    let idle = ledger(|node| node.pod(11, "default/web-1", "80", |_| ()));
    let answer = ask(&running("web-1", 80, false, None), &[idle]);
    assert_eq!(
        (answer.verdict, answer.message.as_str()),
        (
            PodVerdict::NotBound,
            "default/web-1 is Running on node-1. It has not bound 80/tcp, and nobody else holds it."
        )
    );
}

#[test]
fn kept_port_says_for_whom_and_until_when() {
    let kept = ledger(|node| {
        node.pod(10, "ingress/edge-0", "80", |pod| {
            pod.workload = Some(Workload {
                namespace: "ingress".to_owned(),
                kind: "DaemonSet".to_owned(),
                name: "edge".to_owned(),
                uid: "d".to_owned(),
            });
        });
        let owner = node.index.pod_named("ingress", "edge-0").unwrap();
        node.index.note_bound(owner, Protocol::Tcp, 80);
        node.index.delete("ingress", "edge-0", NOW);
        node.pod(11, "default/web-1", "80", |_| ());
    });
    let answer = ask(&running("web-1", 80, false, None), &[kept]);
    assert_eq!(answer.verdict, PodVerdict::Kept);
    assert_eq!(
        answer.message,
        "default/web-1 is Running on node-1. 80/tcp is kept for DaemonSet ingress/edge until 2023-11-14T22:14:20Z \
         (handover grace). Until then its bind is refused in mode enforce; wait, or end the grace on the node (enforcer \
         release PORT)."
    );
}

#[test]
fn service_on_its_port_and_the_agents_last_report_are_told() {
    let service = serde_json::from_value(json!({
        "metadata": { "namespace": "shop", "name": "front" },
        "spec": { "ports": [{ "port": 80, "nodePort": 30080 }] },
    }))
    .unwrap();
    let services = ServicePorts::of(&[service]);
    let rows: Vec<LedgerRow> = services.rows().cloned().collect();
    let pod = AskedPod::of(&running("web-1", 30_080, false, None));
    let empty = ledger(|node| node.pod(11, "default/web-1", "30080", |_| ()));
    let report = "bind 0.0.0.0:9100/tcp by default/web-1 denied on node-1\u{1b}: claimed by x (annotation)".to_owned();
    let answer = why(&pod, &[empty], &rows, &[report]);
    assert_eq!(
        answer.message,
        "default/web-1 is Running on node-1. 30080/tcp is a NodePort of Service shop/front, and packets for it go to the \
         Service: another port is needed. The agent last reported: bind 0.0.0.0:9100/tcp by default/web-1 denied on \
         node-1\\u{1b}: claimed by x (annotation)."
    );
}

#[test]
fn free_ports_are_named_where_another_port_would_do() {
    let pod = object("new", 9100, |_| ());
    let nodes = [
        node("node-1", NodeKnowledge::Manifests, declared(&[("old", 9100)])),
        node("node-2", NodeKnowledge::Manifests, declared(&[("other", 9100)])),
    ];
    let near = |_, port: u16| vec![port + 1, port - 1];
    let answer = ask(&pod, &nodes).with_free_ports(near);
    assert!(answer.message.ends_with(" Free near 9100/tcp: 9101, 9099."), "{}", answer.message);
    assert_eq!(answer.free_ports, [FreePortsNear { port: "9100/tcp".to_owned(), free: vec![9101, 9099] }]);
    let open = ask(&pod, &nodes[..0]).with_free_ports(near);
    assert_eq!(open.free_ports, [], "ports are not the reason");
    let nowhere = ask(&pod, &nodes).with_free_ports(|_, _| Vec::new());
    assert!(!nowhere.message.contains("Free near"), "{}", nowhere.message);
}

#[test]
fn port_that_is_reserved_for_the_node_counts_if_the_scheduler_says_so() {
    let reserved = || {
        let mut index_node = Node::new();
        index_node.index.reset(Vec::new(), NOW);
        let rows = content(&index_node.scene(), &LedgerInputs::default()).ports;
        node("node-1", NodeKnowledge::Ledger, rows)
    };
    let pod = object("new", 22, |_| ());
    let answer = ask(&pod, &[reserved()]);
    assert_eq!(answer.verdict, PodVerdict::PendingForPorts);
    assert!(answer.message.contains("On node-1, the node declares 22/tcp."), "{}", answer.message);
    let other = object("new", 22, |pod| {
        pod["status"]["conditions"][0]["message"] = "0/1 nodes are available: 1 Insufficient cpu.".into();
    });
    assert_eq!(ask(&other, &[reserved()]).verdict, PodVerdict::PendingForOther);
}
