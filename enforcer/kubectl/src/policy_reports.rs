//! `kubectl host-ports policy-reports`: the conflicts as objects that dashboards list.

mod objects;
mod report_api;
mod uids;

use enforcer_core::{
    cluster::policy_reports::{
        ExistingReport, PolicyReport, REPORT_NAME, ReportBuilder, ReportStep, ReportSummary, ResultTime, steps,
    },
    model::text::escape,
};
use jiff::Timestamp;
use kube::core::DynamicObject;
use serde_json::json;

pub(crate) use self::report_api::ReportApi;
use self::{objects::ReportObjects, report_api::served_apis};
use crate::{
    cli::ReportFormat,
    cluster::{Cluster, KnownNodes, NodeScope, Progress, read_nodes, read_services},
    failure::Failure,
    output::{Encoding, encode, notes, print},
};

/// Most failed writes that are named.
const MAX_NAMED: usize = 3;

/// Wish of the user.
#[derive(Debug)]
pub(crate) struct ReportRequest {
    /// Only the report of this namespace.
    pub(crate) namespace: Option<String>,
    /// API to write; `None` for the one that the cluster has.
    pub(crate) api: Option<ReportApi>,
    /// What to do with the reports.
    pub(crate) action: ReportAction,
}

/// What to do with the reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReportAction {
    /// Writes them to the cluster.
    Apply,
    /// Prints them.
    Print(ReportFormat),
}

/// Makes the reports, and prints or writes them.
pub(crate) async fn run(cluster: &Cluster, request: ReportRequest, progress: &Progress) -> Result<(), Failure> {
    let ReportRequest { namespace, api, action } = request;
    let served = served_apis(cluster).await?;
    let wanted_api = match api {
        Some(api) if action == ReportAction::Apply && !served.contains(&api) => {
            return Err(Failure::runtime(api.missing(&cluster.server)));
        }
        Some(api) => api,
        None => *served.first().ok_or_else(|| Failure::runtime(ReportApi::none_served(&cluster.server)))?,
    };
    let mut known = KnownNodes::default();
    let mut builder = ReportBuilder::new(namespace.clone());
    let services = read_services(cluster, progress, &mut known).await?;
    read_nodes(cluster, NodeScope::All, &services, progress, &mut known, |ports| builder.add(&ports)).await?;
    progress.clear();
    if action == ReportAction::Apply && !known.missing.is_empty() {
        // What is not seen would count as ended, and its report would go.
        return Err(Failure::privilege(format!("no report was written, since not all is known: {}", known.missing[0])));
    }
    let mut reports = builder.finish();
    uids::set(cluster, &mut reports, &mut known).await?;
    let now = ResultTime::from(Timestamp::now());
    match action {
        ReportAction::Print(format) => {
            let reports = steps(reports, Vec::new(), REPORT_NAME, now).into_iter().filter_map(|step| match step {
                ReportStep::Create(report) => Some(report),
                ReportStep::Update(..) | ReportStep::Delete(_) => None,
            });
            print(&shown(&reports.collect::<Vec<_>>(), wanted_api, format)?)?;
        }
        ReportAction::Apply => {
            let mut ended = Tally::default();
            apply(cluster, wanted_api, namespace.as_deref(), reports, now, &mut ended).await?;
            // Else both would be shown.
            for other in served.into_iter().filter(|api| *api != wanted_api) {
                remove_all(cluster, other, namespace.as_deref(), &mut ended, &mut known).await?;
            }
            ended.finish(cluster)?;
        }
    }
    notes(&known.missing);
    notes(&known.notes);
    Ok(())
}

/// Returns the reports for people or programs.
fn shown(reports: &[PolicyReport], api: ReportApi, format: ReportFormat) -> Result<String, Failure> {
    let objects = || reports.iter().map(|report| api.object(report));
    match format {
        ReportFormat::Text => {
            let end = match reports.len() {
                0 => "no conflicts, so there are no reports",
                _ => "nothing was written: --apply writes these reports, -o yaml prints them",
            };
            let lines: Vec<String> = reports.iter().map(line).chain([end.to_owned()]).collect();
            Ok(lines.join("\n") + "\n")
        }
        ReportFormat::Json => {
            let items = objects().collect::<Result<Vec<_>, _>>()?;
            encode(&json!({ "apiVersion": "v1", "kind": "List", "items": items }), Encoding::Json)
        }
        ReportFormat::Yaml => {
            let documents = objects().map(|object| encode(&object?, Encoding::Yaml).map(|text| format!("---\n{text}")));
            documents.collect()
        }
    }
}

