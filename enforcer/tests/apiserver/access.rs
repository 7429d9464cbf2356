//! Who may do what.

use k8s_openapi::api::core::v1::{Node, Service};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::Value;

use enforcer_testing::apiserver::ApiServer;

use crate::{
    ledgers::{api, cluster, ledger},
    server_and_client::Cluster,
};

/// Asks as somebody else.
fn get_as(cluster: &Cluster, client: &kube::Client, user: &str, path: &str) -> kube::Result<Value> {
    let request = axum::http::Request::get(path).header("Impersonate-User", user).body(Vec::new()).unwrap();
    cluster.run(client.request(request))
}

#[test]
fn reader_may_do_what_the_rules_say() {
    let cluster = cluster();
    cluster.server.put_ledger(ledger("node-1"));
    let reader = cluster.client_of(|server, folder| {
        server.kubeconfig_of_reader(folder, &[("list", "nodehostports"), ("get", "nodes"), ("delete", "nodes")])
    });
    assert_eq!(cluster.run(api(&reader).list(&ListParams::default())).unwrap().items.len(), 1);
    let nodes: Api<Node> = Api::all(reader.clone());
    cluster.run(nodes.get("node-1")).unwrap();
    let refusal = cluster.refusal(api(&reader).get("node-1"));
    let words = "nodehostports.port-enforcer.io \"node-1\" is forbidden: User \"jane\" cannot get resource \
                 \"nodehostports\" in API group \"port-enforcer.io\" at the cluster scope";
    assert_eq!((refusal.code, refusal.message.as_str()), (403, words));
    assert_eq!(cluster.refusal(nodes.list(&ListParams::default())).code, 403);
    let apply = Patch::Apply(ledger("node-1"));
    assert_eq!(cluster.refusal(api(&reader).patch("node-1", &PatchParams::apply("jane"), &apply)).code, 403);
    assert_eq!(cluster.refusal(nodes.delete("node-1", &DeleteParams::default())).code, 403, "a deletion is not served");

    // Without the right nobody hears that the resource is missing.
    cluster.server.set_ledger_resource(false);
    assert_eq!(cluster.refusal(api(&reader).get("node-1")).code, 403);
    assert_eq!(cluster.refusal(api(&reader).list(&ListParams::default())).code, 404);
    cluster.client_of(|server, folder| server.kubeconfig_of_reader(folder, &[]));
    assert_eq!(cluster.refusal(nodes.get("node-1")).code, 403, "new rules are the only ones");
}

#[test]
fn agent_and_admin_may_read_all_resources() {
    let cluster = cluster();
    let admin = cluster.client_of(ApiServer::kubeconfig_of_admin);
    for client in [&cluster.client, &admin] {
        let apply = Patch::Apply(ledger("node-1"));
        cluster.run(api(client).patch("node-1", &PatchParams::apply("agent"), &apply)).unwrap();
        cluster.run(api(client).get("node-1")).unwrap();
        cluster.run(Api::<Node>::all(client.clone()).list(&ListParams::default())).unwrap();
        cluster.run(Api::<Service>::all(client.clone()).list(&ListParams::default())).unwrap();
        assert_eq!(cluster.refusal(api(client).delete("node-1", &DeleteParams::default())).code, 403);
    }
}

#[test]
fn impersonated_user_has_rights_of_their_own() {
    let cluster = cluster();
    let admin = cluster.client_of(ApiServer::kubeconfig_of_admin);
    let rules = [("list", "nodes"), ("impersonate", "users")];
    let reader = cluster.client_of(|server, folder| server.kubeconfig_of_reader(folder, &rules));
    let code = |answer: kube::Result<Value>| match answer {
        Ok(_) => 200,
        Err(kube::Error::Api(status)) => status.code,
        Err(error) => panic!("{error}"),
    };
    let nodes = "/api/v1/nodes";
    assert_eq!(code(get_as(&cluster, &admin, "jane", nodes)), 200);
    assert_eq!(code(get_as(&cluster, &admin, "jane", "/api/v1/pods")), 403);
    assert_eq!(code(get_as(&cluster, &admin, "nobody", nodes)), 403);
    assert_eq!(code(get_as(&cluster, &reader, "admin", "/api/v1/pods")), 200);
    assert_eq!(cluster.server.requests().pop().unwrap().impersonate.as_deref(), Some("admin"));
    let Err(kube::Error::Api(refusal)) = get_as(&cluster, &cluster.client, "jane", nodes) else { panic!("a refusal") };
    assert!(refusal.message.starts_with("users \"jane\" is forbidden: User \"system:serviceaccount:"), "{refusal:?}");
    assert_eq!(cluster.server.requests()[0].impersonate.as_deref(), Some("jane"));
}
