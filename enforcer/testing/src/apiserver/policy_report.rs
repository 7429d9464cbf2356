//! Policy reports: the custom resources of two API groups, as their definitions have them, and server-side apply.
//!
//! The schemas are written down here as facts of `wgpolicyk8s.io/v1alpha2` and `openreports.io/v1alpha1`. Of the severities
//! the first group has those of its oldest definition, which clusters still have. The server is stricter than a real one: it
//! refuses a field that a definition does not have, where a real one drops it.

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::{
    ApiServer, admission,
    event::merge,
    put_namespace_if_missing,
    request_attributes::{Asked, Parameters},
    resource::Resource,
    serve::Good,
    shared::Inner,
    status::{self, Flaw, Refusal},
    store::Key,
    structural_schema::StructuralSchema,
};

/// Number of bytes that etcd takes in one request.
const LARGEST: usize = 1536 * 1024;

impl ApiServer {
    /// Installs the definitions of policy reports of an API group, or deletes them with all reports. There are none at the
    /// start.
    pub fn set_report_group(&self, group: &str, installed: bool) {
        let resources = Resource::REPORTS.into_iter().filter(|resource| resource.group() == group);
        assert!(resources.clone().next().is_some(), "{group} has no policy reports");
        self.shared.update(|inner| {
            if installed {
                inner.report_groups.insert(group.to_owned());
                return;
            }
            inner.report_groups.remove(group);
            for resource in resources {
                let keys: Vec<Key> =
                    inner.store.now().range(resource, None, None).map(|(key, _)| key.clone()).collect();
                for key in &keys {
                    inner.store.remove(key);
                }
            }
        });
    }

    /// Returns all policy reports, by kind, namespace and name.
    pub fn policy_reports(&self) -> Vec<Value> {
        let inner = self.shared.lock();
        let now = inner.store.now();
        let objects = Resource::REPORTS.into_iter().flat_map(|resource| now.range(resource, None, None));
        objects.map(|(_, report)| (**report).clone()).collect()
    }

    /// Stores a policy report of somebody else. Its namespace is created if there is none.
    pub fn put_policy_report(&self, report: Value) {
        let of = |resource: &Resource| report["kind"] == resource.kind();
        let resource = Resource::REPORTS.into_iter().find(of).unwrap_or_else(|| panic!("no policy report: {report}"));
        let text = |key: &str| report["metadata"][key].as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (text("namespace"), text("name"));
        self.shared.update(|inner| {
            assert!(inner.serves(resource), "a report needs its definition");
            if resource.is_namespaced() {
                put_namespace_if_missing(&mut inner.store, &namespace);
            }
            inner.store.put(Key::new(resource, &namespace, &name), report);
        });
    }

    /// Returns why the server would not create a policy report; `None` if it would.
    pub fn refusal_of_policy_report(&self, namespace: &str, report: &Value) -> Option<String> {
        let of = |resource: &Resource| report["kind"] == resource.kind();
        let resource = Resource::REPORTS.into_iter().find(of).unwrap_or_else(|| panic!("no policy report: {report}"));
        let body = report.to_string();
        let mut inner = self.shared.lock();
        let refusal = create(&mut inner, resource, namespace, "application/json", body.as_bytes()).err()?;
        drop(inner);
        refusal.message
    }
}

/// Returns the schema of a report.
fn schema(resource: Resource) -> StructuralSchema {
    let text = || json!({ "type": "string" });
    let map = || json!({ "type": "object", "additionalProperties": { "type": "string" } });
    let reference = || {
        let names = ["apiVersion", "fieldPath", "kind", "name", "namespace", "resourceVersion", "uid"];
        let fields: serde_json::Map<_, _> = names.into_iter().map(|name| (name.to_owned(), text())).collect();
        json!({ "type": "object", "properties": fields })
    };
    let selector = json!({ "type": "object", "properties": { "matchLabels": map() } });
    let severities: &[&str] = match resource {
        Resource::PolicyReports | Resource::ClusterPolicyReports => &["high", "low", "medium"],
        _ => &["critical", "high", "low", "medium", "info"],
    };
    let mut properties = json!({
        "scope": reference(),
        "scopeSelector": selector.clone(),
        "summary": { "type": "object", "properties": {
            "pass": { "type": "integer" }, "fail": { "type": "integer" }, "warn": { "type": "integer" },
            "error": { "type": "integer" }, "skip": { "type": "integer" },
        } },
        "results": { "type": "array", "items": { "type": "object", "required": ["policy"], "properties": {
            "source": text(), "policy": text(), "rule": text(), "category": text(), "message": text(),
            "severity": { "type": "string", "enum": severities },
            "result": { "type": "string", "enum": ["pass", "fail", "warn", "error", "skip"] },
            "scored": { "type": "boolean" },
            "timestamp": { "type": "object", "required": ["nanos", "seconds"], "properties": {
                "seconds": { "type": "integer", "format": "int64" }, "nanos": { "type": "integer", "format": "int32" },
            } },
            "resources": { "type": "array", "items": reference() },
            "resourceSelector": selector,
            "properties": map(),
        } } },
    });
    if resource.group() == "openreports.io" {
        properties["source"] = text();
        properties["configuration"] = json!({ "type": "object", "required": ["limits"], "properties": { "limits": {
            "type": "object", "properties": {
                "maxResults": { "type": "integer" }, "statusFilter": { "type": "array", "items": text() },
            },
        } } });
    }
    let schema = StructuralSchema::parse(&json!({ "type": "object", "properties": properties }));
    schema.unwrap_or_else(|error| panic!("the schema of {}: {error}", resource.plural()))
}

