//! Answer of `enforcer release`: the handover reservations of a port that ended.

use enforcer_ebpf::wire::Protocol;
use serde::{Deserialize, Serialize};

use crate::{
    model::name::Name,
    views::node_snapshot::{API_VERSION, port_name},
};

/// Reservations that ended, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseAnswer {
    /// Version of the API: [`API_VERSION`].
    pub api_version: String,
    /// Kind of the object: `Release`.
    pub kind: String,
    /// The port: `80/tcp`.
    pub port: String,
    /// Workloads for which it was kept, safe to show. Empty if it was kept for none.
    pub workloads: Vec<String>,
}

impl ReleaseAnswer {
    /// Returns the answer for these reservations.
    #[must_use]
    pub fn of(protocol: Protocol, port: u16, names: &[Name]) -> Self {
        Self {
            api_version: API_VERSION.to_owned(),
            kind: "Release".to_owned(),
            port: port_name(protocol, port),
            workloads: names.iter().map(Name::to_string).collect(),
        }
    }
}
