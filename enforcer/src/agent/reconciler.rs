//! Index and kernel tied together: every input goes to the index, what follows goes to the kernel's maps, and what the
//! kernel tells comes back as reports. Without any waiting of its own, so that tests drive it step by step.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    io,
    path::Path,
    time::Duration,
};

use aya::maps::{MapData, RingBuf};
use enforcer_ebpf::wire::{NodeMode, Policy, Protocol, Reason, VerdictKind};

use enforcer_core::{
    cgroups::tree::Insertion,
    index::{Index, Notice, RestoreSummary, Settings, Staged},
    model::{attempt::Attempt, port_spec::PortSpec},
    plan::recover::{RecoveredState, UnreadableOwner},
    pods::pod::Pod,
    reports::report::Report,
    sockets::{BoundSockets, LiveConflict, SocketBinding},
    views::enforcement_gap::{PredecessorState, should_enforce},
};

use crate::{
    agent::socket_tracker::{ReconcileReport, SocketTracker},
    host::{
        cgroup::{CgroupError, Root, scan},
        clock::{self, now},
        netns,
    },
    kernel::{
        BpfError, CounterMap, Counters, Kernel, LoadOptions,
        pins::{Persistence, Previous},
        probe::Features,
        ring_records::{CgroupChange, SocketRecord, decode_bind, decode_cgroup},
    },
};

/// Most records of one ring that are taken at once: what a storm of binds tells must not keep pods waiting.
const BATCH: usize = 512;
/// Most records of an earlier agent's programs that are taken: more than fit into its ring.
const MAX_LEFT_REPORTS: usize = 65_536;

/// Why the engine cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ReconcilerError {
    /// The kernel side.
    #[error(transparent)]
    Bpf(#[from] BpfError),
    /// The cgroup tree.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The network namespace.
    #[error("cannot learn the node's network namespace: {0}")]
    Netns(io::Error),
}

/// What the engine starts with.
#[derive(Clone, Debug)]
pub struct Start {
    /// The cgroup to attach to.
    pub root: Root,
    /// Rules for claims.
    pub settings: Settings,
    /// Policy of the programs.
    pub policy: Policy,
    /// What this kernel can do.
    pub features: Features,
    /// Whether the programs write a trace.
    pub trace: bool,
    /// How long after the last renewal what is kept goes on to deny; `None` for ever.
    pub lease: Option<Duration>,
    /// Ports that are meant to be shared by whoever binds them.
    pub shared_ports: Vec<PortSpec>,
}

/// What was taken over from the agent before this one.
#[derive(Clone, Debug, Default)]
pub struct TakeoverSummary {
    /// The owners that are known again.
    pub restored: RestoreSummary,
    /// Owners of whom too little was written down: their claims end.
    pub forgotten: Vec<UnreadableOwner>,
}

/// What the kernel told since the last time.
#[derive(Debug, Default)]
pub struct KernelEvents {
    /// Attempts that were judged, with names.
    pub reports: Vec<Report>,
    /// Sockets that were bound.
    pub bound: Vec<SocketBinding>,
    /// Conflicts that exist and were not told yet.
    pub live_conflicts: Vec<LiveConflict>,
    /// Records that made no sense.
    pub undecodable: Vec<String>,
    /// There may be more: the call ended because it had taken as much as one call takes.
    pub more: bool,
}

/// All attempts that are in a ring, which is of bounded size and which nobody fills any more, or not for long.
fn drain_predecessor_ring(ring: &mut RingBuf<MapData>, index: &Index, told: &mut KernelEvents) {
    while told.reports.len() < MAX_LEFT_REPORTS
        && let Some(record) = ring.next()
    {
        match decode_bind(&record) {
            Ok(SocketRecord::Attempt(attempt)) => told.reports.push(Report::new(attempt, index)),
            Ok(SocketRecord::Bound(_) | SocketRecord::Released(_)) => {}
            Err(error) => told.undecodable.push(error.to_string()),
        }
    }
}

fn log_restore_failure(error: &dyn std::error::Error) {
    tracing::error!(
        event = "resume_failed",
        %error,
        "what the agent before this one had in force cannot be read; it is in force again when the pods are known"
    );
}

