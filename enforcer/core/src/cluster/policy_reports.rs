//! Policy reports of host ports: the conflicts of all nodes as the objects that dashboards list. Documented in
//! docs/policy-reports.md.
//!
//! There is one report for each namespace with a pod or Service in a conflict, and one for the cluster with what concerns
//! nodes and host processes. A conflict is a result for each of its two parties, in the report of the party.

mod steps;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::host_ports::{ClusterConflict, NodeKnowledge, NodePorts};
use crate::{
    ledger::node_host_ports::{LedgerActor, LedgerConflict},
    model::{digest::Digest, port_spec::protocol_name, text::escape_bounded},
    pods::annotation,
};

pub use self::steps::{ExistingReport, ReportStep, steps};

/// Name of each report: there is one in a namespace.
pub const REPORT_NAME: &str = "port-enforcer";
/// Source of each result, and value of the label by which own reports are found.
pub const SOURCE: &str = "port-enforcer";
/// Policy of each result. The kind of the conflict is its rule.
pub const POLICY: &str = "host-ports";
/// Rule of the result that counts what a report has no room for.
pub const RULE_LEFT_OUT: &str = "leftOut";
/// Rule of the result about a node whose ledger had no room for all conflicts.
pub const RULE_INCOMPLETE: &str = "ledgerIncomplete";

/// Most results of a report, besides the one that counts what was left out.
pub const MAX_RESULTS: usize = 500;
/// Largest results of a report as JSON, in bytes: a third of what etcd takes in one request.
pub const MAX_BYTES: usize = 512 << 10;
/// Most namespaces with a report. Whoever may write ledgers may name any.
pub const MAX_NAMESPACES: usize = 5_000;
/// Longest message, in characters.
const MAX_MESSAGE: usize = 512;
/// Longest value of a property, in characters.
const MAX_PROPERTY: usize = 256;

/// Outcome of a result. Dashboards show `fail` first; some show nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ResultOutcome {
    /// It could not be found out.
    Error,
    /// The subject is in the way, tries in vain, or is harmed.
    Fail,
    /// Somebody else is in conflict with the subject, which is not harmed.
    Warn,
    /// Accepted from the reports of others only.
    Pass,
    /// Accepted from the reports of others only.
    Skip,
}

/// Severity of a result. Older definitions of the API know these three alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ResultSeverity {
    /// Something does not work, or traffic goes astray.
    High,
    /// It works, and differently from what the manifests say.
    Medium,
    /// For information.
    Low,
}

/// Object that a result is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReportSubject {
    /// Version of its API: `v1`.
    pub api_version: String,
    /// `Pod`, `Service`, `Node`, or `Namespace`.
    pub kind: String,
    /// Its namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Its UID, where it was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

impl ReportSubject {
    fn new(kind: &str, namespace: Option<&str>, name: &str) -> Self {
        let namespace = namespace.map(str::to_owned);
        Self { api_version: "v1".to_owned(), kind: kind.to_owned(), namespace, name: name.to_owned(), uid: None }
    }
}

/// Time of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ResultTime {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds of that second.
    pub nanos: i32,
}

/// Result of a report: one party of a conflict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyResult {
    /// Source of the result.
    pub source: String,
    /// Policy.
    pub policy: String,
    /// Rule: the kind of the conflict.
    pub rule: String,
    /// Category, by which dashboards group.
    pub category: String,
    /// Severity.
    pub severity: ResultSeverity,
    /// Outcome.
    pub result: ResultOutcome,
    /// Message for people; its words may change.
    pub message: String,
    /// The object that it is about.
    pub resources: Vec<ReportSubject>,
    /// Time since when it holds or, where nobody knows that, time when it was reported first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<ResultTime>,
    /// More about it, by name.
    pub properties: BTreeMap<String, String>,
}

/// Name of the property that tells results apart. Policy Reporter takes it as the identity of a result.
const RESULT_ID: &str = "resultID";

impl PolicyResult {
    /// Returns what tells it apart from other results.
    fn id(&self) -> &str {
        self.properties.get(RESULT_ID).map_or("", String::as_str)
    }

    fn subject_name(&self) -> &str {
        self.resources.first().map_or("", |subject| subject.name.as_str())
    }
}

/// Counts of the results of a report, with those for which it has no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportSummary {
    /// None of ours.
    pub pass: u64,
    /// Parties that are in the way, try in vain, or are harmed.
    pub fail: u64,
    /// Parties that are not harmed.
    pub warn: u64,
    /// What could not be found out or shown.
    pub error: u64,
    /// None of ours.
    pub skip: u64,
}

impl ReportSummary {
    const fn count(&mut self, outcome: ResultOutcome) {
        match outcome {
            ResultOutcome::Error => self.error += 1,
            ResultOutcome::Fail => self.fail += 1,
            ResultOutcome::Warn => self.warn += 1,
            ResultOutcome::Pass => self.pass += 1,
            ResultOutcome::Skip => self.skip += 1,
        }
    }
}

