//! JSON patches of nodes.

use axum::http::StatusCode;
use k8s_openapi::api::core::v1::Node;
use serde_json::Value;

use super::{
    admission, encode,
    resource::Resource,
    serve::Good,
    status::{self, Flaw, Refusal},
    store::{Key, Store},
};

/// Answers a PATCH.
pub(super) fn patch(store: &mut Store, name: &str, media: &str, body: &[u8]) -> Result<Good, Refusal> {
    const ACCEPTED: &str = "application/json-patch+json";
    if media != ACCEPTED {
        return Err(status::unsupported_media(ACCEPTED));
    }
    let key = Key::new(Resource::Nodes, "", name);
    let before = store.get(&key).cloned().ok_or_else(|| status::not_found(Resource::Nodes.plural(), name))?;
    let patch: json_patch::Patch =
        serde_json::from_slice(body).map_err(|error| status::bad_request(error.to_string()))?;
    let mut object = (*before).clone();
    // Among the errors is an operation `test` that fails (`applyJSONPatch` in k8s.io/apiserver).
    json_patch::patch(&mut object, &patch).map_err(|_| status::unprocessable())?;
    let invalid = |why: &str| status::invalid("Node", name, &[Flaw::invalid("patch", &object.to_string(), why)]);
    for field in ["name", "uid", "creationTimestamp"] {
        if object["metadata"][field] != before["metadata"][field] {
            return Err(invalid(&format!("metadata.{field} is immutable")));
        }
    }
    if object["metadata"]["resourceVersion"] != before["metadata"]["resourceVersion"] {
        return Err(status::conflict(Resource::Nodes.plural(), name));
    }
    let mut node: Node = serde_json::from_value(object.clone()).map_err(|error| invalid(&error.to_string()))?;
    // The status has a way of its own.
    node.status = serde_json::from_value(before["status"].clone()).map_err(|error| invalid(&error.to_string()))?;
    let node = admission::admit_node(node).map_err(|why| invalid(&why))?;
    let value: Value = (*store.put(key, encode(&node))).clone();
    Ok(Good { code: StatusCode::OK, value })
}
