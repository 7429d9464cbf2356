//! Lists, their pages and versions, and what a server makes of the objects.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerPort, Namespace, Pod};
use kube::{
    Api,
    api::{ListParams, PartialObjectMeta, VersionMatch},
};
use serde_json::Value;

use enforcer_testing::apiserver::Target;

use crate::server_and_client::{Cluster, edited, namespace, pod};

fn names<K: kube::ResourceExt>(list: impl IntoIterator<Item = K>) -> Vec<String> {
    list.into_iter().map(|object| object.name_any()).collect()
}

#[test]
fn all_pages_have_one_version() {
    let cluster = Cluster::start();
    for name in ["a", "b", "c", "d", "e"] {
        cluster.server.put_pod(pod(name, "node-1"));
    }
    let first = cluster.run(cluster.pods().list(&ListParams::default().limit(2))).unwrap();
    assert_eq!(first.metadata.remaining_item_count, Some(3));
    let token = first.metadata.continue_.clone().unwrap();
    cluster.server.delete_pod("default", "d");
    cluster.server.put_pod(pod("f", "node-1"));
    let rest = ListParams::default().limit(9).continue_token(&token);
    let second = cluster.run(cluster.pods().list(&rest)).unwrap();
    assert_eq!(second.metadata.resource_version, first.metadata.resource_version);
    assert_eq!((names(first), names(second)), (vec!["a".into(), "b".into()], vec!["c".into(), "d".into(), "e".into()]));

    // The snapshot is gone; the rest can be had as it is now.
    cluster.server.compact();
    let refusal = cluster.refusal(cluster.pods().list(&rest));
    assert_eq!((refusal.code, refusal.reason.as_str()), (410, "Expired"));
    let token = refusal.metadata.unwrap().continue_.unwrap();
    let now = cluster.run(cluster.pods().list(&ListParams::default().continue_token(&token))).unwrap();
    assert_eq!(names(now), ["c", "e", "f"]);
}

#[test]
fn list_versions_are_checked() {
    let cluster = Cluster::start();
    cluster.server.put_pod(pod("a", "node-1"));
    let then = cluster.server.revision();
    cluster.server.put_pod(pod("b", "node-1"));
    let pods = cluster.pods();
    let list = |lp: ListParams| {
        let pods = pods.clone();
        async move { pods.list(&lp).await }
    };
    let at = |revision: u64| ListParams::default().at(&revision.to_string());
    assert_eq!(names(cluster.run(list(at(then).matching(VersionMatch::Exact))).unwrap()), ["a"]);
    assert_eq!(names(cluster.run(list(at(then).matching(VersionMatch::NotOlderThan))).unwrap()), ["a", "b"]);
    assert_eq!(names(cluster.run(list(ListParams::default().match_any())).unwrap()), ["a", "b"]);
    let future = at(then + 100).matching(VersionMatch::NotOlderThan);
    assert_eq!(cluster.refusal(list(future)).code, 504);
    cluster.server.compact();
    assert_eq!(cluster.refusal(list(at(then).matching(VersionMatch::Exact))).code, 410);
}

#[test]
fn selectors_filter_lists() {
    let cluster = Cluster::start();
    for (name, node) in [("a", "node-1"), ("b", "node-2"), ("c", "")] {
        cluster.server.put_pod(pod(name, node));
    }
    let by_field = |selector: &str| ListParams::default().fields(selector);
    let pods = |selector: &str| names(cluster.run(cluster.pods().list(&by_field(selector))).unwrap());
    assert_eq!(pods("spec.nodeName=node-1"), ["a"]);
    assert_eq!(pods("spec.nodeName="), ["c"]);
    assert_eq!(pods("spec.nodeName!=node-1,metadata.name==b"), ["b"]);
    assert_eq!(cluster.refusal(cluster.pods().list(&by_field("spec.hostname=x"))).code, 400);

    for (name, mode) in [("one", Some("audit")), ("two", Some("enforce")), ("three", None)] {
        cluster.server.put_namespace(namespace(name, mode));
    }
    let api: Api<Namespace> = Api::all(cluster.client.clone());
    let by_label = |selector: &str| ListParams::default().labels(selector);
    let namespaces = |selector: &str| names(cluster.run(api.list(&by_label(selector))).unwrap());
    assert_eq!(namespaces("port-enforcer.io/mode"), ["one", "two"]);
    assert_eq!(namespaces("port-enforcer.io/mode=audit"), ["one"]);
    assert_eq!(namespaces("port-enforcer.io/mode in (audit, enforce),kubernetes.io/metadata.name!=one"), ["two"]);
    assert_eq!(
        namespaces("port-enforcer.io/mode notin (audit),kubernetes.io/metadata.name in (two,three)"),
        ["three", "two"]
    );
    assert_eq!(namespaces("!port-enforcer.io/mode,kubernetes.io/metadata.name notin (default)").len(), 4);
    assert_eq!(cluster.refusal(api.list(&by_label("a b"))).code, 400);
}

