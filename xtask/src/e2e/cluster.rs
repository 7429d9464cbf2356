//! A real cluster, through kubectl.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use super::workload::Workload;
use crate::process;

/// Time for what a cluster does within seconds, with images to pull.
pub(super) const TIMEOUT: Duration = Duration::from_mins(3);
/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(500);
/// Namespace of the installation.
pub(super) const INSTALLATION: &str = "port-enforcer";

/// A cluster, and a node of it for the workloads.
#[derive(Debug)]
pub(super) struct Cluster {
    kubeconfig: Option<PathBuf>,
    /// Image of the workloads.
    pub(super) workload_image: String,
    /// Value of the label `kubernetes.io/hostname` of the node.
    pub(super) node: String,
    /// Version of the server: 1.MINOR.
    pub(super) minor: u32,
}

impl Cluster {
    /// Looks at a cluster, and chooses its first node that is ready.
    ///
    /// # Errors
    ///
    /// If the cluster cannot be reached, or has no node that is ready.
    pub(super) fn connect(kubeconfig: Option<PathBuf>, workload_image: String) -> anyhow::Result<Self> {
        let mut cluster = Self { kubeconfig, workload_image, node: String::new(), minor: 0 };
        let version = cluster.json(&["version"])?;
        let minor = version["serverVersion"]["minor"].as_str().context("the server says no version")?;
        // Some distributions write 31+.
        cluster.minor = minor.trim_end_matches('+').parse().with_context(|| format!("minor version {minor}"))?;
        let nodes = cluster.json(&["get", "nodes"])?;
        let ready = items(&nodes).find(|node| is_ready(node)).context("the cluster has no node that is ready")?;
        let name = ready["metadata"]["labels"]["kubernetes.io/hostname"].as_str();
        name.context("the node has no label kubernetes.io/hostname")?.clone_into(&mut cluster.node);
        Ok(cluster)
    }

    /// Checks whether the server knows admission policies.
    pub(super) const fn has_policies(&self) -> bool {
        self.minor >= 30
    }

    /// Checks whether the server knows admission policies that change objects.
    pub(super) const fn has_mutating_policies(&self) -> bool {
        self.minor >= 36
    }

    fn kubectl(&self, arguments: &[&str]) -> Command {
        let mut command = process::kubectl();
        if let Some(kubeconfig) = &self.kubeconfig {
            command.arg("--kubeconfig").arg(kubeconfig);
        }
        command.args(arguments);
        command
    }

