//! Policy reports against an API server with the definitions of both APIs: what is written, what is left alone, and what
//! goes wrong.

use std::fs;

use enforcer_testing::{
    apiserver::{Fault, Target},
    tests,
};
use serde_json::{Value, json};

use crate::{
    Test,
    cluster::{Cluster, End, actor, ledger, object},
    refusals::rights,
};

pub(crate) const TESTS: &[Test] = tests![
    reports_are_what_dashboards_read_in_both_apis,
    second_run_writes_nothing,
    report_goes_when_its_conflict_ends,
    reports_of_others_are_left_alone,
    cluster_without_the_api_is_told_what_to_install,
    printed_reports_are_objects_for_kubectl_apply,
    missing_rights_write_nothing_or_are_named,
    one_report_that_fails_stops_no_other,
    other_api_has_no_own_reports_left,
    one_namespace_is_written_alone,
    pod_of_many_has_its_uid_from_a_list,
    report_of_a_namespace_that_is_gone_is_no_failure,
    server_refuses_reports_that_a_real_one_would
];

const WG: &str = "wgpolicyk8s.io";
const OPEN: &str = "openreports.io";
const APPLY: &[&str] = &["policy-reports", "--apply"];

fn cluster_with(groups: &[&str]) -> Cluster {
    let cluster = Cluster::of_the_story().with_ledgers();
    cluster.server.put_namespace(object(json!({ "metadata": { "name": "tools" } })));
    for group in groups {
        cluster.server.set_report_group(group, true);
    }
    cluster
}

/// The reports by kind, namespace and name, with their counts.
fn heads(cluster: &Cluster) -> Vec<String> {
    let head = |report: &Value| {
        let text = |value: &Value| value.as_str().unwrap_or("*").to_owned();
        let summary = &report["summary"];
        format!(
            "{} {}/{} fail {} warn {} error {}",
            text(&report["kind"]),
            text(&report["metadata"]["namespace"]),
            text(&report["metadata"]["name"]),
            summary["fail"],
            summary["warn"],
            summary["error"]
        )
    };
    cluster.server.policy_reports().iter().map(head).collect()
}

/// Runs what must succeed, and returns the line with the counts.
fn first_line(cluster: &Cluster, arguments: &[&str]) -> String {
    cluster.answer(arguments).lines().next().unwrap_or_default().to_owned()
}

fn writes(cluster: &Cluster, from: usize) -> Vec<String> {
    let requests = cluster.server.requests().split_off(from);
    let written = requests.iter().filter(|request| !matches!(request.verb.as_str(), "get" | "list"));
    written.map(|request| format!("{} {}", request.verb, request.resource)).collect()
}

/// The rights of the role in `deploy/`, and those of readers.
fn all_rights() -> Vec<(String, String)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/components/policy-reports/rbac.yaml");
    let text = fs::read_to_string(path).expect("the role");
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text).expect("YAML");
    let role = objects.iter().find(|object| object["kind"] == "ClusterRole").expect("a role");
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
    };
    let mut all = rights();
    for rule in role["rules"].as_array().expect("rules") {
        for resource in texts(&rule["resources"]) {
            all.extend(texts(&rule["verbs"]).into_iter().map(|verb| (verb, resource.clone())));
        }
    }
    all
}

