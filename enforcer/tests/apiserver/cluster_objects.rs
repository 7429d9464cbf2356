//! Nodes and Services, and what goes with a node.

use k8s_openapi::{
    api::core::v1::{Node, Service, ServicePort, ServiceSpec},
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, PartialObjectMeta, Patch, PatchParams},
    runtime::watcher::Config,
};
use serde_json::{Value, json};

use crate::{
    ledgers::ledger,
    server_and_client::{Cluster, Watcher, pod},
};

fn node(name: &str) -> Node {
    Node { metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }, ..Node::default() }
}

#[test]
fn nodes_are_patched_if_the_tests_of_the_patch_hold() {
    let cluster = Cluster::start();
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let mut tainted = node("node-1");
    let taint = |key: &str| json!({ "key": key, "effect": "NoExecute" });
    tainted.spec = serde_json::from_value(json!({ "taints": [taint("a"), taint("b")] })).unwrap();
    cluster.server.put_node(tainted);
    let patch = |operations: Value| Patch::Json::<()>(serde_json::from_value(operations).unwrap());
    let params = PatchParams::default();
    let refusal = |patch: &Patch<()>| cluster.refusal(nodes.patch("node-1", &params, patch));
    let test = |value: &str| json!({ "op": "test", "path": "/spec/taints/0/key", "value": value });
    let remove = json!({ "op": "remove", "path": "/spec/taints/0" });
    let words = "the server rejected our request due to an error in our request";
    let failed = refusal(&patch(json!([test("b"), remove])));
    assert_eq!((failed.code, failed.reason.as_str(), failed.message.as_str()), (422, "Invalid", words));
    let patched = cluster.run(nodes.patch("node-1", &params, &patch(json!([test("a"), remove])))).unwrap();
    let left = cluster.server.node("node-1").unwrap();
    assert_eq!(json!(left.spec.as_ref().unwrap().taints), json!([taint("b")]));
    assert_eq!(patched.resource_version(), left.resource_version());
    let set = |field: &str| json!([{ "op": "replace", "path": format!("/metadata/{field}"), "value": "1" }]);
    assert_eq!(refusal(&patch(set("uid"))).code, 422);
    assert_eq!(refusal(&patch(set("resourceVersion"))).code, 409);
    assert_eq!(refusal(&Patch::Merge(())).code, 415);
}

fn service(name: &str, kind: &str, port: i32, node_port: Option<i32>) -> Service {
    let metadata =
        ObjectMeta { name: Some(name.to_owned()), namespace: Some("web".to_owned()), ..ObjectMeta::default() };
    let ports = Some(vec![ServicePort { port, node_port, ..ServicePort::default() }]);
    let spec = ServiceSpec { type_: Some(kind.to_owned()), ports, ..ServiceSpec::default() };
    Service { metadata, spec: Some(spec), ..Service::default() }
}

#[test]
fn nodes_are_got_listed_and_watched() {
    let cluster = Cluster::start();
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    assert!(cluster.run(nodes.get("node-1")).unwrap().metadata.uid.is_some(), "a new server has one node");
    let mut watcher = Watcher::new(nodes.clone(), Config::default().fields("metadata.name!=node-1"));
    assert_eq!(cluster.next_event(&mut watcher, 2), ["init", "done"]);
    cluster.server.put_pod(pod("a", "node-2"));
    let mut labelled = node("node-3");
    labelled.labels_mut().insert("a".to_owned(), "b".to_owned());
    cluster.server.put_node(labelled);
    cluster.server.delete_node("node-2");
    assert_eq!(cluster.next_event(&mut watcher, 3), ["apply node-2", "apply node-3", "delete node-2"]);
    let metadata: Api<PartialObjectMeta<Node>> = Api::all(cluster.client.clone());
    let listed = cluster.run(metadata.list(&ListParams::default().labels("a=b"))).unwrap();
    assert_eq!(listed.items.iter().map(kube::ResourceExt::name_any).collect::<Vec<_>>(), ["node-3"]);
    assert_eq!(cluster.refusal(nodes.get("node-2")).message, "nodes \"node-2\" not found");
    assert_eq!(cluster.refusal(nodes.list(&ListParams::default().fields("spec.unschedulable=true"))).code, 400);
}

#[test]
fn nodes_are_in_no_namespace() {
    let cluster = Cluster::start();
    for (path, message) in [
        ("/api/v1/namespaces/default/nodes", "the server could not find the requested resource"),
        ("/apis/port-enforcer.io/v1alpha1/namespaces/default/nodehostports", "404 page not found"),
    ] {
        let request = axum::http::Request::get(path).body(Vec::new()).unwrap();
        let refusal = cluster.refusal(cluster.client.request::<Value>(request));
        assert_eq!((refusal.code, refusal.message.as_str()), (404, message));
    }
}

#[test]
fn ledger_goes_with_its_node() {
    let cluster = Cluster::start();
    let uid = cluster.server.put_node(node("node-2")).metadata.uid.unwrap();
    for (name, uid) in [("node-1", "of-another"), ("node-2", uid.as_str())] {
        let mut ledger = ledger(name);
        ledger["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}]);
        cluster.server.put_ledger(ledger);
    }
    cluster.server.delete_node("node-2");
    let names: Vec<_> = cluster.server.ledgers().into_iter().map(|ledger| ledger["metadata"]["name"].clone()).collect();
    assert_eq!(names, ["node-1"]);
    let again = cluster.server.put_node(node("node-2"));
    assert_ne!(again.metadata.uid.unwrap(), uid);
}

#[test]
fn services_are_got_listed_and_watched() {
    let cluster = Cluster::start();
    let stored = cluster.server.put_service(service("a", "NodePort", 80, Some(30080)));
    let port = &stored.spec.as_ref().unwrap().ports.as_ref().unwrap()[0];
    assert_eq!((port.protocol.as_deref(), &port.target_port), (Some("TCP"), &Some(IntOrString::Int(80))));
    let services: Api<Service> = Api::namespaced(cluster.client.clone(), "web");
    assert_eq!(cluster.run(services.get("a")).unwrap(), stored);
    let mut watcher = Watcher::new(Api::<Service>::all(cluster.client.clone()), Config::default().streaming_lists());
    assert_eq!(cluster.next_event(&mut watcher, 3), ["init", "there a", "done"]);
    cluster.server.put_service(service("b", "ClusterIP", 80, None));
    cluster.server.delete_service("web", "a");
    assert_eq!(cluster.next_event(&mut watcher, 2), ["apply b", "delete a"]);
    let listed = cluster.run(services.list(&ListParams::default().fields("spec.type=ClusterIP"))).unwrap();
    assert_eq!(listed.items.len(), 1);
    cluster.server.delete_namespace("web");
    assert_eq!(cluster.next_event(&mut watcher, 1), ["delete b"]);
}

#[test]
#[should_panic(expected = "the node port 30080 is already allocated, to web/a")]
fn node_port_belongs_to_one_service() {
    let cluster = Cluster::start();
    let mut other = service("c", "NodePort", 80, Some(30080));
    other.spec.as_mut().unwrap().ports.as_mut().unwrap()[0].protocol = Some("UDP".to_owned());
    cluster.server.put_service(other);
    for name in ["a", "a", "b"] {
        cluster.server.put_service(service(name, "NodePort", 80, Some(30080)));
    }
}
