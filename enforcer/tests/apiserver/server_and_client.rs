//! A server and a client of it.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::{TryStreamExt as _, stream::BoxStream};
use k8s_openapi::{
    api::core::v1::{Container, Namespace, Pod, PodSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Config, ResourceExt,
    config::{KubeConfigOptions, Kubeconfig},
    core::Status,
    runtime::watcher::{self, Event, watcher},
};
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use tokio::{runtime::Runtime, time};

use enforcer_testing::apiserver::ApiServer;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Cluster {
    pub(crate) server: ApiServer,
    pub(crate) client: Client,
    kubeconfig: Kubeconfig,
    runtime: Runtime,
    _folder: TempDir,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        let server = ApiServer::start();
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let kubeconfig = Kubeconfig::read_from(server.kubeconfig(folder.path())).unwrap();
        let client = runtime.block_on(client(kubeconfig.clone()));
        Self { server, client, kubeconfig, runtime, _folder: folder }
    }

    /// A client that has another token, or none.
    pub(crate) fn client_with(&self, token: Option<&str>) -> Client {
        let mut kubeconfig = self.kubeconfig.clone();
        let user = kubeconfig.auth_infos[0].auth_info.as_mut().unwrap();
        user.token = token.map(|token| token.to_owned().into());
        self.runtime.block_on(client(kubeconfig))
    }

    /// A client that a kubeconfig makes.
    pub(crate) fn client_of(&self, write: impl FnOnce(&ApiServer, &Path) -> PathBuf) -> Client {
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = Kubeconfig::read_from(write(&self.server, folder.path())).unwrap();
        self.runtime.block_on(client(kubeconfig))
    }

    pub(crate) fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(async { time::timeout(PATIENCE, future).await.expect("an end within the time") })
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::all(self.client.clone())
    }

    /// The refusal that a call ends with.
    pub(crate) fn refusal<T: Debug>(&self, call: impl Future<Output = kube::Result<T>>) -> Box<Status> {
        match self.run(call) {
            Err(kube::Error::Api(status)) => status,
            other => panic!("a refusal, not {other:?}"),
        }
    }

    /// The next things that a watcher tells, one line each; of an error its first words.
    pub(crate) fn next_event<K: ResourceExt>(&self, watcher: &mut Watcher<K>, count: usize) -> Vec<String> {
        (0..count).map(|_| self.run(watcher.next())).collect()
    }

    /// The same for all that is told in a time.
    pub(crate) fn next_event_within<K: ResourceExt>(&self, watcher: &mut Watcher<K>, within: Duration) -> Vec<String> {
        let mut told = Vec::new();
        let all = async {
            loop {
                told.push(watcher.next().await);
            }
        };
        let ended: Result<(), _> = self.runtime.block_on(async { time::timeout(within, all).await });
        ended.expect_err("a watcher never ends");
        told
    }
}

async fn client(kubeconfig: Kubeconfig) -> Client {
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    // A retry hides what the server answered.
    config.default_retry = false;
    Client::try_from(config).unwrap()
}

fn brief(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.code.to_string(),
        kube::Error::SerdeError(_) => "no JSON".to_owned(),
        _ => "connection".to_owned(),
    }
}

fn words<K: ResourceExt>(event: &Event<K>) -> String {
    let (what, object) = match event {
        Event::Init => return "init".to_owned(),
        Event::InitDone => return "done".to_owned(),
        Event::InitApply(object) => ("there", object),
        Event::Apply(object) => ("apply", object),
        Event::Delete(object) => ("delete", object),
    };
    let version = object.resource_version();
    assert!(version.is_some_and(|version| version.parse::<u64>().is_ok()), "every object has its version");
    format!("{what} {}", object.name_any())
}

/// A watcher of objects.
pub(crate) struct Watcher<K>(BoxStream<'static, watcher::Result<Event<K>>>);

impl<K: ResourceExt> Watcher<K> {
    async fn next(&mut self) -> String {
        match self.0.try_next().await {
            Ok(Some(event)) => words(&event),
            Ok(None) => "end".to_owned(),
            Err(watcher::Error::WatchError(status)) => format!("error {}", status.code),
            Err(watcher::Error::InitialListFailed(error)) => format!("no list: {}", brief(&error)),
            Err(watcher::Error::WatchStartFailed(error)) => format!("no watch: {}", brief(&error)),
            Err(watcher::Error::WatchFailed(error)) => format!("broken watch: {}", brief(&error)),
            Err(error) => error.to_string(),
        }
    }
}

impl<K> Watcher<K>
where
    K: kube::Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    pub(crate) fn new(api: Api<K>, config: watcher::Config) -> Self {
        Self(Box::pin(watcher(api, config)))
    }
}

/// A pod on a node.
pub(crate) fn pod(name: &str, node: &str) -> Pod {
    let container = Container { name: "main".to_owned(), ..Container::default() };
    let node_name = Some(node).filter(|node| !node.is_empty()).map(str::to_owned);
    Pod {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some("default".to_owned()),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec { containers: vec![container], node_name, ..PodSpec::default() }),
        ..Pod::default()
    }
}

/// The same pod with an annotation.
pub(crate) fn edited(mut pod: Pod, value: &str) -> Pod {
    pod.metadata.annotations = Some(BTreeMap::from([("port-enforcer.io/ports".to_owned(), value.to_owned())]));
    pod
}

/// A namespace with a mode, or without.
pub(crate) fn namespace(name: &str, mode: Option<&str>) -> Namespace {
    let labels = mode.map(|mode| BTreeMap::from([("port-enforcer.io/mode".to_owned(), mode.to_owned())]));
    let metadata = ObjectMeta { name: Some(name.to_owned()), labels, ..ObjectMeta::default() };
    Namespace { metadata, ..Namespace::default() }
}
