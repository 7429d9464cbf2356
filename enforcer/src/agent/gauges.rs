//! Tells the metrics how things stand, and since when nothing is denied although the node is to deny.

use std::{sync::Arc, time::Duration};

use enforcer_core::views::enforcement_gap::{GapCause, PredecessorState, gap_after, gap_before, should_enforce};

use crate::{
    agent::{readiness::Readiness, reconciler::Reconciler},
    host::clock::now,
    metrics::Metrics,
};

/// See the module's documentation.
pub(super) struct EnforcementGauges {
    metrics: Arc<Metrics>,
    health: Readiness,
    /// Since boot.
    started: Duration,
    found: PredecessorState,
    attached: bool,
}

impl EnforcementGauges {
    /// Of an engine that does not judge yet, in an agent that started so long after boot.
    pub(super) fn new(engine: &Reconciler, started: Duration, health: Readiness, metrics: Arc<Metrics>) -> Self {
        metrics.set_counters(engine.counter_map().into());
        let standing = Self { metrics, health, started, found: engine.predecessor(), attached: false };
        standing.refresh(engine, false);
        standing
    }

    /// From now on binds are judged.
    pub(super) fn attached(&mut self, engine: &Reconciler, synced: bool) {
        self.attached = true;
        self.health.set_attached();
        self.refresh(engine, synced);
    }

    /// How it is now.
    pub(super) fn refresh(&self, engine: &Reconciler, synced: bool) {
        let now = now().boottime;
        let open = if !should_enforce(engine.policy().enforce, engine.node_mode()) {
            None
        } else if self.attached {
            gap_after(self.found, synced, now)
        } else {
            gap_before(self.found, self.started, now)
        };
        self.metrics.unenforced(open, now);
        self.metrics.ready(self.health.is_ready());
        self.metrics.set_gauges(engine.index(), engine.holders().len(), engine.policy());
    }

    /// Puts the end of the lease off. If it was over, that was a gap.
    pub(super) fn renew(&self, engine: &Reconciler) {
        let lapsed = engine.renew();
        if should_enforce(engine.policy().enforce, engine.node_mode()) {
            self.metrics.was_unenforced(GapCause::Stale, lapsed);
        }
        self.metrics.lease_ends(engine.lease_deadline());
    }
}
