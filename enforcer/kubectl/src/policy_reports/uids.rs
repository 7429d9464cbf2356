//! UIDs of the objects that reports are about. Ledgers have none of pods with a name, and dashboards find objects by them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
};

use enforcer_core::cluster::policy_reports::{PolicyReport, ReportSubject};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::{Api, Resource as ApiObject, ResourceExt as _, api::ListParams, core::PartialObjectMeta};

use crate::{
    cluster::{Cluster, KnownNodes, Progress, Refusal, Resource, for_each, missing_right},
    failure::Failure,
};

/// Most objects of a kind and namespace that are asked for one by one. More are listed, metadata only.
const MAX_SINGLE: usize = 50;

/// UIDs by kind, namespace and name.
type Uids = BTreeMap<(String, Option<String>, String), String>;

/// Sets the UID of each object that exists. Without a right there are none, and a note.
pub(super) async fn set(
    cluster: &Cluster,
    reports: &mut [PolicyReport],
    known: &mut KnownNodes,
) -> Result<(), Failure> {
    let mut names: BTreeMap<(String, Option<String>), BTreeSet<String>> = BTreeMap::new();
    for subject in subjects(reports) {
        names.entry((subject.kind.clone(), subject.namespace.clone())).or_default().insert(subject.name.clone());
    }
    let mut uids = Uids::new();
    let mut denied = BTreeSet::new();
    for ((kind, namespace), names) in names {
        let (client, scope) = (cluster.client.clone(), namespace.as_deref());
        let (resource, read) = match (kind.as_str(), scope) {
            ("Pod", Some(scope)) => {
                (Resource::Pods, uids_of::<Pod>(Api::namespaced(client, scope), Resource::Pods, &names).await)
            }
            ("Service", Some(scope)) => (
                Resource::Services,
                uids_of::<Service>(Api::namespaced(client, scope), Resource::Services, &names).await,
            ),
            ("Node", None) => (Resource::Nodes, uids_of::<Node>(Api::all(client), Resource::Nodes, &names).await),
            _ => continue,
        };
        match read {
            Ok(read) => {
                uids.extend(read.into_iter().map(|(name, uid)| ((kind.clone(), namespace.clone(), name), uid)));
            }
            Err(Refusal::Forbidden(resource)) => {
                denied.insert(resource);
            }
            Err(refusal) => return Err(refusal.into_failure(resource, cluster)),
        }
    }
    for resource in denied {
        known.notes.push(format!("UIDs are missing in the reports: {}", missing_right(resource, &cluster.server)));
    }
    for subject in subjects(reports) {
        let key = (subject.kind.clone(), subject.namespace.clone(), subject.name.clone());
        subject.uid = uids.get(&key).cloned();
    }
    Ok(())
}

fn subjects(reports: &mut [PolicyReport]) -> impl Iterator<Item = &mut ReportSubject> {
    reports.iter_mut().flat_map(|report| &mut report.content.results).flat_map(|result| &mut result.resources)
}

/// Reads the UIDs of objects. One that is gone has none.
async fn uids_of<K>(
    api: Api<PartialObjectMeta<K>>,
    resource: Resource,
    names: &BTreeSet<String>,
) -> Result<BTreeMap<String, String>, Refusal>
where
    K: ApiObject<DynamicType = ()> + Clone + Debug + serde::de::DeserializeOwned,
{
    let mut uids = BTreeMap::new();
    if names.len() > MAX_SINGLE {
        let take = |object: PartialObjectMeta<K>| {
            let name = object.name_any();
            if let (true, Some(uid)) = (names.contains(&name), object.uid()) {
                uids.insert(name, uid);
            }
        };
        for_each(&api, resource, ListParams::default(), &Progress::new(false), take).await?;
        return Ok(uids);
    }
    for name in names {
        let object = api.get_metadata_opt(name).await.map_err(|error| Refusal::of(&error, resource))?;
        if let Some(uid) = object.and_then(|object| object.uid()) {
            uids.insert(name.clone(), uid);
        }
    }
    Ok(uids)
}
