//! Free ports near one that is taken, for a remedy.

use super::{
    kubernetes_ports::{EPHEMERAL_PORTS, FIRST_UNPRIVILEGED_PORT, NODE_PORTS, is_kubernetes_port},
    port_spec::{PortRange, Protocol},
};

/// Most ports that are proposed.
pub const MAX_PROPOSED: usize = 2;

/// Ranges of ports that somebody else gives away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllocatedRanges {
    /// Ports for Services; `None` if there is no such range.
    pub node_ports: Option<PortRange>,
    /// Ports for outgoing connections; `None` if there is no such range, or if all that is claimed is reserved.
    pub ephemeral: Option<PortRange>,
}

impl Default for AllocatedRanges {
    fn default() -> Self {
        Self { node_ports: Some(NODE_PORTS), ephemeral: Some(EPHEMERAL_PORTS) }
    }
}

impl AllocatedRanges {
    /// Checks whether a port is in one of the ranges.
    #[must_use]
    pub fn contain(&self, port: u16) -> bool {
        [self.node_ports, self.ephemeral].into_iter().flatten().any(|range| range.contains(port))
    }
}

/// Returns the free ports that are nearest to one, two at most and the nearest first; of two at one distance the higher
/// one comes first. Free is what is not used, no component of Kubernetes has, and no range gives away. Near an
/// unprivileged port, no privileged one is proposed.
#[must_use]
pub fn free_ports_near(
    (protocol, port): (Protocol, u16),
    ranges: &AllocatedRanges,
    is_used: impl Fn(u16) -> bool,
) -> Vec<u16> {
    let lowest = if port < FIRST_UNPRIVILEGED_PORT { 1 } else { FIRST_UNPRIVILEGED_PORT };
    let is_free = |other: &u16| {
        *other >= lowest && !is_kubernetes_port(protocol, *other) && !ranges.contain(*other) && !is_used(*other)
    };
    let at = |distance: u16| [port.checked_add(distance), port.checked_sub(distance)].into_iter().flatten();
    (1..=u16::MAX).flat_map(at).filter(is_free).take(MAX_PROPOSED).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_free_ports_are_proposed() {
        for (port, used, expected) in [
            (9100, &[][..], &[9101, 9099][..]),
            (9100, &[9101, 9099, 9098], &[9102, 9103]),
            // Kubernetes has 10248 to 10250 and 10255 to 10260.
            (10_250, &[], &[10_251, 10_252]),
            (10_257, &[], &[10_254, 10_261]),
            // Neither the ports of Services nor ephemeral ones.
            (30_021, &[], &[29_999, 29_998]),
            (40_000, &[29_999], &[29_998, 29_997]),
            (60_999, &[], &[61_000, 61_001]),
            (65_535, &[], &[65_534, 65_533]),
            // Privileged ports near privileged ones only.
            (1024, &[], &[1025, 1026]),
            (1023, &[], &[1024, 1022]),
            (80, &[81], &[79, 82]),
            (1, &[], &[2, 3]),
        ] {
            let found =
                free_ports_near((Protocol::Tcp, port), &AllocatedRanges::default(), |port| used.contains(&port));
            assert_eq!(found, expected, "near {port}");
        }
    }

    #[test]
    fn nothing_is_proposed_where_nothing_is_free() {
        let near = |is_used: &dyn Fn(u16) -> bool| {
            free_ports_near((Protocol::Udp, 9100), &AllocatedRanges::default(), is_used)
        };
        assert_eq!(near(&|_| true), [0; 0]);
        assert_eq!(near(&|port| port != 65_535), [65_535]);
        assert_eq!(near(&|port| port > 1023), [0; 0], "privileged ports are left");
    }

    #[test]
    fn ranges_that_are_turned_off_are_free() {
        let none = AllocatedRanges { node_ports: None, ephemeral: None };
        assert_eq!(free_ports_near((Protocol::Tcp, 40_000), &none, |_| false), [40_001, 39_999]);
    }
}
