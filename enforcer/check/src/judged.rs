//! Findings with what machines need of them: fingerprints, and which of them a baseline accepts.

use std::mem;

use enforcer_core::{
    check::{
        CheckResult, ManifestSet,
        baseline::{AcceptedFinding, Baseline, Comparison},
        finding::{Finding, Severity},
        fingerprint::{Fingerprint, fingerprints},
    },
    model::text::escape,
};

use crate::paths::FilePaths;

/// Findings of a check, judged by a baseline.
pub(crate) struct Judged<'a> {
    pub(crate) manifests: &'a ManifestSet,
    pub(crate) paths: &'a FilePaths,
    /// Number of nodes of the cluster, if it is known.
    pub(crate) nodes: Option<u32>,
    /// Name of the baseline, safe to show; `None` without one.
    pub(crate) baseline: Option<String>,
    outcome: CheckResult,
    fingerprints: Vec<Fingerprint>,
    comparison: Comparison,
}

/// A finding, judged by a baseline.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JudgedFinding<'a> {
    pub(crate) finding: &'a Finding,
    pub(crate) fingerprint: Fingerprint,
    /// A baseline accepts it: it does not count.
    pub(crate) is_accepted: bool,
}

impl<'a> Judged<'a> {
    /// Judges findings without a baseline.
    pub(crate) fn new(
        manifests: &'a ManifestSet,
        paths: &'a FilePaths,
        nodes: Option<u32>,
        outcome: CheckResult,
    ) -> Self {
        let fingerprints = fingerprints(&outcome.findings, |file| paths.name(file));
        let comparison = Comparison { accepted: vec![false; outcome.findings.len()], stale: Vec::new() };
        Self { manifests, paths, nodes, baseline: None, outcome, fingerprints, comparison }
    }

    /// Judges the findings by a baseline with this name.
    pub(crate) fn compare(&mut self, baseline: &Baseline, name: &str) {
        self.comparison = baseline.compare(&mut self.outcome.findings, &self.fingerprints);
        self.baseline = Some(escape(name));
    }

    /// Returns the findings in their order.
    pub(crate) fn findings(&self) -> impl Iterator<Item = JudgedFinding<'_>> {
        let prints = self.fingerprints.iter().zip(&self.comparison.accepted);
        self.outcome.findings.iter().zip(prints).map(|(finding, (fingerprint, is_accepted))| JudgedFinding {
            finding,
            fingerprint: *fingerprint,
            is_accepted: *is_accepted,
        })
    }

    /// Counts the findings of a severity that no baseline accepts, those that are left out too.
    pub(crate) fn count(&self, severity: Severity) -> usize {
        let shown = self.findings().filter(|judged| judged.finding.severity == severity && !judged.is_accepted).count();
        shown + self.outcome.more[severity as usize]
    }

    /// Counts the findings that the baseline accepts.
    pub(crate) fn accepted(&self) -> usize {
        self.comparison.accepted.iter().filter(|accepted| **accepted).count()
    }

    /// Counts the findings that are left out because there are too many.
    pub(crate) fn left_out(&self) -> usize {
        self.outcome.more.iter().sum()
    }

    /// Counts the errors and warnings among those that are left out.
    pub(crate) fn counting_left_out(&self) -> usize {
        self.outcome.more[Severity::Error as usize] + self.outcome.more[Severity::Warning as usize]
    }

    /// Returns the entries of the baseline without an error or a warning any more.
    pub(crate) fn stale(&self) -> &[(Fingerprint, AcceptedFinding)] {
        &self.comparison.stale
    }

    /// Returns these entries, and forgets them: they are in the baseline no more.
    pub(crate) fn take_stale(&mut self) -> Vec<(Fingerprint, AcceptedFinding)> {
        mem::take(&mut self.comparison.stale)
    }

    /// Returns the sentence about these entries; `None` if there is none.
    pub(crate) fn stale_text(&self) -> Option<String> {
        let name = self.baseline.as_ref().filter(|_| !self.stale().is_empty())?;
        let count = self.stale().len();
        let have = if count == 1 { "entry has" } else { "entries have" };
        Some(format!(
            "{count} {have} no finding any more in the baseline {name}; --baseline and --write-baseline together take \
             such entries out"
        ))
    }
}
