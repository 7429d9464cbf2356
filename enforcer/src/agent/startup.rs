//! Everything before the first turn of the loop, in an order that leaves no gap in enforcement.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use enforcer_core::plan::recover::RecoveredOwner;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::{
    agent::{
        admin::Admin,
        boot_state_writer::{BootStateConfig, BootStateWriter},
        dispatcher::Dispatcher,
        error::AgentError,
        gauges::EnforcementGauges,
        health_and_metrics,
        input::Input,
        kernel_trace::Tracer,
        ledger_compiler::LedgerCompiler,
        own_sockets::OwnSockets,
        pod_source::PodSource,
        readiness::Readiness,
        reconciler::{Reconciler, Start},
        reserved_ports_worker::{ReservedPortsConfig, ReservedPortsWorker},
        ring_poll::Rings,
        run::{Agent, RESYNC_INTERVAL, Stop, Timers},
        snapshot::AgentInfo,
        source_config::SourceConfig,
    },
    host::{clock::now, malloc_trim},
    k8s::Queues,
    kernel::{
        pins::{Persistence, Pins, recall_node_mode},
        probe::Features,
    },
    metrics::Metrics,
    telemetry::DroppedLines,
};

/// Time between two tries to take the lock that another agent holds.
const LOCK_RETRY: Duration = Duration::from_millis(50);

/// Configuration of an agent.
pub struct AgentConfig {
    /// Configuration of the reconciler.
    pub start: Start,
    /// Source of pods.
    pub source: SourceConfig,
    /// Address for health and metrics; `None` serves nothing.
    pub listen: Option<SocketAddr>,
    /// Path of the socket for status, explain and watch; `None` serves nothing.
    pub admin_socket: Option<PathBuf>,
    /// Name of the node, for reports.
    pub node: String,
    /// The mode, as the flag writes it.
    pub mode: &'static str,
    /// Folder of a BPF file system for persistent state.
    pub bpffs: PathBuf,
    /// Switch to keep enforcing while no agent runs.
    pub persist: bool,
    /// Configuration of the worker of reserved ports.
    pub reserved: ReservedPortsConfig,
    /// What is kept for the next boot; `None` keeps nothing.
    pub boot_state: Option<BootStateConfig>,
    /// Counter of the dropped lines of the log.
    pub dropped_lines: DroppedLines,
}

/// Starts an agent. Returns `None` if `stop` was requested before its turn came.
pub(super) async fn start(config: AgentConfig, mut stop: Stop) -> Result<Option<Agent>, AgentError> {
    let AgentConfig {
        mut start,
        source,
        listen,
        admin_socket,
        node,
        mode,
        bpffs,
        persist,
        reserved,
        boot_state,
        dropped_lines,
    } = config;
    let (began, began_at) = (Instant::now(), now());
    let readiness = Readiness::default();
    let own_sockets = OwnSockets::default();
    let metrics = serve_metrics(&source, listen, &readiness, own_sockets.clone())?;
    let info = AgentInfo::new(&node, &source, &start, began_at);
    let server = match &source {
        SourceConfig::Api { cluster, .. } => Some(cluster.server.clone()),
        SourceConfig::Folder(_) => None,
    };
    let (mut source, queues) = PodSource::start(source, &node)?;
    let (events, ledger, startup_taint) = queues
        .map_or((None, None, None), |Queues { events, ledger, startup_taint }| (Some(events), ledger, startup_taint));
    let ledger = LedgerCompiler::new(ledger);
    let persistence = tokio::select! {
        () = stop.requested() => return Ok(None),
        persistence = acquire_lock(&bpffs, persist) => persistence?,
    };
    if let (Some(boot_state), Some(persistence)) = (&boot_state, &persistence) {
        start.boot_state = recall(boot_state, persistence)?;
    }
    let (features, reports_attempts) = (start.features, start.policy.report_attempts);
    let renewal = lease_renewal(start.lease);
    let mut reconciler = Reconciler::load(start, persistence)?;
    reconciler.set_own_sockets(own_sockets);
    let mut gauges = EnforcementGauges::new(&reconciler, began_at.boottime, readiness, Arc::clone(&metrics), now());
    let reserved_ports = ReservedPortsWorker::new(reserved).map_err(AgentError::system("start a thread"))?;
    let boot_state = boot_state.map(BootStateWriter::new).transpose().map_err(AgentError::system("start a thread"))?;
    let mut dispatcher = Dispatcher::new(&node, server, events, metrics, dropped_lines);
    // A folder is read before the first bind is judged. The API server may be out of reach for long: until it answers,
    // the node's reserved ports and the claims of the previous agent are enforced.
    if let Some(input) = source.initial_sync()? {
        reconciler.handle_input(input, now())?;
    }
    dispatcher.drain(&mut reconciler, &source, now());
    reconciler.attach()?;
    dispatcher.drain(&mut reconciler, &source, now());
    gauges.set_attached(&reconciler, now());
    reconciler.handle_input(Input::ScanSockets, now())?;
    dispatcher.drain(&mut reconciler, &source, now());

    let rings = Rings::new(&reconciler).map_err(AgentError::system("wait for the kernel's rings"))?;
    let tracer = Tracer::new(&mut reconciler)?;
    if !reconciler.is_synced() {
        dispatcher.not_synced();
    }
    // Only now: while the previous agent runs, the socket is that agent's.
    let admin = Admin::start(admin_socket, dispatcher.watchers());
    log_ready(&reconciler, mode, features, began);
    malloc_trim::give_back();
    let timers = Timers::new(renewal);
    let agent = Agent {
        admin,
        tracer,
        rings,
        timers,
        dispatcher,
        gauges,
        reserved_ports,
        boot_state,
        ledger,
        startup_taint,
        reconciler,
        source,
        info,
        reports_attempts,
        stop,
    };
    Ok(Some(agent))
}

