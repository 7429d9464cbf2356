//! What has to be written so that the reports of a cluster are the wanted ones.

use std::collections::BTreeMap;

use super::{PolicyReport, ReportContent, ResultTime};

/// Report of ours that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExistingReport {
    /// Its namespace; `None` for the cluster.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its content; `None` if it is not one that we would write.
    pub content: Option<ReportContent>,
}

/// Change of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReportStep {
    /// There is none of ours.
    Create(PolicyReport),
    /// The one with this UID has another content.
    Update(PolicyReport, String),
    /// Its conflicts have ended.
    Delete(ExistingReport),
}

/// Returns the steps from the existing reports of ours to the wanted ones. A report that is the same takes none: a result
/// without a known time keeps the time when it was reported first. `name` is the name of wanted reports.
#[must_use]
pub fn steps(wanted: Vec<PolicyReport>, existing: Vec<ExistingReport>, name: &str, now: ResultTime) -> Vec<ReportStep> {
    let mut steps = Vec::new();
    let mut present = BTreeMap::new();
    for report in existing {
        // One of another name is of a version that names them otherwise.
        if report.name == name {
            present.insert(report.namespace.clone(), report);
        } else {
            steps.push(ReportStep::Delete(report));
        }
    }
    for mut report in wanted {
        let present = present.remove(&report.namespace);
        let before = present.as_ref().and_then(|present| present.content.as_ref());
        set_times(&mut report.content, before, now);
        match present {
            None => steps.push(ReportStep::Create(report)),
            Some(present) if present.content.as_ref() == Some(&report.content) => {}
            Some(present) => steps.push(ReportStep::Update(report, present.uid)),
        }
    }
    steps.extend(present.into_values().map(ReportStep::Delete));
    steps
}

/// Sets the times that nobody knows: that of the same result before, or `now`.
fn set_times(content: &mut ReportContent, before: Option<&ReportContent>, now: ResultTime) {
    let results = before.into_iter().flat_map(|content| &content.results);
    let times: BTreeMap<&str, ResultTime> =
        results.filter_map(|result| Some((result.id(), result.timestamp?))).collect();
    for result in content.results.iter_mut().filter(|result| result.timestamp.is_none()) {
        result.timestamp = Some(times.get(result.id()).copied().unwrap_or(now));
    }
}
