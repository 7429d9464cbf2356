//! Ledgers: a custom resource, written by server-side apply.

use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams},
    runtime::watcher::Config,
};
use serde_json::{Value, json};

use enforcer_testing::apiserver::Target;

use crate::server_and_client::{Cluster, Watcher};

const LEDGERS: Target = Target::ALL.resource("nodehostports");
const PATH: &str = "/apis/port-enforcer.io/v1alpha1/nodehostports";

pub(crate) fn ledger(name: &str) -> Value {
    json!({"apiVersion": "port-enforcer.io/v1alpha1", "kind": "NodeHostPorts", "metadata": {"name": name}})
}

/// A cluster whose ledgers may hold anything.
pub(crate) fn cluster() -> Cluster {
    let cluster = Cluster::start();
    cluster.server.set_ledger_schema(None);
    cluster
}

pub(crate) fn api(client: &Client) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("port-enforcer.io", "v1alpha1", "NodeHostPorts");
    Api::all_with(client.clone(), &ApiResource::from_gvk_with_plural(&kind, "nodehostports"))
}

pub(crate) fn with(name: &str, field: &str, value: Value) -> Value {
    let mut ledger = ledger(name);
    ledger[field] = value;
    ledger
}

pub(crate) fn with_metadata(name: &str, field: &str, value: impl Into<Value>) -> Value {
    let mut ledger = ledger(name);
    ledger["metadata"][field] = value.into();
    ledger
}

fn agent() -> PatchParams {
    PatchParams::apply("agent")
}

fn apply(cluster: &Cluster, patch: &Value) -> Value {
    let name = patch["metadata"]["name"].as_str().unwrap().to_owned();
    let stored = cluster.run(api(&cluster.client).patch(&name, &agent(), &Patch::Apply(patch))).unwrap();
    serde_json::to_value(stored).unwrap()
}

fn apply_status(cluster: &Cluster, how: &PatchParams, status: &Value) -> kube::Result<DynamicObject> {
    let patch = Patch::Apply(with("node-1", "status", status.clone()));
    cluster.run(api(&cluster.client).patch_status("node-1", how, &patch))
}

/// Sends any body, and returns the code with the answer.
fn send(cluster: &Cluster, method: &str, path: &str, media: &str, body: &str) -> (u16, Value) {
    let request = axum::http::Request::builder().method(method).uri(format!("{PATH}{path}"));
    let request = request.header("Content-Type", media).body(body.as_bytes().to_vec()).unwrap();
    let answer = cluster.run(cluster.client.request::<Value>(request));
    let code = cluster.server.requests().pop().unwrap().status.unwrap();
    match answer {
        Ok(stored) => (code, stored),
        Err(kube::Error::Api(status)) => (code, status.message.into()),
        Err(error) => panic!("{error}"),
    }
}

fn patch(cluster: &Cluster, path: &str, body: &Value) -> (u16, String) {
    let (code, answer) = send(cluster, "PATCH", path, "application/apply-patch+yaml", &body.to_string());
    (code, answer.as_str().map_or_else(|| answer.to_string(), str::to_owned))
}

