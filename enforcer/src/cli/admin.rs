//! The client of the agent's admin socket.

use std::{
    convert::Infallible,
    io,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use axum::body::{Body, Bytes};
use http_body_util::BodyExt as _;
use hyper::{Method, Request, StatusCode, body::Incoming, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{net::UnixStream, time::timeout};

use enforcer_core::model::text::escape;

use crate::cli::Failure;

/// Default path of the admin socket.
pub(super) const ADMIN_SOCKET: &str = "/run/port-enforcer/admin.sock";

/// Longest wait for an answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// Path of the agent's admin socket; `None` is no agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AdminSocket(pub(super) Option<PathBuf>);

impl FromStr for AdminSocket {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(if text == "none" { None } else { Some(text.into()) }))
    }
}

/// Error of asking the agent.
#[derive(Debug)]
pub(super) enum AgentUnavailable {
    /// No process listens there.
    NotListening(String),
    /// A process listens, and the request failed.
    Failed(Failure),
}

impl AgentUnavailable {
    /// Maps the error to a failure, for commands that need an agent.
    pub(super) fn failure(self) -> Failure {
        match self {
            Self::NotListening(why) => Failure::runtime(format!(
                "no agent answers: {why}; see whether the agent runs on this node (in a cluster: kubectl exec into its pod), \
                 or name its socket with --admin-socket"
            )),
            Self::Failed(failure) => failure,
        }
    }
}

/// An answer whose body is still being received.
pub(super) struct AdminAnswer {
    body: Incoming,
    // Moves the bytes, and ends with the answer.
    _connection: tokio::task::JoinHandle<()>,
}

impl AdminAnswer {
    /// Receives the next bytes; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, hyper::Error> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(bytes) = frame?.into_data() {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }
}

#[derive(Deserialize)]
struct Refusal {
    message: String,
}

/// Runs a future to its end.
pub(super) fn wait<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::runtime(format!("cannot start: {error}")))?;
    runtime.block_on(future)
}

/// Sends a request and receives the head of the answer.
pub(super) async fn open(socket: &AdminSocket, method: Method, path: &str) -> Result<AdminAnswer, AgentUnavailable> {
    let Some(file) = &socket.0 else {
        return Err(AgentUnavailable::NotListening("--admin-socket is none".to_owned()));
    };
    let stream = UnixStream::connect(file).await.map_err(|error| refused(file, &error))?;
    match timeout(REQUEST_TIMEOUT, converse(stream, method, path)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(failure)) => Err(AgentUnavailable::Failed(failure)),
        Err(_) => Err(AgentUnavailable::Failed(Failure::runtime(format!(
            "the agent at {} has not answered for {} seconds; see its log",
            file.display(),
            REQUEST_TIMEOUT.as_secs()
        )))),
    }
}

/// Sends a request and receives the whole answer.
pub(super) async fn request(socket: &AdminSocket, method: Method, path: &str) -> Result<Vec<u8>, AgentUnavailable> {
    let mut answer = open(socket, method, path).await?;
    let whole = async {
        let mut whole = Vec::new();
        while let Some(bytes) = answer.next().await.map_err(|error| broken(&error))? {
            whole.extend_from_slice(&bytes);
        }
        Ok(whole)
    };
    let late = |_| Err(Failure::runtime("the agent did not finish its answer in time; see its log"));
    timeout(REQUEST_TIMEOUT, whole).await.unwrap_or_else(late).map_err(AgentUnavailable::Failed)
}

async fn converse(stream: UnixStream, method: Method, path: &str) -> Result<AdminAnswer, Failure> {
    let (mut sender, connection) =
        http1::handshake::<_, Body>(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    let connection = tokio::spawn(async {
        // Whatever ends it ends the answer too.
        let _ = connection.await;
    });
    let request = Request::builder().method(method).uri(path).header(header::HOST, "localhost").body(Body::empty());
    let request = request.map_err(|error| Failure::usage(format!("cannot ask for {}: {error}", escape(path))))?;
    let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
    let status = response.status();
    if status.is_success() {
        return Ok(AdminAnswer { body: response.into_body(), _connection: connection });
    }
    let body = response.into_body().collect().await.map_err(|error| broken(&error))?.to_bytes();
    let message = match serde_json::from_slice(&body) {
        Ok(Refusal { message }) => escape(&message),
        Err(_) => format!("the agent returned {status}: {}", escape(String::from_utf8_lossy(&body).trim())),
    };
    Err(match status {
        StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => Failure::usage(message),
        _ => Failure::runtime(message),
    })
}

fn broken(error: &hyper::Error) -> Failure {
    Failure::runtime(format!("the agent's answer ended early ({error}); see its log"))
}

fn refused(file: &Path, error: &io::Error) -> AgentUnavailable {
    let path = file.display();
    match error.kind() {
        io::ErrorKind::PermissionDenied => AgentUnavailable::Failed(Failure::unsupported(format!(
            "cannot connect to {path}: {error}; the socket is root's alone: run this as root"
        ))),
        io::ErrorKind::NotFound => AgentUnavailable::NotListening(format!("{path} is not there")),
        _ => AgentUnavailable::NotListening(format!("cannot connect to {path}: {error}")),
    }
}