    /// Runs kubectl, and returns what it printed.
    pub(super) fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        process::output(&mut self.kubectl(arguments))
    }

    /// Runs kubectl with `-o json`.
    pub(super) fn json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let text = self.run(&[arguments, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("kubectl {}: no JSON", arguments.join(" ")))
    }

    /// Returns the context that kubectl uses, for people.
    pub(super) fn context(&self) -> String {
        self.run(&["config", "current-context"]).unwrap_or_else(|_| "without a context".to_owned())
    }

    /// Applies an object.
    pub(super) fn apply(&self, object: &Value) -> anyhow::Result<()> {
        let folder = tempfile::tempdir().context("make a folder")?;
        let file = folder.path().join("object.json");
        fs::write(&file, object.to_string()).context("write a manifest")?;
        self.run(&["apply", "-f", &file.display().to_string()]).map(drop)
    }

    /// Applies a folder of kustomize, and waits until the `DaemonSet` has followed.
    pub(super) fn install(&self, folder: &Path) -> anyhow::Result<()> {
        self.run(&["apply", "-k", &folder.display().to_string()])?;
        self.wait_for_rollout("daemonset/port-enforcer", INSTALLATION)
    }

    /// Waits until a rollout has ended.
    pub(super) fn wait_for_rollout(&self, reference: &str, namespace: &str) -> anyhow::Result<()> {
        let timeout = format!("--timeout={}s", TIMEOUT.as_secs());
        self.run(&["rollout", "status", reference, "-n", namespace, &timeout]).map(drop)
    }

    /// Creates a workload, and waits until it runs.
    pub(super) fn start(&self, workload: &Workload) -> anyhow::Result<()> {
        self.apply(&workload.manifest(&self.workload_image, &self.node))?;
        let timeout = format!("--timeout={}s", TIMEOUT.as_secs());
        let (namespace, selector) = (workload.namespace, format!("app={}", workload.name));
        wait_until(&format!("{} has a pod", workload.reference()), TIMEOUT, || {
            Ok(items(&self.json(&["get", "pods", "-n", namespace, "-l", &selector])?).next().map(drop))
        })?;
        self.run(&["wait", "pod", "-n", namespace, "-l", &selector, "--for=condition=Ready", &timeout]).map(drop)
    }

    /// Deletes a workload, and waits until its pods are gone.
    pub(super) fn stop(&self, workload: &Workload) -> anyhow::Result<()> {
        let (namespace, selector) = (workload.namespace, format!("app={}", workload.name));
        self.run(&["delete", &workload.reference(), "-n", namespace, "--ignore-not-found"])?;
        wait_until(&format!("the pods of {} are gone", workload.reference()), TIMEOUT, || {
            let pods = self.json(&["get", "pods", "-n", namespace, "-l", &selector])?;
            Ok(items(&pods).next().is_none().then_some(()))
        })
    }

    /// Returns the names of a workload's pods that are not asked to go, the oldest first.
    pub(super) fn pods(&self, workload: &Workload) -> anyhow::Result<Vec<String>> {
        let selector = format!("app={}", workload.name);
        let sort = "--sort-by=.metadata.creationTimestamp";
        let pods = self.json(&["get", "pods", "-n", workload.namespace, "-l", &selector, sort])?;
        let stays = items(&pods).filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        Ok(stays.filter_map(|pod| pod["metadata"]["name"].as_str().map(ToOwned::to_owned)).collect())
    }

    /// Returns the lines that a pod has written so far.
    pub(super) fn lines(&self, namespace: &str, pod: &str) -> anyhow::Result<Vec<Value>> {
        let text = self.run(&["logs", pod, "-n", namespace, "--tail=-1"])?;
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// Waits until the last try of a pod to bind a port ends with this error number, 0 for success.
    pub(super) fn wait_for_errno(&self, workload: &Workload, port: u16, errno: i32) -> anyhow::Result<()> {
        self.wait_for_errno_within(workload, port, errno, TIMEOUT)
    }

    /// Waits for at most this time.
    pub(super) fn wait_for_errno_within(
        &self,
        workload: &Workload,
        port: u16,
        errno: i32,
        timeout: Duration,
    ) -> anyhow::Result<()> {
        let what = format!("the bind of {port} by {} ends with {errno}", workload.reference());
        wait_until(&what, timeout, || {
            let Some(pod) = self.pods(workload)?.pop() else {
                return Ok(None);
            };
            let lines = self.lines(workload.namespace, &pod)?;
            Ok((last_errno(&lines, port) == Some(i64::from(errno))).then_some(()))
        })
    }

    /// Waits for an Event about an object of a namespace.
    pub(super) fn wait_for_event(&self, namespace: &str, reason: &str, about: &str) -> anyhow::Result<String> {
        wait_until(&format!("an Event {reason} about {about}"), TIMEOUT, || {
            Ok(self
                .events(namespace)?
                .into_iter()
                .find_map(|event| is_event(&event, reason, about).then(|| note(&event))))
        })
    }

    /// Returns all Events of a namespace.
    pub(super) fn events(&self, namespace: &str) -> anyhow::Result<Vec<Value>> {
        let events = self.json(&["get", "events.events.k8s.io", "-n", namespace])?;
        Ok(items(&events).cloned().collect())
    }

    /// Returns the status of the agent on the node.
    pub(super) fn status(&self) -> anyhow::Result<Value> {
        self.agent(&["enforcer", "status", "-o", "json"]).and_then(|text| Ok(serde_json::from_str(&text)?))
    }

    /// Runs a command in the agent's container on the node.
    pub(super) fn agent(&self, command: &[&str]) -> anyhow::Result<String> {
        let pod = self.agent_pod()?;
        self.run(&[&["exec", &pod, "-n", INSTALLATION, "-c", "enforcer", "--"], command].concat())
    }

    /// Returns the name of the agent's pod on the node.
    pub(super) fn agent_pod(&self) -> anyhow::Result<String> {
        let node = self.json(&["get", "nodes", "-l", &format!("kubernetes.io/hostname={}", self.node)])?;
        let node = items(&node).find_map(|node| node["metadata"]["name"].as_str().map(ToOwned::to_owned));
        let selector = format!("spec.nodeName={}", node.context("the node is gone")?);
        let label = "app.kubernetes.io/name=port-enforcer";
        let pods = self.json(&["get", "pods", "-n", INSTALLATION, "-l", label, "--field-selector", &selector])?;
        let stays = items(&pods).find(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        let name = stays.and_then(|pod| pod["metadata"]["name"].as_str()).context("the node has no agent")?;
        Ok(name.to_owned())
    }

    /// Waits until the agent on the node has the claim of a pod on a TCP port in force.
    pub(super) fn wait_for_claim(&self, port: u16, pod: &str) -> anyhow::Result<()> {
        wait_until(&format!("the claim of {pod} on {port}/tcp is in force"), TIMEOUT, || {
            // An agent that is about to be replaced may not answer.
            Ok(self.status().ok().filter(|status| is_in_force(status, port, pod)).map(drop))
        })
    }

    /// Sets a label of a namespace; an empty value removes it.
    pub(super) fn label(&self, namespace: &str, key: &str, value: &str) -> anyhow::Result<()> {
        let label = if value.is_empty() { format!("{key}-") } else { format!("{key}={value}") };
        self.run(&["label", "namespace", namespace, &label, "--overwrite"]).map(drop)
    }

    /// Creates a namespace in which pods may use the host network.
    pub(super) fn make_namespace(&self, name: &str) -> anyhow::Result<()> {
        let labels = json!({"pod-security.kubernetes.io/enforce": "privileged", super::workload::LABEL: "true"});
        self.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}))
    }
}

/// Returns the items of a list.
pub(super) fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list["items"].as_array().into_iter().flatten()
}

