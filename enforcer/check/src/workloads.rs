//! Objects of a cluster that make pods, and Services, as `enforcer check --against cluster` compares new manifests with them.

use std::fmt::Debug;

use enforcer_core::model::text::{escape_bounded, message_with_causes};
use k8s_openapi::{
    Resource,
    api::{
        apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
        batch::v1::{CronJob, Job},
        core::v1::{Namespace, Node, Pod, ReplicationController, Service},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, ResourceExt, api::ListParams, core::PartialObjectMeta};
use serde::{Serialize, de::DeserializeOwned};

use crate::pages::for_each_page;

/// Longest message of the client that is passed on, in characters.
const MAX_MESSAGE: usize = 300;
/// Kinds of controllers whose pods their own objects stand for.
const CONTROLLERS: [&str; 6] = ["DaemonSet", "Deployment", "Job", "ReplicaSet", "ReplicationController", "StatefulSet"];

/// What runs in a cluster.
#[derive(Debug, Default)]
pub struct Workloads {
    /// The objects, each as JSON.
    pub objects: Vec<String>,
    /// Count of the nodes.
    pub nodes: u32,
}

/// A list that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadsError {
    /// A right is missing.
    #[error(
        "{server} does not let you list {resource}; ask for the ClusterRole port-enforcer-reader \
         (deploy/components/readers/role.yaml)"
    )]
    Forbidden {
        /// Address of the server.
        server: String,
        /// The resource.
        resource: &'static str,
    },
    /// Something else.
    #[error("cannot list {resource} at {server}: {why}; check the kubeconfig, the server and the network")]
    Failed {
        /// Address of the server.
        server: String,
        /// The resource.
        resource: &'static str,
        /// Reason, safe to show.
        why: String,
    },
}

/// Reads all objects that make pods and are no others' products, and Services, and counts the nodes. `progress` is told how many objects
/// were read so far. `server`: its address, for messages.
///
/// # Errors
///
/// If a list cannot be read.
pub async fn read_workloads(
    client: &Client,
    server: &str,
    mut progress: impl FnMut(usize),
) -> Result<Workloads, WorkloadsError> {
    let cluster = (client, server);
    let mut found = Workloads::default();
    let mut seen = 0;
    let mut step = |count: usize| {
        seen += count;
        progress(seen);
    };
    let objects = &mut found.objects;
    each::<Namespace>(cluster, "namespaces", &mut step, |it| add(objects, &it, true)).await?;
    each::<Deployment>(cluster, "deployments", &mut step, |it| add(objects, &it, is_first(&it.metadata))).await?;
    each::<DaemonSet>(cluster, "daemonsets", &mut step, |it| add(objects, &it, is_first(&it.metadata))).await?;
    each::<StatefulSet>(cluster, "statefulsets", &mut step, |it| add(objects, &it, is_first(&it.metadata))).await?;
    each::<ReplicaSet>(cluster, "replicasets", &mut step, |it| add(objects, &it, is_first(&it.metadata))).await?;
    each::<ReplicationController>(cluster, "replicationcontrollers", &mut step, |it| {
        add(objects, &it, is_first(&it.metadata));
    })
    .await?;
    each::<CronJob>(cluster, "cronjobs", &mut step, |it| add(objects, &it, is_first(&it.metadata))).await?;
    each::<Job>(cluster, "jobs", &mut step, |it| {
        let is_over = it.status.as_ref().is_some_and(|status| status.completion_time.is_some());
        add(objects, &it, is_first(&it.metadata) && !is_over);
    })
    .await?;
    each::<Pod>(cluster, "pods", &mut step, |it| {
        let phase = it.status.as_ref().and_then(|status| status.phase.as_deref());
        let is_over = matches!(phase, Some("Succeeded" | "Failed"));
        add(objects, &it, is_first(&it.metadata) && !is_over);
    })
    .await?;
    // Those that take ports of nodes, or select pods.
    each::<Service>(cluster, "services", &mut step, |it| add(objects, &it, true)).await?;
    each::<PartialObjectMeta<Node>>(cluster, "nodes", &mut step, |_| found.nodes += 1).await?;
    Ok(found)
}

/// Checks whether no object of a kind that is read stands for this one.
fn is_first(metadata: &ObjectMeta) -> bool {
    let owners = metadata.owner_references.iter().flatten();
    !owners.clone().any(|owner| {
        owner.controller == Some(true) && (CONTROLLERS.contains(&owner.kind.as_str()) || owner.kind == "CronJob")
    })
}

fn add<K: Serialize + Resource>(objects: &mut Vec<String>, object: &K, wanted: bool) {
    if wanted && let Ok(text) = serde_json::to_string(object) {
        objects.push(text);
    }
}

async fn each<K>(
    (client, server): (&Client, &str),
    resource: &'static str,
    step: &mut impl FnMut(usize),
    mut with: impl FnMut(K),
) -> Result<(), WorkloadsError>
where
    K: Clone + Debug + DeserializeOwned + kube::Resource + ResourceExt,
    K::DynamicType: Default,
{
    let api: Api<K> = Api::all(client.clone());
    let read = for_each_page(&api, ListParams::default(), |page| {
        step(page.len());
        page.into_iter().for_each(&mut with);
    });
    read.await.map_err(|error| {
        let server = server.to_owned();
        match &error {
            kube::Error::Api(status) if status.code == 403 => WorkloadsError::Forbidden { server, resource },
            error => {
                let why = escape_bounded(&message_with_causes(error), MAX_MESSAGE);
                WorkloadsError::Failed { server, resource, why }
            }
        }
    })
}
