//! Everything that goes wrong on purpose, as the client sees it.

use std::time::{Duration, Instant};

use axum::http::Request;
use k8s_openapi::api::{core::v1::Pod, events::v1::Event};
use kube::{Api, api::ListParams, client::Body, runtime::watcher::Config};

use enforcer_testing::apiserver::{Fault, Interruption, Target};

use crate::server_and_client::{Cluster, Watcher, pod};

const PODS: Target = Target::ALL.resource("pods");

fn list(cluster: &Cluster) -> impl Future<Output = kube::Result<usize>> {
    let pods = cluster.pods();
    async move { pods.list(&ListParams::default()).await.map(|list| list.items.len()) }
}

#[test]
fn error_answers_arrive_as_ordered() {
    let cluster = Cluster::start();
    for (fault, code, reason) in [
        (Fault::Unauthorized, 401, "Unauthorized"),
        (Fault::Forbidden, 403, "Forbidden"),
        (Fault::Gone, 410, "Expired"),
        (Fault::TooManyRequests { retry_after: 7 }, 429, "TooManyRequests"),
        (Fault::Internal, 500, "InternalError"),
        (Fault::Unavailable, 503, "ServiceUnavailable"),
    ] {
        let outage = cluster.server.fault(Target::ALL, fault);
        let refusal = cluster.refusal(list(&cluster));
        assert_eq!((refusal.code, refusal.reason.as_str()), (code, reason));
        assert_eq!(outage.hits(), 1, "{fault:?}");
        assert_eq!(cluster.server.requests().pop().unwrap().status, Some(code));
        drop(outage);
        assert_eq!(cluster.run(list(&cluster)).unwrap(), 0, "{fault:?} is over");
    }
}

#[test]
fn retry_after_header_is_sent() {
    let cluster = Cluster::start();
    let _outage = cluster.server.fault(Target::ALL, Fault::TooManyRequests { retry_after: 7 });
    let request = Request::get("/api/v1/pods").body(Body::empty()).unwrap();
    let response = cluster.run(cluster.client.send(request)).unwrap();
    assert_eq!(response.headers()["Retry-After"], "7");
}

#[test]
fn fault_hits_its_target_only() {
    let cluster = Cluster::start();
    let denied = cluster.server.fault(Target::ALL.resource("events").verb("create"), Fault::Forbidden);
    let events: Api<Event> = Api::default_namespaced(cluster.client.clone());
    let refusal = cluster.refusal(events.create(&kube::api::PostParams::default(), &Event::default()));
    let words = "events.events.k8s.io is forbidden: User \"system:serviceaccount:port-enforcer:port-enforcer\" cannot \
                 create resource \"events\" in API group \"events.k8s.io\" in the namespace \"default\"";
    assert_eq!((refusal.code, refusal.message.as_str()), (403, words));
    cluster.run(events.list(&ListParams::default())).unwrap();
    cluster.run(list(&cluster)).unwrap();
    assert_eq!(denied.hits(), 1);
}

#[test]
fn missing_token_is_unauthorized() {
    let cluster = Cluster::start();
    for (token, code) in [(Some("of-another"), 401), (None, 403)] {
        let pods: Api<Pod> = Api::all(cluster.client_with(token));
        assert_eq!(cluster.refusal(pods.list(&ListParams::default())).code, code);
    }
    assert_eq!(cluster.run(list(&cluster)).unwrap(), 0);
}

#[test]
fn stopped_server_refuses_connections() {
    let mut cluster = Cluster::start();
    cluster.server.put_pod(pod("a", "node-1"));
    let mut watcher: Watcher<Pod> = Watcher::new(cluster.pods(), Config::default().streaming_lists());
    assert_eq!(cluster.next_event(&mut watcher, 3), ["init", "there a", "done"]);
    for _ in 0..3 {
        cluster.server.stop();
        assert!(matches!(cluster.run(list(&cluster)), Err(kube::Error::Service(_) | kube::Error::HyperError(_))));
        cluster.server.start_again();
        assert_eq!(cluster.run(list(&cluster)).unwrap(), 1);
    }
    cluster.server.put_pod(pod("b", "node-1"));
    let told = cluster.next_event(&mut watcher, 1);
    let told = if told == ["apply b"] { told } else { cluster.next_event(&mut watcher, 1) };
    assert_eq!(told, ["apply b"]);
}

