//! The kernel's list of reserved ports, kept in step with the claims in force: what is wanted and when, and what is told
//! of it.
//!
//! The list is read and written by a thread of its own, which waits for locks and disks: nothing else does. What it did
//! is remembered there ([`crate::host::reserved_ports_sysctl`]), and so this room starts with every agent from nothing.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

use enforcer_ebpf::wire::NodeMode;
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::{Instant, sleep_until, timeout},
};
use tracing::{debug, info, warn};

use enforcer_core::reserved_ports::PortSet;

use crate::{
    agent::reconciler::Reconciler,
    host::reserved_ports_sysctl::{ReservedPorts, Synced, SysctlError},
    metrics::Metrics,
};

/// How long after one order the next may come: a crowd of pods is few writes.
const DEBOUNCE: Duration = Duration::from_millis(250);

/// How long an agent that leaves nothing behind waits for its ports to be given back.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// How much of a list is told.
const TOLD: usize = 100;

/// What is to be done, and where.
#[derive(Clone, Debug)]
pub struct ReservedPortsConfig {
    /// Whether ports are reserved at all. What an earlier agent reserved is given back if not.
    pub manage: bool,
    /// The root of the sysctls, with the list below it.
    pub proc_sys: PathBuf,
    /// Folder in which is remembered what was reserved.
    pub folder: PathBuf,
}

/// An order for the thread.
enum WorkerOrder {
    /// Reserve these ports, in order of preference, and, where all pods are known, let go of all others.
    Reserve { ports: Vec<u16>, all_known: bool },
    /// Let go of everything.
    GiveBack,
}

/// What came of an order.
struct SyncOutcome {
    /// It was to let go of everything.
    given_back: bool,
    result: Result<Synced, SysctlError>,
}

/// What the list should say.
#[derive(Clone, Copy, PartialEq, Eq)]
enum DesiredState {
    /// Nothing of ours.
    Nothing,
    /// What is in force in this generation of claims.
    InForce { generation: u64, all_known: bool },
}

/// See the module's documentation.
pub(super) struct ReservedPortsWorker {
    manage: bool,
    orders: Sender<WorkerOrder>,
    outcomes: UnboundedReceiver<SyncOutcome>,
    /// What was ordered last, unless that is to be ordered once more.
    ordered: Option<DesiredState>,
    /// An order waits to be given.
    due: bool,
    not_before: Instant,
    /// The thread has an order.
    busy: bool,
    told: ReportedState,
}

impl ReservedPortsWorker {
    /// Starts the thread, which does nothing before the first [`Self::look`].
    pub(super) fn new(config: ReservedPortsConfig, node: String, metrics: Arc<Metrics>) -> io::Result<Self> {
        let ReservedPortsConfig { manage, proc_sys, folder } = config;
        let (orders, taken) = channel();
        let (done, outcomes) = unbounded_channel();
        let ports = ReservedPorts::new(&proc_sys, &folder);
        thread::Builder::new().name("reserved-ports".to_owned()).spawn(move || carry_out(&ports, &taken, &done))?;
        let told = ReportedState { node, metrics, left_out: PortSet::default(), error: None, forgotten: None };
        let not_before = Instant::now();
        Ok(Self { manage, orders, outcomes, ordered: None, due: false, not_before, busy: false, told })
    }

    /// Sees what is in force, and orders what is to be changed for that unless something was ordered a moment ago.
    /// `all_known`: whether the source of pods has spoken.
    pub(super) fn refresh(&mut self, engine: &Reconciler, all_known: bool) {
        let wanted = self.desired(engine, all_known);
        self.due = self.ordered != Some(wanted);
        let now = Instant::now();
        if !self.due || self.busy || now < self.not_before {
            return;
        }
        let order = match wanted {
            DesiredState::Nothing => WorkerOrder::GiveBack,
            DesiredState::InForce { all_known, .. } => {
                WorkerOrder::Reserve { ports: engine.index().ports_in_force(), all_known }
            }
        };
        self.busy = self.orders.send(order).is_ok();
        self.ordered = Some(wanted);
        self.due = false;
        self.not_before = now + DEBOUNCE;
    }

    /// The list may not be what it was, or what failed may work now.
    pub(super) fn resync(&mut self) {
        self.ordered = None;
    }

    /// Whether the node enforces decides, whatever a namespace's label says: that speaks of who binds, and the list of
    /// who owns.
    fn desired(&self, engine: &Reconciler, all_known: bool) -> DesiredState {
        let enforces = match engine.node_mode() {
            NodeMode::Unset => engine.policy().enforce,
            NodeMode::Audit => false,
            NodeMode::Enforce => true,
        };
        if self.manage && enforces {
            DesiredState::InForce { generation: engine.index().ports_generation(), all_known }
        } else {
            DesiredState::Nothing
        }
    }

