//! Model of the scheduler and of its filters, on objects as JSON. It shares no code with the check.
//!
//! | filter | in Kubernetes |
//! | --- | --- |
//! | `NodeName` | pkg/scheduler/framework/plugins/nodename |
//! | `NodeAffinity` | k8s.io/component-helpers/scheduling/corev1/nodeaffinity, `Matches` of k8s.io/apimachinery/pkg/labels |
//! | `TaintToleration` | `ToleratesTaint` in k8s.io/api/core/v1/toleration.go |
//! | `NodePorts` | `CheckConflict` of `HostPortInfo` in pkg/scheduler/framework/types.go |
//! | `InterPodAffinity` | pkg/scheduler/framework/plugins/interpodaffinity |

use std::collections::BTreeMap;

use serde_json::Value;

#[derive(Clone, Debug)]
pub(super) struct Taint {
    pub(super) key: String,
    pub(super) value: String,
    pub(super) effect: String,
}

#[derive(Clone, Debug)]
pub(super) struct ModelNode {
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) taints: Vec<Taint>,
}

impl ModelNode {
    pub(super) fn is_linux(&self) -> bool {
        self.labels["kubernetes.io/os"] == "linux"
    }

    pub(super) fn with_linux(&self) -> Self {
        let mut node = self.clone();
        for key in ["kubernetes.io/os", "beta.kubernetes.io/os"] {
            node.labels.insert(key.to_owned(), "linux".to_owned());
        }
        node
    }
}

/// A pod of an object.
#[derive(Clone, Debug)]
pub(super) struct ModelPod<'a> {
    object: &'a Value,
    /// The object that has the pod's metadata and spec.
    template: &'a Value,
}

/// Whereabouts of a pod after scheduling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placed {
    OnNode,
    Pending,
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

impl<'a> ModelPod<'a> {
    pub(super) fn of(object: &'a Value) -> Self {
        Self { object, template: if object["kind"] == "Pod" { object } else { &object["spec"]["template"] } }
    }

