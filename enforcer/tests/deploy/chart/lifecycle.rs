//! The life of a release, by helm's own program against the tests' API server: what helm does with the chart, and what the
//! chart's hooks wait for. Nothing runs pods here; the tests set the status that controllers would.

use std::{
    fs,
    io::{BufRead as _, BufReader, Lines, Write as _},
    path::PathBuf,
    process::{Child, ChildStdout, Command, Output, Stdio},
};

use enforcer_testing::{
    apiserver::{ApiServer, Fault, Target},
    tests,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::chart;
use crate::{
    Test,
    rendering::render,
    strict::{assert_same, deploy},
};

/// Tests that need helm.
pub(super) const TESTS: &[Test] = tests![
    upgrade_changes_the_mode_and_nothing_else,
    rollback_removes_what_an_upgrade_added,
    uninstall_waits_until_all_nodes_are_clean,
    failed_cleanup_is_reported_and_goes_on,
    second_release_is_refused,
    notes_name_what_is_missing,
    notes_name_the_api_that_reports_need
];

/// Tests that need kubectl too.
pub(super) const WITH_KUBECTL: &[Test] =
    tests![kustomize_installation_is_taken_over, older_helm_takes_over_what_is_marked];

/// Tests of the command that the Job runs.
pub(super) const COMMAND: &[Test] = tests![
    command_waits_through_trouble_of_the_server,
    command_waits_for_a_server_that_is_not_there,
    command_reports_what_it_may_not_see
];

const NAMESPACE: &str = "port-enforcer";
const DEFINITION: &str = "CustomResourceDefinition/nodehostports.port-enforcer.io";

/// An API server with an empty namespace, and clients for it.
struct Cluster {
    server: ApiServer,
    folder: TempDir,
    kubeconfig: PathBuf,
}

impl Cluster {
    fn start() -> Self {
        let server = ApiServer::start();
        let namespace = json!({ "metadata": { "name": NAMESPACE } });
        server.put_namespace(serde_json::from_value(namespace).expect("a namespace"));
        let folder = tempfile::tempdir().expect("a folder");
        let kubeconfig = server.kubeconfig_of_proxy(folder.path(), NAMESPACE);
        Self { server, folder, kubeconfig }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("HOME", self.folder.path()).env("KUBECONFIG", &self.kubeconfig);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Helm with a command and what follows it.
    fn helm(&self, arguments: &[&str]) -> Command {
        let mut helm = self.command("helm");
        // Of a flag that is there twice the last one counts.
        helm.args(["--namespace", NAMESPACE]).args(arguments);
        if matches!(arguments[0], "install" | "upgrade") {
            helm.arg(chart());
        }
        helm
    }

    /// Runs helm, and takes what it prints.
    fn run(&self, arguments: &[&str]) -> String {
        succeed(self.helm(arguments))
    }

    /// Runs helm, which fails, and takes what it says.
    fn refusal(&self, arguments: &[&str]) -> String {
        let Output { status, stderr, .. } = self.helm(arguments).output().expect("running helm");
        assert!(!status.success(), "{arguments:?} succeeded");
        String::from_utf8(stderr).expect("UTF-8")
    }

    fn object(&self, kind: &str, name: &str) -> Value {
        let namespace = if kind.starts_with("Cluster") || kind == "CustomResourceDefinition" { "" } else { NAMESPACE };
        self.server.installed(kind, namespace, name).unwrap_or_else(|| panic!("{kind} {name} is there"))
    }

    fn agents(&self) -> Value {
        self.object("DaemonSet", NAMESPACE)
    }

    /// Starts what the chart's Job runs.
    fn start_job(&self) -> (Child, Lines<BufReader<ChildStdout>>) {
        let job = self.object("Job", "port-enforcer-cleanup");
        let arguments = job.pointer("/spec/template/spec/containers/0/args").and_then(Value::as_array).expect("some");
        let mut command = self.command(env!("CARGO_BIN_EXE_enforcer"));
        command.args(arguments.iter().map(|argument| argument.as_str().expect("text")));
        let mut child = command.spawn().expect("the binary");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        (child, lines)
    }

    fn set_cleaned(&self, done: u32, all: u32) {
        let status = json!({
            "observedGeneration": 1, "desiredNumberScheduled": all, "currentNumberScheduled": all,
            "updatedNumberScheduled": all, "numberReady": done, "numberAvailable": done, "numberMisscheduled": 0,
        });
        self.server.set_status("DaemonSet", NAMESPACE, "port-enforcer-cleanup", &status);
    }

    fn end_job(&self, condition: &str) {
        let status = json!({ "conditions": [{ "type": condition, "status": "True", "reason": "DeadlineExceeded" }] });
        self.server.set_status("Job", NAMESPACE, "port-enforcer-cleanup", &status);
    }

    fn wait_for(&self, kind: &str, name: &str) {
        self.server.wait(&format!("{kind} {name}"), |server| server.installed(kind, NAMESPACE, name));
    }
}

/// A kubeconfig whose namespace is that of the release, as the service account of a pod has one.
fn in_namespace(path: PathBuf) -> PathBuf {
    let text = fs::read_to_string(&path).expect("a kubeconfig");
    let mut config: Value = serde_json::from_str(&text).expect("JSON");
    config["contexts"][0]["context"]["namespace"] = NAMESPACE.into();
    fs::write(&path, config.to_string()).expect("a kubeconfig");
    path
}

fn succeed(mut command: Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("running a program");
    let said = String::from_utf8(stderr).expect("UTF-8");
    assert!(status.success(), "{command:?}: {status} {said}");
    String::from_utf8(stdout).expect("UTF-8")
}

fn environment(agents: &Value) -> Vec<Value> {
    let variables = agents.pointer("/spec/template/spec/containers/0/env").and_then(Value::as_array);
    variables.expect("an environment").clone()
}

fn upgrade_changes_the_mode_and_nothing_else() {
    let cluster = Cluster::start();
    cluster.run(&["install", "port-enforcer"]);
    let installed = cluster.server.all_installed();
    let expected = [
        "DaemonSet/port-enforcer",
        "ServiceAccount/port-enforcer",
        "ResourceQuota/port-enforcer",
        "ClusterRole/port-enforcer",
        "ClusterRoleBinding/port-enforcer",
        DEFINITION,
    ];
    assert_eq!(installed, expected);
    let before = cluster.agents();
    assert_eq!(before["metadata"]["annotations"]["meta.helm.sh/release-name"], "port-enforcer");
    cluster.run(&["upgrade", "port-enforcer", "--reuse-values", "--set", "mode=enforce"]);
    let after = cluster.agents();
    let mut changed = before.clone();
    let mode = changed.pointer_mut("/spec/template/spec/containers/0/env/0").expect("a variable");
    assert_eq!(*mode, json!({ "name": "ENFORCER_MODE", "value": "audit" }));
    mode["value"] = "enforce".into();
    assert_same(&[after["spec"].clone()], &[changed["spec"].clone()], "the agents");
    assert_eq!((&before["metadata"]["generation"], &after["metadata"]["generation"]), (&json!(1), &json!(2)));
    assert_eq!(cluster.server.all_installed(), installed);
    // What does not change is not written, so that no agent is replaced.
    cluster.run(&["upgrade", "port-enforcer", "--reuse-values"]);
    assert_eq!(cluster.agents()["metadata"]["generation"], 2);
    // A value that is refused changes nothing.
    let said = cluster.refusal(&["upgrade", "port-enforcer", "--reuse-values", "--set", "mode=deny"]);
    assert!(said.contains("mode"), "{said}");
    assert_eq!(cluster.agents(), after);
    let history: Value = serde_json::from_str(&cluster.run(&["history", "port-enforcer", "-o", "json"])).expect("JSON");
    assert_eq!(history.as_array().map(Vec::len), Some(3));
}

fn rollback_removes_what_an_upgrade_added() {
    let cluster = Cluster::start();
    cluster.run(&["install", "port-enforcer", "--set", "mode=enforce"]);
    let (before, installed) = (cluster.agents(), cluster.server.all_installed());
    let more = "boot.action=install,hostProcesses=true,nodePorts.enabled=true,readers=true,policies.enabled=true,\
                startupTaint.enabled=true,settings.lease=30m,port=9500";
    cluster.run(&["upgrade", "port-enforcer", "--reuse-values", "--set", more]);
    let agents = cluster.agents();
    let pod = &agents["spec"]["template"]["spec"];
    assert_eq!((&pod["initContainers"][0]["name"], &pod["hostPID"]), (&json!("boot"), &json!(true)));
    assert_eq!(environment(&agents).len(), environment(&before).len() + 4);
    let added = cluster.server.all_installed();
    for name in ["ClusterRole/port-enforcer-reader", "ConfigMap/port-enforcer-claims"] {
        assert!(added.iter().any(|one| one == name), "{name}: {added:?}");
    }
    let policies = added.iter().filter(|one| one.starts_with("ValidatingAdmissionPolicy/")).count();
    assert_eq!(policies, 7);
    cluster.run(&["rollback", "port-enforcer", "1"]);
    assert_same(&[cluster.agents()["spec"].clone()], &[before["spec"].clone()], "the agents");
    assert_eq!(cluster.server.all_installed(), installed);
}

fn uninstall_waits_until_all_nodes_are_clean() {
    let cluster = Cluster::start();
    cluster.run(&["install", "port-enforcer", "--set", "mode=enforce"]);
    let mut helm = cluster.helm(&["uninstall", "port-enforcer"]).spawn().expect("helm");
    cluster.wait_for("Job", "port-enforcer-cleanup");
    // The agents are gone before anything cleans up.
    assert_eq!(cluster.server.installed("DaemonSet", NAMESPACE, NAMESPACE), None);
    let cleanup = cluster.object("DaemonSet", "port-enforcer-cleanup");
    assert_eq!(cleanup["spec"]["template"]["spec"]["containers"][0]["args"][0], "cleanup");
    let (mut job, mut lines) = cluster.start_job();
    let mut line = || lines.next().expect("a line").expect("UTF-8");
    assert_eq!(line(), "waiting for the controller of DaemonSets");
    cluster.set_cleaned(1, 2);
    assert_eq!(line(), "1 of 2 nodes are clean");
    assert!(job.try_wait().expect("a child").is_none(), "it waits for the second node");
    cluster.set_cleaned(2, 2);
    assert_eq!(line(), "2 of 2 nodes are clean");
    assert!(job.wait().expect("its end").success());
    assert!(helm.try_wait().expect("a child").is_none(), "helm waits for the Job");
    cluster.end_job("Complete");
    let output = helm.wait_with_output().expect("its end");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(cluster.server.all_installed(), [DEFINITION]);
    // And again, over the definition that stayed.
    cluster.run(&["install", "port-enforcer"]);
    cluster.run(&["uninstall", "port-enforcer", "--no-hooks"]);
    assert_eq!(cluster.server.all_installed(), [DEFINITION]);
    cluster.run(&["install", "port-enforcer", "--set", "crd.keep=false"]);
    cluster.run(&["uninstall", "port-enforcer", "--no-hooks"]);
    assert_eq!(cluster.server.all_installed(), [""; 0]);
}

/// A node that is down: the cleanup stays there for it, and the next one replaces it.
fn failed_cleanup_is_reported_and_goes_on() {
    let cluster = Cluster::start();
    cluster.run(&["install", "port-enforcer"]);
    let helm = cluster.helm(&["uninstall", "port-enforcer"]).spawn().expect("helm");
    cluster.wait_for("Job", "port-enforcer-cleanup");
    cluster.set_cleaned(1, 2);
    cluster.end_job("Failed");
    let output = helm.wait_with_output().expect("its end");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("port-enforcer-cleanup"), "{said}");
    let first = cluster.object("DaemonSet", "port-enforcer-cleanup");
    assert_eq!(cluster.run(&["list", "--all", "--short"]), "", "the release is gone all the same");
    cluster.run(&["install", "port-enforcer"]);
    let helm = cluster.helm(&["uninstall", "port-enforcer"]).spawn().expect("helm");
    cluster.server.wait("another cleanup", |server| {
        let next = server.installed("DaemonSet", NAMESPACE, "port-enforcer-cleanup")?;
        let job = server.installed("Job", NAMESPACE, "port-enforcer-cleanup")?;
        (next["metadata"]["uid"] != first["metadata"]["uid"] && job["status"]["conditions"].is_null()).then_some(())
    });
    cluster.end_job("Complete");
    assert!(helm.wait_with_output().expect("its end").status.success());
    assert_eq!(cluster.server.all_installed(), [DEFINITION]);
}

fn second_release_is_refused() {
    let cluster = Cluster::start();
    cluster.run(&["install", "port-enforcer"]);
    let before = (cluster.server.all_installed(), cluster.agents());
    let namespace = json!({ "metadata": { "name": "elsewhere" } });
    cluster.server.put_namespace(serde_json::from_value(namespace).expect("a namespace"));
    for namespace in [NAMESPACE, "elsewhere"] {
        // Not the definition alone stands in the way.
        for definition in ["crd.install=true", "crd.install=false"] {
            let said = cluster.refusal(&["install", "second", "--namespace", namespace, "--set", definition]);
            assert!(said.contains("invalid ownership metadata"), "{namespace}, {definition}: {said}");
        }
    }
    assert_eq!((cluster.server.all_installed(), cluster.agents()), before);
}

fn notes_name_what_is_missing() {
    let cluster = Cluster::start();
    let said = cluster.run(&["install", "port-enforcer"]);
    for words in [
        "report binds",
        "does not say which pods it admits",
        "kubectl label namespace port-enforcer",
        "names no registry",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let label = |level: &str| {
        let labels = json!({ "pod-security.kubernetes.io/enforce": level });
        let namespace = json!({ "metadata": { "name": NAMESPACE, "labels": labels } });
        cluster.server.put_namespace(serde_json::from_value(namespace).expect("a namespace"));
    };
    label("baseline");
    let upgrade = ["upgrade", "port-enforcer", "--set", "mode=enforce,image.repository=registry.example/port-enforcer"];
    let said = cluster.run(&upgrade);
    assert!(said.contains("admits pods of the level baseline only") && said.contains("deny binds"), "{said}");
    label("privileged");
    let said = cluster.run(&upgrade);
    assert!(!said.contains("WARNING") && !said.contains("names no registry"), "{said}");
    let said = cluster.run(&["upgrade", "port-enforcer", "--reuse-values", "--set", "uninstall=true"]);
    assert!(said.contains("helm -n port-enforcer uninstall port-enforcer"), "{said}");
}

fn notes_name_the_api_that_reports_need() {
    let cluster = Cluster::start();
    let said = cluster.run(&["install", "port-enforcer"]);
    assert!(!said.contains("olicy reports"), "{said}");
    let values = |api: &str| format!("policyReports.enabled=true,policyReports.api={api}");
    let upgrade = |api: &str| cluster.run(&["upgrade", "port-enforcer", "--reuse-values", "--set", &values(api)]);
    let said = upgrade("");
    for words in [
        "--from=cronjob/port-enforcer-policy-reports",
        "does not serve wgpolicyk8s.io or openreports.io",
        "The image kubectl-host-ports names no registry",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    cluster.server.set_report_group("openreports.io", true);
    assert!(!upgrade("").contains("does not serve"));
    assert!(!upgrade("openreports.io").contains("does not serve"));
    let said = upgrade("wgpolicyk8s.io");
    assert!(said.contains("does not serve wgpolicyk8s.io, so every run fails"), "{said}");
    let installed = cluster.server.all_installed();
    for kind in ["CronJob", "ServiceAccount", "ClusterRole", "ClusterRoleBinding"] {
        assert!(installed.contains(&format!("{kind}/port-enforcer-policy-reports")), "{kind}: {installed:?}");
    }
    cluster.run(&["upgrade", "port-enforcer", "--reuse-values", "--set", "policyReports.enabled=false"]);
    assert!(!cluster.server.all_installed().iter().any(|one| one.contains("policy-reports")));
}

/// Installs an overlay as kubectl does.
fn kustomize(cluster: &Cluster, overlay: &str) {
    let mut kubectl = cluster.command("kubectl");
    kubectl.args(["create", "-f", "-"]).stdin(Stdio::piped());
    let mut child = kubectl.spawn().expect("kubectl");
    // The namespace is there already.
    let rendered = render(&deploy().join("overlays").join(overlay));
    let objects: Vec<_> = rendered.split("\n---\n").filter(|text| !text.contains("\nkind: Namespace\n")).collect();
    child.stdin.take().expect("piped").write_all(objects.join("\n---\n").as_bytes()).expect("kubectl reads");
    let output = child.wait_with_output().expect("its end");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn kustomize_installation_is_taken_over() {
    let cluster = Cluster::start();
    kustomize(&cluster, "enforce");
    let (before, installed) = (cluster.agents(), cluster.server.all_installed());
    let said = cluster.refusal(&["install", "port-enforcer", "--set", "mode=enforce"]);
    assert!(said.contains("invalid ownership metadata"), "{said}");
    assert_eq!(cluster.agents(), before);
    cluster.run(&["install", "port-enforcer", "--set", "mode=enforce", "--take-ownership"]);
    let after = cluster.agents();
    // No agent is replaced.
    assert_eq!(
        (&after["spec"], &after["metadata"]["generation"]),
        (&before["spec"], &before["metadata"]["generation"])
    );
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!(cluster.server.all_installed(), installed);
    for name in &installed {
        let (kind, name) = name.split_once('/').expect("a kind and a name");
        let metadata = &cluster.object(kind, name)["metadata"];
        assert_eq!(metadata["annotations"]["meta.helm.sh/release-name"], "port-enforcer", "{kind}");
        assert_eq!(metadata["labels"]["app.kubernetes.io/managed-by"], "Helm", "{kind}");
    }
    // From now on it is a release like any other.
    cluster.run(&["upgrade", "port-enforcer", "--reuse-values", "--set", "mode=audit"]);
    assert_eq!(environment(&cluster.agents())[0]["value"], "audit");
    cluster.run(&["uninstall", "port-enforcer", "--no-hooks"]);
    assert_eq!(cluster.server.all_installed(), [DEFINITION]);
}

/// By the commands that the README has for helm before 3.17.
fn older_helm_takes_over_what_is_marked() {
    let cluster = Cluster::start();
    kustomize(&cluster, "audit");
    let before = cluster.agents();
    let readme = fs::read_to_string(chart().join("README.md")).expect("a README");
    let commands: Vec<_> =
        readme.lines().filter(|line| line.starts_with("kubectl kustomize deploy/overlays/enforce | ")).collect();
    assert_eq!(commands.len(), 2);
    for command in commands {
        let command = command.replace("overlays/enforce", "overlays/audit");
        let mut shell = cluster.command("sh");
        let root = deploy();
        succeed({
            shell.args(["-c", &command]).current_dir(root.parent().expect("the workspace"));
            shell
        });
    }
    cluster.run(&["install", "port-enforcer"]);
    assert_eq!(cluster.agents()["spec"], before["spec"]);
    assert_eq!(cluster.agents()["metadata"]["generation"], before["metadata"]["generation"]);
}

/// A server and a `DaemonSet` for the command, without helm.
fn with_daemonset(status: &Value) -> Cluster {
    let cluster = Cluster::start();
    cluster.server.put_workload(json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "status": status,
        "metadata": { "name": "port-enforcer-cleanup", "namespace": NAMESPACE, "generation": 1 },
    }));
    cluster
}

fn wait_command(cluster: &Cluster) -> Command {
    let mut command = cluster.command(env!("CARGO_BIN_EXE_enforcer"));
    command.args(["cleanup", "--wait-for-daemonset", "port-enforcer-cleanup"]);
    command
}

fn command_waits_through_trouble_of_the_server() {
    let cluster = with_daemonset(&json!({}));
    let mut child = wait_command(&cluster).spawn().expect("the binary");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut line = || lines.next().expect("a line").expect("UTF-8");
    assert_eq!(line(), "waiting for the controller of DaemonSets");
    for fault in [Fault::Unavailable, Fault::TooManyRequests { retry_after: 1 }] {
        let outage = cluster.server.fault(Target::ALL, fault);
        let said = line();
        assert!(said.starts_with("the API server does not answer, trying again: "), "{fault:?}: {said}");
        drop(outage);
        assert_eq!(line(), "waiting for the controller of DaemonSets", "{fault:?}");
    }
    cluster.set_cleaned(0, 0);
    assert_eq!(line(), "0 of 0 nodes are clean");
    assert!(child.wait().expect("its end").success());
    // It asks for nothing that the Job's role does not grant.
    for request in cluster.server.requests() {
        let what = (request.verb.as_str(), request.resource.as_str(), request.name.as_deref());
        assert_eq!(what, ("get", "daemonsets", Some("port-enforcer-cleanup")));
        assert_eq!(request.namespace.as_deref(), Some(NAMESPACE));
    }
    assert!(cluster.server.count(Target::ALL) >= 3);
}

/// Nobody listens on the first port of a machine.
fn command_waits_for_a_server_that_is_not_there() {
    let cluster = with_daemonset(&json!({}));
    let config = fs::read_to_string(&cluster.kubeconfig).expect("a kubeconfig");
    let mut config: Value = serde_json::from_str(&config).expect("JSON");
    config["clusters"][0]["cluster"]["server"] = "http://127.0.0.1:1".into();
    fs::write(&cluster.kubeconfig, config.to_string()).expect("a kubeconfig");
    let mut child = wait_command(&cluster).spawn().expect("the binary");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let said = lines.next().expect("a line").expect("UTF-8");
    assert!(said.starts_with("the API server does not answer, trying again: "), "{said}");
    assert!(child.try_wait().expect("a child").is_none(), "it tries again");
    child.kill().expect("it runs");
    child.wait().expect("its end");
}

fn command_reports_what_it_may_not_see() {
    let cluster = with_daemonset(&json!({}));
    let end = |mut command: Command| {
        let Output { status, stderr, .. } = command.output().expect("the binary");
        (status.code(), String::from_utf8(stderr).expect("UTF-8"))
    };
    let mut command = cluster.command(env!("CARGO_BIN_EXE_enforcer"));
    command.args(["cleanup", "--wait-for-daemonset", "other"]);
    let (code, said) = end(command);
    assert_eq!(code, Some(4), "{said}");
    assert_eq!(said, "enforcer: cannot wait for the DaemonSet other: daemonsets \"other\" not found\n");
    let mut command = wait_command(&cluster);
    command.env("KUBECONFIG", in_namespace(cluster.server.kubeconfig_of_reader(cluster.folder.path(), &[])));
    let (code, said) = end(command);
    assert!(code == Some(4) && said.contains("forbidden") && said.lines().count() == 1, "{said}");
    let mut command = wait_command(&cluster);
    command.env_remove("KUBECONFIG").env_remove("KUBERNETES_SERVICE_HOST");
    let (code, said) = end(command);
    assert_eq!(code, Some(2), "{said}");
    assert_eq!(said, "enforcer: no cluster was found: run this in a pod, or set KUBECONFIG\n");
}
