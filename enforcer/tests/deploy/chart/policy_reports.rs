//! The job that writes policy reports: what values change of it. That it is the component's job is in `equivalence.rs`.

use std::{collections::BTreeSet, fs};

use enforcer_testing::tests;
use serde_json::{Value, json};

use super::{chart, equivalence::find, objects, template};
use crate::{
    Test,
    strict::{check, deploy, read},
};

pub(super) const TESTS: &[Test] =
    tests![values_reach_the_job, job_is_not_an_agent, choices_of_the_api_are_those_of_the_role, schedules_are_taken];

const NAME: &str = "port-enforcer-policy-reports";

fn with(values: &Value) -> Vec<Value> {
    let mut on = values.clone();
    on["policyReports"]["enabled"] = true.into();
    objects("port-enforcer", &on)
}

fn pod(objects: &[Value]) -> &Value {
    &find(objects, "CronJob", NAME)["spec"]["jobTemplate"]["spec"]["template"]["spec"]
}

fn values_reach_the_job() {
    let toleration = json!({ "key": "pool", "operator": "Exists" });
    let digest = format!("sha256:{}", "0b".repeat(32));
    let values = json!({
        "imagePullSecrets": [{ "name": "pull" }],
        "commonLabels": { "team": "net" },
        "policyReports": {
            "schedule": "0 * * * *",
            "api": "openreports.io",
            "image": { "repository": "registry.example/plugin", "digest": digest, "pullPolicy": "Always" },
            "resources": { "limits": { "memory": "512Mi" } },
            "nodeSelector": { "pool": "one" },
            "tolerations": [toleration],
            "affinity": { "nodeAffinity": {} },
        },
    });
    let objects = with(&values);
    let job = find(&objects, "CronJob", NAME);
    assert_eq!(check(job), Ok(()));
    assert_eq!(job["spec"]["schedule"], "0 * * * *");
    assert_eq!(job["metadata"]["labels"]["team"], "net");
    let (pod, container) = (pod(&objects), &pod(&objects)["containers"][0]);
    assert_eq!(container["args"], json!(["policy-reports", "--apply", "--report-api=openreports.io"]));
    assert_eq!(container["image"], format!("registry.example/plugin@{digest}"));
    assert_eq!(container["imagePullPolicy"], "Always");
    assert_eq!(container["resources"]["limits"], json!({ "memory": "512Mi" }));
    assert_eq!(pod["imagePullSecrets"], values["imagePullSecrets"]);
    assert_eq!(pod["nodeSelector"], json!({ "kubernetes.io/os": "linux", "pool": "one" }));
    assert_eq!((&pod["tolerations"], &pod["affinity"]), (&json!([toleration]), &json!({ "nodeAffinity": {} })));
    let tagged = with(&json!({ "policyReports": { "image": { "tag": "1.2.3" } } }));
    assert_eq!(self::pod(&tagged)["containers"][0]["image"], "kubectl-host-ports:1.2.3");
}

/// What is set for the agents is not for the job, and the other way round.
fn job_is_not_an_agent() {
    let agents = json!({
        "image": { "tag": "1.2.3", "pullPolicy": "Always" },
        "nodeSelector": { "pool": "one" },
        "tolerations": [{ "operator": "Exists" }],
        "affinity": { "nodeAffinity": {} },
        "resources": { "limits": { "memory": "1Gi" } },
        "podLabels": { "a": "b" },
        "extraEnv": [{ "name": "TZ", "value": "UTC" }],
    });
    let (plain, changed) = (with(&json!({})), with(&agents));
    assert_eq!(find(&plain, "CronJob", NAME), find(&changed, "CronJob", NAME));
    let job = json!({ "policyReports": { "image": { "tag": "1.2.3" }, "nodeSelector": { "pool": "one" } } });
    let changed = with(&job);
    assert_eq!(find(&plain, "DaemonSet", "port-enforcer"), find(&changed, "DaemonSet", "port-enforcer"));
    assert_ne!(find(&plain, "CronJob", NAME), find(&changed, "CronJob", NAME));
}

/// An API that the role may not write would fail at the first run.
fn choices_of_the_api_are_those_of_the_role() {
    let schema = fs::read_to_string(chart().join("values.schema.json")).expect("a schema");
    let schema: Value = serde_json::from_str(&schema).expect("JSON");
    let choices = schema.pointer("/properties/policyReports/properties/api/enum").and_then(Value::as_array);
    let choices = choices.expect("choices").iter().filter_map(Value::as_str).filter(|choice| !choice.is_empty());
    let choices: BTreeSet<_> = choices.map(str::to_owned).collect();
    let objects = read(&deploy().join("components/policy-reports/rbac.yaml"));
    let rules = find(&objects, "ClusterRole", NAME)["rules"].as_array().expect("rules");
    let writes = |rule: &&Value| rule["verbs"].as_array().is_some_and(|verbs| verbs.contains(&json!("create")));
    let groups = rules.iter().filter(writes).flat_map(|rule| rule["apiGroups"].as_array().expect("groups"));
    let groups: BTreeSet<_> = groups.map(|group| group.as_str().expect("a group").to_owned()).collect();
    assert_eq!(choices, groups);
    assert_eq!(groups.len(), 2);
}

/// What the API server takes and people write.
fn schedules_are_taken() {
    for schedule in ["*/5 * * * *", "0 3 * * MON-FRI", "0 0,12 1-7/2 JAN ?", "@hourly", "@every 1h30m"] {
        let output = template("port-enforcer", &json!({ "policyReports": { "schedule": schedule } }), &[]);
        assert!(output.status.success(), "{schedule}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
