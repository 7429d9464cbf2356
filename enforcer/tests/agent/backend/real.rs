//! An API server that somebody else runs, spoken to as an administrator does. It gives out UIDs and times itself, keeps
//! the status apart, and lets a pod that is bound to a node stay until it is deleted for good.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use k8s_openapi::api::{
    core::v1::{Namespace, Pod as PodObject},
    events::v1::Event,
};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use tokio::runtime::{self, Runtime};

use enforcer_core::model::namespace_label::NamespaceLabel;
use enforcer_testing::pods::Pod;

use crate::backend::Backend;

/// The server that a kubeconfig names. What a test made there is deleted when this is dropped.
pub(crate) struct Real {
    runtime: Runtime,
    client: Client,
    /// The agent's.
    kubeconfig: PathBuf,
    address: String,
    /// UIDs of the Events that were there before.
    old: BTreeSet<String>,
    /// Namespace and name of all pods that were ever there.
    made: RefCell<BTreeSet<(String, String)>>,
    /// Namespace and name of the pods that are there.
    pods: RefCell<BTreeSet<(String, String)>>,
    labelled: RefCell<BTreeSet<String>>,
}

impl Real {
    /// A client for the server. The first kubeconfig must be an administrator's, and the cluster one to play with, in
    /// which no node has the name that the tests give to theirs. The other one is for the agent.
    pub(crate) fn connect(admin: &Path, agent: &Path) -> Self {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let file = Kubeconfig::read_from(admin).unwrap_or_else(|error| panic!("{}: {error}", admin.display()));
        let (client, address) = runtime.block_on(async {
            let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
            let config = config.unwrap_or_else(|error| panic!("{}: {error}", admin.display()));
            let address = config.cluster_url.to_string();
            (Client::try_from(config).expect("a client"), address)
        });
        let (old, made, pods, labelled) = Default::default();
        let kubeconfig = agent.to_owned();
        let mut real = Self { runtime, client, kubeconfig, address, old, made, pods, labelled };
        let events = Api::<Event>::all(real.client.clone());
        let before = real.ask("list Events", events.list(&ListParams::default()));
        real.old = before.items.into_iter().filter_map(|event| event.metadata.uid).collect();
        real
    }

    /// What it is and where, for people.
    pub(crate) fn description(&self) -> String {
        let version = self.ask("ask for the version", self.client.apiserver_version());
        format!("kube-apiserver {} at {}", version.git_version, self.address)
    }

    /// Whether an Event is the agent's, of this test, and about what this test made: pods, and their node.
    fn is_of_test(&self, event: &Event) -> bool {
        let is_new = event.metadata.uid.as_ref().is_some_and(|uid| !self.old.contains(uid));
        let is_agents = event.reporting_controller.as_deref() == Some("port-enforcer.io/agent");
        let is_of_ours = event.regarding.as_ref().is_some_and(|it| {
            let (namespace, name) = (it.namespace.clone().unwrap_or_default(), it.name.clone().unwrap_or_default());
            let is_node = it.kind.as_deref() == Some("Node") && name == "node-1";
            is_node || self.made.borrow().contains(&(namespace, name))
        });
        is_new && is_agents && is_of_ours
    }

    fn pods(&self, namespace: &str) -> Api<PodObject> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Waits for an answer that is no refusal.
    fn ask<T>(&self, what: &str, call: impl Future<Output = kube::Result<T>>) -> T {
        self.runtime.block_on(call).unwrap_or_else(|error| panic!("cannot {what} at {}: {error}", self.address))
    }

    fn make_namespace(&self, name: &str) {
        let object: Namespace = serde_json::from_value(json!({"metadata": {"name": name}})).expect("a Namespace");
        let namespaces = Api::<Namespace>::all(self.client.clone());
        match self.runtime.block_on(namespaces.create(&PostParams::default(), &object)) {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => panic!("cannot make the namespace {name} at {}: {error}", self.address),
        }
    }

    fn set_label(&self, namespace: &str, label: NamespaceLabel, value: Option<&str>) {
        let patch = Patch::Merge(json!({"metadata": {"labels": {label.key(): value}}}));
        let namespaces = Api::<Namespace>::all(self.client.clone());
        self.ask("label a namespace", namespaces.patch(namespace, &PatchParams::default(), &patch));
    }

    fn delete_within(&self, pod: &Pod, seconds: u32) {
        let parameters = DeleteParams { grace_period_seconds: Some(seconds), ..DeleteParams::default() };
        self.ask("delete a pod", self.pods(pod.namespace_name()).delete(pod.name(), &parameters));
    }
}

