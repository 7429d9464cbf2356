//! The two APIs of policy reports, which of them a cluster has, and the object that each makes of a report.

use std::fmt;

use clap::ValueEnum;
use enforcer_core::cluster::policy_reports::{PolicyReport, REPORT_NAME, SOURCE};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind, TypeMeta};

use crate::{
    cluster::{Cluster, Refusal, Resource},
    failure::Failure,
};

/// Label by which own reports are found, and by which others know whose they are.
pub(super) const OWNER_LABEL: &str = "app.kubernetes.io/managed-by";

/// API of policy reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(clippy::doc_markdown, reason = "the help text shows no backticks")]
pub(crate) enum ReportApi {
    /// PolicyReport and ClusterPolicyReport, which most dashboards read
    #[value(name = "wgpolicyk8s.io")]
    PolicyWorkingGroup,
    /// Report and ClusterReport, its successor
    #[value(name = "openreports.io")]
    OpenReports,
}

impl fmt::Display for ReportApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.group())
    }
}

impl ReportApi {
    /// All of them. Where a cluster has both, the first is written.
    const ALL: [Self; 2] = [Self::PolicyWorkingGroup, Self::OpenReports];

    /// Returns its API group.
    pub(super) const fn group(self) -> &'static str {
        match self {
            Self::PolicyWorkingGroup => "wgpolicyk8s.io",
            Self::OpenReports => "openreports.io",
        }
    }

    const fn version(self) -> &'static str {
        match self {
            Self::PolicyWorkingGroup => "v1alpha2",
            Self::OpenReports => "v1alpha1",
        }
    }

    /// Returns the resource of the reports of namespaces, or of the cluster.
    pub(super) fn resource(self, is_namespaced: bool) -> ApiResource {
        let (kind, plural) = match (self, is_namespaced) {
            (Self::PolicyWorkingGroup, true) => ("PolicyReport", "policyreports"),
            (Self::PolicyWorkingGroup, false) => ("ClusterPolicyReport", "clusterpolicyreports"),
            (Self::OpenReports, true) => ("Report", "reports"),
            (Self::OpenReports, false) => ("ClusterReport", "clusterreports"),
        };
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(self.group(), self.version(), kind), plural)
    }

    /// Returns the object of a report.
    pub(super) fn object(self, report: &PolicyReport) -> Result<DynamicObject, Failure> {
        let PolicyReport { namespace, content } = report;
        let resource = self.resource(namespace.is_some());
        let mut data = serde_json::to_value(content).map_err(Failure::runtime)?;
        if self == Self::OpenReports {
            data["source"] = SOURCE.into();
        }
        let labels = [(OWNER_LABEL, SOURCE), ("app.kubernetes.io/part-of", SOURCE)];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let metadata = ObjectMeta {
            name: Some(REPORT_NAME.to_owned()),
            namespace: namespace.clone(),
            labels: Some(labels.into()),
            ..ObjectMeta::default()
        };
        Ok(DynamicObject {
            types: Some(TypeMeta { api_version: resource.api_version, kind: resource.kind }),
            metadata,
            data,
        })
    }

    /// Returns the sentence about a cluster without it.
    pub(super) fn missing(self, server: &str) -> String {
        format!(
            "{server} has no {}/{}: install its definitions, or choose another with --report-api",
            self.group(),
            self.version()
        )
    }

    /// Returns the sentence about a cluster with neither.
    pub(super) fn none_served(server: &str) -> String {
        format!(
            "{server} has no API of policy reports: install the definitions of wgpolicyk8s.io/v1alpha2 (Kyverno brings \
             them) or of openreports.io/v1alpha1; --report-api with -o yaml prints reports for another cluster"
        )
    }
}

/// Returns the APIs that the cluster has, the first one to write.
pub(super) async fn served_apis(cluster: &Cluster) -> Result<Vec<ReportApi>, Failure> {
    let mut served = Vec::new();
    for api in ReportApi::ALL {
        let version = format!("{}/{}", api.group(), api.version());
        match cluster.client.list_api_group_resources(&version).await {
            Ok(list) => {
                let has = |plural: &str| list.resources.iter().any(|resource| resource.name == plural);
                if has(&api.resource(true).plural) && has(&api.resource(false).plural) {
                    served.push(api);
                }
            }
            Err(error) => match Refusal::of(&error, Resource::PolicyReports) {
                Refusal::NotFound => {}
                refusal => return Err(refusal.into_failure(Resource::PolicyReports, cluster)),
            },
        }
    }
    Ok(served)
}
