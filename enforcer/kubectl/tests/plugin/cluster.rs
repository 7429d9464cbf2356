//! The cluster of the tests, and runs of the program.

use std::{
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use enforcer_testing::apiserver::ApiServer;
use serde_json::{Value, json};
use tempfile::TempDir;

/// An API server and a kubeconfig.
pub(crate) struct Cluster {
    pub(crate) server: ApiServer,
    folder: TempDir,
    kubeconfig: PathBuf,
}

/// What came of a run.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Cluster {
    /// Starts a cluster without pods.
    pub(crate) fn new() -> Self {
        let server = ApiServer::start();
        let folder = TempDir::new().expect("a folder");
        let kubeconfig = server.kubeconfig_of_admin(folder.path());
        Self { server, folder, kubeconfig }
    }

    /// The story of the project's beginning, and what goes wrong around it: two replicas of nginx on one node, two
    /// exporters on 9100 of which the second one waits for a node, a listener on a `NodePort`, and a squatter.
    pub(crate) fn of_the_story() -> Self {
        let cluster = Self::new();
        let server = &cluster.server;
        for (node, pool, taint) in [("node-1", "web", false), ("node-2", "web", false), ("node-3", "infra", true)] {
            let taints = if taint {
                json!([{ "key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule" }])
            } else {
                json!([])
            };
            server.put_node(object(json!({
                "metadata": { "name": node, "labels": { "pool": pool, "kubernetes.io/hostname": node } },
                "spec": { "taints": taints },
            })));
        }
        for (name, node, number) in [("nginx-6fdf99c8b-6wwft", "node-1", 1), ("nginx-6fdf99c8b-rglm7", "node-1", 2)] {
            server.put_pod(object(pod("default", name, Some(node), number, 80, ("ReplicaSet", "nginx-6fdf99c8b"))));
        }
        for (node, number) in [("node-1", 3), ("node-2", 4)] {
            let name = format!("node-exporter-{number}");
            server.put_pod(object(pod("monitoring", &name, Some(node), number, 9100, ("DaemonSet", "node-exporter"))));
        }
        let mut waiting = pod("kepler", "kepler-x2vbn", None, 5, 9100, ("DaemonSet", "kepler"));
        waiting["status"] = json!({ "phase": "Pending", "conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/3 nodes are available: 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: \
                        }, 2 node(s) didn't have free ports for the requested pod ports.",
        }] });
        server.put_pod(object(waiting));
        server.put_pod(object(pod("shop", "gateway-0", Some("node-2"), 6, 30_080, ("StatefulSet", "gateway"))));
        server.put_service(object(json!({
            "metadata": { "namespace": "shop", "name": "front", "creationTimestamp": "2026-10-01T00:00:00Z" },
            "spec": { "type": "NodePort", "ports": [{ "port": 80, "nodePort": 30080, "protocol": "TCP" }] },
        })));
        cluster
    }

    /// Adds the ledgers that the agents of the first two nodes would have written.
    pub(crate) fn with_ledgers(self) -> Self {
        let nginx = |name: &str| actor("default", name, "Deployment nginx");
        let exporter = |name: &str| actor("monitoring", name, "DaemonSet node-exporter");
        let mut squatter = actor("tools", "debug", "Job debug");
        squatter["container"] = "shell".into();
        self.server.put_ledger(ledger(
            "node-1",
            "enforce",
            &json!([
                row(22, &json!({ "kind": "node" }), Some(("node-reserved", "inForce")), true),
                row(80, &nginx("nginx-6fdf99c8b-6wwft"), Some(("hostPort", "inForce")), true),
                row(80, &nginx("nginx-6fdf99c8b-rglm7"), Some(("hostPort", "inForce")), false),
                row(9100, &exporter("node-exporter-3"), Some(("hostPort", "inForce")), true),
                row(10_250, &json!({ "kind": "host", "unit": "kubelet.service" }), None, true),
            ]),
            &json!([{
                "kind": "inUse", "ports": "0.0.0.0:80/tcp", "since": "2026-11-29T08:00:00Z",
                "who": nginx("nginx-6fdf99c8b-rglm7"), "other": nginx("nginx-6fdf99c8b-6wwft"),
            }]),
        ));
        self.server.put_ledger(ledger(
            "node-2",
            "audit",
            &json!([
                row(8080, &squatter, None, true),
                row(9100, &exporter("node-exporter-4"), Some(("hostPort", "inForce")), false),
                row(9100, &squatter, None, true),
                row(30_080, &actor("shop", "gateway-0", "StatefulSet gateway"), Some(("hostPort", "inForce")), true),
            ]),
            &json!([{
                "kind": "notOwner", "ports": "0.0.0.0:9100/tcp", "who": squatter, "other": exporter("node-exporter-4"),
            }]),
        ));
        self
    }

    /// Returns a path in a folder of the cluster's own.
    pub(crate) fn path_beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs the program as the administrator.
    pub(crate) fn run(&self, arguments: &[&str]) -> End {
        end(self.command(arguments))
    }

    /// Returns the program with a kubeconfig.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program(arguments);
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        command
    }

    /// Runs the program as a reader with these rights.
    pub(crate) fn run_as_reader(&self, rules: &[(String, String)], arguments: &[&str]) -> End {
        let rules: Vec<(&str, &str)> = rules.iter().map(|(verb, of)| (verb.as_str(), of.as_str())).collect();
        let kubeconfig = self.server.kubeconfig_of_reader(self.folder.path(), &rules);
        let mut command = program(arguments);
        command.arg("--kubeconfig").arg(kubeconfig);
        end(command)
    }

    /// Runs what must succeed, and returns what it wrote for people or programs, and its notes.
    pub(crate) fn answer(&self, arguments: &[&str]) -> String {
        let End { code, stdout, stderr } = self.run(arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {stderr}");
        if stderr.is_empty() { stdout } else { format!("{stdout}---\n{stderr}") }
    }
}

