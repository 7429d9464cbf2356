//! `suggest`: patches from ledgers, and from the workloads themselves where they may be read.

use std::{
    fs, io,
    process::{Command, Stdio},
};

use enforcer_testing::tests;
use libtest_mimic::{Completion, Trial};
use serde_json::{Value, json};

use crate::{
    Test,
    cluster::{Cluster, End, actor, end, ledger, object, pod, row},
    refusals::rights,
};

pub(crate) const TESTS: &[Test] = tests![
    suggestions_come_from_all_ledgers,
    patch_takes_the_workload_as_it_is,
    right_that_is_missing_leaves_what_ledgers_know,
    one_workload_is_chosen_as_for_kubectl,
    reader_with_the_role_reads_workloads
];

/// The tests that need kubectl.
pub(crate) fn trials() -> Vec<Trial> {
    let test = || {
        let found = Command::new("kubectl").args(["patch", "--help"]).stdout(Stdio::null()).status();
        // Only a program that is not there is a reason to skip; one that fails is a failure.
        if matches!(found, Err(error) if error.kind() == io::ErrorKind::NotFound) {
            return Ok(Completion::ignored_with("kubectl is not installed"));
        }
        patch_that_kubectl_applies_declares_the_ports();
        Ok(Completion::Completed)
    };
    vec![Trial::ignorable_test("suggest::patch_that_kubectl_applies_declares_the_ports", test)]
}

macro_rules! snapshot {
    ($name:expr, $answer:expr) => {
        insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!($name, $answer);
        })
    };
}

fn observed(workload: &str, container: &str, port: u16, protocol: &str, kind: &str) -> Value {
    json!({
        "namespace": "monitoring", "workload": workload, "container": container, "protocol": protocol,
        "firstPort": port, "lastPort": port, "kind": kind, "pods": 1, "ofPods": 1, "since": "2026-11-28T12:00:00Z",
    })
}

/// Two nodes with an exporter that declares 9100 and binds more, and a third one without a ledger.
fn cluster() -> Cluster {
    let cluster = Cluster::of_the_story();
    let exporter = |number: u16| actor("monitoring", &format!("node-exporter-{number}"), "DaemonSet node-exporter");
    for (node, number) in [("node-1", 3), ("node-2", 4)] {
        let mut unused = row(9200, &exporter(number), Some(("hostPort", "inForce")), false);
        unused["neverHeld"] = true.into();
        let claimed = row(9100, &exporter(number), Some(("hostPort", "inForce")), true);
        let mut status = ledger(node, "audit", &json!([claimed, unused]), &json!([]));
        status["status"]["observed"] = json!([
            observed("DaemonSet node-exporter", "main", 9101, "tcp", "named"),
            observed("DaemonSet node-exporter", "main", 9101, "udp", "named"),
            observed("DaemonSet node-exporter", "main", 40_000 + number, "tcp", "chosen"),
            observed("Deployment gone", "main", 9300, "tcp", "named"),
        ]);
        cluster.server.put_ledger(status);
    }
    cluster
}

/// Adds the workload as it is, and returns it.
fn put_exporter(cluster: &Cluster, annotation: &str) -> Value {
    let exporter = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": { "namespace": "monitoring", "name": "node-exporter" },
        "spec": { "selector": { "matchLabels": { "app": "x" } }, "template": {
            "metadata": { "labels": { "app": "x" }, "annotations": { "port-enforcer.io/ports": annotation } },
            "spec": { "hostNetwork": true, "containers": [{ "name": "main", "image": "x",
                "ports": [{ "containerPort": 9100, "hostPort": 9100 }, { "containerPort": 9200, "hostPort": 9200 }] }] },
        } },
    });
    cluster.server.put_workload(exporter.clone());
    exporter
}

