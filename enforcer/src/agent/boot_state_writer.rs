//! Keeps the boot state on the disk in step with what is in force: a thread that writes, and the loop's side of it.
//!
//! A change is written at once, later ones together after a pause that grows with their size. A node without changes
//! writes only where the lease is about to run low. Where it is not known what is in force, nothing is written: what is
//! there may still be right.

use std::{
    io,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::Duration,
};

use enforcer_core::{
    boot_state::{BootState, Origin},
    index::Settings,
    model::{now::Now, port_spec::PortSpec},
};
use enforcer_ebpf::wire::{NodeMode, Policy};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::{Instant, sleep_until, timeout},
};

use crate::{
    agent::reconciler::Reconciler,
    host::{
        boot_state_folder::{BootStateFolder, FolderError},
        clock::now,
    },
};

/// Time for which changes are gathered before the first of them is written.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// Least time between two writes. The size of a state adds to it.
const PACE: Duration = Duration::from_secs(1);
/// Part of the lease after which the state is written anew, so that most of the lease is left after a power cut.
const LEASE_PARTS: u32 = 4;
/// Time for the last write.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// What of a boot state does not change while an agent runs.
#[derive(Clone, Debug)]
pub struct BootStateConfig {
    /// Folder of the boot state.
    pub folder: BootStateFolder,
    /// Node and boot.
    pub origin: Origin,
    /// Time for which a boot state denies after it was written; `None` for ever.
    pub lease: Option<Duration>,
    /// Path of the attached cgroup below the root of the hierarchy.
    pub cgroup: String,
    /// Ports that any process may share.
    pub shared_ports: Vec<PortSpec>,
    /// Claimed ports are kept from outgoing connections.
    pub reserves_ports: bool,
    /// Rules for claims.
    pub settings: Settings,
}

/// An order for the thread.
enum WriterOrder {
    Write(Vec<u8>),
    /// Remove the boot state: nothing is to outlive the agent, or there is no room for all of it.
    Remove(Option<FolderError>),
    Mode(NodeMode),
}

/// Result of an order, to be reported where it is an error.
pub(super) type WriterOutcome = Result<(), FolderError>;

/// Content of the last order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// None: enforcement ends with the agent.
    Nothing,
    /// What was in force after so many changes of the maps, under this policy.
    InForce { changes: u64, policy: Policy },
}

/// The writer's side in the loop.
pub(super) struct BootStateWriter {
    config: BootStateConfig,
    orders: Sender<WriterOrder>,
    outcomes: UnboundedReceiver<WriterOutcome>,
    /// Number of orders without an outcome.
    pending: usize,
    ordered: Option<Content>,
    ordered_mode: Option<NodeMode>,
    /// Time from which the next write is allowed.
    not_before: Instant,
    /// Time of the next write; `None` if none is due.
    due: Option<Instant>,
    /// Time of the write that renews the lease.
    renewal: Option<Instant>,
}

impl BootStateWriter {
    /// Starts the thread, which does nothing before the first [`Self::refresh`].
    pub(super) fn new(config: BootStateConfig) -> io::Result<Self> {
        let (orders, taken) = channel();
        let (done, outcomes) = unbounded_channel();
        let folder = config.folder.clone();
        thread::Builder::new().name("boot-state".to_owned()).spawn(move || carry_out(&folder, &taken, &done))?;
        Ok(Self {
            config,
            orders,
            outcomes,
            pending: 0,
            ordered: None,
            ordered_mode: None,
            not_before: Instant::now(),
            due: None,
            renewal: None,
        })
    }

    /// Orders what is due.
    pub(super) fn refresh(&mut self, reconciler: &Reconciler) {
        let mode = reconciler.node_mode();
        // Without pins nobody could have set one, and what is kept may still count.
        if reconciler.is_persistent() && self.ordered_mode != Some(mode) {
            self.order(WriterOrder::Mode(mode));
            self.ordered_mode = Some(mode);
        }
        let at = Instant::now();
        let Some(content) = content(reconciler) else {
            return;
        };
        if self.ordered != Some(content) {
            self.due.get_or_insert(self.not_before.max(at + DEBOUNCE));
        } else if self.renewal.is_some_and(|renewal| renewal <= at) {
            self.due.get_or_insert(at);
        }
        if self.pending == 0 && self.due.is_some_and(|due| due <= at) {
            self.write(content, reconciler, at);
        }
    }

