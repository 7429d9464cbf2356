//! The watches. Each is a task that lists, watches, and begins again after any trouble, with back-off and jitter.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{Namespace, Pod as PodObject};
use kube::{
    Api, Client, ResourceExt as _,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt as _,
        utils::Backoff as _,
        watcher::{self, DefaultBackoff, Event, watcher},
    },
};
use tokio::{
    sync::mpsc,
    task::{JoinHandle, spawn},
    time::sleep,
};

use enforcer_core::{
    model::mode::MODE_LABEL,
    pods::pod::{Pod, from_api},
};

use crate::k8s::{
    ApiError, ApiErrorKind, Cluster, LastActivity, QUEUE, Resource, Update, Updates,
    event_publisher::{EventQueue, publish},
};

/// Most objects in one page of a list, where the server does not stream lists. A page is in memory as a whole, and an
/// object may have 1.5 MiB, the largest request that etcd takes: whoever makes pods must not make the agent too large.
const PAGE: u32 = 50;
/// How long a list waits that is read anew because the place in history was lost.
const RELIST: Duration = Duration::from_secs(1);

/// Starts to watch the pods of a node, and namespaces with a mode label unless that is of no interest, and to publish
/// what comes into the outbox. `instance` is the name of the agent's own pod. The tasks end with the receiver.
#[must_use]
pub fn start(
    cluster: &Cluster,
    node: &str,
    namespaces: bool,
    instance: &str,
    outbox: EventQueue,
) -> (Updates, Vec<JoinHandle<()>>) {
    let (updates, received) = mpsc::channel(QUEUE);
    let Cluster { client, arrivals } = cluster;
    let sender = Sender { updates, arrivals: arrivals.clone() };
    let mut tasks = vec![
        spawn(watch_pods(client.clone(), node.to_owned(), sender.clone())),
        spawn(publish(client.clone(), instance.to_owned(), outbox, sender.clone())),
    ];
    if namespaces {
        tasks.push(spawn(watch_namespaces(client.clone(), sender)));
    }
    (received, tasks)
}

#[derive(Clone)]
pub(super) struct Sender {
    updates: mpsc::Sender<(Instant, Update)>,
    arrivals: LastActivity,
}

/// The agent is gone.
pub(super) struct Closed;

impl Sender {
    /// When the last bytes of what a watch just yielded came: it yields all that came before it asks for more.
    fn arrived(&self, resource: Resource) -> Instant {
        self.arrivals.last(resource).map_or_else(Instant::now, |arrival| arrival.at)
    }

    pub(super) async fn send(&self, arrived: Instant, update: Update) -> Result<(), Closed> {
        self.updates.send((arrived, update)).await.map_err(|_| Closed)
    }
}

/// How a list of everything is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lists {
    /// As the beginning of the watch: no list in the server's memory.
    Streamed,
    /// Page by page, for servers that do not stream them.
    Paged,
}

impl Lists {
    fn config(self) -> watcher::Config {
        match self {
            Self::Streamed => watcher::Config::default().streaming_lists(),
            Self::Paged => watcher::Config::default().page_size(PAGE),
        }
    }
}

async fn watch_pods(client: Client, node: String, sender: Sender) {
    let api: Api<PodObject> = Api::all(client);
    let mut lists = Lists::Streamed;
    loop {
        let config = lists.config().fields(&format!("spec.nodeName={node}"));
        // Most of an object is of no interest, and a list of them is large: each is cut down as it comes.
        let pods =
            watcher(api.clone(), config).default_backoff().map_ok(|event| map_event(event, |pod| from_api(&pod)));
        let updates = Translate {
            resource: Resource::Pods,
            all: Update::PodsReset,
            one: |pod: Pod| Update::Pod(Box::new(pod)),
            gone: |pod: Pod| Update::PodDeleted { namespace: pod.namespace, name: pod.name },
        };
        match updates.run(pods, lists, &sender).await {
            Ok(next) => lists = next,
            Err(Closed) => return,
        }
    }
}

async fn watch_namespaces(client: Client, sender: Sender) {
    // Metadata only: of a namespace nothing else is of interest.
    let api: Api<PartialObjectMeta<Namespace>> = Api::all(client);
    let mut lists = Lists::Streamed;
    loop {
        let config = lists.config().labels(MODE_LABEL);
        let labels = watcher(api.clone(), config).default_backoff().map_ok(|event| {
            map_event(event, |object: PartialObjectMeta<Namespace>| {
                let label = object.labels().get(MODE_LABEL).cloned().unwrap_or_default();
                (object.name_any(), label)
            })
        });
        let updates = Translate {
            resource: Resource::Namespaces,
            all: |labels: Vec<(String, String)>| {
                Update::NamespaceModesReset(labels.into_iter().collect::<HashMap<_, _>>())
            },
            one: |(namespace, label): (String, String)| Update::NamespaceMode { namespace, label: Some(label) },
            // A namespace that loses its label stops to match, and arrives as a deletion.
            gone: |(namespace, _): (String, String)| Update::NamespaceMode { namespace, label: None },
        };
        match updates.run(labels, lists, &sender).await {
            Ok(next) => lists = next,
            Err(Closed) => return,
        }
    }
}

