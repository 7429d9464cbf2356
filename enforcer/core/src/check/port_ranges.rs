//! Claims inside of ranges of which somebody else gives ports away: the API server to Services, the kernel to outgoing
//! connections.

use std::collections::BTreeSet;

use super::{CheckResult, CheckSettings, finding::Finding, messages, object::ManifestObject};
use crate::{
    model::port_spec::{Address, PortRange},
    pods::claims::PodClaim,
};

/// Checks whether an address is reached from the node itself only.
pub(super) fn is_loopback(address: Address) -> bool {
    match address {
        Address::Any => false,
        Address::V4(address) => address.is_loopback(),
        Address::V6(address) => address.is_loopback(),
    }
}

/// Checks the claims of an object. `shadowed`: those that a Service has the port of, and of which that is reported.
pub(super) fn check_ranges(
    object: &ManifestObject,
    settings: &CheckSettings,
    shadowed: &BTreeSet<PodClaim>,
    outcome: &mut CheckResult,
) {
    let mut check = |range: Option<PortRange>,
                     is_left_out: &dyn Fn(&PodClaim) -> bool,
                     finding: &dyn Fn(&ManifestObject, &[PodClaim], PortRange) -> Finding| {
        let Some(range) = range else { return };
        let inside = object.claims.iter().filter(|claim| claim.spec.ports.overlaps(range) && !is_left_out(claim));
        let inside: Vec<PodClaim> = inside.copied().collect();
        if !inside.is_empty() {
            outcome.push(finding(object, &inside, range));
        }
    };
    // kube-proxy takes the loopback in iptables mode only; connections within the node have ephemeral ports there too.
    let is_no_matter = |claim: &PodClaim| is_loopback(claim.spec.address) || shadowed.contains(claim);
    check(settings.allocated.node_ports, &is_no_matter, &messages::node_port_range);
    check(settings.allocated.ephemeral, &|_| false, &messages::ephemeral);
}
