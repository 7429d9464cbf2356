//! A stand-in for the API server of a cluster, on the loopback: pods, namespaces, nodes, Services, Events and ledgers,
//! and everything that can go wrong with them.
//!
//! What it cannot do it refuses, as access control would: it takes and sends nothing that a real server would not. It
//! serves from a thread of its own, so that tests need no runtime; what waits blocks.

mod admin_requests;
mod admission;
mod cluster_objects;
mod custom_resource;
mod discovery;
mod event;
mod fault;
mod installed_objects;
mod list;
mod node_patch;
mod policy_report;
mod protobuf;
mod request_attributes;
mod resource;
mod selector;
mod serve;
mod shared;
mod status;
mod store;
mod strategic_merge;
mod structural_schema;
mod user;
mod watch;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use axum::{Router, serve::ListenerExt as _};
use k8s_openapi::{
    api::{
        core::v1::{Namespace, Pod},
        events::v1::Event,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::{net::TcpSocket, runtime, sync::oneshot};

use self::{
    cluster_objects::put_node_if_missing,
    fault::Active,
    resource::Resource,
    shared::{Happening, Shared},
    store::{Key, Store},
    user::User,
};

pub use self::{
    fault::{Fault, Interruption, Outage, Target},
    shared::Recorded,
};

/// Longest time of a wait.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Name of the server's thread, by which the time that it takes is found.
pub const THREAD: &str = "apiserver";

/// The server while it listens.
#[derive(Debug)]
struct Listening {
    thread: JoinHandle<()>,
    /// Dropped to stop.
    stop: oneshot::Sender<()>,
}

/// The server, and all that a test does with it. It stops when dropped.
#[derive(Debug)]
pub struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    listening: Option<Listening>,
    /// Bound and not listening while the server is stopped, so that nobody else gets the port.
    reserved: Option<TcpSocket>,
}

impl ApiServer {
    /// Starts a server on a free port, with the namespaces that every cluster has, the node `node-1`, and the
    /// `CustomResourceDefinition` of `deploy/base`.
    pub fn start() -> Self {
        let shared = Arc::new(Shared::new());
        let socket = reserve(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let address = socket.local_addr().expect("a bound socket has an address");
        let mut server = Self { shared, address, listening: None, reserved: Some(socket) };
        server.shared.update(|inner| {
            for name in ["default", "kube-node-lease", "kube-public", "kube-system"] {
                put_namespace_if_missing(&mut inner.store, name);
            }
            put_node_if_missing(&mut inner.store, "node-1");
        });
        server.start_again();
        server
    }

    /// Listens again where it listened before it was stopped; what it holds is as it was.
    pub fn start_again(&mut self) {
        let socket = self.reserved.take().expect("the server is stopped before it is started again");
        let shared = Arc::clone(&self.shared);
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = mpsc::channel();
        let serve = async move {
            let listener = socket.listen(1024).expect("listening on a port of our own");
            // Without it the kernel keeps small lines back.
            let listener = listener.tap_io(|stream| stream.set_nodelay(true).expect("TCP_NODELAY"));
            let app = Router::new().fallback(serve::handle).with_state(shared);
            ready.send(()).expect("the starter waits");
            tokio::select! {
                ended = axum::serve(listener, app).into_future() => panic!("the server ended: {ended:?}"),
                _ = stopped => {}
            }
        };
        let thread = thread::Builder::new().name(THREAD.to_owned()).spawn(move || {
            // When the runtime goes, every connection is closed, whatever it was doing.
            let runtime = runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime for the server").block_on(serve);
        });
        let thread = thread.expect("a thread for the server");
        is_ready.recv().expect("the server starts to listen");
        self.listening = Some(Listening { thread, stop });
    }

    /// Closes every connection, and refuses new ones until it is started again.
    pub fn stop(&mut self) {
        let Listening { thread, stop } = self.listening.take().expect("the server is started before it is stopped");
        drop(stop);
        thread.join().expect("the server's thread ends well");
        self.reserved = Some(reserve(self.address));
    }

    /// Writes a kubeconfig with a bearer token for this server into a folder.
    pub fn kubeconfig(&self, folder: &Path) -> PathBuf {
        self.kubeconfig_with(&User::Agent, &folder.join("kubeconfig"))
    }

    /// Writes another one, of an administrator: who may do over HTTP what tests do by calls.
    pub fn kubeconfig_of_admin(&self, folder: &Path) -> PathBuf {
        self.kubeconfig_with(&User::Admin, &folder.join("kubeconfig-of-admin"))
    }

    /// Writes a kubeconfig of the user `jane`, who may do what these pairs of a verb and a resource say, and nothing
    /// else. Earlier rules are forgotten.
    pub fn kubeconfig_of_reader(&self, folder: &Path, rules: &[(&str, &str)]) -> PathBuf {
        let rules = rules.iter().map(|(verb, resource)| ((*verb).to_owned(), (*resource).to_owned())).collect();
        self.shared.update(|inner| inner.reader_rules = rules);
        self.kubeconfig_with(&User::Reader, &folder.join("kubeconfig-of-reader"))
    }

    /// Writes a kubeconfig for clients that send no token without TLS, as kubectl and helm: of an administrator, behind a
    /// proxy, with this namespace.
    pub fn kubeconfig_of_proxy(&self, folder: &Path, namespace: &str) -> PathBuf {
        let path = folder.join("kubeconfig-of-proxy");
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": format!("http://{}{}", self.address, user::PROXY)}}],
            "users": [{"name": "user", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user", "namespace": namespace}}],
            "current-context": "test",
        });
        fs::write(&path, config.to_string()).expect("writing the kubeconfig");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("clients warn of others");
        path
    }

    fn kubeconfig_with(&self, user: &User, path: &Path) -> PathBuf {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "user", "user": {"token": user.token()}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user"}}],
            "current-context": "test",
        });
        fs::write(path, config.to_string()).expect("writing the kubeconfig");
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("the kubeconfig holds a secret");
        path.to_owned()
    }

    /// Creates or edits a pod, and gives it back as it is stored. Its namespace and its node are created if there are
    /// none. A pod with another uid takes the place of the one of its name, which is deleted first.
    pub fn put_pod(&self, pod: Pod) -> Pod {
        self.shared.update(|inner| {
            let ObjectMeta { name, namespace, uid, .. } = &pod.metadata;
            let (name, namespace) = (name.clone().unwrap_or_default(), namespace.clone().unwrap_or_default());
            put_namespace_if_missing(&mut inner.store, &namespace);
            if let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) {
                put_node_if_missing(&mut inner.store, node);
            }
            let key = Key::new(Resource::Pods, &namespace, &name);
            let mut before = inner.store.get(&key).cloned();
            if let (Some(uid), Some(old)) = (uid, &before)
                && old["metadata"]["uid"] != **uid
            {
                inner.store.remove(&key);
                before = None;
            }
            let pod = admission::admit_pod(pod, before.as_deref());
            let pod = pod.unwrap_or_else(|why| panic!("a real server refuses {namespace}/{name}: {why}"));
            decode(&inner.store.put(key, encode(&pod)))
        })
    }

    /// Deletes a pod, at once.
    pub fn delete_pod(&self, namespace: &str, name: &str) {
        self.delete(&Key::new(Resource::Pods, namespace, name));
    }

    /// Checks whether there is such a pod.
    pub fn has_pod(&self, namespace: &str, name: &str) -> bool {
        self.shared.lock().store.get(&Key::new(Resource::Pods, namespace, name)).is_some()
    }

    /// Asks a pod that runs to go, as a deletion with a grace period does: the object stays until the kubelet deletes it
    /// for good, and says by when it is to be gone.
    pub fn ask_to_go(&self, namespace: &str, name: &str, grace: Duration) -> Pod {
        self.shared.update(|inner| {
            let key = Key::new(Resource::Pods, namespace, name);
            assert!(inner.store.get(&key).is_some(), "who is asked to go is there: {key:?}");
            decode(&inner.store.ask_to_go(key, grace.as_secs()))
        })
    }

    /// Creates or edits a namespace.
    pub fn put_namespace(&self, namespace: Namespace) -> Namespace {
        self.shared.update(|inner| put_namespace(&mut inner.store, namespace))
    }

    /// Deletes a namespace, which must hold no pods, with its Services and Events.
    pub fn delete_namespace(&self, name: &str) {
        let inside = self.shared.lock().store.keys_in(name);
        for key in inside {
            assert!(key.resource != Resource::Pods, "a namespace is deleted after its pods: {key:?}");
            self.delete(&key);
        }
        self.delete(&Key::namespace(name));
    }

    /// Deletes an Event, as its time to live does.
    pub fn delete_event(&self, namespace: &str, name: &str) {
        self.delete(&Key::new(Resource::Events, namespace, name));
    }

    fn delete(&self, key: &Key) {
        assert!(self.shared.update(|inner| inner.store.remove(key)), "what is deleted is there: {key:?}");
    }

    /// Returns the Events that are kept, in the order of their creation.
    pub fn events(&self) -> Vec<Event> {
        let inner = self.shared.lock();
        let mut events: Vec<_> = inner.store.created(Resource::Events).collect();
        events.sort_unstable();
        events.into_iter().filter_map(|(_, key)| inner.store.get(key)).map(|event| decode(event)).collect()
    }

    /// Returns every request since the start, in the order of their arrival.
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.lock().requests.clone()
    }

    /// Counts the requests of a kind that arrived.
    pub fn count(&self, target: Target) -> usize {
        let inner = self.shared.lock();
        inner.requests.iter().filter(|request| target.matches(&request.verb, &request.resource)).count()
    }

    /// Returns the version of the whole: what a list would say now.
    pub fn revision(&self) -> u64 {
        self.shared.lock().store.revision()
    }

    /// Lets requests meet a fault, until what this gives back is dropped. Of several answers the oldest fault's is
    /// given; delays add up.
    pub fn fault(&self, target: Target, fault: Fault) -> Outage {
        let id = self.shared.update(|inner| {
            inner.last_id += 1;
            inner.faults.push(Active { id: inner.last_id, target, fault, hits: 0 });
            inner.last_id
        });
        Outage { id, shared: Arc::clone(&self.shared) }
    }

    /// Does something once to the watches that are open, and says how many there were.
    pub fn interrupt(&self, target: Target, interruption: Interruption) -> usize {
        self.shared.update(|inner| {
            let revision = inner.store.revision();
            let watches = inner.watches.values_mut();
            let met = watches.filter(|open| target.matches("watch", open.resource.plural()));
            met.map(|open| open.pending.push(Happening::Interruption(interruption, revision))).count()
        })
    }

    /// Counts the watches that are open.
    pub fn watches(&self, target: Target) -> usize {
        let inner = self.shared.lock();
        inner.watches.values().filter(|open| target.matches("watch", open.resource.plural())).count()
    }

    /// Forgets all changes: who asks for an older version than the present one is answered 410. Open watches go on.
    pub fn compact(&self) {
        self.shared.update(|inner| inner.store.compact());
    }

    /// Remembers only so many changes from now on.
    pub fn set_history(&self, changes: usize) {
        self.shared.update(|inner| inner.store.set_capacity(changes));
    }

    /// Sets whether watches may begin with a list, as on servers since 1.34; they may at the start.
    pub fn set_streaming_lists(&self, streaming_lists: bool) {
        self.shared.update(|inner| inner.streaming_lists = streaming_lists);
    }

    /// Sets whether a watch from too old a version is answered 200 and gets the 410 in its stream, as at the start, or
    /// is answered 410.
    pub fn set_gone_in_stream(&self, gone_in_stream: bool) {
        self.shared.update(|inner| inner.gone_in_stream = gone_in_stream);
    }

    /// Waits until there is something to be found, and panics if there is nothing in twenty seconds.
    pub fn wait<T>(&self, what: &str, probe: impl FnMut(&Self) -> Option<T>) -> T {
        self.wait_at_most(TIMEOUT, what, probe)
    }

    /// Waits for at most this time.
    pub fn wait_at_most<T>(&self, timeout: Duration, what: &str, mut probe: impl FnMut(&Self) -> Option<T>) -> T {
        let deadline = Instant::now() + timeout;
        loop {
            let seen = self.shared.updates();
            if let Some(found) = probe(self) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let changed = self.shared.wait_for_update(seen, left);
            assert!(changed, "waited {timeout:?} in vain for {what}; the last requests:\n{}", self.last_requests());
        }
    }

    /// Waits for an Event.
    pub fn wait_for_event(&self, what: &str, mut wanted: impl FnMut(&Event) -> bool) -> Event {
        self.wait(what, |server| server.events().into_iter().find(&mut wanted))
    }

    /// Waits until so many watches are open.
    pub fn wait_for_watches(&self, target: Target, count: usize) {
        self.wait(&format!("{count} watches: {target:?}"), |server| (server.watches(target) == count).then_some(()));
    }

    /// Waits until so many requests of a kind have come since the start.
    pub fn wait_for_requests(&self, target: Target, count: usize) {
        self.wait(&format!("{count} requests: {target:?}"), |server| (server.count(target) >= count).then_some(()));
    }

    fn last_requests(&self) -> String {
        let requests = self.requests();
        let last = requests.iter().skip(requests.len().saturating_sub(10)).map(|request| {
            let Recorded { verb, group, resource, namespace, name, query, status, .. } = request;
            format!("  {verb} {resource} ({group:?}) {namespace:?} {name:?} {query:?}: {status:?}\n")
        });
        last.collect()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if let Some(Listening { thread, stop }) = self.listening.take() {
            drop(stop);
            // A panic of the server's was printed when it happened.
            let _ = thread.join();
        }
    }
}

/// Binds a port without listening there.
fn reserve(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("SO_REUSEADDR");
    socket.bind(address).unwrap_or_else(|error| panic!("the server's port {address} cannot be bound: {error}"));
    socket
}

fn put_namespace(store: &mut Store, namespace: Namespace) -> Namespace {
    let namespace = admission::admit_namespace(namespace);
    let namespace = namespace.unwrap_or_else(|why| panic!("a real server refuses this namespace: {why}"));
    let name = namespace.metadata.name.clone().unwrap_or_default();
    decode(&store.put(Key::namespace(&name), encode(&namespace)))
}

fn put_namespace_if_missing(store: &mut Store, name: &str) {
    if store.get(&Key::namespace(name)).is_none() {
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        put_namespace(store, Namespace { metadata, ..Namespace::default() });
    }
}

fn encode(object: &impl Serialize) -> Value {
    serde_json::to_value(object).expect("objects are JSON")
}

fn decode<T: DeserializeOwned>(object: &Value) -> T {
    serde_json::from_value(object.clone()).expect("what is stored was encoded from its type")
}
