//! `kubectl host-ports why`: why a pod is Pending, denied, or fails on a port.

use std::collections::BTreeMap;

use enforcer_core::{
    check::placement::NodeTraits,
    cluster::{
        free::UsedPorts,
        host_ports::{NodePorts, ServicePorts},
        why::{AskedNode, AskedPod, node_traits, why},
    },
    ledger::node_host_ports::LedgerRow,
    model::{port_spec::Protocol, text::escape},
};
use k8s_openapi::api::{
    core::v1::{Node, Pod},
    events::v1::Event,
};
use kube::{Api, ResourceExt as _, api::ListParams};

use crate::{
    cli::AnswerFormat,
    cluster::{
        Cluster, KnownNodes, NodeScope, Progress, Refusal, Resource, for_each, missing_right, read_nodes, read_services,
    },
    failure::Failure,
    output::{answer, notes},
};

/// Answers why the pod is as it is.
pub(crate) async fn run(
    cluster: &Cluster,
    namespace: Option<String>,
    name: &str,
    format: AnswerFormat,
    progress: &Progress,
) -> Result<(), Failure> {
    let (namespace, name) = place(name, namespace, &cluster.namespace)?;
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), &namespace);
    let object = match api.get_opt(&name).await {
        Ok(Some(object)) => object,
        Ok(None) => {
            let shown = escape(&format!("{namespace}/{name}"));
            return Err(Failure::usage(format!(
                "there is no pod {shown}; see kubectl get pods -n {}",
                escape(&namespace)
            )));
        }
        Err(error) => return Err(Refusal::of(&error, Resource::Pods).into_failure(Resource::Pods, cluster)),
    };
    let pod = AskedPod::of(&object);
    let mut known = KnownNodes::default();
    let services = read_services(cluster, progress, &mut known).await?;
    let mut used = [Protocol::Tcp, Protocol::Udp].map(UsedPorts::new);
    let nodes = read_asked_nodes(cluster, &pod, &services, &mut used, progress, &mut known).await?;
    let reports = if pod.is_unscheduled() { Vec::new() } else { reports(cluster, &object, progress, &mut known).await };
    let services: Vec<LedgerRow> = services.rows().filter(|row| pod.concerns(row)).cloned().collect();
    progress.clear();
    let [tcp, udp] = &used;
    let because = why(&pod, &nodes, &services, &reports).with_free_ports(|protocol, port| match protocol {
        Protocol::Tcp => tcp.near(port),
        Protocol::Udp => udp.near(port),
        Protocol::Sctp => Vec::new(),
    });
    answer(&because, &because.message, format)?;
    // Of which nodes nothing but declarations is known, the answer says itself.
    notes(&known.missing);
    Ok(())
}

/// Reads NAME, pod/NAME or NAMESPACE/NAME.
fn place(text: &str, namespace: Option<String>, usual: &str) -> Result<(String, String), Failure> {
    let (before, name) = text.rsplit_once('/').map_or((None, text), |(before, name)| (Some(before), name));
    let is_kind = |before: &str| matches!(before, "pod" | "pods" | "po");
    let own = before.filter(|before| !is_kind(before)).map(str::to_owned);
    let is_clear = !name.is_empty() && own.as_deref().is_none_or(|own| !own.is_empty() && !own.contains('/'));
    if !is_clear || (own.is_some() && namespace.is_some() && own != namespace) {
        return Err(Failure::usage(format!("'{}' names no pod; write NAME, with -n NAMESPACE", escape(text))));
    }
    Ok((own.or(namespace).unwrap_or_else(|| usual.to_owned()), name.to_owned()))
}