/// When a lease that is renewed now ends, in nanoseconds since boot; 0 is never.
fn deadline(lease: Option<Duration>) -> u64 {
    lease.map_or(0, |lease| u64::try_from((now().boottime + lease).as_nanos()).unwrap_or(u64::MAX))
}

/// See the module's documentation.
pub struct Reconciler {
    index: Index,
    kernel: Kernel,
    root: Root,
    cgroup_events: RingBuf<MapData>,
    bind_events: RingBuf<MapData>,
    holder_events: RingBuf<MapData>,
    notices: Vec<Notice>,
    failures: Vec<BpfError>,
    cgroup_events_lost: u64,
    cgroup_events_seen: u64,
    /// Cgroups that are gone, of which the index has not heard yet.
    removed_cgroups: Vec<u64>,
    /// There are cgroups whose place is not known: the tree is to be read.
    unplaced_cgroups: bool,
    lease: Option<Duration>,
    previous: Option<Previous>,
    predecessor: PredecessorState,
    takeover: Option<TakeoverSummary>,
    sockets: SocketTracker,
}

impl Reconciler {
    /// Loads the programs, takes over what an earlier agent had in force, and takes in the cgroups that exist. What is
    /// loaded here judges no bind before [`Self::attach`]; what an earlier agent left does until then.
    ///
    /// # Errors
    ///
    /// If the kernel refuses something that is needed.
    pub fn load(start: Start, keep: Option<Persistence>) -> Result<Self, ReconcilerError> {
        let Start { root, settings, policy, features, trace, lease, shared_ports } = start;
        // What does not outlive its agent needs no lease.
        let lease = lease.filter(|_| keep.as_ref().is_some_and(|keep| keep.persist));
        let mut kernel = Kernel::load(LoadOptions {
            cgroup: root.path.clone(),
            cgroup_id: root.id,
            cgroup_level: root.level,
            netns_cookie: netns::cookie().map_err(ReconcilerError::Netns)?,
            policy,
            lease_deadline: deadline(lease),
            shared_ports: shared_ports.iter().flat_map(PortSpec::indexes).collect(),
            persistence: keep,
            features,
            trace,
        })?;
        let cgroup_events = kernel.take_cgroup_ring()?;
        let bind_events = kernel.take_verdict_ring()?;
        let holder_events = kernel.take_socket_ring()?;
        let (previous, found) = match kernel.take_previous() {
            Ok(Some(previous)) => {
                let enforced = should_enforce(previous.policy().enforce, kernel.node_mode());
                let found = PredecessorState::Left { enforced, lease_deadline: previous.lease_deadline() };
                (Some(previous), found)
            }
            Ok(None) if kernel.is_persistent() => (None, PredecessorState::Nothing),
            Ok(None) => (None, PredecessorState::NotKept),
            Err(error) => {
                log_restore_failure(&error);
                // It judges; more is not known of it.
                (None, PredecessorState::Left { enforced: true, lease_deadline: 0 })
            }
        };
        let index = Index::new(settings, root.id);
        let mut engine = Self {
            index,
            kernel,
            root,
            cgroup_events,
            bind_events,
            holder_events,
            notices: Vec::new(),
            failures: Vec::new(),
            cgroup_events_lost: 0,
            cgroup_events_seen: 0,
            removed_cgroups: Vec::new(),
            unplaced_cgroups: false,
            lease,
            previous,
            predecessor: found,
            takeover: None,
            sockets: SocketTracker::new(shared_ports),
        };
        engine.restore();
        // The programs that watch cgroups run already: whatever is made from now on is seen twice rather than never.
        engine.rescan()?;
        Ok(engine)
    }

    /// Before the cgroup tree is read: a pod that is remembered and has no cgroup any more ended meanwhile.
    fn restore(&mut self) {
        let Some(previous) = &self.previous else {
            return;
        };
        match previous.recover() {
            Ok(RecoveredState { owners: remembered, unreadable: forgotten }) => {
                let restored = self.index.restore(remembered, now());
                self.flush();
                self.takeover = Some(TakeoverSummary { restored, forgotten });
            }
            Err(error) => log_restore_failure(&error),
        }
    }

