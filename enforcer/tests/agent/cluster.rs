//! Pods and modes from the API server: the real agent on a real connection.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::TcpStream,
};

use crate::{
    Test,
    backend::{self, Backend as _, synced},
    stage::{Pod, Stage, denied, until_bind},
    support::{
        agent::until,
        apiserver::{ApiServer, Fault, Interruption, Target},
    },
};

pub(crate) const TESTS: &[Test] = &[
    ("an_annotation_becomes_a_denied_bind", an_annotation_becomes_a_denied_bind),
    ("pods_of_other_nodes_are_of_no_interest", pods_of_other_nodes_are_of_no_interest),
    ("a_server_without_streamed_lists_will_do", a_server_without_streamed_lists_will_do),
    ("what_vanished_unseen_is_gone", what_vanished_unseen_is_gone),
    ("a_server_out_of_reach_at_start_is_waited_for", a_server_out_of_reach_at_start_is_waited_for),
    ("claims_outlive_the_server", claims_outlive_the_server),
    ("the_place_in_history_is_found_again", the_place_in_history_is_found_again),
    ("every_refusal_is_told_by_kind_and_survived", every_refusal_is_told_by_kind_and_survived),
    ("the_label_of_a_namespace_chooses_the_mode", the_label_of_a_namespace_chooses_the_mode),
    ("a_mirror_pod_counts_where_its_cgroup_is", a_mirror_pod_counts_where_its_cgroup_is),
    ("nothing_else_is_asked_of_the_server", nothing_else_is_asked_of_the_server),
];

const PODS: Target = Target::ALL.resource("pods");
const NAMESPACES: Target = Target::ALL.resource("namespaces");

fn an_annotation_becomes_a_denied_bind() {
    let stage = Stage::new();
    let server = backend::choose();
    let (owner, other) = (server.put(&Pod::new("web-1")), server.put(&Pod::new("web-2")));
    let mut agent = synced(&stage, &*server, &[]);
    let mut worker = stage.worker(&other);
    until_bind(&mut worker, 20080, 0);
    let owner = server.put(&owner.ports("20080"));
    until_bind(&mut worker, 20080, denied());
    let told = agent.event("bind", "default/web-2");
    assert_eq!((&told["owner"], &told["source"]), (&"default/web-1".into(), &"annotation".into()));
    until_bind(&mut stage.worker(&owner), 20080, 0);
    server.delete(&owner);
    until_bind(&mut worker, 20080, 0);
}

fn pods_of_other_nodes_are_of_no_interest() {
    let stage = Stage::new();
    let server = backend::choose();
    let (elsewhere, here) = (Pod::new("elsewhere").ports("20080"), Pod::new("here").ports("20081"));
    server.put_on(&elsewhere, "node-2");
    server.put(&here);
    let _agent = synced(&stage, &*server, &[]);
    let stranger = server.put(&Pod::new("stranger"));
    let mut worker = stage.worker(&stranger);
    until_bind(&mut worker, 20081, denied());
    until_bind(&mut worker, 20080, 0);
}

fn a_server_without_streamed_lists_will_do() {
    let stage = Stage::new();
    let server = ApiServer::start();
    server.set_streaming_lists(false);
    let owner = Pod::new("owner").ports("20080");
    server.put(&owner);
    let mut agent = synced(&stage, &server, &[]);
    let stranger = Pod::new("stranger");
    server.put(&stranger);
    until_bind(&mut stage.worker(&stranger), 20080, denied());
    assert!(!agent.rest().iter().any(|line| line["event"] == "api_trouble"), "that is no trouble");
}

fn what_vanished_unseen_is_gone() {
    let stage = Stage::new();
    let mut server = ApiServer::start();
    let (gone, stays) = (Pod::new("gone").ports("20080"), Pod::new("stays").ports("20081"));
    server.put(&gone);
    server.put(&stays);
    let mut agent = synced(&stage, &server, &[]);
    let stranger = Pod::new("stranger");
    server.put(&stranger);
    let mut worker = stage.worker(&stranger);
    until_bind(&mut worker, 20080, denied());
    server.stop();
    server.delete(&gone);
    server.compact();
    server.start_again();
    until_bind(&mut worker, 20080, 0);
    until_bind(&mut worker, 20081, denied());
    agent.wait("the watch is back", |line| line["event"] == "api_back" && line["resource"] == "pods");
}

fn a_server_out_of_reach_at_start_is_waited_for() {
    let stage = Stage::new();
    let mut server = ApiServer::start();
    let owner = Pod::new("owner").ports("20080");
    server.put(&owner);
    server.stop();
    let listen = ["--listen", "127.0.0.1:20999"];
    let mut agent = stage.on_cluster(&server, &[&listen[..], &["--node-reserved", "20022/tcp"]].concat());
    assert_eq!(get("/livez"), (200, "ok\n".to_owned()), "the server's trouble is none of its own");
    assert_eq!(get("/readyz"), (503, "the pods of this node are not known yet\n".to_owned()));
    agent.wait("it is told", |line| line["event"] == "not_synced");
    agent.wait("the trouble is told", |line| line["event"] == "api_trouble" && line["kind"] == "unreachable");
    // What the node reserved is enforced all the same, against whoever it is.
    let mut unknown = stage.worker(&Pod::new("unknown"));
    until_bind(&mut unknown, 20022, denied());
    until_bind(&mut unknown, 20080, 0);
    server.start_again();
    agent.wait("all pods are known", |line| line["event"] == "synced");
    until_bind(&mut unknown, 20080, denied());
    until("it is ready", || get("/readyz").0 == 200);
    server.stop();
    agent.wait("the trouble is told again", |line| line["event"] == "api_trouble");
    assert_eq!(get("/readyz"), (200, "ok\n".to_owned()), "it stays ready");
}