/// Reads what is known about the pod's ports on its node or, for a pod without one, on all nodes. Adds all ports that are
/// used there to `used`.
async fn read_asked_nodes(
    cluster: &Cluster,
    pod: &AskedPod,
    services: &ServicePorts,
    used: &mut [UsedPorts],
    progress: &Progress,
    known: &mut KnownNodes,
) -> Result<Vec<AskedNode>, Failure> {
    let mut traits: BTreeMap<String, NodeTraits> = BTreeMap::new();
    let scope = if let Some(node) = &pod.node {
        traits.insert(escape(node), NodeTraits { name: node.clone(), ..NodeTraits::default() });
        NodeScope::One(node)
    } else {
        let api: Api<Node> = Api::all(cluster.client.clone());
        let take = |node: Node| {
            traits.insert(escape(&node.name_any()), node_traits(&node));
        };
        let read = for_each(&api, Resource::Nodes, ListParams::default(), progress, take).await;
        read.map_err(|refusal| refusal.into_failure(Resource::Nodes, cluster))?;
        NodeScope::All
    };
    let mut nodes = Vec::new();
    read_nodes(cluster, scope, services, progress, known, |ports| {
        let NodePorts { node, rows, conflicts } = ports;
        for used in &mut *used {
            used.add_node(&node);
            for row in &rows {
                used.add_row(row);
            }
        }
        if let Some(traits) = traits.remove(&node.name) {
            nodes.push(AskedNode {
                traits,
                known: node.known,
                mode: node.mode,
                rows: rows.into_iter().map(|row| row.row).filter(|row| pod.concerns(row)).collect(),
                conflicts: conflicts
                    .into_iter()
                    .map(|conflict| conflict.conflict)
                    .filter(|conflict| pod.is_in(conflict))
                    .collect(),
            });
        }
    })
    .await?;
    nodes.sort_by(|one, other| one.traits.name.cmp(&other.traits.name));
    Ok(nodes)
}

/// Reads the notes of the agent's Events about the pod, the last one first. Without the right there are none.
async fn reports(cluster: &Cluster, pod: &Pod, progress: &Progress, known: &mut KnownNodes) -> Vec<String> {
    let api: Api<Event> = Api::namespaced(cluster.client.clone(), &pod.namespace().unwrap_or_default());
    let fields = format!("regarding.kind=Pod,regarding.name={}", pod.name_any());
    let mut events: Vec<(Option<String>, String)> = Vec::new();
    let take = |event: Event| {
        let is_of_agent = event.reporting_controller.as_deref() == Some("port-enforcer.io/agent");
        let uid = event.regarding.as_ref().and_then(|regarding| regarding.uid.clone());
        if is_of_agent && uid == pod.uid() && event.type_.as_deref() == Some("Warning") {
            let last = event.series.as_ref().map(|series| series.last_observed_time.0.to_string());
            let time = last.or_else(|| event.event_time.as_ref().map(|time| time.0.to_string()));
            events.push((time, event.note.clone().unwrap_or_default()));
        }
    };
    match for_each(&api, Resource::Events, ListParams::default().fields(&fields), progress, take).await {
        Ok(()) => {}
        Err(Refusal::Forbidden(resource)) => {
            let why = missing_right(resource, &cluster.server);
            known.missing.push(format!("the agent's Events are missing: {why}"));
        }
        Err(_) => known.missing.push("the agent's Events are missing: they could not be read".to_owned()),
    }
    events.sort_unstable_by(|one, other| other.cmp(one));
    events.into_iter().map(|(_, note)| note).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pod_is_named_in_the_ways_of_kubectl() {
        let named = |text: &str, namespace: Option<&str>| place(text, namespace.map(str::to_owned), "usual").ok();
        let of = |namespace: &str, name: &str| Some((namespace.to_owned(), name.to_owned()));
        assert_eq!(named("web-0", None), of("usual", "web-0"));
        assert_eq!(named("pod/web-0", Some("shop")), of("shop", "web-0"));
        assert_eq!(named("shop/web-0", None), of("shop", "web-0"));
        assert_eq!(named("shop/web-0", Some("shop")), of("shop", "web-0"));
        for (text, namespace) in [("", None), ("shop/", None), ("/web", None), ("a/b/c", None), ("a/b", Some("c"))] {
            assert_eq!(named(text, namespace), None, "{text:?} {namespace:?}");
        }
    }
}
