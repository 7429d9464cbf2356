//! Ports that nodes of Kubernetes use themselves, and the ranges that Services and outgoing connections get theirs from.

use super::port_spec::{Address, PortRange, PortSpec, Protocol};

/// Ports that an API server gives to Services unless its flag `--service-node-port-range` says otherwise.
pub const NODE_PORTS: PortRange = range(30_000, 32_767);
/// Ports that Linux gives to outgoing connections unless the node says otherwise (`net.ipv4.ip_local_port_range`).
pub const EPHEMERAL_PORTS: PortRange = range(32_768, 60_999);
/// The lowest port that any process may bind.
pub const FIRST_UNPRIVILEGED_PORT: u16 = 1_024;

/// Nodes on which a component runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComponentNodes {
    /// All of them.
    Every,
    /// Those of the control plane.
    ControlPlane,
    /// Those that run it: not all clusters do.
    Some,
}

/// A component of a node that listens on ports of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeComponent {
    /// Its name, as a message has it.
    pub name: &'static str,
    /// Beginnings and ends of the names of its pods in `kube-system`; none if it runs in no pod.
    pub pods: &'static [&'static str],
    /// Nodes that run it.
    pub nodes: ComponentNodes,
    /// TCP ports.
    pub ports: &'static [PortRange],
}

/// The components, with the ports that they have unless their flags say otherwise
/// (<https://kubernetes.io/docs/reference/networking/ports-and-protocols/>).
pub const NODE_COMPONENTS: [NodeComponent; 9] = [
    NodeComponent { name: "sshd", pods: &[], nodes: ComponentNodes::Every, ports: &[port(22)] },
    NodeComponent { name: "etcd", pods: &["etcd"], nodes: ComponentNodes::ControlPlane, ports: &[range(2_379, 2_381)] },
    NodeComponent {
        name: "kube-apiserver",
        pods: &["kube-apiserver"],
        nodes: ComponentNodes::ControlPlane,
        ports: &[port(6_443)],
    },
    NodeComponent {
        name: "kubelet",
        pods: &[],
        nodes: ComponentNodes::Every,
        ports: &[port(10_248), port(10_250), port(10_255)],
    },
    NodeComponent {
        name: "kube-proxy",
        pods: &["kube-proxy"],
        nodes: ComponentNodes::Every,
        ports: &[port(10_249), port(10_256)],
    },
    NodeComponent {
        name: "kube-controller-manager",
        pods: &["kube-controller-manager"],
        nodes: ComponentNodes::ControlPlane,
        ports: &[port(10_257)],
    },
    NodeComponent {
        name: "cloud-controller-manager",
        pods: &["cloud-controller-manager"],
        nodes: ComponentNodes::ControlPlane,
        ports: &[port(10_258), port(10_260), port(10_263)],
    },
    NodeComponent {
        name: "kube-scheduler",
        pods: &["kube-scheduler"],
        nodes: ComponentNodes::ControlPlane,
        ports: &[port(10_259)],
    },
    NodeComponent { name: "CRI-O", pods: &[], nodes: ComponentNodes::Some, ports: &[port(9_537), port(10_010)] },
];

impl NodeComponent {
    /// Returns its ports as claims on every address.
    pub fn specs(&self) -> impl Iterator<Item = PortSpec> + use<> {
        self.ports.iter().map(|ports| PortSpec { protocol: Protocol::Tcp, address: Address::Any, ports: *ports })
    }

    /// Checks whether an object of this namespace and name is the component itself: in `kube-system`, by its name, with
    /// something before or behind it at most, as `etcd-node-1` and `hcloud-cloud-controller-manager` have.
    #[must_use]
    pub fn is_run_by(&self, namespace: &str, name: &str) -> bool {
        let is_name = |pod: &&'static str| {
            let begins = name.strip_prefix(*pod).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
            begins || name.strip_suffix(*pod).is_some_and(|rest| rest.ends_with('-'))
        };
        namespace == "kube-system" && self.pods.iter().any(is_name)
    }
}

/// Returns the ports of all components, as the word `kubernetes` of `--node-reserved` means them.
pub fn kubernetes_ports() -> impl Iterator<Item = PortSpec> {
    NODE_COMPONENTS.iter().flat_map(NodeComponent::specs)
}

/// Checks whether a component uses a port.
#[must_use]
pub fn is_kubernetes_port(protocol: Protocol, port: u16) -> bool {
    kubernetes_ports().any(|spec| spec.protocol == protocol && spec.ports.contains(port))
}

const fn port(port: u16) -> PortRange {
    range(port, port)
}

const fn range(first: u16, last: u16) -> PortRange {
    match PortRange::new(first, last) {
        Ok(range) => range,
        Err(_) => panic!("these are ports"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_are_recognised_by_namespace_and_name() {
        for (namespace, name, component) in [
            ("kube-system", "kube-proxy", Some("kube-proxy")),
            ("kube-system", "kube-proxy-windows", Some("kube-proxy")),
            ("kube-system", "etcd-node-1", Some("etcd")),
            ("kube-system", "hcloud-cloud-controller-manager", Some("cloud-controller-manager")),
            ("kube-system", "kube-controller-manager", Some("kube-controller-manager")),
            ("kube-system", "etcdctl", None),
            ("kube-system", "metrics-server", None),
            ("kube-system", "kubelet", None),
            ("default", "kube-proxy", None),
        ] {
            let found = NODE_COMPONENTS.iter().find(|component| component.is_run_by(namespace, name));
            assert_eq!(found.map(|component| component.name), component, "{namespace}/{name}");
        }
    }

    #[test]
    fn preset_has_the_documented_ports() {
        let mut ports: Vec<u16> = kubernetes_ports().flat_map(|spec| spec.ports).collect();
        ports.sort_unstable();
        let expected = [
            22, 2379, 2380, 2381, 6443, 9537, 10_010, 10_248, 10_249, 10_250, 10_255, 10_256, 10_257, 10_258, 10_259,
            10_260, 10_263,
        ];
        assert_eq!(ports, expected);
        assert!(is_kubernetes_port(Protocol::Tcp, 2380) && !is_kubernetes_port(Protocol::Udp, 2380));
    }
}
