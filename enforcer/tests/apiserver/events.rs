//! Events: what is taken, and what is refused.

use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
    core::Status,
    runtime::events::{Event as Told, EventType, Recorder, Reporter},
};
use serde_json::{Value, json};

use enforcer_testing::apiserver::Target;

use crate::server_and_client::{Cluster, namespace, pod};

const EVENTS: Target = Target::ALL.resource("events");

pub(crate) fn event(name: &str) -> Event {
    Event {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some("default".to_owned()),
            ..ObjectMeta::default()
        },
        action: Some("Bind".to_owned()),
        reason: Some("PortBindDenied".to_owned()),
        event_time: Some(MicroTime(Timestamp::now())),
        note: Some("a note".to_owned()),
        type_: Some("Warning".to_owned()),
        reporting_controller: Some("port-enforcer.io/agent".to_owned()),
        reporting_instance: Some("agent-1".to_owned()),
        regarding: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            name: Some("nginx".to_owned()),
            namespace: Some("default".to_owned()),
            ..ObjectReference::default()
        }),
        ..Event::default()
    }
}

/// Sends any body, as the type of body that it is said to be.
fn send(cluster: &Cluster, method: &str, path: &str, media: &str, body: &Value) -> kube::Result<Value> {
    let uri = format!("/apis/events.k8s.io/v1/namespaces/default/events{path}");
    let request = axum::http::Request::builder().method(method).uri(uri).header("Content-Type", media);
    cluster.run(cluster.client.request(request.body(serde_json::to_vec(body).unwrap()).unwrap()))
}

fn post(cluster: &Cluster, body: &Value) -> Box<Status> {
    match send(cluster, "POST", "", "application/json", body) {
        Err(kube::Error::Api(status)) => status,
        other => panic!("a refusal, not {other:?}"),
    }
}

#[test]
fn recorder_creates_event_and_counts_series() {
    let cluster = Cluster::start();
    let regarding = kube::Resource::object_ref(&cluster.server.put_pod(pod("nginx", "node-1")), &());
    let instance = Some("agent-1".to_owned());
    let reporter = Reporter { controller: "port-enforcer.io/agent".to_owned(), instance };
    let recorder = Recorder::new(cluster.client.clone(), reporter);
    let told = Told {
        type_: EventType::Warning,
        reason: "PortBindDenied".to_owned(),
        note: Some("bind 0.0.0.0:80/tcp denied".to_owned()),
        action: "Bind".to_owned(),
        secondary: None,
    };
    for _ in 0..3 {
        cluster.run(recorder.publish(&told, &regarding)).unwrap();
    }
    let event = cluster.server.wait_for_event("the third", |event| event.series.as_ref().is_some_and(|s| s.count == 3));
    assert_eq!(event.note, told.note);
    assert!(event.metadata.uid.is_some() && event.metadata.creation_timestamp.is_some());
    assert_eq!(cluster.server.events().len(), 1);
    cluster.server.wait_for_requests(EVENTS.verb("create"), 1);
    assert_eq!(cluster.server.count(EVENTS.verb("patch")), 2);
    let patch = cluster.server.requests().pop().unwrap();
    assert_eq!((patch.group.as_str(), patch.namespace.as_deref()), ("events.k8s.io", Some("default")));
    assert_eq!(patch.name, event.metadata.name);

    // Events expire.
    cluster.server.delete_event("default", &event.metadata.name.unwrap());
    let Err(kube::Error::Api(status)) = cluster.run(recorder.publish(&told, &regarding)) else { panic!("a refusal") };
    assert_eq!((status.code, status.reason.as_str()), (404, "NotFound"));
}