    fn write(&mut self, content: Content, reconciler: &Reconciler, at: Instant) {
        let order = self.write_order(content, reconciler, now());
        let pause = match &order {
            // A microsecond a byte is about a second a MiB.
            WriterOrder::Write(bytes) => PACE + Duration::from_micros(bytes.len() as u64),
            WriterOrder::Remove(_) | WriterOrder::Mode(_) => PACE,
        };
        self.order(order);
        self.ordered = Some(content);
        self.due = None;
        self.not_before = at + pause;
        self.renewal = self.config.lease.map(|lease| at + (lease / LEASE_PARTS).max(PACE));
    }

    fn write_order(&self, content: Content, reconciler: &Reconciler, now: Now) -> WriterOrder {
        let Content::InForce { policy, .. } = content else {
            return WriterOrder::Remove(None);
        };
        let BootStateConfig { folder: _, origin, lease, cgroup, shared_ports, reserves_ports, settings } =
            self.config.clone();
        let owners = reconciler.index().owners_in_force();
        let written = now.wall;
        let state =
            BootState { origin, written, lease, cgroup, policy, shared_ports, reserves_ports, settings, owners };
        match state.encode(now) {
            Some(bytes) => WriterOrder::Write(bytes),
            None => WriterOrder::Remove(Some(FolderError::TooLarge)),
        }
    }

    fn order(&mut self, order: WriterOrder) {
        self.pending += usize::from(self.orders.send(order).is_ok());
    }

    /// Waits for the outcome of an order, or until [`Self::refresh`] has something to do. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<WriterOutcome> {
        let at = self.due.or(self.renewal);
        tokio::select! {
            outcome = self.outcomes.recv(), if self.pending > 0 => {
                self.pending -= 1;
                outcome
            }
            () = sleep_until(at.unwrap_or_else(Instant::now)), if at.is_some() && self.pending == 0 => None,
            else => std::future::pending().await,
        }
    }

    /// Writes the last state and ends the thread. Returns the errors; one is that it took too long.
    pub(super) async fn shut_down(mut self, reconciler: &Reconciler) -> Vec<FolderError> {
        if let Some(content) = content(reconciler) {
            self.write(content, reconciler, Instant::now());
        }
        let Self { orders, mut outcomes, config, .. } = self;
        // The thread ends when it has carried out its orders.
        drop(orders);
        let mut errors = Vec::new();
        let rest = async {
            while let Some(outcome) = outcomes.recv().await {
                errors.extend(outcome.err());
            }
        };
        if timeout(SHUTDOWN_TIMEOUT, rest).await.is_err() {
            let source = io::ErrorKind::TimedOut.into();
            errors.push(FolderError::Io { action: "write in time", path: config.folder.path().to_owned(), source });
        }
        errors
    }
}

/// Returns what the folder should hold; `None` if that is not known.
fn content(reconciler: &Reconciler) -> Option<Content> {
    if !reconciler.is_persistent() {
        return Some(Content::Nothing);
    }
    let policy = Policy { report_attempts: false, ..reconciler.policy() };
    reconciler.knows_claims().then(|| Content::InForce { changes: reconciler.changes(), policy })
}

/// Carries out orders in the thread, until the writer ends.
fn carry_out(folder: &BootStateFolder, orders: &Receiver<WriterOrder>, done: &UnboundedSender<WriterOutcome>) {
    for order in orders {
        let outcome = match order {
            WriterOrder::Write(bytes) => folder.write(&bytes),
            WriterOrder::Remove(why) => folder.remove().and(why.map_or(Ok(()), Err)),
            WriterOrder::Mode(mode) => folder.set_node_mode(mode),
        };
        if done.send(outcome).is_err() {
            return;
        }
    }
}