/// Lets kubectl patch the workload in a file, and checks what comes of it as any manifest.
fn patch_that_kubectl_applies_declares_the_ports() {
    let cluster = cluster();
    let exporter = put_exporter(&cluster, "7000-7010/udp");
    let patch = cluster.run(&["suggest", "-n", "monitoring", "ds/node-exporter", "-o", "patch"]).stdout;
    let file = |name: &str| cluster.path_beside(name).display().to_string();
    let (workload, patch_file, result) = (file("workload.json"), file("patch.yaml"), file("result.yaml"));
    fs::write(&workload, exporter.to_string()).expect("writing a file");
    fs::write(&patch_file, &patch).expect("writing a file");
    let mut kubectl = Command::new("kubectl");
    kubectl.args([
        "patch",
        "--local",
        "-f",
        &workload,
        "--type",
        "strategic",
        "--patch-file",
        &patch_file,
        "-o",
        "yaml",
    ]);
    let End { code, stdout, stderr } = end(kubectl);
    assert_eq!(code, Some(0), "{patch}\n{stderr}");
    let patched: Value = serde_saphyr::from_str(&stdout).expect("YAML");
    let template = &patched["spec"]["template"];
    assert_eq!(template["metadata"]["annotations"]["port-enforcer.io/ports"], "7000-7010/udp, 9101/udp");
    let ports = template["spec"]["containers"][0]["ports"].as_array().cloned().unwrap_or_default();
    let mut declared: Vec<_> =
        ports.iter().map(|port| (port["containerPort"].as_u64(), port["hostPort"].as_u64())).collect();
    declared.sort_unstable();
    assert_eq!(declared, [9100, 9101, 9200].map(|port| (Some(port), Some(port))), "{stdout}");
    assert_eq!(template["spec"]["containers"][0]["image"], "x", "nothing else changes");
    fs::write(&result, &stdout).expect("writing a file");
    let End { code, stdout, stderr } = cluster.run(&["check", &result]);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    // What runs is what the patch makes now, so that nothing is left to suggest but to use 9200.
    cluster.server.put_workload(patched);
    let answer = cluster.run(&["suggest", "-n", "monitoring", "ds/node-exporter", "-o", "patch"]);
    assert_eq!((answer.code, answer.stdout.as_str()), (Some(0), ""), "{}", answer.stderr);
    second_workload_meets_the_declared_port(&cluster);
}

/// Asks for a second workload that wants a port which the first one declares now: before it is deployed, and as a pod that
/// the scheduler keeps from the nodes. Its port is where the component `scheduling` writes it.
fn second_workload_meets_the_declared_port(cluster: &Cluster) {
    let template = json!({
        "metadata": { "labels": { "app": "y" } },
        "spec": { "hostNetwork": true, "containers": [{ "name": "main", "image": "y", "ports": [
            { "containerPort": 9101, "hostPort": 9101, "protocol": "TCP" },
        ] }] },
    });
    let second = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": { "namespace": "tools", "name": "second" },
        "spec": { "selector": { "matchLabels": { "app": "y" } }, "template": template },
    });
    let file = cluster.path_beside("second.json").display().to_string();
    fs::write(&file, second.to_string()).expect("writing a file");
    let End { code, stdout, stderr } = cluster.run(&["check", &file]);
    assert_eq!(code, Some(1), "{stdout}{stderr}");
    let words = "error: DaemonSet tools/second cannot share a node with DaemonSet monitoring/node-exporter";
    assert!(stdout.contains(words) && stdout.contains("9101/tcp"), "{stdout}");
    // The pods of the patched workload, as their agents know them.
    for (node, number) in [("node-1", 3), ("node-2", 4)] {
        let exporter = actor("monitoring", &format!("node-exporter-{number}"), "DaemonSet node-exporter");
        let rows = json!([row(9101, &exporter, Some(("hostPort", "inForce")), true)]);
        cluster.server.put_ledger(ledger(node, "audit", &rows, &json!([])));
    }
    let mut waiting = pod("tools", "second-x2vbn", None, 7, 9101, ("DaemonSet", "second"));
    waiting["status"] = json!({ "phase": "Pending", "conditions": [{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/3 nodes are available: 2 node(s) didn't have free ports for the requested pod ports.",
    }] });
    cluster.server.put_pod(object(waiting));
    let why = cluster.run(&["why", "second-x2vbn", "-n", "tools"]).stdout;
    for words in [
        "tools/second-x2vbn is Pending because on each of the 2 nodes that suit it another pod declares one of its ports",
        "On node-1, monitoring/node-exporter-3 (DaemonSet node-exporter) declares 9101/tcp and holds it.",
        "Free near 9101/tcp: 9102,",
    ] {
        assert!(why.contains(words), "{words}\n{why}");
    }
}