fn reports_are_what_dashboards_read_in_both_apis() {
    for (group, kinds) in [(WG, ["PolicyReport", "ClusterPolicyReport"]), (OPEN, ["Report", "ClusterReport"])] {
        let cluster = cluster_with(&[group]);
        // Who tries in vain to have a port of the host: the node's part is in the report of the cluster.
        cluster.server.put_ledger(ledger(
            "node-3",
            "audit",
            &json!([]),
            &json!([{
                "kind": "inUse", "ports": "0.0.0.0:22/tcp", "since": "2026-11-29T08:00:00Z",
                "who": actor("default", "nginx-6fdf99c8b-rglm7", "Deployment nginx"),
                "other": { "kind": "host", "unit": "ssh.service" },
            }]),
        ));
        assert_eq!(first_line(&cluster, APPLY), "5 reports created, 0 updated, 0 deleted, 0 unchanged");
        let [namespaced, whole] = kinds;
        let expected = [
            format!("{namespaced} default/port-enforcer fail 2 warn 1 error 0"),
            format!("{namespaced} monitoring/port-enforcer fail 1 warn 0 error 0"),
            format!("{namespaced} shop/port-enforcer fail 1 warn 1 error 0"),
            format!("{namespaced} tools/port-enforcer fail 1 warn 0 error 0"),
            format!("{whole} */port-enforcer fail 0 warn 1 error 0"),
        ];
        assert_eq!(heads(&cluster), expected);
        let report = &cluster.server.policy_reports()[0];
        assert_eq!(report["metadata"]["labels"]["app.kubernetes.io/managed-by"], "port-enforcer");
        assert_eq!(report["scope"], json!({ "apiVersion": "v1", "kind": "Namespace", "name": "default" }));
        assert_eq!(report["source"], if group == OPEN { json!("port-enforcer") } else { json!(null) });
        let results = report["results"].as_array().expect("results");
        // What Policy Reporter and Headlamp show of a result.
        let seconds = |time: &str| time.parse::<jiff::Timestamp>().expect("a time").as_second();
        for result in results {
            assert_eq!(result["source"], "port-enforcer");
            assert_eq!((&result["policy"], &result["category"]), (&json!("host-ports"), &json!("Host ports")));
            assert_eq!(result["timestamp"], json!({ "seconds": seconds("2026-11-29T08:00:00Z"), "nanos": 0 }));
            assert!(result["properties"]["resultID"].as_str().is_some_and(|id| id.len() == 32), "{result}");
        }
        let ssh = results.iter().find(|result| result["properties"]["port"] == "22").expect("a result");
        assert_eq!((&ssh["result"], &ssh["severity"], &ssh["rule"]), (&json!("fail"), &json!("high"), &json!("inUse")));
        assert_eq!(
            ssh["message"],
            "default/nginx-6fdf99c8b-rglm7 tries in vain since 2026-11-29T08:00:00Z to bind 0.0.0.0:22/tcp, which the \
             host's ssh.service holds (on node-3)"
        );
        let rglm7 = json!({
            "apiVersion": "v1", "kind": "Pod", "namespace": "default", "name": "nginx-6fdf99c8b-rglm7",
            "uid": "00000000-0000-4000-8000-000000000002",
        });
        assert_eq!(ssh["resources"], json!([rglm7]));
        for (property, value) in
            [("node", "node-3"), ("protocol", "tcp"), ("holder", "the host's ssh.service"), ("known", "ledger")]
        {
            assert_eq!(ssh["properties"][property], value);
        }
        let whole = &cluster.server.policy_reports()[4];
        assert_eq!(whole["results"][0]["resources"][0]["kind"], "Node");
        assert!(whole["results"][0]["resources"][0]["uid"].is_string(), "{whole}");
    }
}

fn second_run_writes_nothing() {
    for group in [WG, OPEN] {
        let cluster = cluster_with(&[group]);
        cluster.answer(APPLY);
        let before = cluster.server.requests().len();
        assert_eq!(first_line(&cluster, APPLY), "0 reports created, 0 updated, 0 deleted, 4 unchanged");
        assert_eq!(writes(&cluster, before), [""; 0]);
    }
}

fn report_goes_when_its_conflict_ends() {
    let cluster = cluster_with(&[WG]);
    cluster.answer(APPLY);
    let times = |cluster: &Cluster| cluster.server.policy_reports()[0]["results"][0]["timestamp"].clone();
    let before = times(&cluster);
    // The squatter goes, and of the two replicas nothing changes.
    cluster.server.put_ledger(ledger("node-2", "audit", &json!([]), &json!([])));
    let from = cluster.server.requests().len();
    assert_eq!(first_line(&cluster, APPLY), "0 reports created, 0 updated, 3 deleted, 1 unchanged");
    assert_eq!(writes(&cluster, from), ["delete policyreports"; 3]);
    assert_eq!(heads(&cluster), ["PolicyReport default/port-enforcer fail 1 warn 1 error 0"]);
    assert_eq!(times(&cluster), before);
    // Another conflict in a namespace with a report: that one is written anew.
    cluster.server.put_ledger(ledger(
        "node-2",
        "audit",
        &json!([]),
        &json!([{
            "kind": "shared", "ports": "81/tcp",
            "who": actor("default", "nginx-6fdf99c8b-rglm7", "Deployment nginx"), "other": { "kind": "node" },
        }]),
    ));
    let from = cluster.server.requests().len();
    assert_eq!(first_line(&cluster, APPLY), "1 reports created, 1 updated, 0 deleted, 0 unchanged");
    assert_eq!(writes(&cluster, from), ["create clusterpolicyreports", "patch policyreports"]);
}

