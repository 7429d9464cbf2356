//! Events: what the owners of pods find with theirs.

use std::time::{Duration, Instant};

use k8s_openapi::api::events::v1::Event;

use enforcer_testing::{
    agent::wait_until,
    agent_fixture::{AgentFixture, bind, denied, until_bind},
    apiserver::{ApiServer, Fault, Target},
    pods::Pod,
    tests,
};

use crate::{
    Test,
    backend::{Backend, BackendTest, backend_tests, start_synced},
};

pub(crate) const TESTS: &[Test] = tests![
    event_of_unknown_caller_waits_for_its_name,
    enforcement_works_without_events,
    deleted_namespace_does_not_block_events,
    events_stay_within_budget
];

pub(crate) const BODIES: &[BackendTest] = backend_tests![
    denial_is_published_on_both_pods: Nothing,
    repeated_event_becomes_a_series: Nothing,
    lost_and_invalid_claims_are_published: Nothing,
    audit_mode_publishes_and_allows: Nothing,
    event_of_mirror_pod_names_mirror_pod: NoControllers,
    conflict_on_node_port_is_published_on_node: Nothing,
];

const EVENTS: Target = Target::ALL.resource("events");

fn is(event: &Event, reason: &str, pod: &str) -> bool {
    event.reason.as_deref() == Some(reason)
        && event.regarding.as_ref().is_some_and(|it| it.name.as_deref() == Some(pod))
}

/// Waits for an Event of a pod.
pub(crate) fn wait(server: &dyn Backend, reason: &str, pod: &str) -> Event {
    server.wait_for_event(&format!("{reason} of {pod}"), &|event| is(event, reason, pod))
}

/// What an Event says.
pub(crate) fn note(event: &Event) -> &str {
    event.note.as_deref().unwrap_or_default()
}

fn denial_is_published_on_both_pods(server: &dyn Backend) {
    let fixture = AgentFixture::new();
    let (owner, other) = (Pod::new("web-1").ports("20080"), Pod::new("web-2").namespace("tenant"));
    server.put(&owner);
    let other = server.put(&other);
    let _agent = start_synced(&fixture, server, &["--pod-name", "port-enforcer-x7k2p"]);
    let mut worker = fixture.worker(&other);
    until_bind(&mut worker, 20080, denied());

    let offenders = wait(server, "PortBindDenied", "web-2");
    let words = note(&offenders);
    assert!(words.starts_with("bind 0.0.0.0:20080/tcp by tenant/web-2 (container server, command "), "{words}");
    assert!(words.ends_with(" denied on node-1: claimed by default/web-1 (annotation)"), "{words}");
    let regarding = offenders.regarding.as_ref().unwrap();
    assert_eq!(regarding.uid.as_deref(), Some(other.uid_text()));
    assert_eq!((regarding.kind.as_deref(), regarding.namespace.as_deref()), (Some("Pod"), Some("tenant")));
    assert_eq!(offenders.metadata.namespace.as_deref(), Some("tenant"));
    assert_eq!(offenders.related.as_ref().and_then(|it| it.name.as_deref()), Some("web-1"));
    assert_eq!((offenders.type_.as_deref(), offenders.action.as_deref()), (Some("Warning"), Some("Bind")));
    assert_eq!(offenders.reporting_controller.as_deref(), Some("port-enforcer.io/agent"));
    assert_eq!(offenders.reporting_instance.as_deref(), Some("port-enforcer-x7k2p"));

    let owners = wait(server, "PortBindDenied", "web-1");
    let expected = "bind by tenant/web-2 (0.0.0.0:20080/tcp) denied on node-1 (mode enforce): claimed by this pod";
    assert_eq!(note(&owners), expected, "without command and process id");
    assert_eq!(owners.metadata.namespace.as_deref(), Some("default"));
}

fn repeated_event_becomes_a_series(server: &dyn Backend) {
    let fixture = AgentFixture::new();
    let (owner, other) = (Pod::new("owner").ports("20080"), Pod::new("other"));
    server.put(&owner);
    let other = server.put(&other);
    let _agent = start_synced(&fixture, server, &[]);
    let mut worker = fixture.worker(&other);
    until_bind(&mut worker, 20080, denied());
    let first = wait(server, "PortBindDenied", "other");
    for _ in 0..41 {
        assert_eq!(worker.bind(&bind(20080)), denied());
    }
    let counted =
        server.wait_for_event("the series", &|event| is(event, "PortBindDenied", "other") && event.series.is_some());
    assert_eq!(counted.metadata.name, first.metadata.name);
    assert_eq!(counted.series.unwrap().count, 42);
    // The server forgets Events after an hour; the next time it is a new one.
    server.delete_event(&first);
    assert_eq!(worker.bind(&bind(20080)), denied());
    let again =
        server.wait_for_event_at_most(Duration::from_mins(1), "another", &|event| is(event, "PortBindDenied", "other"));
    assert_ne!(again.metadata.name, first.metadata.name);
}