#[test]
fn answer_is_delayed() {
    const DELAY: Duration = Duration::from_millis(300);
    let cluster = Cluster::start();
    cluster.server.put_pod(pod("a", "node-1"));
    for fault in [Fault::DelayAnswer(DELAY), Fault::DelayBody(DELAY)] {
        let _slow = cluster.server.fault(PODS, fault);
        let begin = Instant::now();
        assert_eq!(cluster.run(list(&cluster)).unwrap(), 1);
        assert!(begin.elapsed() >= DELAY, "{fault:?}");
    }
    let head = || {
        let request = Request::get("/api/v1/pods").body(Body::empty()).unwrap();
        cluster.run(cluster.client.send(request)).unwrap()
    };
    let slow = cluster.server.fault(PODS, Fault::DelayAnswer(DELAY));
    let begin = Instant::now();
    head();
    assert!(begin.elapsed() >= DELAY);
    drop(slow);
    // Its body never comes.
    let slow = cluster.server.fault(PODS, Fault::DelayBody(Duration::from_hours(1)));
    head();
    drop(slow);
    let _slow = cluster.server.fault(PODS.verb("watch"), Fault::DelayBody(DELAY));
    let mut watcher: Watcher<Pod> = Watcher::new(cluster.pods(), Config::default().streaming_lists());
    let begin = Instant::now();
    assert_eq!(cluster.next_event(&mut watcher, 3), ["init", "there a", "done"]);
    assert!(begin.elapsed() >= DELAY);
}

#[test]
fn list_is_cut_in_the_middle() {
    let cluster = Cluster::start();
    cluster.server.put_pod(pod("a", "node-1"));
    let cut = cluster.server.fault(PODS, Fault::CutList);
    let error = cluster.run(list(&cluster)).unwrap_err();
    assert!(!matches!(error, kube::Error::Api(_) | kube::Error::SerdeError(_)), "half a list is none: {error:?}");
    let mut watcher: Watcher<Pod> = Watcher::new(cluster.pods(), Config::default());
    assert_eq!(cluster.next_event(&mut watcher, 2), ["init", "no list: connection"]);
    assert_eq!(cut.hits(), 2);
    drop(cut);
    assert_eq!(cluster.next_event(&mut watcher, 3), ["init", "there a", "done"]);
}

#[test]
fn later_page_is_cut() {
    let cluster = Cluster::start();
    for name in ["a", "b", "c"] {
        cluster.server.put_pod(pod(name, "node-1"));
    }
    let cut = cluster.server.fault(PODS, Fault::CutLaterPage);
    let mut watcher: Watcher<Pod> = Watcher::new(cluster.pods(), Config::default().page_size(2));
    assert_eq!(cluster.next_event(&mut watcher, 4), ["init", "there a", "there b", "no list: connection"]);
    assert_eq!(cut.hits(), 1, "not the first page");
}

#[test]
fn watch_is_cut_after_some_events() {
    let cluster = Cluster::start();
    for name in ["a", "b", "c"] {
        cluster.server.put_pod(pod(name, "node-1"));
    }
    // In the middle of the first list.
    let cut = cluster.server.fault(PODS.verb("watch"), Fault::CutWatchAfter(2));
    let mut watcher: Watcher<Pod> = Watcher::new(cluster.pods(), Config::default().streaming_lists());
    assert_eq!(cluster.next_event(&mut watcher, 3), ["init", "there a", "there b"]);
    let told = cluster.next_event(&mut watcher, 1);
    assert!(told == ["broken watch: connection"] || told == ["init"], "{told:?}");
    drop(cut);
    let told = std::iter::repeat_with(|| cluster.next_event(&mut watcher, 1).remove(0));
    assert!(told.take(12).any(|told| told == "done"), "the list is made after all");
}

#[test]
fn watch_line_without_json_is_sent() {
    let cluster = Cluster::start();
    let mut watcher: Watcher<Pod> = Watcher::new(cluster.pods(), Config::default().streaming_lists());
    assert_eq!(cluster.next_event(&mut watcher, 2), ["init", "done"]);
    assert_eq!(cluster.server.interrupt(PODS, Interruption::Malformed), 1);
    cluster.server.put_pod(pod("a", "node-1"));
    assert_eq!(cluster.next_event(&mut watcher, 2), ["broken watch: no JSON", "apply a"]);
}
