//! What is known about each node: its ledger or, without one, what its pods declare.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use enforcer_api::NodeHostPorts;
use enforcer_core::{
    cluster::{
        declared::declared_ports,
        host_ports::{NodeKnowledge, NodePorts, ServicePorts},
    },
    index::Settings,
    ledger::node_host_ports::NodeHostPortsStatus,
    model::{list_text::and_list, now::Now, text::escape},
    pods::{
        claims::{ClaimLimits, claims_of},
        pod::{Pod, from_api},
    },
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod as PodObject, Service};
use kube::{Api, ResourceExt as _, api::ListParams, core::PartialObjectMeta};

use super::{
    connection::Cluster,
    pages::for_each,
    progress::Progress,
    refusal::{Refusal, Resource, missing_right},
};
use crate::failure::Failure;

/// Most nodes without a ledger of which the pods are asked for node by node.
const MAX_SINGLE: usize = 20;
/// Most nodes that a note names.
const MAX_NAMED: usize = 3;

/// Nodes to read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NodeScope<'a> {
    /// All of them.
    All,
    /// One of them, by its name.
    One(&'a str),
}

/// What is told of the reading besides what was read.
#[derive(Debug, Default)]
pub(crate) struct KnownNodes {
    /// Sentences about what is missing because a right is.
    pub(crate) missing: Vec<String>,
    /// Sentences about how much is known about nodes.
    pub(crate) notes: Vec<String>,
}

/// Reads the ports of Services. Without the right there are none, and a note.
pub(crate) async fn read_services(
    cluster: &Cluster,
    progress: &Progress,
    known: &mut KnownNodes,
) -> Result<ServicePorts, Failure> {
    let mut ports = ServicePorts::default();
    let api: Api<Service> = Api::all(cluster.client.clone());
    let params = ListParams::default();
    match for_each(&api, Resource::Services, params, progress, |service| ports.add(&service)).await {
        Ok(()) => Ok(ports),
        Err(Refusal::Forbidden(resource)) => {
            known.missing.push(format!("NodePorts are missing: {}", missing_right(resource, &cluster.server)));
            Ok(ports)
        }
        Err(refusal) => Err(refusal.into_failure(Resource::Services, cluster)),
    }
}

/// Reads nodes and calls `with` for each, those with a ledger first, in the order of their names.
pub(crate) async fn read_nodes(
    cluster: &Cluster,
    scope: NodeScope<'_>,
    services: &ServicePorts,
    progress: &Progress,
    known: &mut KnownNodes,
    mut with: impl FnMut(NodePorts),
) -> Result<(), Failure> {
    let take = |name: &str, status| with(NodePorts::of(name, NodeKnowledge::Ledger, status, services));
    let with_ledger = read_ledgers(cluster, scope, progress, known, take).await?;
    let without = nodes_without(cluster, scope, &with_ledger, progress, known).await?;
    if !without.is_empty() {
        let mut pods = read_pods(cluster, &without, progress).await?;
        for node in &without {
            let pods = pods.remove(node).unwrap_or_default();
            let ledger = declared_ports(node, pods, settings(), now());
            with(NodePorts::of(node, NodeKnowledge::Manifests, ledger, services));
        }
        let names = and_list(without.iter().map(|node| escape(node)), MAX_NAMED);
        known.notes.push(if with_ledger.is_empty() && matches!(scope, NodeScope::All) {
            "no node has a ledger: this is what pods declare, and what is bound is not known".to_owned()
        } else {
            let have = if without.len() == 1 { "has" } else { "have" };
            format!("{names} {have} no ledger: this is what pods declare there, and what is bound is not known")
        });
    }
    Ok(())
}