    /// Waits until [`Self::look`] has something to do, or for what came of an order, which is told. Loses nothing when it
    /// is dropped.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            outcome = self.outcomes.recv(), if self.busy => {
                self.busy = false;
                if let Some(outcome) = outcome {
                    self.told.report(outcome);
                }
            }
            () = sleep_until(self.not_before), if self.due && !self.busy => {}
            else => std::future::pending().await,
        }
    }

    /// The agent ends. What outlives it (`kept`) stays reserved; else everything is given back.
    pub(super) async fn end(self, kept: bool) {
        let Self { orders, mut outcomes, mut told, .. } = self;
        if kept || orders.send(WorkerOrder::GiveBack).is_err() {
            return;
        }
        // The thread ends when it has carried out what was ordered.
        drop(orders);
        let rest = async {
            while let Some(outcome) = outcomes.recv().await {
                told.report(outcome);
            }
        };
        if timeout(SHUTDOWN_TIMEOUT, rest).await.is_err() {
            warn!(
                event = "reserved_ports_failed",
                "the ports that were reserved could not be given back in {SHUTDOWN_TIMEOUT:?}; `enforcer cleanup` does it"
            );
        }
    }
}

/// What the thread does, until nobody orders anything any more.
fn carry_out(ports: &ReservedPorts, orders: &Receiver<WorkerOrder>, done: &UnboundedSender<SyncOutcome>) {
    for order in orders {
        let given_back = matches!(order, WorkerOrder::GiveBack);
        let result = match order {
            WorkerOrder::Reserve { ports: wanted, all_known: true } => ports.sync(&wanted),
            WorkerOrder::Reserve { ports: wanted, all_known: false } => ports.add(&wanted),
            WorkerOrder::GiveBack => ports.cleanup(),
        };
        if done.send(SyncOutcome { given_back, result }).is_err() {
            return;
        }
    }
}

/// What was told last, so that nothing is told twice.
struct ReportedState {
    node: String,
    metrics: Arc<Metrics>,
    left_out: PortSet,
    error: Option<String>,
    forgotten: Option<String>,
}

impl ReportedState {
    fn report(&mut self, SyncOutcome { given_back, result }: SyncOutcome) {
        let node = &self.node;
        let Synced { ours, added, removed, left_out, forgotten } = match result {
            Ok(synced) => synced,
            Err(error) => {
                let error = error.to_string();
                if self.error.as_ref() != Some(&error) {
                    warn!(
                        event = "reserved_ports_failed",
                        node,
                        "ports of claims are not all reserved, so that outgoing connections may take them: {error}"
                    );
                }
                self.error = Some(error);
                return;
            }
        };
        self.metrics.reserved(ours, left_out.len());
        if self.error.take().is_some() && !given_back {
            info!(event = "reserved_ports_back", node, "the list of reserved ports can be kept again");
        }
        if added > 0 || removed > 0 {
            debug!(event = "ports_reserved", node, added, removed, ours, "{ours} ports are reserved");
        }
        if forgotten.is_some() && forgotten != self.forgotten {
            let why = forgotten.as_deref().unwrap_or_default();
            warn!(
                event = "reserved_ports_forgotten",
                node,
                "which ports an earlier agent reserved is not known, and so they stay reserved until the node restarts: {why}"
            );
        }
        self.forgotten = forgotten;
        if !left_out.is_empty() && left_out != self.left_out {
            let (count, ports) = (left_out.len(), shortened(&left_out));
            warn!(
                event = "ports_not_reserved",
                node,
                count,
                ports,
                "{count} ports of claims are not reserved, because half of the ephemeral ports are, and outgoing \
                 connections need the rest: {ports}"
            );
        }
        self.left_out = left_out;
    }
}

/// The beginning of the list.
fn shortened(ports: &PortSet) -> String {
    match &ports.texts(TOLD)[..] {
        [all] => all.clone(),
        [first, ..] => format!("{first} and more"),
        [] => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_is_told_in_short() {
        assert_eq!(shortened(&PortSet::parse("80,8000-9000").unwrap()), "80,8000-9000");
        let told = shortened(&(1..1000).step_by(2).collect());
        assert!(told.starts_with("1,3,5,") && told.ends_with(" and more") && told.len() < 120, "{told}");
    }
}
