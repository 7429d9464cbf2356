//! A baseline: findings that a team accepts for now, so that only what is new counts.
//!
//! ```yaml
//! apiVersion: port-enforcer.io/v1alpha1
//! kind: CheckBaseline
//! findings:
//! - fingerprint: "5f1c8e0d7a3b49c2a1e6d4f0b8c7932e:1"
//!   code: conflict
//!   severity: error
//!   object: DaemonSet prometheus/prometheus-node-exporter
//!   other: DaemonSet monitoring/node-exporter
//!   ports: [9100/tcp]
//! ```
//!
//! A finding without an object has `file` instead. The fingerprint says which finding it is, severity and `nodesNeeded` how bad it may be; all else is for people.

mod text;

use std::collections::BTreeMap;

use super::{
    finding::{Code, Finding, Severity},
    fingerprint::Fingerprint,
};
use crate::{
    model::text::escape_bounded,
    yaml::{
        documents::{Document, UnreadableDocument, documents, with_large_stack},
        spanned::{Node, Value},
    },
};

/// API version of a baseline.
const API_VERSION: &str = "port-enforcer.io/v1alpha1";
/// Kind of a baseline.
const KIND: &str = "CheckBaseline";
/// Most entries of a baseline: as many as there are findings of one run.
const MAX_ENTRIES: usize = super::MAX_FINDINGS;
/// Longest text of a baseline that is shown, in characters.
const MAX_SHOWN: usize = 600;
/// Keys of an entry.
const KEYS: [&str; 8] = ["fingerprint", "code", "severity", "nodesNeeded", "object", "other", "ports", "file"];

/// Findings that are accepted, by their fingerprints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baseline {
    entries: BTreeMap<Fingerprint, AcceptedFinding>,
}

/// A finding that is accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedFinding {
    /// Its code.
    pub code: String,
    /// Its severity: a finding that is more severe is not accepted.
    pub severity: Severity,
    /// Count of nodes that it needed: a finding that needs more is not accepted.
    pub nodes_needed: Option<u32>,
    /// The object, or the file of a finding without one, safe to show.
    pub object: String,
    /// The other object; empty if there is none.
    other: String,
    /// The finding is of the file named as object.
    of_file: bool,
    /// The ports.
    ports: Vec<String>,
}

/// Findings of a run, compared with a baseline.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// For each finding: it is accepted, and does not count.
    pub accepted: Vec<bool>,
    /// Entries without an error or a warning any more.
    pub stale: Vec<(Fingerprint, AcceptedFinding)>,
}

impl Baseline {
    /// Reads a baseline.
    ///
    /// # Errors
    ///
    /// The reason why it is none, safe to show. An entry that cannot be read makes it none: otherwise nobody would know
    /// what it accepts.
    pub fn read(text: &str) -> Result<Self, String> {
        with_large_stack(|| {
            let mut all = documents(text)
                .filter(|document| !matches!(document, Ok(Document { root, .. }) if root.value == Value::Null));
            let Document { lines_before, root } = match all.next() {
                None => return Err("it is empty".to_owned()),
                Some(Err(UnreadableDocument { line, message })) => return Err(format!("line {line}: {message}")),
                Some(Ok(document)) => document,
            };
            if all.next().is_some() {
                return Err("it has more than one document".to_owned());
            }
            let word = |key: &str| root.get(key).and_then(Node::text).unwrap_or_default();
            if (word("apiVersion"), word("kind")) != (API_VERSION, KIND) {
                return Err(format!("it does not begin with apiVersion: {API_VERSION} and kind: {KIND}"));
            }
            let Some(Node { value: Value::List(nodes), .. }) = root.get("findings") else {
                return Err("it has no list of findings".to_owned());
            };
            if nodes.len() > MAX_ENTRIES {
                return Err(format!("it has more than {MAX_ENTRIES} findings"));
            }
            let mut baseline = Self::default();
            for node in nodes {
                let line = lines_before.saturating_add(node.line);
                let (fingerprint, entry) = entry(node).map_err(|reason| format!("line {line}: {reason}"))?;
                if baseline.entries.insert(fingerprint, entry).is_some() {
                    return Err(format!("line {line}: {fingerprint} is there twice"));
                }
            }
            Ok(baseline)
        })
    }

