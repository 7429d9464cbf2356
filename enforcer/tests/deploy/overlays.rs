//! What the overlays render to, as it is committed: every property that matters, whether kubectl is here or not.

use std::fs;

use enforcer_core::{
    model::source::ClaimSource,
    pods::{
        claims::{ClaimLimits, claims_of},
        pod::from_api,
    },
};
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{Container, Namespace, Pod, PodSpec, ResourceQuota, ServiceAccount},
    rbac::v1::{ClusterRole, ClusterRoleBinding},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use enforcer_testing::tests;

use crate::{
    Test,
    rendering::{OVERLAYS, committed},
    strict::{assert_same, check, deploy, documents, read, typed},
};

pub(crate) const TESTS: &[Test] = tests![
    overlays_contain_expected_objects,
    install_yaml_is_the_audit_overlay,
    overlays_are_base_and_patches,
    namespace_admits_agent_pods,
    agent_role_is_minimal,
    resource_quota_allows_agent_pods,
    daemon_set_runs_one_pod_per_node,
    pod_uses_host_network_only,
    container_privileges_are_minimal,
    mounts_are_minimal,
    probes_use_loopback,
    agent_port_is_claimed,
    memory_has_a_limit_and_cpu_has_none,
    uninstall_replaces_the_agent
];

/// The overlays that run the agent.
pub(crate) const AGENTS: [&str; 2] = ["audit", "enforce"];
const NAME: &str = "port-enforcer";

fn rendered(overlay: &str) -> Vec<Value> {
    documents(&committed(overlay))
}

/// The one object of this kind.
fn object<T: Serialize + DeserializeOwned>(overlay: &str, kind: &str) -> T {
    let objects = rendered(overlay);
    let [object] = objects.iter().filter(|object| object["kind"] == kind).collect::<Vec<_>>()[..] else {
        panic!("one {kind} in {overlay}");
    };
    typed(object)
}

fn daemonset(overlay: &str) -> DaemonSet {
    object(overlay, "DaemonSet")
}

fn pod_spec(overlay: &str) -> PodSpec {
    daemonset(overlay).spec.and_then(|spec| spec.template.spec).expect("a pod")
}

/// The pod's only container.
pub(crate) fn container(overlay: &str) -> Container {
    let PodSpec { mut containers, init_containers, ephemeral_containers, .. } = pod_spec(overlay);
    assert_eq!((containers.len(), init_containers, ephemeral_containers), (1, None, None), "{overlay}");
    containers.remove(0)
}

fn overlays_contain_expected_objects() {
    for overlay in OVERLAYS {
        let objects = rendered(overlay);
        for object in &objects {
            assert_eq!(check(object), Ok(()), "{overlay}");
        }
        let kinds: Vec<_> = objects.iter().map(|object| object["kind"].as_str().expect("a kind")).collect();
        let expected = [
            "Namespace",
            "ResourceQuota",
            "CustomResourceDefinition",
            "ServiceAccount",
            "ClusterRole",
            "ClusterRoleBinding",
            "DaemonSet",
        ];
        assert_eq!(kinds, expected, "{overlay}");
        for object in &objects {
            let metadata = &object["metadata"];
            let definition = object["kind"] == "CustomResourceDefinition";
            let name = if definition { "nodehostports.port-enforcer.io" } else { NAME };
            assert_eq!(metadata["name"], name, "{overlay}: {metadata}");
            assert_eq!(metadata["labels"]["app.kubernetes.io/name"], NAME, "{overlay}: {metadata}");
            assert_eq!(metadata["labels"]["app.kubernetes.io/part-of"], NAME, "{overlay}: {metadata}");
            let cluster_wide =
                ["Namespace", "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"].map(Value::from);
            let namespace = if cluster_wide.contains(&object["kind"]) { Value::Null } else { NAME.into() };
            assert_eq!(metadata.get("namespace").unwrap_or(&Value::Null), &namespace, "{overlay}: {metadata}");
        }
    }
}

/// For people without kustomize. The overlay itself is compared with a fresh rendering.
fn install_yaml_is_the_audit_overlay() {
    let text = fs::read_to_string(deploy().join("install.yaml")).expect("a manifest");
    assert_eq!(
        text.trim_end(),
        committed("audit").trim_end(),
        "kubectl kustomize deploy/overlays/audit > deploy/install.yaml"
    );
}

