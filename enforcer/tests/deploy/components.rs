//! What the components add to an agent, as kubectl makes it. Without kubectl these tests are skipped, and say so.

use std::{collections::BTreeSet, fs};

use enforcer_core::pods::{
    annotation,
    claims::{ClaimLimits, claims_of},
    pod::from_api,
};
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    batch::v1::CronJob,
    core::v1::{Container, Pod},
};
use serde_json::{Value, json};

use enforcer_testing::tests;

use crate::{
    Test,
    rendering::{committed, on_top},
    strict::{assert_same, check, deploy, documents, typed},
};

pub(crate) const TESTS: &[Test] = tests![
    every_component_renders_on_every_overlay,
    monitoring_listens_on_node_address,
    policies_change_nothing_else,
    openshift_admits_agent_privileges,
    host_processes_component_adds_what_it_names,
    node_ports_are_declared_and_reserved_alike,
    scheduling_adds_one_policy,
    boot_asks_for_no_more_than_it_takes,
    uninstall_removes_what_boot_installed,
    startup_taint_adds_a_flag_a_role_and_a_policy,
    policy_reports_are_written_by_a_job_with_rights_of_its_own
];

/// The names of all components.
pub(crate) fn names() -> BTreeSet<String> {
    let folder = fs::read_dir(deploy().join("components")).expect("a folder");
    let names = folder.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"));
    let names: BTreeSet<_> = names.collect();
    assert!(names.len() > 10, "{names:?}");
    names
}

fn with(overlay: &str, component: &str) -> Vec<Value> {
    on_top(&json!({
        "resources": [format!("../deploy/overlays/{overlay}")],
        "components": [format!("../deploy/components/{component}")],
    }))
}

fn daemonset(objects: &[Value]) -> DaemonSet {
    typed(objects.iter().find(|object| object["kind"] == "DaemonSet").expect("a DaemonSet"))
}

fn container(objects: &[Value]) -> Container {
    let pod = daemonset(objects).spec.expect("a spec").template.spec.expect("a pod");
    pod.containers.into_iter().next().expect("a container")
}

fn every_component_renders_on_every_overlay() {
    for overlay in ["audit", "enforce"] {
        for component in names() {
            for object in with(overlay, &component) {
                assert_eq!(check(&object), Ok(()), "{overlay}, {component}");
                let labels = &object["metadata"]["labels"];
                assert_eq!(labels["app.kubernetes.io/part-of"], "port-enforcer", "{overlay}, {component}: {object}");
            }
        }
    }
}

fn monitoring_listens_on_node_address() {
    let objects = with("enforce", "monitoring");
    let container = container(&objects);
    let variables = container.env.expect("an environment");
    let place = |name| variables.iter().position(|variable| variable.name == name).expect("it is set");
    // The kubelet fills in only what stands above.
    assert!(place("NODE_IP") < place("ENFORCER_LISTEN"));
    assert_eq!(variables[place("ENFORCER_LISTEN")].value.as_deref(), Some("$(NODE_IP):9489"));
    let address = variables[place("NODE_IP")].value_from.as_ref().and_then(|from| from.field_ref.as_ref());
    assert_eq!(address.map(|field| field.field_path.as_str()), Some("status.hostIP"));
    for probe in [container.startup_probe, container.liveness_probe, container.readiness_probe] {
        let get = probe.and_then(|probe| probe.http_get).expect("a probe");
        assert_eq!(get.host, None, "the kubelet takes the node's address");
    }
    // What it binds is claimed.
    let template = daemonset(&objects).spec.expect("a spec").template;
    let pod = Pod { metadata: template.metadata.expect("metadata"), spec: template.spec, status: None };
    let said = claims_of(&from_api(&pod), &ClaimLimits::default());
    let claims: Vec<_> = said.claims.iter().map(|claim| claim.spec.to_string()).collect();
    assert_eq!(claims, ["9489/tcp"]);
    // The port that is scraped is one of the container's.
    let monitor = objects.iter().find(|object| object["kind"] == "PodMonitor").expect("a PodMonitor");
    let ports = container.ports.expect("ports");
    assert_eq!(monitor["spec"]["podMetricsEndpoints"][0]["port"], ports[0].name.clone().expect("a name"));
    let dashboard = objects.iter().find(|object| object["kind"] == "ConfigMap").expect("a ConfigMap");
    let text = fs::read_to_string(deploy().join("components/monitoring/dashboard.json")).expect("a dashboard");
    assert_eq!(dashboard["data"]["dashboard.json"], text);
}