fn lost_and_invalid_claims_are_published(server: &dyn Backend) {
    let fixture = AgentFixture::new();
    let (first, second) = (Pod::new("first").ports("20080"), Pod::new("second").ports("20080, 0, 99999"));
    server.put(&first);
    server.put(&second);
    let _agent = start_synced(&fixture, server, &[]);
    let lost = wait(server, "PortClaimConflict", "second");
    assert_eq!(
        note(&lost),
        "claim of default/second on 20080/tcp loses on node-1: in force for default/first (annotation); it is granted when \
         that one goes"
    );
    let won = wait(server, "PortClaimConflict", "first");
    assert!(note(&won).starts_with("claim of default/second (20080/tcp) loses on node-1"), "{}", note(&won));
    wait_until("both mistakes are told", || {
        let wrong = server.events().into_iter().filter(|event| is(event, "PortClaimInvalid", "second"));
        wrong.count() == 2
    });
    assert_eq!(lost.action.as_deref(), Some("Claim"));
    server.delete(&first);
    let granted = wait(server, "PortClaimGranted", "second");
    assert_eq!(granted.type_.as_deref(), Some("Normal"));
    assert_eq!(note(&granted), "claim of default/second on 20080/tcp is now in force on node-1");
}

fn audit_mode_publishes_and_allows(server: &dyn Backend) {
    let fixture = AgentFixture::new();
    let (owner, other) = (Pod::new("owner").ports("20080"), Pod::new("other"));
    server.put(&owner);
    let other = server.put(&other);
    let _agent = start_synced(&fixture, server, &["--mode", "audit"]);
    assert_eq!(fixture.worker(&other).bind(&bind(20080)), 0);
    assert!(note(&wait(server, "PortBindAudited", "other")).contains(" audited "));
    assert!(note(&wait(server, "PortBindAudited", "owner")).contains(" audited on node-1 (mode audit)"));
}

fn event_of_mirror_pod_names_mirror_pod(server: &dyn Backend) {
    let fixture = AgentFixture::new();
    let hash = "0123456789abcdef0123456789abcdef";
    let mirror = |name: &str| {
        let mut pod = Pod::new(name);
        pod.object["metadata"]["annotations"]["kubernetes.io/config.mirror"] = hash.into();
        pod.object["metadata"]["annotations"]["kubernetes.io/config.hash"] = hash.into();
        pod
    };
    let owner = Pod::new("owner").ports("20080");
    server.put(&owner);
    let mut fixed = fixture.worker_with_uid(hash);
    server.put(&mirror("real"));
    let _agent = start_synced(&fixture, server, &[]);
    assert_eq!(fixed.bind(&bind(20080)), 0, "a static pod is never denied");
    let told = wait(server, "PortBindAudited", "real");
    assert_eq!(told.regarding.unwrap().uid.as_deref(), Some(hash));
    server.put(&mirror("forged"));
    let rejected = wait(server, "PortIdentityRejected", "forged");
    assert!(note(&rejected).contains("another mirror pod was there first"), "{}", note(&rejected));
}

fn event_of_unknown_caller_waits_for_its_name() {
    let fixture = AgentFixture::new();
    let server = ApiServer::start();
    let (owner, late) = (Pod::new("owner").ports("20080"), Pod::new("late"));
    server.put(&owner);
    let mut agent = start_synced(&fixture, &server, &[]);
    let mut worker = fixture.worker(&late);
    assert_eq!(worker.bind(&bind(20080)), denied());
    agent.wait_for_line("the log tells it at once", |line| line["event"] == "bind" && line["verdict"] == "deny");
    assert_eq!(server.events(), [], "nobody knows yet whose Event it would be");
    server.put(&late);
    let told = wait(&server, "PortBindDenied", "late");
    assert!(note(&told).contains(" by default/late (container server, "), "{}", note(&told));
    let told = wait(&server, "PortBindDenied", "owner");
    assert!(note(&told).starts_with("bind by default/late "), "{}", note(&told));
}

