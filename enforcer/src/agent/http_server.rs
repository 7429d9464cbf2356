//! A small HTTP/1 server with bounds, for both listeners of the agent.
//!
//! It runs in the agent's own loop, and its clients are not trusted. A connection carries one request, whose head has
//! [`MAX_HEAD_BYTES`] at most, and lives for [`Limits::lifetime`] at most, unless a handler keeps it open. Only
//! [`MAX_CONNECTIONS`] are open: another one waits or ends an old one ([`WhenFull`]).

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    task::JoinHandle,
    time::sleep,
};
use tracing::{debug, warn};

/// Most connections at once.
const MAX_CONNECTIONS: usize = 32;
/// Most bytes of a request's head: the least that hyper allows.
const MAX_HEAD_BYTES: usize = 8192;
/// Time until the next attempt to listen or to accept.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// Time between two checks for a connection that ended, while all are open.
const FULL_POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Bounds of a server.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// Longest life of a connection.
    pub(super) lifetime: Duration,
    /// Treatment of one more connection.
    pub(super) when_full: WhenFull,
}

/// Treatment of a connection while [`MAX_CONNECTIONS`] are open.
#[derive(Clone, Copy)]
pub(super) enum WhenFull {
    /// It ends the oldest one: however many clients are silent, a probe gets its answer.
    EndOldest,
    /// It waits for one to end. One that sent no request for this long ends at once.
    Wait(Duration),
}

/// State of a connection, an extension of its requests.
#[derive(Default)]
pub(super) struct Connection {
    requested: AtomicBool,
    kept_open: AtomicBool,
}

impl Connection {
    /// Notes that a request arrived.
    pub(super) fn set_requested(&self) {
        self.requested.store(true, Ordering::Relaxed);
    }

    /// Lets the connection live for as long as its client wants.
    pub(super) fn keep_open(&self) {
        self.kept_open.store(true, Ordering::Relaxed);
    }
}

/// A socket that accepts connections.
pub(super) trait Listener {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Waits for the next connection.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        Self::accept(self).await.map(|(stream, _)| stream)
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        Self::accept(self).await.map(|(stream, _)| stream)
    }
}

/// Tries to listen until it succeeds.
pub(super) async fn retry<L, E, F: Future<Output = Result<L, E>>>(mut listen: impl FnMut() -> F) -> L {
    loop {
        sleep(RETRY_DELAY).await;
        if let Ok(listener) = listen().await {
            return listener;
        }
    }
}

struct OpenConnection {
    task: JoinHandle<()>,
    since: Instant,
    state: Arc<Connection>,
}

/// Serves the connections of a listener, for ever. `purpose` names them in the log.
pub(super) async fn serve(
    listener: impl Listener + Send + Sync,
    router: Router,
    limits: Limits,
    purpose: &'static str,
) {
    let mut open: Vec<OpenConnection> = Vec::with_capacity(MAX_CONNECTIONS);
    loop {
        match listener.accept().await {
            Ok(stream) => {
                make_room(&mut open, limits.when_full).await;
                let state = Arc::<Connection>::default();
                let task = tokio::spawn(serve_connection(stream, router.clone(), limits.lifetime, Arc::clone(&state)));
                open.push(OpenConnection { task, since: Instant::now(), state });
            }
            // The client is gone already, or descriptors are short.
            Err(error) => {
                warn!(event = "accept_failed", %error, "cannot accept a connection for {purpose}: {error}");
                sleep(RETRY_DELAY).await;
            }
        }
    }
}

async fn make_room(open: &mut Vec<OpenConnection>, when_full: WhenFull) {
    loop {
        open.retain(|connection| !connection.task.is_finished());
        if open.len() < MAX_CONNECTIONS {
            return;
        }
        let evicted = match when_full {
            WhenFull::EndOldest => Some(0),
            WhenFull::Wait(idle_timeout) => open.iter().position(|connection| {
                !connection.state.requested.load(Ordering::Relaxed) && connection.since.elapsed() >= idle_timeout
            }),
        };
        if let Some(place) = evicted {
            open.remove(place).task.abort();
            return;
        }
        sleep(FULL_POLL_INTERVAL).await;
    }
}

/// Answers one request, until the end of the connection's life.
async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    router: Router,
    lifetime: Duration,
    state: Arc<Connection>,
) {
    let end = async {
        sleep(lifetime).await;
        if state.kept_open.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    let router = router.layer(Extension(Arc::clone(&state)));
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(MAX_HEAD_BYTES)
        // The lifetime bounds the head too.
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::select! {
        ended = connection => if let Err(error) = ended {
            debug!(event = "http", "a client did not get its answer: {error}");
        },
        () = end => debug!(event = "http", "a client was too slow"),
    }
}
