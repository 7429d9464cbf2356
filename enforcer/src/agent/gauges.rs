//! Tells the metrics how things stand, and since when nothing is denied although the node is to deny.

use std::{sync::Arc, time::Duration};

use enforcer_core::views::enforcement_gap::{Cause, Found, gap_after, gap_before, is_wanted};

use crate::{
    agent::{readiness::Health, reconciler::Engine},
    host::clock::now,
    metrics::Metrics,
};

/// See the module's documentation.
pub(super) struct Standing {
    metrics: Arc<Metrics>,
    health: Health,
    /// Since boot.
    started: Duration,
    found: Found,
    attached: bool,
}

impl Standing {
    /// Of an engine that does not judge yet, in an agent that started so long after boot.
    pub(super) fn new(engine: &Engine, started: Duration, health: Health, metrics: Arc<Metrics>) -> Self {
        metrics.set_counters(engine.counter_map().into());
        let standing = Self { metrics, health, started, found: engine.found(), attached: false };
        standing.look(engine, false);
        standing
    }

    /// From now on binds are judged.
    pub(super) fn attached(&mut self, engine: &Engine, synced: bool) {
        self.attached = true;
        self.health.set_attached();
        self.look(engine, synced);
    }

    /// How it is now.
    pub(super) fn look(&self, engine: &Engine, synced: bool) {
        let now = now().monotonic;
        let open = if !is_wanted(engine.policy().enforce, engine.local_mode()) {
            None
        } else if self.attached {
            gap_after(self.found, synced, now)
        } else {
            gap_before(self.found, self.started, now)
        };
        self.metrics.unenforced(open, now);
        self.metrics.ready(self.health.is_ready());
        self.metrics.stand(engine.index(), engine.holders().len(), engine.policy());
    }

    /// Puts the end of the lease off. If it was over, that was a gap.
    pub(super) fn renew(&self, engine: &Engine) {
        let lapsed = engine.renew();
        if is_wanted(engine.policy().enforce, engine.local_mode()) {
            self.metrics.was_unenforced(Cause::Stale, lapsed);
        }
        self.metrics.lease_ends(engine.lease_deadline());
    }
}