    /// Creates the baseline that accepts these findings, without notes and without what no baseline accepts.
    pub fn of<'a>(findings: impl IntoIterator<Item = (&'a Finding, Fingerprint)>) -> Self {
        let all = findings.into_iter().filter(|(finding, _)| is_acceptable(finding));
        Self { entries: all.map(|(finding, fingerprint)| (fingerprint, AcceptedFinding::of(finding))).collect() }
    }

    /// Takes entries out.
    pub fn remove(&mut self, stale: &[(Fingerprint, AcceptedFinding)]) {
        for (fingerprint, _) in stale {
            self.entries.remove(fingerprint);
        }
    }

    /// Returns the count of its entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Checks whether it accepts nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Compares findings with the baseline. The message of one that got worse says so.
    pub fn compare(&self, findings: &mut [Finding], fingerprints: &[Fingerprint]) -> Comparison {
        let mut stale = self.entries.clone();
        let accepted = findings.iter_mut().zip(fingerprints).map(|(finding, fingerprint)| {
            let Some(entry) = self.entries.get(fingerprint).filter(|_| is_acceptable(finding)) else { return false };
            stale.remove(fingerprint);
            let worse = entry.worse(finding);
            if let Some(worse) = &worse {
                finding.message += worse;
            }
            worse.is_none()
        });
        let accepted = accepted.collect();
        Comparison { accepted, stale: stale.into_iter().collect() }
    }
}

/// Checks whether a baseline can accept a finding. If not everything was compared, nobody knows what there is to accept.
fn is_acceptable(finding: &Finding) -> bool {
    finding.severity != Severity::Note && finding.code != Code::Incomplete
}

impl AcceptedFinding {
    fn of(finding: &Finding) -> Self {
        let Finding { code, severity, place, object, other, ports, nodes_needed, .. } = finding;
        let object = object.as_ref().map(ToString::to_string);
        Self {
            code: code.as_str().to_owned(),
            severity: *severity,
            nodes_needed: *nodes_needed,
            of_file: object.is_none(),
            object: object.unwrap_or_else(|| place.file.to_string()),
            other: other.as_ref().map(ToString::to_string).unwrap_or_default(),
            ports: ports.clone(),
        }
    }

    /// Returns the words for a finding that is worse than this entry accepts.
    fn worse(&self, finding: &Finding) -> Option<String> {
        if finding.severity < self.severity {
            return Some(format!("; the baseline accepts it as a {} only", self.severity.as_str()));
        }
        let accepted =
            self.nodes_needed.filter(|accepted| finding.nodes_needed.is_some_and(|needed| needed > *accepted));
        accepted.map(|nodes| format!("; the baseline accepts it with {nodes} nodes only"))
    }
}

/// Reads an entry. The reason why it is none is safe to show.
fn entry(node: &Node) -> Result<(Fingerprint, AcceptedFinding), String> {
    if !matches!(node.value, Value::Map(_)) {
        return Err("the entry is no mapping".to_owned());
    }
    if let Some((key, _)) = node.entries().iter().find(|(key, _)| !KEYS.contains(&key.as_str())) {
        return Err(format!("the entry has the unknown key '{}'", escape_bounded(key, MAX_SHOWN)));
    }
    let text = |key: &str| match node.get(key) {
        None => Ok(None),
        Some(node) => match node.text() {
            Some(text) => Ok(Some(escape_bounded(text, MAX_SHOWN))),
            None => Err(format!("{key} is no text")),
        },
    };
    let needed = |key: &str| text(key)?.ok_or_else(|| format!("the entry has no {key}"));
    let fingerprint = needed("fingerprint")?;
    let fingerprint = fingerprint.parse().map_err(|reason| format!("'{fingerprint}' is no fingerprint: {reason}"))?;
    let severity = needed("severity")?;
    let severity = [Severity::Error, Severity::Warning]
        .into_iter()
        .find(|known| known.as_str() == severity)
        .ok_or_else(|| format!("severity is '{severity}'; write error or warning"))?;
    let nodes_needed = match node.get("nodesNeeded").map(|node| &node.value) {
        None => None,
        Some(Value::Number(number)) => Some(number.as_i64().and_then(|number| number.try_into().ok())),
        Some(_) => Some(None),
    };
    let nodes_needed = nodes_needed.map(|number| number.ok_or("nodesNeeded is no count of nodes")).transpose()?;
    let ports = node.get("ports").map(Node::items).unwrap_or_default();
    let ports = ports.iter().filter_map(|port| Some(escape_bounded(port.text()?, MAX_SHOWN))).collect();
    let (object, file) = (text("object")?, text("file")?);
    Ok((
        fingerprint,
        AcceptedFinding {
            code: needed("code")?,
            severity,
            nodes_needed,
            of_file: object.is_none(),
            object: object.or(file).unwrap_or_default(),
            other: text("other")?.unwrap_or_default(),
            ports,
        },
    ))
}
