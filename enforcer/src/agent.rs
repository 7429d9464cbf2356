//! The agent: inputs → core → kernel, events → reports. One loop that waits; what happens is in [`engine`].

mod admin;
mod gauges;
mod http;
mod pod_source;
mod readiness;
pub mod reconciler;
mod reporter;
pub mod reserved_ports_worker;
mod socket_tracker;

pub use socket_tracker::{DumpReport, reconcile};

use std::{
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::{Interest, unix::AsyncFd},
    signal::unix::{SignalKind, signal},
    task::yield_now,
    time::{Interval, MissedTickBehavior, interval, sleep},
};
use tracing::{info, warn};

use crate::{
    agent::{
        admin::{Admin, AgentInfo},
        gauges::EnforcementGauges,
        pod_source::PodSource,
        readiness::Readiness,
        reconciler::{Reconciler, ReconcilerError, Start},
        reporter::Reporter,
        reserved_ports_worker::ReservedPortsWorker,
    },
    host::{allocator, clock::now},
    k8s::Cluster,
    kernel::{
        pins::{Persistence, PinError, Pins},
        probe::Features,
    },
    metrics::Metrics,
    telemetry::DroppedLines,
};

/// How often the agent looks again at what it is told of by events: the safety net below them.
const RESYNC_INTERVAL: Duration = Duration::from_secs(30);

/// How often the agent looks at the sockets of the node.
const SOCKET_SCAN_INTERVAL: Duration = Duration::from_secs(5);

/// How often an agent looks whether the one before it has gone.
const LOCK_RETRY: Duration = Duration::from_millis(50);

/// What the agent does with the rings.
const WAIT: &str = "wait for what the kernel tells";

/// How often the agent looks for a folder that is gone.
const FOLDER_RETRY: Duration = Duration::from_secs(1);

/// What the agent runs with.
pub struct AgentConfig {
    /// What the engine starts with.
    pub start: Start,
    /// Where pods come from.
    pub source: SourceConfig,
    /// Where health and metrics are served; `None` is nowhere.
    pub listen: Option<SocketAddr>,
    /// Where status, explain and watch are served; `None` is nowhere.
    pub admin_socket: Option<PathBuf>,
    /// Name of the node, for reports.
    pub node: String,
    /// The mode, for a person.
    pub mode: &'static str,
    /// Folder of a BPF file system in which is kept what outlives the agent.
    pub bpffs: PathBuf,
    /// Whether anything does.
    pub persist: bool,
    /// What is done to the kernel's list of reserved ports.
    pub reserved: reserved_ports_worker::ReservedPortsConfig,
    /// How many lines of the log are lost.
    pub lost_lines: DroppedLines,
}

/// Where pods come from.
#[derive(Clone)]
pub enum SourceConfig {
    /// A folder of manifests.
    Folder(PathBuf),
    /// The API server.
    Api {
        /// How to reach it.
        cluster: Cluster,
        /// Whether the mode labels of namespaces are of interest.
        namespaces: bool,
        /// Name of the agent's own pod, by which Events say who tells them.
        instance: String,
    },
}