/// Returns the program, with nothing in its environment that it would heed.
pub(crate) fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-host_ports"));
    command.args(arguments).env_remove("KUBECONFIG").env("HOME", "/nonexistent").env("COLUMNS", "100");
    command.env_remove("KUBERNETES_SERVICE_HOST").stdin(Stdio::null());
    command
}

/// Runs a command to its end.
pub(crate) fn end(mut command: Command) -> End {
    let Output { status, stdout, stderr } = command.output().expect("running the program");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    End { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

/// Decodes an object.
pub(crate) fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an object")
}

fn uid(number: u16) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

/// Returns a pod on the host network that declares a port.
pub(crate) fn pod(
    namespace: &str,
    name: &str,
    node: Option<&str>,
    number: u16,
    port: u16,
    (kind, controller): (&str, &str),
) -> Value {
    let mut labels = json!({});
    if kind == "ReplicaSet" {
        labels["pod-template-hash"] = controller.rsplit_once('-').map_or(controller, |(_, hash)| hash).into();
    }
    json!({
        "metadata": {
            "namespace": namespace, "name": name, "uid": uid(number), "labels": labels,
            "creationTimestamp": format!("2026-11-01T00:00:{number:02}Z"),
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": kind, "name": controller, "uid": uid(900), "controller": true }],
        },
        "spec": {
            "hostNetwork": true, "nodeName": node,
            "containers": [{ "name": "main", "image": "x", "ports": [{ "containerPort": port, "hostPort": port }] }],
        },
        "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] },
    })
}

/// Returns a user of ports.
pub(crate) fn actor(namespace: &str, name: &str, workload: &str) -> Value {
    json!({ "kind": "pod", "namespace": namespace, "name": name, "workload": workload })
}

/// Returns a row: of a claim with its source and standing, or of a socket without one.
pub(crate) fn row(port: u16, who: &Value, claim: Option<(&str, &str)>, held: bool) -> Value {
    let mut row = json!({
        "protocol": "tcp", "firstPort": port, "lastPort": port, "who": who, "held": held,
        "declared": claim.is_some(), "reach": "all", "since": "2026-11-28T12:00:00Z",
    });
    if let Some((source, standing)) = claim {
        row["source"] = source.into();
        row["standing"] = standing.into();
    }
    row
}

/// Returns a ledger.
pub(crate) fn ledger(node: &str, mode: &str, rows: &Value, conflicts: &Value) -> Value {
    json!({
        "apiVersion": "port-enforcer.io/v1alpha1", "kind": "NodeHostPorts",
        "metadata": { "name": node }, "spec": {},
        "status": {
            "mode": mode, "undeclared": "adopt", "agentVersion": "0.1.0", "updated": "2026-11-29T09:00:00Z",
            "counts": { "claims": 3, "held": 3, "undeclared": 1, "conflicts": 1 },
            "ephemeralPorts": "32768-60999", "ports": rows, "conflicts": conflicts, "leftOut": 0,
        },
    })
}