/// Content of a report, as both APIs have it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReportContent {
    /// What all of it is about: the namespace; absent for the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<ReportSubject>,
    /// Counts.
    pub summary: ReportSummary,
    /// Results: those that failed first.
    #[serde(default)]
    pub results: Vec<PolicyResult>,
}

/// Report of a namespace or of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyReport {
    /// The namespace; `None` for the cluster.
    pub namespace: Option<String>,
    /// Its content.
    pub content: ReportContent,
}

/// Place of a result in its report.
type Rank = (ResultOutcome, ResultSeverity, String, String);

/// Results of one report, while nodes are read. Holds no more of them than fit.
#[derive(Debug, Default)]
struct Draft {
    results: BTreeMap<Rank, PolicyResult>,
    summary: ReportSummary,
    left_out: u64,
}

impl Draft {
    fn add(&mut self, result: PolicyResult) {
        let rank = (result.result, result.severity, result.subject_name().to_owned(), result.id().to_owned());
        if self.results.contains_key(&rank) {
            return;
        }
        self.summary.count(result.result);
        self.results.insert(rank, result);
        if self.results.len() > MAX_RESULTS {
            self.results.pop_last();
            self.left_out += 1;
        }
    }

    fn finish(self, namespace: Option<String>) -> PolicyReport {
        let Self { results, mut summary, mut left_out } = self;
        let mut kept = Vec::with_capacity(results.len());
        let mut bytes = 0;
        for result in results.into_values() {
            bytes += serde_json::to_vec(&result).map_or(MAX_BYTES, |json| json.len());
            if bytes > MAX_BYTES {
                left_out += 1;
            } else {
                kept.push(result);
            }
        }
        let scope = namespace.as_deref().map(|namespace| ReportSubject::new("Namespace", None, namespace));
        if left_out > 0 {
            let filter = namespace.as_deref().map_or_else(String::new, |namespace| format!(" -n {namespace}"));
            let message = format!(
                "{left_out} more results had no room in this report; see kubectl host-ports --conflicts{filter}"
            );
            summary.count(ResultOutcome::Error);
            kept.push(result(RULE_LEFT_OUT, ResultOutcome::Error, ResultSeverity::Low, &message, scope.clone()));
        }
        PolicyReport { namespace, content: ReportContent { scope, summary, results: kept } }
    }
}

/// Makes reports of what is known about each node.
#[derive(Debug, Default)]
pub struct ReportBuilder {
    /// Only the report of this namespace.
    only: Option<String>,
    cluster: Draft,
    namespaces: BTreeMap<String, Draft>,
}

impl ReportBuilder {
    /// Starts with nothing. With `only`, there is the report of this namespace at most.
    #[must_use]
    pub fn new(only: Option<String>) -> Self {
        Self { only, ..Self::default() }
    }

    /// Adds the conflicts of a node.
    pub fn add(&mut self, ports: &NodePorts) {
        let NodePorts { node, conflicts, rows: _ } = ports;
        for conflict in conflicts {
            for party in [ConflictParty::Who, ConflictParty::Other] {
                if let Some(result) = result_of(conflict, node.known, party) {
                    self.put(result);
                }
            }
        }
        // What comes from Services is in no ledger.
        let shown = conflicts.iter().filter(|conflict| conflict.conflict.kind != "shadowed").count();
        if node.left_out > 0 && node.counts.conflicts as usize > shown && is_name(&node.name) {
            let message = format!(
                "on {}, {shown} of {} conflicts are known: its ledger had no room for {} rows and conflicts",
                node.name, node.counts.conflicts, node.left_out
            );
            let subject = Some(ReportSubject::new("Node", None, &node.name));
            self.put(result(RULE_INCOMPLETE, ResultOutcome::Error, ResultSeverity::Medium, &message, subject));
        }
    }

    fn put(&mut self, result: PolicyResult) {
        let namespace = result.resources.first().and_then(|subject| subject.namespace.as_ref());
        let is_wanted = self.only.as_ref().is_none_or(|only| namespace == Some(only));
        match namespace {
            _ if !is_wanted => {}
            None => self.cluster.add(result),
            Some(namespace) if self.namespaces.contains_key(namespace) || self.namespaces.len() < MAX_NAMESPACES => {
                self.namespaces.entry(namespace.clone()).or_default().add(result);
            }
            Some(_) => {
                self.cluster.summary.count(result.result);
                self.cluster.left_out += 1;
            }
        }
    }

    /// Returns the reports, that of the cluster first. A report without results does not exist.
    #[must_use]
    pub fn finish(self) -> Vec<PolicyReport> {
        let Self { only: _, cluster, namespaces } = self;
        let namespaces = namespaces.into_iter().map(|(namespace, draft)| draft.finish(Some(namespace)));
        let reports = std::iter::once(cluster.finish(None)).chain(namespaces);
        reports.filter(|report| !report.content.results.is_empty()).collect()
    }
}

/// Party of a conflict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConflictParty {
    /// The one that is in the way, has lost, tries in vain, or does not answer itself.
    Who,
    /// The other one.
    Other,
}

