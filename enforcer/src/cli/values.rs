//! Values of flags that several commands have.

use std::str::FromStr;

use enforcer_core::{model::port_spec::PortSpec, pods::annotation};

/// A list of ports, as in an annotation.
#[derive(Clone, Debug)]
pub(super) struct Ports(pub(super) Vec<PortSpec>);

impl FromStr for Ports {
    type Err = annotation::ItemProblem;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        annotation::parse_list(text).map(Self)
    }
}