/// Answers what is not a read.
pub(super) fn write(
    inner: &mut Inner,
    resource: Resource,
    verb: &str,
    asked: &Asked,
    parameters: &Parameters,
    media: &str,
    body: &[u8],
) -> Result<Good, Refusal> {
    let namespace = asked.namespace.as_deref().unwrap_or_default();
    if resource.is_namespaced() && inner.store.get(&Key::namespace(namespace)).is_none() && verb == "create" {
        return Err(status::not_found("namespaces", namespace));
    }
    let name = asked.name.as_deref().unwrap_or_default();
    match verb {
        "create" => create(inner, resource, namespace, media, body),
        "patch" => apply(inner, &Key::new(resource, namespace, name), parameters, media, body),
        _ => delete(inner, &Key::new(resource, namespace, name), body),
    }
}

/// Checks an object as it would be stored.
fn check(resource: Resource, object: &Value) -> Result<(), Refusal> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let schema = schema(resource);
    let untyped = schema.untyped(object);
    if !untyped.is_empty() {
        return Err(status::bad_request(format!("strict decoding error: {}", untyped.join(", "))));
    }
    let mut flaws = schema.flaws(object);
    for (field, wanted) in [("kind", resource.kind()), ("apiVersion", resource.api_version())] {
        let given = object[field].as_str().unwrap_or_default();
        if given != wanted {
            flaws.push(Flaw::invalid(field, given, &format!("must be {wanted}")));
        }
    }
    if !admission::is_subdomain(name) {
        flaws.push(Flaw::invalid("metadata.name", name, "a lowercase RFC 1123 subdomain"));
    }
    let metadata = serde_json::from_value(object["metadata"].clone());
    let metadata = metadata.map_err(|error| status::bad_request(error.to_string()))?;
    if let Err(why) = admission::check_metadata(&metadata) {
        flaws.push(Flaw::invalid("metadata", name, &why));
    }
    if object.to_string().len() > LARGEST {
        return Err(status::too_large());
    }
    if flaws.is_empty() { Ok(()) } else { Err(status::invalid(resource.kind(), name, &flaws)) }
}

fn parse(body: &[u8]) -> Result<Value, Refusal> {
    serde_json::from_slice(body).map_err(|error| status::bad_request(error.to_string()))
}

fn create(inner: &mut Inner, resource: Resource, namespace: &str, media: &str, body: &[u8]) -> Result<Good, Refusal> {
    if media != "application/json" {
        return Err(status::unsupported_media("application/json"));
    }
    let mut object = parse(body)?;
    check(resource, &object)?;
    if resource.is_namespaced() {
        match object["metadata"]["namespace"].as_str() {
            None => object["metadata"]["namespace"] = namespace.into(),
            Some(given) if given == namespace => {}
            Some(_) => {
                let why = "the namespace of the provided object does not match the namespace sent on the request";
                return Err(status::bad_request(why));
            }
        }
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let key = Key::new(resource, namespace, &name);
    if inner.store.get(&key).is_some() {
        return Err(status::already_exists(resource.qualified(), &name));
    }
    Ok(Good { code: StatusCode::CREATED, value: (*inner.store.put(key, object)).clone() })
}

/// Applies. Simplified: all fields are taken as the manager's own, and whoever else owns one is asked for `force`.
fn apply(inner: &mut Inner, key: &Key, parameters: &Parameters, media: &str, body: &[u8]) -> Result<Good, Refusal> {
    const APPLY: &str = "application/apply-patch+yaml";
    if media != APPLY {
        return Err(status::unsupported_media(APPLY));
    }
    if parameters.text("fieldManager").is_empty() {
        let flaw = Flaw::required_since("fieldManager", "is required for apply patch");
        return Err(status::invalid("PatchOptions.meta.k8s.io", "", &[flaw]));
    }
    let patch = parse(body)?;
    let before = inner.store.get(key).cloned();
    let uid = patch["metadata"]["uid"].as_str();
    let Some(before) = before else {
        // A real server would create it; with a UID it cannot.
        let why = "uid mismatch: no existing object was found";
        return Err(status::conflict_since(key.resource.qualified(), &key.name, why));
    };
    if uid.is_some_and(|uid| before["metadata"]["uid"] != uid) {
        let flaw = Flaw::invalid("metadata.uid", uid.unwrap_or_default(), "field is immutable");
        return Err(status::invalid(key.resource.kind(), &key.name, &[flaw]));
    }
    // What was created by POST is another operation's.
    if parameters.flag("force") != Some(true) && before["results"] != patch["results"] {
        let fields = [".results".to_owned()];
        return Err(status::apply_conflict("port-enforcer", &fields));
    }
    let mut object = (*before).clone();
    for field in ["scope", "summary", "results", "source"] {
        if !patch[field].is_null() {
            object[field] = patch[field].clone();
        }
    }
    merge(&mut object["metadata"]["labels"], &patch["metadata"]["labels"]);
    check(key.resource, &object)?;
    Ok(Good { code: StatusCode::OK, value: (*inner.store.put(key.clone(), object)).clone() })
}

fn delete(inner: &mut Inner, key: &Key, body: &[u8]) -> Result<Good, Refusal> {
    let Some(before) = inner.store.get(key).cloned() else {
        return Err(status::not_found(key.resource.qualified(), &key.name));
    };
    let options = if body.is_empty() { json!({}) } else { parse(body)? };
    if let Some(uid) = options["preconditions"]["uid"].as_str()
        && before["metadata"]["uid"] != uid
    {
        let why = "Precondition failed: UID in precondition does not match";
        return Err(status::conflict_since(key.resource.qualified(), &key.name, why));
    }
    inner.store.remove(key);
    Ok(Good { code: StatusCode::OK, value: json!({ "kind": "Status", "apiVersion": "v1", "status": "Success" }) })
}
