//! Demands of a pod on the labels and the name of its node, as the scheduler's `NodeAffinity` filter judges them
//! (k8s.io/component-helpers/scheduling/corev1/nodeaffinity, k8s.io/apimachinery/pkg/labels).

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use super::NodeTraits;
use crate::yaml::spanned::{Node, Value};

/// Label with the operating system of a node. The kubelet sets it.
pub(super) const OS_LABEL: &str = "kubernetes.io/os";
/// Label with the host name of a node. No two nodes have one value.
pub(super) const HOSTNAME_LABEL: &str = "kubernetes.io/hostname";
/// The operating system of nodes of which nothing else is said.
const LINUX: &str = "linux";
/// Old names of labels and the names that replaced them. Nodes have one value under both names.
const RENAMED_LABELS: [(&str, &str); 5] = [
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
    ("beta.kubernetes.io/os", OS_LABEL),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
];
/// Most terms of an affinity, and most requirements and values in all, that are compared.
const MAX_TERMS: usize = 16;
const MAX_VALUES: usize = 256;

/// Property of a node that a demand is on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum NodeProperty {
    /// The label with this key, which is never an old name.
    Label(String),
    /// The node's name.
    Name,
}

/// Values of one property that a demand allows.
#[derive(Clone, Debug, PartialEq, Eq)]
struct AllowedValues {
    /// The node may be without the label.
    absent: bool,
    /// The only values; `None` for all but those that the other fields exclude.
    only: Option<BTreeSet<String>>,
    /// Values that are excluded. Empty if `only` is there.
    except: BTreeSet<String>,
    /// The value is a whole number above this one.
    above: Option<i64>,
    /// The value is a whole number below this one.
    below: Option<i64>,
}

/// Demands that a node must satisfy at once. A property without a demand may have any value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct NodeTerm(BTreeMap<NodeProperty, AllowedValues>);

/// Demands of a pod on its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NodeDemands {
    /// Alternatives, each of which some node could satisfy. Without any, no node suits the pod.
    terms: Vec<NodeTerm>,
    /// Parts were left out, because they are malformed or too many: fewer nodes may suit the pod.
    incomplete: bool,
}

impl AllowedValues {
    fn any() -> Self {
        Self { absent: true, only: None, except: BTreeSet::new(), above: None, below: None }
    }

    fn only(values: impl IntoIterator<Item = String>) -> Self {
        Self { absent: false, only: Some(values.into_iter().collect()), ..Self::any() }
    }

    /// Reads an operator and its values; `None` if the API server refuses them.
    fn of_requirement(operator: &str, values: Vec<String>) -> Option<Self> {
        let number = |values: &[String]| if let [value] = values { value.parse::<i64>().ok() } else { None };
        match operator {
            "In" if !values.is_empty() => Some(Self::only(values)),
            "NotIn" if !values.is_empty() => Some(Self { except: values.into_iter().collect(), ..Self::any() }),
            "Exists" if values.is_empty() => Some(Self { absent: false, ..Self::any() }),
            "DoesNotExist" if values.is_empty() => Some(Self { absent: true, ..Self::only([]) }),
            "Gt" => number(&values).map(|above| Self { absent: false, above: Some(above), ..Self::any() }),
            "Lt" => number(&values).map(|below| Self { absent: false, below: Some(below), ..Self::any() }),
            _ => None,
        }
    }

    fn allows(&self, value: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(value))
            && !self.except.contains(value)
            && self.is_in_bounds(value)
    }

    fn is_in_bounds(&self, value: &str) -> bool {
        if self.above.is_none() && self.below.is_none() {
            return true;
        }
        value.parse::<i64>().is_ok_and(|number| {
            self.above.is_none_or(|above| number > above) && self.below.is_none_or(|below| number < below)
        })
    }

    /// Keeps the values that the other demand allows too.
    fn restrict(&mut self, other: &Self) {
        self.absent &= other.absent;
        self.except.extend(other.except.iter().cloned());
        self.above = self.above.max(other.above);
        self.below = [self.below, other.below].into_iter().flatten().min();
        let only = match (self.only.take(), &other.only) {
            (Some(one), Some(other)) => Some(one.into_iter().filter(|value| other.contains(value)).collect()),
            (one, other) => one.or_else(|| other.clone()),
        };
        if let Some(only) = only {
            let only = only.into_iter().filter(|value| self.allows(value)).collect();
            *self = Self { absent: self.absent, ..Self::only([]) };
            self.only = Some(only);
        }
    }

    fn is_satisfiable(&self) -> bool {
        self.absent || self.only.as_ref().map_or_else(|| self.has_number(), |only| !only.is_empty())
    }

    /// Checks whether some label value is within the bounds. No label value begins with a sign, and each number can be
    /// written in many ways (`7`, `07`), so that excluded values do not count.
    fn has_number(&self) -> bool {
        let lowest = self.above.map_or(0, |above| i128::from(above) + 1).max(0);
        let highest = self.below.map_or(i128::from(i64::MAX), |below| i128::from(below) - 1);
        lowest <= highest
    }

    /// Checks whether the other demand allows all that this one allows.
    fn implies(&self, other: &Self) -> bool {
        let values = match (&self.only, &other.only) {
            (Some(only), _) => only.iter().all(|value| other.allows(value)),
            (None, Some(_)) => false,
            (None, None) => {
                other.except.iter().all(|value| !self.allows(value))
                    && other.above.is_none_or(|bound| self.above.is_some_and(|above| above >= bound))
                    && other.below.is_none_or(|bound| self.below.is_some_and(|below| below <= bound))
            }
        };
        values && (!self.absent || other.absent)
    }
}

