//! Why a pod is Pending, is denied a port, or fails on one: which user has which of its ports, on which node.

mod messages;
#[cfg(test)]
mod tests;
mod users;

use std::collections::BTreeSet;

use enforcer_ebpf::wire::Protocol;
use k8s_openapi::api::core::v1 as api;
use serde::{Deserialize, Serialize};

pub use users::PortUser;
use users::users;

use super::host_ports::{NodeKnowledge, is_same, spec_of};
use crate::{
    check::placement::{Misfit, NodeTraits, Placement, Taint},
    ledger::node_host_ports::{LedgerActor, LedgerConflict, LedgerRow},
    model::{
        port_spec::{Address, PortSpec, protocol_name},
        text::{escape, escape_bounded},
    },
    pods::{
        annotation,
        claims::{ClaimLimits, PodClaim, claims_of},
        pod::{Workload, from_api},
        probes::Probes,
    },
    views::node_snapshot::API_VERSION,
    yaml::{
        documents::{documents, with_large_stack},
        spanned::{Node, Value},
    },
};

/// Longest message of the scheduler or of a report that is quoted, in characters.
const MAX_QUOTED: usize = 1_024;

/// The pod that is asked about.
#[derive(Clone, Debug)]
pub struct AskedPod {
    /// Its name, namespace and workload, as rows have them.
    pub actor: LedgerActor,
    /// Its claims.
    pub claims: Vec<PodClaim>,
    /// Its node.
    pub node: Option<String>,
    phase: String,
    /// What the scheduler says of it, if it did not find a node.
    scheduler: Option<String>,
    ready: bool,
    /// Reason why a container waits, such as `CrashLoopBackOff`.
    waiting: Option<String>,
    /// Its probes, if it is on the host network.
    probes: Option<Box<Probes>>,
    placement: Placement,
}

impl AskedPod {
    /// Reads a pod.
    #[must_use]
    pub fn of(object: &api::Pod) -> Self {
        let pod = from_api(object);
        let workload = pod.workload.as_ref().map(|workload| {
            let (kind, name) = workload.display_name();
            escape(&format!("{kind} {name}"))
        });
        let status = object.status.as_ref();
        let condition = |kind: &str| {
            let mut conditions = status.iter().flat_map(|status| status.conditions.iter().flatten());
            conditions.find(|condition| condition.type_ == kind)
        };
        let unscheduled = condition("PodScheduled").filter(|condition| condition.status != "True");
        let mut containers = status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        let waiting = containers.find_map(|container| container.state.as_ref()?.waiting.as_ref()?.reason.clone());
        let every_node = pod.workload.as_ref().is_some_and(Workload::is_daemon);
        Self {
            actor: LedgerActor {
                kind: "pod".to_owned(),
                namespace: Some(escape(&pod.namespace)),
                name: Some(escape(&pod.name)),
                workload,
                ..LedgerActor::default()
            },
            // Labels of its namespace may allow it more than the usual limit; what is refused was reported to the pod.
            claims: claims_of(&pod, &ClaimLimits::UNLIMITED).claims,
            node: pod.node_name.clone(),
            phase: status.and_then(|status| status.phase.as_deref()).map_or_else(|| "Pending".to_owned(), escape),
            scheduler: unscheduled
                .and_then(|condition| condition.message.as_deref())
                .map(|message| escape_bounded(message, MAX_QUOTED)),
            ready: condition("Ready").is_some_and(|condition| condition.status == "True"),
            waiting: waiting.map(|reason| escape(&reason)),
            probes: pod.probes,
            placement: placement(object, &pod.namespace, every_node),
        }
    }

    /// Checks whether it has no node yet.
    #[must_use]
    pub fn is_unscheduled(&self) -> bool {
        self.node.is_none()
    }
}

