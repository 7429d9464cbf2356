//! `--against`: new manifests against files, and against what runs in a cluster.

use std::fs;

use enforcer_testing::apiserver::{ApiServer, Fault, Target};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{End, check};

fn workload(kind: &str, namespace: &str, name: &str, port: u16) -> Value {
    let version = if matches!(kind, "Job" | "CronJob") { "batch/v1" } else { "apps/v1" };
    let pods = json!({
        "metadata": { "labels": { "app": name } },
        "spec": { "hostNetwork": true, "containers": [
            { "name": "c", "image": "x", "ports": [{ "containerPort": port, "hostPort": port }] },
        ] },
    });
    let spec = if kind == "CronJob" {
        json!({ "schedule": "* * * * *", "jobTemplate": { "spec": { "template": pods } } })
    } else {
        json!({ "selector": { "matchLabels": { "app": name } }, "template": pods })
    };
    json!({
        "apiVersion": version, "kind": kind, "metadata": { "namespace": namespace, "name": name }, "spec": spec,
    })
}

/// A pod that runs, with a controller of a kind if there is one.
fn pod(name: &str, port: u16, controller: Option<&str>) -> Pod {
    let mut pod = json!({
        "metadata": { "namespace": "tools", "name": name },
        "spec": { "hostNetwork": true, "nodeName": "node-1", "containers": [
            { "name": "c", "image": "x", "ports": [{ "containerPort": port, "hostPort": port }] },
        ] },
        "status": { "phase": "Running" },
    });
    if let Some(kind) = controller {
        pod["metadata"]["ownerReferences"] =
            json!([{ "apiVersion": "x/v1", "kind": kind, "name": "owner", "uid": "u", "controller": true }]);
    }
    serde_json::from_value(pod).expect("a pod")
}

/// A cluster in which much runs, with a kubeconfig and a folder for new manifests.
struct Cluster {
    server: ApiServer,
    folder: TempDir,
}

impl Cluster {
    fn new() -> Self {
        let server = ApiServer::start();
        for (kind, name, port) in [
            ("DaemonSet", "exporter", 9100),
            ("Deployment", "gateway", 9101),
            ("StatefulSet", "store", 9102),
            ("ReplicaSet", "bare", 9103),
            ("CronJob", "nightly", 9104),
            ("Job", "once", 9105),
        ] {
            server.put_workload(workload(kind, "monitoring", name, port));
        }
        // Products of others stand for nothing of their own.
        let mut of_deployment = workload("ReplicaSet", "monitoring", "gateway-abc", 9110);
        of_deployment["metadata"]["ownerReferences"] = json!([
            { "apiVersion": "apps/v1", "kind": "Deployment", "name": "gateway", "uid": "u", "controller": true },
        ]);
        server.put_workload(of_deployment);
        let mut done = workload("Job", "monitoring", "done", 9111);
        done["status"] = json!({ "completionTime": "2026-11-01T00:00:00Z" });
        server.put_workload(done);
        server.put_pod(pod("of-daemon-set", 9112, Some("DaemonSet")));
        server.put_pod(pod("alone", 9106, None));
        server.put_pod(pod("of-operator", 9107, Some("Database")));
        Self { server, folder: TempDir::new().expect("a folder") }
    }

    fn check(&self, manifests: &[Value], more: &[&str]) -> End {
        let kubeconfig = self.server.kubeconfig_of_admin(self.folder.path());
        let kubeconfig = kubeconfig.to_str().expect("UTF-8");
        let text: Vec<String> = manifests.iter().map(Value::to_string).collect();
        let arguments = [&["-", "--against", "cluster", "--kubeconfig", kubeconfig], more].concat();
        check(&arguments, text.join("\n---\n").as_bytes())
    }
}

#[test]
fn new_manifests_are_held_against_what_runs() {
    let cluster = Cluster::new();
    for (port, owner) in [
        (9100, "DaemonSet monitoring/exporter (cluster)"),
        (9101, "Deployment monitoring/gateway (cluster)"),
        (9102, "StatefulSet monitoring/store (cluster)"),
        (9103, "ReplicaSet monitoring/bare (cluster)"),
        (9104, "CronJob monitoring/nightly (cluster)"),
        (9105, "Job monitoring/once (cluster)"),
        (9106, "Pod tools/alone (cluster)"),
        (9107, "Pod tools/of-operator (cluster)"),
    ] {
        let End { stdout, stderr, .. } = cluster.check(&[workload("DaemonSet", "new", "new", port)], &[]);
        assert!(stdout.contains(owner) && stdout.contains("<stdin>:1: "), "{port}: {stdout}{stderr}");
        let conflicts = stdout.matches("[conflict]").count();
        assert_eq!(conflicts, 1, "what is there already is not judged: {stdout}");
    }
    for port in [9110, 9111, 9112, 9120] {
        let End { code, stdout, stderr } = cluster.check(&[workload("DaemonSet", "new", "new", port)], &[]);
        assert_eq!(code, Some(0), "{port}: {stdout}{stderr}");
        assert!(stdout.contains("against 8 objects that are there"), "{stdout}");
    }
}

