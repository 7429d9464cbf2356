//! Documents that are no manifests, or manifests of kinds that nobody here knows.

use std::collections::BTreeMap;

use super::{Location, MAX_NAME, kinds::group};
use crate::{
    model::{namespace_label::NamespaceLabel, text::escape_bounded},
    yaml::spanned::{Node, Value},
};

/// Most kinds that are counted one by one.
const MAX_KINDS: usize = 1_000;
/// Longest API version or kind that is shown, in characters.
const MAX_SHOWN: usize = 128;
/// Deepest level of a document on which a pod template is looked for.
const MAX_TEMPLATE_DEPTH: usize = 32;
/// Kinds of Kubernetes that have a pod template and make no pods.
const WITHOUT_PODS: [&str; 2] = ["PodTemplate", "ControllerRevision"];
/// Keys that only a kustomization has.
const KUSTOMIZATION_KEYS: [&str; 10] = [
    "bases",
    "components",
    "configMapGenerator",
    "generators",
    "namePrefix",
    "patches",
    "patchesJson6902",
    "patchesStrategicMerge",
    "resources",
    "secretGenerator",
];

/// Note about a part of the input that is not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// Place of the part.
    pub place: Location,
    /// Description of the part. Safe to show.
    pub message: String,
    /// The remedy. Safe to show.
    pub remedy: String,
}

/// Objects of one kind that is not of Kubernetes, or makes no pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherKind {
    /// Count of the objects.
    pub count: usize,
    /// Count of those with a pod template.
    pub with_template: usize,
    /// Count of those whose pod template is compared with the others.
    pub compared: usize,
    /// Place of the first one with a pod template; else of the first one.
    pub place: Location,
}

/// Other kinds by API version and kind, safe to show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OtherKinds {
    /// The kinds.
    pub kinds: BTreeMap<(String, String), OtherKind>,
}

impl OtherKinds {
    /// Counts an object. Kinds beyond a bound are left out.
    pub(super) fn add(&mut self, version: &str, kind: &str, with_template: bool, compared: bool, place: Location) {
        let key = (escape_bounded(version, MAX_SHOWN), escape_bounded(kind, MAX_SHOWN));
        let one = OtherKind { count: 1, with_template: with_template.into(), compared: compared.into(), place };
        self.merge_one(key, one);
    }

    /// Adds the counts of another document.
    pub fn merge(&mut self, other: Self) {
        for (key, kind) in other.kinds {
            self.merge_one(key, kind);
        }
    }

    fn merge_one(&mut self, key: (String, String), other: OtherKind) {
        if let Some(known) = self.kinds.get_mut(&key) {
            if known.with_template == 0 && other.with_template > 0 {
                known.place = other.place;
            }
            known.count += other.count;
            known.with_template += other.with_template;
            known.compared += other.compared;
        } else if self.kinds.len() < MAX_KINDS {
            self.kinds.insert(key, other);
        }
    }
}

/// Returns the name of a Namespace and its label with the most ports that one of its pods may claim.
pub(super) fn port_limit(root: &Node) -> Option<(&str, &Node)> {
    let label = root.at(&["metadata", "labels"])?.get(NamespaceLabel::MaxPorts.key())?;
    Some((root.at(&["metadata", "name"])?.text()?, label))
}

/// Returns the note about such a label that is no number.
pub(super) fn bad_port_limit(namespace: &str, place: Location) -> Remark {
    let (namespace, key) = (escape_bounded(namespace, MAX_NAME), NamespaceLabel::MaxPorts.key());
    let message = format!("Namespace {namespace}: the label {key} is no text of digits, and counts for nothing");
    Remark { place, message, remedy: format!("write {} in quotes", NamespaceLabel::MaxPorts.values()) }
}

/// Checks whether an object of an unknown kind describes pods somewhere: it has a list of containers.
pub(super) fn has_pod_template(version: &str, kind: &str, root: &Node) -> bool {
    let without_pods = !group(version).contains('.') && WITHOUT_PODS.contains(&kind);
    !without_pods && has_containers(root, 0)
}

fn has_containers(node: &Node, depth: usize) -> bool {
    if depth > MAX_TEMPLATE_DEPTH {
        return false;
    }
    let is_container = |node: &Node| matches!(node.value, Value::Map(_));
    let containers = node.get("containers").map(Node::items).unwrap_or_default();
    containers.iter().any(is_container)
        || node.entries().iter().any(|(_, child)| has_containers(child, depth + 1))
        || node.items().iter().any(|child| has_containers(child, depth + 1))
}

/// Returns a note about a document that has no API version or no kind and is a well-known file of another tool.
pub(super) fn recognize(root: &Node, place: &Location) -> Option<Remark> {
    let name = place.file.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
    let stem = name.rsplit_once('.').map_or(name.as_str(), |(stem, _)| stem);
    let has = |key: &str| root.get(key).is_some();
    let is_map = matches!(root.value, Value::Map(_));
    let is_operation = |item: &Node| item.get("op").is_some() && item.get("path").is_some();
    let remark = |what: &str, remedy: String| {
        Some(Remark { place: place.clone(), message: format!("is {what}, and no manifest: it is not read"), remedy })
    };
    if is_map && (stem == "kustomization" || !has("kind") && KUSTOMIZATION_KEYS.iter().any(|key| has(key))) {
        return Some(kustomization(place));
    }
    if !root.items().is_empty() && root.items().iter().all(is_operation) {
        return remark("a JSON patch", kustomize(place));
    }
    if is_map && stem == "chart" && has("name") && has("version") {
        let message = "is the description of a Helm chart: neither it nor its templates are read".to_owned();
        return Some(Remark { place: place.clone(), message, remedy: helm(place) });
    }
    let is_values = stem.split(['-', '.', '_']).any(|word| word == "values");
    if is_map && is_values && !has("kind") {
        return remark("a file of Helm values", helm(place));
    }
    None
}

/// Returns the note about a kustomization.
pub(super) fn kustomization(place: &Location) -> Remark {
    let message = "is a kustomization: what it makes of its resources is not read".to_owned();
    Remark { place: place.clone(), message, remedy: kustomize(place) }
}

/// Returns the command that reads a kustomization.
#[must_use]
pub fn kustomize(place: &Location) -> String {
    format!("kubectl kustomize {} | enforcer check -", folder(place))
}

fn helm(place: &Location) -> String {
    format!("helm template {} | enforcer check -", folder(place))
}

/// Returns the folder of a file, safe to show.
fn folder(place: &Location) -> &str {
    match place.file.rsplit_once('/') {
        Some(("", _)) => "/",
        Some((folder, _)) => folder,
        None => ".",
    }
}
