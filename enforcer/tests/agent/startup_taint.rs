//! The startup taint: the real agent removes it from its Node once it judges, and nothing else of the Node.

use std::{thread::sleep, time::Duration};

use k8s_openapi::api::{core::v1::Node, rbac::v1::ClusterRole};
use serde_json::{Value, json};

use enforcer_testing::{
    agent::Agent,
    agent_fixture::{AgentFixture, denied, until_bind},
    apiserver::{ApiServer, Fault, Target},
    pods::Pod,
    tests,
};

use crate::{
    Test,
    api_server_source::PODS,
    backend::{Backend as _, cluster_arguments, documents, start_on_cluster, start_synced},
};

pub(crate) const TESTS: &[Test] = tests![
    taint_is_removed_once_pods_are_known,
    audit_mode_removes_the_taint,
    taints_that_changed_meanwhile_are_read_again,
    missing_right_is_reported_once_and_changes_no_verdict,
    failed_removal_is_retried,
    taint_that_returns_is_removed_again,
    next_agent_removes_the_taint_of_a_new_node,
    requests_for_the_node_stay_within_the_role
];

const KEY: &str = "port-enforcer.io/agent-not-ready";
const FLAG: [&str; 2] = ["--startup-taint", KEY];
const NODES: Target = Target::ALL.resource("nodes");

fn taint(key: &str, effect: &str) -> Value {
    json!({ "key": key, "effect": effect })
}

/// Creates or edits the agent's Node with these taints.
fn put_node(server: &ApiServer, taints: &[Value]) {
    let node = json!({ "metadata": { "name": "node-1" }, "spec": { "taints": taints } });
    server.put_node(serde_json::from_value::<Node>(node).expect("a Node"));
}

/// The taints of the agent's Node.
fn taints(server: &ApiServer) -> Vec<Value> {
    let node = server.node("node-1").expect("the agent's Node");
    let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
    taints.iter().map(|taint| serde_json::to_value(taint).expect("JSON")).collect()
}

fn wait_for_removal(agent: &mut Agent) -> Value {
    agent.wait_for_line("the taint is removed", |line| line["event"] == "startup_taint_removed")
}

fn taint_is_removed_once_pods_are_known() {
    let fixture = AgentFixture::new();
    let server = ApiServer::start();
    let (not_ready, gpu) = (taint("node.kubernetes.io/not-ready", "NoExecute"), taint("gpu", "NoSchedule"));
    let weak = taint(KEY, "PreferNoSchedule");
    let own = [taint(KEY, "NoExecute"), taint(KEY, "NoSchedule")];
    let [execute, schedule] = own;
    put_node(&server, &[not_ready.clone(), execute, weak.clone(), schedule, gpu.clone()]);
    // The lists of pods are withheld.
    let withheld =
        [server.fault(PODS.verb("list"), Fault::Unavailable), server.fault(PODS.verb("watch"), Fault::Unavailable)];
    let mut agent = start_on_cluster(&fixture, &server, &FLAG);
    agent.wait_for_line("the pods are not known", |line| line["event"] == "api_error" && line["resource"] == "pods");
    // Long enough for every task of the agent to have run.
    sleep(Duration::from_secs(2));
    assert_eq!(taints(&server).len(), 5, "nothing is removed by an agent that does not know its pods");
    assert_eq!(server.count(NODES), 0, "nor is the Node read");
    drop(withheld);
    let line = wait_for_removal(&mut agent);
    assert_eq!((&line["key"], &line["effects"]), (&json!(KEY), &json!("NoExecute, NoSchedule")));
    assert_eq!(taints(&server), [not_ready, weak, gpu], "the others stay as they were");
    let lines = agent.drain_log();
    assert!(
        !lines.iter().any(|line| line["resource"] == "nodes" || line["event"] == "startup_taint_removed"),
        "{lines:?}"
    );
}

fn audit_mode_removes_the_taint() {
    let fixture = AgentFixture::new();
    let server = ApiServer::start();
    put_node(&server, &[taint(KEY, "NoSchedule")]);
    let mut agent = start_on_cluster(&fixture, &server, &[&FLAG[..], &["--mode", "audit"]].concat());
    assert_eq!(wait_for_removal(&mut agent)["effects"], "NoSchedule");
    assert_eq!(taints(&server), [] as [Value; 0]);
}

/// The taint is not where it was read when the removal arrives.
fn taints_that_changed_meanwhile_are_read_again() {
    let fixture = AgentFixture::new();
    let server = ApiServer::start();
    let (other, own) = (taint("node.kubernetes.io/not-ready", "NoExecute"), taint(KEY, "NoExecute"));
    put_node(&server, &[own.clone(), other.clone()]);
    let late = server.fault(NODES.verb("patch"), Fault::DelayAnswer(Duration::from_secs(1)));
    let mut agent = start_on_cluster(&fixture, &server, &FLAG);
    server.wait_for_requests(NODES.verb("patch"), 1);
    put_node(&server, &[other.clone(), own]);
    drop(late);
    wait_for_removal(&mut agent);
    assert_eq!(taints(&server), [other], "the other taint is not removed in its place");
    let patches =
        server.requests().into_iter().filter(|request| NODES.verb("patch").matches(&request.verb, &request.resource));
    let answers: Vec<_> = patches.map(|request| request.status).collect();
    assert_eq!(answers, [Some(422), Some(200)]);
    let lines = agent.drain_log();
    assert!(!lines.iter().any(|line| line["event"] == "api_error"), "a conflict is nothing to report: {lines:?}");
}