/// Reads the placement as `check` does, by the same rules.
fn placement(object: &api::Pod, namespace: &str, every_node: bool) -> Placement {
    let mut spec = object.spec.clone().unwrap_or_default();
    // Of a pod that runs: its node is where it is, not where it had to be.
    spec.node_name = None;
    let text = serde_json::json!({ "spec": spec, "labels": object.metadata.labels }).to_string();
    with_large_stack(|| {
        let root = documents(&text).next().and_then(Result::ok).map(|document| document.root);
        match root.as_ref().and_then(|root| Some((root.get("spec")?, root))) {
            Some((spec, root)) => Placement::of(spec, root.get("labels"), namespace, every_node),
            // An empty spec suits every node.
            None => Placement::of(&Node { line: 0, value: Value::Null }, None, namespace, every_node),
        }
    })
}

/// Reads what a node demands of pods.
#[must_use]
pub fn node_traits(node: &api::Node) -> NodeTraits {
    let spec = node.spec.as_ref();
    let mut taints: Vec<Taint> = spec
        .iter()
        .flat_map(|spec| spec.taints.iter().flatten())
        .map(|taint| Taint {
            key: taint.key.clone(),
            value: taint.value.clone().unwrap_or_default(),
            effect: taint.effect.clone(),
        })
        .collect();
    // The scheduler looks at the field itself (`NodeUnschedulable`), in case the taint is late.
    let cordoned = "node.kubernetes.io/unschedulable";
    if spec.is_some_and(|spec| spec.unschedulable == Some(true)) && taints.iter().all(|taint| taint.key != cordoned) {
        taints.push(Taint { key: cordoned.to_owned(), value: String::new(), effect: "NoSchedule".to_owned() });
    }
    NodeTraits {
        name: node.metadata.name.clone().unwrap_or_default(),
        labels: node.metadata.labels.clone().unwrap_or_default(),
        taints,
    }
}

/// A node, and what is known about the ports there.
#[derive(Clone, Debug)]
pub struct AskedNode {
    /// What decides which pods it takes.
    pub traits: NodeTraits,
    /// Origin of the rows.
    pub known: NodeKnowledge,
    /// Mode of its agent.
    pub mode: Option<String>,
    /// Rows that overlap with a claim of the pod, and rows of the pod itself.
    pub rows: Vec<LedgerRow>,
    /// Conflicts of the pod.
    pub conflicts: Vec<LedgerConflict>,
}

impl AskedPod {
    /// Checks whether a row is about one of the pod's ports, or of the pod itself.
    #[must_use]
    pub fn concerns(&self, row: &LedgerRow) -> bool {
        self.is_own(row) || self.overlap(row).is_some()
    }

    /// Checks whether a conflict is one of the pod.
    #[must_use]
    pub fn is_in(&self, conflict: &LedgerConflict) -> bool {
        [&conflict.who, &conflict.other].iter().any(|actor| is_same(actor, &self.actor))
    }

    fn is_own(&self, row: &LedgerRow) -> bool {
        is_same(&row.who, &self.actor)
    }

    /// Checks whether a probe of the pod connects to one of these ports.
    fn probes(&self, ports: &str) -> bool {
        let specs = annotation::parse_list(ports).unwrap_or_default();
        let targets = self.probes.iter().flat_map(|probes| &probes.targets);
        targets.into_iter().any(|target| {
            let is_target = |spec: &PortSpec| {
                spec.protocol == Protocol::Tcp
                    && spec.ports.contains(target.port)
                    && spec.address == Address::new(target.address)
            };
            specs.iter().any(is_target)
        })
    }

    /// Returns the first claim of the pod on which the row is in the way.
    fn overlap(&self, row: &LedgerRow) -> Option<&PodClaim> {
        let spec = spec_of(row)?;
        self.claims.iter().find(|claim| claim.spec.overlaps(&spec))
    }
}

