//! The reconciler: applies inputs to the index and to the kernel's maps, and queues outputs.
//!
//! It never waits. The caller passes inputs with the time ([`Reconciler::handle_input`]), calls
//! [`Reconciler::handle_timeout`] when [`Reconciler::poll_timeout`] is due, and takes outputs from
//! [`Reconciler::poll_output`]. Tests drive the same methods step by step.

mod answered_ports;
mod api_updates;
mod pods;
mod rings;
mod socket_scan;
mod state;
mod takeover;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    path::Path,
    time::{Duration, Instant},
};

use aya::maps::{MapData, RingBuf};
use enforcer_ebpf::wire::{NodeMode, Policy, Protocol};

use enforcer_core::{
    index::{Index, Settings},
    manifests::FolderContents,
    model::{
        kernel_ids::{BootNanos, CgroupId},
        name::Name,
        namespace_label::NamespaceLabel,
        now::Now,
        port_spec::PortSpec,
        source::ClaimOrigin,
    },
    plan::{port_state::Change, recover::RecoveredOwner},
    reports::failing_binds::FailingBinds,
    sockets::observed_ports::ObservedPorts,
    views::unenforced_time::{PredecessorState, should_enforce},
};

use self::answered_ports::AnswerWatch;
use crate::{
    agent::{
        error::ReconcilerError,
        input::{FolderRead, Input},
        output::{Output, TakeoverProblem, TakeoverSummary},
        own_sockets::OwnSockets,
        socket_tracker::SocketTracker,
    },
    host::{
        cgroup::{MOUNTINFO, Root, scan},
        clock::now,
        host_processes::HostNames,
        netns,
    },
    kernel::{
        Kernel, LoadOptions,
        pins::{Persistence, Previous},
        probe::Features,
        socket_log::SocketLog,
    },
};

/// Configuration of a reconciler.
#[derive(Clone, Debug)]
pub struct Start {
    /// The cgroup to attach to.
    pub root: Root,
    /// Rules for claims.
    pub settings: Settings,
    /// Policy of the programs.
    pub policy: Policy,
    /// Features of this kernel.
    pub features: Features,
    /// Switch for a trace, which the programs write.
    pub trace: bool,
    /// Time for which persistent programs deny after the last renewal; `None` for ever.
    pub lease: Option<Duration>,
    /// Ports that any process may share.
    pub shared_ports: Vec<PortSpec>,
    /// Owners of a boot state, which are restored if no agent left anything.
    pub boot_state: Option<Vec<RecoveredOwner>>,
}

/// Returns when a lease that is renewed now expires; `None` is never.
fn deadline(lease: Option<Duration>) -> Option<BootNanos> {
    lease.map(|lease| BootNanos::after_boot(now().boottime + lease))
}

/// Index, kernel side and table of sockets, kept in step.
pub struct Reconciler {
    index: Index,
    kernel: Kernel,
    root: Root,
    cgroup_ring: RingBuf<MapData>,
    verdict_ring: RingBuf<MapData>,
    socket_ring: RingBuf<MapData>,
    socket_log: SocketLog,
    outputs: VecDeque<Output>,
    cgroup_events_lost: u64,
    cgroup_events_seen: u64,
    socket_records_lost: u64,
    /// Removed cgroups that the index does not know of yet.
    removed_cgroups: Vec<CgroupId>,
    /// The place of some cgroup is unknown, so the tree has to be read.
    unplaced_cgroups: bool,
    /// The last batch left verdicts in their ring.
    verdict_backlog: bool,
    /// Time to read verdicts that came without a wake-up.
    verdicts_at: Option<Duration>,
    /// Time from which a change of pods may read socket records again.
    drain_for_pods_at: Option<Instant>,
    lease: Option<Duration>,
    previous: Option<Previous>,
    predecessor: PredecessorState,
    takeover: Option<TakeoverSummary>,
    /// Time at which the previous agent's maps were filled from a boot state.
    boot_restored_at: Option<BootNanos>,
    /// What was in force before this agent is in force again.
    restored: bool,
    /// Number of times that what is in force may have changed.
    claim_changes: u64,
    sockets: SocketTracker,
    failing_binds: FailingBinds,
    observed_ports: ObservedPorts,
    answers: AnswerWatch,
    own_sockets: OwnSockets,
    /// The node's own mode, as it was reported last.
    node_mode: NodeMode,
}

