//! Pods and modes from the API server: the real agent on a real connection.

use std::collections::BTreeSet;

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};

use enforcer_core::model::namespace_label::NamespaceLabel;
use enforcer_testing::{
    agent::wait_until,
    agent_fixture::{AgentFixture, bind, denied, until_bind},
    apiserver::{ApiServer, Fault, Interruption, Target},
    bpffs::Bpffs,
    http::{LISTEN, get},
    pods::Pod,
    tests,
    worker::Bind,
};

use crate::{
    Test,
    backend::{Backend, BackendTest, backend_tests, documents, start_on_cluster, start_synced},
    bind_load::Load,
    events,
    metrics::{SERVED, check_api_errors},
    status,
};

pub(crate) const TESTS: &[Test] = tests![
    server_without_streamed_lists_works,
    pod_deleted_during_outage_is_dropped,
    unreachable_server_at_start_is_retried,
    claims_survive_server_outage,
    watch_resumes_after_compaction,
    api_errors_are_reported_by_kind,
    requests_stay_within_the_role
];

pub(crate) const BODIES: &[BackendTest] = backend_tests![
    annotation_denies_bind_of_other_pod: Nothing,
    pods_of_other_nodes_are_ignored: Nothing,
    namespace_label_sets_mode: Nothing,
    namespace_label_sets_port_limit: Nothing,
    mirror_pod_claims_for_its_static_pod_cgroup: NoControllers,
];

pub(crate) const PODS: Target = Target::ALL.resource("pods");
pub(crate) const NAMESPACES: Target = Target::ALL.resource("namespaces");

fn annotation_denies_bind_of_other_pod(server: &dyn Backend) {
    let fixture = AgentFixture::new();
    let (owner, other) = (server.put(&Pod::new("web-1")), server.put(&Pod::new("web-2").namespace("tenant")));
    let mut agent = start_synced(&fixture, server, &[]);
    let mut worker = fixture.worker(&other);
    until_bind(&mut worker, 20080, 0);
    let owner = server.put(&owner.ports("20080"));
    until_bind(&mut worker, 20080, denied());
    let told = agent.wait_for_event("bind", "tenant/web-2");
    assert_eq!((&told["owner"], &told["source"]), (&"default/web-1".into(), &"annotation".into()));
    // Both find it with their pod, and each finds the other's name.
    for (pod, words) in [
        (&other, ["bind 0.0.0.0:20080/tcp by tenant/web-2 ", ": claimed by default/web-1 (annotation)"]),
        (&owner, ["bind by tenant/web-2 (0.0.0.0:20080/tcp) denied", ": claimed by this pod"]),
    ] {
        let event = events::wait(server, "PortBindDenied", pod.name());
        assert_eq!(event.regarding.as_ref().and_then(|it| it.uid.as_deref()), Some(pod.uid_text()));
        let note = events::note(&event);
        assert!(note.starts_with(words[0]) && note.ends_with(words[1]), "{note}");
    }
    until_bind(&mut fixture.worker(&owner), 20080, 0);
    server.delete(&owner);
    until_bind(&mut worker, 20080, 0);
}

fn pods_of_other_nodes_are_ignored(server: &dyn Backend) {
    let fixture = AgentFixture::new();
    let (elsewhere, here) = (Pod::new("elsewhere").ports("20080"), Pod::new("here").ports("20081"));
    server.put_on(&elsewhere, "node-2");
    server.put(&here);
    let _agent = start_synced(&fixture, server, &[]);
    let stranger = server.put(&Pod::new("stranger"));
    let mut worker = fixture.worker(&stranger);
    until_bind(&mut worker, 20081, denied());
    until_bind(&mut worker, 20080, 0);
}

fn server_without_streamed_lists_works() {
    let fixture = AgentFixture::new();
    let server = ApiServer::start();
    server.set_streaming_lists(false);
    let owner = Pod::new("owner").ports("20080");
    server.put(&owner);
    let mut agent = start_synced(&fixture, &server, &[]);
    let stranger = Pod::new("stranger");
    server.put(&stranger);
    until_bind(&mut fixture.worker(&stranger), 20080, denied());
    assert!(!agent.drain_log().iter().any(|line| line["event"] == "api_error"), "that is no trouble");
}

fn pod_deleted_during_outage_is_dropped() {
    let fixture = AgentFixture::new();
    let mut server = ApiServer::start();
    let (gone, stays) = (Pod::new("gone").ports("20080"), Pod::new("stays").ports("20081"));
    server.put(&gone);
    server.put(&stays);
    let mut agent = start_synced(&fixture, &server, &[]);
    let stranger = Pod::new("stranger");
    server.put(&stranger);
    let mut worker = fixture.worker(&stranger);
    until_bind(&mut worker, 20080, denied());
    server.stop();
    server.delete(&gone);
    server.compact();
    server.start_again();
    until_bind(&mut worker, 20080, 0);
    until_bind(&mut worker, 20081, denied());
    agent.wait_for_line("the watch is back", |line| line["event"] == "api_recovered" && line["resource"] == "pods");
}