fn map_event<A, B>(event: Event<A>, map: impl FnOnce(A) -> B) -> Event<B> {
    match event {
        Event::Apply(object) => Event::Apply(map(object)),
        Event::Delete(object) => Event::Delete(map(object)),
        Event::InitApply(object) => Event::InitApply(map(object)),
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
    }
}

/// From the events of a watch to updates.
struct Translate<All, One, Gone> {
    resource: Resource,
    all: All,
    one: One,
    gone: Gone,
}

impl<All, One, Gone> Translate<All, One, Gone> {
    /// Runs until the agent is gone, or until the watch has to begin anew, and then tells how lists are to be asked for.
    async fn run<T>(
        &self,
        events: impl Stream<Item = Result<Event<T>, watcher::Error>>,
        lists: Lists,
        sender: &Sender,
    ) -> Result<Lists, Closed>
    where
        All: Fn(Vec<T>) -> Update,
        One: Fn(T) -> Update,
        Gone: Fn(T) -> Update,
    {
        let mut events = std::pin::pin!(events);
        let mut listed = Vec::new();
        let mut troubled = false;
        // Whether a list has begun and not ended, neither well nor with an error.
        let mut begun = false;
        let mut backoff = DefaultBackoff::default();
        while let Some(event) = events.next().await {
            let arrived = sender.arrived(self.resource);
            let update = match event {
                Ok(Event::Init) => {
                    listed.clear();
                    if std::mem::replace(&mut begun, true) {
                        // The client's watcher says nothing of a streamed list that breaks off, and begins at once anew.
                        troubled = true;
                        let message = "the connection broke in the middle of the list";
                        let trouble = ApiError::new(self.resource, ApiErrorKind::Unreachable, message);
                        sender.send(arrived, Update::ApiError(trouble)).await?;
                        sleep(backoff.next().unwrap_or(RELIST)).await;
                    }
                    continue;
                }
                Ok(Event::InitApply(object)) => {
                    listed.push(object);
                    continue;
                }
                Ok(Event::InitDone) => {
                    begun = false;
                    backoff.reset();
                    (self.all)(std::mem::take(&mut listed))
                }
                Ok(Event::Apply(object)) => (self.one)(object),
                Ok(Event::Delete(object)) => (self.gone)(object),
                Err(error) if lists == Lists::Streamed && is_unsupported(&error) => return Ok(Lists::Paged),
                Err(error) => {
                    // The watcher's own back-off waits.
                    begun = false;
                    troubled = true;
                    let trouble = ApiError::new(self.resource, classify(&error), &chain(&error));
                    let lost = trouble.kind == ApiErrorKind::Gone;
                    sender.send(arrived, Update::ApiError(trouble)).await?;
                    if lost && matches!(error, watcher::Error::WatchStartFailed(_)) {
                        // The client's watcher would ask for the same place in history for ever.
                        sleep(RELIST).await;
                        return Ok(lists);
                    }
                    continue;
                }
            };
            if std::mem::take(&mut troubled) {
                sender.send(arrived, Update::ApiRecovered(self.resource)).await?;
            }
            sender.send(arrived, update).await?;
        }
        Ok(lists)
    }
}

/// An error with its causes, which the client's own words leave out.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

fn status(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status.code),
        _ => None,
    }
}

/// A server without streaming lists refuses the parameter `sendInitialEvents`.
fn is_unsupported(error: &watcher::Error) -> bool {
    matches!(status(error), Some(400 | 422))
}

fn classify(error: &watcher::Error) -> ApiErrorKind {
    match (status(error), error) {
        (Some(code), _) => kind_of_status(code),
        (
            None,
            watcher::Error::InitialListFailed(source)
            | watcher::Error::WatchStartFailed(source)
            | watcher::Error::WatchFailed(source),
        ) => kind_of_error(source),
        (None, _) => ApiErrorKind::Invalid,
    }
}

pub(super) fn kind_of_status(code: u16) -> ApiErrorKind {
    match code {
        401 => ApiErrorKind::Unauthorized,
        403 => ApiErrorKind::Forbidden,
        410 => ApiErrorKind::Gone,
        429 => ApiErrorKind::Throttled,
        500..=599 => ApiErrorKind::Server,
        _ => ApiErrorKind::Invalid,
    }
}

/// The kind of an error that is no status of the server's.
pub(super) fn kind_of_error(error: &kube::Error) -> ApiErrorKind {
    match error {
        kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => ApiErrorKind::Invalid,
        kube::Error::Auth(_) => ApiErrorKind::Unauthorized,
        _ => ApiErrorKind::Unreachable,
    }
}