/// Returns a report as one line.
fn line(PolicyReport { namespace, content }: &PolicyReport) -> String {
    let place = namespace.as_ref().map_or_else(|| "the cluster".to_owned(), |name| format!("namespace {name}"));
    let ReportSummary { fail, warn, error, .. } = content.summary;
    let error = if error > 0 { format!(", {error} error") } else { String::new() };
    format!("{place}: {fail} fail, {warn} warn{error}")
}

/// What came of the writes.
#[derive(Debug, Default)]
struct Tally {
    created: usize,
    updated: usize,
    deleted: usize,
    unchanged: usize,
    /// Reports of namespaces that are gone.
    gone: usize,
    failed: Vec<Failure>,
}

impl Tally {
    /// Prints the counts. Fails if a write did, with the first ones by name.
    fn finish(self, cluster: &Cluster) -> Result<(), Failure> {
        let Self { created, updated, deleted, unchanged, gone, failed } = self;
        print(&format!("{created} reports created, {updated} updated, {deleted} deleted, {unchanged} unchanged\n"))?;
        if gone > 0 {
            notes(&[format!(
                "{gone} reports were not written: their namespaces are gone, and a ledger names pods there"
            )]);
        }
        let Some(first) = failed.first() else { return Ok(()) };
        let named: Vec<&str> = failed.iter().take(MAX_NAMED).map(|failure| failure.message.as_str()).collect();
        let more = match failed.len().saturating_sub(MAX_NAMED) {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        let message =
            format!("cannot write {} reports to {}: {}{more}", failed.len(), cluster.server, named.join("; "));
        // A missing right is the exit code only where it is the reason of all.
        let code = if failed.iter().all(|failure| failure.code == first.code) { first.code } else { 4 };
        Err(Failure { code, message })
    }

    fn take(&mut self, done: Result<(), Failure>, count: impl FnOnce(&mut Self) -> &mut usize) {
        match done {
            Ok(()) => *count(self) += 1,
            Err(failure) => self.failed.push(failure),
        }
    }
}

/// Writes what differs. One report that cannot be written stops no other.
async fn apply(
    cluster: &Cluster,
    api: ReportApi,
    namespace: Option<&str>,
    wanted: Vec<PolicyReport>,
    now: ResultTime,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let objects = ReportObjects::new(cluster, api);
    let existing = objects.list_own(namespace).await.map_err(|refusal| objects.cannot_read(refusal))?;
    let total = wanted.len();
    let steps = steps(wanted, existing, REPORT_NAME, now);
    let written = steps.iter().filter(|step| !matches!(step, ReportStep::Delete(_))).count();
    tally.unchanged += total - written;
    for step in steps {
        match step {
            ReportStep::Create(report) => match objects.create(&report).await {
                Ok(false) => tally.gone += 1,
                done => tally.take(done.map(|_| ()), |tally| &mut tally.created),
            },
            ReportStep::Update(report, uid) => {
                tally.take(objects.update(&report, &uid).await, |tally| &mut tally.updated);
            }
            ReportStep::Delete(report) => tally.take(objects.delete(&report).await, |tally| &mut tally.deleted),
        }
    }
    Ok(())
}

/// Deletes own reports of the API that is not written. Without the right to list them there is a note.
async fn remove_all(
    cluster: &Cluster,
    api: ReportApi,
    namespace: Option<&str>,
    tally: &mut Tally,
    known: &mut KnownNodes,
) -> Result<(), Failure> {
    let objects = ReportObjects::new(cluster, api);
    match objects.list_own(namespace).await {
        Ok(existing) => {
            for report in &existing {
                tally.take(objects.delete(report).await, |tally| &mut tally.deleted);
            }
            Ok(())
        }
        Err(refusal) if refusal.is_forbidden() => {
            known.notes.push(format!("own reports of {} were not looked for: a right is missing", api.group()));
            Ok(())
        }
        Err(refusal) => Err(objects.cannot_read(refusal)),
    }
}

/// Returns a report of the cluster as one that exists; one that we would not write has no content.
fn existing(object: DynamicObject) -> ExistingReport {
    let metadata = object.metadata;
    ExistingReport {
        namespace: metadata.namespace,
        name: metadata.name.unwrap_or_default(),
        uid: metadata.uid.unwrap_or_default(),
        content: serde_json::from_value(object.data).ok(),
    }
}

/// Names a report for people.
fn place_of(namespace: Option<&str>, name: &str) -> String {
    match namespace {
        Some(namespace) => format!("{}/{}", escape(namespace), escape(name)),
        None => escape(name),
    }
}
