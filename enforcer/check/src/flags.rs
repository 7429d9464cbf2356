//! Values of flags: ports, and ranges of them.

use std::str::FromStr;

use enforcer_core::{
    model::{
        kubernetes_ports::kubernetes_ports,
        port_spec::{PortRange, PortSpec},
    },
    pods::annotation::{self, ItemProblem},
};

/// Item of a list that stands for the ports of the components of Kubernetes.
const KUBERNETES: &str = "kubernetes";
/// Word for no range.
const NONE: &str = "none";

/// Ports that the node itself has: a list as in an annotation, with the word `kubernetes` among its items or alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeReserved {
    /// The ports that are named.
    pub ports: Vec<PortSpec>,
    /// The ports of the components of Kubernetes are meant too.
    pub kubernetes: bool,
}

impl NodeReserved {
    /// Returns all ports, those of the components behind the others.
    #[must_use]
    pub fn all_ports(self) -> Vec<PortSpec> {
        let Self { mut ports, kubernetes } = self;
        ports.extend(kubernetes_ports().filter(|_| kubernetes));
        ports
    }
}

impl FromStr for NodeReserved {
    type Err = ItemProblem;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut reserved = Self::default();
        for (_, item) in annotation::items(text) {
            match item {
                Ok(spec) => reserved.ports.push(spec),
                Err(problem) if problem.item == KUBERNETES => reserved.kubernetes = true,
                Err(problem) => return Err(problem),
            }
        }
        Ok(reserved)
    }
}

/// A range of ports, `FIRST-LAST`; `none` is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaybeRange(pub Option<PortRange>);

impl FromStr for MaybeRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == NONE {
            return Ok(Self(None));
        }
        let range = text.parse::<PortRange>().map_err(|_| "write FIRST-LAST, as 30000-32767, or none")?;
        Ok(Self(Some(range)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubernetes_is_an_item_of_the_list() {
        for (text, ports, kubernetes) in [
            ("", 0, false),
            ("none", 0, false),
            ("kubernetes", 0, true),
            ("53/udp,kubernetes 9100", 2, true),
            ("22/tcp", 1, false),
        ] {
            let reserved: NodeReserved = text.parse().unwrap();
            assert_eq!((reserved.ports.len(), reserved.kubernetes), (ports, kubernetes), "{text}");
        }
        assert_eq!("kubernetes".parse::<NodeReserved>().unwrap().all_ports().len(), 15);
        assert_eq!("53/udp".parse::<NodeReserved>().unwrap().all_ports().len(), 1);
        for wrong in ["Kubernetes", "kubernetes/tcp", "none,22", "22/icmp"] {
            assert!(wrong.parse::<NodeReserved>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn ranges_are_read_and_refused() {
        assert_eq!("none".parse(), Ok(MaybeRange(None)));
        assert_eq!("30000-32767".parse(), Ok(MaybeRange(PortRange::new(30_000, 32_767).ok())));
        for wrong in ["", "x", "5-4", "0-3", "1-65536", "30000+2767", "None"] {
            assert!(wrong.parse::<MaybeRange>().is_err(), "{wrong}");
        }
    }
}
