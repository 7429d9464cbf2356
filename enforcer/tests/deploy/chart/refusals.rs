//! Values that the chart refuses, and what it says.

use enforcer_testing::tests;
use serde_json::{Value, json};

use super::template;
use crate::Test;

pub(super) const TESTS: &[Test] = tests![
    values_out_of_the_schema_are_refused,
    contradictions_are_refused_in_a_sentence,
    old_clusters_are_refused_what_they_lack
];

/// What helm says of values that it refuses.
fn refusal(values: &Value, flags: &[&str]) -> String {
    let output = template("port-enforcer", values, flags);
    assert!(!output.status.success() && output.stdout.is_empty(), "{values} are taken");
    String::from_utf8(output.stderr).expect("UTF-8")
}

/// The value is named, and what it may be.
fn values_out_of_the_schema_are_refused() {
    for (values, words) in [
        (json!({ "mode": "deny" }), &["mode", "audit", "enforce"][..]),
        (json!({ "mod": "enforce" }), &["mod"]),
        (json!({ "image": { "tags": "1" } }), &["image", "tags"]),
        (json!({ "image": { "digest": "sha256:1" } }), &["image", "digest", "sha256"]),
        (json!({ "image": { "pullPolicy": "Sometimes" } }), &["pullPolicy", "IfNotPresent"]),
        (json!({ "port": 0 }), &["port", "1"]),
        (json!({ "port": 70000 }), &["port", "65535"]),
        (json!({ "settings": { "undeclared": "maybe" } }), &["undeclared", "adopt"]),
        (json!({ "settings": { "lease": "an hour" } }), &["lease", "attern"]),
        (json!({ "settings": { "persist": "yes" } }), &["persist", "boolean"]),
        (json!({ "settings": { "maxPortsPerPod": 0 } }), &["maxPortsPerPod", "1"]),
        (json!({ "settings": { "sharedPorts": ["1/udp,2/udp"] } }), &["sharedPorts", "attern"]),
        (json!({ "settings": { "mode": "enforce" } }), &["settings", "mode"]),
        (json!({ "boot": { "action": "uninstall" } }), &["action", "install", "remove"]),
        (json!({ "boot": true }), &["boot", "object"]),
        (json!({ "nodePorts": { "ports": [{ "port": 22 }] } }), &["protocol", "required"]),
        (json!({ "nodePorts": { "ports": [{ "port": 22, "protocol": "tcp" }] } }), &["protocol", "TCP"]),
        (json!({ "policies": { "allowedClaims": { "shop": 80 } } }), &["shop", "string"]),
        (json!({ "policyReports": { "schedule": "hourly" } }), &["schedule", "attern"]),
        (json!({ "policyReports": { "schedule": "TZ=UTC 0 * * * *" } }), &["schedule", "attern"]),
        (json!({ "policyReports": { "api": "v1" } }), &["api", "wgpolicyk8s.io", "openreports.io"]),
        (json!({ "policyReports": { "image": { "repository": "" } } }), &["repository", "attern"]),
        (json!({ "policyReports": { "image": "registry.example/plugin" } }), &["image", "object"]),
        (json!({ "startupTaint": { "key": "no key" } }), &["key", "attern"]),
        (json!({ "updateStrategy": { "type": "Recreate" } }), &["type", "OnDelete"]),
        (json!({ "extraEnv": [{ "value": "1" }] }), &["name", "required"]),
        (json!({ "cleanup": { "timeoutSeconds": 0 } }), &["timeoutSeconds", "1"]),
    ] {
        let said = refusal(&values, &[]);
        assert!(words.iter().all(|word| said.contains(word)), "{values}: {said}");
    }
}

fn contradictions_are_refused_in_a_sentence() {
    let twice = json!([{ "port": 22, "protocol": "TCP" }, { "port": 22, "protocol": "TCP", "address": "10.0.0.1" }]);
    let own = json!([{ "port": 9489, "protocol": "TCP" }]);
    for (values, sentence) in [
        (json!({ "uninstall": true, "boot": { "action": "install" } }), "set boot.action=remove"),
        (json!({ "openshift": true, "hostProcesses": true }), "openshift and hostProcesses exclude each other"),
        (
            json!({ "updateStrategy": { "rollingUpdate": { "maxSurge": 1 } } }),
            "updateStrategy.rollingUpdate.maxSurge must be 0: of two agents on a node the second waits for the first",
        ),
        (json!({ "nodePorts": { "enabled": true, "ports": [] } }), "nodePorts.enabled needs ports"),
        (json!({ "nodePorts": { "ports": twice } }), "nodePorts.ports names 22/TCP twice"),
        (json!({ "nodePorts": { "enabled": true, "ports": own } }), "which is the agent's own port"),
        (json!({ "monitoring": { "ipv6Only": true } }), "has no effect without monitoring.enabled"),
        (
            json!({ "extraEnv": [{ "name": "ENFORCER_MODE", "value": "enforce" }] }),
            "extraEnv names ENFORCER_MODE, which a value of the chart sets: use that value",
        ),
        (
            json!({ "settings": { "lease": "1h" }, "extraEnv": [{ "name": "ENFORCER_LEASE", "value": "2h" }] }),
            "extraEnv names ENFORCER_LEASE",
        ),
    ] {
        let said = refusal(&values, &[]);
        assert!(said.contains(sentence), "{values}: {said}");
    }
}

fn old_clusters_are_refused_what_they_lack() {
    for (values, version, sentence) in [
        (
            json!({ "policies": { "enabled": true } }),
            "1.29.9",
            "policies.enabled needs Kubernetes 1.30, and this is v1.29.9",
        ),
        (json!({ "startupTaint": { "enabled": true } }), "1.29.9", "startupTaint.enabled needs Kubernetes 1.30"),
        (json!({ "scheduling": true }), "1.35.9", "scheduling needs Kubernetes 1.36"),
    ] {
        let said = refusal(&values, &["--kube-version", version]);
        assert!(said.contains(sentence), "{values}: {said}");
        // Versions of vendors are later than the release that they name.
        let vendors =
            format!("{}-gke.100", sentence.split("Kubernetes ").nth(1).expect("a version").get(..4).expect("one"));
        let vendors = vendors.replacen("-gke", ".0-gke", 1);
        let output = template("port-enforcer", &values, &["--kube-version", &vendors]);
        assert!(output.status.success(), "{vendors}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
