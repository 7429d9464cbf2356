//! The watches. Each is a task that lists, watches, and starts again after any error, with back-off and jitter.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher as _,
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use enforcer_core::{
    model::{namespace_label::NamespaceLabel, text::message_with_causes},
    pods::{
        pod::{Pod, from_api},
        service::NodePortService,
    },
};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{Namespace, Pod as PodObject, Service as ServiceObject};
use kube::{
    Api, Client, ResourceExt as _,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt as _,
        utils::Backoff as _,
        watcher::{self, DefaultBackoff, Event, watcher},
    },
};
use tokio::{sync::Notify, time::sleep};

use super::{
    error::{ApiError, ApiErrorKind, kind_of_error, kind_of_status},
    resource::ApiResource,
    update_queue::{Closed, Update, UpdateSender},
};

/// Most objects in one page of a list of Services or namespaces, where the server does not stream lists. A page is in memory as a whole, and an
/// object may have 1.5 MiB, the largest request that etcd takes: whoever makes pods must not make the agent too large.
const PAGE: u32 = 50;
/// Time before a list is read again because the place in the history was lost, or because the agent asks for it.
const RELIST: Duration = Duration::from_secs(1);

/// Duration of a watch, in seconds: the server ends it then, and it starts again where it was. The watches of all nodes
/// begin in the same moment when an API server restarts, and with one duration they would end and begin together for
/// ever. A connection that is dead is noticed 5 s after this time (`next_with_idle_timeout` in kube's watcher).
const DURATION: RangeInclusive<u32> = 270..=330;

/// Way to ask for a list of all objects.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lists {
    /// Beginning of the watch: no list in the server's memory.
    Streamed,
    /// Page by page, for servers that do not stream them.
    Paged,
}

impl Lists {
    fn config(self) -> watcher::Config {
        let config = watcher::Config::default().timeout(duration());
        match self {
            Self::Streamed => config.streaming_lists(),
            Self::Paged => config.page_size(PAGE),
        }
    }
}

/// Returns the duration of a watch.
fn duration() -> u32 {
    // Another number each time, as the map's hasher has it.
    let number = RandomState::new().hash_one(0) % u64::from(DURATION.end() - DURATION.start() + 1);
    DURATION.start() + u32::try_from(number).unwrap_or_default()
}

/// Watches the pods of a node until the agent ends. Lists them again when that is asked for.
pub(super) async fn watch_pods(client: Client, node: String, relist: Arc<Notify>, sender: UpdateSender) {
    let api: Api<PodObject> = Api::all(client);
    let mut lists = Lists::Streamed;
    let mut updates = Translation {
        resource: ApiResource::Pods,
        failing: false,
        reset: Update::PodsReset,
        applied: |pod: Pod| Update::PodApplied(Box::new(pod)),
        deleted: |pod: Pod| Update::PodDeleted { namespace: pod.namespace, name: pod.name },
    };
    loop {
        // A list of any version comes from the server's cache, which has an index by node; one of the newest version reads
        // the pods of the whole cluster from etcd, for each node. So the kubelet asks too. The cache makes no pages: all
        // pods of the node come at once, which are few.
        let any = watcher::Config { page_size: None, ..lists.config().any_semantic() };
        let config = any.fields(&format!("spec.nodeName={node}"));
        // Most of an object is not needed, and a list is large: each object is cut down as it arrives.
        let pods =
            watcher(api.clone(), config).default_backoff().map_ok(|event| map_event(event, |pod| from_api(&pod)));
        let ended = tokio::select! {
            ended = updates.run(pods, lists, &sender) => ended,
            // What happens again within the pause is answered by the same list.
            () = async { relist.notified().await; sleep(RELIST).await } => Ok(lists),
        };
        match ended {
            Ok(next) => lists = next,
            Err(Closed) => return,
        }
    }
}

/// Services that may have node ports. API servers select them by type since Kubernetes 1.23.
const NODE_PORT_SERVICES: &str = "spec.type!=ClusterIP,spec.type!=ExternalName";

/// Watches the Services of the cluster that may have node ports, until the agent ends.
pub(super) async fn watch_services(client: Client, sender: UpdateSender) {
    let api: Api<ServiceObject> = Api::all(client);
    let mut lists = Lists::Streamed;
    let mut updates = Translation {
        resource: ApiResource::Services,
        failing: false,
        reset: Update::ServicesReset,
        applied: |service: NodePortService| Update::ServiceApplied(Box::new(service)),
        // A Service that becomes a ClusterIP no longer matches and arrives as deleted.
        deleted: |service: NodePortService| Update::ServiceDeleted { namespace: service.namespace, name: service.name },
    };
    loop {
        let config = lists.config().fields(NODE_PORT_SERVICES);
        let services = watcher(api.clone(), config)
            .default_backoff()
            .map_ok(|event| map_event(event, |service| NodePortService::from_api(&service)));
        match updates.run(services, lists, &sender).await {
            Ok(next) => lists = next,
            Err(Closed) => return,
        }
    }
}

