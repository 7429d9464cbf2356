//! What `/readyz` says.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::http::StatusCode;

/// How the agent is. Liveness never depends on the API server, and readiness, once reached, does not either: claims stay
/// enforced while it is away.
#[derive(Clone, Debug, Default)]
pub(super) struct Readiness(Arc<Conditions>);

#[derive(Debug, Default)]
struct Conditions {
    synced: AtomicBool,
    attached: AtomicBool,
}

impl Readiness {
    /// All pods of the node were seen once.
    pub(super) fn set_synced(&self) {
        self.0.synced.store(true, Ordering::Release);
    }

    /// Binds are judged.
    pub(super) fn set_attached(&self) {
        self.0.attached.store(true, Ordering::Release);
    }

    /// Whether [`Self::readiness`] is good.
    pub(super) fn is_ready(&self) -> bool {
        self.response().0 == StatusCode::OK
    }

    /// The answer to `/readyz`.
    pub(super) fn response(&self) -> (StatusCode, &'static str) {
        match (self.0.attached.load(Ordering::Acquire), self.0.synced.load(Ordering::Acquire)) {
            (true, true) => (StatusCode::OK, "ok\n"),
            (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "the kernel programs are not attached\n"),
            (true, false) => (StatusCode::SERVICE_UNAVAILABLE, "the pods of this node are not known yet\n"),
        }
    }
}