fn reports_of_others_are_left_alone() {
    let cluster = cluster_with(&[WG]);
    let report = |namespace: &str, name: &str, owner: &str| {
        json!({
            "apiVersion": "wgpolicyk8s.io/v1alpha2", "kind": "PolicyReport",
            "metadata": { "namespace": namespace, "name": name, "labels": { "app.kubernetes.io/managed-by": owner } },
            "summary": { "pass": 1, "fail": 0, "warn": 0, "error": 0, "skip": 0 },
            "results": [{ "policy": "others", "result": "pass" }],
        })
    };
    // One of Kyverno's, and one that has the name of ours.
    cluster.server.put_policy_report(report("default", "3f1b", "kyverno"));
    cluster.server.put_policy_report(report("tools", "port-enforcer", "somebody"));
    let End { code, stdout, stderr } = cluster.run(APPLY);
    assert_eq!(
        (code, stdout.as_str()),
        (Some(4), "3 reports created, 0 updated, 0 deleted, 0 unchanged\n"),
        "{stderr}"
    );
    assert!(stderr.contains("policyreports tools/port-enforcer belongs to somebody else"), "{stderr}");
    let foreign: Vec<Value> = cluster
        .server
        .policy_reports()
        .into_iter()
        .filter(|report| report["results"][0]["policy"] == "others")
        .collect();
    assert_eq!(foreign.len(), 2);
    // Nor are they deleted when everything has ended.
    for node in ["node-1", "node-2"] {
        cluster.server.put_ledger(ledger(node, "audit", &json!([]), &json!([])));
    }
    cluster.server.delete_service("shop", "front");
    cluster.answer(APPLY);
    assert_eq!(cluster.server.policy_reports(), foreign);
}

fn cluster_without_the_api_is_told_what_to_install() {
    let cluster = cluster_with(&[]);
    for arguments in [APPLY, &["policy-reports"], &["policy-reports", "-o", "yaml"]] {
        let End { code, stdout, stderr } = cluster.run(arguments);
        assert_eq!((code, stdout.as_str()), (Some(4), ""), "{stderr}");
        assert!(stderr.contains("install the definitions of wgpolicyk8s.io/v1alpha2"), "{stderr}");
        assert!(stderr.contains("openreports.io/v1alpha1"), "{stderr}");
    }
    let End { code, stdout, .. } = cluster.run(&["policy-reports", "--report-api", OPEN, "-o", "json"]);
    assert_eq!(code, Some(0));
    assert!(stdout.contains("\"kind\": \"Report\""), "{stdout}");
    // Of two, the one that is there.
    cluster.server.set_report_group(OPEN, true);
    let End { code, stderr, .. } = cluster.run(&["policy-reports", "--apply", "--report-api", WG]);
    assert_eq!(code, Some(4));
    assert!(stderr.contains("has no wgpolicyk8s.io/v1alpha2"), "{stderr}");
    assert_eq!(cluster.server.policy_reports(), [json!(null); 0]);
}

fn printed_reports_are_objects_for_kubectl_apply() {
    let cluster = cluster_with(&[WG, OPEN]);
    let before = cluster.server.requests().len();
    let text = cluster.answer(&["policy-reports"]);
    let expected = "namespace default: 1 fail, 1 warn\nnamespace monitoring: 1 fail, 0 warn\nnamespace shop: 1 fail, 1 \
                    warn\nnamespace tools: 1 fail, 0 warn\nnothing was written: --apply writes these reports, -o yaml \
                    prints them\n---\nnote: node-3 has no ledger: this is what pods declare there, and what is bound is \
                    not known\n";
    assert_eq!(text, expected);
    let list: Value = serde_json::from_str(&cluster.run(&["policy-reports", "-o", "json"]).stdout).expect("JSON");
    let yaml: Vec<Value> =
        serde_saphyr::from_multiple(&cluster.run(&["policy-reports", "-o", "yaml"]).stdout).expect("YAML");
    assert_eq!(list["kind"], "List");
    let items = list["items"].as_array().expect("a list");
    assert_eq!((items.len(), yaml.len()), (4, 4));
    for (item, document) in items.iter().zip(&yaml) {
        assert_eq!(item["metadata"], document["metadata"]);
        assert_eq!((&item["kind"], &item["apiVersion"]), (&json!("PolicyReport"), &json!("wgpolicyk8s.io/v1alpha2")));
    }
    assert_eq!(writes(&cluster, before), [""; 0]);
    let End { code, stderr, .. } = cluster.run(&["policy-reports", "--apply", "-o", "yaml"]);
    assert_eq!(code, Some(2), "{stderr}");
}

