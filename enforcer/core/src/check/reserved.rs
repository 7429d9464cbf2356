//! Claims on ports of the node itself: those that `--node-reserved` names, and those of the components of Kubernetes.

use super::{
    CheckResult, CheckSettings, exclude,
    finding::Severity,
    messages,
    object::ManifestObject,
    placement::{Misfit, NodeTraits, Taint},
};
use crate::model::{
    kubernetes_ports::{ComponentNodes, NODE_COMPONENTS, NodeComponent},
    owner::ClaimGroup,
    port_spec::PortSpec,
};

/// Labels that nodes of the control plane have, now and formerly; the taints that keep other pods off them have the same
/// keys.
const CONTROL_PLANE: [&str; 2] = ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];

/// Whether the components of Kubernetes have their ports on the nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KubernetesPorts {
    /// Nothing is known of them.
    #[default]
    Ignored,
    /// They most likely do.
    Assumed,
    /// They do: `--node-reserved kubernetes`.
    Reserved,
}

impl KubernetesPorts {
    /// Returns the severity of a claim on such a port; `None` if it is no finding.
    pub(super) const fn severity(self) -> Option<Severity> {
        match self {
            Self::Ignored => None,
            Self::Assumed => Some(Severity::Warning),
            Self::Reserved => Some(Severity::Error),
        }
    }
}

/// Checks whether an object claims ports of the node.
pub(super) fn check_reserved(
    object: &ManifestObject,
    group: ClaimGroup,
    settings: &CheckSettings,
    outcome: &mut CheckResult,
) {
    for claim in &object.claims {
        let taken = |spec: &PortSpec| exclude((ClaimGroup::Node, spec), (group, &claim.spec));
        if let Some(spec) = settings.node_reserved.iter().find(|spec| taken(spec)) {
            outcome.push(messages::reserved(object, claim, spec));
            continue;
        }
        for component in &NODE_COMPONENTS {
            if let Some(spec) = component.specs().find(taken)
                && let Some(severity) = severity(object, component, settings)
            {
                outcome.push(messages::component_port(object, claim, (component, &spec), severity));
            }
        }
    }
}

/// Returns the component with one of these ports, if the components have theirs.
pub(super) fn component_of(spec: &PortSpec, settings: &CheckSettings) -> Option<(&'static NodeComponent, Severity)> {
    let severity = settings.kubernetes_ports.severity()?;
    let component = NODE_COMPONENTS.iter().find(|component| component.specs().any(|port| port.overlaps(spec)))?;
    Some((component, severity))
}

/// Grades a claim on a port of a component; `None` if it is the component's own, or if its pods come to other nodes.
fn severity(object: &ManifestObject, component: &NodeComponent, settings: &CheckSettings) -> Option<Severity> {
    let severity = settings.kubernetes_ports.severity()?;
    if component.is_run_by(&object.namespace, &object.name) {
        return None;
    }
    match component.nodes {
        ComponentNodes::Every | ComponentNodes::Some => Some(severity),
        ComponentNodes::ControlPlane => match control_plane_misfit(object) {
            None => Some(severity),
            Some(Misfit::Labels) => None,
            // Some clusters let all pods onto these nodes, above all those of one node.
            Some(Misfit::Taint(_)) => Some(match severity {
                Severity::Error => Severity::Warning,
                Severity::Warning | Severity::Note => Severity::Note,
            }),
        },
    }
}

/// Returns the reason why the nodes of a control plane do not suit an object, as kubeadm makes them.
fn control_plane_misfit(object: &ManifestObject) -> Option<Misfit> {
    let roles = CONTROL_PLANE.map(|role| (role.to_owned(), String::new()));
    let system = ("kubernetes.io/os".to_owned(), "linux".to_owned());
    let misfits = CONTROL_PLANE.map(|key| {
        let taint = Taint { key: key.to_owned(), value: String::new(), effect: "NoSchedule".to_owned() };
        let labels = roles.iter().cloned().chain([system.clone()]).collect();
        object.placement.suits(&NodeTraits { name: String::new(), labels, taints: vec![taint] }).err()
    });
    // A pod that tolerates the former taint alone is meant for these nodes too.
    misfits.into_iter().min()?
}
