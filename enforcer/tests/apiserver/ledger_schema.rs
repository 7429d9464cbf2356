//! What the schema of a custom resource drops and refuses.

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::{
    ledgers::{api, cluster, ledger, with},
    server_and_client::Cluster,
};

fn schema() -> Value {
    json!({
        "type": "object",
        "description": "As a file has it.",
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": {"type": "object", "required": ["mode"], "properties": {
                "mode": {"type": "string", "enum": ["audit", "enforce"]},
                "name": {"type": "string", "minLength": 2, "maxLength": 5},
                "count": {"type": "integer", "format": "int32", "minimum": 1, "maximum": 65535},
                "share": {"type": "number"},
                "held": {"type": "boolean"},
                "since": {"type": "string", "nullable": true},
                "port": {"x-kubernetes-int-or-string": true},
                "labels": {"type": "object", "maxProperties": 2, "additionalProperties": {"type": "string"}},
                "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                "names": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
                "rows": {"type": "array", "minItems": 1, "maxItems": 2, "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["port"],
                    "items": {"type": "object", "required": ["port"], "properties": {
                        "port": {"type": "integer", "minimum": 1},
                    }}},
            }},
            "status": {"type": "object", "properties": {"mode": {"type": "string", "maxLength": 5}}},
        },
    })
}

fn with_schema() -> Cluster {
    let cluster = cluster();
    cluster.server.set_ledger_schema(Some(&schema()));
    cluster
}

fn post(cluster: &Cluster, object: &Value) -> kube::Result<Value> {
    let request = axum::http::Request::post("/apis/port-enforcer.io/v1alpha1/nodehostports");
    let request = request.header("Content-Type", "application/json").body(object.to_string().into_bytes()).unwrap();
    cluster.run(cluster.client.request(request))
}

fn spec(field: &str, value: Value) -> Value {
    let mut spec = json!({"mode": "audit"});
    spec[field] = value;
    spec
}

#[test]
fn violations_are_named_with_their_paths() {
    let cluster = with_schema();
    for (spec, message) in [
        (json!({}), "spec.mode: Required value"),
        (json!([]), "spec: Invalid value: \"array\": spec in body must be of type object: \"array\""),
        (spec("mode", "off".into()), "spec.mode: Unsupported value: \"off\": supported values: \"audit\", \"enforce\""),
        (spec("name", "abcdef".into()), "spec.name: Too long: may not be more than 5 bytes"),
        (
            spec("name", "é".into()),
            "spec.name: Invalid value: \"é\": spec.name in body should be at least 2 chars long",
        ),
        (
            spec("count", 0.into()),
            "spec.count: Invalid value: 0: spec.count in body should be greater than or equal to 1",
        ),
        (
            spec("count", 65536.into()),
            "spec.count: Invalid value: 65536: spec.count in body should be less than or equal to 65535",
        ),
        (
            spec("count", 1.5.into()),
            "spec.count: Invalid value: \"number\": spec.count in body must be of type integer: \"number\"",
        ),
        (
            spec("held", "yes".into()),
            "spec.held: Invalid value: \"string\": spec.held in body must be of type boolean: \"string\"",
        ),
        (
            spec("name", Value::Null),
            "spec.name: Invalid value: \"null\": spec.name in body must be of type string: \"null\"",
        ),
        (
            spec("port", true.into()),
            "spec.port: Invalid value: \"boolean\": spec.port in body must be of type integer,string: \"boolean\"",
        ),
        (
            spec("labels", json!({"a": 1})),
            "spec.labels.a: Invalid value: \"integer\": spec.labels.a in body must be of type string: \"integer\"",
        ),
        (spec("labels", json!({"a": "", "b": "", "c": ""})), "spec.labels: Too many: 3: must have at most 2 items"),
        (spec("names", json!(["a", "a"])), "spec.names[1]: Duplicate value: \"a\""),
        (spec("rows", json!([])), "spec.rows: Invalid value: 0: spec.rows in body should have at least 1 items"),
        (
            spec("rows", json!([{"port": 1}, {"port": 2}, {"port": 3}])),
            "spec.rows: Too many: 3: must have at most 2 items",
        ),
        (spec("rows", json!([{"port": 1}, {}])), "spec.rows[1].port: Required value"),
        (spec("rows", json!([{"port": 1}, {"port": 1}])), "spec.rows[1]: Duplicate value: {\"port\":1}"),
        (
            json!({"count": 0}),
            "[spec.mode: Required value, spec.count: Invalid value: 0: spec.count in body should be greater than or \
             equal to 1]",
        ),
    ] {
        let Err(kube::Error::Api(status)) = post(&cluster, &with("n", "spec", spec.clone())) else {
            panic!("{spec} is taken")
        };
        let wanted = format!("NodeHostPorts.port-enforcer.io \"n\" is invalid: {message}");
        assert_eq!((status.code, status.reason.as_str(), status.message), (422, "Invalid", wanted), "{spec}");
        assert_eq!(status.details.unwrap().group, "port-enforcer.io");
    }
    assert_eq!(cluster.server.ledgers(), Vec::<Value>::new());
}