fn missing_rights_write_nothing_or_are_named() {
    let cluster = cluster_with(&[WG]);
    let rights = all_rights();
    let End { code, stderr, .. } = cluster.run_as_reader(&rights, APPLY);
    assert_eq!(code, Some(0), "the role of the component is enough: {stderr}");
    let without = |verb: &str, resource: &str| -> Vec<(String, String)> {
        rights.iter().filter(|right| **right != (verb.to_owned(), resource.to_owned())).cloned().collect()
    };
    cluster.server.put_ledger(ledger("node-2", "audit", &json!([]), &json!([])));
    // What is not seen counts for nothing: a report must not go because a right did.
    for resource in ["nodehostports", "services", "nodes"] {
        let before = cluster.server.requests().len();
        let End { code, stderr, .. } = cluster.run_as_reader(&without("list", resource), APPLY);
        assert_eq!(code, Some(3), "{resource}: {stderr}");
        assert!(stderr.contains(&format!("get and list {resource}")), "{stderr}");
        assert_eq!(writes(&cluster, before), [""; 0], "{resource}");
    }
    let End { code, stderr, .. } = cluster.run_as_reader(&without("list", "policyreports"), APPLY);
    assert_eq!(code, Some(3));
    assert!(stderr.contains("ClusterRole port-enforcer-policy-reports"), "{stderr}");
    let End { code, stdout, stderr } = cluster.run_as_reader(&without("delete", "policyreports"), APPLY);
    assert_eq!((code, stdout.as_str()), (Some(3), "0 reports created, 0 updated, 0 deleted, 1 unchanged\n"));
    assert!(
        stderr.contains("cannot write 3 reports") && stderr.contains("policyreports monitoring/port-enforcer"),
        "{stderr}"
    );
    // UIDs are for comfort.
    let End { code, stderr, .. } = cluster.run_as_reader(&without("get", "pods"), &["policy-reports"]);
    assert_eq!(code, Some(0));
    assert!(stderr.contains("UIDs are missing in the reports"), "{stderr}");
}

fn one_report_that_fails_stops_no_other() {
    let cluster = cluster_with(&[WG]);
    let outage = cluster.server.fault(Target::ALL.verb("create").resource("policyreports"), Fault::Internal);
    cluster.server.put_ledger(ledger("node-3", "audit", &json!([]), &json!([{
        "kind": "shared", "ports": "22/tcp", "who": { "kind": "node" }, "other": { "kind": "host", "unit": "x.service" },
    }])));
    let End { code, stdout, stderr } = cluster.run(APPLY);
    assert_eq!((code, stdout.as_str()), (Some(4), "1 reports created, 0 updated, 0 deleted, 0 unchanged\n"));
    assert!(stderr.contains("cannot write 4 reports") && stderr.contains("; and 1 more"), "{stderr}");
    drop(outage);
    assert_eq!(first_line(&cluster, APPLY), "4 reports created, 0 updated, 0 deleted, 1 unchanged");
}

fn other_api_has_no_own_reports_left() {
    let cluster = cluster_with(&[OPEN]);
    cluster.answer(APPLY);
    cluster.server.set_report_group(WG, true);
    // With both, one is written, and each conflict is listed once.
    let End { code, stdout, stderr } = cluster.run(APPLY);
    assert_eq!(
        (code, stdout.as_str()),
        (Some(0), "4 reports created, 0 updated, 4 deleted, 0 unchanged\n"),
        "{stderr}"
    );
    assert!(heads(&cluster).iter().all(|head| head.starts_with("PolicyReport ")), "{:?}", heads(&cluster));
    let rights: Vec<_> = all_rights().into_iter().filter(|(_, resource)| resource != "reports").collect();
    let End { code, stderr, .. } = cluster.run_as_reader(&rights, APPLY);
    assert_eq!(code, Some(0));
    assert!(stderr.contains("own reports of openreports.io were not looked for"), "{stderr}");
}

