//! Ports that Services take on every node: the real agent, real binds, and Services from an API server.

use serde_json::{Value, json};

use enforcer_testing::{
    agent::wait_until,
    agent_fixture::{AgentFixture, bind, denied, until_bind},
    apiserver::{ApiServer, Fault, Target},
    pods::Pod,
    tests,
    worker::Bind,
};

use crate::{
    Test,
    backend::{Backend as _, start_on_cluster, start_synced},
    status,
};

pub(crate) const TESTS: &[Test] = tests![
    bind_on_a_service_is_reported_and_let_through,
    bind_on_a_service_is_denied_until_it_goes,
    service_made_after_its_listener_is_a_conflict,
    services_survive_server_outage,
    services_are_never_listed_where_they_are_off,
    missing_right_is_reported_and_holds_up_nothing,
    server_that_selects_no_services_holds_up_nothing
];

const SERVICES: Target = Target::ALL.resource("services");
/// A node port.
const PORT: u16 = 30_080;

fn put_service(server: &ApiServer, name: &str, node_port: u16) {
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "namespace": "shop", "name": name },
        "spec": { "type": "NodePort", "ports": [{ "name": "web", "port": 80, "nodePort": node_port }] },
    });
    server.put_service(serde_json::from_value(service).expect("a Service"));
}

fn bind_on_a_service_is_reported_and_let_through() {
    let fixture = AgentFixture::new();
    let server = ApiServer::start();
    let pod = Pod::new("listener");
    server.put(&pod);
    put_service(&server, "web", PORT);
    let mut agent = start_synced(&fixture, &server, &[]);
    let mut worker = fixture.worker(&pod);
    assert_eq!(worker.bind(&bind(PORT)), 0, "the node enforces, and Services are only reported");
    let line =
        agent.wait_for_line("the bind is reported", |line| line["event"] == "bind" && line["verdict"] == "audit");
    assert_eq!(
        (&line["pod"], &line["owner"], &line["source"]),
        (&json!("default/listener"), &json!("Service shop/web"), &json!("nodePort"))
    );
    let message = line["message"].as_str().expect("a message");
    let words = "audited (what arrives there goes to the Service) on node-1: claimed by Service shop/web (nodePort)";
    assert!(message.ends_with(words), "{message}");
    for kind in ["Pod", "Service"] {
        server.wait_for_event(&format!("an Event on the {kind}"), |event| {
            event.reason.as_deref() == Some("PortBindAudited")
                && event.regarding.as_ref().and_then(|object| object.kind.as_deref()) == Some(kind)
        });
    }
    // What the pod does besides is its own affair.
    assert_eq!(worker.bind(&bind(PORT + 1)), 0);
}

fn bind_on_a_service_is_denied_until_it_goes() {
    let fixture = AgentFixture::new();
    let server = ApiServer::start();
    let (pod, proxy) = (Pod::new("listener"), Pod::new("proxy").namespace("kube-system"));
    server.put(&pod);
    server.put(&proxy);
    let _agent = start_synced(&fixture, &server, &["--service-ports", "enforce"]);
    let mut worker = fixture.worker(&pod);
    assert_eq!(worker.bind(&bind(PORT)), 0, "there is no Service");
    put_service(&server, "web", PORT);
    until_bind(&mut worker, PORT, denied());
    assert_eq!(worker.bind(&Bind::tcp("127.0.0.1", PORT)), denied());
    assert_eq!(fixture.worker(&proxy).bind(&bind(PORT)), 0, "a proxy may hold it for the Service");
    // Another port of the same Service, and then no Service at all.
    put_service(&server, "web", PORT + 1);
    until_bind(&mut worker, PORT, 0);
    until_bind(&mut worker, PORT + 1, denied());
    server.delete_service("shop", "web");
    until_bind(&mut worker, PORT + 1, 0);
}

