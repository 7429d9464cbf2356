//! Answers to requests.

use std::{
    collections::VecDeque,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    body::{self, Body},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::BodyExt as _;
use k8s_openapi::apimachinery::pkg::version::Info;
use serde::Serialize;
use serde_json::Value;
use tokio::{task, time};

use super::{
    admin_requests, custom_resource, discovery, event,
    fault::Fault,
    installed_objects, list, node_patch, policy_report,
    request_attributes::{self, Asked, Options, Parameters},
    resource::Resource,
    shared::{Inner, Recorded, Shared},
    status::{self, Refusal},
    store::{Key, shown},
    user::{self, User},
    watch,
};

/// Number of bytes that the largest request may have.
const LIMIT: usize = 3 * 1024 * 1024;

/// What a server says of a path that nobody serves.
const NO_PAGE: &str = "404 page not found\n";

/// Answer to a list, a get or a write.
pub(super) struct Good {
    pub(super) code: StatusCode,
    pub(super) value: Value,
}

/// The faults that a request meets.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Met {
    answer: Option<Fault>,
    delay_answer: Duration,
    pub(super) delay_body: Duration,
    cut_list: bool,
    pub(super) cut_watch_after: Option<usize>,
}

impl Met {
    fn new(inner: &mut Inner, asked: &Asked, later_page: bool) -> Self {
        let mut met = Self::default();
        for active in &mut inner.faults {
            if !active.target.matches(&asked.verb, &asked.resource) || !active.fault.concerns(&asked.verb, later_page) {
                continue;
            }
            active.hits += 1;
            match active.fault {
                Fault::DelayAnswer(delay) => met.delay_answer += delay,
                Fault::DelayBody(delay) => met.delay_body += delay,
                Fault::CutList | Fault::CutLaterPage => met.cut_list = true,
                Fault::CutWatchAfter(events) => met.cut_watch_after = Some(events),
                answer => met.answer = met.answer.or(Some(answer)),
            }
        }
        met
    }
}

/// Answers every request: the paths are read as a real server reads them.
pub(super) async fn handle(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (mut head, body) = request.into_parts();
    user::pass_proxy(&mut head);
    // Read to its end, so that the client hears the answer.
    let body = body::to_bytes(body, usize::MAX).await.map_err(|error| status::bad_request(error.to_string()));
    let parameters = Parameters::of(&head.uri);
    let asked = Asked::new(&head.method, &head.uri, &parameters.clone().unwrap_or_default());
    let later_page = parameters.as_ref().is_ok_and(|parameters| !parameters.text("continue").is_empty());
    let (number, met) = shared.update(|inner| {
        let bytes = body.as_ref().map_or(0, Bytes::len);
        inner.requests.push(Recorded::new(&asked, &head.uri, bytes, user::impersonated(&head.headers)));
        (inner.requests.len() - 1, Met::new(inner, &asked, later_page))
    });
    delay(met.delay_answer).await;
    let response = match (body, parameters) {
        (Ok(body), Ok(parameters)) => answer(&shared, &head.headers, &body, &asked, &parameters, met),
        (Err(refusal), _) | (_, Err(refusal)) => Err(refusal),
    };
    let response = response.unwrap_or_else(|refusal| refused(&refusal));
    shared.update(|inner| inner.requests[number].status = Some(response.status().as_u16()));
    response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            let mut inner = shared.lock();
            let Recorded { sent, sent_at, .. } = &mut inner.requests[number];
            (*sent, *sent_at) = (*sent + bytes as u64, Some(Instant::now()));
            drop(inner);
            frame
        }))
    })
}

