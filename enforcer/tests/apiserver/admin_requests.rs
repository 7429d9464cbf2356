//! What an administrator may do, as a real server does it, and the agent may not.

use k8s_openapi::api::events::v1::Event;
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use enforcer_testing::apiserver::ApiServer;

use crate::{
    events::event,
    server_and_client::{Cluster, edited, pod},
};

fn admin(cluster: &Cluster) -> Client {
    cluster.client_of(ApiServer::kubeconfig_of_admin)
}

#[test]
fn admin_creates_edits_and_deletes_pods() {
    let cluster = Cluster::start();
    let pods = Api::<k8s_openapi::api::core::v1::Pod>::namespaced(admin(&cluster), "default");
    let new = PostParams::default();
    let mut wanted = pod("a", "node-1");
    wanted.metadata.uid = Some("mine".to_owned());
    let made = cluster.run(pods.create(&new, &wanted)).unwrap();
    assert!(made.metadata.uid.as_deref().is_some_and(|uid| uid != "mine"), "it is the server's to give");
    assert_eq!(cluster.refusal(pods.create(&new, &wanted)).code, 409);

    let status = Patch::Merge(json!({"status": {"phase": "Running"}, "metadata": {"labels": {"a": "b"}}}));
    let running = cluster.run(pods.patch_status("a", &PatchParams::default(), &status)).unwrap();
    assert_eq!(running.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Running"));
    assert!(running.labels().is_empty(), "only the status");
    assert_eq!(cluster.refusal(pods.replace("a", &new, &made)).code, 409, "it has changed since");
    let edit = edited(running, "80");
    let edit = cluster.run(pods.replace("a", &new, &edit)).unwrap();
    assert_eq!(edit.metadata.uid, made.metadata.uid);

    let within = |seconds| DeleteParams { grace_period_seconds: Some(seconds), ..DeleteParams::default() };
    cluster.run(pods.delete("a", &within(30))).unwrap();
    let going = cluster.run(pods.get("a")).unwrap();
    assert_eq!(going.metadata.deletion_grace_period_seconds, Some(30));
    cluster.run(pods.delete("a", &within(0))).unwrap();
    assert!(cluster.run(pods.get_opt("a")).unwrap().is_none());
}

#[test]
fn admin_creates_lists_and_deletes_events() {
    let cluster = Cluster::start();
    let events = |client| Api::<Event>::namespaced(client, "default");
    cluster.run(events(cluster.client.clone()).create(&PostParams::default(), &event("told"))).unwrap();
    let theirs = events(admin(&cluster));
    cluster.run(theirs.create(&PostParams::default(), &event("other"))).unwrap();
    cluster.run(theirs.delete("other", &DeleteParams::default())).unwrap();
    assert_eq!(cluster.run(theirs.list(&ListParams::default())).unwrap().items.len(), 1);
    assert_eq!(cluster.refusal(events(cluster.client.clone()).delete("told", &DeleteParams::default())).code, 403);
    cluster.run(theirs.delete("told", &DeleteParams::default())).unwrap();
    assert_eq!(cluster.server.events(), []);
    assert_eq!(cluster.refusal(theirs.delete("told", &DeleteParams::default())).code, 404);
}

#[test]
fn agent_may_not_use_admin_calls() {
    let cluster = Cluster::start();
    cluster.server.put_pod(pod("a", "node-1"));
    let pods = Api::<k8s_openapi::api::core::v1::Pod>::namespaced(cluster.client.clone(), "default");
    assert_eq!(cluster.refusal(pods.create(&PostParams::default(), &pod("b", "node-1"))).code, 403);
    assert_eq!(cluster.refusal(pods.delete("a", &DeleteParams::default())).code, 403);
}