impl Reconciler {
    /// Loads the programs, restores the previous agent's owners, and reads the cgroup tree. The loaded programs judge no
    /// bind before [`Self::attach`]; the previous agent's do until then.
    ///
    /// # Errors
    ///
    /// If the kernel refuses something that is required.
    pub fn load(start: Start, persistence: Option<Persistence>) -> Result<Self, ReconcilerError> {
        let Start { root, settings, policy, features, trace, lease, shared_ports, boot_state } = start;
        // Programs that end with their agent need no lease.
        let lease = lease.filter(|_| persistence.as_ref().is_some_and(|persistence| persistence.persist));
        let mut kernel = Kernel::load(LoadOptions {
            cgroup: root.path.clone(),
            cgroup_id: root.id,
            cgroup_level: root.level,
            netns_cookie: netns::cookie().map_err(ReconcilerError::Netns)?,
            policy,
            lease_deadline: deadline(lease),
            shared_ports: shared_ports.iter().flat_map(PortSpec::indexes).collect(),
            persistence,
            features,
            trace,
        })?;
        let cgroup_ring = kernel.take_cgroup_ring()?;
        let verdict_ring = kernel.take_verdict_ring()?;
        let socket_ring = kernel.take_socket_ring()?;
        let socket_log = kernel.take_socket_log()?;
        let socket_records_lost = kernel.counters().socket_records_lost()?;
        let mut outputs = VecDeque::new();
        let (previous, predecessor) = match kernel.take_previous() {
            Ok(Some(previous)) => {
                let enforced = should_enforce(previous.policy().enforce, kernel.node_mode());
                let found = PredecessorState::Left { enforced, lease_deadline: previous.lease_deadline() };
                (Some(previous), found)
            }
            Ok(None) if boot_state.is_some() => (None, PredecessorState::BootState),
            Ok(None) if kernel.is_persistent() => (None, PredecessorState::Nothing),
            Ok(None) => (None, PredecessorState::NotKept),
            Err(error) => {
                outputs.push_back(Output::TakeoverProblem(TakeoverProblem::Unreadable(error.to_string())));
                // Its programs judge; nothing else is known of them.
                (None, PredecessorState::Left { enforced: true, lease_deadline: None })
            }
        };
        let hierarchy = Root::hierarchy(Path::new(MOUNTINFO)).ok().map(|hierarchy| hierarchy.path);
        let host_names = HostNames::new(hierarchy, root.path.clone());
        let mut reconciler = Self {
            index: Index::new(settings, root.id),
            kernel,
            root,
            cgroup_ring,
            verdict_ring,
            socket_ring,
            socket_log,
            outputs,
            cgroup_events_lost: 0,
            cgroup_events_seen: 0,
            socket_records_lost,
            removed_cgroups: Vec::new(),
            unplaced_cgroups: false,
            verdict_backlog: false,
            verdicts_at: None,
            drain_for_pods_at: None,
            lease,
            previous,
            predecessor,
            takeover: None,
            boot_restored_at: None,
            restored: false,
            claim_changes: 0,
            sockets: SocketTracker::new(shared_ports, host_names),
            failing_binds: FailingBinds::default(),
            observed_ports: ObservedPorts::default(),
            answers: AnswerWatch::default(),
            own_sockets: OwnSockets::default(),
            node_mode: NodeMode::Unset,
        };
        reconciler.restore(boot_state, now());
        // The programs that watch cgroups run already: a cgroup that is made from now on is seen twice rather than never.
        reconciler.rescan(now())?;
        Ok(reconciler)
    }

    /// Applies an input and queues its outputs.
    ///
    /// # Errors
    ///
    /// If the kernel's events are lost for good.
    pub fn handle_input(&mut self, input: Input, now: Now) -> Result<(), ReconcilerError> {
        if matches!(input, Input::Update(..) | Input::Folder(_) | Input::CgroupRing | Input::Resync) {
            self.answers.note_change();
        }
        match input {
            Input::Update(arrived, update) => self.handle_update(arrived, update, now),
            Input::Folder(read) => self.handle_folder(read, now),
            Input::CgroupRing => self.drain_cgroup_ring(now)?,
            Input::VerdictRing => {
                self.drain_verdict_ring(now)?;
                self.expect_verdicts(now);
            }
            Input::SocketRing => self.settle_sockets(now)?,
            Input::Rings => {
                self.drain_verdict_ring(now)?;
                self.settle_sockets(now)?;
            }
            Input::RenewLease => {
                self.renew_lease(now);
                self.observe_node_mode();
            }
            Input::ScanSockets => {
                // Their records say more than the sockets do.
                self.settle_sockets(now)?;
                let scan = self.scan_sockets(now);
                self.push_scan(scan);
            }
            Input::Resync => {
                self.rescan(now)?;
                let counters = self.counters();
                self.push(Output::Counters(counters));
            }
        }
        Ok(())
    }

