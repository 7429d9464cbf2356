//! Nodes: the agent's clients and what decides on their calls.

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use enforcer::{
    host::clock::now,
    k8s::{self, EventQueue, LedgerQueue, Queues, Update, WatchedResources, Watches},
};
use enforcer_core::{
    index::{Index, ServicePortsMode, Settings},
    ledger::content::{LedgerInputs, LedgerRoom, content, fit},
    model::{kernel_ids::CgroupId, namespace_label::NamespaceLabel},
    sockets::{BoundSockets, SocketLimits},
    views::node_snapshot::NodeSnapshot,
};
use enforcer_ebpf::{
    decide::ModeOverride,
    wire::{Policy, Undeclared},
};
use enforcer_testing::apiserver::ApiServer;
use tempfile::TempDir;
use tokio::{
    runtime,
    sync::oneshot,
    time::{Instant, sleep, sleep_until},
};

/// Shortest time between two contents of a ledger, and its ratio to the time that one took, as in the agent.
const COMPILE: Duration = Duration::from_secs(1);
const COOLDOWN_FACTOR: u32 = 50;
/// Time between the starts of two nodes: a `DaemonSet` does not start everywhere at once, and the server here is small.
const STAGGER: Duration = Duration::from_millis(4);

/// Returns the name of a node.
pub(super) fn name(number: u16) -> String {
    format!("node-{number:05}")
}

/// Running nodes. They end when dropped.
pub(super) struct Nodes {
    errors: Arc<Mutex<Vec<String>>>,
    _stop: oneshot::Sender<()>,
    _folder: TempDir,
}

impl Nodes {
    /// Starts so many nodes on a thread of their own. Each has a client, and so connections, of its own.
    pub(super) fn start(server: &ApiServer, count: u16) -> anyhow::Result<Self> {
        let folder = TempDir::new()?;
        let kubeconfig = server.kubeconfig(folder.path());
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let errors: Arc<Mutex<Vec<String>>> = Arc::default();
        let reported = Arc::clone(&errors);
        let all = async move {
            for number in 0..count {
                let cluster = k8s::connect(Some(&kubeconfig)).await;
                match cluster {
                    Ok(cluster) => drop(tokio::spawn(Node::new(&cluster, &name(number)).run(Arc::clone(&reported)))),
                    Err(error) => report(&reported, error.to_string()),
                }
                sleep(STAGGER).await;
            }
            // Ends with its sender.
            let _ = stopped.await;
        };
        thread::Builder::new().name("nodes".to_owned()).spawn(move || runtime.block_on(all))?;
        Ok(Self { errors, _stop: stop, _folder: folder })
    }

    /// Returns the errors that the nodes met.
    pub(super) fn errors(&self) -> Vec<String> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn report(errors: &Mutex<Vec<String>>, error: String) {
    errors.lock().unwrap_or_else(PoisonError::into_inner).push(error);
}

/// One node.
struct Node {
    name: String,
    index: Index,
    watches: Watches,
    events: EventQueue,
    ledger: LedgerQueue,
    sockets: BoundSockets,
}

impl Node {
    /// Starts what an agent with the default flags watches and publishes.
    fn new(cluster: &k8s::Cluster, name: &str) -> Self {
        let (events, ledger) = (EventQueue::new(name), LedgerQueue::new());
        let queues = Queues { events: events.clone(), ledger: Some(ledger.clone()), startup_taint: None };
        let watched = WatchedResources { labels: NamespaceLabel::ALL.to_vec(), services: true };
        let settings = Settings { service_ports: ServicePortsMode::Audit, ..Settings::default() };
        Self {
            name: name.to_owned(),
            index: Index::new(settings, CgroupId::new(1)),
            watches: k8s::start(cluster, name, &watched, name, queues),
            events,
            ledger,
            sockets: BoundSockets::new(SocketLimits::default(), true),
        }
    }

    async fn run(mut self, errors: Arc<Mutex<Vec<String>>>) {
        let (mut changed, mut not_before) = (false, Instant::now());
        loop {
            let expires = self.index.poll_timeout();
            tokio::select! {
                update = self.watches.updates.recv() => match update {
                    Some((_, Update::ApiError(error))) => report(&errors, format!("{}: {error:?}", self.name)),
                    Some((_, update)) => {
                        self.apply(update);
                        changed = true;
                    }
                    None => return,
                },
                () = sleep(expires.unwrap_or_default().saturating_sub(now().boottime)), if expires.is_some() => {
                    self.index.handle_timeout(now());
                    changed = true;
                }
                () = sleep_until(not_before), if changed && self.index.is_synced() => {
                    let began = Instant::now();
                    self.ledger.set_content(self.content());
                    (changed, not_before) = (false, Instant::now() + COMPILE.max(began.elapsed() * COOLDOWN_FACTOR));
                }
            }
            self.publish();
        }
    }

    fn apply(&mut self, update: Update) {
        let (index, now) = (&mut self.index, now());
        match update {
            Update::PodsReset(pods) => index.reset(pods, now),
            Update::PodApplied(pod) => index.apply(*pod, now),
            Update::PodDeleted { namespace, name } => index.delete(&namespace, &name, now),
            Update::ServicesReset(services) => index.reset_services(services, now),
            Update::ServiceApplied(service) => index.apply_service(*service, now),
            Update::ServiceDeleted { namespace, name } => index.delete_service(&namespace, &name, now),
            Update::NamespaceLabelsReset { label, values } => index.reset_namespace_labels(label, &values),
            Update::NamespaceLabelApplied { label, namespace, value } => {
                index.set_namespace_label(label, &namespace, Some(&value));
            }
            Update::NamespaceLabelDeleted { label, namespace } => index.set_namespace_label(label, &namespace, None),
            Update::ApiError(_) | Update::ApiRecovered(_) | Update::StartupTaint(_) => {}
        }
    }

    /// Publishes the notices as the agent does.
    fn publish(&mut self) {
        let output = self.index.drain_output();
        for notice in output.notices {
            self.events.put(|events| events.notice(&notice, now()));
        }
        if output.relist {
            self.watches.relist_pods();
        }
    }

    fn content(&self) -> enforcer_core::ledger::node_host_ports::NodeHostPortsStatus {
        let snapshot = NodeSnapshot {
            node: &self.name,
            index: &self.index,
            holders: &self.sockets,
            policy: Policy { undeclared: Undeclared::Adopt, ..Policy::from_word(0) },
            overrule: ModeOverride::default(),
            shared: &[],
            answered: None,
            now: now(),
        };
        let mut content = content(&snapshot, &LedgerInputs { version: "0.0.0", ..LedgerInputs::default() });
        fit(&mut content, LedgerRoom::default());
        content
    }
}