#[test]
fn fitting_object_is_stored_without_what_is_unknown() {
    let cluster = with_schema();
    let fitting = json!({
        "mode": "audit", "name": "ééééé", "count": 65535, "share": 2, "held": true, "since": null, "port": "http",
        "labels": {"a": ""}, "any": {"x": [1]}, "names": ["a", "b"], "rows": [{"port": 1}, {"port": 2}],
    });
    let mut object = with("n", "spec", fitting.clone());
    (object["spec"]["unknown"], object["spec"]["rows"][0]["unknown"]) = (1.into(), 1.into());
    object["unknown"] = 1.into();
    object["metadata"]["labels"] = json!({"a": "b"});
    let stored = post(&cluster, &object).unwrap();
    assert_eq!((&stored["spec"], &stored["metadata"]["labels"]["a"]), (&fitting, &json!("b")));
    assert!(stored.get("unknown").is_none());
}

#[test]
fn apply_is_held_to_the_schema() {
    let cluster = with_schema();
    let ledgers = api(&cluster.client);
    let how = PatchParams::apply("agent");
    let apply = |patch: Value| cluster.refusal(ledgers.patch("n", &how, &Patch::Apply(patch)));
    let undeclared = apply(with("n", "spec", json!({"mode": "audit", "unknown": 1, "rows": [{"port": "80"}, {}]})));
    let words = "failed to create typed patch object (/n; port-enforcer.io/v1alpha1, Kind=NodeHostPorts): errors:\n  \
                 .spec.rows[0].port: expected numeric (int or float), got string\n  \
                 .spec.rows: element 1: associative list with keys has an element that omits key field \"port\"\n  \
                 .spec.unknown: field not declared in schema";
    assert_eq!((undeclared.code, undeclared.reason.as_str(), undeclared.message.as_str()), (500, "", words));
    assert_eq!(apply(with("n", "spec", json!({"mode": "off"}))).code, 422);

    cluster.run(ledgers.patch("n", &how, &Patch::Apply(ledger("n")))).unwrap();
    let status = |mode: &str| Patch::Apply(with("n", "status", json!({"mode": mode})));
    let refusal = cluster.refusal(ledgers.patch_status("n", &how, &status("enforce")));
    assert!(refusal.message.ends_with("status.mode: Too long: may not be more than 5 bytes"), "{}", refusal.message);
    cluster.run(ledgers.patch_status("n", &how, &status("audit"))).unwrap();
}

#[test]
fn shipped_definition_is_read() {
    let cluster = Cluster::start();
    let stored = post(&cluster, &ledger("n")).unwrap();
    assert_eq!(stored["metadata"]["generation"], 1);
}

#[test]
#[should_panic(expected = "openAPIV3Schema.properties[spec]: the test server does not know the keyword oneOf")]
fn unknown_keyword_is_an_error() {
    let mut schema = schema();
    schema["properties"]["spec"]["oneOf"] = json!([]);
    cluster().server.set_ledger_schema(Some(&schema));
}