#[test]
fn apply_creates_and_then_merges() {
    let cluster = cluster();
    let server = &cluster.server;
    let mut first = with_metadata("node-1", "labels", json!({"a": "1", "b": "1"}));
    first["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "Node", "name": "node-1", "uid": "u"}]);
    (first["spec"], first["status"]) = (json!({"x": 1}), json!({"mode": "audit"}));
    let (code, stored) =
        send(&cluster, "PATCH", "/node-1?fieldManager=agent", "application/apply-patch+yaml", &first.to_string());
    assert_eq!((code, &stored["status"]), (201, &Value::Null), "the status has a way of its own");
    assert_eq!(server.ledger("node-1").unwrap(), stored);
    assert_eq!(stored["metadata"]["managedFields"][0]["manager"], "agent");

    let yaml = "apiVersion: port-enforcer.io/v1alpha1\nkind: NodeHostPorts\nmetadata:\n  name: node-1\n  \
                labels: {b: '2'}\n  annotations: {c: d}\nspec: {y: 2}\n";
    let (code, merged) = send(&cluster, "PATCH", "/node-1?fieldManager=agent", "application/apply-patch+yaml", yaml);
    assert_eq!(code, 200);
    let metadata = &merged["metadata"];
    assert_eq!((&metadata["labels"], &metadata["annotations"]), (&json!({"a": "1", "b": "2"}), &json!({"c": "d"})));
    assert_eq!(
        (&merged["spec"], &metadata["ownerReferences"]),
        (&json!({"x": 1, "y": 2}), &first["metadata"]["ownerReferences"])
    );
    assert_eq!((&metadata["uid"], &metadata["generation"]), (&stored["metadata"]["uid"], &json!(2)));
    first["metadata"]["ownerReferences"][0]["name"] = "other".into();
    assert_eq!(apply(&cluster, &first)["metadata"]["ownerReferences"].as_array().unwrap().len(), 1, "one for each uid");
}

#[test]
fn apply_without_change_is_none() {
    let cluster = cluster();
    let mut watcher = Watcher::new(api(&cluster.client), Config::default().streaming_lists());
    assert_eq!(cluster.next_event(&mut watcher, 2), ["init", "done"]);
    apply(&cluster, &ledger("node-1"));
    let status = json!({"rows": [{"port": 80}]});
    apply_status(&cluster, &agent(), &status).unwrap();
    let before = cluster.server.revision();
    apply(&cluster, &ledger("node-1"));
    apply_status(&cluster, &agent(), &status).unwrap();
    assert_eq!(cluster.server.revision(), before);
    apply_status(&cluster, &agent(), &json!({"rows": []})).unwrap();
    cluster.server.delete_ledger("node-1");
    assert_eq!(
        cluster.next_event(&mut watcher, 4),
        ["apply node-1", "apply node-1", "apply node-1", "delete node-1"],
        "what changes nothing is not told"
    );
}

#[test]
fn status_is_replaced_and_the_rest_stays() {
    let cluster = cluster();
    let refusal = cluster.refusal(async { apply_status_now(&cluster, &json!({})).await });
    assert_eq!((refusal.code, refusal.message.as_str()), (404, "nodehostports.port-enforcer.io \"node-1\" not found"));
    apply(&cluster, &with("node-1", "spec", json!({"x": 1})));
    let mut patch = with("node-1", "status", json!({"mode": "audit", "rows": [1]}));
    (patch["spec"], patch["metadata"]["labels"]) = (json!({"x": 2}), json!({"a": "b"}));
    cluster.run(api(&cluster.client).patch_status("node-1", &agent(), &Patch::Apply(&patch))).unwrap();
    apply_status(&cluster, &agent(), &json!({"rows": [2]})).unwrap();
    let stored = cluster.server.ledger("node-1").unwrap();
    assert_eq!((&stored["status"], &stored["spec"]), (&json!({"rows": [2]}), &json!({"x": 1})));
    assert_eq!(stored["metadata"]["labels"], Value::Null);
    let entry = json!({
        "manager": "agent", "operation": "Apply", "apiVersion": "port-enforcer.io/v1alpha1",
        "fieldsType": "FieldsV1", "fieldsV1": {}, "subresource": "status",
    });
    assert_eq!(stored["metadata"]["managedFields"][1], entry);
}

async fn apply_status_now(cluster: &Cluster, status: &Value) -> kube::Result<DynamicObject> {
    let patch = Patch::Apply(with("node-1", "status", status.clone()));
    api(&cluster.client).patch_status("node-1", &agent(), &patch).await
}

#[test]
fn status_of_another_manager_is_a_conflict() {
    let cluster = cluster();
    apply(&cluster, &ledger("node-1"));
    apply_status(&cluster, &agent(), &json!({"mode": "audit", "rows": [1]})).unwrap();
    let other = PatchParams::apply("other");
    let refused = |status: &Value| match apply_status(&cluster, &other, status) {
        Err(kube::Error::Api(status)) => status,
        other => panic!("a refusal, not {other:?}"),
    };
    let refusal = refused(&json!({"mode": "enforce", "rows": [1]}));
    let words = "Apply failed with 1 conflict: conflict with \"agent\" with subresource \"status\": .status.mode";
    assert_eq!((refusal.code, refusal.reason.as_str(), refusal.message.as_str()), (409, "Conflict", words));
    let causes = refusal.details.unwrap().causes;
    assert_eq!((causes[0].reason.as_str(), causes[0].field.as_str()), ("FieldManagerConflict", ".status.mode"));
    let words = "Apply failed with 2 conflicts: conflicts with \"agent\" with subresource \"status\":\n\
                 - .status.mode\n- .status.rows";
    assert_eq!(refused(&json!({"mode": "enforce", "rows": []})).message, words);
    apply_status(&cluster, &other.clone().force(), &json!({"mode": "enforce"})).unwrap();
    let stored = cluster.server.ledger("node-1").unwrap();
    let managers = stored["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!((&stored["status"], &managers[1]["manager"]), (&json!({"mode": "enforce"}), &json!("other")));
    // What both say is owned by both.
    apply_status(&cluster, &agent(), &json!({"mode": "enforce", "rows": [2]})).unwrap();
    let stored = cluster.server.ledger("node-1").unwrap();
    assert_eq!(stored["metadata"]["managedFields"].as_array().unwrap().len(), 3);
    assert_eq!(stored["status"], json!({"mode": "enforce", "rows": [2]}));
}

#[test]
fn unfit_apply_is_refused() {
    let cluster = cluster();
    let stored = apply(&cluster, &ledger("node-1"));
    let version = &stored["metadata"]["resourceVersion"];
    let before = cluster.server.revision();
    let with_kind = |field: &str| with("node-1", field, "Other/v1".into());
    for (path, body, code, message) in [
        ("/node-1", ledger("node-1"), 422, "fieldManager: Required value: is required for apply patch"),
        ("/node-1?fieldManager=a", with_kind("apiVersion"), 400, "Incorrect version specified in apply patch."),
        ("/node-1?fieldManager=a", with_kind("kind"), 422, "kind: Invalid value: \"Other/v1\": must be NodeHostPorts"),
        ("/node-1?fieldManager=a", ledger("node-2"), 400, "(node-2) does not match the name on the URL (node-1)"),
        ("/node-2?fieldManager=a", with_metadata("", "name", Value::Null), 400, "name must be provided"),
        ("/N?fieldManager=a", ledger("N"), 422, "metadata.name: Invalid value: \"N\""),
        ("/node-1?fieldManager=a", with_metadata("node-1", "managedFields", json!([])), 400, "must be nil"),
        ("/node-1?fieldManager=a", with_metadata("node-1", "uid", "x"), 422, "metadata.uid: Invalid value: \"x\""),
        ("/node-2?fieldManager=a", with_metadata("node-2", "uid", "x"), 409, "uid mismatch"),
        ("/node-1?fieldManager=a", with_metadata("node-1", "resourceVersion", "1"), 409, "has been modified"),
        ("/node-1/status?fieldManager=a", with_metadata("node-1", "resourceVersion", "1"), 409, "has been modified"),
        (
            "/node-1?fieldManager=a",
            with_metadata("node-1", "labels", json!({"a": "b c"})),
            422,
            "no value for the label",
        ),
        (
            "/node-1?fieldManager=a",
            with_metadata(
                "node-1",
                "ownerReferences",
                json!([{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": ""}]),
            ),
            422,
            "metadata.ownerReferences[0].uid: Invalid value: \"\": uid must not be empty",
        ),
        ("/node-1?fieldManager=a", json!([]), 400, "error decoding YAML"),
    ] {
        let (given, words) = patch(&cluster, path, &body);
        assert!(given == code && words.contains(message), "{path} {body}: {given} {words}");
    }
    let merge = send(&cluster, "PATCH", "/node-1?fieldManager=a", "application/merge-patch+json", "{}");
    assert_eq!(merge.0, 415);
    let huge = with("node-1", "status", json!({"a": "x".repeat(3 << 20)}));
    assert_eq!(patch(&cluster, "/node-1/status?fieldManager=a", &huge).0, 413);
    assert_eq!(cluster.server.revision(), before, "a refusal changes nothing");
    let same = with_metadata("node-1", "resourceVersion", version.clone());
    assert_eq!(patch(&cluster, "/node-1?fieldManager=agent", &same).0, 200);
}

#[test]
fn created_ledger_has_no_status_yet() {
    let cluster = cluster();
    let ledgers = api(&cluster.client);
    let object: DynamicObject = serde_json::from_value(with("node-1", "status", json!({"mode": "audit"}))).unwrap();
    let stored = cluster.run(ledgers.create(&PostParams::default(), &object)).unwrap();
    assert!(stored.metadata.uid.is_some() && stored.data["status"].is_null());
    let refusal = cluster.refusal(ledgers.create(&PostParams::default(), &object));
    assert_eq!((refusal.code, refusal.reason.as_str()), (409, "AlreadyExists"));
    for (body, code) in [
        (json!({"metadata": {"name": "n"}}), 400),
        (with("n", "apiVersion", "v1".into()), 400),
        (with("n", "kind", "Node".into()), 422),
        (ledger(""), 422),
        (with_metadata("n", "resourceVersion", "7"), 500),
    ] {
        assert_eq!(send(&cluster, "POST", "", "application/json", &body.to_string()).0, code, "{body}");
    }
    assert_eq!(send(&cluster, "POST", "", "text/plain", &ledger("n").to_string()).0, 415);
}

#[test]
fn deleted_definition_takes_all_along() {
    let cluster = cluster();
    let server = &cluster.server;
    server.put_ledger(json!({"metadata": {"name": "node-1"}, "status": {"mode": "audit"}}));
    let ledgers = api(&cluster.client);
    let mut watcher = Watcher::new(ledgers.clone(), Config::default().streaming_lists());
    assert_eq!(cluster.next_event(&mut watcher, 3), ["init", "there node-1", "done"]);
    server.set_ledger_resource(false);
    assert_eq!(cluster.next_event(&mut watcher, 2), ["delete node-1", "no watch: 404"]);
    assert_eq!((server.ledgers(), server.watches(LEDGERS)), (vec![], 0));
    let refusal = cluster.refusal(ledgers.list(&ListParams::default()));
    assert_eq!((refusal.code, refusal.message.as_str()), (404, "404 page not found"));
    assert_eq!(patch(&cluster, "/node-1?fieldManager=a", &ledger("node-1")), (404, "404 page not found".to_owned()));
    server.set_ledger_resource(true);
    apply(&cluster, &ledger("node-1"));
    assert_eq!(cluster.run(ledgers.list(&ListParams::default())).unwrap().items.len(), 1);
}

#[test]
fn items_of_custom_resource_say_what_they_are() {
    let cluster = cluster();
    let stored = cluster.server.put_ledger(with("node-1", "status", json!({"mode": "audit"})));
    let request = axum::http::Request::get(PATH).body(Vec::new()).unwrap();
    let list: Value = cluster.run(cluster.client.request(request)).unwrap();
    assert_eq!((list["kind"].as_str(), &list["items"][0]), (Some("NodeHostPortsList"), &stored));
    assert_eq!(stored["kind"], "NodeHostPorts");
}

#[test]
fn size_of_write_is_recorded() {
    let cluster = cluster();
    apply(&cluster, &ledger("node-1"));
    cluster.run(api(&cluster.client).get("node-1")).unwrap();
    let sizes: Vec<_> = cluster.server.requests().iter().map(|request| request.bytes).collect();
    assert_eq!(sizes, [ledger("node-1").to_string().len(), 0]);
}