/// Watches the namespaces with a label until the agent ends.
pub(super) async fn watch_namespaces(client: Client, label: NamespaceLabel, sender: UpdateSender) {
    // Metadata only: nothing else of a namespace is needed.
    let api: Api<PartialObjectMeta<Namespace>> = Api::all(client);
    let mut lists = Lists::Streamed;
    let mut updates = Translation {
        resource: match label {
            NamespaceLabel::Mode => ApiResource::Namespaces,
            NamespaceLabel::MaxPorts => ApiResource::NamespaceLimits,
        },
        failing: false,
        reset: |values: Vec<(String, String)>| {
            let values = values.into_iter().collect::<HashMap<_, _>>();
            Update::NamespaceLabelsReset { label, values }
        },
        applied: |(namespace, value): (String, String)| Update::NamespaceLabelApplied { label, namespace, value },
        // A namespace that loses its label no longer matches and arrives as deleted.
        deleted: |(namespace, _): (String, String)| Update::NamespaceLabelDeleted { label, namespace },
    };
    loop {
        let config = lists.config().labels(label.key());
        let labels = watcher(api.clone(), config).default_backoff().map_ok(|event| {
            map_event(event, |object: PartialObjectMeta<Namespace>| {
                let value = object.labels().get(label.key()).cloned().unwrap_or_default();
                (object.name_any(), value)
            })
        });
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

/// Translation of a watch's events to updates.
struct Translation<Reset, Applied, Deleted> {
    resource: ApiResource,
    /// The last call failed, which was reported.
    failing: bool,
    reset: Reset,
    applied: Applied,
    deleted: Deleted,
}

impl<Reset, Applied, Deleted> Translation<Reset, Applied, Deleted> {
    /// Runs until the agent ends, or until the watch has to start again. Returns how to ask for lists then.
    async fn run<T>(
        &mut self,
        events: impl Stream<Item = Result<Event<T>, watcher::Error>>,
        lists: Lists,
        sender: &UpdateSender,
    ) -> Result<Lists, Closed>
    where
        Reset: Fn(Vec<T>) -> Update,
        Applied: Fn(T) -> Update,
        Deleted: Fn(T) -> Update,
    {
        let mut events = std::pin::pin!(events);
        let mut listed = Vec::new();
        // Whether a list has begun and has not ended, with or without an error.
        let mut begun = false;
        let mut backoff = DefaultBackoff::default();
        while let Some(event) = events.next().await {
            let arrived = sender.arrived(self.resource);
            let update = match event {
                Ok(Event::Init) => {
                    listed.clear();
                    if std::mem::replace(&mut begun, true) {
                        // The client's watcher does not report a streamed list that breaks off, and starts again at once.
                        self.failing = true;
                        let message = "the connection broke in the middle of the list";
                        let error = ApiError::new(self.resource, ApiErrorKind::Unreachable, message);
                        sender.send(arrived, Update::ApiError(error)).await?;
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
                    (self.reset)(std::mem::take(&mut listed))
                }
                Ok(Event::Apply(object)) => (self.applied)(object),
                Ok(Event::Delete(object)) => (self.deleted)(object),
                Err(error) if lists == Lists::Streamed && is_unsupported(&error) => return Ok(Lists::Paged),
                Err(error) => {
                    // The watcher itself backs off.
                    begun = false;
                    self.failing = true;
                    let kind = classify(&error);
                    let reported = ApiError::new(self.resource, kind, &message_with_causes(&error));
                    sender.send(arrived, Update::ApiError(reported)).await?;
                    if kind == ApiErrorKind::Gone && matches!(error, watcher::Error::WatchStartFailed(_)) {
                        // The client's watcher would ask for the same place in the history for ever.
                        sleep(RELIST).await;
                        return Ok(lists);
                    }
                    continue;
                }
            };
            if std::mem::take(&mut self.failing) {
                sender.send(arrived, Update::ApiRecovered(self.resource)).await?;
            }
            sender.send(arrived, update).await?;
        }
        Ok(lists)
    }
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

/// Checks whether the server refuses the parameter `sendInitialEvents`, as one without streaming lists does.
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
