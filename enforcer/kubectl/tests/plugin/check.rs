//! `check`: new manifests against what runs, by the same code as `enforcer check --against cluster`, whose tests have the
//! kinds of objects.

use std::{
    fs,
    process::{Command, Output},
};

use enforcer_testing::{
    apiserver::{Fault, Target},
    tests,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    Test,
    cluster::{Cluster, End},
};

pub(crate) const TESTS: &[Test] = tests![
    new_manifest_is_held_against_what_runs,
    missing_right_and_missing_file_are_refused,
    offline_check_asks_no_cluster,
    finding_against_a_cluster_has_each_format,
];

fn daemon_set(name: &str, port: u16) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": { "namespace": "monitoring", "name": name },
        "spec": { "selector": { "matchLabels": { "app": name } }, "template": {
            "metadata": { "labels": { "app": name } },
            "spec": { "hostNetwork": true, "containers": [
                { "name": "c", "image": "x", "ports": [{ "containerPort": port, "hostPort": port }] },
            ] },
        } },
    })
}

/// A cluster with an exporter on 9100, and a folder with the manifest of another one.
fn stage(port: u16) -> (Cluster, TempDir, String) {
    let cluster = Cluster::new();
    cluster.server.put_workload(daemon_set("exporter", 9100));
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("new.yaml");
    fs::write(&path, daemon_set("kepler", port).to_string()).expect("a file");
    let path = path.to_str().expect("UTF-8").to_owned();
    (cluster, folder, path)
}

fn new_manifest_is_held_against_what_runs() {
    let (cluster, _folder, path) = stage(9100);
    let End { code, stdout, stderr } = cluster.run(&["check", &path]);
    assert_eq!(code, Some(1), "{stdout}{stderr}");
    let other = "DaemonSet monitoring/kepler cannot share a node with DaemonSet monitoring/exporter (cluster)";
    assert!(stdout.contains(other) && stdout.contains("against 1 object that is there"), "{stdout}");
    assert_eq!(stderr, "kubectl host-ports: 1 error, 0 warnings\n");
    let End { stdout, .. } = cluster.run(&["check", &path, "-o", "json"]);
    let report: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!((&report["kind"], &report["nodes"]), (&json!("CheckReport"), &json!(1)), "the nodes are counted");
    let (cluster, _folder, path) = stage(9200);
    let End { code, stdout, stderr } = cluster.run(&["check", &path]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
}

fn missing_right_and_missing_file_are_refused() {
    let (cluster, _folder, path) = stage(9100);
    let End { code, stdout, stderr } = cluster.run(&["check", "/nonexistent.yaml"]);
    assert_eq!(code, Some(2), "{stdout}{stderr}");
    assert!(stderr.contains("no manifest could be read"), "{stderr}");
    let _outage = cluster.server.fault(Target::ALL.resource("jobs"), Fault::Forbidden);
    let End { code, stdout, stderr } = cluster.run(&["check", &path]);
    assert_eq!((code, stdout.as_str()), (Some(3), ""), "{stderr}");
    assert!(stderr.contains("list jobs") && stderr.contains("port-enforcer-reader"), "{stderr}");
}

fn offline_check_asks_no_cluster() {
    let (cluster, _folder, path) = stage(9100);
    let End { code, stdout, stderr } = cluster.run(&["check", "--offline", &path]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
    drop(cluster);
    let mut alone = Command::new(env!("CARGO_BIN_EXE_kubectl-host_ports"));
    alone.args(["check", "--offline", "-o", "sarif", &path]).env("KUBECONFIG", "/nonexistent");
    let Output { status, stdout, .. } = alone.output().expect("running the program");
    let report: Value = serde_json::from_slice(&stdout).expect("JSON");
    assert_eq!((status.code(), &report["runs"][0]["results"]), (Some(0), &json!([])));
}

/// What runs has no file, and so no place that a tool could show.
fn finding_against_a_cluster_has_each_format() {
    let (cluster, folder, path) = stage(9100);
    let report = cluster.run(&["check", "-o", "sarif", &path]).stdout;
    let report: Value = serde_json::from_str(&report).expect("JSON");
    let [result] = report["runs"][0]["results"].as_array().expect("a list").as_slice() else { panic!("{report}") };
    assert_eq!((&result["ruleId"], result.get("relatedLocations")), (&json!("conflict"), None));
    for format in ["junit", "github"] {
        let End { code, stdout, .. } = cluster.run(&["check", "-o", format, &path]);
        assert_eq!((code, stdout.matches("monitoring/exporter (cluster)").count() > 0), (Some(1), true), "{stdout}");
    }
    let baseline = folder.path().join("baseline.yaml");
    let baseline = baseline.to_str().expect("UTF-8");
    assert_eq!(cluster.run(&["check", "--write-baseline", baseline, &path]).code, Some(0));
    assert_eq!(cluster.run(&["check", "--baseline", baseline, &path]).code, Some(0));
}