/// The status and the body that the agent's health answers with.
fn get(path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect("127.0.0.1:20999").expect("health is served");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("asking");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.expect("a status"), body.to_owned())
}

fn claims_outlive_the_server() {
    let stage = Stage::new();
    let mut server = ApiServer::start();
    let (owner, stranger) = (Pod::new("owner").ports("20080"), Pod::new("stranger"));
    server.put(&owner);
    server.put(&stranger);
    let mut agent = synced(&stage, &server, &[]);
    server.stop();
    agent.wait("the trouble is told", |line| line["event"] == "api_trouble" && line["resource"] == "pods");
    until_bind(&mut stage.worker(&stranger), 20080, denied());
    until_bind(&mut stage.worker(&owner), 20080, 0);
}

fn the_place_in_history_is_found_again() {
    let stage = Stage::new();
    let server = ApiServer::start();
    let stranger = Pod::new("stranger");
    server.put(&stranger);
    let _agent = synced(&stage, &server, &[]);
    let mut worker = stage.worker(&stranger);
    server.set_gone_in_stream(false);
    server.interrupt(PODS, Interruption::Cut);
    server.compact();
    server.put(&Pod::new("owner").ports("20079"));
    until_bind(&mut worker, 20079, denied());
    server.set_gone_in_stream(true);
    for (port, interruption) in [
        (20080, Interruption::Cut),
        (20081, Interruption::End),
        (20082, Interruption::Gone),
        (20083, Interruption::Malformed),
    ] {
        server.wait_for_watches(PODS, 1);
        server.interrupt(PODS, interruption);
        server.put(&Pod::new(&format!("owner-{port}")).ports(&port.to_string()));
        until_bind(&mut worker, port, denied());
    }
}

fn every_refusal_is_told_by_kind_and_survived() {
    for (fault, kind) in [
        (Fault::Unauthorized, "unauthorized"),
        (Fault::Forbidden, "forbidden"),
        (Fault::TooManyRequests { retry_after: 1 }, "throttled"),
        (Fault::Internal, "server"),
    ] {
        let stage = Stage::new();
        let server = ApiServer::start();
        let (owner, stranger) = (Pod::new("owner").ports("20080"), Pod::new("stranger"));
        server.put(&owner);
        server.put(&stranger);
        let outage = server.fault(PODS, fault);
        let mut agent = stage.on_cluster(&server, &[]);
        agent.wait("the trouble is told", |line| line["event"] == "api_trouble" && line["kind"] == kind);
        until("it is tried again", || outage.hits() > 1);
        drop(outage);
        agent.wait("all pods are known", |line| line["event"] == "synced");
        until_bind(&mut stage.worker(&stranger), 20080, denied());
        let again = agent.rest().into_iter().filter(|line| line["event"] == "api_trouble" && line["kind"] == kind);
        assert_eq!(again.count(), 0, "{kind} is told once");
    }
}

fn the_label_of_a_namespace_chooses_the_mode() {
    let stage = Stage::new();
    let server = ApiServer::start();
    let (owner, stranger) = (Pod::new("owner").ports("20080"), Pod::new("stranger").namespace("tenant"));
    server.label("tenant", None);
    server.put(&owner);
    server.put(&stranger);
    let mut agent = synced(&stage, &server, &[]);
    let mut worker = stage.worker(&stranger);
    until_bind(&mut worker, 20080, denied());
    server.label("tenant", Some("audit"));
    until_bind(&mut worker, 20080, 0);
    server.label("tenant", Some("off"));
    agent.wait("the bad label is told", |line| line["event"] == "mode_invalid" && line["namespace"] == "tenant");
    until_bind(&mut worker, 20080, denied());
    server.label("tenant", Some("audit"));
    until_bind(&mut worker, 20080, 0);
    server.wait_for_watches(NAMESPACES, 1);
    server.label("tenant", None);
    until_bind(&mut worker, 20080, denied());
}

fn a_mirror_pod_counts_where_its_cgroup_is() {
    let stage = Stage::new();
    let server = ApiServer::start();
    let hash = "0123456789abcdef0123456789abcdef";
    let mirror = |name| Pod::new(name).mirror_of(hash);
    let (owner, real, forged) = (Pod::new("owner").ports("20080"), mirror("real"), mirror("forged"));
    server.put(&owner);
    let mut fixed = stage.worker_of(hash);
    server.put(&real);
    let mut agent = synced(&stage, &server, &[]);
    server.put(&forged);
    agent.event("identity_rejected", "default/forged");
    // A static pod is told, by the name of its mirror, and never denied.
    until_bind(&mut fixed, 20080, 0);
    assert_eq!(agent.event("bind", "default/real")["verdict"], "audit");
    until_bind(&mut stage.worker(&forged), 20080, denied());
}

fn nothing_else_is_asked_of_the_server() {
    let stage = Stage::new();
    let server = ApiServer::start();
    server.put(&Pod::new("owner").ports("20080"));
    let mut agent = synced(&stage, &server, &[]);
    server.wait_for_watches(NAMESPACES, 1);
    assert!(agent.terminate().success());
    let asked: BTreeSet<(String, String)> =
        server.requests().into_iter().map(|request| (request.verb, request.resource)).collect();
    let allowed = [("list", "namespaces"), ("list", "pods"), ("watch", "namespaces"), ("watch", "pods")];
    let allowed: BTreeSet<(String, String)> =
        allowed.into_iter().map(|(verb, resource)| (verb.to_owned(), resource.to_owned())).collect();
    assert!(asked.is_subset(&allowed), "{asked:?}");
}
