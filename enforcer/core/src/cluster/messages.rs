//! Sentences about users of ports and their conflicts.

use std::fmt;

use crate::{
    ledger::node_host_ports::{LedgerActor, LedgerConflict},
    model::actor::Actor,
};

/// Writes the user as every sentence names it.
impl fmt::Display for LedgerActor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(workload), Some(until)) = (&self.kept_for, &self.until) {
            return write!(f, "{workload} until {until} (handover grace)");
        }
        if let Some(unit) = &self.unit {
            return Actor::HostUnit(unit.clone()).fmt(f);
        }
        match (self.kind.as_str(), &self.namespace, &self.name, &self.uid) {
            ("service", Some(namespace), Some(name), _) => write!(f, "Service {namespace}/{name}"),
            (_, Some(namespace), Some(name), _) => write!(f, "{namespace}/{name}"),
            ("node", ..) => f.write_str("the node"),
            ("host", ..) => f.write_str("a host process"),
            ("unknownPod", _, _, Some(uid)) => write!(f, "an unknown pod (UID {uid})"),
            _ => f.write_str("a process in no known pod"),
        }
    }
}

/// Returns the sentence about a conflict, without its node.
pub(super) fn conflict(conflict: &LedgerConflict) -> String {
    let LedgerConflict { kind, ports, who, other, since } = conflict;
    match kind.as_str() {
        "claimLost" => format!("{who} claims {ports}, which is in force for {other}"),
        "shared" => format!("{who} and {other} share {ports}"),
        "notOwner" => format!("{who} holds {ports}, which {other} owns"),
        "shadowed" => format!("{who} uses {ports}, which is a NodePort of {other}: packets for it go to the Service"),
        "answeredByOther" => format!("{who} is Ready, but {other} answers {ports}"),
        "inUse" => {
            let since = since.as_ref().map(|since| format!(" since {since}")).unwrap_or_default();
            format!("{who} tries in vain{since} to bind {ports}, which {other} holds")
        }
        _ => format!("{who} and {other} both want {ports}"),
    }
}
