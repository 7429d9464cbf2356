//! The loop: waits for something to happen, lets the reconciler handle it, and dispatches what follows.

use std::time::{Duration, Instant};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Interval, MissedTickBehavior, interval, sleep},
};
use tracing::info;

use crate::{
    agent::{
        admin::{self, Admin, Request},
        boot_state_writer::BootStateWriter,
        dispatcher::Dispatcher,
        error::{AgentError, ReconcilerError},
        gauges::EnforcementGauges,
        input::Input,
        kernel_trace::Tracer,
        ledger_compiler::LedgerCompiler,
        pod_source::PodSource,
        reconciler::Reconciler,
        reserved_ports_worker::{ReservedPortsWorker, SyncOutcome},
        ring_poll::{Rings, RingsPace},
        snapshot::AgentInfo,
    },
    host::{boot_state_folder::FolderError, clock::now},
    k8s::TaintRemover,
};

/// Time between two full comparisons with the sources of the state: the safety net below the events.
pub(super) const RESYNC_INTERVAL: Duration = Duration::from_secs(30);

/// Time between two reads of the socket log and of all rings while sockets come and go: the safety net below the wake-ups
/// of rings.
const RINGS_INTERVAL: Duration = Duration::from_millis(500);

/// Time between two scans of the node's sockets.
const SOCKET_SCAN_INTERVAL: Duration = Duration::from_secs(5);