fn conflict_on_node_port_is_published_on_node(server: &dyn Backend) {
    let fixture = AgentFixture::new();
    let pod = Pod::new("web");
    let pod = server.put(&pod);
    let _agent = start_synced(&fixture, server, &["--node-reserved", "20022/tcp"]);
    assert_eq!(fixture.worker(&pod).bind(&bind(20022)), denied());
    let told = wait(server, "PortBindDenied", "node-1");
    let regarding = told.regarding.unwrap();
    assert_eq!((regarding.kind.as_deref(), regarding.uid.as_deref()), (Some("Node"), Some("node-1")));
    assert_eq!((regarding.namespace, told.metadata.namespace.as_deref()), (None, Some("default")));
    assert!(note(&wait(server, "PortBindDenied", "web")).ends_with("reserved for the node (node-reserved)"));
}

fn enforcement_works_without_events() {
    let fixture = AgentFixture::new();
    let server = ApiServer::start();
    let (owner, other) = (Pod::new("owner").ports("20080"), Pod::new("other"));
    server.put(&owner);
    server.put(&other);
    for (fault, kind) in [(Fault::Forbidden, "forbidden"), (Fault::Internal, "server")] {
        let outage = server.fault(EVENTS, fault);
        let mut agent = start_synced(&fixture, &server, &[]);
        let mut worker = fixture.worker(&other);
        until_bind(&mut worker, 20080, denied());
        agent.wait_for_line("the trouble is told", |line| {
            line["event"] == "api_error" && line["resource"] == "events" && line["kind"] == kind
        });
        wait_until("it is tried again", || outage.hits() > 2);
        let added = Pod::new(&format!("added-{kind}")).ports("20081");
        server.put(&added);
        until_bind(&mut worker, 20081, denied());
        server.delete(&added);
        until_bind(&mut worker, 20081, 0);
        assert_eq!(server.events(), []);
        drop(outage);
        let told = wait(&server, "PortBindDenied", "other");
        agent.wait_for_line("it is told that all is well", |line| {
            line["event"] == "api_recovered" && line["resource"] == "events"
        });
        let again = agent.drain_log().into_iter().filter(|line| line["event"] == "api_error");
        assert_eq!(again.count(), 0, "told once");
        drop(agent);
        for event in server.events() {
            server.delete_event("default", &event.metadata.name.unwrap());
        }
        assert!(told.metadata.uid.is_some());
    }
}

fn deleted_namespace_does_not_block_events() {
    let fixture = AgentFixture::new();
    let server = ApiServer::start();
    let (owner, other) = (Pod::new("owner").ports("20080"), Pod::new("other").namespace("gone"));
    server.put(&owner);
    server.put(&other);
    let mut agent = start_synced(&fixture, &server, &[]);
    let mut worker = fixture.worker(&other);
    let outage = server.fault(EVENTS, Fault::Internal);
    assert_eq!(worker.bind(&bind(20080)), denied());
    wait_until("it was tried", || outage.hits() > 0);
    server.delete(&other);
    server.delete_namespace("gone");
    drop(outage);
    wait(&server, "PortBindDenied", "owner");
    agent.wait_for_line("all is well", |line| line["event"] == "api_recovered" && line["resource"] == "events");
    assert!(!server.events().iter().any(|event| is(event, "PortBindDenied", "other")));
}

fn events_stay_within_budget() {
    const PODS: usize = 1000;
    let fixture = AgentFixture::new();
    let server = ApiServer::start();
    let owner = Pod::new("owner").ports("20080");
    server.put(&owner);
    let losers: Vec<Pod> = (1..PODS).map(|pod| Pod::new(&format!("loser-{pod}")).ports("20080")).collect();
    for pod in &losers {
        server.put(pod);
    }
    let started = Instant::now();
    let _agent = start_synced(&fixture, &server, &[]);
    let mut worker = fixture.worker(&losers[0]);
    let mut tries = 0_u32;
    while started.elapsed() < Duration::from_secs(5) {
        assert_eq!(worker.bind(&bind(20080)), denied());
        tries += 1;
        // A loop that tries again a hundred times a second.
        std::thread::sleep(Duration::from_millis(10));
    }
    until_bind(&mut fixture.worker(&owner), 20080, 0);
    let calls = server.count(EVENTS);
    let most = started.elapsed().as_millis() / 200 + 1;
    println!("{tries} binds and {PODS} claims of one port: {calls} calls to the API, at most {most}");
    assert!(calls > 0 && calls as u128 <= most);
    let told = wait(&server, "PortClaimConflict", "owner");
    assert!(note(&told).contains("and 998 others"), "{}", note(&told));
    let of_owner = server.events().into_iter().filter(|event| is(event, "PortClaimConflict", "owner"));
    assert_eq!(of_owner.count(), 1, "never pairwise");
}
