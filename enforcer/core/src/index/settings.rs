//! Settings of the index.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    arbitration::quota::Capacity,
    model::{mode::NamespaceMode, port_spec::PortSpec},
    pods::claims::ClaimLimits,
};

/// Settings of the index.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Limits for the claims of one pod.
    pub limits: ClaimLimits,
    /// Capacity of the node.
    pub capacity: Capacity,
    /// Namespaces whose pods are node software.
    pub system_namespaces: BTreeSet<String>,
    /// Time for which the ports of a deleted pod stay with its workload.
    pub handover_grace: Duration,
    /// The node's own claims.
    pub node_reserved: Vec<PortSpec>,
    /// Namespace and name of the agent's own pod; `None` where it runs in none. What this pod declares of
    /// [`Self::node_reserved`] is the node's.
    pub own_pod: Option<(String, String)>,
    /// Effect of a namespace's label on the mode.
    pub namespace_mode: NamespaceMode,
    /// Effect of the ports of Services.
    pub service_ports: ServicePortsMode,
}

/// Effect of the ports of Services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ServicePortsMode {
    /// None: no Service is known.
    #[default]
    Off,
    /// A pod that binds such a port is reported.
    Audit,
    /// A pod that binds such a port is denied where another pod's port would be.
    Enforce,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            limits: ClaimLimits::default(),
            capacity: Capacity::default(),
            system_namespaces: BTreeSet::from(["kube-system".to_owned()]),
            handover_grace: Duration::from_mins(1),
            node_reserved: Vec::new(),
            own_pod: None,
            namespace_mode: NamespaceMode::Any,
            service_ports: ServicePortsMode::Off,
        }
    }
}