/// The signals that end the agent.
pub(super) struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    /// Starts to listen for them.
    pub(super) fn new() -> Result<Self, AgentError> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(AgentError::system("wait for SIGTERM"))?,
            interrupt: signal(SignalKind::interrupt()).map_err(AgentError::system("wait for SIGINT"))?,
        })
    }

    /// Waits for one of them. Cancel safe.
    pub(super) async fn requested(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The periodic inputs.
pub(super) struct Timers {
    lease: Interval,
    rings: Interval,
    rings_pace: RingsPace,
    sockets: Interval,
    resync: Interval,
}

impl Timers {
    /// Starts the timers. The lease is due at once; the sockets were just scanned and the state was just read.
    pub(super) fn new(lease_renewal: Duration) -> Self {
        let periodic = |period| {
            let mut ticks = interval(period);
            // Never in a burst.
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        };
        let mut timers = Self {
            lease: periodic(lease_renewal),
            rings: periodic(RINGS_INTERVAL),
            rings_pace: RingsPace::new(RINGS_INTERVAL, SOCKET_SCAN_INTERVAL),
            sockets: periodic(SOCKET_SCAN_INTERVAL),
            resync: periodic(RESYNC_INTERVAL),
        };
        timers.rings.reset();
        timers.sockets.reset();
        timers.resync.reset();
        timers
    }

    /// Sets the time of the next read of the rings, if it changes: see [`RingsPace::after`].
    fn pace_rings(&mut self, is_read: bool, found: bool) {
        if let Some(delay) = self.rings_pace.after(is_read, found) {
            self.rings.reset_after(delay);
        }
    }

    /// Waits for the next one. Cancel safe.
    async fn next(&mut self) -> Input {
        tokio::select! {
            _ = self.lease.tick() => Input::RenewLease,
            _ = self.rings.tick(), if !self.rings_pace.is_off() => Input::Rings,
            _ = self.sockets.tick() => Input::ScanSockets,
            _ = self.resync.tick() => Input::Resync,
        }
    }
}

/// Something that ends the wait of the loop.
enum Wakeup {
    Stop,
    Input(Input),
    Inputs(Vec<Input>),
    Timeout,
    Requests(Vec<Request>),
    ReservedPorts(Option<SyncOutcome>),
    BootState(Option<FolderError>),
    Ledger,
    Trace,
}

/// A running agent. Its fields are dropped in this order: first the admin socket, last what the others read from.
pub(super) struct Agent {
    pub(super) admin: Admin,
    pub(super) tracer: Tracer,
    pub(super) rings: Rings,
    pub(super) timers: Timers,
    pub(super) dispatcher: Dispatcher,
    pub(super) gauges: EnforcementGauges,
    pub(super) reserved_ports: ReservedPortsWorker,
    /// `None` keeps nothing for the next boot.
    pub(super) boot_state: Option<BootStateWriter>,
    pub(super) ledger: LedgerCompiler,
    /// `None` if the node registers without a startup taint.
    pub(super) startup_taint: Option<TaintRemover>,
    pub(super) reconciler: Reconciler,
    pub(super) source: PodSource,
    pub(super) info: AgentInfo,
    /// Switch to report every attempt even if nobody watches.
    pub(super) reports_attempts: bool,
    pub(super) stop: Stop,
}

impl Agent {
    /// Runs until a signal ends the agent.
    pub(super) async fn run(mut self) -> Result<(), AgentError> {
        loop {
            self.gauges.refresh(&self.reconciler, now());
            self.set_judges(self.gauges.is_ready());
            self.reserved_ports.refresh(&self.reconciler);
            if let Some(boot_state) = &mut self.boot_state {
                boot_state.refresh(&self.reconciler);
            }
            self.rings.set_verdict_backlog(self.reconciler.has_verdict_backlog());
            match self.wait().await? {
                Wakeup::Stop => break,
                Wakeup::Input(input) => self.handle(input)?,
                Wakeup::Inputs(inputs) => inputs.into_iter().try_for_each(|input| self.handle(input))?,
                Wakeup::Timeout => {
                    self.ledger.note_change();
                    self.reconciler.handle_timeout(now())?;
                }
                Wakeup::Requests(requests) => self.answer(requests)?,
                Wakeup::Ledger => self.ledger.refresh(&self.info, &self.reconciler, now()),
                Wakeup::ReservedPorts(Some(outcome)) => self.dispatcher.reserved_ports(outcome),
                Wakeup::BootState(Some(error)) => self.dispatcher.boot_state_failed(&error),
                Wakeup::ReservedPorts(None) | Wakeup::BootState(None) | Wakeup::Trace => {}
            }
            self.dispatcher.drain(&mut self.reconciler, &self.source, now());
        }
        // Its successor removes the taint, once it judges itself.
        self.set_judges(false);
        let persistent = self.reconciler.is_persistent();
        if let Some(boot_state) = self.boot_state {
            for error in boot_state.shut_down(&self.reconciler).await {
                self.dispatcher.boot_state_failed(&error);
            }
        }
        let shutdown = self.reserved_ports.shut_down(persistent).await;
        self.dispatcher.reserved_ports_shutdown(shutdown);
        log_stopped(persistent);
        Ok(())
    }

    /// Lets the remover of the startup taint know whether the binds of the node's pods are judged.
    fn set_judges(&self, judges: bool) {
        if let Some(remover) = &self.startup_taint {
            remover.set_judges(judges);
        }
    }

    async fn wait(&mut self) -> Result<Wakeup, AgentError> {
        let timeout = self.reconciler.poll_timeout();
        Ok(tokio::select! {
            () = self.stop.requested() => Wakeup::Stop,
            inputs = self.source.next() => Wakeup::Inputs(inputs),
            input = self.rings.next() => Wakeup::Input(input.map_err(AgentError::system("wait for the kernel's rings"))?),
            input = self.timers.next() => Wakeup::Input(input),
            () = sleep_until_boottime(timeout) => Wakeup::Timeout,
            requests = self.admin.next() => Wakeup::Requests(requests),
            outcome = self.reserved_ports.next() => Wakeup::ReservedPorts(outcome),
            outcome = next_boot_state(self.boot_state.as_mut()) => Wakeup::BootState(outcome),
            () = self.ledger.due() => Wakeup::Ledger,
            () = self.tracer.flush() => Wakeup::Trace,
        })
    }

    fn handle(&mut self, input: Input) -> Result<(), ReconcilerError> {
        if matches!(input, Input::Resync) {
            self.reserved_ports.resync();
        }
        // A read or a scan that finds nothing new is what a quiet node does all day.
        let is_read = matches!(input, Input::Rings);
        let is_change = !matches!(input, Input::RenewLease | Input::Rings | Input::ScanSockets);
        let known =
            |reconciler: &Reconciler| (reconciler.bound_sockets().generation(), reconciler.observed_ports().changes());
        let before = known(&self.reconciler);
        let handled = self.reconciler.handle_input(input, now());
        let found = known(&self.reconciler) != before;
        self.timers.pace_rings(is_read, found);
        if is_change || found {
            self.ledger.note_change();
        }
        handled
    }

    /// Answers requests of the admin socket, with the sockets of this moment where they are shown.
    fn answer(&mut self, requests: Vec<Request>) -> Result<(), ReconcilerError> {
        let began = Instant::now();
        if requests.iter().any(Request::shows_sockets) {
            self.handle(Input::ScanSockets)?;
            self.dispatcher.drain(&mut self.reconciler, &self.source, now());
        }
        let watchers = self.dispatcher.watchers();
        admin::answer(requests, &self.info, &mut self.reconciler, watchers, now());
        self.reconciler.set_report_attempts(self.reports_attempts || watchers.wants_all());
        self.admin.cool_down(began.elapsed());
        Ok(())
    }
}

/// Waits for the writer of the boot state; for ever if there is none.
async fn next_boot_state(writer: Option<&mut BootStateWriter>) -> Option<FolderError> {
    match writer {
        Some(writer) => writer.next().await,
        None => std::future::pending().await,
    }
}

/// Waits until a time since boot; for ever if there is none.
async fn sleep_until_boottime(at: Option<Duration>) {
    match at {
        Some(at) => sleep(at.saturating_sub(now().boottime)).await,
        None => std::future::pending().await,
    }
}

fn log_stopped(persistent: bool) {
    if persistent {
        info!(
            event = "stopped",
            persistent, "stopped; claims stay enforced until an agent returns or the lease expires"
        );
    } else {
        info!(event = "stopped", persistent, "stopped; binds are not judged any more");
    }
}