    /// Starts to judge binds, in the place of an earlier agent's programs if there are any: what those told and nobody
    /// has read.
    ///
    /// # Errors
    ///
    /// If the kernel refuses a link.
    pub fn attach(&mut self) -> Result<KernelEvents, ReconcilerError> {
        let mut told = KernelEvents::default();
        if let Some(previous) = &mut self.previous {
            drain_predecessor_ring(&mut previous.bind_events, &self.index, &mut told);
        }
        // A start can take longer than a short lease.
        self.kernel.renew(deadline(self.lease));
        self.kernel.attach()?;
        if let Some(mut previous) = self.previous.take() {
            if let Err(error) = previous.wait_for_programs() {
                tracing::warn!(event = "wait_failed", %error, "what the agent before this one told last may be missing");
            }
            drain_predecessor_ring(&mut previous.bind_events, &self.index, &mut told);
        }
        if let Err(error) = self.kernel.retire_previous() {
            tracing::error!(
                event = "retire_failed",
                %error,
                "what earlier agents pinned cannot be removed; the next start tries again"
            );
        }
        Ok(told)
    }

    /// Looks at the sockets of the node: the table of holders is right then, and what of it is a conflict is told once.
    pub fn reconcile_sockets(&mut self) -> ReconcileReport {
        let (looked, changed) = self.sockets.reconcile(&self.index);
        self.publish_port_holders(changed);
        looked
    }

    /// Takes in which sockets were bound and released, so many records at most.
    fn drain_socket_ring(&mut self, told: &mut KernelEvents) {
        let mut changed = BTreeSet::new();
        let mut taken = 0;
        let slept = clock::slept();
        while taken < BATCH
            && let Some(record) = self.holder_events.next()
        {
            taken += 1;
            match decode_bind(&record).map(|told| told.with_sleep(slept)) {
                Ok(SocketRecord::Bound(binding)) => {
                    changed.insert((binding.protocol, binding.port));
                    told.bound.push(binding.clone());
                    self.sockets.bound(binding, &self.index);
                }
                Ok(SocketRecord::Released(release)) => {
                    changed.insert((release.protocol, release.port));
                    self.sockets.released(release);
                }
                Ok(SocketRecord::Attempt(attempt)) => self.sockets.add_pending(attempt),
                Err(error) => told.undecodable.push(error.to_string()),
            }
        }
        if taken > 0 {
            self.sockets.expect_more(taken == BATCH);
        }
        self.publish_port_holders(changed);
    }

    /// Tells the programs who holds these ports.
    fn publish_port_holders(&mut self, ports: BTreeSet<(Protocol, u16)>) {
        for (protocol, port) in ports {
            let mark = self.sockets.port_holder(protocol, port, &self.index);
            self.failures.extend(self.kernel.set_port_holder(protocol, port, mark).err());
        }
    }

    /// Takes in what the kernel told of holders, and finds out which attempts failed because of one.
    ///
    /// # Errors
    ///
    /// As [`Self::drain_cgroups`].
    pub fn settle_sockets(&mut self) -> Result<KernelEvents, ReconcilerError> {
        self.apply_cgroup_changes()?;
        let mut told = KernelEvents::default();
        self.drain_socket_ring(&mut told);
        if self.sockets.needs_reconcile() {
            told.live_conflicts = self.reconcile_sockets().live_conflicts;
        }
        told.reports = self.sockets.failed_binds(&self.index);
        if self.sockets.take_reconcile_now() {
            told.live_conflicts.extend(self.reconcile_sockets().live_conflicts);
        }
        Ok(told)
    }

    /// How long until [`Self::settle_holders`] is due; `None` if nothing waits.
    #[must_use]
    pub fn time_to_settle(&self) -> Option<Duration> {
        self.sockets.poll_timeout().map(|at| at.saturating_sub(now().boottime))
    }

    /// Who holds what.
    #[must_use]
    pub fn holders(&self) -> &BoundSockets {
        self.sockets.bound_sockets()
    }

    /// What was taken over, once.
    pub fn take_takeover(&mut self) -> Option<TakeoverSummary> {
        self.takeover.take()
    }

    /// Whether what is in force outlives the agent.
    #[must_use]
    pub fn is_persistent(&self) -> bool {
        self.kernel.is_persistent()
    }

    /// What was there when this agent came.
    #[must_use]
    pub fn predecessor(&self) -> PredecessorState {
        self.predecessor
    }