/// Returns outcome and severity of a conflict for one party.
fn judge(kind: &str, party: ConflictParty) -> (ResultOutcome, ResultSeverity) {
    match (kind, party) {
        // The owner's port is taken.
        ("notOwner", _) | ("inUse" | "answeredByOther" | "shadowed", ConflictParty::Who) => {
            (ResultOutcome::Fail, ResultSeverity::High)
        }
        ("shared", _) | (_, ConflictParty::Who) => (ResultOutcome::Fail, ResultSeverity::Medium),
        (_, ConflictParty::Other) => (ResultOutcome::Warn, ResultSeverity::Low),
    }
}

/// Returns the result of a conflict for one party; `None` for a pod that is gone.
fn result_of(conflict: &ClusterConflict, known: NodeKnowledge, party: ConflictParty) -> Option<PolicyResult> {
    let ClusterConflict { node, conflict, message } = conflict;
    let LedgerConflict { kind, ports, who, other, since } = conflict;
    let (own, opposite) = match party {
        ConflictParty::Who => (who, other),
        ConflictParty::Other => (other, who),
    };
    let subject = subject_of(own, node)?;
    let (outcome, severity) = judge(kind, party);
    let message = format!("{message} (on {node})");
    let mut made = result(kind, outcome, severity, &message, Some(subject));
    made.timestamp = since.as_deref().and_then(|since| since.parse::<Timestamp>().ok()).map(ResultTime::from);
    let holder = match kind.as_str() {
        "shared" => format!("{who}, {other}"),
        "notOwner" => who.to_string(),
        _ => other.to_string(),
    };
    let mut more = vec![
        ("node", node.clone()),
        ("ports", ports.clone()),
        ("holder", holder),
        ("other", opposite.to_string()),
        (
            "known",
            match known {
                NodeKnowledge::Ledger => "ledger",
                NodeKnowledge::Manifests => "manifests",
            }
            .to_owned(),
        ),
    ];
    if let Some(spec) = annotation::parse_list(ports).unwrap_or_default().first() {
        more.push(("port", spec.ports.to_string()));
        more.push(("protocol", protocol_name(spec.protocol).to_owned()));
    }
    let (first, second) = (own.to_string(), opposite.to_string());
    // Its kind, so that a pod and a unit of one name are two.
    let texts = [node, kind, ports, &own.kind, &first, &opposite.kind, &second].map(String::as_str);
    more.push((RESULT_ID, format!("{:?}", Digest::of("policy result", texts))));
    for (name, value) in more {
        made.properties.insert(name.to_owned(), escape_bounded(&value, MAX_PROPERTY));
    }
    Some(made)
}

/// Returns a result without a time.
fn result(
    rule: &str,
    outcome: ResultOutcome,
    severity: ResultSeverity,
    message: &str,
    subject: Option<ReportSubject>,
) -> PolicyResult {
    let name = subject.as_ref().map_or("", |subject| subject.name.as_str());
    let id = format!("{:?}", Digest::of("policy result", [rule, name]));
    PolicyResult {
        source: SOURCE.to_owned(),
        policy: POLICY.to_owned(),
        rule: escape_bounded(rule, MAX_PROPERTY),
        category: "Host ports".to_owned(),
        severity,
        result: outcome,
        message: escape_bounded(message, MAX_MESSAGE),
        resources: subject.into_iter().collect(),
        timestamp: None,
        properties: BTreeMap::from([(RESULT_ID.to_owned(), id)]),
    }
}

/// Returns the object behind a party. What is none, as a host process, is a matter of its node. Names that no object can
/// have are too: they would be part of a path of the API.
fn subject_of(actor: &LedgerActor, node: &str) -> Option<ReportSubject> {
    let LedgerActor { kind, namespace, name, .. } = actor;
    let kind = match kind.as_str() {
        // The pod is gone, and its workload has done nothing.
        "remnant" => return None,
        "pod" => Some("Pod"),
        "service" => Some("Service"),
        _ => None,
    };
    let named = namespace.as_deref().zip(name.as_deref());
    let named = named.filter(|(namespace, name)| is_label(namespace) && is_name(name));
    match kind.zip(named) {
        Some((kind, (namespace, name))) => Some(ReportSubject::new(kind, Some(namespace), name)),
        None => Some(ReportSubject::new("Node", None, node)).filter(|_| is_name(node)),
    }
}

/// Checks for the name of a namespace (RFC 1123).
fn is_label(text: &str) -> bool {
    text.len() <= 63 && is_part(text)
}

/// Checks for the name of a pod, Service or node.
fn is_name(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_part)
}

/// Checks for letters and digits, with dashes inside only.
fn is_part(text: &str) -> bool {
    let is_letter = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    let is_inside = |letter: char| is_letter(letter) || letter == '-';
    text.starts_with(is_letter) && text.ends_with(is_letter) && text.chars().all(is_inside)
}

impl From<Timestamp> for ResultTime {
    fn from(time: Timestamp) -> Self {
        // Whole seconds: some dashboards read nothing else.
        Self { seconds: time.as_second(), nanos: 0 }
    }
}