fn suggestions_come_from_all_ledgers() {
    let cluster = cluster();
    put_exporter(&cluster, "none");
    snapshot!("suggest_all", cluster.answer(&["suggest", "-A"]));
    snapshot!("suggest_yaml", cluster.answer(&["suggest", "-A", "-o", "yaml"]));
    snapshot!("suggest_json", cluster.answer(&["suggest", "-n", "monitoring", "-o", "json"]));
    snapshot!("suggest_nothing", cluster.answer(&["suggest", "-n", "default"]));
}

fn patch_takes_the_workload_as_it_is() {
    let cluster = cluster();
    put_exporter(&cluster, "9100, 7000-7010/udp");
    let patch = cluster.run(&["suggest", "-n", "monitoring", "ds/node-exporter", "-o", "patch"]).stdout;
    snapshot!("suggest_patch", patch);
    let patch: Value = serde_saphyr::from_str(&patch).expect("YAML");
    let template = &patch["spec"]["template"];
    assert_eq!(template["metadata"]["annotations"]["port-enforcer.io/ports"], "9100, 7000-7010/udp, 9101/udp");
    assert_eq!(template["spec"]["containers"][0]["ports"][0]["hostPort"], 9101);
}

fn right_that_is_missing_leaves_what_ledgers_know() {
    let cluster = cluster();
    put_exporter(&cluster, "none");
    let rights: Vec<_> = rights().into_iter().filter(|(_, resource)| resource != "daemonsets").collect();
    let End { code, stdout, stderr } =
        cluster.run_as_reader(&rights, &["suggest", "-n", "monitoring", "ds/node-exporter"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("9101/tcp by container main") && stdout.contains("was not read"), "{stdout}");
    assert!(stderr.contains("DaemonSet monitoring/node-exporter cannot be read"), "{stderr}");
    assert!(stderr.contains("ask for the ClusterRole port-enforcer-reader"), "{stderr}");
}

fn one_workload_is_chosen_as_for_kubectl() {
    let cluster = cluster();
    let mut status = ledger("node-1", "audit", &json!([]), &json!([]));
    status["status"]["observed"] = json!([
        observed("StatefulSet one", "main", 9300, "tcp", "named"),
        observed("StaticPod etcd-node-1", "main", 2381, "tcp", "named"),
        observed("Rollout two", "main", 9301, "tcp", "named"),
        observed("CustomSet three", "main", 9302, "tcp", "named"),
    ]);
    cluster.server.put_ledger(status);
    for name in ["one", "other"] {
        cluster.server.put_workload(json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "namespace": "monitoring", "name": name },
            "spec": { "template": { "spec": { "hostNetwork": true, "containers": [{ "name": "main" }] } } },
        }));
    }
    put_exporter(&cluster, "none");
    let End { code, stderr, .. } = cluster.run(&["suggest", "-n", "monitoring", "-o", "patch"]);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("name one of daemonset/node-exporter and statefulset/one"), "{stderr}");
    let text = |choice: &str| cluster.run(&["suggest", "-n", "monitoring", choice]).stdout;
    assert!(text("sts/one").contains("9300/tcp") && !text("sts/one").contains("9301"), "{}", text("sts/one"));
    assert!(text("pod/etcd-node-1").contains("staticPodPath"), "{}", text("pod/etcd-node-1"));
    assert_eq!(text("sts/other"), "Nothing to suggest.\n");
    let End { code, stdout, stderr } = cluster.run(&["suggest", "-n", "monitoring", "rollout/two", "-o", "patch"]);
    assert_eq!((code, stdout.as_str()), (Some(0), ""), "{stderr}");
    assert!(stderr.contains("no strategic merge for the kind Rollout"), "{stderr}");
    assert_eq!(cluster.run(&["suggest", "one"]).code, Some(2));
}

fn reader_with_the_role_reads_workloads() {
    let cluster = cluster();
    put_exporter(&cluster, "none");
    let End { code, stdout, stderr } = cluster.run_as_reader(&rights(), &["suggest", "-A"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(!stderr.contains("cannot be read") && !stdout.contains("was not read"), "{stdout}{stderr}");
}
