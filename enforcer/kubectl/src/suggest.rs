//! `kubectl host-ports suggest`: what pods bind and do not declare, as patches of their workloads.

use enforcer_core::{
    cluster::suggest::{
        Suggester, Suggestion, Suggestions,
        choice::WorkloadChoice,
        template::Template,
        text::{no_patch, one_patch, patches_yaml, people},
    },
    model::{list_text::and_list, text::escape},
    sockets::observed_ports::WorkloadName,
};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
    batch::v1::CronJob,
    core::v1::{Pod, PodTemplateSpec, ReplicationController},
};
use kube::Api;

use crate::{
    cli::SuggestFormat,
    cluster::{Cluster, KnownNodes, NodeScope, Progress, Refusal, Resource, nodes_without, read_ledgers},
    failure::Failure,
    output::{Encoding, encode, notes, print},
};

/// Most workloads that are read themselves.
const MAX_READ: usize = 200;
/// Most names in a note.
const MAX_NAMED: usize = 3;

/// What is known of a workload beyond the ledgers.
enum Known {
    /// Its template.
    Template(Box<Template>),
    /// It is gone.
    Gone,
    /// It has no template, or was not read.
    Unknown,
}

/// Makes suggestions for the workloads of a namespace, or of all.
pub(crate) async fn run(
    cluster: &Cluster,
    namespace: Option<String>,
    choice: Option<WorkloadChoice>,
    format: SuggestFormat,
    progress: &Progress,
) -> Result<(), Failure> {
    let mut known = KnownNodes::default();
    let mut suggester = Suggester::default();
    let add = |node: &str, status| suggester.add_node(node, &status);
    let with_ledger = read_ledgers(cluster, NodeScope::All, progress, &mut known, add).await?;
    let without = nodes_without(cluster, NodeScope::All, &with_ledger, progress, &mut known).await?;
    let is_wanted = |workload: &WorkloadName| {
        namespace.as_ref().is_none_or(|namespace| *namespace == workload.namespace)
            && choice.as_ref().is_none_or(|choice| choice.is(workload))
    };
    let wanted: Vec<WorkloadName> = suggester.workloads().filter(|name| is_wanted(name)).cloned().collect();
    let suggestions = read_and_suggest(cluster, &suggester, &wanted, &mut known, progress).await?;
    progress.clear();
    if !without.is_empty() {
        let names = and_list(without.iter().map(|node| escape(node)), MAX_NAMED);
        let have = if without.len() == 1 { "has" } else { "have" };
        known.notes.push(format!("{names} {have} no ledger: what pods bind there is not known"));
    }
    let answer = suggester.answer(suggestions, without.len());
    if answer.left_out > 0 {
        known.notes.push(format!("{} observed ports were too many for their ledgers", answer.left_out));
    }
    show(&answer, format)?;
    notes(&known.missing);
    notes(&known.notes);
    Ok(())
}

/// Makes the suggestions. What the ledgers suggest is worth a look at the workload itself.
async fn read_and_suggest(
    cluster: &Cluster,
    suggester: &Suggester,
    wanted: &[WorkloadName],
    known: &mut KnownNodes,
    progress: &Progress,
) -> Result<Vec<Suggestion>, Failure> {
    let now = Timestamp::now();
    let mut suggestions = Vec::new();
    let (mut read, mut gone, mut refused, mut unread) = (0, Vec::new(), Vec::new(), 0_usize);
    for name in wanted {
        let Some(by_ledgers) = suggester.suggest(name, None, now) else { continue };
        if by_ledgers.ports.is_empty() {
            suggestions.push(by_ledgers);
            continue;
        }
        if read == MAX_READ {
            unread += 1;
            suggestions.push(by_ledgers);
            continue;
        }
        read += 1;
        progress.show(read, "workloads");
        match read_workload(cluster, name).await {
            Ok(Known::Template(template)) => suggestions.extend(suggester.suggest(name, Some(&template), now)),
            Ok(Known::Gone) => gone.push(format!("{} {}/{}", name.kind, name.namespace, name.name)),
            Ok(Known::Unknown) => suggestions.push(by_ledgers),
            Err(Refusal::Forbidden(_)) => {
                refused.push(format!("{} {}/{}", name.kind, name.namespace, name.name));
                suggestions.push(by_ledgers);
            }
            Err(refusal) => return Err(refusal.into_failure(Resource::Workloads, cluster)),
        }
    }
    if !gone.is_empty() {
        known.notes.push(format!("{} bound undeclared ports and is gone", and_list(&gone, MAX_NAMED)));
    }
    if !refused.is_empty() {
        known.missing.push(format!(
            "{} cannot be read, so the patch is made from ledgers: ask for the ClusterRole port-enforcer-reader \
             (deploy/components/readers/role.yaml)",
            and_list(&refused, MAX_NAMED)
        ));
    }
    if unread > 0 {
        known.notes.push(format!("{unread} workloads were not read themselves; choose a namespace with -n"));
    }
    Ok(suggestions)
}

async fn read_workload(cluster: &Cluster, name: &WorkloadName) -> Result<Known, Refusal> {
    /// Reads one object and finds the template in it.
    macro_rules! template {
        ($kind:ty, $find:expr) => {{
            let api: Api<$kind> = Api::namespaced(cluster.client.clone(), &name.namespace);
            let object = api.get_opt(&name.name).await.map_err(|error| Refusal::of(&error, Resource::Workloads))?;
            object.map(|object| $find(object))
        }};
    }
    let found: Option<Option<PodTemplateSpec>> = match name.kind.as_str() {
        "DaemonSet" => template!(DaemonSet, |it: DaemonSet| it.spec.map(|spec| spec.template)),
        "Deployment" => template!(Deployment, |it: Deployment| it.spec.map(|spec| spec.template)),
        "StatefulSet" => template!(StatefulSet, |it: StatefulSet| it.spec.map(|spec| spec.template)),
        "ReplicaSet" => template!(ReplicaSet, |it: ReplicaSet| it.spec.and_then(|spec| spec.template)),
        "ReplicationController" => {
            template!(ReplicationController, |it: ReplicationController| it.spec.and_then(|spec| spec.template))
        }
        "CronJob" => {
            template!(CronJob, |it: CronJob| it.spec.and_then(|spec| spec.job_template.spec).map(|spec| spec.template))
        }
        "Pod" => template!(Pod, |it: Pod| Some(PodTemplateSpec { metadata: Some(it.metadata), spec: it.spec })),
        _ => return Ok(Known::Unknown),
    };
    Ok(match found {
        None => Known::Gone,
        Some(template) => {
            let template = template.unwrap_or_default();
            let spec = template.spec.unwrap_or_default();
            Known::Template(Box::new(Template::of(template.metadata.as_ref(), &spec)))
        }
    })
}

/// Writes the answer.
fn show(answer: &Suggestions, format: SuggestFormat) -> Result<(), Failure> {
    match format {
        SuggestFormat::Text => print(&people(answer, "kubectl host-ports suggest")),
        SuggestFormat::Json => print(&encode(answer, Encoding::Json)?),
        SuggestFormat::Yaml => print(&patches_yaml(answer)),
        SuggestFormat::Patch => {
            let patch = one_patch(answer).map_err(Failure::usage)?;
            if patch.is_none() {
                eprintln!("{}", no_patch(answer));
            }
            print(&patch.unwrap_or_default())
        }
    }
}