impl NodeTerm {
    fn demand(&mut self, property: NodeProperty, allowed: &AllowedValues) {
        self.0.entry(property).or_insert_with(AllowedValues::any).restrict(allowed);
    }

    fn and(&self, other: &Self) -> Self {
        let mut both = self.clone();
        for (property, allowed) in &other.0 {
            both.demand(property.clone(), allowed);
        }
        both
    }

    fn is_satisfiable(&self) -> bool {
        self.0.values().all(AllowedValues::is_satisfiable)
    }

    /// Checks whether some node could satisfy both, each of which some node could satisfy.
    fn is_compatible(&self, other: &Self) -> bool {
        self.0.iter().all(|(property, allowed)| {
            other.0.get(property).is_none_or(|other| {
                let mut both = allowed.clone();
                both.restrict(other);
                both.is_satisfiable()
            })
        })
    }

    /// Checks whether a node satisfies the term.
    fn suits(&self, node: &NodeTraits) -> bool {
        self.0.iter().all(|(property, allowed)| {
            let value = match property {
                NodeProperty::Name => Some(&node.name),
                NodeProperty::Label(key) => node.labels.get(key).or_else(|| {
                    // Under its old name only, as on nodes of old clusters.
                    let (old, _) = RENAMED_LABELS.iter().find(|(_, new)| new == key)?;
                    node.labels.get(*old)
                }),
            };
            value.map_or(allowed.absent, |value| allowed.allows(value))
        })
    }

    /// Returns the values that a property can have on nodes that satisfy the term. Nodes run Linux unless the term names
    /// another system, and a host name is the name of its node.
    fn values_of(&self, property: &NodeProperty) -> Cow<'_, AllowedValues> {
        let own = self.0.get(property);
        let is_label = |key: &str| matches!(property, NodeProperty::Label(label) if label == key);
        if is_label(OS_LABEL) && own.is_none_or(|allowed| allowed.only.is_none() && allowed.allows(LINUX)) {
            return Cow::Owned(AllowedValues::only([LINUX.to_owned()]));
        }
        let twin = if *property == NodeProperty::Name {
            self.0.get(&NodeProperty::Label(HOSTNAME_LABEL.to_owned()))
        } else if is_label(HOSTNAME_LABEL) {
            self.0.get(&NodeProperty::Name)
        } else {
            None
        };
        let found = own.or_else(|| twin.filter(|twin| twin.only.is_some() && !twin.absent));
        found.map_or_else(|| Cow::Owned(AllowedValues::any()), Cow::Borrowed)
    }

    /// Checks whether every node that satisfies this term satisfies the other one too.
    fn implies(&self, other: &Self) -> bool {
        other.0.iter().all(|(property, allowed)| self.values_of(property).implies(allowed))
    }

    /// Returns the names of the only nodes that satisfy the term, if it names them.
    fn nodes(&self) -> Option<&BTreeSet<String>> {
        let named = |property: &NodeProperty| self.0.get(property).filter(|allowed| !allowed.absent)?.only.as_ref();
        let properties = [NodeProperty::Name, NodeProperty::Label(HOSTNAME_LABEL.to_owned())];
        properties.iter().filter_map(named).min_by_key(|names| names.len())
    }
}

