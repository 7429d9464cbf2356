//! What the program asks the API server for: pages, and nothing twice.

use enforcer_testing::{apiserver::Recorded, tests};
use serde_json::{Value, json};

use crate::{
    Test,
    cluster::{Cluster, actor, ledger, object, pod, row},
    refusals::rights,
};

pub(crate) const TESTS: &[Test] = tests![
    lists_are_read_in_pages_and_each_once,
    pods_of_few_nodes_are_asked_for_node_by_node,
    requests_are_made_in_the_name_of_who_is_impersonated,
    list_goes_on_when_the_servers_memory_is_short
];

const NODES: u16 = 1_200;

/// A cluster with a ledger on each of many nodes, with some rows each.
fn large() -> Cluster {
    let cluster = Cluster::new();
    for number in 0..NODES {
        let node = format!("worker-{number:04}");
        cluster.server.put_node(object(json!({ "metadata": { "name": node } })));
        let rows: Vec<Value> = (0..5)
            .map(|place| {
                let who = actor("default", &format!("app-{place}-{number}"), "DaemonSet app");
                row(8000 + place, &who, Some(("hostPort", "inForce")), true)
            })
            .collect();
        cluster.server.put_ledger(ledger(&node, "audit", &rows.into(), &json!([])));
    }
    // The one that every server starts with has a ledger too, so that no pods are asked for.
    cluster.server.put_ledger(ledger("node-1", "audit", &json!([]), &json!([])));
    cluster
}

fn asked(cluster: &Cluster, from: usize) -> Vec<Recorded> {
    cluster.server.requests().split_off(from)
}

fn lists_are_read_in_pages_and_each_once() {
    let cluster = large();
    let before = cluster.server.requests().len();
    let lines = cluster.run(&["8003/tcp", "--no-headers"]).stdout;
    assert_eq!(lines.lines().count(), usize::from(NODES));
    assert!(lines.lines().all(|line| line.contains("8003/tcp") && line.contains("default/app-3-")), "{lines}");
    let requests = asked(&cluster, before);
    let of = |resource: &str| requests.iter().filter(|request| request.resource == resource).count();
    assert_eq!((of("nodehostports"), of("nodes"), of("services"), of("pods")), (3, 3, 1, 0));
    for request in &requests {
        assert_eq!(request.verb, "list");
        assert!(request.query.contains("limit=500"), "{request:?}");
    }
    // One node is asked for by its name.
    let before = cluster.server.requests().len();
    assert_eq!(cluster.run(&["--node", "worker-0042", "--no-headers"]).stdout.lines().count(), 5);
    let requests = asked(&cluster, before);
    let verbs: Vec<_> = requests.iter().map(|request| (request.verb.as_str(), request.resource.as_str())).collect();
    assert_eq!(verbs, [("list", "services"), ("get", "nodehostports")]);
}

fn pods_of_few_nodes_are_asked_for_node_by_node() {
    let cluster = Cluster::of_the_story().with_ledgers();
    let before = cluster.server.requests().len();
    cluster.answer(&[]);
    let requests = asked(&cluster, before);
    let pods: Vec<_> = requests.iter().filter(|request| request.resource == "pods").collect();
    assert_eq!(pods.len(), 1, "{pods:?}");
    assert!(pods[0].query.contains("node-3"), "{pods:?}");
}

fn requests_are_made_in_the_name_of_who_is_impersonated() {
    let cluster = Cluster::of_the_story();
    // Somebody whose rights are enough.
    assert_eq!(cluster.run_as_reader(&rights(), &["80"]).code, Some(0));
    let before = cluster.server.requests().len();
    cluster.answer(&["--as", "jane", "--as-group", "ops", "80"]);
    let requests = asked(&cluster, before);
    assert!(!requests.is_empty());
    assert!(requests.iter().all(|request| request.impersonate.as_deref() == Some("jane")), "{requests:?}");
}

fn list_goes_on_when_the_servers_memory_is_short() {
    let cluster = large();
    // Each change between two pages makes the first page's version too old.
    cluster.server.set_history(1);
    let server = &cluster.server;
    std::thread::scope(|scope| {
        let changes = scope.spawn(|| {
            for number in 0..200 {
                server.put_pod(object(pod("default", "busy", Some("node-1"), number % 60, 80, ("Job", "busy"))));
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
        });
        let names: Vec<String> = cluster
            .run(&["8001", "--no-headers"])
            .stdout
            .lines()
            .map(|line| line.split_whitespace().next().unwrap_or_default().to_owned())
            .collect();
        let mut sorted = names.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!((names.len(), sorted.len()), (usize::from(NODES), usize::from(NODES)), "each once");
        changes.join().expect("the changes are made");
    });
}
