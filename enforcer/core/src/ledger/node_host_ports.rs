//! The status of a `NodeHostPorts`, the ledger of one node. Documented in docs/host-ports.md.
//!
//! With the feature `schema` the types have a JSON schema, from which the custom resource definition is generated. Lists
//! that may grow with later agents (kinds, sources) are plain text there, so that an older definition accepts them.

use serde::{Deserialize, Serialize};

/// Most rows of a ledger.
pub const MAX_ROWS: usize = 2_000;
/// Most conflicts of a ledger.
pub const MAX_CONFLICTS: usize = 200;
/// Most observed ports of a ledger.
pub const MAX_OBSERVED: usize = 500;
/// Largest content of a ledger as JSON, in bytes.
pub const MAX_BYTES: usize = 256 << 10;
/// Longest text of a ledger, in characters: the longest name of an object with its namespace and kind fits.
pub const MAX_TEXT: usize = 512;

/// What one node knows about its host ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct NodeHostPortsStatus {
    /// Mode of the node for pods whose namespace sets none.
    #[cfg_attr(feature = "schema", schemars(extend("enum" = ["audit", "enforce"])))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Policy for ports that nobody claims: adopt, allow or deny.
    #[cfg_attr(feature = "schema", schemars(length(max = 32)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undeclared: Option<String>,
    /// Version of the agent that wrote this.
    #[cfg_attr(feature = "schema", schemars(length(max = 64)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_version: Option<String>,
    /// Time of the last change. A node where nothing changes writes nothing.
    #[cfg_attr(feature = "schema", schemars(length(max = 64), extend("format" = "date-time")))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated: Option<String>,
    /// Counts of all claims and conflicts, and of rows; those of more than 8,000 rows are not all counted.
    #[serde(default)]
    pub counts: LedgerCounts,
    /// Ports that the kernel gives to outgoing connections and to binds of port 0, as FIRST-LAST.
    #[cfg_attr(feature = "schema", schemars(length(max = 16)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ephemeral_ports: Option<String>,
    /// Claims and bound sockets, by protocol and port.
    #[cfg_attr(feature = "schema", schemars(length(max = 2000)))]
    #[serde(default)]
    pub ports: Vec<LedgerRow>,
    /// Conflicts that exist.
    #[cfg_attr(feature = "schema", schemars(length(max = 200)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<LedgerConflict>,
    /// Count of rows and conflicts for which there was no room.
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 100_000_000)))]
    #[serde(default)]
    pub left_out: u32,
    /// Ports that pods bound since the agent watches, and that they do not declare, by workload.
    #[cfg_attr(feature = "schema", schemars(length(max = 500)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub observed: Vec<ObservedRow>,
    /// Count of observed ports for which there was no room, as far as they were counted.
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 100_000_000)))]
    #[serde(default, skip_serializing_if = "is_zero")]
    pub observed_left_out: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(count: &u32) -> bool {
    *count == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// Ports that the pods of one workload bound and do not declare.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ObservedRow {
    /// Namespace of the workload.
    #[cfg_attr(feature = "schema", schemars(length(max = 512)))]
    pub namespace: String,
    /// Kind and name of the object whose template makes the pods, as `DaemonSet node-exporter`; `Pod NAME` of a pod
    /// without a controller, and `StaticPod NAME`.
    #[cfg_attr(feature = "schema", schemars(length(max = 512)))]
    pub workload: String,
    /// Container that bound them; absent if its name is not known.
    #[cfg_attr(feature = "schema", schemars(length(max = 512)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Protocol.
    #[cfg_attr(feature = "schema", schemars(extend("enum" = ["tcp", "udp", "sctp"])))]
    pub protocol: String,
    /// Lowest port.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 65_535)))]
    pub first_port: u16,
    /// Highest port.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 65_535)))]
    pub last_port: u16,
    /// Address; absent for all addresses.
    #[cfg_attr(feature = "schema", schemars(length(max = 64)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Kind of the bind: named (by the process), outgoing (named, and connected from there) or chosen (by the kernel).
    #[cfg_attr(feature = "schema", schemars(length(max = 64)))]
    pub kind: String,
    /// Count of pods that bound them, 100 at most.
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 1_000_000)))]
    pub pods: u32,
    /// Count of pods of the workload that bound an undeclared port, 100 at most.
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 1_000_000)))]
    pub of_pods: u32,
    /// Time when the first of them was seen first.
    #[cfg_attr(feature = "schema", schemars(length(max = 64)))]
    pub since: String,
}

