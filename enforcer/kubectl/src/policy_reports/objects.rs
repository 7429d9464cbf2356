//! Reads and writes of own reports. A report of somebody else is never changed: a new one is created by a request that fails
//! if there is one, and an own one is changed or deleted by its UID.

use enforcer_core::{
    cluster::policy_reports::{ExistingReport, PolicyReport, SOURCE},
    model::text::{escape_bounded, message_with_causes},
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
    core::{DynamicObject, Status},
};

use super::{
    existing, place_of,
    report_api::{OWNER_LABEL, ReportApi},
};
use crate::{
    cluster::{Cluster, Progress, Refusal, Resource, for_each},
    failure::Failure,
};

/// Name under which the API server notes whose the fields are.
const FIELD_MANAGER: &str = "port-enforcer-policy-reports";

/// Longest message of the server that is shown, in characters.
const MAX_MESSAGE: usize = 300;

/// The reports of one API.
pub(super) struct ReportObjects<'a> {
    cluster: &'a Cluster,
    api: ReportApi,
}

impl<'a> ReportObjects<'a> {
    pub(super) const fn new(cluster: &'a Cluster, api: ReportApi) -> Self {
        Self { cluster, api }
    }

    fn api_of(&self, namespace: Option<&str>) -> Api<DynamicObject> {
        let resource = self.api.resource(namespace.is_some());
        match namespace {
            Some(namespace) => Api::namespaced_with(self.cluster.client.clone(), namespace, &resource),
            None => Api::all_with(self.cluster.client.clone(), &resource),
        }
    }

    /// Lists own reports: of one namespace, or of all and of the cluster.
    pub(super) async fn list_own(&self, namespace: Option<&str>) -> Result<Vec<ExistingReport>, Refusal> {
        let mut own = Vec::new();
        let apis = match namespace {
            Some(_) => vec![self.api_of(namespace)],
            None => [true, false]
                .map(|is_namespaced| Api::all_with(self.cluster.client.clone(), &self.api.resource(is_namespaced)))
                .into(),
        };
        for api in apis {
            let params = ListParams::default().labels(&format!("{OWNER_LABEL}={SOURCE}"));
            let take = |object: DynamicObject| own.push(existing(object));
            for_each(&api, Resource::PolicyReports, params, &Progress::new(false), take).await?;
        }
        Ok(own)
    }

    /// Returns the failure to list own reports.
    pub(super) fn cannot_read(&self, refusal: Refusal) -> Failure {
        refusal.into_failure(Resource::PolicyReports, self.cluster)
    }

    /// Creates a report. Returns false if its namespace is gone: a ledger may be older than that.
    pub(super) async fn create(&self, report: &PolicyReport) -> Result<bool, Failure> {
        let object = self.api.object(report)?;
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        match self.api_of(report.namespace.as_deref()).create(&params, &object).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if report.namespace.is_some() && is_namespace_gone(&status) => Ok(false),
            Err(error) => Err(self.failure(report.namespace.as_deref(), &object_name(&object), &error)),
        }
    }

    /// Writes the report with this UID anew.
    pub(super) async fn update(&self, report: &PolicyReport, uid: &str) -> Result<(), Failure> {
        let mut object = self.api.object(report)?;
        object.metadata.uid = Some(uid.to_owned());
        let name = object_name(&object);
        // By force: who edits a report of ours by hand loses against the ledgers.
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let done = self.api_of(report.namespace.as_deref()).patch(&name, &params, &Patch::Apply(&object)).await;
        done.map(|_| ()).map_err(|error| self.failure(report.namespace.as_deref(), &name, &error))
    }

    /// Deletes a report. One that is gone already is no failure.
    pub(super) async fn delete(&self, report: &ExistingReport) -> Result<(), Failure> {
        let ExistingReport { namespace, name, uid, content: _ } = report;
        let conditions = Preconditions { uid: Some(uid.clone()), ..Preconditions::default() };
        let params = DeleteParams::default().preconditions(conditions);
        match self.api_of(namespace.as_deref()).delete(name, &params).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(self.failure(namespace.as_deref(), name, &error)),
        }
    }

    /// Returns the failure of one write, with what to do.
    fn failure(&self, namespace: Option<&str>, name: &str, error: &kube::Error) -> Failure {
        let place = place_of(namespace, name);
        let plural = self.api.resource(namespace.is_some()).plural;
        let what = format!("{plural} {place}");
        match error {
            kube::Error::Api(status) if status.reason == "AlreadyExists" => Failure::runtime(format!(
                "{what} belongs to somebody else: it has no label {OWNER_LABEL}={SOURCE}; rename or delete it"
            )),
            kube::Error::Api(status) if status.code == 403 => Failure::privilege(format!(
                "{what}: {}; ask for the ClusterRole port-enforcer-policy-reports \
                 (deploy/components/policy-reports/rbac.yaml)",
                escape_bounded(&status.message, MAX_MESSAGE)
            )),
            kube::Error::Api(status) => {
                let message = escape_bounded(&status.message, MAX_MESSAGE);
                Failure::runtime(format!("{what}: {}: {message}", status.code))
            }
            error => Failure::runtime(format!("{what}: {}", escape_bounded(&message_with_causes(error), MAX_MESSAGE))),
        }
    }
}

/// Checks for the refusal of a namespace that is not there, or that is being deleted.
fn is_namespace_gone(status: &Status) -> bool {
    let mut causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 404 || causes.any(|cause| cause.reason == "NamespaceTerminating")
}

fn object_name(object: &DynamicObject) -> String {
    object.metadata.name.clone().unwrap_or_default()
}
