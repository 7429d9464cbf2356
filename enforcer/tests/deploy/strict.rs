//! Reading YAML so that nothing that is misspelt goes unseen.
//!
//! The types of the API ignore what they do not know. So an object is read, written again, and compared: what it said
//! and does not say any more is unknown to the type, or not in the form that the type has.

mod crds;

use std::{
    fs,
    path::{Path, PathBuf},
};

use enforcer_core::yaml::documents as yaml;
use k8s_openapi::{
    api::{
        admissionregistration::{
            v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
            v1beta1::{MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding},
        },
        apps::v1::{DaemonSet, Deployment},
        batch::v1::{CronJob, Job},
        core::v1::{ConfigMap, Namespace, Pod, ResourceQuota, ServiceAccount},
        rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// The folder `deploy/`.
pub(crate) fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join("deploy")
}

/// Every YAML file below `deploy/`, in order, but for the chart: its templates are no YAML, and its files are copies.
pub(crate) fn files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    collect(&deploy(), &mut files);
    files.sort();
    files
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("reading deploy/") {
        let path = entry.expect("an entry").path();
        if path.ends_with("deploy/helm") {
            continue;
        }
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
            files.push(path);
        }
    }
}

/// The documents of a text, as they are.
pub(crate) fn documents(text: &str) -> Vec<Value> {
    yaml::documents(text).map(|document| document.expect("YAML").root.to_json()).collect()
}

/// The documents of a file.
pub(crate) fn read(path: &Path) -> Vec<Value> {
    documents(&fs::read_to_string(path).expect("reading a manifest"))
}

/// The object as its type, or what that type does not know.
fn read_as<T: Serialize + DeserializeOwned>(object: &Value) -> Result<T, String> {
    let typed: T = serde_json::from_value(object.clone()).map_err(|error| error.to_string())?;
    let lost = lost(object, &serde_json::to_value(&typed).expect("JSON"));
    if lost.is_empty() { Ok(typed) } else { Err(format!("unknown to the type, or in another form: {lost:?}")) }
}

/// The object as its type, which must know everything in it.
pub(crate) fn typed<T: Serialize + DeserializeOwned>(object: &Value) -> T {
    read_as(object).unwrap_or_else(|why| panic!("{why} of {object:#}"))
}

/// The paths of what `written` does not say as `source` does. A `null`, by which a patch removes something, says nothing.
pub(crate) fn lost(source: &Value, written: &Value) -> Vec<String> {
    match (source, written) {
        (Value::Null, _) => Vec::new(),
        (Value::Object(source), Value::Object(written)) => source
            .iter()
            .flat_map(|(key, value)| {
                let below = lost(value, written.get(key).unwrap_or(&Value::Null));
                below.into_iter().map(move |path| format!(".{key}{path}"))
            })
            .collect(),
        (Value::Array(source), Value::Array(written)) if source.len() == written.len() => source
            .iter()
            .zip(written)
            .enumerate()
            .flat_map(|(index, (source, written))| {
                lost(source, written).into_iter().map(move |path| format!("[{index}]{path}"))
            })
            .collect(),
        _ if source == written => Vec::new(),
        // 1 is 1.0, where the type has fractions.
        (Value::Number(source), Value::Number(written)) if source.as_f64() == written.as_f64() => Vec::new(),
        _ => vec![String::new()],
    }
}

/// Panics if the objects are not these, and says where.
pub(crate) fn assert_same(actual: &[Value], expected: &[Value], what: &str) {
    let [actual, expected] = [actual, expected].map(|objects| Value::from(objects.to_vec()));
    let more = lost(&actual, &expected);
    let fewer = lost(&expected, &actual);
    assert!(more.is_empty() && fewer.is_empty(), "{what} is not as expected at {more:?}, {fewer:?}");
}

/// Reads an object as the type that its kind has.
///
/// # Errors
///
/// If that type does not know all of it.
pub(crate) fn check(object: &Value) -> Result<(), String> {
    fn known<T: Serialize + DeserializeOwned>(object: &Value) -> Result<(), String> {
        read_as::<T>(object).map(drop)
    }
    let text = |key: &str| object[key].as_str().unwrap_or_default();
    match (text("apiVersion"), text("kind")) {
        ("batch/v1", "CronJob") => known::<CronJob>(object),
        ("v1", "ConfigMap") => known::<ConfigMap>(object),
        ("v1", "Namespace") => known::<Namespace>(object),
        ("v1", "ServiceAccount") => known::<ServiceAccount>(object),
        ("v1", "ResourceQuota") => known::<ResourceQuota>(object),
        ("v1", "Pod") => known::<Pod>(object),
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition") => known::<CustomResourceDefinition>(object),
        ("apps/v1", "DaemonSet") => known::<DaemonSet>(object),
        ("apps/v1", "Deployment") => known::<Deployment>(object),
        ("batch/v1", "Job") => known::<Job>(object),
        ("rbac.authorization.k8s.io/v1", "Role") => known::<Role>(object),
        ("rbac.authorization.k8s.io/v1", "RoleBinding") => known::<RoleBinding>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => known::<ClusterRole>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => known::<ClusterRoleBinding>(object),
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy") => known::<ValidatingAdmissionPolicy>(object),
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding") => {
            known::<ValidatingAdmissionPolicyBinding>(object)
        }
        // Types of Kubernetes 1.34, where they are v1beta1: their fields are those of v1.
        ("admissionregistration.k8s.io/v1", "MutatingAdmissionPolicy") => {
            known::<MutatingAdmissionPolicy>(&as_v1beta1(object))
        }
        ("admissionregistration.k8s.io/v1", "MutatingAdmissionPolicyBinding") => {
            known::<MutatingAdmissionPolicyBinding>(&as_v1beta1(object))
        }
        ("monitoring.coreos.com/v1", "PodMonitor") => crds::known::<crds::PodMonitor>(object),
        ("monitoring.coreos.com/v1", "PrometheusRule") => crds::known::<crds::PrometheusRule>(object),
        ("security.openshift.io/v1", "SecurityContextConstraints") => {
            crds::known::<crds::SecurityContextConstraints>(object)
        }
        (version, kind) => Err(format!("{version} {kind} is not known here")),
    }
}

/// An object of `admissionregistration.k8s.io` by its version before `v1`.
pub(crate) fn as_v1beta1(object: &Value) -> Value {
    let mut older = object.clone();
    older["apiVersion"] = "admissionregistration.k8s.io/v1beta1".into();
    older
}
