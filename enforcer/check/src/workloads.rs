//! Objects of a cluster that make pods, and Services, as `enforcer check --against cluster` compares new manifests with them.

use enforcer_core::model::text::{escape_bounded, message_with_causes};
use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
    batch::v1::{CronJob, Job},
    core::v1::{Namespace, Node, Pod, ReplicationController, Service},
};
use kube::{
    Api, Client, Resource,
    api::{ListParams, TypeMeta},
    core::{ApiResource, DynamicObject, PartialObjectMeta},
};

use crate::pages::for_each_page;

/// Longest message of the client that is passed on, in characters.
const MAX_MESSAGE: usize = 300;
/// Kinds of controllers whose pods their own objects stand for.
const CONTROLLERS: [&str; 7] =
    ["CronJob", "DaemonSet", "Deployment", "Job", "ReplicaSet", "ReplicationController", "StatefulSet"];

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
        /// Plural name of the resource.
        resource: String,
    },
    /// Something else.
    #[error("cannot list {resource} at {server}: {why}; check the kubeconfig, the server and the network")]
    Failed {
        /// Address of the server.
        server: String,
        /// Plural name of the resource.
        resource: String,
        /// Reason, safe to show.
        why: String,
    },
}

/// Reads all objects that make pods and are no others' products, and Services, and counts the nodes. `progress` is told
/// how many objects were read so far. `server`: its address, for messages.
///
/// Objects are passed on as the server has them, with fields that this program does not know.
///
/// # Errors
///
/// If a list cannot be read.
pub async fn read_workloads(
    client: &Client,
    server: &str,
    mut progress: impl FnMut(usize),
) -> Result<Workloads, WorkloadsError> {
    let mut found = Workloads::default();
    let mut seen = 0;
    for resource in resources() {
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        let read = for_each_page(&api, ListParams::default(), |page| {
            seen += page.len();
            progress(seen);
            let wanted = page.into_iter().filter(|object| is_wanted(object, &resource.kind));
            found.objects.extend(wanted.filter_map(|object| to_json(object, &resource)));
        });
        read.await.map_err(|error| cannot_list(&error, server, resource.plural.clone()))?;
    }
    let nodes: Api<PartialObjectMeta<Node>> = Api::all(client.clone());
    let read = for_each_page(&nodes, ListParams::default(), |page| {
        seen += page.len();
        progress(seen);
        found.nodes += u32::try_from(page.len()).unwrap_or(u32::MAX);
    });
    read.await.map_err(|error| cannot_list(&error, server, "nodes".to_owned()))?;
    Ok(found)
}

/// Returns the resources to read: those that make pods, and those that take ports of nodes or select pods.
fn resources() -> [ApiResource; 10] {
    fn resource<K: Resource<DynamicType = ()>>() -> ApiResource {
        ApiResource::erase::<K>(&())
    }
    [
        resource::<Namespace>(),
        resource::<Deployment>(),
        resource::<DaemonSet>(),
        resource::<StatefulSet>(),
        resource::<ReplicaSet>(),
        resource::<ReplicationController>(),
        resource::<CronJob>(),
        resource::<Job>(),
        resource::<Pod>(),
        resource::<Service>(),
    ]
}

/// Checks whether no other object that is read stands for this one, and it is not over.
fn is_wanted(object: &DynamicObject, kind: &str) -> bool {
    let status = |field| object.data.get("status").and_then(|status| status.get(field));
    match kind {
        "Namespace" | "Service" => return true,
        "Job" if status("completionTime").is_some_and(|time| !time.is_null()) => return false,
        "Pod" if status("phase").is_some_and(|phase| phase == "Succeeded" || phase == "Failed") => return false,
        _ => {}
    }
    let mut owners = object.metadata.owner_references.iter().flatten();
    !owners.any(|owner| owner.controller == Some(true) && CONTROLLERS.contains(&owner.kind.as_str()))
}

/// Encodes an object. Those of a list do not say of which kind they are.
fn to_json(mut object: DynamicObject, resource: &ApiResource) -> Option<String> {
    object.types = Some(TypeMeta { api_version: resource.api_version.clone(), kind: resource.kind.clone() });
    serde_json::to_string(&object).ok()
}

fn cannot_list(error: &kube::Error, server: &str, resource: String) -> WorkloadsError {
    let server = server.to_owned();
    match error {
        kube::Error::Api(status) if status.code == 403 => WorkloadsError::Forbidden { server, resource },
        error => {
            let why = escape_bounded(&message_with_causes(error), MAX_MESSAGE);
            WorkloadsError::Failed { server, resource, why }
        }
    }
}