/// Verdict on a pod's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PodVerdict {
    /// It has no host ports, as far as anybody knows.
    NoPorts,
    /// It is Pending, and on every node that suits it, pods declare its ports.
    PendingForPorts,
    /// It is Pending for another reason.
    PendingForOther,
    /// It runs, and others have ports that it claims: its binds fail, or are denied in enforce mode.
    Denied,
    /// It runs, and others hold ports that it wants.
    InUse,
    /// A `NodePort` of a Service has its port: packets never reach the pod.
    Shadowed,
    /// Its ports are kept for the workload of a pod that is gone.
    Kept,
    /// It is Ready although another one holds a port of it: a stranger may answer its probes.
    AnsweredByOther,
    /// Some of its ports are not bound, and nobody else holds them.
    NotBound,
    /// It has what it claims.
    Fine,
    /// What is bound on its node is not known.
    Unknown,
}

/// Answer for one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeAnswer {
    /// Name of the node.
    pub node: String,
    /// Reason why the node does not suit the pod, whatever its ports; absent if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub misfit: Option<String>,
    /// Origin of what is known about it.
    pub known: NodeKnowledge,
    /// Mode of its agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// The pod's own ports there; empty for a pod without a node.
    pub own: Vec<OwnPort>,
    /// Users of ports that the pod wants.
    pub users: Vec<PortUser>,
}

/// Port of the pod on its node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnPort {
    /// The ports.
    pub ports: String,
    /// Place where they are declared; absent for a port that is bound and not declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Standing of the claim: `inForce` or `lost`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing: Option<String>,
    /// The pod has a socket bound there.
    pub held: bool,
}

/// Answer to the question why a pod is as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WhyAnswer {
    /// Version of the API.
    pub api_version: String,
    /// Kind of the object: `Why`.
    pub kind: String,
    /// The pod.
    pub pod: LedgerActor,
    /// Its phase.
    pub phase: String,
    /// Its node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Ports that it claims, in the grammar of the annotation.
    pub claims: Vec<String>,
    /// The verdict.
    pub verdict: PodVerdict,
    /// Message of the scheduler, of a pod without a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<String>,
    /// Its node, or all nodes for a pod without one.
    pub nodes: Vec<NodeAnswer>,
    /// Ports in its place, for each of its ports that another one has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub free_ports: Vec<FreePortsNear>,
    /// Message for people; its words may change.
    pub message: String,
}

/// Free ports near one that another user has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FreePortsNear {
    /// The port that the pod wants, with its protocol.
    pub port: String,
    /// Ports that are free on each of the nodes that were looked at, the nearest first.
    pub free: Vec<u16>,
}

impl WhyAnswer {
    /// Adds free ports for each single port of the pod that another one has, and a sentence that names them. `near` returns
    /// the free ports near one.
    #[must_use]
    pub fn with_free_ports(mut self, near: impl Fn(Protocol, u16) -> Vec<u16>) -> Self {
        let has_conflict = matches!(
            self.verdict,
            PodVerdict::PendingForPorts
                | PodVerdict::Denied
                | PodVerdict::InUse
                | PodVerdict::Shadowed
                | PodVerdict::AnsweredByOther
        );
        let wanted = self.nodes.iter().flat_map(|node| &node.users).map(|user| user.ports.as_str());
        let wanted: BTreeSet<&str> = wanted.filter(|_| has_conflict).collect();
        let single = |text: &str| {
            let spec = text.parse::<PortSpec>().ok().filter(|spec| spec.ports.len() == 1)?;
            let free = near(spec.protocol, spec.ports.first());
            let port = format!("{}/{}", spec.ports, protocol_name(spec.protocol));
            (!free.is_empty()).then_some(FreePortsNear { port, free })
        };
        let mut free_ports: Vec<FreePortsNear> = wanted.into_iter().filter_map(single).collect();
        free_ports.dedup();
        self.message.extend(messages::free_ports(&free_ports));
        self.free_ports = free_ports;
        self
    }
}

