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
use hyper::{Request, StatusCode, body::Incoming, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{net::UnixStream, time::timeout};

use enforcer_core::model::text::escape;

use crate::cli::Failure;

/// Where agents answer unless somebody says otherwise.
pub(super) const ADMIN_SOCKET: &str = "/run/port-enforcer/admin.sock";

/// How long an answer is waited for.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// Where an agent answers; `None` is nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AdminSocket(pub(super) Option<PathBuf>);

impl FromStr for AdminSocket {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(if text == "none" { None } else { Some(text.into()) }))
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum AgentUnavailable {
    /// Nobody listens there.
    Nobody(String),
    /// Somebody does, and it did not work.
    Failed(Failure),
}

impl AgentUnavailable {
    /// Where an answer from elsewhere would be none.
    pub(super) fn failure(self) -> Failure {
        match self {
            Self::Nobody(why) => Failure::runtime(format!(
                "no agent answers: {why}; see whether the agent runs on this node (in a cluster: kubectl exec into its pod), \
                 or name its socket with --admin-socket"
            )),
            Self::Failed(failure) => failure,
        }
    }
}

/// An answer that is on its way.
pub(super) struct Answer {
    body: Incoming,
    // Moves the bytes, and ends with the answer.
    _connection: tokio::task::JoinHandle<()>,
}

impl Answer {
    /// The next bytes; `None` at the end.
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

/// Runs something that waits.
pub(super) fn wait<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::runtime(format!("cannot start: {error}")))?;
    runtime.block_on(future)
}

/// Asks the agent, and takes the beginning of its answer.
pub(super) async fn open(socket: &AdminSocket, path: &str) -> Result<Answer, AgentUnavailable> {
    let Some(file) = &socket.0 else {
        return Err(AgentUnavailable::Nobody("--admin-socket is none".to_owned()));
    };
    let stream = UnixStream::connect(file).await.map_err(|error| refused(file, &error))?;
    match timeout(REQUEST_TIMEOUT, converse(stream, path)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(failure)) => Err(AgentUnavailable::Failed(failure)),
        Err(_) => Err(AgentUnavailable::Failed(Failure::runtime(format!(
            "the agent at {} has not answered for {} seconds; see its log",
            file.display(),
            REQUEST_TIMEOUT.as_secs()
        )))),
    }
}

/// The whole of the answer.
pub(super) async fn get(socket: &AdminSocket, path: &str) -> Result<Vec<u8>, AgentUnavailable> {
    let mut answer = open(socket, path).await?;
    let whole = async {
        let mut whole = Vec::new();
        while let Some(bytes) = answer.next().await.map_err(|error| broken(&error))? {
            whole.extend_from_slice(&bytes);
        }
        Ok(whole)
    };
    let late = |_| Err(Failure::runtime("the agent did not come to the end of its answer; see its log"));
    timeout(REQUEST_TIMEOUT, whole).await.unwrap_or_else(late).map_err(AgentUnavailable::Failed)
}

async fn converse(stream: UnixStream, path: &str) -> Result<Answer, Failure> {
    let (mut sender, connection) =
        http1::handshake::<_, Body>(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    let connection = tokio::spawn(async {
        // Whatever ends it ends the answer too.
        let _ = connection.await;
    });
    let request = Request::get(path).header(header::HOST, "localhost").body(Body::empty());
    let request = request.map_err(|error| Failure::usage(format!("cannot ask for {}: {error}", escape(path))))?;
    let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
    let status = response.status();
    if status.is_success() {
        return Ok(Answer { body: response.into_body(), _connection: connection });
    }
    let body = response.into_body().collect().await.map_err(|error| broken(&error))?.to_bytes();
    let message = match serde_json::from_slice(&body) {
        Ok(Refusal { message }) => escape(&message),
        Err(_) => format!("the agent says {status}: {}", escape(String::from_utf8_lossy(&body).trim())),
    };
    Err(match status {
        StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => Failure::usage(message),
        _ => Failure::runtime(message),
    })
}

fn broken(error: &hyper::Error) -> Failure {
    Failure::runtime(format!("the agent broke its answer off ({error}); see its log"))
}

fn refused(file: &Path, error: &io::Error) -> AgentUnavailable {
    let path = file.display();
    match error.kind() {
        io::ErrorKind::PermissionDenied => AgentUnavailable::Failed(Failure::unsupported(format!(
            "cannot connect to {path}: {error}; the socket is root's alone: run this as root"
        ))),
        io::ErrorKind::NotFound => AgentUnavailable::Nobody(format!("{path} is not there")),
        _ => AgentUnavailable::Nobody(format!("cannot connect to {path}: {error}")),
    }
}
