//! The choice of one workload, as people name it on a command line.

use std::str::FromStr;

use super::{Suggestion, Suggestions, message};
use crate::sockets::observed_ports::WorkloadName;

/// Kinds with the names that kubectl takes for them.
const KINDS: [(&str, &[&str]); 8] = [
    ("CronJob", &["cj", "cronjob", "cronjobs"]),
    ("DaemonSet", &["ds", "daemonset", "daemonsets"]),
    ("Deployment", &["deploy", "deployment", "deployments"]),
    ("Job", &["job", "jobs"]),
    ("Pod", &["po", "pod", "pods"]),
    ("ReplicaSet", &["rs", "replicaset", "replicasets"]),
    ("ReplicationController", &["rc", "replicationcontroller", "replicationcontrollers"]),
    ("StatefulSet", &["sts", "statefulset", "statefulsets"]),
];

/// Kind and name of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadChoice {
    /// Its kind; one that kubectl has no short name for is as it was written.
    pub kind: String,
    /// Its name.
    pub name: String,
}

impl WorkloadChoice {
    /// Checks whether this is the workload. A kind that is not known here is compared without case; a pod may be static.
    #[must_use]
    pub fn is(&self, workload: &WorkloadName) -> bool {
        let is_pod = self.kind == "Pod" && workload.kind == WorkloadName::STATIC_POD;
        (is_pod || workload.kind.eq_ignore_ascii_case(&self.kind)) && workload.name == self.name
    }
}

impl Suggestion {
    /// Returns the workload.
    #[must_use]
    pub fn workload(&self) -> WorkloadName {
        let Self { namespace, kind, name, .. } = self;
        WorkloadName { namespace: namespace.clone(), kind: kind.clone(), name: name.clone() }
    }
}

impl Suggestions {
    /// Keeps only suggestions for workloads of a namespace, and for one workload.
    pub fn retain(&mut self, namespace: Option<&str>, choice: Option<&WorkloadChoice>) {
        self.suggestions.retain(|suggestion| {
            namespace.is_none_or(|namespace| suggestion.namespace == namespace)
                && choice.is_none_or(|choice| choice.is(&suggestion.workload()))
        });
        self.message = message(&self.suggestions);
    }
}

impl FromStr for WorkloadChoice {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split_once('/').filter(|(kind, name)| !kind.is_empty() && !name.is_empty());
        let (kind, name) =
            parts.filter(|(_, name)| !name.contains('/')).ok_or("write KIND/NAME, as ds/node-exporter")?;
        // As kubectl reads kinds, with the group behind a dot.
        let plain = kind.split('.').next().unwrap_or(kind).to_ascii_lowercase();
        let known = KINDS.iter().find(|(_, names)| names.contains(&plain.as_str()));
        Ok(Self { kind: known.map_or(kind, |(kind, _)| kind).to_owned(), name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads_are_named_as_for_kubectl() {
        let is = |text: &str, kind: &str, name: &str| {
            let workload = WorkloadName { namespace: "n".to_owned(), kind: kind.to_owned(), name: name.to_owned() };
            text.parse::<WorkloadChoice>().unwrap().is(&workload)
        };
        for (text, kind) in [
            ("ds/x", "DaemonSet"),
            ("Deployment.apps/x", "Deployment"),
            ("statefulsets/x", "StatefulSet"),
            ("po/x", "StaticPod"),
            ("staticpod/x", "StaticPod"),
            ("Rollout/x", "Rollout"),
        ] {
            assert!(is(text, kind, "x"), "{text}");
        }
        assert!(!is("ds/x", "DaemonSet", "y") && !is("ds/x", "Deployment", "x"));
        for wrong in ["", "x", "ds/", "/x", "ds/a/b"] {
            assert!(wrong.parse::<WorkloadChoice>().is_err(), "{wrong:?}");
        }
    }
}
