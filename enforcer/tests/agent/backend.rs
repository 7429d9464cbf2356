//! The API server behind a test, and how a test speaks to it.

mod real;
mod tests;

use std::{
    env,
    path::{Path, PathBuf},
    sync::Once,
    time::Duration,
};

use serde_json::json;

use self::real::Real;
pub(crate) use self::tests::TESTS;
use crate::{
    stage::{Pod, Stage, nowhere},
    support::{agent::Agent, apiserver::ApiServer},
};

/// What a test asks of an API server, whichever it is.
pub(crate) trait Backend {
    /// Writes a kubeconfig for the agent into a folder.
    fn kubeconfig(&self, folder: &Path) -> PathBuf;

    /// Creates or edits a pod of a node: the pod with the UID that the server keeps it under.
    fn put_on(&self, pod: &Pod, node: &str) -> Pod;

    /// Asks a pod to go within a time. Its object stays.
    fn ask_to_go(&self, pod: &Pod, within: Duration);

    /// Deletes a pod at once, as the kubelet does when all of it has ended.
    fn delete(&self, pod: &Pod);

    /// Labels a namespace with a mode, or takes the label away.
    fn label(&self, namespace: &str, mode: Option<&str>);

    /// Creates or edits a pod of the agent's node.
    fn put(&self, pod: &Pod) -> Pod {
        self.put_on(pod, "node-1")
    }
}

impl Backend for ApiServer {
    fn kubeconfig(&self, folder: &Path) -> PathBuf {
        Self::kubeconfig(self, folder)
    }

    fn put_on(&self, pod: &Pod, node: &str) -> Pod {
        let mut object = pod.object.clone();
        object["spec"]["nodeName"] = node.into();
        let kept = self.put_pod(serde_json::from_value(object).expect("a Pod"));
        pod.clone().uid(kept.metadata.uid.as_deref().expect("every object has a UID"))
    }

    fn ask_to_go(&self, pod: &Pod, within: Duration) {
        Self::ask_to_go(self, pod.namespace_name(), pod.name(), within);
    }

    fn delete(&self, pod: &Pod) {
        self.delete_pod(pod.namespace_name(), pod.name());
    }

    fn label(&self, namespace: &str, mode: Option<&str>) {
        let mut object = json!({"metadata": {"name": namespace, "labels": {}}});
        if let Some(mode) = mode {
            object["metadata"]["labels"]["port-enforcer.io/mode"] = mode.into();
        }
        self.put_namespace(serde_json::from_value(object).expect("a Namespace"));
    }
}

/// The server for a test that needs no faults: the one that `KUBECONFIG` names, else the project's own.
pub(crate) fn choose() -> Box<dyn Backend> {
    static SAID: Once = Once::new();
    let Some(kubeconfig) = env::var_os("KUBECONFIG").filter(|path| !path.is_empty()) else {
        SAID.call_once(|| eprintln!("\n    against: the project's own API server"));
        return Box::new(ApiServer::start());
    };
    let real = Real::connect(Path::new(&kubeconfig));
    SAID.call_once(|| eprintln!("\n    against: kube-apiserver at {}", real.address()));
    Box::new(real)
}

/// The server for a test whose pods have controllers that do not exist, which a whole cluster would tidy away.
pub(crate) fn without_controllers() -> Box<dyn Backend> {
    Box::new(ApiServer::start())
}

impl Stage {
    /// Starts an agent that takes its pods from an API server, writes JSON and, unless it is told another mode, enforces.
    pub(crate) fn on_cluster(&self, server: &dyn Backend, more: &[&str]) -> Agent {
        let kubeconfig = server.kubeconfig(self.top()).display().to_string();
        let root = self.root().display().to_string();
        let own = ["--source", "api", "--kubeconfig", &kubeconfig, "--cgroup-root", &root];
        let words = ["--log-format", "json", "--node-name", "node-1"];
        let enforce: &[&str] = if more.contains(&"--mode") { &[] } else { &["--mode", "enforce"] };
        Agent::start(own.iter().chain(&words).chain(enforce).chain(&nowhere(more)).chain(more)).0
    }
}

/// An agent that enforces and knows all pods.
pub(crate) fn synced(stage: &Stage, server: &dyn Backend, more: &[&str]) -> Agent {
    let mut agent = stage.on_cluster(server, more);
    agent.wait("all pods are known", |line| line["event"] == "synced");
    agent
}
