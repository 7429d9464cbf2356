//! What pods bind and do not declare, as patches for their workloads. The JSON is documented in docs/suggest.md.
//!
//! | from | to | in |
//! | --- | --- | --- |
//! | ledgers | what the pods of each workload bind and claim, on all nodes | `facts` |
//! | a port that was bound | whether its workload can declare it | `reasons` |
//! | ports, and the workload's template | a patch | `patch` |
//! | suggestions | text for people | [`text`] |

pub mod choice;
mod facts;
mod patch;
mod reasons;
pub mod template;
#[cfg(test)]
mod tests;
pub mod text;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::{
    facts::{DeclaredClaims, ObservedWorkload},
    patch::{Declaration, PatchBuilder},
    template::{PatchTarget, Template},
};
use crate::{
    ledger::node_host_ports::NodeHostPortsStatus,
    model::{
        list_text::and_list,
        port_spec::{PortSpec, protocol_name},
    },
    sockets::observed_ports::WorkloadName,
    views::node_snapshot::API_VERSION,
};

/// Suggestions for the workloads of a cluster, or of one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Suggestions {
    /// Version of the API.
    pub api_version: String,
    /// Kind of the object: `Suggestions`.
    pub kind: String,
    /// Count of nodes with a ledger.
    pub nodes_with_ledger: usize,
    /// Count of nodes without one: nobody knows what is bound there.
    pub nodes_without_ledger: usize,
    /// Count of observed ports for which a ledger had no room.
    pub left_out: u64,
    /// Suggestions, by namespace, kind and name of the workload.
    pub suggestions: Vec<Suggestion>,
    /// Message for people; its words may change.
    pub message: String,
}

/// Suggestion for one workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Suggestion {
    /// Namespace of the workload.
    pub namespace: String,
    /// Its kind; `StaticPod` for a static pod.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Ports that its pods bind by name and do not declare.
    pub ports: Vec<SuggestedPort>,
    /// Ports that its pods bound and that cannot be declared as they are.
    pub apart: Vec<PortApart>,
    /// Ports that it declares and that no pod of it ever bound, on all nodes with a ledger.
    pub never_bound: Vec<NeverBoundPort>,
    /// Strategic merge patch of the workload that declares `ports`; absent if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch: Option<Value>,
    /// Command that applies the patch from a file `patch.yaml`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// Sentences about the patch, or why there is none; their words may change.
    pub notes: Vec<String>,
}

/// A port, or neighbours of it, to be declared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SuggestedPort {
    /// The ports in the grammar of the annotation.
    pub ports: String,
    /// The container; absent if it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Place where the patch declares it: `ports` or `annotation`; absent without a patch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declared_by: Option<String>,
    /// How often it was seen.
    #[serde(flatten)]
    pub seen: Seen,
}

/// A port, or neighbours of it, that the patch leaves out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortApart {
    /// The ports in the grammar of the annotation.
    pub ports: String,
    /// The container; absent if it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Reason: `chosen`, `outgoing`, `differs`, `nodeAddress` or `many`.
    pub reason: String,
    /// The reason for people; its words may change.
    pub message: String,
    /// How often it was seen.
    #[serde(flatten)]
    pub seen: Seen,
}

/// How often a port was seen, as the ledgers say.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seen {
    /// Count of pods that bound it; a node counts 100 at most.
    pub pods: u64,
    /// Count of pods of the workload that bound an undeclared port.
    pub of_pods: u64,
    /// Count of nodes.
    pub nodes: usize,
    /// Time when it was seen first, since the agents watch.
    pub since: String,
}

/// A declared port that nobody bound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NeverBoundPort {
    /// The ports in the grammar of the annotation.
    pub ports: String,
    /// Place where it is declared: `hostPort` or `annotation`.
    pub source: String,
    /// Count of pods that claim it.
    pub pods: u64,
    /// Count of nodes.
    pub nodes: usize,
}

/// What the ledgers of a cluster say of each workload.
#[derive(Debug, Default)]
pub struct Suggester {
    observed: BTreeMap<WorkloadName, ObservedWorkload>,
    claims: BTreeMap<WorkloadName, DeclaredClaims>,
    nodes: usize,
    left_out: u64,
}

