//! The API server behind a test, and how a test speaks to it.

mod control_plane;
mod real;
mod tests;

use std::{
    collections::BTreeSet,
    env,
    path::{Path, PathBuf},
    sync::Mutex,
    time::Duration,
};

use enforcer_core::model::namespace_label::NamespaceLabel;
use k8s_openapi::api::events::v1::Event;
use libtest_mimic::Trial;
use serde_json::json;
use tempfile::TempDir;

use self::{
    control_plane::{ASSETS, ControlPlane, Failure, Kubeconfigs},
    real::Real,
};
pub(crate) use self::{
    control_plane::{documents, tests::TESTS as CONTROL_PLANE_TESTS, tests::run_if_marked},
    tests::TESTS,
};
use enforcer_testing::{
    agent::{Agent, wait_until_within},
    agent_fixture::{AgentFixture, isolated_defaults},
    apiserver::ApiServer,
    pods::Pod,
};

/// How long an Event is waited for.
const TIMEOUT: Duration = Duration::from_secs(20);

/// How long `etcd` and `kube-apiserver` may take to start, each.
const START: Duration = Duration::from_mins(2);

/// A test that asks nothing of an API server but what every one can do: its name, what it needs, and what it does.
pub(crate) type BackendTest = (&'static str, Needs, fn(&dyn Backend));

/// Lists tests of every API server, each with what it needs: `name: Need`.
macro_rules! backend_tests {
    ($($name:ident: $needs:ident),+ $(,)?) => {
        &[$((stringify!($name), $crate::backend::Needs::$needs, $name)),+]
    };
}
pub(crate) use backend_tests;

/// What a test needs of the cluster behind the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Nothing.
    Nothing,
    /// That nobody tidies up: its pods have owners that do not exist.
    NoControllers,
}

/// What a test asks of an API server, whichever it is.
pub(crate) trait Backend {
    /// Writes a kubeconfig for the agent into a folder.
    fn kubeconfig(&self, folder: &Path) -> PathBuf;

    /// Creates or edits a pod of a node: the pod with the UID that the server keeps it under.
    fn put_on(&self, pod: &Pod, node: &str) -> Pod;

    /// Asks a pod to go within a time. Its object stays.
    fn ask_to_go(&self, pod: &Pod, within: Duration);

    /// Deletes a pod at once, as the kubelet does when all of it has ended.
    fn delete(&self, pod: &Pod);

    /// Sets a label of a namespace, or takes it away.
    fn label(&self, namespace: &str, label: NamespaceLabel, value: Option<&str>);

    /// The Events that the agent has written since the test began.
    fn events(&self) -> Vec<Event>;

    /// Deletes an Event, as the server does when it has kept it for its time.
    fn delete_event(&self, event: &Event);

    /// Waits for an Event.
    fn wait_for_event(&self, what: &str, wanted: &dyn Fn(&Event) -> bool) -> Event {
        self.wait_for_event_at_most(TIMEOUT, what, wanted)
    }

    /// Waits for at most this time.
    fn wait_for_event_at_most(&self, timeout: Duration, what: &str, wanted: &dyn Fn(&Event) -> bool) -> Event {
        let mut found = None;
        wait_until_within(timeout, &format!("there is this Event: {what}"), || {
            found = self.events().into_iter().find(|event| wanted(event));
            found.is_some()
        });
        found.expect("it was waited for")
    }

    /// Creates or edits a pod of the agent's node.
    fn put(&self, pod: &Pod) -> Pod {
        self.put_on(pod, "node-1")
    }
}

impl Backend for ApiServer {
    fn kubeconfig(&self, folder: &Path) -> PathBuf {
        Self::kubeconfig(self, folder)
    }

    fn put_on(&self, pod: &Pod, node: &str) -> Pod {
        let mut object = pod.object.clone();
        object["spec"]["nodeName"] = node.into();
        let kept = self.put_pod(serde_json::from_value(object).expect("a Pod"));
        pod.clone().uid(kept.metadata.uid.as_deref().expect("every object has a UID"))
    }

    fn ask_to_go(&self, pod: &Pod, within: Duration) {
        Self::ask_to_go(self, pod.namespace_name(), pod.name(), within);
    }

    fn delete(&self, pod: &Pod) {
        self.delete_pod(pod.namespace_name(), pod.name());
    }

    fn label(&self, namespace: &str, label: NamespaceLabel, value: Option<&str>) {
        let mut object = json!({"metadata": {"name": namespace, "labels": {}}});
        if let Some(value) = value {
            object["metadata"]["labels"][label.key()] = value.into();
        }
        self.put_namespace(serde_json::from_value(object).expect("a Namespace"));
    }

    fn events(&self) -> Vec<Event> {
        Self::events(self)
    }

    fn delete_event(&self, event: &Event) {
        let (namespace, name) = (event.metadata.namespace.as_deref(), event.metadata.name.as_deref());
        Self::delete_event(self, namespace.expect("its namespace"), name.expect("its name"));
    }
}

