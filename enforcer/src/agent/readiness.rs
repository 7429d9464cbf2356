//! Readiness of the agent, for `/readyz` and the metrics.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::http::StatusCode;

/// Conditions of readiness. A clone shares them.
///
/// Liveness never depends on the API server. Readiness, once reached, does not either: claims stay enforced while it is
/// away.
#[derive(Clone, Debug, Default)]
pub(super) struct Readiness(Arc<Conditions>);

#[derive(Debug, Default)]
struct Conditions {
    synced: AtomicBool,
    attached: AtomicBool,
}

impl Readiness {
    /// Records that a complete list of the node's pods was applied.
    pub(super) fn set_synced(&self) {
        self.0.synced.store(true, Ordering::Release);
    }

    /// Records that the programs judge binds.
    pub(super) fn set_attached(&self) {
        self.0.attached.store(true, Ordering::Release);
    }

    /// Checks whether all conditions are met.
    pub(super) fn is_ready(&self) -> bool {
        self.response().0 == StatusCode::OK
    }

    /// Returns the answer to `/readyz`.
    pub(super) fn response(&self) -> (StatusCode, &'static str) {
        match (self.0.attached.load(Ordering::Acquire), self.0.synced.load(Ordering::Acquire)) {
            (true, true) => (StatusCode::OK, "ok\n"),
            (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "the kernel programs are not attached\n"),
            (true, false) => (StatusCode::SERVICE_UNAVAILABLE, "the pods of this node are not known yet\n"),
        }
    }
}
