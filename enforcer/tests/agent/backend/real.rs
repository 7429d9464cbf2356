//! An API server that somebody else runs, spoken to as an administrator does. It gives out UIDs and times itself, keeps
//! the status apart, and lets a pod that is bound to a node stay until it is deleted for good.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use k8s_openapi::api::core::v1::{Namespace, Pod as PodObject};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use tokio::runtime::{self, Runtime};

use crate::{backend::Backend, stage::Pod};

/// The server that a kubeconfig names. What a test made there is deleted when this is dropped.
pub(crate) struct Real {
    runtime: Runtime,
    client: Client,
    kubeconfig: PathBuf,
    address: String,
    /// Namespace and name of the pods that are there.
    pods: RefCell<BTreeSet<(String, String)>>,
    labelled: RefCell<BTreeSet<String>>,
}

impl Real {
    /// A client for the server. The kubeconfig must be an administrator's, and the cluster one to play with, in which no
    /// node has the name that the tests give to theirs.
    pub(crate) fn connect(kubeconfig: &Path) -> Self {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (client, address) = runtime.block_on(async {
            let file = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
            let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
            let config = config.expect("a configuration");
            let address = config.cluster_url.to_string();
            (Client::try_from(config).expect("a client"), address)
        });
        let (pods, labelled) = Default::default();
        Self { runtime, client, kubeconfig: kubeconfig.to_owned(), address, pods, labelled }
    }

    /// Where it is.
    pub(crate) fn address(&self) -> &str {
        &self.address
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

    fn set_mode(&self, namespace: &str, mode: Option<&str>) {
        let patch = Patch::Merge(json!({"metadata": {"labels": {"port-enforcer.io/mode": mode}}}));
        let namespaces = Api::<Namespace>::all(self.client.clone());
        self.ask("label a namespace", namespaces.patch(namespace, &PatchParams::default(), &patch));
    }

    fn delete_within(&self, pod: &Pod, seconds: u32) {
        let parameters = DeleteParams { grace_period_seconds: Some(seconds), ..DeleteParams::default() };
        self.ask("delete a pod", self.pods(pod.namespace_name()).delete(pod.name(), &parameters));
    }
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
        self.pods.borrow_mut().insert((namespace.to_owned(), name.to_owned()));
        let mut status: Value = pod.object["status"].clone();
        if status["phase"].is_null() {
            status["phase"] = "Running".into();
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

    fn label(&self, namespace: &str, mode: Option<&str>) {
        self.make_namespace(namespace);
        self.labelled.borrow_mut().insert(namespace.to_owned());
        self.set_mode(namespace, mode);
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        let parameters = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        for (namespace, name) in self.pods.take() {
            // In a test that failed it may be gone, or the server may.
            let _ = self.runtime.block_on(self.pods(&namespace).delete(&name, &parameters));
        }
        let patch = Patch::Merge(json!({"metadata": {"labels": {"port-enforcer.io/mode": null}}}));
        let namespaces = Api::<Namespace>::all(self.client.clone());
        for namespace in self.labelled.take() {
            let _ = self.runtime.block_on(namespaces.patch(&namespace, &PatchParams::default(), &patch));
        }
    }
}