#[test]
fn invalid_field_is_named() {
    let cluster = Cluster::start();
    let cases: [(&str, &str, Value); 21] = [
        ("/note", "message", "é".repeat(513).into()),
        ("/action", "action", Value::Null),
        ("/action", "action", "x".repeat(129).into()),
        ("/reason", "reason", "".into()),
        ("/reason", "reason", "x".repeat(129).into()),
        ("/reportingController", "reportingController", Value::Null),
        ("/reportingController", "reportingController", "two words".into()),
        ("/reportingInstance", "reportingInstance", Value::Null),
        ("/reportingInstance", "reportingInstance", "x".repeat(129).into()),
        ("/eventTime", "eventTime", Value::Null),
        ("/type", "type", "Error".into()),
        ("/type", "type", Value::Null),
        ("/regarding/namespace", "involvedObject.namespace", "other".into()),
        ("/series", "series.count", json!({"count": 1, "lastObservedTime": "2026-01-02T03:04:05.000000Z"})),
        ("/metadata/name", "metadata.name", "Upper".into()),
        ("/metadata/name", "metadata.name", Value::Null),
        ("/deprecatedCount", "count", 1.into()),
        ("/deprecatedFirstTimestamp", "firstTimestamp", "2026-01-02T03:04:05Z".into()),
        ("/deprecatedLastTimestamp", "lastTimestamp", "2026-01-02T03:04:05Z".into()),
        ("/deprecatedSource", "source", json!({"host": "node-1"})),
        ("/note", "message", "x".repeat(1025).into()),
    ];
    for (pointer, field, value) in cases {
        let mut body = serde_json::to_value(event("e")).unwrap();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        body.pointer_mut(parent).unwrap()[name] = value.clone();
        let status = post(&cluster, &body);
        assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"), "{pointer}: {value}");
        let fields: Vec<_> = status.details.unwrap().causes.into_iter().map(|cause| cause.field).collect();
        assert_eq!(fields, [field], "{pointer}: {value}");
    }
    assert_eq!(cluster.server.events(), []);

    let mut widest = event("e");
    widest.note = Some("é".repeat(512));
    widest.action = Some("x".repeat(128));
    let api: Api<Event> = Api::namespaced(cluster.client.clone(), "default");
    let stored = cluster.run(api.create(&PostParams::default(), &widest)).unwrap();
    assert_eq!(stored.note, widest.note);
}

#[test]
fn unreadable_body_is_a_bad_request() {
    let cluster = Cluster::start();
    for (pointer, value) in [
        ("/eventTime", json!("2026-01-02T03:04:05Z")),
        ("/eventTime", json!("2026-01-02T03:04:05.123Z")),
        ("/eventTime", json!("2026-01-02T03:04:05.123456789Z")),
        ("/note", json!(7)),
        ("/kind", json!("Pod")),
        ("/apiVersion", json!("v1")),
        ("/metadata/namespace", json!("other")),
    ] {
        let mut body = serde_json::to_value(event("e")).unwrap();
        *body.pointer_mut(pointer).unwrap() = value.clone();
        let status = post(&cluster, &body);
        assert_eq!((status.code, status.reason.as_str()), (400, "BadRequest"), "{pointer}: {value}");
    }
    let body = serde_json::to_value(event("e")).unwrap();
    let refused = send(&cluster, "POST", "", "application/yaml", &body).unwrap_err();
    assert!(matches!(refused, kube::Error::Api(status) if status.code == 415));
    let mut huge = body;
    huge["note"] = "x".repeat(4 << 20).into();
    assert_eq!(post(&cluster, &huge).code, 413);
    // A server takes the group and the kind from the path, and drops what it does not know.
    let mut loose = serde_json::to_value(event("e")).unwrap();
    loose["unknown"] = 1.into();
    loose.as_object_mut().unwrap().retain(|name, _| name != "kind" && name != "apiVersion");
    let stored = send(&cluster, "POST", "", "application/json", &loose).unwrap();
    assert_eq!((stored["kind"].as_str(), &stored["unknown"]), (Some("Event"), &Value::Null));
}