impl NodeDemands {
    /// Reads the demands from the spec of a pod.
    pub(super) fn of(spec: &Node) -> Self {
        let mut incomplete = false;
        let mut base = NodeTerm::default();
        for (key, value) in spec.get("nodeSelector").map(Node::entries).unwrap_or_default() {
            base.demand(label(key), &AllowedValues::only([scalar(value)]));
        }
        // The scheduler does not look at it, but the kubelet of another system refuses the pod
        // (`rejectPodAdmissionBasedOnOSField` in pkg/kubelet/lifecycle/predicate.go).
        if let Some(system) = spec.at(&["os", "name"]).and_then(Node::text) {
            base.demand(label(OS_LABEL), &AllowedValues::only([system.to_owned()]));
        }
        if let Some(name) = node_name(spec) {
            base.demand(NodeProperty::Name, &AllowedValues::only([name.to_owned()]));
        }
        let required = spec.at(&["affinity", "nodeAffinity", super::REQUIRED]);
        let alternatives = required.and_then(|required| required.get("nodeSelectorTerms")).map(Node::items);
        let mut terms = match alternatives {
            // No term of an affinity that is there is no alternative, and the API server wants one.
            None | Some([]) => {
                incomplete |= required.is_some_and(|required| !required.entries().is_empty());
                vec![base]
            }
            Some(terms) if terms.len() > MAX_TERMS || terms.iter().map(size).sum::<usize>() > MAX_VALUES => {
                incomplete = true;
                vec![base]
            }
            // A term without a requirement suits no node (`isEmptyNodeSelectorTerm`).
            Some(terms) => terms
                .iter()
                .filter(|term| size(term) > 0)
                .map(|term| base.and(&node_term(term, &mut incomplete)))
                .collect(),
        };
        terms.retain(NodeTerm::is_satisfiable);
        Self { terms, incomplete }
    }

    /// Checks whether a node suits it. Parts that were left out suit every node.
    pub(super) fn suit(&self, node: &NodeTraits) -> bool {
        self.terms.iter().any(|term| term.suits(node))
    }

    /// Checks whether no node suits both.
    pub(super) fn exclude(&self, other: &Self) -> bool {
        !self.terms.iter().any(|one| other.terms.iter().any(|other| one.is_compatible(other)))
    }

    /// Checks whether every node that suits the other one suits this one too.
    pub(super) fn include(&self, other: &Self) -> bool {
        !self.incomplete && other.terms.iter().all(|other| self.terms.iter().any(|one| other.implies(one)))
    }

    /// Returns the count of the only nodes that suit it, if it names them by host name or name.
    pub(super) fn node_count(&self) -> Option<usize> {
        let mut names = BTreeSet::new();
        for term in &self.terms {
            names.extend(term.nodes()?);
        }
        Some(names.len())
    }

    /// Checks whether some nodes that run Linux do not suit it.
    pub(super) fn are_selective(&self) -> bool {
        !self.include(&Self { terms: vec![NodeTerm::default()], incomplete: false })
    }
}

/// Returns the node that the pod is bound to before any scheduler sees it.
pub(super) fn node_name(spec: &Node) -> Option<&str> {
    spec.get("nodeName").and_then(Node::text).filter(|name| !name.is_empty())
}

/// Returns the text of a scalar. Numbers and truth values are no labels; they are read as who wrote them meant them.
pub(super) fn scalar(node: &Node) -> String {
    if let Value::Text(text) = &node.value { text.clone() } else { node.to_json().to_string() }
}

fn label(key: &str) -> NodeProperty {
    let renamed = RENAMED_LABELS.iter().find(|(old, _)| *old == key);
    NodeProperty::Label(renamed.map_or(key, |(_, new)| new).to_owned())
}

fn requirements<'a>(term: &'a Node, key: &str) -> &'a [Node] {
    term.get(key).map(Node::items).unwrap_or_default()
}

/// Counts the requirements of a term, and their values.
fn size(term: &Node) -> usize {
    let all = requirements(term, "matchExpressions").iter().chain(requirements(term, "matchFields"));
    all.map(|requirement| 1 + requirements(requirement, "values").len()).sum()
}

fn node_term(term: &Node, incomplete: &mut bool) -> NodeTerm {
    let mut read = NodeTerm::default();
    let labels = requirements(term, "matchExpressions").iter().map(|requirement| (requirement, false));
    let fields = requirements(term, "matchFields").iter().map(|requirement| (requirement, true));
    for (requirement, is_field) in labels.chain(fields) {
        let text = |key: &str| requirement.get(key).and_then(Node::text);
        let values: Vec<String> = requirements(requirement, "values").iter().map(scalar).collect();
        // Of fields there is the name alone, with one value (`validateNodeFieldSelectorRequirement`).
        let property = match text("key") {
            Some("metadata.name") if is_field && values.len() == 1 => Some(NodeProperty::Name),
            Some(key) if !is_field => Some(label(key)),
            _ => None,
        };
        let operator = text("operator").filter(|operator| !is_field || matches!(*operator, "In" | "NotIn"));
        let allowed = operator.and_then(|operator| AllowedValues::of_requirement(operator, values));
        match property.zip(allowed) {
            Some((property, allowed)) => read.demand(property, &allowed),
            None => *incomplete = true,
        }
    }
    read
}