/// As a server sends them whose API is newer, or whose object was written before a field had a type.
#[test]
fn object_with_odd_field_hides_no_others() {
    let cluster = Cluster::new();
    let mut odd = workload("Deployment", "monitoring", "odd", 9108);
    odd["spec"]["strategy"] = json!("later");
    odd["spec"]["template"]["spec"]["volumes"] = json!([{ "name": "v", "laterKind": 1 }]);
    cluster.server.put_workload(odd);
    for (port, owner) in [(9101, "Deployment monitoring/gateway"), (9108, "Deployment monitoring/odd")] {
        let End { stdout, stderr, .. } = cluster.check(&[workload("DaemonSet", "new", "new", port)], &[]);
        assert!(stdout.contains(owner), "{port}: {stdout}{stderr}");
        assert_eq!(stdout.matches("[conflict]").count(), 1, "{stdout}");
    }
}

#[test]
fn services_that_run_are_users_of_ports() {
    let cluster = Cluster::new();
    cluster.server.put_service(
        serde_json::from_value(json!({
            "metadata": { "namespace": "shop", "name": "front" },
            "spec": { "type": "NodePort", "ports": [{ "port": 80, "nodePort": 30080 }] },
        }))
        .expect("a Service"),
    );
    let End { stdout, .. } = cluster.check(&[workload("DaemonSet", "new", "new", 30_080)], &[]);
    assert!(stdout.contains("a nodePort of Service shop/front (cluster)"), "{stdout}");
    let outage = cluster.server.fault(Target::ALL.resource("services"), Fault::Forbidden);
    let End { code, stdout, stderr } = cluster.check(&[workload("DaemonSet", "new", "new", 9100)], &[]);
    assert_eq!((code, stdout.as_str()), (Some(3), ""), "{stderr}");
    assert!(stderr.contains("list services") && stderr.contains("port-enforcer-reader"), "{stderr}");
    drop(outage);
}

#[test]
fn object_of_the_same_name_replaces_the_running_one_and_nodes_are_counted() {
    let cluster = Cluster::new();
    let End { code, stdout, .. } = cluster.check(&[workload("DaemonSet", "monitoring", "exporter", 9100)], &[]);
    assert_eq!(code, Some(0), "an upgrade of itself: {stdout}");
    let mut two = workload("Deployment", "new", "two", 9200);
    two["spec"]["replicas"] = 2.into();
    let End { code, stdout, .. } = cluster.check(&[two.clone()], &[]);
    assert_eq!(code, Some(1), "{stdout}");
    assert!(stdout.contains("[replicas]"), "there is one node: {stdout}");
    let End { stdout, .. } = cluster.check(&[two], &["--nodes", "3", "-o", "json"]);
    let report: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!((&report["nodes"], &report["summary"]["existing"]), (&json!(3), &json!(8)), "{report}");
    assert_eq!(report["summary"]["objects"], 1);
}

#[test]
fn manifests_are_held_against_files() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("running.yaml");
    fs::write(&path, workload("DaemonSet", "monitoring", "exporter", 9100).to_string()).expect("a file");
    let path = path.to_str().expect("UTF-8");
    let new = workload("DaemonSet", "new", "new", 9100).to_string();
    let End { code, stdout, .. } = check(&["-", "--against", path], new.as_bytes());
    assert_eq!(code, Some(1));
    assert!(stdout.contains("running.yaml:1") && stdout.contains("against 1 object that is there"), "{stdout}");
    let End { code, stderr, .. } = check(&["-", "--against", "/nonexistent"], new.as_bytes());
    assert_eq!((code, stderr.contains("no manifest could be read in /nonexistent")), (Some(2), true), "{stderr}");
}

#[test]
fn cluster_that_cannot_be_read_is_a_failure_with_a_remedy() {
    let cluster = Cluster::new();
    let new = [workload("DaemonSet", "new", "new", 9100)];
    let outage = cluster.server.fault(Target::ALL.resource("replicasets"), Fault::Forbidden);
    let End { code, stdout, stderr } = cluster.check(&new, &[]);
    assert_eq!((code, stdout.as_str()), (Some(3), ""), "{stderr}");
    assert!(stderr.contains("list replicasets") && stderr.contains("port-enforcer-reader"), "{stderr}");
    drop(outage);
    let _outage = cluster.server.fault(Target::ALL, Fault::Internal);
    let End { code, stderr, .. } = cluster.check(&new, &[]);
    assert_eq!(code, Some(4), "{stderr}");
    assert!(stderr.contains("cannot list namespaces at http://127.0.0.1:"), "{stderr}");
}