    /// Puts the end of the lease off, which is what tells the kernel that an agent is alive. For how long it was over.
    #[must_use]
    pub fn renew(&self) -> Duration {
        let before = self.kernel.lease_deadline();
        self.kernel.renew(deadline(self.lease));
        if before == 0 { Duration::ZERO } else { now().boottime.saturating_sub(Duration::from_nanos(before)) }
    }

    /// The mode that an operator set on the node.
    #[must_use]
    pub fn node_mode(&self) -> NodeMode {
        self.kernel.node_mode()
    }

    /// When what is kept denies no more unless [`Self::renew`] puts that off: nanoseconds since boot; 0 is never.
    #[must_use]
    pub fn lease_deadline(&self) -> u64 {
        self.kernel.lease_deadline()
    }

    /// A pod is there, or changed.
    pub fn apply(&mut self, pod: Pod) {
        self.drain_cgroup_ring();
        self.index.stage(pod, now());
        self.commit(Staged::default());
    }

    /// A pod is gone.
    pub fn delete(&mut self, namespace: &str, name: &str) {
        self.index.delete(namespace, name, now());
        self.flush();
    }

    /// These are all pods there are.
    pub fn reset(&mut self, pods: Vec<Pod>) {
        self.drain_cgroup_ring();
        let introduced = self.index.stage_all(pods, now());
        self.commit(introduced);
    }

    /// Puts in force what was introduced, when the kernel knows whose cgroups are whose.
    ///
    /// A cgroup that was made before the kernel knew its pod's UID was noted as nobody's, so that the pod would be denied
    /// on its own port from the moment its claim is written until the record of that cgroup is read. So the UID is written
    /// first, then the records are read, and then the claim is written: a cgroup that is made from the UID on is noted as the
    /// pod's. The last look is for one that was just being made, whose record came after the others.
    fn commit(&mut self, introduced: Staged) {
        self.flush();
        self.read_cgroup_ring();
        self.index.commit(introduced, now());
        self.flush();
        self.drain_cgroup_ring();
    }

    /// Takes in the cgroups of which the kernel has told, before and after pods are taken in.
    fn drain_cgroup_ring(&mut self) {
        if let Err(error) = self.apply_cgroup_changes() {
            tracing::error!(%error, "cannot take in the cgroups that came and went");
        }
    }

    /// The mode label of a namespace was set, changed or taken away.
    pub fn set_mode_label(&mut self, namespace: &str, label: Option<&str>) {
        self.index.set_mode_label(namespace, label);
        self.flush();
    }

    /// These are all namespaces with a mode label.
    pub fn reset_mode_labels(&mut self, labels: &HashMap<String, String>) {
        self.index.reset_mode_labels(labels);
        self.flush();
    }

    /// Time went by.
    pub fn tick(&mut self) {
        self.index.handle_timeout(now());
        self.flush();
    }

    /// How long until [`Self::tick`] is due; `None` if nothing waits.
    #[must_use]
    pub fn time_to_tick(&self) -> Option<Duration> {
        self.index.poll_timeout().map(|at| at.saturating_sub(now().boottime))
    }

    /// Takes in the cgroups that came and went.
    ///
    /// # Errors
    ///
    /// If records were lost and the tree cannot be read instead.
    pub fn apply_cgroup_changes(&mut self) -> Result<(), ReconcilerError> {
        self.read_cgroup_ring();
        for id in std::mem::take(&mut self.removed_cgroups) {
            self.index.cgroup_removed(id, now());
        }
        self.index.arbitrate_dirty();
        self.flush();
        let lost = self.kernel.counters().cgroup_events_lost()?;
        if std::mem::take(&mut self.unplaced_cgroups) || lost != self.cgroup_events_lost {
            self.cgroup_events_lost = lost;
            self.rescan()?;
        }
        Ok(())
    }

    /// Reads the records of cgroups, and tells the kernel whose those are that were made. All else is for
    /// [`Self::drain_cgroups`].
    fn read_cgroup_ring(&mut self) {
        while let Some(record) = self.cgroup_events.next() {
            self.cgroup_events_seen += 1;
            match decode_cgroup(&record) {
                Ok(CgroupChange { made: true, id, parent, name: Some(name), form: _ }) => {
                    self.unplaced_cgroups |=
                        self.index.cgroup_recorded(id, parent, &name, now()) == Insertion::Unplaced;
                }
                Ok(CgroupChange { made: true, name: None, .. }) => self.unplaced_cgroups = true,
                Ok(CgroupChange { made: false, id, .. }) => self.removed_cgroups.push(id),
                Err(error) => {
                    tracing::error!(%error, "cannot read a cgroup record; reading the cgroup tree instead");
                    self.unplaced_cgroups = true;
                }
            }
        }
        self.flush();
    }