/// Counts of a ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct LedgerCounts {
    /// Count of ports that are claimed, one for each port and address; of Services only those that others claim or hold.
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 100_000_000)))]
    pub claims: u32,
    /// Count of rows with a bound socket.
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 100_000_000)))]
    pub held: u32,
    /// Count of rows of pods that bound a port and do not declare it.
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 100_000_000)))]
    pub undeclared: u32,
    /// Count of conflicts.
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 100_000_000)))]
    pub conflicts: u32,
}

/// Ports of one user: a claim, bound sockets, or both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct LedgerRow {
    /// Protocol.
    #[cfg_attr(feature = "schema", schemars(extend("enum" = ["tcp", "udp", "sctp"])))]
    pub protocol: String,
    /// Lowest port.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 65_535)))]
    pub first_port: u16,
    /// Highest port.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 65_535)))]
    pub last_port: u16,
    /// Address; absent for every address of both families.
    #[cfg_attr(feature = "schema", schemars(length(max = 64)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Owner of the claim or, without a claim, holder of the sockets.
    pub who: LedgerActor,
    /// Place where the claim is declared; absent without a claim.
    #[cfg_attr(feature = "schema", schemars(length(max = 64)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Standing of the claim: inForce or lost; absent without a claim.
    #[cfg_attr(feature = "schema", schemars(extend("enum" = ["inForce", "lost"])))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing: Option<String>,
    /// Owner of the claim to which this one lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<LedgerActor>,
    /// True if it has a socket bound there; of a claim on more than 64 ports, on one of them at least.
    #[serde(default)]
    pub held: bool,
    /// True if its manifest or the settings of the node name the port.
    #[serde(default)]
    pub declared: bool,
    /// True if it is a pod that declares the port and never bound it, since the agent watches.
    #[serde(default, skip_serializing_if = "is_false")]
    pub never_held: bool,
    /// Addresses through which it can be reached: loopback, address or all.
    #[cfg_attr(feature = "schema", schemars(extend("enum" = ["loopback", "address", "all"])))]
    pub reach: String,
    /// Time from which on it is there.
    #[cfg_attr(feature = "schema", schemars(length(max = 64)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}

/// User of a port. The words are those of `enforcer status -o json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct LedgerActor {
    /// Kind: pod, node, remnant (of a pod that is gone), unknownPod, host, unplaced or service.
    #[cfg_attr(feature = "schema", schemars(length(max = 64)))]
    pub kind: String,
    /// Namespace of a pod or a Service.
    #[cfg_attr(feature = "schema", schemars(length(max = 512)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    #[cfg_attr(feature = "schema", schemars(length(max = 512)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// UID of a pod.
    #[cfg_attr(feature = "schema", schemars(length(max = 512)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Kind and name of the pod's controller, as `DaemonSet node-exporter`.
    #[cfg_attr(feature = "schema", schemars(length(max = 512)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    /// Container that bound the port.
    #[cfg_attr(feature = "schema", schemars(length(max = 512)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Systemd unit of a host process or, without one, the path of its cgroup.
    #[cfg_attr(feature = "schema", schemars(length(max = 512)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Workload for which the ports of a pod that is gone are kept.
    #[cfg_attr(feature = "schema", schemars(length(max = 512)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_for: Option<String>,
    /// Time until which they are kept.
    #[cfg_attr(feature = "schema", schemars(length(max = 64)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// A conflict that exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct LedgerConflict {
    /// Kind: claimLost, shared, notOwner, inUse or answeredByOther.
    #[cfg_attr(feature = "schema", schemars(length(max = 64)))]
    pub kind: String,
    /// Ports in the grammar of the annotation, or an address with its port.
    #[cfg_attr(feature = "schema", schemars(length(max = 128)))]
    pub ports: String,
    /// The one that is in the way, has lost, tries in vain, or does not answer itself.
    pub who: LedgerActor,
    /// The other one.
    pub other: LedgerActor,
    /// Time of the first failed bind, of kind inUse; time from which on it holds, of kind answeredByOther.
    #[cfg_attr(feature = "schema", schemars(length(max = 64)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}
