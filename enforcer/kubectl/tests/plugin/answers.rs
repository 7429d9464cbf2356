//! What each command says, word for word. After a change that was meant, `INSTA_UPDATE=always cargo test --package
//! enforcer-kubectl` writes the snapshots anew.

use enforcer_testing::tests;
use serde_json::{Value, json};

use crate::{
    Test,
    cluster::{Cluster, End, end, ledger, object, pod, row},
};

pub(crate) const TESTS: &[Test] = tests![
    list_without_agents_shows_what_pods_declare_and_says_so,
    list_with_ledgers_shows_what_is_held,
    pending_pod_is_explained_with_and_without_agents,
    running_pods_are_explained,
    free_ports_are_free_on_every_node,
    conflicts_are_red_on_terminals_only_and_text_of_others_is_inert,
    node_without_agent_among_others_is_told
];

macro_rules! snapshot {
    ($name:expr, $answer:expr) => {
        insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!($name, $answer);
        })
    };
}

fn list_without_agents_shows_what_pods_declare_and_says_so() {
    let cluster = Cluster::of_the_story();
    snapshot!("list_without_agents", cluster.answer(&[]));
    snapshot!("list_without_agents_wide_of_a_port", cluster.answer(&["9100", "-o", "wide"]));
}

fn list_with_ledgers_shows_what_is_held() {
    let cluster = Cluster::of_the_story().with_ledgers();
    snapshot!("list_with_ledgers", cluster.answer(&[]));
    snapshot!("list_with_ledgers_wide", cluster.answer(&["--node", "node-2", "-o", "wide"]));
    snapshot!("list_with_ledgers_conflicts", cluster.answer(&["--conflicts"]));
    snapshot!("list_with_ledgers_undeclared", cluster.answer(&["--undeclared", "--no-headers"]));
    snapshot!("list_with_ledgers_of_a_namespace", cluster.answer(&["-n", "shop"]));
    snapshot!("list_with_ledgers_json", cluster.answer(&["80/tcp", "-o", "json"]));
    snapshot!("list_with_ledgers_yaml", cluster.answer(&["22", "-o", "yaml"]));
}

fn pending_pod_is_explained_with_and_without_agents() {
    let cluster = Cluster::of_the_story();
    let why = ["why", "-n", "kepler", "kepler-x2vbn"];
    snapshot!("why_pending_without_agents", cluster.answer(&why));
    let cluster = cluster.with_ledgers();
    snapshot!("why_pending_with_ledgers", cluster.answer(&why));
    let json: Value = serde_json::from_str(&cluster.run(&[&why[..], &["-o", "json"]].concat()).stdout).expect("JSON");
    assert_eq!(json["verdict"], "pendingForPorts");
    let nodes: Vec<_> = json["nodes"].as_array().into_iter().flatten().map(|node| node["node"].clone()).collect();
    assert_eq!(nodes, ["node-1", "node-2", "node-3"]);
    assert!(json["nodes"][2]["misfit"].as_str().is_some_and(|why| why.contains("control-plane")), "{json}");
}

fn running_pods_are_explained() {
    let cluster = Cluster::of_the_story();
    snapshot!("why_running_without_agents", cluster.answer(&["why", "default/nginx-6fdf99c8b-rglm7"]));
    let cluster = cluster.with_ledgers();
    let mut failing = pod("default", "nginx-6fdf99c8b-rglm7", Some("node-1"), 2, 80, ("ReplicaSet", "nginx-6fdf99c8b"));
    failing["status"] = json!({ "phase": "Running",
        "conditions": [{ "type": "Ready", "status": "False" }],
        "containerStatuses": [{ "name": "main", "image": "x", "imageID": "x", "ready": false, "restartCount": 7,
            "state": { "waiting": { "reason": "CrashLoopBackOff" } } }] });
    cluster.server.put_pod(object(failing));
    snapshot!("why_crash_loop", cluster.answer(&["why", "pod/nginx-6fdf99c8b-rglm7"]));
    snapshot!("why_ready_and_not_bound", cluster.answer(&["why", "-n", "monitoring", "node-exporter-4"]));
    snapshot!("why_shadowed", cluster.answer(&["why", "-n", "shop", "gateway-0"]));
    snapshot!("why_fine", cluster.answer(&["why", "-n", "monitoring", "node-exporter-3"]));
}

fn free_ports_are_free_on_every_node() {
    let cluster = Cluster::of_the_story();
    snapshot!("free_without_agents", cluster.answer(&["free", "9099-9102"]));
    let cluster = cluster.with_ledgers();
    snapshot!("free_with_ledgers", cluster.answer(&["free", "8079-8082", "--count", "2"]));
    snapshot!("free_json", cluster.answer(&["free", "30079-30081", "-o", "json"]));
}

fn conflicts_are_red_on_terminals_only_and_text_of_others_is_inert() {
    let cluster = Cluster::new();
    let mut who = json!({ "kind": "pod", "namespace": "default", "name": "evil\u{1b}[2J\u{202e}\n" });
    who["workload"] = "Job <script>alert(1)</script>".into();
    cluster.server.put_ledger(ledger("node-1", "audit", &json!([row(80, &who, None, true)]), &json!([])));
    let End { stdout, .. } = cluster.run(&["-o", "wide"]);
    assert!(!stdout.contains('\u{1b}') && !stdout.contains('\u{202e}'), "{stdout:?}");
    assert!(stdout.contains(r"evil\u{1b}[2J\u{202e}\u{a}"), "{stdout}");
    let page = cluster.run(&["-o", "html"]).stdout;
    assert!(!page.contains("<script>alert"), "the page holds no element of others");
}

fn node_without_agent_among_others_is_told() {
    let cluster = Cluster::of_the_story().with_ledgers();
    let End { stderr, .. } = end(cluster.command(&[]));
    assert_eq!(stderr, "note: node-3 has no ledger: this is what pods declare there, and what is bound is not known\n");
}
