//! Manifests of the workloads that the story runs.

use serde_json::{Value, json};

/// Program of every workload's container.
const BIND_POD: &str = include_str!("bind_pod.py");
/// Namespace of the workloads.
pub(super) const NAMESPACE: &str = "port-enforcer-e2e";
/// Label of everything that the suite makes.
pub(super) const LABEL: &str = "port-enforcer.io/e2e";
const PORTS: &str = "port-enforcer.io/ports";

/// One bind that a workload tries until it succeeds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bind {
    pub(super) port: u16,
    pub(super) reuse_port: bool,
    /// Tried over and over, and never held.
    pub(super) storm: bool,
}

impl Bind {
    /// Returns a TCP bind of all IPv4 addresses, which is held.
    pub(super) const fn tcp(port: u16) -> Self {
        Self { port, reuse_port: false, storm: false }
    }

    pub(super) const fn reusing_port(self) -> Self {
        Self { reuse_port: true, ..self }
    }

    pub(super) const fn in_a_storm(self) -> Self {
        Self { storm: true, ..self }
    }

    fn json(self) -> Value {
        let Self { port, reuse_port, storm } = self;
        json!({"protocol": "tcp", "address": "0.0.0.0", "port": port, "reuse_port": reuse_port, "storm": storm})
    }
}

/// Pods that bind ports.
#[derive(Clone, Debug)]
pub(super) struct Workload {
    pub(super) name: &'static str,
    pub(super) namespace: &'static str,
    binds: Vec<Bind>,
    annotation: Option<&'static str>,
    /// Port of the node that the pod declares on a network of its own.
    host_port: Option<u16>,
    /// Replicas of a Deployment; `None` for one pod without a controller.
    replicas: Option<u32>,
}

impl Workload {
    /// Returns a pod on the host network.
    pub(super) fn pod(name: &'static str, binds: &[Bind]) -> Self {
        let binds = binds.to_vec();
        Self { name, namespace: NAMESPACE, binds, annotation: None, host_port: None, replicas: None }
    }

    pub(super) fn claiming(self, ports: &'static str) -> Self {
        Self { annotation: Some(ports), ..self }
    }

    pub(super) fn in_namespace(self, namespace: &'static str) -> Self {
        Self { namespace, ..self }
    }

    /// Makes it a Deployment that starts the next pod before the last one ends.
    pub(super) fn with_replicas(self, replicas: u32) -> Self {
        Self { replicas: Some(replicas), ..self }
    }

    /// Puts it on a network of its own, with this port of the node.
    pub(super) fn with_host_port(self, port: u16) -> Self {
        Self { host_port: Some(port), ..self }
    }

    /// Returns the kind and the name, as kubectl takes them.
    pub(super) fn reference(&self) -> String {
        let kind = if self.replicas.is_some() { "deployment" } else { "pod" };
        format!("{kind}/{}", self.name)
    }

    /// Returns the object. `node` is the value of the node's label `kubernetes.io/hostname`.
    pub(super) fn manifest(&self, image: &str, node: &str) -> Value {
        let labels = json!({"app": self.name, LABEL: "true"});
        let annotations = self.annotation.map_or_else(|| json!({}), |ports| json!({PORTS: ports}));
        let binds: Vec<Value> = self.binds.iter().map(|bind| bind.json()).collect();
        let ports = self.host_port.map_or_else(|| json!([]), |port| json!([{"containerPort": port, "hostPort": port}]));
        let spec = json!({
            "hostNetwork": self.host_port.is_none(),
            "nodeSelector": {"kubernetes.io/hostname": node},
            "tolerations": [{"operator": "Exists"}],
            "terminationGracePeriodSeconds": 5,
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "binder",
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "command": ["python3", "-c", BIND_POD, Value::from(binds).to_string()],
                "ports": ports,
            }],
        });
        let metadata = json!({"name": self.name, "namespace": self.namespace, "labels": labels});
        match self.replicas {
            None => {
                let mut metadata = metadata;
                metadata["annotations"] = annotations;
                json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
            }
            Some(replicas) => json!({
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": metadata,
                "spec": {
                    "replicas": replicas,
                    "selector": {"matchLabels": {"app": self.name}},
                    "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
                    "template": {"metadata": {"labels": labels, "annotations": annotations}, "spec": spec},
                },
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pod_claims_and_binds() {
        let workload = Workload::pod("web", &[Bind::tcp(20080)]).claiming("20080");
        let object = workload.manifest("image", "node-1");
        assert_eq!(object["metadata"]["annotations"]["port-enforcer.io/ports"], "20080");
        assert_eq!((&object["kind"], &object["spec"]["hostNetwork"]), (&"Pod".into(), &true.into()));
        let command = object["spec"]["containers"][0]["command"].as_array().expect("a command");
        let binds: Value = serde_json::from_str(command[3].as_str().expect("text")).expect("JSON");
        assert_eq!(binds[0]["port"], 20080);
        assert_eq!(workload.reference(), "pod/web");
    }

    #[test]
    fn deployment_carries_claims_on_its_template() {
        let object = Workload::pod("web", &[Bind::tcp(1)]).claiming("1").with_replicas(2).manifest("image", "n");
        assert_eq!(object["spec"]["template"]["metadata"]["annotations"]["port-enforcer.io/ports"], "1");
        assert_eq!(object["metadata"].get("annotations"), None, "on the object itself it would claim nothing");
        assert_eq!(
            object["spec"]["selector"]["matchLabels"]["app"],
            object["spec"]["template"]["metadata"]["labels"]["app"]
        );
    }

    #[test]
    fn declared_host_port_is_on_a_network_of_its_own() {
        let spec =
            Workload::pod("cni", &[Bind::tcp(20085)]).with_host_port(20085).manifest("image", "n")["spec"].clone();
        assert_eq!(
            (&spec["hostNetwork"], &spec["containers"][0]["ports"][0]["hostPort"]),
            (&false.into(), &20085.into())
        );
    }
}
