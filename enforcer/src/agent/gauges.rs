//! Gauges of the metrics, and the time in which nothing is denied although the node is to enforce.

use std::{sync::Arc, time::Duration};

use enforcer_core::{
    model::{kernel_ids::BootNanos, now::Now},
    views::unenforced_time::{GapCause, gap_after, gap_before, should_enforce},
};

use crate::{
    agent::{readiness::Readiness, reconciler::Reconciler},
    metrics::Metrics,
};

/// Sets the gauges from the state of the reconciler.
pub(super) struct EnforcementGauges {
    metrics: Arc<Metrics>,
    readiness: Readiness,
    /// Start of the agent, as time since boot.
    started_at: Duration,
    attached: bool,
}

impl EnforcementGauges {
    /// Sets the gauges of a reconciler that is not attached yet, in an agent that started at `started_at` since boot.
    pub(super) fn new(
        reconciler: &Reconciler,
        started_at: Duration,
        readiness: Readiness,
        metrics: Arc<Metrics>,
        now: Now,
    ) -> Self {
        metrics.set_counters(reconciler.counter_map().into());
        if let Some(at) = reconciler.boot_restored_at().map(BootNanos::since_boot) {
            metrics.boot_restored(started_at.saturating_sub(at));
            if should_enforce(reconciler.policy().enforce, reconciler.node_mode()) {
                metrics.was_unenforced(GapCause::Boot, at);
            }
        }
        let gauges = Self { metrics, readiness, started_at, attached: false };
        gauges.refresh(reconciler, now);
        gauges
    }

    /// Sets the gauges of a reconciler that is attached from now on.
    pub(super) fn set_attached(&mut self, reconciler: &Reconciler, now: Now) {
        self.attached = true;
        self.readiness.set_attached();
        self.refresh(reconciler, now);
    }

    /// Returns whether the programs judge binds and all pods of the node are known.
    pub(super) fn is_ready(&self) -> bool {
        self.readiness.is_ready()
    }

    /// Sets the gauges and the readiness.
    pub(super) fn refresh(&self, reconciler: &Reconciler, now: Now) {
        let (predecessor, now) = (reconciler.predecessor(), now.boottime);
        let gap = if !should_enforce(reconciler.policy().enforce, reconciler.node_mode()) {
            None
        } else if self.attached {
            gap_after(predecessor, reconciler.is_synced(), now)
        } else {
            gap_before(predecessor, self.started_at, now)
        };
        self.metrics.unenforced(gap, now);
        if reconciler.is_synced() {
            self.readiness.set_synced();
        }
        self.metrics.ready(self.readiness.is_ready());
        self.metrics.set_failing_binds(reconciler.failing_binds().len());
        self.metrics.set_ports_answered_by_other(reconciler.answered_ports().len());
        self.metrics.set_gauges(reconciler.index(), reconciler.bound_sockets().len(), reconciler.policy());
    }
}
