//! The agent's only TCP service: `/livez` and `/readyz` for the kubelet, `/metrics` for Prometheus.
//!
//! It runs in the agent's own loop, so that `/livez` depends on it. On loopback every process of the node can reach it.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use tokio::net::TcpListener;
use tracing::{error, info};

use crate::{
    agent::{
        http_server::{self, Limits, WhenFull},
        readiness::Readiness,
    },
    metrics::{self, Metrics},
};

const LIMITS: Limits = Limits { lifetime: Duration::from_secs(5), when_full: WhenFull::EndOldest };

/// Serves in a task of its own, for as long as the runtime runs.
///
/// If another process has the address, that is logged, and the agent enforces and retries: a squatter on this port must
/// not keep it from that. The kubelet's probes fail meanwhile.
///
/// # Errors
///
/// If the address is unusable for another reason: the flag is wrong, and waiting would not help.
pub(super) async fn serve(address: SocketAddr, readiness: Readiness, metrics: Arc<Metrics>) -> io::Result<()> {
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => Some(listener),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            error!(
                event = "listen_unavailable",
                %address,
                "{address} is taken by another process, so health and metrics are not served; the agent enforces and \
                 retries every second: end that process (ss -ltnp names it), or choose another address with --listen, or \
                 none"
            );
            None
        }
        Err(error) => return Err(error),
    };
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(|State(readiness): State<Readiness>| async move { readiness.response() }))
        .with_state(readiness)
        .route("/metrics", get(|State(metrics): State<Arc<Metrics>>| async move { exposition(&metrics) }))
        .with_state(metrics);
    tokio::spawn(async move {
        let listener = if let Some(listener) = listener {
            listener
        } else {
            let listener = http_server::retry(|| TcpListener::bind(address)).await;
            info!(event = "listen_recovered", %address, "health and metrics are served on {address}");
            listener
        };
        http_server::serve(listener, router, LIMITS, "health or metrics").await;
    });
    Ok(())
}

fn exposition(metrics: &Metrics) -> Response {
    match metrics.exposition() {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(_) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "the counters cannot be read; the log says why\n").into_response()
        }
    }
}