    /// Reads the whole cgroup tree: the safety net below the events.
    ///
    /// # Errors
    ///
    /// If the tree cannot be read.
    pub fn rescan(&mut self) -> Result<(), ReconcilerError> {
        let entries = scan(&self.root)?;
        let mut present = HashSet::with_capacity(entries.len());
        for entry in &entries {
            present.insert(entry.id);
            self.index.cgroup_created(entry.id, entry.parent, &entry.name, now());
        }
        self.index.reset_cgroups(&present, now());
        self.flush();
        Ok(())
    }

    /// Takes what the kernel told of binds, so many records at most: a storm of binds must not keep the agent from all
    /// else. Cgroups go first, so that callers have their names.
    ///
    /// # Errors
    ///
    /// As [`Self::drain_cgroups`].
    pub fn drain_verdict_ring(&mut self) -> Result<KernelEvents, ReconcilerError> {
        self.apply_cgroup_changes()?;
        let mut told = KernelEvents::default();
        self.drain_socket_ring(&mut told);
        let report_all = self.policy().report_attempts;
        for _ in 0..BATCH {
            let Some(record) = self.bind_events.next() else {
                return Ok(told);
            };
            let decoded = decode_bind(&record);
            drop(record);
            match decoded {
                Ok(SocketRecord::Attempt(attempt)) => self.take_attempt(attempt, report_all, &mut told),
                Ok(SocketRecord::Bound(_) | SocketRecord::Released(_)) => {
                    told.undecodable.push("a holder among the attempts".to_owned());
                }
                Err(error) => told.undecodable.push(error.to_string()),
            }
        }
        told.more = true;
        Ok(told)
    }

    fn take_attempt(&mut self, attempt: Attempt, report_all: bool, told: &mut KernelEvents) {
        let allowed = attempt.verdict == VerdictKind::Allow && attempt.reason != Reason::Error;
        if attempt.held && allowed {
            self.sockets.add_pending(attempt.clone());
        }
        if report_all || !allowed {
            let report = Report::new(attempt, &self.index);
            told.reports.push(self.sockets.bound_sockets().with_incumbent_name(report, &self.index));
        }
    }

    fn flush(&mut self) {
        let output = self.index.drain_output();
        for change in &output.changes {
            if let Err(error) = self.kernel.apply(change) {
                self.failures.push(error);
            }
        }
        self.notices.extend(output.notices);
    }

    /// Takes what people should hear of.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// Takes the changes that the kernel refused. Each of them leaves one claim or identity out of the maps.
    pub fn take_failures(&mut self) -> Vec<BpfError> {
        std::mem::take(&mut self.failures)
    }

    /// Changes the policy of the running programs.
    pub fn set_policy(&self, policy: Policy) {
        self.kernel.set_policy(policy);
    }

    /// The policy of the running programs.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.kernel.policy()
    }

    /// The exact counters.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn counters(&self) -> Result<Counters, ReconcilerError> {
        Ok(self.kernel.counters().read()?)
    }

    /// The exact counters, for others to read.
    #[must_use]
    pub fn counter_map(&self) -> CounterMap {
        self.kernel.counters().clone()
    }

    /// How many records of cgroups came from the kernel.
    #[must_use]
    pub fn cgroup_events_seen(&self) -> u64 {
        self.cgroup_events_seen
    }

    /// The index.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The cgroup that the programs are attached to.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root.path
    }

    /// The rings, to wait for.
    #[must_use]
    pub fn rings(&self) -> [std::os::fd::BorrowedFd<'_>; 3] {
        use std::os::fd::AsFd as _;
        [self.cgroup_events.as_fd(), self.bind_events.as_fd(), self.holder_events.as_fd()]
    }

    /// The kernel side.
    #[must_use]
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// The kernel side, for its trace.
    pub fn kernel_mut(&mut self) -> &mut Kernel {
        &mut self.kernel
    }
}
