//! `/livez` and `/readyz`, for the kubelet's probes.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::{net::TcpListener, task::JoinHandle};

/// How the agent is. Liveness never depends on the API server, and readiness, once reached, does not either: claims stay
/// enforced while it is away.
#[derive(Clone, Debug, Default)]
pub(super) struct Health(Arc<Facts>);

#[derive(Debug, Default)]
struct Facts {
    synced: AtomicBool,
    attached: AtomicBool,
}

impl Health {
    /// All pods of the node were seen once.
    pub(super) fn set_synced(&self) {
        self.0.synced.store(true, Ordering::Release);
    }

    /// Binds are judged.
    pub(super) fn set_attached(&self) {
        self.0.attached.store(true, Ordering::Release);
    }

    fn readiness(&self) -> (StatusCode, &'static str) {
        match (self.0.attached.load(Ordering::Acquire), self.0.synced.load(Ordering::Acquire)) {
            (true, true) => (StatusCode::OK, "ok\n"),
            (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "the kernel programs are not attached\n"),
            (true, false) => (StatusCode::SERVICE_UNAVAILABLE, "the pods of this node are not known yet\n"),
        }
    }
}

/// Serves health in a task of its own, for as long as the runtime runs.
pub(super) async fn serve(address: SocketAddr, health: Health) -> io::Result<JoinHandle<()>> {
    let listener = TcpListener::bind(address).await?;
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(|State(health): State<Health>| async move { health.readiness() }))
        .with_state(health);
    Ok(tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(event = "health_failed", %error, "health is no longer served");
        }
    }))
}