/// Reads ledgers, and calls `with` for each with the node's name. Returns the nodes that have one.
pub(crate) async fn read_ledgers(
    cluster: &Cluster,
    scope: NodeScope<'_>,
    progress: &Progress,
    known: &mut KnownNodes,
    mut with: impl FnMut(&str, NodeHostPortsStatus),
) -> Result<BTreeSet<String>, Failure> {
    let api: Api<NodeHostPorts> = Api::all(cluster.client.clone());
    let mut names = BTreeSet::new();
    let mut take = |ledger: NodeHostPorts| {
        let name = ledger.name_any();
        // An object without a status is one that an agent is about to write.
        if let Some(status) = ledger.status {
            with(&name, status);
            names.insert(name);
        }
    };
    let read = match scope {
        NodeScope::All => for_each(&api, Resource::Ledgers, ListParams::default(), progress, take).await,
        NodeScope::One(node) => match api.get_opt(node).await {
            Ok(ledger) => {
                ledger.into_iter().for_each(&mut take);
                Ok(())
            }
            Err(error) => Err(Refusal::of(&error, Resource::Ledgers)),
        },
    };
    match read {
        // Without the definition there are no such objects.
        Ok(()) | Err(Refusal::NotFound) => Ok(names),
        Err(Refusal::Forbidden(resource)) => {
            known.missing.push(format!("ledgers are missing: {}", missing_right(resource, &cluster.server)));
            Ok(names)
        }
        Err(refusal) => Err(refusal.into_failure(Resource::Ledgers, cluster)),
    }
}

/// Returns the nodes that have no ledger.
pub(crate) async fn nodes_without(
    cluster: &Cluster,
    scope: NodeScope<'_>,
    with_ledger: &BTreeSet<String>,
    progress: &Progress,
    known: &mut KnownNodes,
) -> Result<BTreeSet<String>, Failure> {
    let mut nodes = BTreeSet::new();
    match scope {
        NodeScope::One(node) if with_ledger.contains(node) => {}
        NodeScope::One(node) => {
            let api: Api<Node> = Api::all(cluster.client.clone());
            match api.get_metadata_opt(node).await {
                Ok(Some(_)) => {
                    nodes.insert(node.to_owned());
                }
                Ok(None) => {
                    return Err(Failure::usage(format!("there is no node {}; see kubectl get nodes", escape(node))));
                }
                Err(error) => return Err(Refusal::of(&error, Resource::Nodes).into_failure(Resource::Nodes, cluster)),
            }
        }
        NodeScope::All => {
            let api: Api<PartialObjectMeta<Node>> = Api::all(cluster.client.clone());
            let take = |node: PartialObjectMeta<Node>| {
                let name = node.name_any();
                if !with_ledger.contains(&name) {
                    nodes.insert(name);
                }
            };
            match for_each(&api, Resource::Nodes, ListParams::default(), progress, take).await {
                Ok(()) => {}
                Err(Refusal::Forbidden(resource)) if !with_ledger.is_empty() => {
                    let why = missing_right(resource, &cluster.server);
                    known.missing.push(format!("nodes without a ledger are missing: {why}"));
                }
                Err(refusal) => return Err(refusal.into_failure(Resource::Nodes, cluster)),
            }
        }
    }
    Ok(nodes)
}

/// Reads the pods of these nodes that claim a port.
async fn read_pods(
    cluster: &Cluster,
    nodes: &BTreeSet<String>,
    progress: &Progress,
) -> Result<BTreeMap<String, Vec<Pod>>, Failure> {
    let api: Api<PodObject> = Api::all(cluster.client.clone());
    let mut pods: BTreeMap<String, Vec<Pod>> = BTreeMap::new();
    let mut take = |object: PodObject| {
        let pod = from_api(&object);
        let node = pod.node_name.clone().filter(|node| nodes.contains(node));
        if let Some(node) = node.filter(|_| !claims_of(&pod, &ClaimLimits::UNLIMITED).claims.is_empty()) {
            pods.entry(node).or_default().push(pod);
        }
    };
    let selectors: Vec<String> = if nodes.len() <= MAX_SINGLE {
        nodes.iter().map(|node| format!("spec.nodeName={node}")).collect()
    } else {
        // Pods without a node use no port.
        vec!["spec.nodeName!=".to_owned()]
    };
    for selector in selectors {
        let params = ListParams::default().fields(&selector);
        let read = for_each(&api, Resource::Pods, params, progress, &mut take).await;
        read.map_err(|refusal| refusal.into_failure(Resource::Pods, cluster))?;
    }
    Ok(pods)
}

/// Returns the settings of an agent that was given none.
fn settings() -> Settings {
    Settings::default()
}

fn now() -> Now {
    Now { wall: Timestamp::now().as_microsecond(), boottime: Duration::ZERO }
}