impl Suggester {
    /// Adds the ledger of a node. Text in it is made safe to show.
    pub fn add_node(&mut self, node: &str, ledger: &NodeHostPortsStatus) {
        self.nodes += 1;
        self.left_out += u64::from(ledger.observed_left_out);
        facts::add_observed(&mut self.observed, node, &ledger.observed);
        facts::add_claims(&mut self.claims, node, &ledger.ports);
    }

    /// Returns the workloads of which something is known, in order.
    pub fn workloads(&self) -> impl Iterator<Item = &WorkloadName> {
        let claimed = self.claims.keys().filter(|name| !self.observed.contains_key(name));
        let mut names: Vec<&WorkloadName> = self.observed.keys().chain(claimed).collect();
        names.sort_unstable();
        names.into_iter()
    }

    /// Returns the suggestion for a workload; `None` if there is nothing to say. `template`: that of the workload as it
    /// is now, where it could be read; else the claims of its pods count.
    #[must_use]
    pub fn suggest(&self, name: &WorkloadName, template: Option<&Template>, now: Timestamp) -> Option<Suggestion> {
        if template.is_some_and(|template| !template.host_network) {
            return None;
        }
        let none = DeclaredClaims::default();
        // Rows of claims do not tell static pods from others.
        let of_pod = WorkloadName { kind: "Pod".to_owned(), ..name.clone() };
        let is_static = name.kind == WorkloadName::STATIC_POD;
        let claims = self.claims.get(if is_static { &of_pod } else { name }).unwrap_or(&none);
        let is_declared = |spec: &PortSpec| {
            claims.declares(spec) || template.is_some_and(|template| facts::declare(&template.claims, spec))
        };
        let observed = self.observed.get(name).map(|workload| workload.undeclared(is_declared)).unwrap_or_default();
        let (named, apart) = reasons::split(&observed);
        let target = PatchTarget::of(name);
        let mut builder = PatchBuilder::new(&target, template, claims);
        let mut ports = Vec::new();
        for port in named {
            let declared_by = builder.add(&port.spec, port.container.as_deref()).map(Declaration::as_str);
            ports.push(SuggestedPort {
                ports: port.spec.to_string(),
                container: port.container,
                declared_by: declared_by.map(str::to_owned),
                seen: port.seen,
            });
        }
        let never_bound = claims.never_bound(now);
        if ports.is_empty() && apart.is_empty() && never_bound.is_empty() {
            return None;
        }
        let (patch, mut notes) = builder.finish();
        if patch.is_some() && template.is_none() {
            notes.push(
                "The workload itself was not read: containers and the annotation are those that ledgers show."
                    .to_owned(),
            );
        }
        let WorkloadName { namespace, kind, name } = name.clone();
        let command = patch.is_some().then(|| target.command(&namespace, &name));
        Some(Suggestion { namespace, kind, name, ports, apart, never_bound, patch, command, notes })
    }

    /// Returns the answer with these suggestions.
    #[must_use]
    pub fn answer(&self, suggestions: Vec<Suggestion>, nodes_without_ledger: usize) -> Suggestions {
        Suggestions {
            api_version: API_VERSION.to_owned(),
            kind: "Suggestions".to_owned(),
            nodes_with_ledger: self.nodes,
            nodes_without_ledger,
            left_out: self.left_out,
            message: message(&suggestions),
            suggestions,
        }
    }
}

/// Returns the sentence that sums up suggestions.
fn message(suggestions: &[Suggestion]) -> String {
    let undeclared: Vec<String> = suggestions
        .iter()
        .filter(|suggestion| !suggestion.ports.is_empty())
        .map(|Suggestion { namespace, kind, name, .. }| format!("{kind} {namespace}/{name}"))
        .collect();
    match undeclared.len() {
        0 if suggestions.is_empty() => "Nothing to suggest.".to_owned(),
        0 => "No port to declare.".to_owned(),
        1 => format!("{} binds ports that it does not declare.", undeclared[0]),
        _ => format!("{} bind ports that they do not declare.", and_list(&undeclared, 6)),
    }
}

/// Returns the protocol as manifests have it.
fn manifest_protocol(spec: &PortSpec) -> String {
    protocol_name(spec.protocol).to_ascii_uppercase()
}