fn is_ready(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
    let ready =
        conditions.filter(|condition| condition["type"] == "Ready").any(|condition| condition["status"] == "True");
    ready && node["spec"]["unschedulable"] != true && node["status"]["nodeInfo"]["operatingSystem"] == "linux"
}

/// Checks whether a status has the claim of a pod on a TCP port in force.
fn is_in_force(status: &Value, port: u16, pod: &str) -> bool {
    let covers = |claim: &Value| {
        let end = |key: &str| claim[key].as_u64().unwrap_or_default();
        claim["protocol"] == "tcp" && (end("firstPort")..=end("lastPort")).contains(&u64::from(port))
    };
    let mut claims = status["claims"].as_array().into_iter().flatten();
    claims.any(|claim| claim["standing"] == "inForce" && claim["owner"]["name"] == pod && covers(claim))
}

pub(super) fn is_event(event: &Value, reason: &str, about: &str) -> bool {
    event["reason"] == reason && event["regarding"]["name"] == about
}

pub(super) fn note(event: &Value) -> String {
    event["note"].as_str().unwrap_or_default().to_owned()
}

/// Returns the error number of the last try to bind a port.
pub(super) fn last_errno(lines: &[Value], port: u16) -> Option<i64> {
    lines.iter().rev().find(|line| line["port"] == port)?["errno"].as_i64()
}

/// Returns how often each error number came in a storm so far.
pub(super) fn storm_counts(lines: &[Value]) -> Option<serde_json::Map<String, Value>> {
    lines.iter().rev().find_map(|line| line["storm"].as_object().cloned())
}

/// Looks until there is something.
///
/// # Errors
///
/// If there was nothing for the whole time, or the last look failed.
pub(super) fn wait_until<T>(
    what: &str,
    timeout: Duration,
    mut look: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        let seen = look();
        if let Ok(Some(value)) = seen {
            return Ok(value);
        }
        if start.elapsed() >= timeout {
            let seconds = timeout.as_secs();
            return match seen {
                Err(error) => Err(error.context(format!("not within {seconds} s: {what}"))),
                _ => bail!("not within {seconds} s: {what}"),
            };
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
impl Cluster {
    /// Returns a cluster that cannot be reached.
    pub(super) fn for_tests() -> Self {
        let kubeconfig = Some(PathBuf::from("/nonexistent"));
        Self { kubeconfig, workload_image: "image".to_owned(), node: "node-1".to_owned(), minor: 36 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<Value> {
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    #[test]
    fn last_try_of_a_port_counts() {
        let said = lines(
            r#"{"protocol": "tcp", "port": 80, "errno": 98}
               {"protocol": "tcp", "port": 81, "errno": 1}
               {"protocol": "tcp", "port": 80, "errno": 0}"#,
        );
        assert_eq!((last_errno(&said, 80), last_errno(&said, 81), last_errno(&said, 82)), (Some(0), Some(1), None));
    }

    #[test]
    fn last_counts_of_a_storm_count() {
        let said = lines("{\"storm\": {\"98\": 4}}\n{\"storm\": {\"98\": 9, \"0\": 1}}");
        assert_eq!(storm_counts(&said), Some(json!({"98": 9, "0": 1}).as_object().expect("a map").clone()));
        assert_eq!(storm_counts(&[]), None);
    }

    #[test]
    fn claim_counts_while_it_is_in_force() {
        let status = json!({"claims": [
            {"protocol": "tcp", "firstPort": 80, "lastPort": 89, "standing": "inForce", "owner": {"name": "web"}},
            {"protocol": "tcp", "firstPort": 90, "lastPort": 90, "standing": "lost", "owner": {"name": "web"}},
            {"protocol": "udp", "firstPort": 91, "lastPort": 91, "standing": "inForce", "owner": {"name": "web"}},
        ]});
        assert!(is_in_force(&status, 80, "web") && is_in_force(&status, 89, "web"));
        for (port, pod) in [(79, "web"), (90, "web"), (91, "web"), (80, "other")] {
            assert!(!is_in_force(&status, port, pod), "{port} {pod}");
        }
    }

    #[test]
    fn only_ready_nodes_are_chosen() {
        let node = |status: &str, os: &str, cordoned: bool| {
            json!({
                "spec": {"unschedulable": cordoned},
                "status": {"conditions": [{"type": "Ready", "status": status}], "nodeInfo": {"operatingSystem": os}},
            })
        };
        assert!(is_ready(&node("True", "linux", false)));
        for other in [node("False", "linux", false), node("True", "windows", false), node("True", "linux", true)] {
            assert!(!is_ready(&other), "{other}");
        }
    }

    #[test]
    fn failure_of_the_last_look_is_in_the_error() {
        let error = wait_until::<()>("it is there", Duration::ZERO, || bail!("no connection")).expect_err("never");
        assert_eq!(format!("{error:#}"), "not within 0 s: it is there: no connection");
        let error = wait_until::<()>("it is there", Duration::ZERO, || Ok(None)).expect_err("never");
        assert_eq!(format!("{error:#}"), "not within 0 s: it is there");
    }
}
