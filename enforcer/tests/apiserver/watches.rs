//! Watches, as the agent's client makes them.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{Api, api::PartialObjectMeta, runtime::watcher::Config};

use enforcer_testing::apiserver::{Interruption, Target};

use crate::server_and_client::{Cluster, Watcher, edited, namespace, pod};

const PODS: Target = Target::ALL.resource("pods");

fn on_node() -> Config {
    Config::default().fields("spec.nodeName=node-1")
}

/// Both ways to begin.
fn strategies() -> [(&'static str, Config); 2] {
    [("a list and a watch", on_node()), ("a streaming list", on_node().streaming_lists())]
}

#[test]
fn watch_reports_adds_edits_and_deletes() {
    for (how, config) in strategies() {
        let cluster = Cluster::start();
        let server = &cluster.server;
        server.put_pod(pod("a", "node-1"));
        server.put_pod(pod("b", "node-2"));
        let mut watcher: Watcher<Pod> = Watcher::new(cluster.pods(), config);
        assert_eq!(cluster.next_event(&mut watcher, 3), ["init", "there a", "done"], "{how}");
        server.put_pod(edited(pod("a", "node-1"), "80"));
        server.put_pod(pod("c", "node-2"));
        server.put_pod(pod("d", ""));
        server.put_pod(pod("d", "node-1"));
        server.delete_pod("default", "b");
        server.delete_pod("default", "a");
        assert_eq!(cluster.next_event(&mut watcher, 3), ["apply a", "apply d", "delete a"], "{how}");
        let lists = server.count(PODS.verb("list"));
        assert_eq!(lists, usize::from(how == "a list and a watch"), "{how}");
    }
}

#[test]
fn server_without_streaming_lists_refuses_them() {
    let cluster = Cluster::start();
    cluster.server.set_streaming_lists(false);
    let mut watcher: Watcher<Pod> = Watcher::new(cluster.pods(), on_node().streaming_lists());
    assert_eq!(cluster.next_event(&mut watcher, 2), ["no watch: 422", "no watch: 422"]);
    cluster.server.set_streaming_lists(true);
    assert_eq!(cluster.next_event(&mut watcher, 2), ["init", "done"]);
}

#[test]
fn expired_version_leads_to_new_list() {
    for in_stream in [true, false] {
        let cluster = Cluster::start();
        let server = &cluster.server;
        server.set_gone_in_stream(in_stream);
        server.put_pod(pod("a", "node-1"));
        server.put_pod(pod("b", "node-1"));
        // The list is at one version, and the watch comes when that is forgotten.
        let mut watcher: Watcher<Pod> = Watcher::new(cluster.pods(), on_node());
        assert_eq!(cluster.next_event(&mut watcher, 4), ["init", "there a", "there b", "done"]);
        server.delete_pod("default", "a");
        server.put_pod(pod("c", "node-1"));
        server.compact();
        if in_stream {
            assert_eq!(cluster.next_event(&mut watcher, 5), ["error 410", "init", "there b", "there c", "done"]);
        } else {
            // This client does not list again for a status: it asks for the same version for ever.
            assert_eq!(cluster.next_event(&mut watcher, 2), ["no watch: 410", "no watch: 410"]);
        }
    }
}

#[test]
fn bounded_history_drops_oldest_change() {
    let cluster = Cluster::start();
    let server = &cluster.server;
    let mut watcher: Watcher<Pod> = Watcher::new(cluster.pods(), on_node());
    assert_eq!(cluster.next_event(&mut watcher, 2), ["init", "done"]);
    server.set_history(2);
    for name in ["a", "b", "c"] {
        server.put_pod(pod(name, "node-1"));
    }
    assert_eq!(cluster.next_event(&mut watcher, 5), ["error 410", "init", "there a", "there b", "there c"]);
}

#[test]
fn open_watch_survives_compaction() {
    let cluster = Cluster::start();
    let server = &cluster.server;
    let mut watcher: Watcher<Pod> = Watcher::new(cluster.pods(), on_node().streaming_lists());
    assert_eq!(cluster.next_event(&mut watcher, 2), ["init", "done"]);
    server.put_pod(pod("a", "node-1"));
    server.compact();
    server.put_pod(pod("b", "node-1"));
    assert_eq!(cluster.next_event(&mut watcher, 2), ["apply a", "apply b"]);
    assert_eq!(server.interrupt(PODS, Interruption::Gone), 1);
    assert_eq!(cluster.next_event(&mut watcher, 5), ["error 410", "init", "there a", "there b", "done"]);
}

#[test]
fn cut_watch_resumes_at_its_version() {
    for (how, config) in strategies() {
        for interruption in [Interruption::Cut, Interruption::End] {
            let cluster = Cluster::start();
            let server = &cluster.server;
            server.put_pod(pod("a", "node-1"));
            let mut watcher: Watcher<Pod> = Watcher::new(cluster.pods(), config.clone());
            assert_eq!(cluster.next_event(&mut watcher, 3), ["init", "there a", "done"], "{how}");
            server.put_pod(pod("b", "node-1"));
            assert_eq!(cluster.next_event(&mut watcher, 1), ["apply b"], "{how}");
            assert_eq!(server.interrupt(PODS, interruption), 1);
            server.wait_for_watches(PODS, 0);
            server.delete_pod("default", "a");
            let mut told = cluster.next_event(&mut watcher, 1);
            if told == ["broken watch: connection"] {
                assert_eq!(interruption, Interruption::Cut);
                told = cluster.next_event(&mut watcher, 1);
            }
            assert_eq!(told, ["delete a"], "{how}, {interruption:?}");
        }
    }
}

#[test]
fn bookmark_saves_a_new_list() {
    let cluster = Cluster::start();
    let server = &cluster.server;
    let mut watcher: Watcher<Pod> = Watcher::new(cluster.pods(), on_node().streaming_lists());
    assert_eq!(cluster.next_event(&mut watcher, 2), ["init", "done"]);
    for name in ["x", "y", "z"] {
        server.put_pod(pod(name, "node-2"));
    }
    server.interrupt(PODS, Interruption::Bookmark);
    server.compact();
    server.interrupt(PODS, Interruption::End);
    server.wait_for_watches(PODS, 0);
    server.put_pod(pod("a", "node-1"));
    assert_eq!(
        cluster.next_event(&mut watcher, 1),
        ["apply a"],
        "the version that was asked for came with the bookmark"
    );
}

#[test]
fn watch_ends_after_its_timeout() {
    let cluster = Cluster::start();
    let mut watcher: Watcher<Pod> = Watcher::new(cluster.pods(), on_node().timeout(1));
    assert_eq!(cluster.next_event(&mut watcher, 2), ["init", "done"]);
    assert_eq!(cluster.next_event_within(&mut watcher, Duration::from_millis(2500)), [""; 0]);
    assert!(cluster.server.count(PODS.verb("watch")) >= 2);
    assert_eq!(cluster.server.count(PODS.verb("list")), 1);
}

#[test]
fn label_change_adds_and_deletes_for_selector() {
    let cluster = Cluster::start();
    let server = &cluster.server;
    for config in [Config::default(), Config::default().streaming_lists()] {
        server.put_namespace(namespace("one", Some("audit")));
        server.put_namespace(namespace("two", None));
        let api: Api<PartialObjectMeta<Namespace>> = Api::all(cluster.client.clone());
        let mut watcher = Watcher::new(api, config.labels("port-enforcer.io/mode"));
        assert_eq!(cluster.next_event(&mut watcher, 3), ["init", "there one", "done"]);
        server.put_namespace(namespace("one", Some("enforce")));
        server.put_namespace(namespace("two", Some("audit")));
        server.put_namespace(namespace("one", None));
        server.delete_namespace("two");
        assert_eq!(cluster.next_event(&mut watcher, 4), ["apply one", "apply two", "delete one", "delete two"]);
        server.delete_namespace("one");
    }
}

#[test]
fn watch_of_one_name_is_served() {
    let cluster = Cluster::start();
    let mut watcher: Watcher<Pod> = Watcher::new(cluster.pods(), Config::default().fields("metadata.name=b"));
    assert_eq!(cluster.next_event(&mut watcher, 2), ["init", "done"]);
    for name in ["a", "b"] {
        cluster.server.put_pod(pod(name, "node-1"));
    }
    assert_eq!(cluster.next_event(&mut watcher, 1), ["apply b"]);
    let watch = cluster.server.requests().into_iter().find(|request| request.verb == "watch").unwrap();
    assert_eq!(watch.name.as_deref(), Some("b"), "access control sees the name in the selector");
}

#[test]
fn sent_bytes_are_counted_for_each_request() {
    let cluster = Cluster::start();
    let server = &cluster.server;
    server.put_pod(pod("a", "node-1"));
    server.put_pod(pod("b", "node-2"));
    let get = |query: &str| {
        let request = axum::http::Request::get(format!("/api/v1/pods?{query}")).body(Vec::new()).unwrap();
        cluster.run(cluster.client.request_text(request)).unwrap()
    };
    let list = get("limit=1");
    let watch = get("watch=true&timeoutSeconds=1&resourceVersion=0&fieldSelector=spec.nodeName%3Dnode-1");
    // The fields of a line are in the order of a real server: clients read them as they come.
    assert!(watch.starts_with("{\"type\":\"ADDED\",\"object\":{"), "{watch}");
    assert_eq!(watch.lines().count(), 1, "{watch}");
    let sent: Vec<_> = server.requests().iter().map(|request| request.sent).collect();
    assert_eq!(sent, [list, watch].map(|text| text.len() as u64));
}
