//! Pods as the API has them, built piece by piece.

use std::sync::atomic::{AtomicU32, Ordering};

use enforcer_core::pods::pod::{self, Pod};
use k8s_openapi::api::core::v1 as api;
use serde_json::{Value, json};

static COUNT: AtomicU32 = AtomicU32::new(1);

/// Where a container's cgroup is below the pods' root, with `{uid}`, `{uid_}` (underscores for dashes) and `{id}` (a
/// container's id) to fill in.
pub const SYSTEMD_BESTEFFORT: &str =
    "kubepods-besteffort.slice/kubepods-besteffort-pod{uid_}.slice/cri-containerd-{id}.scope";

/// The container id that stands for `{id}`.
pub const CONTAINER_ID: &str = "5f2b6e2a8c1d4e3f9a0b7c6d5e4f3a2b1c0d9e8f7a6b5c4d3e2f1a0b9c8d7e6f";

/// Fills in a layout.
pub fn cgroup_for(uid: &str, layout: &str) -> String {
    layout.replace("{uid}", uid).replace("{uid_}", &uid.replace('-', "_")).replace("{id}", CONTAINER_ID)
}

/// A UID as the API issues them, never the same twice.
pub fn api_uid() -> String {
    format!("{:08x}-4e5f-4071-8293-a4b5c6d7e8f9", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A UID as the kubelet makes them for static pods, never the same twice.
pub fn static_uid() -> String {
    format!("{:08x}4e5f60718293a4b5c6d7e8f9", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A pod. It has the host network, a UID of its own, and arrived after every pod that was made before it.
#[derive(Clone, Debug)]
pub struct Manifest {
    uid: String,
    object: Value,
}

impl Manifest {
    pub fn new(name: &str) -> Self {
        let uid = api_uid();
        let second = COUNT.fetch_add(1, Ordering::Relaxed);
        let created = format!("2026-01-01T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60);
        let object = json!({
            "metadata": { "name": name, "namespace": "default", "creationTimestamp": created },
            "spec": { "hostNetwork": true, "containers": [] },
        });
        Self { uid: String::new(), object }.uid(&uid)
    }

    fn set(mut self, pointer: &str, key: &str, value: Value) -> Self {
        let place = self.object.pointer_mut(pointer).expect("a place in a pod");
        place.as_object_mut().expect("an object").insert(key.to_owned(), value);
        self
    }

    fn annotation(self, key: &str, value: &str) -> Self {
        let this = match self.object.pointer("/metadata/annotations") {
            Some(_) => self,
            None => self.set("/metadata", "annotations", json!({})),
        };
        this.set("/metadata/annotations", key, value.into())
    }

    pub fn namespace(self, namespace: &str) -> Self {
        self.set("/metadata", "namespace", namespace.into())
    }

    pub fn uid(self, uid: &str) -> Self {
        let this = self.set("/metadata", "uid", uid.into());
        Self { uid: uid.to_owned(), ..this }
    }

    /// The object has no UID, but the pod's cgroup still has one.
    pub fn without_uid(self) -> Self {
        self.set("/metadata", "uid", Value::Null)
    }

    /// When it was made, as an RFC 3339 time.
    pub fn created(self, time: &str) -> Self {
        self.set("/metadata", "creationTimestamp", time.into())
    }

    /// What it claims, in the words of the annotation.
    pub fn ports(self, text: &str) -> Self {
        self.annotation(pod::PORTS_ANNOTATION, text)
    }

    /// The name of its share group.
    pub fn share(self, group: &str) -> Self {
        self.annotation(pod::SHARE_ANNOTATION, group)
    }

    /// A `DaemonSet` that controls it.
    pub fn controller(self, name: &str) -> Self {
        let reference = json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet", "name": name, "uid": format!("uid-of-{name}"), "controller": true,
        });
        self.set("/metadata", "ownerReferences", json!([reference]))
    }

    /// It was asked to go.
    pub fn terminating(self) -> Self {
        self.set("/metadata", "deletionTimestamp", "2026-01-02T00:00:00Z".into())
    }

    pub fn phase(self, phase: &str) -> Self {
        self.set("", "status", json!({ "phase": phase }))
    }

    /// Its network is its own.
    pub fn pod_network(self) -> Self {
        self.set("/spec", "hostNetwork", false.into())
    }

    /// What the agent's core makes of it.
    pub fn pod(&self) -> Pod {
        let object: api::Pod = serde_json::from_value(self.object.clone()).expect("a pod");
        pod::from_api(&object)
    }

    /// `namespace/name`.
    pub fn full_name(&self) -> String {
        let part = |key: &str| self.object["metadata"][key].as_str().expect("a string").to_owned();
        format!("{}/{}", part("namespace"), part("name"))
    }

    /// Its container's cgroup in this layout.
    pub fn cgroup(&self, layout: &str) -> String {
        cgroup_for(&self.uid, layout)
    }
}