fn policies_change_nothing_else() {
    for overlay in ["audit", "enforce"] {
        let rendered = with(overlay, "policies");
        let names: Vec<_> = documents(&committed(overlay)).iter().map(head).collect();
        let same: Vec<_> = rendered.iter().filter(|object| names.contains(&head(object))).cloned().collect();
        assert_same(&same, &documents(&committed(overlay)), overlay);
        assert_eq!(rendered.len() - same.len(), 15, "six policies, their bindings, a list and two roles");
    }
}

fn head(object: &Value) -> (Value, Value) {
    (object["kind"].clone(), object["metadata"]["name"].clone())
}

fn host_processes_component_adds_what_it_names() {
    for overlay in ["audit", "enforce"] {
        let objects = with(overlay, "host-processes");
        let pod = daemonset(&objects).spec.expect("a spec").template.spec.expect("a pod");
        assert_eq!(pod.host_pid, Some(true), "{overlay}");
        let capabilities = |objects: &[Value]| {
            let context = serde_json::to_value(container(objects).security_context).expect("JSON");
            context["capabilities"]["add"].as_array().expect("a list").clone()
        };
        let mut expected = capabilities(&documents(&committed(overlay)));
        expected.extend(["SYS_PTRACE".into(), "DAC_READ_SEARCH".into()]);
        assert_eq!(capabilities(&objects), expected, "{overlay}");
    }
}

/// The list is there twice, because kustomize cannot make the one of the other.
fn node_ports_are_declared_and_reserved_alike() {
    for overlay in ["audit", "enforce"] {
        let rendered = with(overlay, "node-ports");
        let mut agent = container(&rendered);
        let reserved = agent.env.as_mut().and_then(Vec::pop).expect("an environment");
        assert_eq!(reserved.name, "ENFORCER_NODE_RESERVED", "{overlay}");
        let reserved = annotation::parse_list(&reserved.value.expect("a value")).expect("a list of ports");
        assert!(!reserved.is_empty(), "{overlay}");
        let ports = agent.ports.as_mut().map(|ports| ports.split_off(1)).expect("ports");
        let template = daemonset(&rendered).spec.expect("a spec").template;
        let mut pod = Pod { metadata: template.metadata.expect("metadata"), spec: template.spec, status: None };
        pod.spec.as_mut().expect("a pod").containers[0].ports = Some(ports);
        let said = claims_of(&from_api(&pod), &ClaimLimits::default());
        assert_eq!(said.claims.iter().map(|claim| claim.spec).collect::<Vec<_>>(), reserved, "{overlay}");
        assert_eq!(said.problems[1..], [], "{overlay}: all but that a template has no UID");
        // And nothing else: no capability, no mount.
        assert_eq!(agent, container(&documents(&committed(overlay))), "{overlay}");
    }
}

fn scheduling_adds_one_policy() {
    for overlay in ["audit", "enforce"] {
        let before = documents(&committed(overlay));
        let (same, added): (Vec<_>, Vec<_>) = with(overlay, "scheduling")
            .into_iter()
            .partition(|object| before.iter().any(|one| head(one) == head(object)));
        assert_same(&same, &before, overlay);
        let kinds: Vec<_> = added.iter().map(|object| object["kind"].as_str().expect("a kind")).collect();
        assert_eq!(kinds, ["MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding"], "{overlay}");
    }
}

