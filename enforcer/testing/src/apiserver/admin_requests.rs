//! What an administrator may do and the agent may not: make, edit and delete pods, set their status, label namespaces,
//! delete Events.

use axum::http::StatusCode;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    admission, decode, encode, event, put_namespace,
    request_attributes::Asked,
    resource::Resource,
    serve::Good,
    status::{self, Flaw, Refusal},
    store::{Key, Store},
};

/// Does what is asked for; `None` if that is not one of these.
pub(super) fn answer(store: &mut Store, asked: &Asked, media: &str, body: &[u8]) -> Option<Result<Good, Refusal>> {
    let name = asked.name.as_deref().unwrap_or_default();
    let pod = |name| Key::new(Resource::Pods, asked.namespace.as_deref().unwrap_or_default(), name);
    if (asked.group.as_str(), asked.verb.as_str(), asked.resource.as_str()) == ("events.k8s.io", "delete", "events") {
        return Some(delete_event(store, asked));
    }
    if !asked.group.is_empty() || asked.version != "v1" {
        return None;
    }
    let done = match (asked.verb.as_str(), asked.resource.as_str()) {
        ("create", "pods") => create_pod(store, asked, body),
        ("update", "pods") => update_pod(store, &pod(name), body),
        ("patch", "pods/status") => patch_status(store, &pod(name), media, body),
        ("delete", "pods") => delete_pod(store, &pod(name), body),
        ("create", "namespaces") => create_namespace(store, body),
        ("patch", "namespaces") => patch_namespace(store, name, media, body),
        _ => return None,
    };
    Some(done)
}

fn good(value: Value) -> Good {
    Good { code: StatusCode::OK, value }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| status::bad_request(error.to_string()))
}

fn found(store: &Store, key: &Key) -> Result<Value, Refusal> {
    store.get(key).map(|object| (**object).clone()).ok_or_else(|| status::not_found(key.resource.plural(), &key.name))
}

fn admit(pod: Pod, before: Option<&Value>) -> Result<Value, Refusal> {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let admitted = admission::admit_pod(pod, before);
    admitted.map(|pod| encode(&pod)).map_err(|why| status::invalid("Pod", &name, &[Flaw::invalid("", &name, &why)]))
}

fn create_pod(store: &mut Store, asked: &Asked, body: &[u8]) -> Result<Good, Refusal> {
    let mut pod: Pod = parse(body)?;
    // The server's own to give, whatever was sent.
    (pod.metadata.uid, pod.metadata.creation_timestamp, pod.status) = (None, None, None);
    (pod.metadata.deletion_timestamp, pod.metadata.deletion_grace_period_seconds) = (None, None);
    pod.metadata.namespace.clone_from(&asked.namespace);
    let namespace = asked.namespace.clone().unwrap_or_default();
    let name = pod.metadata.name.clone().unwrap_or_default();
    found(store, &Key::namespace(&namespace))?;
    let key = Key::new(Resource::Pods, &namespace, &name);
    if store.get(&key).is_some() {
        return Err(status::already_exists("pods", &name));
    }
    let pod = admit(pod, None)?;
    Ok(Good { code: StatusCode::CREATED, value: (*store.put(key, pod)).clone() })
}

fn update_pod(store: &mut Store, key: &Key, body: &[u8]) -> Result<Good, Refusal> {
    let before = found(store, key)?;
    let sent: Value = parse(body)?;
    if !sent["metadata"]["resourceVersion"].is_null()
        && sent["metadata"]["resourceVersion"] != before["metadata"]["resourceVersion"]
    {
        return Err(status::conflict("pods", &key.name));
    }
    if sent["spec"] != before["spec"] {
        let why = "the test server lets nothing of it be edited";
        return Err(status::invalid("Pod", &key.name, &[Flaw::forbidden("spec", why)]));
    }
    let mut pod: Pod = parse(body)?;
    // The status has a way of its own.
    pod.status = decode::<Pod>(&before).status;
    let pod = admit(pod, Some(&before))?;
    Ok(good((*store.put(key.clone(), pod)).clone()))
}

fn patched(store: &Store, key: &Key, media: &str, body: &[u8], part: &str) -> Result<Value, Refusal> {
    const MERGE: &str = "application/merge-patch+json";
    if media != MERGE {
        return Err(status::unsupported_media(MERGE));
    }
    let mut object = found(store, key)?;
    let patch: Value = parse(body)?;
    // Of the rest of the patch nothing counts.
    event::merge(&mut object, &json!({ part: patch[part] }));
    Ok(object)
}

fn patch_status(store: &mut Store, key: &Key, media: &str, body: &[u8]) -> Result<Good, Refusal> {
    let object = patched(store, key, media, body, "status")?;
    let pod = serde_json::from_value(object).map_err(|error| status::bad_request(error.to_string()))?;
    let pod = admit(pod, store.get(key).map(|before| &**before))?;
    Ok(good((*store.put(key.clone(), pod)).clone()))
}

fn delete_pod(store: &mut Store, key: &Key, body: &[u8]) -> Result<Good, Refusal> {
    let object = found(store, key)?;
    let options: Value = if body.is_empty() { json!({}) } else { parse(body)? };
    // A pod that is on no node, or that has ended, goes at once (`CheckGracefulDelete` in pkg/registry/core/pod).
    let at_once = object["spec"]["nodeName"].is_null()
        || matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    let grace = options["gracePeriodSeconds"].as_u64().unwrap_or(30);
    if at_once || grace == 0 {
        store.remove(key);
        return Ok(good(object));
    }
    Ok(good((*store.ask_to_go(key.clone(), grace)).clone()))
}

fn delete_event(store: &mut Store, asked: &Asked) -> Result<Good, Refusal> {
    let (namespace, name) = (asked.namespace.as_deref(), asked.name.as_deref());
    let key = Key::new(Resource::Events, namespace.unwrap_or_default(), name.unwrap_or_default());
    let object = found(store, &key)?;
    store.remove(&key);
    Ok(good(object))
}

fn create_namespace(store: &mut Store, body: &[u8]) -> Result<Good, Refusal> {
    let namespace: Namespace = parse(body)?;
    let name = namespace.metadata.name.clone().unwrap_or_default();
    if store.get(&Key::namespace(&name)).is_some() {
        return Err(status::already_exists("namespaces", &name));
    }
    Ok(Good { code: StatusCode::CREATED, value: encode(&put_namespace(store, namespace)) })
}

fn patch_namespace(store: &mut Store, name: &str, media: &str, body: &[u8]) -> Result<Good, Refusal> {
    let object = patched(store, &Key::namespace(name), media, body, "metadata")?;
    let namespace = serde_json::from_value(object).map_err(|error| status::bad_request(error.to_string()))?;
    Ok(good(encode(&put_namespace(store, namespace))))
}