/// As a patch of kustomize is merged, as far as the patches here need it: lists of named things by name.
fn merge(base: &mut Value, patch: &Value) {
    match (base, patch) {
        (Value::Object(base), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    base.remove(key);
                } else {
                    merge(base.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (Value::Array(base), Value::Array(patch)) if patch.iter().all(|item| item["name"].is_string()) => {
            let mut added = 0;
            for item in patch {
                if let Some(present) = base.iter_mut().find(|present| present["name"] == item["name"]) {
                    merge(present, item);
                } else {
                    // New ones come first.
                    base.insert(added, item.clone());
                    added += 1;
                }
            }
        }
        (base, patch) => *base = patch.clone(),
    }
}

/// A snapshot that is older than its sources is found without kubectl too.
fn overlays_are_base_and_patches() {
    for (overlay, patch) in [("audit", None), ("enforce", Some("mode.yaml")), ("uninstall", Some("cleanup.yaml"))] {
        let mut expected: Vec<Value> = ["namespace", "quota", "nodehostports", "rbac", "daemonset"]
            .iter()
            .flat_map(|file| read(&deploy().join(format!("base/{file}.yaml"))))
            .collect();
        let daemonset = expected.last_mut().expect("the DaemonSet");
        daemonset["spec"]["template"]["spec"]["containers"][0]["image"] =
            concat!("port-enforcer:", env!("CARGO_PKG_VERSION")).into();
        if let Some(patch) = patch {
            merge(daemonset, &read(&deploy().join("overlays").join(overlay).join(patch))[0]);
        }
        assert_same(&rendered(overlay), &expected, overlay);
    }
}

fn namespace_admits_agent_pods() {
    for overlay in OVERLAYS {
        let labels = object::<Namespace>(overlay, "Namespace").metadata.labels.expect("labels");
        for mode in ["enforce", "audit", "warn"] {
            let label = labels.get(&format!("pod-security.kubernetes.io/{mode}"));
            assert_eq!(label.map(String::as_str), Some("privileged"), "{overlay}: {mode}");
        }
    }
}

fn agent_role_is_minimal() {
    for overlay in OVERLAYS {
        let role: ClusterRole = object(overlay, "ClusterRole");
        let expected = json!([
            { "apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"] },
            { "apiGroups": [""], "resources": ["namespaces"], "verbs": ["list", "watch"] },
            { "apiGroups": [""], "resources": ["services"], "verbs": ["list", "watch"] },
            { "apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"] },
            { "apiGroups": [""], "resources": ["nodes"], "verbs": ["get"] },
            { "apiGroups": ["port-enforcer.io"], "resources": ["nodehostports"], "verbs": ["create", "get"] },
            { "apiGroups": ["port-enforcer.io"], "resources": ["nodehostports/status"], "verbs": ["patch"] },
        ]);
        assert_eq!(serde_json::to_value(role.rules).expect("JSON"), expected, "{overlay}");
        assert_eq!(role.aggregation_rule, None, "{overlay}");

        let ClusterRoleBinding { role_ref, subjects, .. } = object(overlay, "ClusterRoleBinding");
        assert_eq!((role_ref.kind.as_str(), role_ref.name.as_str()), ("ClusterRole", NAME), "{overlay}");
        let expected = json!([{ "kind": "ServiceAccount", "name": NAME, "namespace": NAME }]);
        assert_eq!(serde_json::to_value(subjects).expect("JSON"), expected, "{overlay}");

        let account: ServiceAccount = object(overlay, "ServiceAccount");
        assert_eq!(account.automount_service_account_token, Some(false), "{overlay}");
        let pod = pod_spec(overlay);
        assert_eq!(pod.service_account_name.as_deref(), Some(NAME), "{overlay}");
        assert_eq!(pod.automount_service_account_token, Some(AGENTS.contains(&overlay)), "{overlay}");
    }
}

fn resource_quota_allows_agent_pods() {
    for overlay in OVERLAYS {
        let quota = object::<ResourceQuota>(overlay, "ResourceQuota").spec.expect("a spec");
        let class = pod_spec(overlay).priority_class_name.expect("a priority class");
        assert_eq!(class, "system-node-critical", "{overlay}");
        let expected = json!({
            "matchExpressions": [{ "scopeName": "PriorityClass", "operator": "In", "values": [class] }],
        });
        assert_eq!(serde_json::to_value(quota.scope_selector).expect("JSON"), expected, "{overlay}");
        assert_eq!(quota.scopes, None, "{overlay}");
        let hard = quota.hard.expect("limits");
        let pods: u64 = hard["pods"].0.parse().expect("a number of pods");
        assert!(hard.len() == 1 && pods >= 100_000, "{overlay}: {hard:?}");
    }
}

