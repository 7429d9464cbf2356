//! Objects of the API group `port-enforcer.io`: their kinds, and the definitions that a cluster needs for them.
//!
//! The content of an object is a type of [`enforcer_core`], which knows nothing of a cluster's client. Here it becomes a
//! resource that [`kube`] can read and write, and a custom resource definition, which `deploy/` has as a file.

use enforcer_core::ledger::node_host_ports::NodeHostPortsStatus;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{CustomResource, CustomResourceExt as _};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of a ledger. There are none: the agent of the node writes its status alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, CustomResource, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "port-enforcer.io",
    version = "v1alpha1",
    kind = "NodeHostPorts",
    doc = "Host ports of one node: who claims and who holds them. The agent of the node writes it.",
    plural = "nodehostports",
    singular = "nodehostports",
    shortname = "nhp",
    status = "NodeHostPortsStatus",
    derive = "PartialEq",
    derive = "Default",
    printcolumn = r#"{"name":"Mode","type":"string","jsonPath":".status.mode","description":"Mode of the node"}"#,
    printcolumn = r#"{"name":"Claims","type":"integer","jsonPath":".status.counts.claims","description":"Ports that are claimed"}"#,
    printcolumn = r#"{"name":"Held","type":"integer","jsonPath":".status.counts.held","description":"Rows with a bound socket"}"#,
    printcolumn = r#"{"name":"Undeclared","type":"integer","jsonPath":".status.counts.undeclared","description":"Rows of pods that bound a port and do not declare it"}"#,
    printcolumn = r#"{"name":"Conflicts","type":"integer","jsonPath":".status.counts.conflicts","description":"Conflicts that exist"}"#,
    printcolumn = r#"{"name":"Updated","type":"date","jsonPath":".status.updated","description":"Time of the last change"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct NodeHostPortsSpec {}

/// Returns the definition of [`NodeHostPorts`].
#[must_use]
pub fn node_host_ports_definition() -> CustomResourceDefinition {
    NodeHostPorts::crd()
}
