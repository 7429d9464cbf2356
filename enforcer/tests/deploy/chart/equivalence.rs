//! The chart and the kustomizations make the same objects of the same options.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use enforcer_testing::tests;
use serde_json::{Value, json};

use super::{chart, objects, rendered, template, template_of};
use crate::{
    Test,
    rendering::{copy, render},
    strict::{assert_same, check, documents},
};

pub(super) const TESTS: &[Test] = tests![
    every_combination_of_the_agents_options,
    options_that_add_objects,
    uninstall_is_the_overlay,
    every_object_follows_the_namespace,
    hooks_clean_up_as_the_overlay_does,
    variables_refer_to_those_above,
    values_without_a_component,
    package_is_the_same_chart
];

/// What a user of the chart sets, and what a user of kustomize names for the same.
#[derive(Clone, Debug)]
struct Options {
    overlay: &'static str,
    values: Value,
    components: Vec<&'static str>,
}

impl Options {
    fn new(overlay: &'static str) -> Self {
        let values = match overlay {
            "uninstall" => json!({ "uninstall": true }),
            mode => json!({ "mode": mode }),
        };
        Self { overlay, values, components: Vec::new() }
    }

    fn with(mut self, (component, values): &(&'static str, Value)) -> Self {
        self.components.push(component);
        let (into, Value::Object(values)) = (self.values.as_object_mut().expect("values"), values) else {
            panic!("{values} are values");
        };
        into.extend(values.clone());
        self
    }
}

/// Components that change the agents' pods.
fn of_pods() -> Vec<(&'static str, Value)> {
    vec![
        ("host-processes", json!({ "hostProcesses": true })),
        ("linux-5.10", json!({ "linux510": true })),
        ("monitoring", json!({ "monitoring": { "enabled": true } })),
        ("node-ports", json!({ "nodePorts": { "enabled": true } })),
        ("openshift", json!({ "openshift": true })),
        ("startup-taint", json!({ "startupTaint": { "enabled": true } })),
    ]
}

/// Components that add objects and change none.
fn of_objects() -> Vec<(&'static str, Value)> {
    vec![
        ("policies", json!({ "policies": { "enabled": true } })),
        ("policy-reports", json!({ "policyReports": { "enabled": true } })),
        ("readers", json!({ "readers": true })),
        ("scheduling", json!({ "scheduling": true })),
    ]
}

fn of_boot() -> [Option<(&'static str, Value)>; 3] {
    [
        None,
        Some(("boot", json!({ "boot": { "action": "install" } }))),
        Some(("boot-uninstall", json!({ "boot": { "action": "remove" } }))),
    ]
}

/// Every component that is compared, with the values that do the same.
pub(super) fn compared() -> Vec<(&'static str, Value)> {
    [of_pods(), of_objects(), of_boot().into_iter().flatten().collect()].concat()
}

/// Every selection of these.
fn subsets<T: Clone>(all: &[T]) -> Vec<Vec<T>> {
    let selections = 0..1_usize << all.len();
    let chosen = |selection: usize| {
        let kept = all.iter().enumerate().filter(move |(place, _)| selection & (1 << place) != 0);
        kept.map(|(_, one)| one.clone()).collect()
    };
    selections.map(chosen).collect()
}

/// Sorts a list whose order means nothing to the API server.
fn sort(object: &mut Value, list: &str, key: &str) {
    if let Some(Value::Array(items)) = object.pointer_mut(list) {
        items.sort_by_key(|item| if key.is_empty() { item.to_string() } else { item[key].to_string() });
    }
}

/// Puts objects into one order: kustomize appends to lists where the chart has a place for everything.
fn ordered(mut objects: Vec<Value>) -> Vec<Value> {
    for object in objects.iter_mut().filter(|object| object["kind"] == "DaemonSet") {
        let pod = &mut object["spec"]["template"]["spec"];
        sort(pod, "/volumes", "name");
        for containers in ["containers", "initContainers"] {
            for container in pod.get_mut(containers).and_then(Value::as_array_mut).into_iter().flatten() {
                sort(container, "/env", "name");
                sort(container, "/volumeMounts", "mountPath");
                sort(container, "/ports", "containerPort");
                sort(container, "/securityContext/capabilities/add", "");
            }
        }
    }
    objects.sort_by_key(|object| (object["kind"].to_string(), object["metadata"]["name"].to_string()));
    objects
}

/// What the chart made, without what only a chart has: two labels on each object, and that the definition stays.
fn without_helm(mut objects: Vec<Value>) -> Vec<Value> {
    for object in &mut objects {
        let kind = object["kind"].clone();
        let metadata = object["metadata"].as_object_mut().expect("metadata");
        let labels = metadata["labels"].as_object_mut().expect("labels");
        assert_eq!(labels.remove("app.kubernetes.io/managed-by"), Some("Helm".into()), "{kind}");
        let chart = concat!("port-enforcer-", env!("CARGO_PKG_VERSION"));
        assert_eq!(labels.remove("helm.sh/chart"), Some(chart.into()), "{kind}");
        if kind == "CustomResourceDefinition" {
            assert_eq!(metadata.remove("annotations"), Some(json!({ "helm.sh/resource-policy": "keep" })));
        }
    }
    objects
}

/// What kustomize makes. Helm does not make the namespace of a release.
fn kustomized(top: &Path, name: &str, options: &Options) -> Vec<Value> {
    let folder = top.join(name);
    fs::create_dir(&folder).expect("a folder");
    let kustomization = json!({
        "resources": [format!("../deploy/overlays/{}", options.overlay)],
        "components": options.components.iter().map(|name| format!("../deploy/components/{name}")).collect::<Vec<_>>(),
    });
    fs::write(folder.join("kustomization.yaml"), kustomization.to_string()).expect("a file");
    let mut objects = documents(&render(&folder));
    let before = objects.len();
    objects.retain(|object| object["kind"] != "Namespace");
    assert_eq!(objects.len(), before - 1, "one namespace");
    objects
}

/// Compares chart and kustomize for all of these, on as many threads as there are processors.
fn compare(all: &[Options]) {
    let top = copy();
    let next = AtomicUsize::new(0);
    let kinds = Mutex::new(BTreeMap::<String, usize>::new());
    let work = || {
        while let Some((number, options)) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|n| Some((n, all.get(n)?)))
        {
            let what = format!("{} with {:?}", options.overlay, options.components);
            let chart = without_helm(objects("port-enforcer", &options.values));
            let kustomize = kustomized(top.path(), &format!("mine-{number}"), options);
            for object in &chart {
                assert_eq!(check(object), Ok(()), "{what}");
                let kind = object["kind"].as_str().expect("a kind").to_owned();
                *kinds.lock().expect("no panic").entry(kind).or_default() += 1;
            }
            assert_same(&ordered(chart), &ordered(kustomize), &what);
        }
    };
    thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for thread in running {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
    let kinds = kinds.into_inner().expect("no panic");
    assert_eq!(kinds["DaemonSet"], all.len(), "{kinds:?}");
}

/// Whether the chart refuses this selection, because the pods would be refused.
fn contradicts(components: &[(&str, Value)]) -> bool {
    ["host-processes", "openshift"].iter().all(|wanted| components.iter().any(|(name, _)| name == wanted))
}

fn every_combination_of_the_agents_options() {
    let mut all = Vec::new();
    for overlay in ["audit", "enforce"] {
        for boot in of_boot() {
            for components in subsets(&of_pods()).into_iter().filter(|components| !contradicts(components)) {
                let options = boot.iter().chain(&components).fold(Options::new(overlay), Options::with);
                all.push(options);
            }
        }
    }
    assert_eq!(all.len(), 2 * 3 * 48);
    compare(&all);
}

fn options_that_add_objects() {
    let of_all = |overlay| {
        let selections = subsets(&of_objects()).into_iter();
        selections.map(move |components| components.iter().fold(Options::new(overlay), Options::with))
    };
    let mut all: Vec<_> = ["audit", "enforce", "uninstall"].into_iter().flat_map(of_all).collect();
    // Everything at once.
    let most = of_pods().into_iter().filter(|(name, _)| *name != "host-processes").chain(of_objects());
    all.push(most.fold(Options::new("enforce"), |options, component| options.with(&component)));
    assert_eq!(all.len(), 3 * 16 + 1);
    compare(&all);
}

fn uninstall_is_the_overlay() {
    let [_, _, remove] = of_boot();
    let openshift = of_pods().into_iter().find(|(name, _)| *name == "openshift");
    let all = subsets(&[remove, openshift].map(|component| component.expect("a component")));
    let all: Vec<_> = all.iter().map(|some| some.iter().fold(Options::new("uninstall"), Options::with)).collect();
    compare(&all);
}

/// Calls a function on every text of an object, with the key below which it is.
fn texts(key: &str, value: &Value, found: &mut impl FnMut(&str, &str)) {
    match value {
        Value::String(text) => found(key, text),
        Value::Array(items) => items.iter().for_each(|item| texts(key, item, found)),
        Value::Object(fields) => fields.iter().for_each(|(key, value)| texts(key, value, found)),
        _ => {}
    }
}

pub(super) fn everything() -> Value {
    let all = of_pods().into_iter().filter(|(name, _)| *name != "host-processes").chain(of_objects());
    let boot = of_boot().into_iter().flatten().take(1);
    all.chain(boot).fold(Options::new("enforce"), |options, component| options.with(&component)).values
}

/// Wherever the release is, its service account is named by the policies, and its namespace is excepted.
fn every_object_follows_the_namespace() {
    let values = everything();
    let elsewhere = rendered("elsewhere", &values, &[]);
    let mut followed = 0;
    for object in &elsewhere {
        texts("", object, &mut |key, text| {
            let stayed = (matches!(key, "namespace" | "values") && text == "port-enforcer")
                || text.contains("serviceaccount:port-enforcer:")
                || text.contains("\"port-enforcer/port-enforcer\"");
            assert!(!stayed, "{} of {}: {key} is {text:?}", object["kind"], object["metadata"]["name"]);
            followed += usize::from(text.contains("elsewhere"));
        });
    }
    assert!(followed > 20, "{followed}");
    let text = Value::from(elsewhere).to_string().replace("elsewhere", "port-enforcer");
    let same: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    assert_same(&same, &rendered("port-enforcer", &values, &[]), "in another namespace");
}

pub(super) fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let of = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == name;
    objects.iter().find(of).unwrap_or_else(|| panic!("{kind} {name}"))
}

/// The pods of the hook are those of the overlay `uninstall`, but for the account, which is the hook's own.
fn hooks_clean_up_as_the_overlay_does() {
    let top = copy();
    for (boot, action) in [("none", None), ("install", Some("boot-uninstall")), ("remove", Some("boot-uninstall"))] {
        let options = Options { components: action.into_iter().collect(), ..Options::new("uninstall") };
        let overlay = ordered(kustomized(top.path(), &format!("hook-{boot}"), &options));
        let mut expected = find(&overlay, "DaemonSet", "port-enforcer").clone();
        expected["spec"]["template"]["spec"]["serviceAccountName"] = "port-enforcer-cleanup".into();
        let values = json!({ "mode": "enforce", "boot": { "action": boot }, "hostProcesses": true, "linux510": true });
        let chart = ordered(rendered("port-enforcer", &values, &[]));
        let hooks: Vec<_> =
            chart.iter().filter(|object| !object["metadata"]["annotations"]["helm.sh/hook"].is_null()).collect();
        let kinds: Vec<_> = hooks.iter().map(|object| object["kind"].as_str().expect("a kind")).collect();
        assert_eq!(kinds, ["DaemonSet", "Job", "ResourceQuota", "Role", "RoleBinding", "ServiceAccount"], "{boot}");
        for hook in hooks {
            assert_eq!(check(hook), Ok(()), "{boot}");
            assert_eq!(hook["metadata"]["annotations"]["helm.sh/hook"], "post-delete");
        }
        let cleanup = find(&chart, "DaemonSet", "port-enforcer-cleanup");
        assert_same(
            &[cleanup["spec"]["template"]["spec"].clone()],
            &[expected["spec"]["template"]["spec"].clone()],
            boot,
        );
        assert_eq!(cleanup["spec"]["minReadySeconds"], expected["spec"]["minReadySeconds"]);
        // What the Job may read is what it waits for.
        let job = find(&chart, "Job", "port-enforcer-cleanup");
        let arguments = &job["spec"]["template"]["spec"]["containers"][0]["args"];
        assert_eq!(*arguments, json!(["cleanup", "--wait-for-daemonset", cleanup["metadata"]["name"]]));
        let rule = &find(&chart, "Role", "port-enforcer-cleanup")["rules"];
        let expected = json!([{
            "apiGroups": ["apps"],
            "resources": ["daemonsets"],
            "resourceNames": [cleanup["metadata"]["name"]],
            "verbs": ["get"],
        }]);
        assert_eq!(*rule, expected);
    }
    for values in [json!({ "cleanup": { "enabled": false } }), json!({ "uninstall": true })] {
        assert_eq!(rendered("port-enforcer", &values, &[]), objects("port-enforcer", &values), "{values} has no hooks");
    }
}

/// The kubelet fills in only what stands above.
fn variables_refer_to_those_above() {
    for values in [json!({}), everything(), json!({ "monitoring": { "enabled": true, "ipv6Only": true } })] {
        let objects = objects("port-enforcer", &values);
        let agent = find(&objects, "DaemonSet", "port-enforcer");
        let variables = agent.pointer("/spec/template/spec/containers/0/env").and_then(Value::as_array).expect("some");
        let mut above: Vec<String> = Vec::new();
        let mut references = 0;
        for variable in variables {
            let value = variable["value"].as_str().unwrap_or_default();
            for reference in value.split("$(").skip(1) {
                let name = reference.split(')').next().expect("a name");
                assert!(above.iter().any(|one| one == name), "{}: {value}", variable["name"]);
                references += 1;
            }
            above.push(variable["name"].as_str().expect("a name").to_owned());
        }
        assert!(references > 0);
    }
}

/// Values that kustomize has no component for, because its users write a patch.
fn values_without_a_component() {
    let values = json!({
        "image": { "repository": "registry.example/tools/port-enforcer", "digest": format!("sha256:{}", "0a".repeat(32)) },
        "imagePullSecrets": [{ "name": "pull" }],
        "port": 9490,
        "extraEnv": [{ "name": "TZ", "value": "UTC" }],
        "monitoring": { "enabled": true, "rules": false, "dashboard": false, "labels": { "release": "prometheus" } },
        "nodePorts": { "enabled": true, "ports": [
            { "port": 53, "protocol": "UDP", "address": "fd00::1" },
            { "port": 53, "protocol": "TCP", "address": "10.0.0.1" },
        ] },
        "policies": { "enabled": true, "mirrorPods": false, "modeLabel": false, "ownEvents": false, "ownLedger": false,
            "portLimitLabel": false, "allowedClaims": { "_default": "", "shop": "8080" } },
        "startupTaint": { "enabled": true, "key": "example.org/new" },
        "crd": { "install": false },
        "priorityQuota": false,
        "priorityClassName": "mine",
        "commonLabels": { "team": "net" },
        "podLabels": { "a": "b" },
        "podAnnotations": { "c": "d" },
        "nodeSelector": { "pool": "one" },
        "tolerations": [],
        "affinity": { "nodeAffinity": {} },
        "updateStrategy": { "rollingUpdate": { "maxUnavailable": 1 } },
        "resources": { "limits": { "memory": "512Mi" } },
    });
    let objects = objects("port-enforcer", &values);
    for object in &objects {
        assert_eq!(check(object), Ok(()));
        assert_eq!(object["metadata"]["labels"]["team"], "net", "{}", object["metadata"]);
    }
    let kinds: Vec<_> = objects.iter().map(|object| object["kind"].as_str().expect("a kind")).collect();
    for kind in ["CustomResourceDefinition", "ResourceQuota", "PrometheusRule"] {
        assert!(!kinds.contains(&kind), "{kind}");
    }
    let monitor = find(&objects, "PodMonitor", "port-enforcer");
    assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
    let lists: Vec<_> = objects.iter().filter(|object| object["kind"] == "ConfigMap").collect();
    let [list] = lists[..] else { panic!("{lists:?}") };
    assert_eq!(list["data"], json!({ "_default": "", "shop": "8080" }));
    let policies = kinds.iter().filter(|kind| **kind == "ValidatingAdmissionPolicy").count();
    assert_eq!(policies, 2, "that of claims and that of the taint");
    let taint = find(&objects, "ValidatingAdmissionPolicy", "port-enforcer-own-taint").to_string();
    assert!(taint.contains("'example.org/new'") && !taint.contains("agent-not-ready"), "{taint}");

    let template = &find(&objects, "DaemonSet", "port-enforcer")["spec"]["template"];
    let (pod, agent) = (&template["spec"], &template["spec"]["containers"][0]);
    let image = format!("registry.example/tools/port-enforcer@sha256:{}", "0a".repeat(32));
    assert_eq!(agent["image"], image);
    assert_eq!(pod["imagePullSecrets"], values["imagePullSecrets"]);
    assert_eq!((&pod["priorityClassName"], &pod["tolerations"]), (&json!("mine"), &Value::Null));
    assert_eq!(pod["nodeSelector"], json!({ "kubernetes.io/os": "linux", "pool": "one" }));
    assert_eq!(pod["affinity"], values["affinity"]);
    assert_eq!(
        (&template["metadata"]["labels"]["a"], &template["metadata"]["annotations"]["c"]),
        (&json!("b"), &json!("d"))
    );
    assert_eq!(agent["resources"]["limits"], json!({ "memory": "512Mi" }));
    assert_eq!(agent["ports"][0]["hostPort"], 9490);
    assert_eq!(
        agent["ports"][1],
        json!({ "containerPort": 53, "hostPort": 53, "hostIP": "fd00::1", "protocol": "UDP" })
    );
    let variable = |name: &str| {
        let variables = agent["env"].as_array().expect("an environment");
        variables.iter().find(|variable| variable["name"] == name).map(|variable| variable["value"].clone())
    };
    assert_eq!(variable("ENFORCER_LISTEN"), Some("$(NODE_IP):9490".into()));
    assert_eq!(variable("ENFORCER_NODE_RESERVED"), Some("[fd00::1]:53/udp,10.0.0.1:53/tcp".into()));
    assert_eq!(variable("ENFORCER_STARTUP_TAINT"), Some("example.org/new".into()));
    assert_eq!(variable("TZ"), Some("UTC".into()));
    let tagged = super::objects("port-enforcer", &json!({ "image": { "tag": "1.2.3" } }));
    let agent = find(&tagged, "DaemonSet", "port-enforcer");
    assert_eq!(agent["spec"]["template"]["spec"]["containers"][0]["image"], "port-enforcer:1.2.3");
}

/// What is packaged is all that a release needs, and helm's own checks find nothing.
fn package_is_the_same_chart() {
    let folder = tempfile::tempdir().expect("a folder");
    let helm = |arguments: &[&str]| {
        let mut helm = Command::new("helm");
        helm.args(arguments).arg(chart()).env("HOME", folder.path()).stdin(Stdio::null());
        let Output { status, stdout, stderr } = helm.output().expect("running helm");
        let said = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        assert!(status.success(), "{arguments:?}: {said}");
        said
    };
    let said = helm(&["lint", "--strict"]);
    assert!(!said.contains("[WARNING]") && !said.contains("[ERROR]"), "{said}");
    helm(&["package", "--destination", &folder.path().display().to_string()]);
    let package = folder.path().join(concat!("port-enforcer-", env!("CARGO_PKG_VERSION"), ".tgz"));
    let (packaged, source) =
        (template_of(&package, "port-enforcer", &everything(), &[]), template("port-enforcer", &everything(), &[]));
    assert!(packaged.status.success() && packaged.stderr.is_empty(), "{packaged:?}");
    assert!(packaged.stdout == source.stdout, "a package renders to the same bytes");
}
