//! The parts of a manifest that the agent's own reader of pods gets.

use serde_json::{Map, Value as Json};

use crate::{
    pods::pod::{PORTS_ANNOTATION, SHARE_ANNOTATION},
    yaml::spanned::Node,
};

/// Returns our annotations, as far as they are text. What else is there is nothing to us, valid or not.
pub(super) fn texts(annotations: Option<&Node>) -> Json {
    let ours = [PORTS_ANNOTATION, SHARE_ANNOTATION];
    let text = |name: &&str| annotations?.get(name)?.text();
    ours.iter().filter_map(|name| text(name).map(|text| ((*name).to_owned(), Json::from(text)))).collect()
}

/// Returns the part of a pod's spec that claims come from. Nothing else needs to be valid: a manifest may be of a newer
/// version than what this was built with.
pub(super) fn pod_json(spec: &Node) -> Json {
    let containers = |key: &str| -> Json {
        let items = spec.get(key).map(Node::items).unwrap_or_default();
        items.iter().map(|container| part(container, &["name", "ports", "restartPolicy"])).collect()
    };
    let mut json = part(spec, &["hostNetwork"]);
    json["containers"] = containers("containers");
    json["initContainers"] = containers("initContainers");
    json
}

pub(super) fn part(node: &Node, keys: &[&str]) -> Json {
    let entries = keys.iter().filter_map(|key| node.get(key).map(|value| ((*key).to_owned(), value.to_json())));
    Json::Object(entries.collect::<Map<_, _>>())
}
