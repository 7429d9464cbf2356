//! Objects that an administrator installs.

use std::fmt::Debug;

use axum::http::Request;
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{ConfigMap, Secret},
    rbac::v1::ClusterRole,
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use enforcer_testing::apiserver::ApiServer;

use crate::server_and_client::Cluster;

fn admin(cluster: &Cluster) -> Client {
    cluster.client_of(ApiServer::kubeconfig_of_admin)
}

fn agents() -> DaemonSet {
    let object = json!({
        "metadata": { "name": "agents" },
        "spec": {
            "selector": { "matchLabels": { "app": "agents" } },
            "template": {
                "metadata": { "labels": { "app": "agents" } },
                "spec": {
                    "tolerations": [{ "operator": "Exists" }],
                    "containers": [
                        { "name": "one", "image": "a", "env": [{ "name": "A", "value": "1" }, { "name": "B", "value": "2" }] },
                        { "name": "two", "image": "b" },
                    ],
                    "volumes": [{ "name": "run", "hostPath": { "path": "/run" } }],
                },
            },
        },
    });
    serde_json::from_value(object).unwrap()
}

/// The objects of the cluster `default`.
fn daemonsets(client: Client) -> Api<DaemonSet> {
    Api::namespaced(client, "default")
}

fn pod(daemonset: &DaemonSet) -> Value {
    serde_json::to_value(daemonset.spec.as_ref().unwrap().template.spec.as_ref().unwrap()).unwrap()
}

/// Refusal of a call by its code.
fn code<T: Debug>(cluster: &Cluster, call: impl Future<Output = kube::Result<T>>) -> u16 {
    cluster.refusal(call).code
}

#[test]
fn strategic_patch_merges_lists_by_their_keys() {
    let cluster = Cluster::start();
    let daemonsets = daemonsets(admin(&cluster));
    cluster.run(daemonsets.create(&PostParams::default(), &agents())).unwrap();
    let patch = |patch: Value| {
        cluster.run(daemonsets.patch("agents", &PatchParams::default(), &Patch::Strategic(patch))).unwrap()
    };
    let of_pod = |pod: Value| json!({ "spec": { "template": { "spec": pod } } });
    let changed = patch(of_pod(json!({
        "$setElementOrder/containers": [{ "name": "two" }, { "name": "one" }],
        "containers": [
            { "name": "one", "env": [{ "name": "A", "value": "3" }, { "name": "B", "$patch": "delete" }, { "name": "C", "value": "4" }] },
        ],
        "tolerations": [{ "key": "x", "operator": "Exists" }],
        "volumes": [{ "name": "run", "$retainKeys": ["name", "emptyDir"], "emptyDir": {}, "hostPath": null }],
    })));
    let pod = pod(&changed);
    let names: Vec<_> = pod["containers"].as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
    assert_eq!(names, ["two", "one"]);
    assert_eq!(pod["containers"][1]["image"], "a", "what is not named stays");
    assert_eq!(pod["containers"][1]["env"], json!([{ "name": "A", "value": "3" }, { "name": "C", "value": "4" }]));
    assert_eq!(pod["tolerations"], json!([{ "key": "x", "operator": "Exists" }]), "a list without a key is replaced");
    assert_eq!(pod["volumes"], json!([{ "name": "run", "emptyDir": {} }]));
    assert_eq!(changed.metadata.generation, Some(2));
    let labelled = patch(json!({ "metadata": { "labels": { "a": "b" } } }));
    assert_eq!(labelled.metadata.generation, Some(2), "the specification is the same");
    let unknown = Patch::Strategic(json!({ "metadata": { "$deleteFromPrimitiveList/finalizers": ["x"] } }));
    assert_eq!(code(&cluster, daemonsets.patch("agents", &PatchParams::default(), &unknown)), 400);
}