#[test]
fn metadata_only_list_is_served() {
    let cluster = Cluster::start();
    cluster.server.put_namespace(namespace("one", Some("audit")));
    let api: Api<PartialObjectMeta<Namespace>> = Api::all(cluster.client.clone());
    let list = cluster.run(api.list(&ListParams::default().labels("port-enforcer.io/mode"))).unwrap();
    assert_eq!(list.types.kind, "PartialObjectMetadataList");
    assert_eq!(list.items[0].types.as_ref().unwrap().kind, "PartialObjectMetadata");
    assert_eq!(list.items[0].metadata.labels.as_ref().unwrap()["port-enforcer.io/mode"], "audit");
    // The one form is for objects, the other for lists.
    let request = axum::http::Request::get("/api/v1/namespaces")
        .header("Accept", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1");
    let refusal = cluster.refusal(cluster.client.request::<Value>(request.body(Vec::new()).unwrap()));
    assert_eq!(refusal.code, 406);
}

#[test]
fn list_matches_real_server_format() {
    let cluster = Cluster::start();
    let stored = cluster.server.put_pod(pod("a", "node-1"));
    let request = axum::http::Request::get("/api/v1/pods").body(Vec::new()).unwrap();
    let list: Value = cluster.run(cluster.client.request(request)).unwrap();
    assert_eq!((list["kind"].as_str(), list["apiVersion"].as_str()), (Some("PodList"), Some("v1")));
    assert!(list["items"][0].get("kind").is_none(), "items of a list do not say what they are");
    let one = cluster.run(Api::<Pod>::default_namespaced(cluster.client.clone()).get("a")).unwrap();
    assert_eq!(one, stored);
    assert_eq!(one.status.unwrap().phase.unwrap(), "Pending");
    let version = cluster.run(cluster.client.apiserver_version()).unwrap();
    assert_eq!((version.major.as_str(), version.minor.as_str()), ("1", "34"));
}

#[test]
fn pod_is_stored_with_server_fields() {
    let cluster = Cluster::start();
    let server = &cluster.server;
    let mut host = pod("a", "node-1");
    let spec = host.spec.as_mut().unwrap();
    spec.host_network = Some(true);
    let port = ContainerPort { container_port: 80, ..ContainerPort::default() };
    spec.containers[0].ports = Some(vec![port]);
    let stored = server.put_pod(host.clone());
    let port = &stored.spec.as_ref().unwrap().containers[0].ports.as_ref().unwrap()[0];
    assert_eq!((port.host_port, port.protocol.as_deref()), (Some(80), Some("TCP")));

    let revision = server.revision();
    assert_eq!(server.put_pod(host.clone()), stored, "an edit that changes nothing is none");
    assert_eq!(server.revision(), revision);
    let again = server.put_pod(edited(host.clone(), "80"));
    assert_eq!(again.metadata.uid, stored.metadata.uid);
    host.metadata.uid = Some("00000000-1111-2222-3333-444444444444".to_owned());
    assert_eq!(server.put_pod(host.clone()).metadata.uid, host.metadata.uid);
    assert_eq!(server.revision(), revision + 3, "an edit, a deletion, a creation");
}

#[test]
#[should_panic(expected = "a real server refuses default/a: a pod stays on its node")]
fn pod_cannot_change_its_node() {
    let cluster = Cluster::start();
    cluster.server.put_pod(pod("a", "node-1"));
    cluster.server.put_pod(pod("a", "node-2"));
}

#[test]
fn requests_are_recorded_with_verb_and_resource() {
    let cluster = Cluster::start();
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), "web");
    cluster.run(api.list(&ListParams::default().fields("spec.nodeName=node-1"))).unwrap();
    assert_eq!(cluster.refusal(api.get("nginx")).code, 404);
    let refusal = cluster.refusal(api.delete("nginx", &kube::api::DeleteParams::default()));
    assert_eq!(refusal.code, 403, "what is not served is denied");
    assert!(refusal.message.starts_with("pods \"nginx\" is forbidden: User "), "{}", refusal.message);
    let seen: Vec<_> = cluster.server.requests().into_iter().collect();
    let [list, get, delete] = seen.as_slice() else { panic!("three requests: {seen:?}") };
    assert_eq!((list.verb.as_str(), list.group.as_str(), list.resource.as_str()), ("list", "", "pods"));
    assert_eq!((list.namespace.as_deref(), list.name.as_deref()), (Some("web"), None));
    assert!(list.query.contains("fieldSelector=spec.nodeName%3Dnode-1"), "{}", list.query);
    assert_eq!((get.verb.as_str(), get.name.as_deref()), ("get", Some("nginx")));
    assert_eq!([list.status, get.status, delete.status], [Some(200), Some(404), Some(403)]);
    assert!(list.at <= get.at && get.at <= delete.at);
    assert_eq!(cluster.server.count(Target::ALL.verb("list").resource("pods")), 1);
}

#[test]
#[should_panic(expected = "in vain for what never comes")]
fn wait_times_out() {
    let server = enforcer_testing::apiserver::ApiServer::start();
    server.wait_at_most(Duration::from_millis(50), "what never comes", |_| None::<()>);
}

#[test]
fn deletion_timestamp_cannot_be_cleared() {
    let cluster = Cluster::start();
    let asked = pod("a", "node-1");
    cluster.server.put_pod(asked.clone());
    let going = cluster.server.ask_to_go("default", "a", Duration::from_secs(30));
    assert_eq!(going.metadata.deletion_grace_period_seconds, Some(30));
    assert!(going.metadata.deletion_timestamp.as_ref().is_some_and(|by| by.0 > jiff::Timestamp::now()));
    let edited = cluster.server.put_pod(edited(asked, "80"));
    assert_eq!(edited.metadata.deletion_timestamp, going.metadata.deletion_timestamp);
    let listed = cluster.run(cluster.pods().list(&ListParams::default())).unwrap();
    assert_eq!(listed.items[0].metadata.deletion_timestamp, going.metadata.deletion_timestamp);
}
