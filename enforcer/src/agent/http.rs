//! The agent's only TCP service: `/livez` and `/readyz` for the kubelet, `/metrics` for Prometheus.
//!
//! It runs in the agent's own loop, so that `/livez` says something of it, and on loopback every process of the node can
//! reach it. So a connection carries one request and lives for [`LIFETIME`] at most, and only [`CONNECTIONS`] are open:
//! another one ends the oldest. However many clients say nothing, a probe that comes gets its answer.

use std::{collections::VecDeque, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::JoinHandle,
    time::sleep,
};
use tracing::{debug, error, info, warn};

use crate::{
    agent::readiness::Readiness,
    metrics::{self, Metrics},
};

/// Most connections at once.
const MAX_CONNECTIONS: usize = 32;
/// How long a connection lives at most.
const LIFETIME: Duration = Duration::from_secs(5);
/// Most bytes of a request's head: the least that hyper allows.
const HEAD_TIMEOUT: usize = 8192;
/// How long until it is tried again to listen or to accept.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Serves in a task of its own, for as long as the runtime runs.
///
/// An address that somebody else has is told and waited for: a squatter on this port must not keep the agent from
/// enforcing. Meanwhile the kubelet's probes fail, which is as it should be.
///
/// # Errors
///
/// If the address cannot be had for another reason: such a flag is wrong, and waiting would not make it right.
pub(super) async fn serve(address: SocketAddr, health: Readiness, metrics: Arc<Metrics>) -> io::Result<()> {
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => Some(listener),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            error!(
                event = "listen_unavailable",
                %address,
                "{address} is taken by another process, so health and metrics are not served; everything else goes on, \
                 and it is tried again every second: end that process (ss -ltnp names it), or choose another address \
                 with --listen, or none"
            );
            None
        }
        Err(error) => return Err(error),
    };
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(|State(health): State<Readiness>| async move { health.response() }))
        .with_state(health)
        .route("/metrics", get(|State(metrics): State<Arc<Metrics>>| async move { exposition(&metrics) }))
        .with_state(metrics);
    tokio::spawn(async move {
        let listener = match listener {
            Some(listener) => listener,
            None => wait_for(address).await,
        };
        accept(&listener, &router).await;
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

async fn wait_for(address: SocketAddr) -> TcpListener {
    loop {
        sleep(RETRY_DELAY).await;
        if let Ok(listener) = TcpListener::bind(address).await {
            info!(event = "listen_recovered", %address, "health and metrics are served on {address}");
            return listener;
        }
    }
}

async fn accept(listener: &TcpListener, router: &Router) {
    let mut open = VecDeque::with_capacity(MAX_CONNECTIONS);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                open.retain(|connection: &JoinHandle<()>| !connection.is_finished());
                if open.len() >= MAX_CONNECTIONS
                    && let Some(oldest) = open.pop_front()
                {
                    oldest.abort();
                }
                open.push_back(tokio::spawn(answer(stream, router.clone(), sleep(LIFETIME))));
            }
            // The client is gone already, or descriptors are short.
            Err(error) => {
                warn!(event = "accept_failed", %error, "a connection for health or metrics cannot be taken");
                sleep(RETRY_DELAY).await;
            }
        }
    }
}

/// Answers one request, and gives up at the end of `end`.
pub(super) async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin, router: Router, end: impl Future<Output = ()>) {
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(HEAD_TIMEOUT)
        // The end is of the whole.
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::select! {
        ended = connection => if let Err(error) = ended {
            debug!(event = "http", "a client did not get its answer: {error}");
        },
        () = end => debug!(event = "http", "a client was too slow"),
    }
}
