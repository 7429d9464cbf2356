//! The agent's own pod, which can declare the ports of the node for the scheduler.
//!
//! The scheduler counts the `ports` of pods and knows nothing of `--node-reserved`. So the agent's own pod can declare
//! the same ports (the component `node-ports`). They are the node's all the same: its host processes bind them. Without
//! this the agent's pod would claim them too, and lose each to the node.

use crate::{
    index::Settings,
    pods::pod::{DeclaredPort, Pod},
};

/// Removes the declared ports that the node reserves from the agent's own pod.
///
/// The pod is known by the name that the agent has from its own settings, which no other pod can take while it is there.
/// Nothing that a pod says of itself makes it the agent's.
pub(super) fn leave_to_node(pod: &mut Pod, settings: &Settings) {
    let Settings { own_pod: Some((namespace, name)), node_reserved, .. } = settings else {
        return;
    };
    if (&pod.namespace, &pod.name) != (namespace, name) {
        return;
    }
    let is_reserved = |port: &DeclaredPort| {
        node_reserved.iter().any(|spec| {
            spec.protocol == port.protocol
                && spec.ports.first() <= port.host_port
                && port.host_port <= spec.ports.last()
                && spec.address.covers(port.host_ip)
        })
    };
    pod.ports.retain(|port| !is_reserved(port));
}
