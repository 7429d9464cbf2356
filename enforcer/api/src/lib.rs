//! Objects of the API group `port-enforcer.io`: their kinds, and the definitions that a cluster needs for them.
//!
//! The content of an object is a type of [`enforcer_core`], which knows nothing of a cluster's client. Here it becomes a
//! resource that [`kube`] can read and write, and a custom resource definition, which `deploy/` has as a file.

use std::collections::BTreeMap;

use enforcer_core::ledger::node_host_ports::NodeHostPortsStatus;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
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
    let mut definition = NodeHostPorts::crd();
    for version in &mut definition.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            // There is nothing to say in the spec.
            schema.required = None;
            remove_defaults(schema);
        }
    }
    definition
}

/// Removes the defaults that readers use: the API server would write them into objects.
fn remove_defaults(schema: &mut JSONSchemaProps) {
    schema.default = None;
    for property in schema.properties.iter_mut().flat_map(BTreeMap::values_mut) {
        remove_defaults(property);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        remove_defaults(items);
    }
}