fn one_namespace_is_written_alone() {
    let cluster = cluster_with(&[WG]);
    let arguments = ["policy-reports", "--apply", "-n", "shop"];
    assert_eq!(first_line(&cluster, &arguments), "1 reports created, 0 updated, 0 deleted, 0 unchanged");
    cluster.answer(APPLY);
    cluster.server.delete_service("shop", "front");
    let before = cluster.server.requests().len();
    assert_eq!(first_line(&cluster, &arguments), "0 reports created, 0 updated, 1 deleted, 0 unchanged");
    assert_eq!(writes(&cluster, before), ["delete policyreports"]);
    assert_eq!(heads(&cluster).len(), 3);
}

fn pod_of_many_has_its_uid_from_a_list() {
    let cluster = cluster_with(&[WG]);
    let mut conflicts = Vec::new();
    for number in 0..60 {
        let name = format!("many-{number}");
        let mut pod = crate::cluster::pod("many", &name, Some("node-1"), 100 + number, 7000 + number, ("Job", "many"));
        pod["metadata"]["creationTimestamp"] = "2026-11-01T00:00:00Z".into();
        pod["spec"]["hostNetwork"] = false.into();
        cluster.server.put_pod(object(pod));
        conflicts.push(json!({
            "kind": "inUse", "ports": format!("{}/tcp", 7000 + number), "who": actor("many", &name, "Job many"),
            "other": { "kind": "host", "unit": "x.service" },
        }));
    }
    cluster.server.put_ledger(ledger("node-1", "audit", &json!([]), &conflicts.into()));
    let before = cluster.server.requests().len();
    cluster.answer(APPLY);
    let asked = cluster.server.requests().split_off(before);
    let of = |verb: &str| {
        let wanted = |namespace: &Option<String>| namespace.as_deref() == Some("many");
        asked.iter().filter(|one| one.verb == verb && one.resource == "pods" && wanted(&one.namespace)).count()
    };
    assert_eq!((of("list"), of("get")), (1, 0));
    let reports = cluster.server.policy_reports();
    let many = reports.iter().find(|report| report["metadata"]["namespace"] == "many").expect("a report");
    let results = many["results"].as_array().expect("results");
    assert_eq!(results.len(), 60);
    assert!(results.iter().all(|result| result["resources"][0]["uid"].is_string()), "{many}");
}

fn report_of_a_namespace_that_is_gone_is_no_failure() {
    let cluster = cluster_with(&[WG]);
    cluster.server.delete_namespace("tools");
    for expected in
        ["3 reports created, 0 updated, 0 deleted, 0 unchanged", "0 reports created, 0 updated, 0 deleted, 3 unchanged"]
    {
        let End { code, stdout, stderr } = cluster.run(APPLY);
        assert_eq!((code, stdout.trim_end()), (Some(0), expected), "{stderr}");
        assert!(stderr.contains("1 reports were not written: their namespaces are gone"), "{stderr}");
    }
}

/// The server of the tests judges what it is sent: else nothing above would show that the fields are right.
fn server_refuses_reports_that_a_real_one_would() {
    let cluster = cluster_with(&[WG]);
    cluster.answer(APPLY);
    let good = cluster.server.policy_reports()[0].clone();
    let refused = |change: &dyn Fn(&mut Value)| {
        let mut report = good.clone();
        report["metadata"] = json!({ "name": "other" });
        change(&mut report);
        cluster.server.refusal_of_policy_report("default", &report)
    };
    assert_eq!(refused(&|_| ()), None);
    for (change, why) in [
        (
            &(|report: &mut Value| report["results"][0]["severity"] = "critical".into()) as &dyn Fn(&mut Value),
            "severity",
        ),
        (&|report| report["results"][0]["holder"] = "x".into(), "holder: field not declared"),
        (&|report| report["results"][0]["timestamp"] = json!({ "seconds": 1 }), "nanos"),
        (&|report| report["source"] = "x".into(), "source: field not declared"),
        (&|report| report["results"][0]["properties"]["port"] = 80.into(), "port"),
        (&|report| report["results"][0]["message"] = "x".repeat(2 << 20).into(), "too large"),
    ] {
        let refusal = refused(change).unwrap_or_default();
        assert!(refusal.contains(why), "{why}: {refusal}");
    }
}