#[test]
fn installed_objects_are_checked_as_a_server_does() {
    let cluster = Cluster::start();
    let all = daemonsets(admin(&cluster));
    let new = PostParams::default();
    let made = cluster.run(all.create(&new, &agents())).unwrap();
    assert_eq!((made.metadata.namespace.as_deref(), made.metadata.generation), (Some("default"), Some(1)));
    assert_eq!(code(&cluster, all.create(&new, &agents())), 409);
    let missing: Api<DaemonSet> = Api::namespaced(admin(&cluster), "nowhere");
    assert_eq!(code(&cluster, missing.create(&new, &agents())), 404);
    let selector = Patch::Merge(json!({ "spec": { "selector": { "matchLabels": { "app": "others" } } } }));
    assert_eq!(code(&cluster, all.patch("agents", &PatchParams::default(), &selector)), 422);
    let typo = Patch::Merge(json!({ "spec": { "template": { "spec": { "hostNetwrok": true } } } }));
    assert_eq!(cluster.run(all.patch("agents", &PatchParams::default(), &typo)).unwrap().spec, made.spec);
    let strict =
        PatchParams { field_validation: Some(kube::api::ValidationDirective::Strict), ..PatchParams::default() };
    let refusal = cluster.refusal(all.patch("agents", &strict, &typo));
    assert!(refusal.code == 400 && refusal.message.contains("spec.template.spec.hostNetwrok"), "{refusal:?}");
    let mut old = made.clone();
    old.metadata.resource_version = Some("1".to_owned());
    assert_eq!(code(&cluster, all.replace("agents", &new, &old)), 409);
    cluster.server.set_status(
        "DaemonSet",
        "default",
        "agents",
        &json!({
            "currentNumberScheduled": 1, "desiredNumberScheduled": 1, "numberMisscheduled": 0, "numberReady": 1,
        }),
    );
    let mut edit = cluster.run(all.get("agents")).unwrap();
    edit.status = None;
    let edited = cluster.run(all.replace("agents", &new, &edit)).unwrap();
    assert_eq!(edited.status.map(|status| status.number_ready), Some(1), "the status has a way of its own");
    cluster.run(all.delete("agents", &DeleteParams::default())).unwrap();
    assert_eq!(code(&cluster, all.get("agents")), 404);
}

#[test]
fn only_an_administrator_installs() {
    let cluster = Cluster::start();
    let reader = cluster.client_of(|server, folder| server.kubeconfig_of_reader(folder, &[("get", "secrets")]));
    for client in [cluster.client.clone(), reader] {
        assert_eq!(code(&cluster, daemonsets(client.clone()).create(&PostParams::default(), &agents())), 403);
        let secrets: Api<Secret> = Api::namespaced(client.clone(), "default");
        assert_eq!(code(&cluster, secrets.get("any")), 403);
        assert_eq!(code(&cluster, Api::<ClusterRole>::all(client).list(&ListParams::default())), 403);
    }
    let secrets: Api<Secret> = Api::namespaced(admin(&cluster), "default");
    assert_eq!(code(&cluster, secrets.get("any")), 404);
}

#[test]
fn discovery_names_what_is_served() {
    let cluster = Cluster::start();
    let get = |path: &str| cluster.run(cluster.client.request::<Value>(Request::get(path).body(Vec::new()).unwrap()));
    let names = |path: &str| -> Vec<String> {
        let found = get(path).unwrap();
        found["resources"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    assert!(names("/api/v1").contains(&"secrets".to_owned()));
    assert_eq!(names("/apis/batch/v1"), ["cronjobs", "jobs"]);
    assert_eq!(names("/apis/port-enforcer.io/v1alpha1"), ["nodehostports"]);
    let groups = get("/apis").unwrap();
    assert!(groups["groups"].as_array().unwrap().iter().any(|group| group["name"] == "port-enforcer.io"));
    cluster.server.set_ledger_resource(false);
    assert!(get("/apis/port-enforcer.io/v1alpha1").is_err());
    let maps: Api<ConfigMap> = Api::namespaced(admin(&cluster), "default");
    assert_eq!(cluster.run(maps.list(&ListParams::default())).unwrap().items.len(), 0);
}