/// Answers why a pod is as it is. `nodes`: all nodes for a pod without one, else its own. `services`: rows of every node.
/// `reports`: notes of the agent's Events about the pod, the last one first.
#[must_use]
pub fn why(pod: &AskedPod, nodes: &[AskedNode], services: &[LedgerRow], reports: &[String]) -> WhyAnswer {
    let nodes: Vec<NodeAnswer> = nodes.iter().map(|node| answer(pod, node, services)).collect();
    let verdict = if pod.is_unscheduled() { pending_verdict(pod, &nodes) } else { running_verdict(pod, nodes.first()) };
    let message = messages::message(pod, verdict, &nodes, reports);
    WhyAnswer {
        api_version: API_VERSION.to_owned(),
        kind: "Why".to_owned(),
        pod: pod.actor.clone(),
        phase: pod.phase.clone(),
        node: pod.node.as_deref().map(escape),
        claims: pod.claims.iter().map(|claim| claim.spec.to_string()).collect(),
        verdict,
        scheduler: pod.scheduler.clone(),
        nodes,
        free_ports: Vec::new(),
        message,
    }
}

fn answer(pod: &AskedPod, node: &AskedNode, services: &[LedgerRow]) -> NodeAnswer {
    let misfit = pod.is_unscheduled().then(|| pod.placement.suits(&node.traits).err()).flatten();
    let own: Vec<&LedgerRow> = node.rows.iter().filter(|row| pod.is_own(row)).collect();
    let users = users(pod, node, services, &own);
    NodeAnswer {
        node: escape(&node.traits.name),
        misfit: misfit.map(|misfit| match misfit {
            Misfit::Labels => "its labels or name are not what the pod demands".to_owned(),
            Misfit::Taint(key) => format!("the pod does not tolerate its taint {}", escape(&key)),
        }),
        known: node.known,
        mode: node.mode.as_deref().map(escape),
        own: own.into_iter().map(own_port).collect(),
        users,
    }
}

fn own_port(row: &LedgerRow) -> OwnPort {
    OwnPort { ports: ports_text(row), source: row.source.clone(), standing: row.standing.clone(), held: row.held }
}

/// Returns the ports of a row in the grammar of the annotation.
fn ports_text(row: &LedgerRow) -> String {
    spec_of(row).map(|spec| spec.to_string()).unwrap_or_default()
}

fn pending_verdict(pod: &AskedPod, nodes: &[NodeAnswer]) -> PodVerdict {
    if pod.claims.is_empty() {
        return PodVerdict::NoPorts;
    }
    let mut fitting = nodes.iter().filter(|node| node.misfit.is_none()).peekable();
    let any = fitting.peek().is_some();
    let all_taken = fitting.all(|node| node.users.iter().any(|user| user.seen_by_scheduler));
    if any && all_taken { PodVerdict::PendingForPorts } else { PodVerdict::PendingForOther }
}

fn running_verdict(pod: &AskedPod, node: Option<&NodeAnswer>) -> PodVerdict {
    let Some(node) = node else { return PodVerdict::Unknown };
    if pod.claims.is_empty() && node.users.is_empty() && node.own.is_empty() {
        return PodVerdict::NoPorts;
    }
    let is_held = node.users.iter().any(|user| user.held);
    let has_lost = node.own.iter().any(|own| own.standing.as_deref() == Some("lost"));
    let only_services = node.users.iter().all(|user| user.who.kind == "service");
    if node.users.iter().any(|user| user.who.until.is_some()) {
        PodVerdict::Kept
    } else if node.users.iter().any(|user| user.answers.is_some()) || is_held && pod.ready {
        PodVerdict::AnsweredByOther
    } else if is_held && !has_lost {
        PodVerdict::InUse
    } else if !node.users.is_empty() && only_services {
        PodVerdict::Shadowed
    } else if node.known == NodeKnowledge::Manifests && !has_lost {
        PodVerdict::Unknown
    } else if !node.users.is_empty() {
        PodVerdict::Denied
    } else if node.own.iter().any(|own| own.standing.is_some() && !own.held) {
        PodVerdict::NotBound
    } else {
        PodVerdict::Fine
    }
}
