//! Types of other projects' objects, as far as the manifests here use them: a field that is not here is not known.

use serde::Deserialize;
use serde_json::Value;

/// What is read and what is not known of it, without the object's head.
///
/// # Errors
///
/// If the object says something that the type does not know.
pub(super) fn known<T: for<'a> Deserialize<'a>>(object: &Value) -> Result<(), String> {
    serde_json::from_value::<T>(object.clone()).map(drop).map_err(|error| error.to_string())
}

/// `monitoring.coreos.com/v1`: what the Prometheus operator scrapes.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "that it can be read is the point")]
pub(super) struct PodMonitor {
    api_version: String,
    kind: String,
    metadata: Value,
    spec: PodMonitorSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "that it can be read is the point")]
struct PodMonitorSpec {
    selector: Value,
    pod_metrics_endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "that it can be read is the point")]
struct Endpoint {
    port: String,
    path: String,
    interval: String,
    honor_labels: bool,
    relabelings: Vec<Relabeling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "that it can be read is the point")]
struct Relabeling {
    action: String,
    source_labels: Vec<String>,
    target_label: String,
}

/// `monitoring.coreos.com/v1`: rules. What is in a group, promtool knows.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "that it can be read is the point")]
pub(super) struct PrometheusRule {
    api_version: String,
    kind: String,
    metadata: Value,
    spec: RuleGroups,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "that it can be read is the point")]
struct RuleGroups {
    groups: Vec<Value>,
}

/// `security.openshift.io/v1`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "that it can be read is the point")]
#[expect(clippy::struct_excessive_bools, reason = "so it is in OpenShift")]
pub(super) struct SecurityContextConstraints {
    api_version: String,
    kind: String,
    metadata: Value,
    users: Vec<String>,
    groups: Vec<String>,
    priority: Option<i32>,
    allow_privileged_container: bool,
    allow_privilege_escalation: bool,
    default_allow_privilege_escalation: bool,
    allow_host_network: bool,
    allow_host_ports: bool,
    allow_host_dir_volume_plugin: bool,
    #[serde(rename = "allowHostPID")]
    allow_host_pid: bool,
    #[serde(rename = "allowHostIPC")]
    allow_host_ipc: bool,
    read_only_root_filesystem: bool,
    required_drop_capabilities: Vec<String>,
    allowed_capabilities: Vec<String>,
    default_add_capabilities: Vec<String>,
    volumes: Vec<String>,
    seccomp_profiles: Vec<String>,
    run_as_user: Strategy,
    fs_group: Strategy,
    supplemental_groups: Strategy,
    se_linux_context: Strategy,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "that it can be read is the point")]
struct Strategy {
    r#type: String,
}
