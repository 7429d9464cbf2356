//! The routes of the admin socket.

use std::{
    future::ready,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Extension, Router,
    body::Body,
    extract::{Query, State},
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::json;
use tokio::{
    net::UnixListener,
    sync::{mpsc, oneshot},
};
use tracing::{info, warn};

use super::{
    request::{ExplainRequest, Request},
    socket::{SocketError, SocketFile},
};
use enforcer_core::{
    model::{port_spec::protocol_from_name, text::escape},
    views::release::ReleaseAnswer,
};

use crate::agent::http_server::{self, Connection, Limits, WhenFull};

/// A connection that watches lives longer. Connections that wait do so in the socket's queue.
const LIMITS: Limits =
    Limits { lifetime: Duration::from_secs(10), when_full: WhenFull::Wait(Duration::from_millis(500)) };

/// Serves in a task of its own, for as long as the runtime runs. If the path is usable, it is when this returns; if not,
/// that is logged, and the task retries.
pub(super) fn serve(path: PathBuf, requests: mpsc::Sender<Request>, file: Arc<Mutex<Option<SocketFile>>>) {
    let router = Router::new()
        .route("/status", get(status))
        .route("/explain", get(explain))
        .route("/release", post(release))
        .route("/suggest", get(suggest))
        .route("/watch", get(watch))
        .with_state(requests);
    let first = listen(&path, &file);
    tokio::spawn(async move {
        let listener = match first {
            Ok(listener) => listener,
            Err(error) => {
                log_failure(&path, &error);
                let listener = http_server::retry(|| ready(listen(&path, &file))).await;
                let path = path.display();
                info!(event = "admin_recovered", %path, "status, explain and watch are served on {path}");
                listener
            }
        };
        http_server::serve(listener, router, LIMITS, "the admin socket").await;
    });
}

fn listen(path: &Path, file: &Mutex<Option<SocketFile>>) -> Result<UnixListener, SocketError> {
    let (listener, socket) = SocketFile::listen(path)?;
    *file.lock().unwrap_or_else(PoisonError::into_inner) = Some(socket);
    Ok(listener)
}

fn log_failure(path: &Path, error: &SocketError) {
    let path = path.display();
    warn!(
        event = "admin_unavailable",
        %path,
        "cannot serve status, explain and watch on {path}: {error}; the agent enforces and retries every second: choose \
         another path with --admin-socket, or none"
    );
}

type Requests = State<mpsc::Sender<Request>>;
type ConnectionState = Extension<Arc<Connection>>;

/// Passes a request to the agent's loop and waits for the answer. The connection's lifetime bounds that.
async fn ask<T>(
    requests: &mpsc::Sender<Request>,
    request: impl FnOnce(oneshot::Sender<T>) -> Request,
) -> Result<T, Response> {
    let ends = || refusal(StatusCode::SERVICE_UNAVAILABLE, "the agent is shutting down");
    let (reply, answer) = oneshot::channel();
    requests.send(request(reply)).await.map_err(|_| ends())?;
    answer.await.map_err(|_| ends())
}

fn refusal(status: StatusCode, message: &str) -> Response {
    (status, axum::Json(json!({ "message": message }))).into_response()
}

const JSON: [(header::HeaderName, &str); 1] = [(header::CONTENT_TYPE, "application/json")];

async fn status(State(requests): Requests, Extension(connection): ConnectionState) -> Response {
    connection.set_requested();
    match ask(&requests, Request::Status).await {
        Ok(status) => (JSON, status).into_response(),
        Err(refusal) => refusal,
    }
}

async fn suggest(State(requests): Requests, Extension(connection): ConnectionState) -> Response {
    connection.set_requested();
    match ask(&requests, Request::Suggest).await {
        Ok(suggestions) => (JSON, suggestions).into_response(),
        Err(refusal) => refusal,
    }
}

#[derive(Deserialize)]
struct ExplainQuery {
    port: u16,
    protocol: Option<String>,
    pod: Option<String>,
}

async fn explain(
    State(requests): Requests,
    Extension(connection): ConnectionState,
    Query(ExplainQuery { port, protocol, pod }): Query<ExplainQuery>,
) -> Response {
    connection.set_requested();
    let bad = |message: String| refusal(StatusCode::BAD_REQUEST, &message);
    if port == 0 {
        return bad("port 0 asks for any port and cannot be owned".to_owned());
    }
    let protocol = protocol.as_deref().unwrap_or("tcp");
    let Some(known) = protocol_from_name(protocol) else {
        return bad(format!("the protocol '{}' is unknown; write tcp, udp or sctp", escape(protocol)));
    };
    let pod = match pod.as_deref().map(|pod| (pod, pod.split_once('/'))) {
        None => None,
        Some((_, Some((namespace, name)))) => Some((namespace.to_owned(), name.to_owned())),
        Some((pod, None)) => return bad(format!("invalid pod '{}'; write NAMESPACE/NAME", escape(pod))),
    };
    match ask(&requests, |reply| Request::Explain(ExplainRequest { protocol: known, port, pod }, reply)).await {
        Ok(Ok(explanation)) => axum::Json(explanation).into_response(),
        Ok(Err(error)) => refusal(StatusCode::NOT_FOUND, &error.to_string()),
        Err(refusal) => refusal,
    }
}

#[derive(Deserialize)]
struct ReleaseQuery {
    port: u16,
    protocol: String,
}

async fn release(
    State(requests): Requests,
    Extension(connection): ConnectionState,
    Query(ReleaseQuery { port, protocol }): Query<ReleaseQuery>,
) -> Response {
    connection.set_requested();
    let Some(known) = protocol_from_name(&protocol) else {
        let message = format!("the protocol '{}' is unknown; write tcp, udp or sctp", escape(&protocol));
        return refusal(StatusCode::BAD_REQUEST, &message);
    };
    match ask(&requests, |reply| Request::Release { protocol: known, port, reply }).await {
        Ok(names) => axum::Json(ReleaseAnswer::of(known, port, &names)).into_response(),
        Err(refusal) => refusal,
    }
}

#[derive(Deserialize)]
struct WatchQuery {
    #[serde(default)]
    conflicts: bool,
}

async fn watch(
    State(requests): Requests,
    Extension(connection): ConnectionState,
    Query(WatchQuery { conflicts }): Query<WatchQuery>,
) -> Response {
    connection.set_requested();
    match ask(&requests, |reply| Request::Watch { conflicts, reply }).await {
        Ok(Some(lines)) => {
            connection.keep_open();
            ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
        }
        Ok(None) => refusal(StatusCode::SERVICE_UNAVAILABLE, "too many watchers; end one of them"),
        Err(refusal) => refusal,
    }
}
