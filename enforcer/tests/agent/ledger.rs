//! The ledger of the node: the real agent writes what it knows, and what it cannot write changes nothing else.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use enforcer_testing::{
    agent_fixture::{AgentFixture, bind, denied, until_bind},
    apiserver::{ApiServer, Target},
    pods::Pod,
    tests,
    worker::Bind,
};

use crate::{
    Test,
    backend::{Backend as _, start_synced},
};

pub(crate) const TESTS: &[Test] = tests![
    ledger_follows_pods_and_sockets,
    ledger_flag_false_writes_nothing,
    missing_definition_is_reported_once_and_changes_no_verdict
];

const LEDGERS: Target = Target::ALL.resource("nodehostports");
const STATUS: Target = Target::ALL.resource("nodehostports/status");

/// The rows of the node's ledger on one port, in short.
fn rows(server: &ApiServer, port: u16) -> Vec<Value> {
    let ledger = server.ledger("node-1").unwrap_or_default();
    let rows = ledger["status"]["ports"].as_array().cloned().unwrap_or_default();
    let short = |row: &Value| {
        let who = row["who"]["name"].as_str().or(row["who"]["unit"].as_str()).or(row["who"]["kind"].as_str());
        json!([who, row["source"], row["standing"], row["held"], row["declared"]])
    };
    rows.iter().filter(|row| row["firstPort"] == port).map(short).collect()
}

/// Waits until the rows on a port are these: a change takes a pace to be seen.
fn wait_for_rows(server: &ApiServer, port: u16, expected: &Value) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while json!(rows(server, port)) != *expected {
        assert!(
            Instant::now() < deadline,
            "{:?} instead of {expected} on {port}",
            server.ledger("node-1").map(|ledger| ledger["status"].clone())
        );
        sleep(Duration::from_millis(50));
    }
}

fn ledger_follows_pods_and_sockets() {
    let fixture = AgentFixture::new();
    let server = ApiServer::start();
    let owner = Pod::new("owner").ports("20080,20081").of_deployment("web");
    let other = Pod::new("other").namespace("tools").ports("20080");
    server.put(&owner);
    server.put(&other);
    let _agent = start_synced(&fixture, &server, &["--node-reserved", "20022/tcp", "--handover-grace", "0s"]);
    let mut worker = fixture.worker(&owner);
    for port in [20080, 20090] {
        assert_eq!(worker.bind(&Bind { keep: true, ..bind(port) }), 0);
    }
    let claim = |name: &str, standing: &str, held: bool| json!([name, "annotation", standing, held, true]);
    wait_for_rows(&server, 20080, &json!([claim("owner", "inForce", true), claim("other", "lost", false)]));
    wait_for_rows(&server, 20081, &json!([claim("owner", "inForce", false)]));
    wait_for_rows(&server, 20022, &json!([["node", "node-reserved", "inForce", false, true]]));
    wait_for_rows(&server, 20090, &json!([["owner", null, null, true, false]]));
    let ledger = server.ledger("node-1").expect("a ledger");
    let node = &ledger["metadata"]["ownerReferences"][0];
    assert_eq!((&node["kind"], &node["name"]), (&json!("Node"), &json!("node-1")));
    let status = &ledger["status"];
    assert_eq!((&status["mode"], &status["undeclared"]), (&json!("enforce"), &json!("adopt")));
    assert!(status["updated"].is_string() && status["ephemeralPorts"].is_string(), "{status}");
    assert_eq!(status["ports"][1]["who"]["workload"], "Deployment web", "{status}");
    assert_eq!(status["conflicts"][0]["kind"], "claimLost", "{status}");
    // Who goes is gone from it, and whom that promotes is in force.
    server.delete(&owner);
    drop(worker);
    wait_for_rows(&server, 20080, &json!([claim("other", "inForce", false)]));
    wait_for_rows(&server, 20090, &json!([]));
    assert_eq!(server.count(LEDGERS.verb("create")), 1, "it is created once");
}

fn ledger_flag_false_writes_nothing() {
    let fixture = AgentFixture::new();
    let server = ApiServer::start();
    let owner = Pod::new("owner").ports("20080");
    server.put(&owner);
    let mut agent = start_synced(&fixture, &server, &["--ledger", "false"]);
    // Longer than the first write of an agent may take.
    sleep(Duration::from_secs(12));
    assert!(agent.terminate().success());
    assert_eq!((server.count(LEDGERS), server.count(STATUS)), (0, 0));
    assert_eq!(server.count(Target::ALL.resource("nodes")), 0);
}

fn missing_definition_is_reported_once_and_changes_no_verdict() {
    let fixture = AgentFixture::new();
    let server = ApiServer::start();
    server.set_ledger_resource(false);
    let (owner, other) = (Pod::new("owner").ports("20080"), Pod::new("other"));
    server.put(&owner);
    server.put(&other);
    let mut agent = start_synced(&fixture, &server, &[]);
    let is_told = |line: &Value| line["event"] == "api_error" && line["resource"] == "nodehostports";
    let told = agent.wait_for_line("the ledger cannot be written", is_told);
    assert_eq!(told["kind"], "not_found");
    let message = told["message"].as_str().expect("a message");
    assert!(message.contains("deploy/base/nodehostports.yaml") && message.contains("--ledger=false"), "{message}");
    let mut worker = fixture.worker(&other);
    until_bind(&mut worker, 20080, denied());
    for _ in 0..20 {
        assert_eq!(worker.bind(&bind(20080)), denied());
    }
    let asked = server.count(LEDGERS);
    assert!(asked <= 2, "it is tried again minutes later: {asked}");
    assert!(!agent.drain_log().iter().any(is_told), "once");
}
