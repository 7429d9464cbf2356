//! Log lines and metrics about the kernel's list of reserved ports.

use std::sync::Arc;

use enforcer_core::reserved_ports::PortSet;
use tracing::{debug, info, warn};

use crate::{
    agent::reserved_ports_worker::{SHUTDOWN_TIMEOUT, Shutdown, SyncOutcome},
    host::reserved_ports_sysctl::Synced,
    metrics::Metrics,
};

/// Most characters of a list of ports in a line.
const MAX_LIST_LENGTH: usize = 100;

/// Reports outcomes of the worker, and none of them twice in a row.
pub(in crate::agent) struct ReservedPortsReporter {
    node: String,
    metrics: Arc<Metrics>,
    left_out: PortSet,
    error: Option<String>,
    unknown: Option<String>,
}

impl ReservedPortsReporter {
    /// Returns the reporter of the node with this name.
    pub(in crate::agent) fn new(node: String, metrics: Arc<Metrics>) -> Self {
        Self { node, metrics, left_out: PortSet::default(), error: None, unknown: None }
    }

    /// Reports an outcome.
    pub(in crate::agent) fn outcome(&mut self, SyncOutcome { given_back, result }: SyncOutcome) {
        let node = &self.node;
        let Synced { ours, added, removed, left_out, forgotten } = match result {
            Ok(synced) => synced,
            Err(error) => {
                let error = error.to_string();
                if self.error.as_ref() != Some(&error) {
                    warn!(
                        event = "reserved_ports_failed",
                        node, "cannot reserve the ports of all claims, so outgoing connections may take them: {error}"
                    );
                }
                self.error = Some(error);
                return;
            }
        };
        self.metrics.reserved(ours, left_out.len());
        if self.error.take().is_some() && !given_back {
            info!(event = "reserved_ports_recovered", node, "the list of reserved ports can be written again");
        }
        if added > 0 || removed > 0 {
            debug!(event = "ports_reserved", node, added, removed, ours, "{ours} ports are reserved");
        }
        if forgotten.is_some() && forgotten != self.unknown {
            let why = forgotten.as_deref().unwrap_or_default();
            warn!(
                event = "reserved_ports_unknown",
                node,
                "the ports that an earlier agent reserved are unknown and stay reserved until the node restarts: {why}"
            );
        }
        self.unknown = forgotten;
        if !left_out.is_empty() && left_out != self.left_out {
            let (count, ports) = (left_out.len(), shortened(&left_out));
            warn!(
                event = "ports_not_reserved",
                node,
                count,
                ports,
                "{count} ports of claims are not reserved, because half of the ephemeral ports already are and outgoing \
                 connections need the rest: {ports}"
            );
        }
        self.left_out = left_out;
    }

    /// Reports the end of the worker.
    pub(in crate::agent) fn shutdown(&mut self, Shutdown { outcomes, timed_out }: Shutdown) {
        for outcome in outcomes {
            self.outcome(outcome);
        }
        if timed_out {
            warn!(
                event = "reserved_ports_failed",
                "could not give back the reserved ports within {SHUTDOWN_TIMEOUT:?}; run `enforcer cleanup`"
            );
        }
    }
}

/// Returns the beginning of the list.
fn shortened(ports: &PortSet) -> String {
    match &ports.texts(MAX_LIST_LENGTH)[..] {
        [all] => all.clone(),
        [first, ..] => format!("{first} and more"),
        [] => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_list_is_shortened() {
        assert_eq!(shortened(&PortSet::parse("80,8000-9000").unwrap()), "80,8000-9000");
        let list = shortened(&(1..1000).step_by(2).collect());
        assert!(list.starts_with("1,3,5,") && list.ends_with(" and more") && list.len() < 120, "{list}");
    }
}
