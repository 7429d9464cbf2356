//! Times of the last bytes of each watch, recorded as they leave the connection, before anything is decoded.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Instant, SystemTime},
};

use enforcer_core::model::namespace_label::NamespaceLabel;
use http_body_util::{BodyExt, combinators::MapFrame};
use hyper::{Request, Response, Uri, body::Frame};
use kube::client::Body;
use tower::{Layer, Service};

use super::resource::ApiResource;

/// A moment, on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct WatchActivity {
    /// Moment for durations.
    pub at: Instant,
    /// Time for people and metrics.
    pub wall: SystemTime,
}

/// Time of the last bytes from the API server, for each watched resource. A clone shares it.
///
/// As a layer of the client it records the heads of successful answers and every piece of their bodies: objects,
/// bookmarks, whatever a stream carries. The pieces are those that HTTP delivers, so bytes that wait in the socket
/// because the agent is busy have not arrived.
#[derive(Clone, Debug, Default)]
pub struct LastActivity(Arc<Mutex<BTreeMap<ApiResource, WatchActivity>>>);

impl LastActivity {
    /// Returns the time of the last bytes; `None` if none arrived.
    #[must_use]
    pub fn last(&self, resource: ApiResource) -> Option<WatchActivity> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&resource).copied()
    }

    /// Records that bytes arrived.
    pub(crate) fn record(&self, resource: ApiResource) {
        let arrival = WatchActivity { at: Instant::now(), wall: SystemTime::now() };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(resource, arrival);
    }
}

impl<S> Layer<S> for LastActivity {
    type Service = Recorded<S>;

    fn layer(&self, inner: S) -> Recorded<S> {
        Recorded { inner, activity: self.clone() }
    }
}

/// A client whose answers are recorded.
#[derive(Clone, Debug)]
pub struct Recorded<S> {
    inner: S,
    activity: LastActivity,
}

type Note<F> = Box<dyn FnMut(F) -> F + Send>;

impl<S, B> Service<Request<Body>> for Recorded<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    B: BodyExt + Send + 'static,
{
    type Response = Response<MapFrame<B, Note<Frame<B::Data>>>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let resource = watched(request.uri());
        let activity = self.activity.clone();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            let noted = resource.filter(|_| answer.status().is_success());
            if let Some(resource) = noted {
                activity.record(resource);
            }
            Ok(answer.map(|body| {
                let note: Note<_> = Box::new(move |frame| {
                    if let Some(resource) = noted {
                        activity.record(resource);
                    }
                    frame
                });
                body.map_frame(note)
            }))
        })
    }
}

/// Returns what a request lists or watches, if it is one of the agent's watches.
fn watched(uri: &Uri) -> Option<ApiResource> {
    let (before, plural) = uri.path().rsplit_once('/')?;
    match plural {
        _ if !before.ends_with("/api/v1") => None,
        "pods" => Some(ApiResource::Pods),
        // Watches of namespaces differ by the label that they select. A slash in it is encoded.
        "namespaces" if selects(uri, NamespaceLabel::MaxPorts) => Some(ApiResource::NamespaceLimits),
        "namespaces" => Some(ApiResource::Namespaces),
        "services" => Some(ApiResource::Services),
        _ => None,
    }
}

fn selects(uri: &Uri, label: NamespaceLabel) -> bool {
    uri.query().is_some_and(|query| query.contains(&label.key().replace('/', "%2F")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_is_known_by_its_address() {
        for (path, resource) in [
            ("/api/v1/pods", Some(ApiResource::Pods)),
            ("/api/v1/namespaces", Some(ApiResource::Namespaces)),
            ("/api/v1/namespaces?labelSelector=port-enforcer.io%2Fmode&watch=true", Some(ApiResource::Namespaces)),
            ("/api/v1/namespaces?&labelSelector=port-enforcer.io%2Fmax-ports", Some(ApiResource::NamespaceLimits)),
            ("/api/v1/services?fieldSelector=spec.type%21%3DClusterIP", Some(ApiResource::Services)),
            ("/k8s/clusters/c-1/api/v1/pods", Some(ApiResource::Pods)),
            ("/apis/events.k8s.io/v1/namespaces/pods/events", None),
            ("/api/v1/namespaces/pods", None),
            ("/apis/example.com/v1/pods", None),
            ("/", None),
        ] {
            assert_eq!(watched(&path.parse().expect("an address")), resource, "{path}");
        }
    }
}