/// Takes what an agent of an earlier boot left in a folder: the mode that an operator set is in force again, and the
/// owners are returned, if nobody has restored them yet and they may still count.
fn recall(config: &BootStateConfig, persistence: &Persistence) -> Result<Option<Vec<RecoveredOwner>>, AgentError> {
    let pins = persistence.guard.pins();
    let (mode, doubt) = config.folder.node_mode();
    if let Some(doubt) = doubt {
        warn!(event = "boot_state_unused", "{doubt}");
    }
    recall_node_mode(pins.folder(), mode)?;
    if !persistence.persist || pins.is_live()? {
        return Ok(None);
    }
    match config.folder.read(now()) {
        Ok(state) => Ok(state.map(|state| state.owners)),
        Err(error) => {
            warn!(event = "boot_state_unused", "{error}; nothing of it is used");
            Ok(None)
        }
    }
}

/// Returns how often the lease is renewed: several times before it expires.
fn lease_renewal(lease: Option<Duration>) -> Duration {
    lease.map_or(RESYNC_INTERVAL, |lease| RESYNC_INTERVAL.min(lease / 4).max(Duration::from_millis(1)))
}

/// Makes the metrics, and serves them if there is an address.
fn serve_metrics(
    source: &SourceConfig,
    listen: Option<SocketAddr>,
    readiness: &Readiness,
    own_sockets: OwnSockets,
) -> Result<Arc<Metrics>, AgentError> {
    let metrics = Arc::new(Metrics::new(match source {
        SourceConfig::Api { cluster, .. } => Some(cluster.activity.clone()),
        SourceConfig::Folder(_) => None,
    }));
    if let Some(address) = listen {
        let served = health_and_metrics::serve(address, readiness.clone(), Arc::clone(&metrics), own_sockets);
        served.map_err(|source| AgentError::Listen { address, source })?;
    }
    Ok(metrics)
}

/// Takes the lock on the persistent state, which one agent at a time holds: a second one waits until the first exits.
/// Returns `None` if nothing can be persistent here.
async fn acquire_lock(folder: &Path, persist: bool) -> Result<Option<Persistence>, AgentError> {
    let pins = match Pins::at(folder) {
        Ok(pins) => pins,
        Err(error) => {
            if persist {
                warn!(event = "persistence_unavailable", %error, "enforcement ends with this agent: {error}");
            }
            return Ok(None);
        }
    };
    let mut logged = false;
    loop {
        if let Some(guard) = pins.try_lock()? {
            return Ok(Some(Persistence { guard, persist }));
        }
        if !std::mem::replace(&mut logged, true) {
            let folder = folder.display();
            warn!(event = "waiting_for_lock", "another agent holds the lock on {folder}; waiting for it to exit");
        }
        sleep(LOCK_RETRY).await;
    }
}

fn log_ready(reconciler: &Reconciler, mode: &str, features: Features, began: Instant) {
    let (claims, conflicts) = reconciler.index().claim_counts();
    let cgroup = reconciler.root().display();
    info!(
        event = "ready",
        mode,
        %cgroup,
        pods = reconciler.index().pod_count(),
        claims,
        conflicts,
        errnoChoice = features.set_retval,
        v6only = features.probe_read,
        startMs = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        "ready in mode {mode}: binds below {cgroup} are judged, {claims} claims in force",
    );
}