async fn remove_event(client: &Client, event: &Event) -> kube::Result<()> {
    let namespace = event.metadata.namespace.as_deref().expect("its namespace");
    let events = Api::<Event>::namespaced(client.clone(), namespace);
    let name = event.metadata.name.as_deref().expect("its name");
    events.delete(name, &DeleteParams::default()).await.map(drop)
}

/// What an object of ours needs for a server that looks at all of it.
fn complete(pod: &Pod, node: &str) -> PodObject {
    let mut object = pod.object.clone();
    object["spec"]["nodeName"] = node.into();
    for container in object["spec"]["containers"].as_array_mut().into_iter().flatten() {
        container["image"] = "example.invalid/none".into();
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        // The server's to give.
        metadata.retain(|key, _| key != "uid" && key != "creationTimestamp");
    }
    serde_json::from_value(object).expect("a Pod")
}

impl Backend for Real {
    fn kubeconfig(&self, _folder: &Path) -> PathBuf {
        self.kubeconfig.clone()
    }

    fn put_on(&self, pod: &Pod, node: &str) -> Pod {
        let (namespace, name) = (pod.namespace_name(), pod.name());
        self.make_namespace(namespace);
        let api = self.pods(namespace);
        let wanted = complete(pod, node);
        let kept = match self.ask("get a pod", api.get_opt(name)) {
            None => self.ask("create a pod", api.create(&PostParams::default(), &wanted)),
            Some(mut there) => {
                // All else that a test changes is in the metadata; of the spec, a server lets hardly anything be edited.
                there.metadata.annotations = wanted.metadata.annotations;
                there.metadata.labels = wanted.metadata.labels;
                self.ask("edit a pod", api.replace(name, &PostParams::default(), &there))
            }
        };
        self.made.borrow_mut().insert((namespace.to_owned(), name.to_owned()));
        self.pods.borrow_mut().insert((namespace.to_owned(), name.to_owned()));
        let mut status: Value = pod.object["status"].clone();
        if status["phase"].is_null() {
            status["phase"] = "Running".into();
        }
        if status["conditions"].is_null() {
            // The server's times of creation are whole seconds, too coarse to say which pod of a test came first.
            let arrival = &pod.object["metadata"]["creationTimestamp"];
            status["conditions"] = json!([{"type": "PodScheduled", "status": "True", "lastTransitionTime": arrival}]);
        }
        let patch = Patch::Merge(json!({ "status": status }));
        self.ask("set a pod's status", api.patch_status(name, &PatchParams::default(), &patch));
        pod.clone().uid(kept.metadata.uid.as_deref().expect("every object has a UID"))
    }

    fn ask_to_go(&self, pod: &Pod, within: Duration) {
        self.delete_within(pod, u32::try_from(within.as_secs()).expect("a short time"));
    }

    fn delete(&self, pod: &Pod) {
        self.delete_within(pod, 0);
        self.pods.borrow_mut().remove(&(pod.namespace_name().to_owned(), pod.name().to_owned()));
    }

    fn label(&self, namespace: &str, label: NamespaceLabel, value: Option<&str>) {
        self.make_namespace(namespace);
        self.labelled.borrow_mut().insert(namespace.to_owned());
        self.set_label(namespace, label, value);
    }

    fn events(&self) -> Vec<Event> {
        let events = Api::<Event>::all(self.client.clone());
        let mut events = self.ask("list Events", events.list(&ListParams::default())).items;
        events.retain(|event| self.is_of_test(event));
        events
    }

    fn delete_event(&self, event: &Event) {
        self.ask("delete an Event", remove_event(&self.client, event));
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        let parameters = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        for (namespace, name) in self.pods.take() {
            // In a test that failed it may be gone, or the server may.
            let _ = self.runtime.block_on(self.pods(&namespace).delete(&name, &parameters));
        }
        if !thread::panicking() {
            // So that the next run finds none either.
            for event in self.events() {
                let _ = self.runtime.block_on(remove_event(&self.client, &event));
            }
        }
        let patch = Patch::Merge(json!({"metadata": {"labels": {"port-enforcer.io/mode": null}}}));
        let namespaces = Api::<Namespace>::all(self.client.clone());
        for namespace in self.labelled.take() {
            let _ = self.runtime.block_on(namespaces.patch(&namespace, &PatchParams::default(), &patch));
        }
    }
}
