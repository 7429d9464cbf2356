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

use enforcer_core::{boot_state::BootState, model::now::Now};
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
/// Time after which an order that failed is given again.
const RETRY: Duration = Duration::from_secs(10);
/// Time for the last write.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// Folder of the boot state, and what of it does not change while an agent runs.
#[derive(Clone, Debug)]
pub struct BootStateConfig {
    /// Folder of the boot state.
    pub folder: BootStateFolder,
    /// A boot state without owners.
    pub empty: BootState,
}

/// An order for the thread.
enum WriterOrder {
    Write(Vec<u8>),
    /// Remove the boot state: nothing is to outlive the agent, or there is no room for all of it.
    Remove(Option<FolderError>),
    Mode(NodeMode),
}

/// What was carried out.
enum Carried {
    State,
    Mode,
}

/// Content of the last order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// None: enforcement ends with the agent.
    Nothing,
    /// What was in force after so many changes, under this policy.
    InForce { changes: u64, policy: Policy },
}

/// The writer's side in the loop.
pub(super) struct BootStateWriter {
    config: BootStateConfig,
    orders: Sender<WriterOrder>,
    outcomes: UnboundedReceiver<Result<Carried, FolderError>>,
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
    /// Time to try again what failed.
    retry: Option<Instant>,
    /// A failure was reported, and no boot state was written or removed since then.
    failing: bool,
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
            retry: None,
            failing: false,
        })
    }

    /// Orders what is due.
    pub(super) fn refresh(&mut self, reconciler: &Reconciler) {
        let at = Instant::now();
        if self.retry.take_if(|retry| *retry <= at).is_some() {
            (self.ordered, self.ordered_mode) = (None, None);
        }
        let mode = reconciler.node_mode();
        // Without pins nobody could have set one, and what is kept may still count.
        if reconciler.is_persistent() && self.ordered_mode != Some(mode) {
            self.order(WriterOrder::Mode(mode));
            self.ordered_mode = Some(mode);
        }
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
            _ => PACE,
        };
        self.order(order);
        self.ordered = Some(content);
        self.due = None;
        self.not_before = at + pause;
        self.renewal = self.config.empty.lease.map(|lease| at + (lease / LEASE_PARTS).max(PACE));
    }

    fn write_order(&self, content: Content, reconciler: &Reconciler, now: Now) -> WriterOrder {
        let Content::InForce { policy, .. } = content else {
            return WriterOrder::Remove(None);
        };
        let owners = reconciler.index().owners_in_force();
        let state = BootState { written: now.wall, policy, owners, ..self.config.empty.clone() };
        match state.encode(now) {
            Some(bytes) => WriterOrder::Write(bytes),
            None => WriterOrder::Remove(Some(FolderError::TooLarge)),
        }
    }

    fn order(&mut self, order: WriterOrder) {
        self.pending += usize::from(self.orders.send(order).is_ok());
    }

    /// Waits until [`Self::refresh`] has something to do, or for a failure that is to be reported. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<FolderError> {
        let at = [self.due.or(self.renewal), self.retry].into_iter().flatten().min();
        tokio::select! {
            outcome = self.outcomes.recv(), if self.pending > 0 => {
                self.pending -= 1;
                self.take_outcome(outcome?)
            }
            () = sleep_until(at.unwrap_or_else(Instant::now)), if at.is_some() && self.pending == 0 => None,
            else => std::future::pending().await,
        }
    }

    /// Takes an outcome. Returns the first failure of several in a row.
    fn take_outcome(&mut self, outcome: Result<Carried, FolderError>) -> Option<FolderError> {
        match outcome {
            Ok(Carried::State) => self.failing = false,
            Ok(Carried::Mode) => {}
            Err(error) => {
                self.retry = Some(Instant::now() + RETRY);
                return (!std::mem::replace(&mut self.failing, true)).then_some(error);
            }
        }
        None
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
    reconciler.knows_claims().then(|| Content::InForce { changes: reconciler.claim_changes(), policy })
}

/// Carries out orders in the thread, until the writer ends.
fn carry_out(
    folder: &BootStateFolder,
    orders: &Receiver<WriterOrder>,
    done: &UnboundedSender<Result<Carried, FolderError>>,
) {
    for order in orders {
        let outcome = match order {
            WriterOrder::Write(bytes) => folder.write(&bytes).map(|()| Carried::State),
            WriterOrder::Remove(why) => folder.remove().and(why.map_or(Ok(Carried::State), Err)),
            WriterOrder::Mode(mode) => folder.set_node_mode(mode).map(|()| Carried::Mode),
        };
        if done.send(outcome).is_err() {
            return;
        }
    }
}