/// Why the agent cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The address for health and metrics cannot be had, and waiting would not help.
    #[error("cannot serve health and metrics on {address}: {source}; choose another address with --listen, or none")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The kernel side, the cgroup tree, or the network namespace.
    #[error(transparent)]
    Engine(#[from] ReconcilerError),
    /// What an earlier agent left cannot be used.
    #[error(transparent)]
    Pins(#[from] PinError),
    /// The folder cannot be watched.
    #[error("cannot watch the folder {}: {source}", path.display())]
    Watch {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: notify::Error,
    },
    /// The folder cannot be read.
    #[error("cannot read the folder {}: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something of the process itself.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// Runs until SIGTERM or SIGINT. What is in force outlives it where it is kept ([`Config::persist`]).
///
/// # Errors
///
/// If the agent cannot start, or loses the kernel's events for good.
pub async fn run(config: AgentConfig) -> Result<(), AgentError> {
    let AgentConfig { start, source, listen, admin_socket, node, mode, bpffs, persist, reserved, lost_lines } = config;
    let (started, started_at) = (Instant::now(), now().boottime);
    let health = Readiness::default();
    let metrics = measure(&source, listen, &health).await?;
    let about = AgentInfo::new(&node, &source, &start);
    let (mut feed, outbox) = PodSource::new(source, &node)?;
    let features = start.features;
    let renewal =
        start.lease.map_or(RESYNC_INTERVAL, |lease| RESYNC_INTERVAL.min(lease / 4).max(Duration::from_millis(1)));
    let system = |what| move |source| AgentError::System { what, source };
    let mut terminate = signal(SignalKind::terminate()).map_err(system("wait for SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system("wait for SIGINT"))?;
    let keep = tokio::select! {
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
        keep = acquire_lock(&bpffs, persist) => keep?,
    };
    let mut engine = Reconciler::load(start, keep)?;
    let mut standing = EnforcementGauges::new(&engine, started_at, health.clone(), Arc::clone(&metrics));
    let mut reserving =
        ReservedPortsWorker::new(reserved, node.clone(), Arc::clone(&metrics)).map_err(system("start a thread"))?;
    let mut reporter = Reporter::new(node, outbox, Arc::clone(&metrics), lost_lines);
    // A folder is read before the first bind is judged. The API server may be out of reach for long: until it answers,
    // what the node reserved is enforced, and what was in force before this agent came.
    feed.initial_sync(&mut engine, &mut reporter)?;
    reporter.notices(&mut engine);
    take_over(&mut engine, &mut reporter)?;
    standing.attached(&engine, feed.is_synced());
    reporter.socket_report(&engine.reconcile_sockets());

    let rings = Rings::of(&engine).map_err(system(WAIT))?;
    let mut tracer = Tracer::new(&mut engine)?;
    let (mut renewals, mut search) = (paced(renewal), paced(FOLDER_RETRY));
    let (mut safety_net, mut look) = (paced(RESYNC_INTERVAL), paced(SOCKET_SCAN_INTERVAL));
    safety_net.reset();
    look.reset();

    if feed.is_synced() {
        health.set_synced();
    } else {
        reporter.not_synced();
    }
    // Only now: an agent that waits for the one before it must leave that one's alone.
    let mut admin = Admin::start(admin_socket, about);
    log_ready(&engine, mode, features, started);
    allocator::give_back();

    // Whether the ring of binds may hold more: the kernel tells of new records only where all older ones were read.
    let mut backlog = false;
    loop {
        standing.refresh(&engine, feed.is_synced());
        reserving.refresh(&engine, feed.is_synced());
        let (tick, due) = (engine.time_to_tick(), engine.time_to_settle());
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            guard = rings.cgroups.readable() => {
                guard.map_err(system(WAIT))?.clear_ready();
                engine.apply_cgroup_changes()?;
            }
            guard = rings.binds.readable(), if !backlog => {
                // Before the ring is read: what comes later than that makes it readable again.
                guard.map_err(system(WAIT))?.clear_ready();
                backlog = true;
            }
            () = yield_now(), if backlog => {
                let told = engine.drain_verdict_ring()?;
                backlog = told.more;
                admin.broadcast(&told);
                reporter.handle_events(&told);
            }
            guard = rings.holders.readable() => {
                guard.map_err(system(WAIT))?.clear_ready();
                settle(&mut engine, &mut admin, &mut reporter)?;
            }
            () = sleep(due.unwrap_or(RESYNC_INTERVAL)), if due.is_some() => settle(&mut engine, &mut admin, &mut reporter)?,
            request = admin.next() => admin.answer(request, &mut engine, &mut reporter, feed.is_synced()),
            input = feed.next() => {
                feed.take_in(input, &mut engine, &mut reporter);
                if feed.is_synced() {
                    health.set_synced();
                }
            }
            _ = search.tick(), if reporter.is_source_lost() => {
                feed.resync(&mut engine, &mut reporter);
            }
            () = sleep(tick.unwrap_or(RESYNC_INTERVAL)), if tick.is_some() => engine.tick(),
            () = tracer.flush() => {}
            () = reserving.next() => {}
            _ = renewals.tick() => {
                standing.renew(&engine);
                reporter.local_mode(engine.node_mode());
            }
            _ = look.tick() => reporter.socket_report(&engine.reconcile_sockets()),
            _ = safety_net.tick() => {
                engine.rescan()?;
                feed.resync(&mut engine, &mut reporter);
                reserving.resync();
                reporter.counters(&engine);
            }
        }
        reporter.notices(&mut engine);
    }
    let kept = engine.is_persistent();
    reserving.end(kept).await;
    log_stopped(kept);
    Ok(())
}

/// The metrics, served if they are to be.
async fn measure(
    source: &SourceConfig,
    listen: Option<SocketAddr>,
    health: &Readiness,
) -> Result<Arc<Metrics>, AgentError> {
    let metrics = Arc::new(Metrics::new(match source {
        SourceConfig::Api { cluster, .. } => Some(cluster.arrivals.clone()),
        SourceConfig::Folder(_) => None,
    }));
    if let Some(address) = listen {
        let served = http::serve(address, health.clone(), Arc::clone(&metrics)).await;
        served.map_err(|source| AgentError::Listen { address, source })?;
    }
    Ok(metrics)
}

/// Takes in who holds what, and what follows.
fn settle(engine: &mut Reconciler, admin: &mut Admin, reporter: &mut Reporter) -> Result<(), ReconcilerError> {
    let told = engine.settle_sockets()?;
    admin.broadcast(&told);
    reporter.handle_events(&told);
    Ok(())
}

/// From here on this agent's programs judge.
fn take_over(engine: &mut Reconciler, reporter: &mut Reporter) -> Result<(), ReconcilerError> {
    let left = engine.attach()?;
    if let Some(resumed) = engine.take_takeover() {
        reporter.takeover(&resumed, left.reports.len());
    }
    reporter.handle_events(&left);
    reporter.local_mode(engine.node_mode());
    Ok(())
}

fn log_ready(engine: &Reconciler, mode: &str, features: Features, started: Instant) {
    let (in_force, lost) = engine.index().claim_counts();
    info!(
        event = "ready",
        mode,
        cgroup = %engine.root().display(),
        pods = engine.index().pod_count(),
        claims = in_force,
        conflicts = lost,
        errnoChoice = features.set_retval,
        v6only = features.probe_read,
        startMs = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        "ready in mode {mode}: binds below {} are judged, {in_force} claims in force",
        engine.root().display(),
    );
}

fn log_stopped(kept: bool) {
    if kept {
        info!(
            event = "stopped",
            kept, "stopped; what is in force is enforced until an agent returns or the lease ends"
        );
    } else {
        info!(event = "stopped", kept, "stopped; nothing is judged any more");
    }
}

/// The right to what is kept, which one agent at a time has: a second one waits until the first has gone. `None` where
/// nothing can be kept.
async fn acquire_lock(folder: &Path, persist: bool) -> Result<Option<Persistence>, AgentError> {
    let pins = match Pins::at(folder) {
        Ok(pins) => pins,
        Err(error) => {
            if persist {
                warn!(event = "not_kept", %error, "what is in force will end with this agent: {error}");
            }
            return Ok(None);
        }
    };
    let mut told = false;
    loop {
        if let Some(guard) = pins.try_lock()? {
            return Ok(Some(Persistence { guard, persist }));
        }
        if !std::mem::replace(&mut told, true) {
            let folder = folder.display();
            warn!(
                event = "waits",
                "another agent runs on this node and keeps its state in {folder}; waiting for its end"
            );
        }
        sleep(LOCK_RETRY).await;
    }
}

/// Ticks that never come in a burst.
fn paced(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// The rings, to wait for.
struct Rings {
    cgroups: AsyncFd<OwnedFd>,
    binds: AsyncFd<OwnedFd>,
    holders: AsyncFd<OwnedFd>,
}

impl Rings {
    fn of(engine: &Reconciler) -> io::Result<Self> {
        let [cgroups, binds, holders] = engine.rings().map(|ring| readable(ring.try_clone_to_owned()));
        Ok(Self { cgroups: cgroups?, binds: binds?, holders: holders? })
    }
}

fn readable(ring: io::Result<OwnedFd>) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is one descriptor, open for as long as it lives.
    Ok(unsafe { AsyncFd::register_with_interest(ring?, Interest::READABLE) }?)
}

/// The programs' own trace, where it was asked for.
struct Tracer {
    logger: Option<AsyncFd<aya_log::EbpfLogger<&'static dyn log::Log>>>,
}

impl Tracer {
    fn new(engine: &mut Reconciler) -> Result<Self, AgentError> {
        if !engine.kernel().traces() {
            return Ok(Self { logger: None });
        }
        let logger = match engine.kernel_mut().take_trace() {
            Ok(logger) => logger,
            Err(error) => {
                warn!(event = "trace", %error, "the programs' trace cannot be read");
                return Ok(Self { logger: None });
            }
        };
        // SAFETY: the logger's descriptor is that of its ring, which it keeps open for as long as it lives.
        let logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) }
            .map_err(|error| AgentError::System { what: "wait for the programs' trace", source: error.into() })?;
        Ok(Self { logger: Some(logger) })
    }

    async fn flush(&mut self) {
        let Some(logger) = &mut self.logger else {
            return std::future::pending().await;
        };
        if let Ok(mut guard) = logger.readable_mut().await {
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    }
}
