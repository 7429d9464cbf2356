//! The worker that keeps the kernel's list of reserved ports in step with the claims in force.
//!
//! A thread of its own reads and writes the list, because it waits for locks and disks. It also stores what it reserved
//! ([`crate::host::reserved_ports_sysctl`]), so the worker starts without state.

use std::{
    io,
    path::PathBuf,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::Duration,
};

use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::{Instant, sleep_until, timeout},
};

use enforcer_core::views::unenforced_time::should_enforce;

use crate::{
    agent::reconciler::Reconciler,
    host::reserved_ports_sysctl::{ReservedPorts, Synced, SysctlError},
};

/// Shortest time between two orders: many pods that start at once cause few writes.
const DEBOUNCE: Duration = Duration::from_millis(250);

/// Longest wait for the release of the ports when an agent that leaves nothing behind ends.
pub(super) const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// Configuration of the worker.
#[derive(Clone, Debug)]
pub struct ReservedPortsConfig {
    /// Switch to reserve ports at all. If off, ports that an earlier agent reserved are given back.
    pub manage: bool,
    /// Root of the sysctls, usually `/proc/sys`.
    pub proc_sys: PathBuf,
    /// Folder of the file that lists the reserved ports.
    pub folder: PathBuf,
}

/// An order for the thread.
enum WorkerOrder {
    /// Reserve these ports, in order of preference, and, if all pods are known, release all others.
    Reserve { ports: Vec<u16>, all_known: bool },
    /// Release everything.
    GiveBack,
}

/// Outcome of an order.
pub(super) struct SyncOutcome {
    /// The order was to release everything.
    pub(super) given_back: bool,
    /// The changes, or why there are none.
    pub(super) result: Result<Synced, SysctlError>,
}

/// End of the worker.
#[derive(Default)]
pub(super) struct Shutdown {
    /// Outcomes that were not taken.
    pub(super) outcomes: Vec<SyncOutcome>,
    /// The thread did not end in time.
    pub(super) timed_out: bool,
}

/// Content that the list should have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum DesiredState {
    /// No port of ours.
    Nothing,
    /// The ports in force in this generation of claims.
    InForce { generation: u64, all_known: bool },
}

/// The worker's side in the loop.
pub(super) struct ReservedPortsWorker {
    manage: bool,
    orders: Sender<WorkerOrder>,
    outcomes: UnboundedReceiver<SyncOutcome>,
    /// The last order; `None` if it has to be repeated.
    ordered: Option<DesiredState>,
    /// An order is pending.
    due: bool,
    not_before: Instant,
    /// The thread has an order.
    busy: bool,
}

impl ReservedPortsWorker {
    /// Starts the thread, which does nothing before the first [`Self::refresh`].
    pub(super) fn new(config: ReservedPortsConfig) -> io::Result<Self> {
        let ReservedPortsConfig { manage, proc_sys, folder } = config;
        let (orders, taken) = channel();
        let (done, outcomes) = unbounded_channel();
        let ports = ReservedPorts::new(&proc_sys, &folder);
        thread::Builder::new().name("reserved-ports".to_owned()).spawn(move || carry_out(&ports, &taken, &done))?;
        Ok(Self { manage, orders, outcomes, ordered: None, due: false, not_before: Instant::now(), busy: false })
    }

    /// Orders the ports in force, unless they are ordered already or the last order was a moment ago.
    pub(super) fn refresh(&mut self, reconciler: &Reconciler) {
        let desired = self.desired(reconciler);
        self.due = self.ordered != Some(desired);
        let now = Instant::now();
        if !self.due || self.busy || now < self.not_before {
            return;
        }
        let order = match desired {
            DesiredState::Nothing => WorkerOrder::GiveBack,
            DesiredState::InForce { all_known, .. } => {
                WorkerOrder::Reserve { ports: reconciler.index().ports_in_force(), all_known }
            }
        };
        self.busy = self.orders.send(order).is_ok();
        self.ordered = Some(desired);
        self.due = false;
        self.not_before = now + DEBOUNCE;
    }

    /// Repeats the last order: the list may have changed, or a failure may be over.
    pub(super) fn resync(&mut self) {
        self.ordered = None;
    }

    /// Returns the content that the list should have. The mode of the node decides, whatever a namespace's label says:
    /// the label is about who binds, and the list is about who owns.
    fn desired(&self, reconciler: &Reconciler) -> DesiredState {
        if self.manage && should_enforce(reconciler.policy().enforce, reconciler.node_mode()) {
            let generation = reconciler.index().ports_generation();
            DesiredState::InForce { generation, all_known: reconciler.is_synced() }
        } else {
            DesiredState::Nothing
        }
    }

    /// Waits for the outcome of an order, or, without one, until [`Self::refresh`] has something to do. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<SyncOutcome> {
        tokio::select! {
            outcome = self.outcomes.recv(), if self.busy => {
                self.busy = false;
                outcome
            }
            () = sleep_until(self.not_before), if self.due && !self.busy => None,
            else => std::future::pending().await,
        }
    }

    /// Ends the worker. Unless enforcement is `persistent`, it first releases all ports.
    pub(super) async fn shut_down(self, persistent: bool) -> Shutdown {
        let Self { orders, outcomes: mut received, .. } = self;
        if persistent || orders.send(WorkerOrder::GiveBack).is_err() {
            return Shutdown::default();
        }
        // The thread ends when it has carried out its orders.
        drop(orders);
        let mut outcomes = Vec::new();
        let rest = async {
            while let Some(outcome) = received.recv().await {
                outcomes.push(outcome);
            }
        };
        let timed_out = timeout(SHUTDOWN_TIMEOUT, rest).await.is_err();
        Shutdown { outcomes, timed_out }
    }
}

/// Carries out orders in the thread, until the worker ends.
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