fn answer(
    shared: &Arc<Shared>,
    headers: &HeaderMap,
    body: &[u8],
    asked: &Asked,
    parameters: &Parameters,
    met: Met,
) -> Result<Response, Refusal> {
    let name = asked.name.as_deref().unwrap_or_default();
    let user = User::of(&shared.lock(), headers, asked)?;
    let why = asked.denial(user.name());
    if let Some(refusal) = met.answer.and_then(|fault| fault.refusal(&asked.group, &asked.resource, name, &why)) {
        return Err(refusal);
    }
    if asked.version.is_empty() {
        return Ok(path(&shared.lock(), asked));
    }
    if body.len() > LIMIT {
        return Err(status::too_large());
    }
    let served = asked.served();
    let served = served.or_else(|| asked.served_to_admin().filter(|_| user == User::Admin));
    if user == User::Admin && served.is_none() {
        let done = shared.update(|inner| admin_requests::answer(&mut inner.store, asked, media(headers), body));
        let good = done.unwrap_or_else(|| Err(user.denied(asked)))?;
        return Ok(whole(good.code, &good.value, met));
    }
    let resource = served.filter(|_| user.may(&shared.lock(), asked)).ok_or_else(|| user.denied(asked))?;
    let misplaced = asked.namespace.is_some() && !resource.is_namespaced();
    if resource.is_custom() && (misplaced || !shared.lock().serves(resource)) {
        return Ok(plain(StatusCode::NOT_FOUND, NO_PAGE));
    }
    if misplaced {
        return Err(status::no_such_resource());
    }
    let metadata_only = request_attributes::metadata_only(headers, asked.verb == "list")?;
    let namespace = asked.namespace.as_deref();
    if asked.verb == "watch" {
        let streaming_lists = shared.lock().streaming_lists;
        let options = Options::parse(asked, resource, parameters, streaming_lists)?;
        let body = watch::open(shared, resource, namespace, metadata_only, options, met)?;
        return Ok(respond(StatusCode::OK, body));
    }
    let good = match asked.verb.as_str() {
        "list" => list::list(&shared.lock(), resource, namespace, metadata_only, asked, parameters)?,
        "get" => {
            let key = Key::new(resource, namespace.unwrap_or_default(), name);
            let inner = shared.lock();
            let object = inner.store.get(&key).ok_or_else(|| status::not_found(resource.qualified(), name))?;
            Good { code: StatusCode::OK, value: shown(object, metadata_only).into_owned() }
        }
        verb => {
            let (namespace, media) = (namespace.unwrap_or_default(), media(headers));
            let good = shared.update(|inner| match (resource, verb) {
                (resource, _) if resource.is_installed() => {
                    installed_objects::write(&mut inner.store, resource, asked, parameters, media, body)
                }
                (Resource::NodeHostPorts, "create") => custom_resource::create(inner, media, body),
                (Resource::NodeHostPorts, _) => custom_resource::apply(inner, asked, parameters, media, body),
                (report, verb) if report.is_report() => {
                    policy_report::write(inner, report, verb, asked, parameters, media, body)
                }
                (Resource::Nodes, _) => node_patch::patch(&mut inner.store, name, media, body),
                (_, "create") => event::create(&mut inner.store, namespace, media, body),
                (_, _) => event::patch(&mut inner.store, namespace, name, media, body),
            })?;
            Good { value: shown(&good.value, metadata_only).into_owned(), ..good }
        }
    };
    Ok(whole(good.code, &good.value, met))
}

/// Returns the type of a request's body, without its parameters.
fn media(headers: &HeaderMap) -> &str {
    let text = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim()
}

/// Answers the paths that are no resources.
fn path(inner: &Inner, asked: &Asked) -> Response {
    if asked.verb == "get"
        && let Some(found) = discovery::answer(&asked.resource, |resource| inner.serves(resource))
    {
        return respond(StatusCode::OK, Body::from(line(&found)));
    }
    match (asked.verb.as_str(), asked.resource.as_str()) {
        ("get", "/livez" | "/readyz" | "/healthz") => plain(StatusCode::OK, "ok"),
        ("get", "/version") => {
            let [major, minor, version] = ["1", "34", "v1.34.0"].map(str::to_owned);
            let info = Info { major, minor, git_version: version, ..Info::default() };
            respond(StatusCode::OK, Body::from(line(&info)))
        }
        _ => plain(StatusCode::NOT_FOUND, NO_PAGE),
    }
}

fn plain(code: StatusCode, text: &'static str) -> Response {
    let mut response = respond(code, Body::from(text));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn respond(code: StatusCode, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// Returns a value as JSON on a line.
pub(super) fn line(value: &impl Serialize) -> Bytes {
    let mut text = serde_json::to_vec(value).expect("what is sent is JSON");
    text.push(b'\n');
    text.into()
}

fn refused(refusal: &Refusal) -> Response {
    let code = refusal.code.and_then(|code| u16::try_from(code).ok()).map(StatusCode::from_u16);
    let code = code.and_then(Result::ok).expect("every refusal has its code");
    let mut response = respond(code, Body::from(line(refusal)));
    if let Some(seconds) = refusal.details.as_ref().and_then(|details| details.retry_after_seconds) {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// Makes an answer in one piece, unless a fault wants it late or cut.
fn whole(code: StatusCode, value: &Value, met: Met) -> Response {
    let text = line(value);
    if met.delay_body.is_zero() && !met.cut_list {
        return respond(code, Body::from(text));
    }
    let half = if met.cut_list { text.slice(..text.len() / 2) } else { text };
    let mut pieces = VecDeque::from([Ok(half)]);
    if met.cut_list {
        pieces.push_back(Err(broken()));
    }
    let body = stream::unfold((met.delay_body, pieces), |(pause, mut pieces)| async move {
        delay(pause).await;
        let piece = pieces.pop_front()?;
        if piece.is_err() {
            // What was sent before goes out.
            task::yield_now().await;
        }
        Some((piece, (Duration::ZERO, pieces)))
    });
    respond(code, Body::from_stream(body))
}

/// Waits, if a fault asks for it: a timer that is due already would still wait for the next millisecond.
pub(super) async fn delay(duration: Duration) {
    if !duration.is_zero() {
        time::sleep(duration).await;
    }
}

/// Returns the error that makes the server drop the connection.
pub(super) fn broken() -> io::Error {
    io::Error::other("the connection is cut, as the test asked")
}
