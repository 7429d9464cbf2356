//! The agent's only TCP service: `/livez` and `/readyz` for the kubelet, `/metrics` for Prometheus.
//!
//! It runs in the agent's own loop, so that `/livez` depends on it. On loopback every process of the node can reach it.

use std::{future::ready, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use tokio::net::{TcpListener, TcpSocket};
use tracing::{error, info};

use crate::{
    agent::{
        http_server::{self, Limits, WhenFull},
        own_sockets::OwnSockets,
        readiness::Readiness,
    },
    metrics::{self, Metrics},
};

const LIMITS: Limits = Limits { lifetime: Duration::from_secs(5), when_full: WhenFull::EndOldest };

/// Connections that wait to be accepted, as the standard library sets it.
const BACKLOG: u32 = 128;

/// Serves in a task of its own, for as long as the runtime runs.
///
/// If another process has the address, or the programs of an earlier agent deny it, that is logged, and the agent
/// enforces and retries: a squatter on this port must not keep it from that. The kubelet's probes fail meanwhile.
///
/// # Errors
///
/// If the address is unusable for another reason: the flag is wrong, and waiting would not help.
pub(super) fn serve(
    address: SocketAddr,
    readiness: Readiness,
    metrics: Arc<Metrics>,
    own: OwnSockets,
) -> io::Result<()> {
    let listener = match listen(address, &own) {
        Ok(listener) => Some(listener),
        // A denied bind has one of these error numbers too (`--deny-errno`).
        Err(error) if matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied) => {
            error!(
                event = "listen_unavailable",
                %address,
                "cannot listen on {address} ({error}), so health and metrics are not served; the agent enforces and \
                 retries every second: end the process that has it (ss -ltnp names it), or choose another address with \
                 --listen, or none"
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
            let listener = http_server::retry(|| ready(listen(address, &own))).await;
            info!(event = "listen_recovered", %address, "health and metrics are served on {address}");
            listener
        };
        http_server::serve(listener, router, LIMITS, "health or metrics").await;
    });
    Ok(())
}

/// Listens on an address, with a socket that is known to be the agent's own before anything sees its bind.
fn listen(address: SocketAddr, own: &OwnSockets) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    own.add(&socket)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn exposition(metrics: &Metrics) -> Response {
    match metrics.exposition() {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(_) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "the counters cannot be read; the log says why\n").into_response()
        }
    }
}
