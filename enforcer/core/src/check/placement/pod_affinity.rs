//! Rules of a pod on the pods that its node has already, as the scheduler's `InterPodAffinity` filter judges them
//! (pkg/scheduler/framework/plugins/interpodaffinity).

use std::collections::BTreeMap;

use super::node_demands::{HOSTNAME_LABEL, scalar};
use crate::yaml::spanned::Node;

/// Label with the name of a namespace, which every namespace has.
const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";
/// Labels that controllers add to their pods, by key or by the beginning of it.
const CONTROLLER_LABELS: [&str; 8] = [
    "pod-template-hash",
    "pod-template-generation",
    "controller-revision-hash",
    "controller-uid",
    "job-name",
    "apps.kubernetes.io/",
    "batch.kubernetes.io/",
    "statefulset.kubernetes.io/",
];
/// Most terms that are compared.
const MAX_TERMS: usize = 16;
/// Most requirements of a selector and values in them that are compared.
const MAX_VALUES: usize = 256;

/// Labels of a pod or of a namespace.
type PodLabels = BTreeMap<String, String>;

/// A requirement on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: String,
    values: Vec<String>,
}

/// Pods that a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PodTerm {
    /// Namespaces that it names, its own if it names none.
    namespaces: Vec<String>,
    /// Selector of further namespaces; `None` if there is none.
    namespace_selector: Option<Vec<Requirement>>,
    /// Selector of pods in them; `None` selects no pod.
    selector: Option<Vec<Requirement>>,
    /// The rule is about one node and not a zone.
    is_hostname: bool,
    /// Parts of it are not understood.
    is_unclear: bool,
}

/// A pod to other pods: its namespace, its labels, and the pods that it keeps away from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PodAffinity {
    namespace: String,
    labels: PodLabels,
    anti_terms: Vec<PodTerm>,
    /// The pod needs other pods beside it, or rules were left out.
    is_unclear: bool,
}

impl PodAffinity {
    /// Reads the rules from the spec of a pod.
    pub(super) fn of(spec: &Node, labels: Option<&Node>, namespace: &str) -> Self {
        let terms = |kind: &str| spec.at(&["affinity", kind, super::REQUIRED]).map(Node::items).unwrap_or_default();
        let anti_terms = terms("podAntiAffinity");
        Self {
            namespace: namespace.to_owned(),
            labels: entries(labels),
            anti_terms: anti_terms.iter().take(MAX_TERMS).map(|term| pod_term(term, namespace)).collect(),
            is_unclear: !terms("podAffinity").is_empty() || anti_terms.len() > MAX_TERMS,
        }
    }

    /// Checks whether the scheduler never places a pod of the one on a node that has a pod of the other.
    pub(super) fn keeps_apart(&self, other: &Self) -> bool {
        self.keeps_away_from(other) || other.keeps_away_from(self)
    }

    fn keeps_away_from(&self, other: &Self) -> bool {
        self.anti_terms.iter().any(|term| term.is_hostname && term.selects(other) == Some(true))
    }

    /// Checks whether pods beyond those of the two objects decide where this one may be placed. What it has against
    /// pods of its own kind and against the other one is known.
    pub(super) fn depends_on_others(&self, other: &Self) -> bool {
        let is_known = |term: &PodTerm| {
            let selects = |pod| term.selects(pod) == Some(true);
            term.is_hostname && (selects(self) || selects(other)) || !term.is_unclear && term.selector.is_none()
        };
        self.is_unclear || !self.anti_terms.iter().all(is_known)
    }
}

impl PodTerm {
    /// Checks whether the rule is about a pod; `None` if the manifest does not show it.
    fn selects(&self, pod: &PodAffinity) -> Option<bool> {
        if self.is_unclear {
            return None;
        }
        let Some(selector) = &self.selector else {
            return Some(false);
        };
        let is_named = self.namespaces.contains(&pod.namespace);
        let name = PodLabels::from([(NAMESPACE_NAME_LABEL.to_owned(), pod.namespace.clone())]);
        let in_namespace = match &self.namespace_selector {
            _ if is_named => true,
            None => false,
            Some(selector) if selector.iter().all(|requirement| requirement.key == NAMESPACE_NAME_LABEL) => {
                selector.iter().all(|requirement| requirement.matches(&name))
            }
            Some(_) => return None,
        };
        let added = |key: &str| {
            CONTROLLER_LABELS.iter().any(|label| key == *label || label.ends_with('/') && key.starts_with(label))
        };
        if in_namespace && selector.iter().any(|requirement| added(&requirement.key)) {
            return None;
        }
        Some(in_namespace && selector.iter().all(|requirement| requirement.matches(&pod.labels)))
    }
}

impl Requirement {
    fn matches(&self, labels: &PodLabels) -> bool {
        let value = labels.get(&self.key);
        let is_listed = value.is_some_and(|value| self.values.contains(value));
        match self.operator.as_str() {
            "In" => is_listed,
            "NotIn" => !is_listed,
            "Exists" => value.is_some(),
            // Others are refused by `selector`.
            _ => value.is_none(),
        }
    }
}

fn entries(labels: Option<&Node>) -> PodLabels {
    labels.map(Node::entries).unwrap_or_default().iter().map(|(key, value)| (key.clone(), scalar(value))).collect()
}

fn pod_term(term: &Node, namespace: &str) -> PodTerm {
    let list = |key: &str| term.get(key).map(Node::items).unwrap_or_default();
    let mut is_unclear = !list("matchLabelKeys").is_empty() || !list("mismatchLabelKeys").is_empty();
    let mut read = |key: &str| term.get(key).map(|node| selector(node, &mut is_unclear));
    let (selector, namespace_selector) = (read("labelSelector"), read("namespaceSelector"));
    let mut namespaces: Vec<String> = list("namespaces").iter().map(scalar).collect();
    is_unclear |= namespaces.len() > MAX_VALUES;
    if namespaces.is_empty() && namespace_selector.is_none() {
        namespaces.push(namespace.to_owned());
    }
    let is_hostname = term.get("topologyKey").and_then(Node::text) == Some(HOSTNAME_LABEL);
    PodTerm { namespaces, namespace_selector, selector, is_hostname, is_unclear }
}

/// Reads a selector of labels. One without requirements selects everything.
fn selector(node: &Node, is_unclear: &mut bool) -> Vec<Requirement> {
    let equal = |(key, value)| Requirement { key, operator: "In".to_owned(), values: vec![value] };
    let mut requirements: Vec<Requirement> = entries(node.get("matchLabels")).into_iter().map(equal).collect();
    for expression in node.get("matchExpressions").map(Node::items).unwrap_or_default() {
        let text = |key: &str| expression.get(key).map(scalar).unwrap_or_default();
        let values: Vec<String> =
            expression.get("values").map(Node::items).unwrap_or_default().iter().map(scalar).collect();
        let operator = text("operator");
        *is_unclear |= match operator.as_str() {
            "In" | "NotIn" => values.is_empty(),
            "Exists" | "DoesNotExist" => !values.is_empty(),
            _ => true,
        };
        requirements.push(Requirement { key: text("key"), operator, values });
    }
    *is_unclear |= requirements.iter().map(|requirement| 1 + requirement.values.len()).sum::<usize>() > MAX_VALUES;
    requirements
}