/// The trials of these tests: against the server that is chosen by the environment, and once more as a real server would
/// be spoken to, by an administrator over HTTP, against the project's own.
pub(crate) fn trials(subject: &str, bodies: &'static [BackendTest]) -> impl Iterator<Item = Trial> {
    let subject = subject.to_owned();
    bodies.iter().flat_map(move |&(name, needs, body)| {
        let chosen = Trial::test(format!("{subject}::{name}"), move || {
            run_against_chosen(needs, body);
            Ok(())
        });
        let over_http = Trial::test(format!("over_http::{subject}::{name}"), move || {
            run_over_http(body);
            Ok(())
        });
        [chosen, over_http]
    })
}

/// What the environment names.
enum ChosenServer {
    /// A folder of programs.
    Assets(PathBuf),
    /// A cluster.
    Cluster(PathBuf),
    Nothing,
}

impl ChosenServer {
    /// The folder comes first: with a cluster that is everyday's in the environment, nobody means that one.
    fn read() -> Self {
        let path = |name| env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
        let assets = path(ASSETS).map(Self::Assets);
        assets.or_else(|| path("KUBECONFIG").map(Self::Cluster)).unwrap_or(Self::Nothing)
    }
}

/// Whether the server is one outside of this process's network namespace.
pub(crate) fn is_outside() -> bool {
    matches!(ChosenServer::read(), ChosenServer::Cluster(_))
}

fn run_against_chosen(needs: Needs, body: fn(&dyn Backend)) {
    match (ChosenServer::read(), needs) {
        (ChosenServer::Assets(folder), _) => {
            let kubeconfigs = control_plane_kubeconfigs(&folder).unwrap_or_else(|failure| panic!("{failure}"));
            let real = Real::connect(&kubeconfigs.admin, &kubeconfigs.agent);
            announce(&format!("{}, started from {}", real.description(), folder.display()));
            body(&real);
        }
        (ChosenServer::Cluster(kubeconfig), Needs::Nothing) => {
            let real = Real::connect(&kubeconfig, &kubeconfig);
            announce(&format!("{}, as {} says", real.description(), kubeconfig.display()));
            body(&real);
        }
        (ChosenServer::Cluster(_), Needs::NoControllers) => {
            announce("the project's own API server where the controllers of a cluster would be in the way");
            body(&ApiServer::start());
        }
        (ChosenServer::Nothing, _) => {
            announce("the project's own API server");
            body(&ApiServer::start());
        }
    }
}

fn run_over_http(body: fn(&dyn Backend)) {
    let server = ApiServer::start();
    let folder = TempDir::new().expect("a folder");
    // Who may do all that is another one than the agent.
    body(&Real::connect(&server.kubeconfig_of_admin(folder.path()), &server.kubeconfig(folder.path())));
}

/// Says what the tests run against, once.
fn announce(what: &str) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    if SAID.lock().expect("nobody panics in between").insert(what.to_owned()) {
        eprintln!("\n    against: {what}");
    }
}

/// The control plane of this run, or why there is none.
static CONTROL_PLANE: Mutex<Option<Result<ControlPlane, Failure>>> = Mutex::new(None);

/// Starts the control plane for the first test that needs it.
fn control_plane_kubeconfigs(folder: &Path) -> Result<Kubeconfigs, Failure> {
    let mut control_plane = CONTROL_PLANE.lock().expect("nobody panics in between");
    let started = control_plane.get_or_insert_with(|| ControlPlane::start(folder, START));
    started.as_ref().map(|control_plane| control_plane.kubeconfigs().clone()).map_err(Clone::clone)
}

/// Ends what was started for the tests. To be called when all have run.
pub(crate) fn stop_control_plane() {
    drop(CONTROL_PLANE.lock().expect("nobody panics in between").take());
}

/// Starts an agent that reads its pods from an API server, writes JSON and enforces, unless `more` sets another mode.
pub(crate) fn start_on_cluster(fixture: &AgentFixture, server: &dyn Backend, more: &[&str]) -> Agent {
    Agent::start(cluster_arguments(fixture, server, more)).0
}

/// The arguments of an agent on a cluster.
pub(crate) fn cluster_arguments(fixture: &AgentFixture, server: &dyn Backend, more: &[&str]) -> Vec<String> {
    let kubeconfig = server.kubeconfig(fixture.top()).display().to_string();
    let root = fixture.root().display().to_string();
    let own = ["--source", "api", "--kubeconfig", &kubeconfig, "--cgroup-root", &root];
    let words = ["--log-format", "json", "--node-name", "node-1"];
    let enforce: &[&str] = if more.contains(&"--mode") { &[] } else { &["--mode", "enforce"] };
    let isolated = isolated_defaults(more);
    let all = own.iter().chain(&words).chain(enforce).chain(&isolated).chain(more);
    all.map(ToString::to_string).collect()
}

/// An agent that enforces and knows all pods.
pub(crate) fn start_synced(fixture: &AgentFixture, server: &dyn Backend, more: &[&str]) -> Agent {
    let mut agent = start_on_cluster(fixture, server, more);
    agent.wait_for_line("all pods are known", |line| line["event"] == "synced");
    agent
}