fn unreachable_server_at_start_is_retried() {
    let fixture = AgentFixture::new();
    let mut server = ApiServer::start();
    let owner = Pod::new("owner").ports("20080");
    server.put(&owner);
    server.stop();
    let listen = ["--listen", LISTEN];
    let mut agent = start_on_cluster(&fixture, &server, &[&listen[..], &["--node-reserved", "20022/tcp"]].concat());
    assert_eq!(get("/livez"), (200, "ok\n".to_owned()), "the server's trouble is none of its own");
    assert_eq!(get("/readyz"), (503, "the pods of this node are not known yet\n".to_owned()));
    agent.wait_for_line("it is told", |line| line["event"] == "not_synced");
    agent.wait_for_line("the trouble is told", |line| line["event"] == "api_error" && line["kind"] == "unreachable");
    // What the node reserved is enforced all the same, against whoever it is.
    let mut unknown = fixture.worker(&Pod::new("unknown"));
    until_bind(&mut unknown, 20022, denied());
    until_bind(&mut unknown, 20080, 0);
    server.start_again();
    agent.wait_for_line("all pods are known", |line| line["event"] == "synced");
    until_bind(&mut unknown, 20080, denied());
    wait_until("it is ready", || get("/readyz").0 == 200);
    server.stop();
    agent.wait_for_line("the trouble is told again", |line| line["event"] == "api_error");
    assert_eq!(get("/readyz"), (200, "ok\n".to_owned()), "it stays ready");
}

fn claims_survive_server_outage() {
    let fixture = AgentFixture::new();
    let mut server = ApiServer::start();
    let (owner, stranger) = (Pod::new("owner").ports("20080"), Pod::new("stranger"));
    server.put(&owner);
    server.put(&stranger);
    let mut agent = start_synced(&fixture, &server, &[]);
    server.stop();
    agent.wait_for_line("the trouble is told", |line| line["event"] == "api_error" && line["resource"] == "pods");
    until_bind(&mut fixture.worker(&stranger), 20080, denied());
    until_bind(&mut fixture.worker(&owner), 20080, 0);
}