    fn spec(&self) -> &'a Value {
        &self.template["spec"]
    }

    fn is_daemon(&self) -> bool {
        self.object["kind"] == "DaemonSet"
    }

    pub(super) fn is_bound(&self) -> bool {
        !word(&self.spec()["nodeName"]).is_empty()
    }

    /// Count of its like; `None` of a `DaemonSet`.
    pub(super) fn replicas(&self) -> Option<u32> {
        if self.is_daemon() {
            return None;
        }
        self.object["spec"]["replicas"].as_u64().map_or(Some(1), |replicas| u32::try_from(replicas).ok())
    }

    /// Whether each node that suits it has one: of a `DaemonSet`, or if there is one such node.
    pub(super) fn is_everywhere(&self) -> bool {
        let names: Vec<ModelNode> = (1..9).map(|number| format!("n{number}")).map(bare_node).collect();
        let text = self.spec().to_string();
        // Whatever the labels are, names decide.
        let names_nodes = text.contains("hostname") || text.contains("metadata.name") || self.is_bound();
        self.is_daemon() || names_nodes && names.iter().filter(|node| self.may_suit_by_name(node)).count() <= 1
    }

    /// Whether the name of a node keeps the pod off it, whatever its labels are.
    fn may_suit_by_name(&self, node: &ModelNode) -> bool {
        let spec = self.spec();
        let bound = word(&spec["nodeName"]);
        let is_name = |requirement: &&Value| {
            requirement["key"] == "kubernetes.io/hostname" || requirement["key"] == "metadata.name"
        };
        let by_term = |term: &Value| {
            let mut all = list(&term["matchExpressions"]).iter().chain(list(&term["matchFields"])).filter(is_name);
            all.all(|requirement| matches(requirement, Some(&node.name)))
        };
        let terms = list(&spec["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"]);
        let host = word(&spec["nodeSelector"]["kubernetes.io/hostname"]);
        (bound.is_empty() || bound == node.name)
            && (host.is_empty() || host == node.name)
            && (terms.is_empty() || terms.iter().any(by_term))
    }

    /// Whether a node suits it: name, labels and taints, and the kubelet's look at the system.
    pub(super) fn suits(&self, node: &ModelNode) -> bool {
        let spec = self.spec();
        let (bound, system) = (word(&spec["nodeName"]), word(&spec["os"]["name"]));
        (bound.is_empty() || bound == node.name)
            && (system.is_empty() || node.labels["kubernetes.io/os"] == system)
            && self.node_affinity(node)
            && node.taints.iter().all(|taint| self.tolerates(taint))
    }

    fn node_affinity(&self, node: &ModelNode) -> bool {
        let selector = self.spec()["nodeSelector"].as_object();
        let selected = selector
            .into_iter()
            .flatten()
            .all(|(key, value)| node.labels.get(key).map(String::as_str) == value.as_str());
        let required = &self.spec()["affinity"]["nodeAffinity"][REQUIRED];
        let by_term = |term: &Value| {
            let (labels, fields) = (list(&term["matchExpressions"]), list(&term["matchFields"]));
            let by_label = |requirement: &Value| {
                matches(requirement, node.labels.get(word(&requirement["key"])).map(String::as_str))
            };
            (!labels.is_empty() || !fields.is_empty())
                && labels.iter().all(by_label)
                && fields.iter().all(|requirement| matches(requirement, Some(&node.name)))
        };
        selected && (required.is_null() || list(&required["nodeSelectorTerms"]).iter().any(by_term))
    }

    fn tolerates(&self, taint: &Taint) -> bool {
        let is_execute = taint.effect == "NoExecute";
        // The kubelet looks at `NoExecute` alone, and nobody else looks at a pod that has its node.
        if taint.effect == "PreferNoSchedule" || self.is_bound() && !is_execute {
            return true;
        }
        let by_default = match taint.key.strip_prefix("node.kubernetes.io/") {
            Some("not-ready" | "unreachable") => is_execute,
            Some("disk-pressure" | "memory-pressure" | "pid-pressure" | "unschedulable") => {
                self.is_daemon() && !is_execute
            }
            _ => false,
        };
        by_default
            || list(&self.spec()["tolerations"]).iter().any(|toleration| {
                let (effect, key) = (word(&toleration["effect"]), word(&toleration["key"]));
                (effect.is_empty() || effect == taint.effect)
                    && (key.is_empty() || key == taint.key)
                    && (toleration["operator"] == "Exists" || word(&toleration["value"]) == taint.value)
            })
    }

    fn namespace(&self) -> &'a str {
        word(&self.object["metadata"]["namespace"])
    }

    /// Whether required anti-affinity keeps it off a node that has the other one.
    fn is_against(&self, other: &Self) -> bool {
        list(&self.spec()["affinity"]["podAntiAffinity"][REQUIRED]).iter().any(|term| {
            let names = list(&term["namespaces"]);
            let own = names.is_empty() && term["namespaceSelector"].is_null();
            let in_namespace = names.iter().any(|name| name == other.namespace())
                || !term["namespaceSelector"].is_null()
                || own && self.namespace() == other.namespace();
            let labels = &other.template["metadata"]["labels"];
            let selector = &term["labelSelector"];
            let equal = selector["matchLabels"].as_object();
            term["topologyKey"] == "kubernetes.io/hostname"
                && in_namespace
                && !selector.is_null()
                && equal.into_iter().flatten().all(|(key, value)| labels[key] == *value)
                && list(&selector["matchExpressions"])
                    .iter()
                    .all(|requirement| matches(requirement, labels[word(&requirement["key"])].as_str()))
        })
    }

    /// Port, protocol and text of the address of what the scheduler counts.
    fn host_ports(&self) -> Vec<(u64, &'a str, &'a str)> {
        let ports = list(&self.spec()["containers"]).iter().flat_map(|container| list(&container["ports"]));
        let ports =
            ports.map(|port| (port["hostPort"].as_u64().unwrap(), word(&port["protocol"]), word(&port["hostIP"])));
        ports.map(|(port, protocol, ip)| (port, protocol, if ip.is_empty() { "0.0.0.0" } else { ip })).collect()
    }

    /// What the pod claims: protocol, port, and those of four addresses that it covers: two of IPv4, two of IPv6.
    fn claims(&self) -> Vec<(String, u64, [bool; 4])> {
        let covers = |address: &str| match address {
            "" | "::" => [true; 4],
            "0.0.0.0" => [true, true, false, false],
            "10.0.0.1" | "::ffff:10.0.0.1" => [true, false, false, false],
            "::1" => [false, false, true, false],
            other => panic!("{other} is not generated"),
        };
        let declared = list(&self.spec()["containers"]).iter().flat_map(|container| list(&container["ports"]));
        let declared = declared.map(|port| {
            (word(&port["protocol"]).to_lowercase(), port["hostPort"].as_u64().unwrap(), covers(word(&port["hostIP"])))
        });
        let annotation = word(&self.template["metadata"]["annotations"]["port-enforcer.io/ports"]);
        let annotated = Some(annotation).filter(|text| !text.is_empty()).map(|text| {
            let (rest, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
            let (address, port) = rest.rsplit_once(':').unwrap_or(("", rest));
            (protocol.to_owned(), port.parse().unwrap(), covers(address))
        });
        declared.chain(annotated).collect()
    }

    fn share(&self) -> (&'a str, &'a str) {
        (self.namespace(), word(&self.template["metadata"]["annotations"]["port-enforcer.io/share"]))
    }
}

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";