fn service_made_after_its_listener_is_a_conflict() {
    const ROW: &str = "Service shop/later  nodePort";
    let fixture = AgentFixture::new();
    let server = ApiServer::start();
    let (holder, claimer) = (Pod::new("holder"), Pod::new("claimer").ports("30081"));
    server.put(&holder);
    server.put(&claimer);
    let socket = status::socket(&fixture);
    let mut agent = start_synced(&fixture, &server, &status::served(&socket, &["--service-ports", "enforce"]));
    let (mut worker, mut owner) = (fixture.worker(&holder), fixture.worker(&claimer));
    assert_eq!(worker.bind(&Bind { keep: true, ..bind(PORT) }), 0);
    assert_eq!(owner.bind(&bind(30_081)), 0);
    put_service(&server, "later", PORT);
    put_service(&server, "loser", 30_081);
    let is_told = |line: &Value| line["event"] == "claim_conflict" && line["pod"] == "Service shop/loser";
    assert_eq!(agent.wait_for_line("the Service loses", is_told)["owner"], "default/claimer");
    assert_eq!(owner.bind(&bind(30_081)), 0, "no Service takes a port from a pod in force");
    let conflicts = || {
        let status = status::json(&fixture, &["status"]);
        let conflicts = status["conflicts"].as_array().cloned().unwrap_or_default();
        let short = |row: &Value| format!("{} {} {}", row["kind"], row["who"]["name"], row["other"]["name"]);
        conflicts.iter().map(short).collect::<Vec<_>>()
    };
    let expected = [r#""claimLost" "loser" "claimer""#, r#""notOwner" "holder" "later""#];
    wait_until("both conflicts are in the status", || conflicts() == expected);
    let table = status::run(&fixture, &["status"]).1;
    assert!(table.contains("\nand 1 of Services (-o wide)\n") && !table.contains(ROW), "{table}");
    let wide = status::run(&fixture, &["status", "-o", "wide"]).1;
    assert!(wide.contains(ROW) && !wide.contains("of Services"), "{wide}");
    let answer = status::json(&fixture, &["explain", "30080"]);
    assert_eq!(
        (&answer["claims"][0]["owner"]["kind"], &answer["claims"][0]["source"]),
        (&json!("service"), &json!("nodePort"))
    );
}

fn services_survive_server_outage() {
    let fixture = AgentFixture::new();
    let mut server = ApiServer::start();
    let pod = Pod::new("listener");
    server.put(&pod);
    put_service(&server, "stays", PORT);
    put_service(&server, "goes", PORT + 1);
    let _agent = start_synced(&fixture, &server, &["--service-ports", "enforce"]);
    let mut worker = fixture.worker(&pod);
    until_bind(&mut worker, PORT, denied());
    server.stop();
    for port in [PORT, PORT + 1] {
        assert_eq!(worker.bind(&bind(port)), denied(), "what is known holds");
    }
    server.delete_service("shop", "goes");
    put_service(&server, "new", PORT + 2);
    server.start_again();
    until_bind(&mut worker, PORT + 1, 0);
    until_bind(&mut worker, PORT + 2, denied());
    assert_eq!(worker.bind(&bind(PORT)), denied());
}

fn services_are_never_listed_where_they_are_off() {
    let fixture = AgentFixture::new();
    let server = ApiServer::start();
    let pod = Pod::new("listener");
    server.put(&pod);
    put_service(&server, "web", PORT);
    let _agent = start_synced(&fixture, &server, &["--service-ports", "off", "--undeclared", "deny"]);
    let mut worker = fixture.worker(&pod);
    until_bind(&mut worker, PORT, denied());
    assert_eq!(server.count(SERVICES), 0);
}

fn missing_right_is_reported_and_holds_up_nothing() {
    check_refusal(Fault::Forbidden, "grant the agent list and watch of services");
}

fn server_that_selects_no_services_holds_up_nothing() {
    check_refusal(Fault::BadRequest, "API servers before Kubernetes 1.23 do not select Services by type");
}

/// Checks that the agent reports why it knows no Services, and that all pods are known without them.
fn check_refusal(fault: Fault, remedy: &str) {
    let fixture = AgentFixture::new();
    let server = ApiServer::start();
    let (owner, other) = (Pod::new("owner").ports("20080"), Pod::new("other"));
    server.put(&owner);
    server.put(&other);
    put_service(&server, "web", PORT);
    let _outage = server.fault(SERVICES, fault);
    let mut agent = start_on_cluster(&fixture, &server, &["--service-ports", "enforce"]);
    let is_told = |line: &Value| line["event"] == "api_error" && line["resource"] == "services";
    let told = agent.wait_for_line("Services cannot be read", is_told);
    let message = told["message"].as_str().expect("a message");
    assert!(message.contains(remedy) && message.contains("--service-ports=off"), "{message}");
    agent.wait_for_line("all pods are known", |line| line["event"] == "synced");
    let mut worker = fixture.worker(&other);
    until_bind(&mut worker, 20_080, denied());
    assert_eq!(worker.bind(&bind(PORT)), 0, "no Service is known");
}