fn watch_resumes_after_compaction() {
    let fixture = AgentFixture::new();
    let server = ApiServer::start();
    let stranger = Pod::new("stranger");
    server.put(&stranger);
    let _agent = start_synced(&fixture, &server, &[]);
    let mut worker = fixture.worker(&stranger);
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

fn api_errors_are_reported_by_kind() {
    for (fault, status, kind) in [
        (Fault::Unauthorized, 401, "unauthorized"),
        (Fault::Forbidden, 403, "forbidden"),
        (Fault::TooManyRequests { retry_after: 1 }, 429, "throttled"),
        (Fault::Internal, 500, "server"),
    ] {
        let fixture = AgentFixture::new();
        let server = ApiServer::start();
        let (owner, stranger) = (Pod::new("owner").ports("20080"), Pod::new("stranger"));
        server.put(&owner);
        server.put(&stranger);
        let outage = server.fault(PODS, fault);
        let mut agent = start_on_cluster(&fixture, &server, &SERVED);
        agent.wait_for_line("the trouble is told", |line| line["event"] == "api_error" && line["kind"] == kind);
        wait_until("it is tried again", || outage.hits() > 1);
        drop(outage);
        agent.wait_for_line("all pods are known", |line| line["event"] == "synced");
        until_bind(&mut fixture.worker(&stranger), 20080, denied());
        let again = agent.drain_log().into_iter().filter(|line| line["event"] == "api_error" && line["kind"] == kind);
        assert_eq!(again.count(), 0, "{kind} is told once");
        check_api_errors(&server, status, kind);
    }
}

fn namespace_label_sets_mode(server: &dyn Backend) {
    let fixture = AgentFixture::new();
    let (owner, stranger) = (Pod::new("owner").ports("20080"), Pod::new("stranger").namespace("tenant"));
    server.label("tenant", NamespaceLabel::Mode, None);
    server.put(&owner);
    let stranger = server.put(&stranger);
    let mut agent = start_synced(&fixture, server, &[]);
    let mut worker = fixture.worker(&stranger);
    until_bind(&mut worker, 20080, denied());
    server.label("tenant", NamespaceLabel::Mode, Some("audit"));
    until_bind(&mut worker, 20080, 0);
    server.label("tenant", NamespaceLabel::Mode, Some("off"));
    agent.wait_for_line("the bad label is told", |line| {
        line["event"] == "mode_invalid" && line["namespace"] == "tenant"
    });
    until_bind(&mut worker, 20080, denied());
    server.label("tenant", NamespaceLabel::Mode, Some("audit"));
    until_bind(&mut worker, 20080, 0);
    server.label("tenant", NamespaceLabel::Mode, None);
    until_bind(&mut worker, 20080, denied());
}

/// A media server with a range of ten thousand ports: its namespace's label grants it, over restarts of the agent.
fn namespace_label_sets_port_limit(server: &dyn Backend) {
    let (fixture, bpffs) = (AgentFixture::new(), Bpffs::new());
    let folder = bpffs.folder().display().to_string();
    let socket = status::socket(&fixture);
    let flags = status::served(&socket, &["--bpffs", &folder]);
    let media = Pod::new("media").namespace("tenant").ports("5060/udp, 30000-39999/udp");
    let at = |port| Bind::udp("0.0.0.0", port);
    server.label("tenant", NamespaceLabel::MaxPorts, None);
    let media = server.put(&media);
    let mut stranger = fixture.worker(&server.put(&Pod::new("stranger")));
    let mut agent = start_synced(&fixture, server, &flags);
    let refused = agent.wait_for_event("claim_invalid", "tenant/media");
    let message = refused["message"].as_str().unwrap_or_default();
    assert!(message.contains("30000-39999/udp") && message.contains("port-enforcer.io/max-ports"), "{refused}");
    assert_eq!((stranger.bind(&at(5060)), stranger.bind(&at(35_000))), (denied(), 0), "the rest counts");

    server.label("tenant", NamespaceLabel::MaxPorts, Some("20000"));
    wait_until("the label grants it", || stranger.bind(&at(35_000)) == denied());
    assert_eq!(fixture.worker(&media).bind(&at(35_000)), 0, "its owner has it");
    let (_, table, _) = status::run(&fixture, &["status"]);
    let rows: Vec<&str> = table.lines().filter(|line| line.contains("tenant/media")).collect();
    assert!(rows.len() == 2 && rows[1].contains("30000-39999/udp"), "one row for all: {table}");
    assert!(table.contains("20000 ports per pod in namespace tenant"), "{table}");

    agent.kill();
    let load = Load::start(stranger, vec![at(30_000), at(39_999)]);
    let mut agent = start_synced(&fixture, server, &flags);
    load.wait_for_progress();
    let (mut stranger, counts) = load.stop();
    assert_eq!(counts.keys().collect::<Vec<_>>(), [&denied()], "no gap: {counts:?}");
    assert!(!agent.drain_log().iter().any(|line| line["event"] == "claim_invalid"), "nothing is wrong");

    server.label("tenant", NamespaceLabel::MaxPorts, Some("plenty"));
    agent.wait_for_line("the bad label is told", |line| line["event"] == "max_ports_invalid");
    wait_until("the label grants nothing", || stranger.bind(&at(35_000)) == 0);
    assert_eq!(stranger.bind(&at(5060)), denied(), "the rest counts");
}

fn mirror_pod_claims_for_its_static_pod_cgroup(server: &dyn Backend) {
    let fixture = AgentFixture::new();
    let hash = "0123456789abcdef0123456789abcdef";
    let mirror = |name| Pod::new(name).mirror_of(hash);
    let (owner, real, forged) = (Pod::new("owner").ports("20080"), mirror("real"), mirror("forged"));
    server.put(&owner);
    let mut fixed = fixture.worker_with_uid(hash);
    server.put(&real);
    let mut agent = start_synced(&fixture, server, &[]);
    let forged = server.put(&forged);
    agent.wait_for_event("identity_rejected", "default/forged");
    // A static pod is told, by the name of its mirror, and never denied.
    until_bind(&mut fixed, 20080, 0);
    assert_eq!(agent.wait_for_event("bind", "default/real")["verdict"], "audit");
    until_bind(&mut fixture.worker(&forged), 20080, denied());
}

/// Verb, API group and resource.
type Call = (String, String, String);

/// What the `ClusterRole` that is installed with the agent allows.
fn allowed() -> BTreeSet<Call> {
    let roles = documents("base/rbac.yaml").into_iter().filter(|object| object["kind"] == "ClusterRole");
    let granted: Vec<PolicyRule> = roles
        .flat_map(|role| serde_json::from_value::<ClusterRole>(role).expect("a ClusterRole").rules.unwrap())
        .collect();
    let mut calls = BTreeSet::new();
    for rule in &granted {
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                calls.extend(rule.verbs.iter().map(|verb| (verb.clone(), group.clone(), resource.clone())));
            }
        }
    }
    calls
}

fn requests_stay_within_the_role() {
    let fixture = AgentFixture::new();
    let server = ApiServer::start();
    let (owner, other) = (Pod::new("owner").ports("20080"), Pod::new("other"));
    server.put(&owner);
    server.put(&other);
    let mut worker = fixture.worker(&other);
    // Lists, as servers without streamed lists want them, and watches that begin with a list.
    for streamed in [false, true] {
        server.set_streaming_lists(streamed);
        let mut agent = start_synced(&fixture, &server, &[]);
        server.wait_for_watches(NAMESPACES, 2);
        let denials = 2 * usize::from(streamed);
        for _ in 0..denials {
            assert_eq!(worker.bind(&bind(20080)), denied());
        }
        if streamed {
            server.wait_for_requests(Target::ALL.resource("events").verb("patch"), 1);
        }
        // The ledger is written at a time of each agent's own.
        server.wait_for_requests(Target::ALL.resource("nodehostports/status").verb("patch"), 1 + usize::from(streamed));
        assert!(agent.terminate().success());
    }
    let asked = server.requests().into_iter().map(|request| (request.verb, request.group, request.resource));
    assert_eq!(asked.collect::<BTreeSet<Call>>(), allowed(), "neither more nor less");
}