fn bare_node(name: String) -> ModelNode {
    ModelNode { name, labels: BTreeMap::new(), taints: Vec::new() }
}

/// Whether a requirement accepts a value, or its absence.
fn matches(requirement: &Value, value: Option<&str>) -> bool {
    let values = list(&requirement["values"]);
    let is_listed = value.is_some_and(|value| values.iter().any(|listed| listed == value));
    let numbers = || Some((value?.parse::<i64>().ok()?, word(values.first()?).parse::<i64>().ok()?));
    match word(&requirement["operator"]) {
        "In" => is_listed,
        "NotIn" => !is_listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(value, bound)| value > bound),
        "Lt" => numbers().is_some_and(|(value, bound)| value < bound),
        other => panic!("{other} is not generated"),
    }
}

/// Whether the scheduler refuses to place the two on one node because of their ports.
pub(super) fn port_conflict(one: &ModelPod<'_>, other: &ModelPod<'_>) -> bool {
    one.host_ports().iter().any(|(port, protocol, ip)| {
        other.host_ports().iter().any(|(other_port, other_protocol, other_ip)| {
            (port, protocol) == (other_port, other_protocol)
                && (*ip == "0.0.0.0" || *other_ip == "0.0.0.0" || ip == other_ip)
        })
    })
}

/// Whether the two claim one address and port, and do not share it.
pub(super) fn claims_conflict(one: &ModelPod<'_>, other: &ModelPod<'_>) -> bool {
    let is_shared = !one.share().1.is_empty() && one.share() == other.share();
    let meet = |(protocol, port, addresses): &(String, u64, [bool; 4])| {
        other.claims().iter().any(|(other_protocol, other_port, other_addresses)| {
            (protocol, port) == (other_protocol, other_port)
                && addresses.iter().zip(other_addresses).any(|(one, other)| *one && *other)
        })
    };
    !is_shared && one.claims().iter().any(meet)
}

/// Whether the anti-affinity of either keeps them apart, whichever comes first. A pod with a node is not looked at.
pub(super) fn is_kept_apart(one: &ModelPod<'_>, other: &ModelPod<'_>) -> bool {
    (one.is_against(other) || other.is_against(one)) && !one.is_bound() && !other.is_bound()
}

/// Schedules pods of two objects one by one, in an order and on nodes that `seed` chooses among those that fit.
pub(super) fn schedule(
    [(one, of_one), (other, of_other)]: [(&ModelPod<'_>, u32); 2],
    nodes: &[ModelNode],
    mut seed: u64,
) -> Vec<Placed> {
    let mut random = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap() % below
    };
    let mut waiting: Vec<&ModelPod<'_>> = (0..of_one).map(|_| one).chain((0..of_other).map(|_| other)).collect();
    let mut on: Vec<Vec<&ModelPod<'_>>> = nodes.iter().map(|_| Vec::new()).collect();
    let mut placed = Vec::new();
    while !waiting.is_empty() {
        let pod = waiting.swap_remove(random(waiting.len()));
        let fits = |place: &usize| {
            pod.suits(&nodes[*place])
                && on[*place]
                    .iter()
                    .all(|there| !port_conflict(pod, there) && !pod.is_against(there) && !there.is_against(pod))
        };
        let fitting: Vec<usize> = (0..nodes.len()).filter(fits).collect();
        if fitting.is_empty() {
            placed.push(Placed::Pending);
        } else {
            on[fitting[random(fitting.len())]].push(pod);
            placed.push(Placed::OnNode);
        }
    }
    placed
}
