//! The Helm chart in `deploy/helm/port-enforcer`: it makes the same objects as the kustomizations, its values are described
//! and checked, and a release can be installed, upgraded and deleted. Helm's own program renders; without it those tests
//! are skipped, and say so.

mod components;
mod copies;
mod equivalence;
mod lifecycle;
mod policy_reports;
mod refusals;
mod settings;
mod values;

use std::{
    io,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use libtest_mimic::{Completion, Trial};
use serde_json::Value;

use crate::{
    Test, rendering,
    strict::{deploy, documents},
};

pub(crate) fn trials() -> Vec<Trial> {
    let has_helm = has_helm();
    let missing = [(has_helm, "helm is not installed"), (rendering::has_kubectl(), "kubectl is not installed")];
    let missing = |programs: usize| missing[..programs].iter().find(|(present, _)| !present).map(|(_, why)| *why);
    let subjects: [(&str, &[Test], usize); 10] = [
        ("components", components::TESTS, 0),
        ("copies", copies::TESTS, 0),
        ("values", values::TESTS, 0),
        ("refusals", refusals::TESTS, 1),
        ("settings", settings::TESTS, 1),
        ("policy_reports", policy_reports::TESTS, 1),
        ("equivalence", equivalence::TESTS, 2),
        ("command", lifecycle::COMMAND, 0),
        ("lifecycle", lifecycle::TESTS, 1),
        ("lifecycle", lifecycle::WITH_KUBECTL, 2),
    ];
    let trials = subjects.into_iter().flat_map(|(subject, tests, programs)| {
        let missing = missing(programs);
        tests.iter().map(move |&(name, run)| {
            Trial::ignorable_test(format!("chart::{subject}::{name}"), move || {
                if let Some(why) = missing {
                    return Ok(Completion::ignored_with(why));
                }
                run();
                Ok(Completion::Completed)
            })
        })
    });
    trials.collect()
}

/// Only a program that is not there is a reason to skip; one that fails is a failure.
fn has_helm() -> bool {
    let result = Command::new("helm").arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    !matches!(result, Err(error) if error.kind() == io::ErrorKind::NotFound)
}

/// The folder of the chart.
fn chart() -> PathBuf {
    deploy().join("helm/port-enforcer")
}

/// Checks whether tests write anew what they compare with, as snapshots.
fn is_update() -> bool {
    std::env::var("INSTA_UPDATE").is_ok_and(|value| value == "always")
}

/// Kubernetes for which is rendered: new enough for every component.
const KUBERNETES: &str = "1.36.0";

/// Renders a release with some values.
fn template(namespace: &str, values: &Value, flags: &[&str]) -> Output {
    template_of(&chart(), namespace, values, flags)
}

/// The same of another chart: a folder, or a package.
fn template_of(chart: &Path, namespace: &str, values: &Value, flags: &[&str]) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("values.json");
    std::fs::write(&file, values.to_string()).expect("writing values");
    let mut helm = Command::new("helm");
    helm.arg("template").arg("port-enforcer").arg(chart).args(["--namespace", namespace]);
    helm.args(["--kube-version", KUBERNETES]).arg("--values").arg(&file).args(flags);
    // Nothing of the user's: no repositories, no plugins.
    helm.env("HOME", folder.path()).env_remove("KUBECONFIG");
    helm.stdin(Stdio::null()).output().expect("running helm")
}

/// The objects of a release, without those of its hooks.
fn objects(namespace: &str, values: &Value) -> Vec<Value> {
    rendered(namespace, values, &["--no-hooks"])
}

fn rendered(namespace: &str, values: &Value, flags: &[&str]) -> Vec<Value> {
    let output = template(namespace, values, flags);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{values}: {} {said}", output.status);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    documents(&text).into_iter().filter(|document| !document.is_null()).collect()
}