    /// Does what [`Self::poll_timeout`] is due for.
    ///
    /// # Errors
    ///
    /// As [`Self::handle_input`].
    pub fn handle_timeout(&mut self, now: Now) -> Result<(), ReconcilerError> {
        let is_due = |at: Option<Duration>| at.is_some_and(|at| at <= now.boottime);
        if is_due(self.index.poll_timeout()) {
            self.index.handle_timeout(now);
            self.flush();
        }
        if is_due(self.sockets.poll_timeout()) {
            self.settle_sockets(now)?;
        }
        if is_due(self.verdicts_at) {
            self.verdicts_at = None;
            self.drain_verdict_ring(now)?;
        }
        if is_due(self.answers_timeout()) {
            self.settle_answers(now)?;
        }
        Ok(())
    }

    /// Returns when [`Self::handle_timeout`] is due, as time since boot; `None` if nothing waits.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        let timeouts =
            [self.index.poll_timeout(), self.sockets.poll_timeout(), self.verdicts_at, self.answers_timeout()];
        timeouts.into_iter().flatten().min()
    }

    /// Takes the next output.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn push(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    fn handle_folder(&mut self, FolderRead { path, watch_error, contents }: FolderRead, now: Now) {
        if let Some(error) = watch_error {
            self.push(Output::FolderUnwatched(error));
        }
        match contents {
            Ok(FolderContents { pods, problems }) => {
                self.outputs.extend(problems.into_iter().map(Output::ManifestProblem));
                self.push(Output::FolderRead);
                if !self.index.is_source_synced(ClaimOrigin::Pods) {
                    // Here no namespace has a label, whatever the previous agent knew.
                    self.reset_namespace_labels(NamespaceLabel::Mode, &HashMap::new());
                }
                self.reset(pods, now);
            }
            Err(error) => self.push(Output::FolderLost { path, error }),
        }
    }

    /// Drains the cgroup ring before and after pods are applied. A pod is applied even if the tree cannot be read.
    fn update_cgroups(&mut self, now: Now) {
        if let Err(error) = self.drain_cgroup_ring(now) {
            self.push(Output::CgroupScanFailed(error));
        }
    }

    /// Reads the whole cgroup tree: the safety net below the events.
    ///
    /// # Errors
    ///
    /// If the tree cannot be read.
    pub fn rescan(&mut self, now: Now) -> Result<(), ReconcilerError> {
        let entries = scan(&self.root)?;
        let mut present = HashSet::with_capacity(entries.len());
        for entry in &entries {
            present.insert(entry.id);
            self.index.cgroup_created(entry.id, entry.parent, &entry.name, now);
        }
        self.index.reset_cgroups(&present, now);
        self.flush();
        Ok(())
    }

    /// Ends the handover reservations of a port, and returns their names.
    pub(super) fn release(&mut self, protocol: Protocol, port: u16, now: Now) -> Vec<Name> {
        let released = self.index.release(protocol, port, now);
        self.flush();
        if !released.is_empty() {
            self.push(Output::HandoverReleased { protocol, port, names: released.clone() });
        }
        released
    }

    /// Writes the pending changes of the index to the kernel's maps, in order.
    fn flush(&mut self) {
        let output = self.index.drain_output();
        self.claim_changes += u64::from(output.changes.iter().any(Change::concerns_claims));
        for change in &output.changes {
            if let Err(error) = self.kernel.apply(change) {
                self.outputs.push_back(Output::MapFailure(error));
            }
        }
        self.outputs.extend(output.notices.into_iter().map(Output::Notice));
        if output.relist {
            self.push(Output::RelistPods);
        }
    }

    /// Moves the end of the lease, which shows the programs that an agent is alive.
    fn renew_lease(&mut self, now: Now) {
        let before = self.kernel.lease_deadline();
        self.kernel.renew(deadline(self.lease));
        let counts = before.is_some() && should_enforce(self.policy().enforce, self.node_mode());
        let expired = before.map_or(Duration::ZERO, |before| now.boottime.saturating_sub(before.since_boot()));
        let unenforced = if counts { expired } else { Duration::ZERO };
        self.push(Output::LeaseRenewed { unenforced, deadline: self.lease_deadline() });
    }

    /// Reports the mode that an operator set on the node, if it changed.
    fn observe_node_mode(&mut self) {
        let mode = self.node_mode();
        if std::mem::replace(&mut self.node_mode, mode) != mode {
            self.push(Output::NodeMode(mode));
        }
    }

    /// Changes the policy of the running programs.
    pub fn set_policy(&self, policy: Policy) {
        self.kernel.set_policy(policy);
    }

    /// Changes whether the programs report every attempt.
    pub(super) fn set_report_attempts(&self, report_attempts: bool) {
        let mut policy = self.policy();
        if policy.report_attempts != report_attempts {
            policy.report_attempts = report_attempts;
            self.set_policy(policy);
        }
    }
}