fn daemon_set_runs_one_pod_per_node() {
    for (overlay, at_once) in [("audit", "10%"), ("enforce", "10%"), ("uninstall", "100%")] {
        let spec = daemonset(overlay).spec.expect("a spec");
        let expected =
            json!({ "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 0, "maxUnavailable": at_once } });
        assert_eq!(serde_json::to_value(spec.update_strategy).expect("JSON"), expected, "{overlay}");
        let pod = pod_spec(overlay);
        assert_eq!(
            serde_json::to_value(&pod.tolerations).expect("JSON"),
            json!([{ "operator": "Exists" }]),
            "{overlay}"
        );
        // Nothing that keeps it from a kind of processor.
        let selector = serde_json::to_value(&pod.node_selector).expect("JSON");
        assert_eq!(selector, json!({ "kubernetes.io/os": "linux" }), "{overlay}");
        assert_eq!((pod.affinity, pod.node_name), (None, None), "{overlay}");
    }
}

fn pod_uses_host_network_only() {
    for overlay in OVERLAYS {
        let pod = pod_spec(overlay);
        assert_eq!(
            (pod.host_network, pod.host_pid, pod.host_ipc, pod.host_users),
            (Some(true), Some(false), Some(false), None),
            "{overlay}"
        );
        assert_eq!(pod.dns_policy.as_deref(), Some("Default"), "{overlay}");
        assert_eq!(pod.enable_service_links, Some(false), "{overlay}");
        assert_eq!(pod.security_context, None, "{overlay}: it is said of the container");
        assert!(pod.termination_grace_period_seconds.is_some_and(|seconds| (1..=10).contains(&seconds)), "{overlay}");
    }
}

fn container_privileges_are_minimal() {
    for (overlay, capabilities) in [
        ("audit", json!(["BPF", "PERFMON", "NET_ADMIN"])),
        ("enforce", json!(["BPF", "PERFMON", "NET_ADMIN"])),
        ("uninstall", json!(["SYS_ADMIN"])),
    ] {
        let expected = json!({
            "privileged": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": false,
            "runAsUser": 0,
            "runAsGroup": 0,
            "seccompProfile": { "type": "RuntimeDefault" },
            "capabilities": { "drop": ["ALL"], "add": capabilities },
        });
        let container = container(overlay);
        assert_eq!(serde_json::to_value(container.security_context).expect("JSON"), expected, "{overlay}");
        // The image's own entry point, and no shell.
        assert_eq!((container.command, container.lifecycle), (None, None), "{overlay}");
        let image = concat!("port-enforcer:", env!("CARGO_PKG_VERSION"));
        assert_eq!(container.image.as_deref(), Some(image), "{overlay}");
    }
}

/// The host's path, the container's, whether it is read-only.
pub(crate) fn mounts(overlay: &str) -> Vec<(String, String, bool)> {
    let volumes = pod_spec(overlay).volumes.expect("volumes");
    let mounts = container(overlay).volume_mounts.expect("mounts");
    assert_eq!(volumes.len(), mounts.len(), "{overlay}: each volume is mounted once");
    let mounts = mounts.into_iter().map(|mount| {
        let volume = volumes.iter().find(|volume| volume.name == mount.name).expect("a volume");
        let path = volume.host_path.as_ref().expect("a path of the host").path.clone();
        (path, mount.mount_path, mount.read_only == Some(true))
    });
    mounts.collect()
}

fn mounts_are_minimal() {
    for overlay in OVERLAYS {
        let mounts = mounts(overlay);
        let paths: Vec<_> = mounts.iter().map(|(host, here, _)| (host.as_str(), here.as_str())).collect();
        // What the agent keeps for the next boot is not mounted without the component boot, and removed in any case.
        let boot_state = (overlay == "uninstall").then_some(("/var/lib/port-enforcer", "/var/lib/port-enforcer"));
        let expected = [
            ("/sys/fs/cgroup", "/sys/fs/cgroup"),
            ("/sys/fs/bpf", "/host/sys/fs/bpf"),
            ("/proc/sys/net/ipv4/ip_local_reserved_ports", "/host/proc/sys/net/ipv4/ip_local_reserved_ports"),
            ("/run/port-enforcer", "/run/port-enforcer"),
        ];
        let expected: Vec<_> = boot_state.into_iter().chain(expected).collect();
        assert_eq!(paths, expected, "{overlay}");
        let cgroup = mounts.iter().find(|(host, _, _)| host == "/sys/fs/cgroup").expect("the cgroups");
        assert!(cgroup.2, "{overlay}: nobody writes to the cgroup tree");
        let bpffs = container(overlay).volume_mounts.expect("mounts");
        let bpffs = bpffs.iter().find(|mount| mount.name == "bpffs").expect("bpffs");
        assert_eq!(bpffs.mount_propagation.as_deref(), Some("HostToContainer"), "{overlay}");
        let types: Vec<_> = pod_spec(overlay)
            .volumes
            .expect("volumes")
            .into_iter()
            .map(|volume| volume.host_path.and_then(|path| path.type_))
            .collect();
        let directory = Some("Directory".to_owned());
        let (file, made) = (Some("File".to_owned()), Some("DirectoryOrCreate".to_owned()));
        let boot_state = boot_state.map(|_| made.clone());
        let expected: Vec<_> = boot_state.into_iter().chain([directory.clone(), directory, file, made]).collect();
        assert_eq!(types, expected, "{overlay}");
    }
}

fn probes_use_loopback() {
    for overlay in AGENTS {
        let container = container(overlay);
        let ports = container.ports.expect("ports");
        for (probe, path) in [
            (container.startup_probe, "/livez"),
            (container.liveness_probe, "/livez"),
            (container.readiness_probe, "/readyz"),
        ] {
            let probe = probe.expect("a probe");
            let get = serde_json::to_value(&probe.http_get).expect("JSON");
            assert_eq!(get, json!({ "host": "127.0.0.1", "port": ports[0].name, "path": path }), "{overlay}");
            assert_eq!((probe.exec, probe.tcp_socket, probe.grpc), (None, None, None), "{overlay}");
        }
    }
}

/// The agent reads its own pod like any other: it claims the address and port that it serves, and no more.
fn agent_port_is_claimed() {
    for overlay in AGENTS {
        let container = container(overlay);
        let listen = container.env.iter().flatten().find(|variable| variable.name == "ENFORCER_LISTEN");
        let listen = listen.and_then(|variable| variable.value.clone()).expect("ENFORCER_LISTEN");
        let template = daemonset(overlay).spec.expect("a spec").template;
        let pod = Pod { metadata: template.metadata.expect("metadata"), spec: template.spec, status: None };
        let said = claims_of(&from_api(&pod), &ClaimLimits::default());
        let claims: Vec<_> = said.claims.iter().map(|claim| (claim.spec.to_string(), claim.source)).collect();
        assert_eq!(claims, [(format!("{listen}/tcp"), ClaimSource::HostPort)], "{overlay}");
        let port = &container.ports.expect("ports")[0];
        assert_eq!((port.name.as_deref(), port.host_port), (Some("metrics"), Some(port.container_port)), "{overlay}");
    }
}

fn memory_has_a_limit_and_cpu_has_none() {
    for overlay in OVERLAYS {
        let resources = container(overlay).resources.expect("resources");
        let names = |map: &Option<std::collections::BTreeMap<String, _>>| -> Vec<String> {
            map.iter().flat_map(|map| map.keys().cloned()).collect()
        };
        assert_eq!(names(&resources.limits), ["memory"], "{overlay}");
        assert_eq!(names(&resources.requests), ["cpu", "memory"], "{overlay}");
    }
}

/// The same `DaemonSet`, so that the API server replaces each agent by a cleanup, and never runs them side by side.
fn uninstall_replaces_the_agent() {
    for overlay in OVERLAYS {
        let daemonset = daemonset(overlay);
        assert_eq!(daemonset.metadata.name.as_deref(), Some(NAME), "{overlay}");
        assert_eq!(daemonset.metadata.namespace.as_deref(), Some(NAME), "{overlay}");
        let spec = daemonset.spec.expect("a spec");
        let selector = serde_json::to_value(&spec.selector).expect("JSON");
        assert_eq!(selector, json!({ "matchLabels": { "app.kubernetes.io/name": NAME } }), "{overlay}");
        let labels = spec.template.metadata.and_then(|metadata| metadata.labels).expect("labels");
        assert_eq!(labels["app.kubernetes.io/name"], NAME, "{overlay}");
    }
    for overlay in AGENTS {
        assert_eq!(container(overlay).args.as_deref(), Some(&["run".to_owned()][..]), "{overlay}");
    }
    let container = container("uninstall");
    let arguments = ["cleanup", "--wait", "--bpffs", "/host/sys/fs/bpf/port-enforcer", "--proc-sys", "/host/proc/sys"];
    assert_eq!(container.args, Some(arguments.map(str::to_owned).to_vec()));
    assert_eq!((container.env, container.env_from, container.ports), (None, None, None));
    let probes = (container.startup_probe, container.liveness_probe, container.readiness_probe);
    assert_eq!(probes, (None, None, None), "it serves nothing");
    // One that fails is not counted as done in the moment before it has failed.
    assert!(daemonset("uninstall").spec.and_then(|spec| spec.min_ready_seconds).is_some_and(|seconds| seconds > 0));
}