fn missing_right_is_reported_once_and_changes_no_verdict() {
    let fixture = AgentFixture::new();
    let server = ApiServer::start();
    let own = taint(KEY, "NoExecute");
    put_node(&server, std::slice::from_ref(&own));
    let _refused = server.fault(NODES.verb("patch"), Fault::Forbidden);
    let (owner, other) = (Pod::new("owner").ports("20080"), Pod::new("other"));
    server.put(&owner);
    server.put(&other);
    let mut agent = start_synced(&fixture, &server, &FLAG);
    let is_told = |line: &Value| line["event"] == "api_error" && line["resource"] == "nodes";
    let told = agent.wait_for_line("the taint cannot be removed", is_told);
    assert_eq!((&told["kind"], &told["level"]), (&json!("forbidden"), &json!("WARN")));
    let message = told["message"].as_str().expect("a message");
    assert!(
        message.starts_with("cannot untaint nodes at ") && message.contains("deploy/components/startup-taint"),
        "{message}"
    );
    let mut worker = fixture.worker(&other);
    until_bind(&mut worker, 20080, denied());
    assert_eq!(taints(&server), [own]);
    assert!(server.count(NODES.verb("patch")) <= 2, "it is tried again half a minute later");
    assert!(!agent.drain_log().iter().any(is_told), "once");
}

fn failed_removal_is_retried() {
    let fixture = AgentFixture::new();
    let server = ApiServer::start();
    put_node(&server, &[taint(KEY, "NoExecute")]);
    let outage = server.fault(NODES, Fault::Internal);
    let mut agent = start_on_cluster(&fixture, &server, &FLAG);
    server.wait("two failed reads", |_| (outage.hits() >= 2).then_some(()));
    drop(outage);
    let of_nodes = |event: &'static str| move |line: &Value| line["event"] == event && line["resource"] == "nodes";
    agent.wait_for_line("the failure is logged", of_nodes("api_error"));
    agent.wait_for_line("and its end", of_nodes("api_recovered"));
    wait_for_removal(&mut agent);
    assert_eq!(taints(&server), [] as [Value; 0]);
}

fn taint_that_returns_is_removed_again() {
    let fixture = AgentFixture::new();
    let server = ApiServer::start();
    let mut agent = start_on_cluster(&fixture, &server, &FLAG);
    let absent = agent.wait_for_line("there is none", |line| line["event"] == "startup_taint_absent");
    assert_eq!((&absent["key"], &absent["node"]), (&json!(KEY), &json!("node-1")));
    assert_eq!(server.count(NODES.verb("patch")), 0, "nothing is written for nothing");
    // The node registers anew, with other taints too.
    server.delete_node("node-1");
    put_node(&server, &[taint(KEY, "NoExecute"), taint("gpu", "NoSchedule")]);
    wait_for_removal(&mut agent);
    assert_eq!(taints(&server), [taint("gpu", "NoSchedule")]);
    let looks =
        server.requests().into_iter().filter(|request| NODES.verb("get").matches(&request.verb, &request.resource));
    let of_taint = looks.filter(|request| request.query.contains("resourceVersion=0")).count();
    assert!(of_taint >= 1, "a look is answered from the server's cache");
}

fn next_agent_removes_the_taint_of_a_new_node() {
    let fixture = AgentFixture::new();
    let server = ApiServer::start();
    put_node(&server, &[taint(KEY, "NoExecute")]);
    let mut agent = start_on_cluster(&fixture, &server, &FLAG);
    wait_for_removal(&mut agent);
    agent.kill();
    server.delete_node("node-1");
    put_node(&server, &[taint(KEY, "NoExecute")]);
    let mut agent = start_on_cluster(&fixture, &server, &FLAG);
    wait_for_removal(&mut agent);
    assert_eq!(taints(&server), [] as [Value; 0]);
    // Without the flag, the taint is nobody's business.
    assert!(agent.terminate().success());
    put_node(&server, &[taint(KEY, "NoExecute")]);
    let before = server.count(NODES.verb("patch"));
    let mut arguments = cluster_arguments(&fixture, &server, &[]);
    arguments.extend(["--ledger".to_owned(), "false".to_owned()]);
    let (mut agent, _) = Agent::start(arguments);
    agent.wait_for_line("all pods are known", |line| line["event"] == "synced");
    sleep(Duration::from_secs(1));
    assert_eq!((server.count(NODES.verb("patch")), taints(&server).len()), (before, 1));
}

fn requests_for_the_node_stay_within_the_role() {
    let objects = documents("components/startup-taint/rbac.yaml");
    let role = objects.iter().find(|object| object["kind"] == "ClusterRole").expect("a role");
    let role: ClusterRole = serde_json::from_value(role.clone()).expect("a ClusterRole");
    let rules = serde_json::to_value(role.rules).expect("JSON");
    assert_eq!(rules, json!([{ "apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "patch"] }]));
    let fixture = AgentFixture::new();
    let server = ApiServer::start();
    put_node(&server, &[taint(KEY, "NoExecute")]);
    let mut agent = start_on_cluster(&fixture, &server, &[&FLAG[..], &["--ledger", "false"]].concat());
    wait_for_removal(&mut agent);
    let requests = server.requests().into_iter().filter(|request| request.resource.starts_with("nodes"));
    let asked: Vec<_> = requests.map(|request| (request.verb, request.resource, request.name)).collect();
    let own = |verb: &str| (verb.to_owned(), "nodes".to_owned(), Some("node-1".to_owned()));
    assert_eq!(asked, [own("get"), own("patch")], "its own Node, and nothing more");
}