fn startup_taint_adds_a_flag_a_role_and_a_policy() {
    for overlay in ["audit", "enforce"] {
        let rendered = with(overlay, "startup-taint");
        let committed = documents(&committed(overlay));
        let names: Vec<_> = committed.iter().map(head).collect();
        let added: Vec<_> = rendered.iter().filter(|object| !names.contains(&head(object))).collect();
        let mut kinds: Vec<_> = added.iter().map(|object| object["kind"].as_str().expect("a kind")).collect();
        kinds.sort_unstable();
        let expected =
            ["ClusterRole", "ClusterRoleBinding", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"];
        assert_eq!(kinds, expected, "{overlay}");
        let binding = added.iter().find(|object| object["kind"] == "ClusterRoleBinding").expect("a binding");
        let role = added.iter().find(|object| object["kind"] == "ClusterRole").expect("a role");
        assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"], "{overlay}");
        let account = daemonset(&rendered).spec.and_then(|spec| spec.template.spec?.service_account_name);
        assert_eq!(binding["subjects"][0]["name"].as_str(), account.as_deref(), "{overlay}");
        // The key of the flag is the one that the policy lets the agent remove, and the flag is all that changes.
        let variable = container(&rendered).env.and_then(|mut env| env.pop()).expect("an environment");
        assert_eq!(variable.name, "ENFORCER_STARTUP_TAINT", "{overlay}");
        let key = variable.value.expect("a value");
        let policy = added.iter().find(|object| object["kind"] == "ValidatingAdmissionPolicy").expect("a policy");
        assert!(policy["spec"]["validations"][1]["expression"].to_string().contains(&format!("'{key}'")), "{overlay}");
        let mut same: Vec<_> = rendered.iter().filter(|object| names.contains(&head(object))).cloned().collect();
        let agent = same.iter_mut().find(|object| object["kind"] == "DaemonSet").expect("a DaemonSet");
        agent["spec"]["template"]["spec"]["containers"][0]["env"].as_array_mut().expect("a list").pop();
        assert_same(&same, &committed, overlay);
    }
}

fn policy_reports_are_written_by_a_job_with_rights_of_its_own() {
    for overlay in ["audit", "enforce"] {
        let rendered = with(overlay, "policy-reports");
        let committed = documents(&committed(overlay));
        let (same, added): (Vec<_>, Vec<_>) =
            rendered.into_iter().partition(|object| committed.iter().any(|one| head(one) == head(object)));
        assert_same(&same, &committed, overlay);
        let of = |kind: &str| added.iter().find(|object| object["kind"] == kind).expect("an object");
        assert_eq!(added.len(), 4, "{overlay}");
        let job: CronJob = typed(of("CronJob"));
        let template = job.spec.expect("a spec").job_template.spec.expect("a spec").template;
        let pod = template.spec.expect("a pod");
        let account = pod.service_account_name.as_deref().expect("an account");
        assert_eq!(of("ServiceAccount")["metadata"]["name"], account);
        assert_eq!(of("ClusterRoleBinding")["subjects"][0]["name"], account);
        assert_eq!(of("ClusterRoleBinding")["roleRef"]["name"], of("ClusterRole")["metadata"]["name"]);
        assert_ne!(
            daemonset(&same).spec.and_then(|spec| spec.template.spec?.service_account_name).as_deref(),
            Some(account)
        );
        // It is no agent: neither for the DaemonSet, nor by its privileges.
        let selected = daemonset(&same).spec.expect("a spec").selector.match_labels.expect("labels");
        let labels = template.metadata.and_then(|metadata| metadata.labels).expect("labels");
        assert!(selected.iter().any(|(key, value)| labels.get(key) != Some(value)), "{labels:?}");
        assert_eq!((pod.host_network, pod.volumes.as_deref()), (None, None));
        let [container] = pod.containers.as_slice() else { panic!("{:?}", pod.containers) };
        assert_eq!(container.image.as_deref(), Some(concat!("kubectl-host-ports:", env!("CARGO_PKG_VERSION"))));
        assert_eq!(container.args.as_deref(), Some(&["policy-reports".to_owned(), "--apply".to_owned()][..]));
        let context = serde_json::to_value((&pod.security_context, &container.security_context)).expect("JSON");
        assert_eq!(context[0]["runAsNonRoot"], true);
        assert!(image_user("plugin") > 0, "the kubelet starts no image of root's, and knows no names of users");
        assert_eq!(context[1]["readOnlyRootFilesystem"], true);
        assert_eq!(context[1]["capabilities"], json!({ "drop": ["ALL"] }));
    }
}

/// The user of a stage of `deploy/Containerfile`.
fn image_user(stage: &str) -> u32 {
    let text = fs::read_to_string(deploy().join("Containerfile")).expect("a Containerfile");
    let lines = text.lines().skip_while(|line| *line != format!("FROM scratch AS {stage}")).skip(1);
    let mut lines = lines.take_while(|line| !line.starts_with("FROM "));
    let user = lines.find_map(|line| line.strip_prefix("USER ")).expect("a user");
    user.split(':').next().and_then(|user| user.parse().ok()).expect("a number")
}

fn openshift_admits_agent_privileges() {
    for overlay in ["audit", "enforce"] {
        let objects = with(overlay, "openshift");
        let constraints = objects.iter().find(|object| object["kind"] == "SecurityContextConstraints").expect("one");
        let context = serde_json::to_value(container(&objects).security_context).expect("JSON");
        let allowed = constraints["allowedCapabilities"].as_array().expect("a list");
        for capability in context["capabilities"]["add"].as_array().expect("a list") {
            assert!(allowed.contains(capability), "{overlay}: {capability}");
        }
        assert_eq!(context["seLinuxOptions"], json!({ "type": "spc_t" }), "{overlay}");
        let account = daemonset(&objects).spec.and_then(|spec| spec.template.spec?.service_account_name);
        let user = format!("system:serviceaccount:port-enforcer:{}", account.expect("an account"));
        assert_eq!(constraints["users"], json!([user]), "{overlay}");
    }
}

/// Without capabilities, with two folders of the node, and from the agent's image.
fn boot_asks_for_no_more_than_it_takes() {
    let objects = on_top(&json!({
        "resources": ["../deploy/overlays/enforce"],
        "components": ["../deploy/components/boot"],
        "images": [{ "name": "port-enforcer", "newName": "registry.example/port-enforcer" }],
    }));
    let pod = daemonset(&objects).spec.expect("a spec").template.spec.expect("a pod");
    let [boot] = pod.init_containers.as_deref().expect("init containers") else { panic!("{pod:?}") };
    let agent = &pod.containers[0];
    assert_eq!(boot.image, agent.image);
    assert_eq!(boot.image.as_deref(), Some(concat!("registry.example/port-enforcer:", env!("CARGO_PKG_VERSION"))));
    let capabilities = boot.security_context.as_ref().and_then(|context| context.capabilities.as_ref()).expect("some");
    assert_eq!(capabilities.drop.as_deref(), Some(&["ALL".to_owned()][..]));
    assert_eq!(capabilities.add, None);
    let mounted = |container: &Container| -> Vec<String> {
        let mounts = container.volume_mounts.as_deref().unwrap_or_default();
        mounts.iter().map(|mount| mount.mount_path.clone()).collect()
    };
    assert_eq!(mounted(boot), ["/host/usr/local/libexec/port-enforcer", "/host/etc/systemd/system"]);
    let volumes = pod.volumes.as_deref().expect("volumes");
    for mount in boot.volume_mounts.as_deref().expect("mounts") {
        let volume = volumes.iter().find(|volume| volume.name == mount.name).expect("a volume");
        let path = &volume.host_path.as_ref().expect("a folder of the node").path;
        assert_eq!(mount.mount_path, format!("/host{path}"), "the program finds it where --root says");
    }
    // The agent has its own as before, and may not write to those.
    let before = mounted(&container(&documents(&committed("enforce"))));
    let more: Vec<String> = mounted(agent).into_iter().filter(|path| !before.contains(path)).collect();
    assert_eq!(more, ["/var/lib/port-enforcer", "/etc/machine-id"]);
    let state = agent.env.iter().flatten().find(|variable| variable.name == "ENFORCER_BOOT_STATE");
    assert_eq!(state.and_then(|variable| variable.value.as_deref()), Some("/var/lib/port-enforcer"));
}

fn uninstall_removes_what_boot_installed() {
    let installs = daemonset(&with("enforce", "boot")).spec.expect("a spec").template.spec.expect("a pod");
    let removes = daemonset(&with("uninstall", "boot-uninstall")).spec.expect("a spec").template.spec.expect("a pod");
    let boot = |pod: &k8s_openapi::api::core::v1::PodSpec| pod.init_containers.as_ref().expect("one")[0].clone();
    let (installs, removes) = (boot(&installs), boot(&removes));
    assert_eq!(installs.args.as_deref().expect("arguments"), ["boot", "install", "--root", "/host"]);
    assert_eq!(removes.args.as_deref().expect("arguments"), ["boot", "remove", "--root", "/host"]);
    assert_eq!(installs.volume_mounts, removes.volume_mounts);
    assert_eq!(installs.security_context, removes.security_context);
    // The state goes with every uninstall: it would be in force after a reboot.
    let cleanup = container(&documents(&committed("uninstall")));
    assert!(cleanup.volume_mounts.iter().flatten().any(|mount| mount.mount_path == "/var/lib/port-enforcer"));
}
