//! The content of the node's ledger, compiled anew after changes, and not more often than it pays.

use std::{ops::RangeInclusive, path::Path, time::Duration};

use enforcer_core::{
    ledger::{
        content::{LedgerInputs, LedgerRoom, content, fit},
        node_host_ports::NodeHostPortsStatus,
    },
    model::now::Now,
};
use tokio::time::{Instant, sleep_until};

use crate::{
    agent::{
        reconciler::Reconciler,
        snapshot::{AgentInfo, node_snapshot},
    },
    host::reserved_ports_sysctl::{DEFAULT_FOLDER, PROC_SYS, ReservedPorts},
    k8s::LedgerQueue,
};

/// Shortest time between two compilations: changes come in bursts, and writes are rarer still.
const INTERVAL: Duration = Duration::from_secs(1);
/// Ratio of the time without a compilation to the time that one took.
const COOLDOWN_FACTOR: u32 = 50;

/// Compiler of the ledger's content.
pub(super) struct LedgerCompiler {
    /// `None` if no ledger is written.
    queue: Option<LedgerQueue>,
    changed: bool,
    not_before: Instant,
}

impl LedgerCompiler {
    /// Returns a compiler for this queue.
    pub(super) fn new(queue: Option<LedgerQueue>) -> Self {
        Self { queue, changed: true, not_before: Instant::now() }
    }

    /// Notes that the content may be another one now.
    pub(super) fn note_change(&mut self) {
        self.changed = true;
    }

    /// Waits until the content is to be compiled. Cancel safe.
    pub(super) async fn due(&self) {
        if self.queue.is_none() || !self.changed {
            std::future::pending::<()>().await;
        }
        sleep_until(self.not_before).await;
    }

    /// Compiles the content and passes it on. Before all pods are known there is none.
    pub(super) fn refresh(&mut self, info: &AgentInfo, reconciler: &Reconciler, now: Now) {
        let began = Instant::now();
        self.changed = false;
        if let Some(queue) = self.queue.as_ref().filter(|_| reconciler.is_synced()) {
            let mut content = node_content(info, reconciler, now);
            fit(&mut content, LedgerRoom::default());
            queue.set_content(content);
        }
        self.not_before = Instant::now() + INTERVAL.max(began.elapsed() * COOLDOWN_FACTOR);
    }
}

/// Returns the content of the node's ledger, without a bound on its rows.
pub(super) fn node_content(info: &AgentInfo, reconciler: &Reconciler, now: Now) -> NodeHostPortsStatus {
    let inputs = LedgerInputs {
        failing: Some(reconciler.failing_binds()),
        observed: Some(reconciler.observed_ports()),
        ephemeral: ephemeral_ports(),
        version: env!("CARGO_PKG_VERSION"),
    };
    content(&node_snapshot(info, reconciler, now), &inputs)
}

/// Returns the ephemeral ports of the node; `None` if they cannot be read, which the worker of reserved ports reports.
fn ephemeral_ports() -> Option<RangeInclusive<u16>> {
    ReservedPorts::new(Path::new(PROC_SYS), Path::new(DEFAULT_FOLDER)).ephemeral().ok()
}