#[test]
fn event_namespace_must_match_its_object() {
    let cluster = Cluster::start();
    let create = |namespace: &str, event: Event| {
        let api: Api<Event> = Api::namespaced(cluster.client.clone(), namespace);
        async move { api.create(&PostParams::default(), &event).await }
    };
    let mut of_node = event("of-node");
    let regarding = of_node.regarding.as_mut().unwrap();
    (regarding.kind, regarding.namespace) = (Some("Node".to_owned()), None);
    cluster.run(create("default", of_node.clone())).unwrap();
    cluster.server.put_namespace(namespace("web", None));
    of_node.metadata.namespace = None;
    assert_eq!(cluster.refusal(create("web", of_node.clone())).code, 422);
    assert_eq!(cluster.refusal(create("nowhere", of_node)).code, 404);
    let refusal = cluster.refusal(create("default", event("of-node")));
    assert_eq!((refusal.code, refusal.reason.as_str()), (409, "AlreadyExists"));

    let mut ending = namespace("web", None);
    ending.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::now()));
    cluster.server.put_namespace(ending);
    let mut late = event("late");
    late.metadata.namespace = Some("web".to_owned());
    late.regarding.as_mut().unwrap().namespace = Some("web".to_owned());
    assert_eq!(cluster.refusal(create("web", late)).code, 403);

    let mut generated = event("");
    (generated.metadata.name, generated.metadata.generate_name) = (None, Some("nginx.".to_owned()));
    let stored = cluster.run(create("default", generated)).unwrap();
    assert!(stored.metadata.name.unwrap().starts_with("nginx."));
    let names: Vec<_> = cluster.server.events().into_iter().map(|event| event.metadata.name.unwrap()).collect();
    assert!(names[0] == "of-node" && names.len() == 2, "{names:?}");
    cluster.server.delete_namespace("web");
}

#[test]
fn only_event_series_can_be_patched() {
    const MERGE: &str = "application/merge-patch+json";
    const STRATEGIC: &str = "application/strategic-merge-patch+json";
    let cluster = Cluster::start();
    let api: Api<Event> = Api::namespaced(cluster.client.clone(), "default");
    let created = cluster.run(api.create(&PostParams::default(), &event("e"))).unwrap();
    let series = |count: i32| json!({"series": {"count": count, "lastObservedTime": MicroTime(Timestamp::now())}});
    let patch = |media: &str, body: &Value| match send(&cluster, "PATCH", "/e", media, body) {
        Ok(stored) => Ok(stored["series"]["count"].as_i64()),
        Err(kube::Error::Api(status)) => Err(status.code),
        Err(error) => panic!("{error}"),
    };
    assert_eq!(patch(MERGE, &series(1)), Err(422));
    assert_eq!(patch(MERGE, &series(2)), Ok(Some(2)));
    assert_eq!(patch(STRATEGIC, &series(3)), Ok(Some(3)));
    assert_eq!(patch(MERGE, &json!({"metadata": {"labels": {"a": "b"}}})), Ok(Some(3)));
    for body in [
        json!({"note": "other"}),
        json!({"note": null}),
        json!({"reason": "Other"}),
        json!({"type": "Normal"}),
        json!({"action": "Other"}),
        json!({"eventTime": "2026-01-02T03:04:05.000000Z"}),
        json!({"regarding": {"uid": "1"}}),
        json!({"related": {"name": "other"}}),
        json!({"reportingInstance": "agent-2"}),
        json!({"metadata": {"uid": "1"}}),
        json!({"note": 7}),
    ] {
        assert_eq!(patch(MERGE, &body), Err(422), "{body}");
    }
    assert_eq!(patch(MERGE, &json!({"metadata": {"name": "f"}})), Err(400));
    assert_eq!(patch(MERGE, &json!([])), Err(400));
    assert_eq!(patch(STRATEGIC, &json!({"$patch": "replace"})), Err(400));
    assert_eq!(patch("application/json-patch+json", &json!([])), Err(415));
    let stale = json!({"metadata": {"resourceVersion": created.metadata.resource_version}});
    assert_eq!(patch(MERGE, &stale), Err(409));
    let (how, what) = (PatchParams::default(), Patch::Merge(series(2)));
    let refusal = cluster.refusal(api.patch("unknown", &how, &what));
    assert_eq!((refusal.code, refusal.message.as_str()), (404, "events \"unknown\" not found"));
    assert_eq!(cluster.server.events().len(), 1);
}
