//! The connections: HTTP/1 on the unix socket.
//!
//! A connection carries one request and lives for [`LIFETIME`] at most, unless it watches. [`CONNECTIONS`] are open at
//! most; then those that wait in the socket's queue wait for one to end, and one that has said nothing for [`SILENCE`]
//! makes room.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Extension, Router,
    body::Body,
    extract::{Query, State},
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use serde::Deserialize;
use serde_json::json;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::sleep,
};
use tracing::{info, warn};

use super::{
    request::{ExplainRequest, Request},
    socket::{Socket, SocketError},
};
use enforcer_core::model::{port_spec::protocol_from_name, text::escape};

use crate::agent::http::answer;

/// Most connections at once.
const MAX_CONNECTIONS: usize = 32;
/// How long a connection that does not watch lives at most.
const LIFETIME: Duration = Duration::from_secs(10);
/// For how long a connection may say nothing while others wait.
const IDLE_TIMEOUT: Duration = Duration::from_millis(500);
/// How often it is looked for room while there is none.
const BUFFER_BYTES: Duration = Duration::from_millis(10);
/// How long until it is tried again to listen or to accept.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Serves in a task of its own, for as long as the runtime runs. Where the path can be had, it is when this returns;
/// where it cannot, that is told, and it is tried again.
pub(super) fn serve(path: PathBuf, requests: mpsc::Sender<Request>, file: Arc<Mutex<Option<Socket>>>) {
    let router = Router::new()
        .route("/status", get(status))
        .route("/explain", get(explain))
        .route("/watch", get(watch))
        .with_state(requests);
    let first = listen(&path, &file);
    tokio::spawn(async move {
        let listener = match first {
            Ok(listener) => listener,
            Err(error) => {
                log_failure(&path, &error);
                wait_for(&path, &file).await
            }
        };
        accept(&listener, &router).await;
    });
}

fn listen(path: &Path, file: &Mutex<Option<Socket>>) -> Result<UnixListener, SocketError> {
    let (listener, socket) = Socket::listen(path)?;
    *file.lock().unwrap_or_else(PoisonError::into_inner) = Some(socket);
    Ok(listener)
}

async fn wait_for(path: &Path, file: &Mutex<Option<Socket>>) -> UnixListener {
    loop {
        sleep(RETRY_DELAY).await;
        if let Ok(listener) = listen(path, file) {
            let path = path.display();
            info!(event = "admin_recovered", %path, "status, explain and watch are served on {path}");
            return listener;
        }
    }
}

fn log_failure(path: &Path, error: &SocketError) {
    let path = path.display();
    warn!(
        event = "admin_unavailable",
        %path,
        "status, explain and watch are not served, because {path} cannot be had: {error}; all else goes on, and it is \
         tried again every second: choose another path with --admin-socket, or none"
    );
}

struct Open {
    task: JoinHandle<()>,
    since: Instant,
    state: Arc<Connection>,
}

/// What a connection has come to.
#[derive(Default)]
struct Connection {
    asked: AtomicBool,
    watches: AtomicBool,
}

async fn accept(listener: &UnixListener, router: &Router) {
    let mut open: Vec<Open> = Vec::with_capacity(MAX_CONNECTIONS);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                evict_idle(&mut open).await;
                let state = Arc::<Connection>::default();
                let task = tokio::spawn(serve_connection(stream, router.clone(), Arc::clone(&state)));
                open.push(Open { task, since: Instant::now(), state });
            }
            Err(error) => {
                warn!(event = "accept_failed", %error, "a connection to the admin socket cannot be taken");
                sleep(RETRY_DELAY).await;
            }
        }
    }
}

async fn evict_idle(open: &mut Vec<Open>) {
    loop {
        open.retain(|connection| !connection.task.is_finished());
        if open.len() < MAX_CONNECTIONS {
            return;
        }
        let is_silent = |open: &Open| !open.state.asked.load(Ordering::Relaxed) && open.since.elapsed() >= IDLE_TIMEOUT;
        if let Some(place) = open.iter().position(is_silent) {
            open.remove(place).task.abort();
            return;
        }
        sleep(BUFFER_BYTES).await;
    }
}

async fn serve_connection(stream: UnixStream, router: Router, state: Arc<Connection>) {
    let end = {
        let state = Arc::clone(&state);
        async move {
            sleep(LIFETIME).await;
            if state.watches.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
        }
    };
    answer(stream, router.layer(Extension(state)), end).await;
}

type Requests = State<mpsc::Sender<Request>>;
type OfConnection = Extension<Arc<Connection>>;

/// Passes a request to the agent's loop and waits for what it says. The connection's lifetime bounds that.
async fn ask<T>(
    requests: &mpsc::Sender<Request>,
    request: impl FnOnce(oneshot::Sender<T>) -> Request,
) -> Result<T, Response> {
    let ends = || refusal(StatusCode::SERVICE_UNAVAILABLE, "the agent is about to end");
    let (reply, answer) = oneshot::channel();
    requests.send(request(reply)).await.map_err(|_| ends())?;
    answer.await.map_err(|_| ends())
}

fn refusal(status: StatusCode, message: &str) -> Response {
    (status, axum::Json(json!({ "message": message }))).into_response()
}

const JSON: [(header::HeaderName, &str); 1] = [(header::CONTENT_TYPE, "application/json")];

async fn status(State(requests): Requests, Extension(connection): OfConnection) -> Response {
    connection.asked.store(true, Ordering::Relaxed);
    match ask(&requests, Request::Status).await {
        Ok(status) => (JSON, status).into_response(),
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
    Extension(connection): OfConnection,
    Query(ExplainQuery { port, protocol, pod }): Query<ExplainQuery>,
) -> Response {
    connection.asked.store(true, Ordering::Relaxed);
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
        Some((pod, None)) => return bad(format!("'{}' is no pod; write NAMESPACE/NAME", escape(pod))),
    };
    match ask(&requests, |reply| Request::Explain(ExplainRequest { protocol: known, port, pod }, reply)).await {
        Ok(Ok(explanation)) => axum::Json(explanation).into_response(),
        Ok(Err(error)) => refusal(StatusCode::NOT_FOUND, &error.to_string()),
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
    Extension(connection): OfConnection,
    Query(WatchQuery { conflicts }): Query<WatchQuery>,
) -> Response {
    connection.asked.store(true, Ordering::Relaxed);
    match ask(&requests, |reply| Request::Watch { conflicts, reply }).await {
        Ok(Some(lines)) => {
            connection.watches.store(true, Ordering::Relaxed);
            ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
        }
        Ok(None) => refusal(StatusCode::SERVICE_UNAVAILABLE, "too many watch already; end one of them"),
        Err(refusal) => refusal,
    }
}
