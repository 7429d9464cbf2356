//! The table of holders, kept in step with the kernel: what its programs tell and its socket diagnostics show, and what
//! follows for people.
//!
//! A bind that the kernel itself refuses is seen by the programs before it is refused, and no program is called after. So an
//! attempt on a port that is marked as held is a suspect: if its socket was not bound a moment later, and somebody else
//! holds the port ([`Holders::in_the_way`]), it failed because of that.

use std::{
    collections::{BTreeSet, HashSet, VecDeque},
    time::Duration,
};

use enforcer_ebpf::wire::Protocol;

use enforcer_core::{
    index::Index,
    model::port_spec::PortSpec,
    reports::{
        report::{Attempt, Report},
        ring_records::SocketRelease,
    },
    sockets::{BoundSockets, LiveConflict, ReportedConflicts, Scope, SocketBinding, SocketLimits, SocketPlace},
};

use crate::host::{
    clock::{self, now},
    sock_diag::{self, DiagError},
};

/// How long after an attempt its socket is bound at the latest, in all likelihood, and how long after a record of a holder
/// the next one is told without a wake-up (`QUIET` of the programs, and a bit).
const SETTLE: Duration = Duration::from_millis(60);
/// How old the last look at the sockets may be when somebody is named as a holder.
const FRESH: Duration = Duration::from_secs(1);
/// Most suspects that wait.
const MAX_PENDING: usize = 1024;
/// Most sockets that are remembered as bound, also when they are released again: those of as many suspects, and more.
const MAX_BOUND_COOKIES: usize = 8 * MAX_PENDING;

/// What a look at the sockets of the node brought.
#[derive(Debug, Default)]
pub struct ReconcileReport {
    /// Conflicts that exist and were not told yet.
    pub live_conflicts: Vec<LiveConflict>,
    /// Sockets that could not be read.
    pub errors: Vec<DiagError>,
}

/// See the module's documentation.
pub(super) struct SocketTracker {
    holders: BoundSockets,
    reported: ReportedConflicts,
    shared: Vec<PortSpec>,
    /// Ports of which the programs were told that somebody holds them.
    published: BTreeSet<(Protocol, u16)>,
    pending: VecDeque<(Duration, Attempt)>,
    /// Cookies of the sockets that were bound last, in that order.
    bound: VecDeque<u64>,
    bound_set: HashSet<u64>,
    /// Somebody was bound to a port that another one holds.
    reconcile_now: bool,
    /// When to look for records that nobody was woken for.
    more_at: Option<Duration>,
    reconciled_at: Option<Duration>,
}

/// Result of a reconciliation of the table with the sockets of the node.
#[derive(Debug, Default)]
pub struct DumpReport {
    /// Sockets that no record of the programs had shown.
    pub found: usize,
    /// Sockets that are gone, and whose release no record had shown.
    pub lost: usize,
    /// Protocols whose sockets could not be dumped; their entries stay as they were.
    pub errors: Vec<DiagError>,
}

/// Makes the table agree with the sockets of the node. Entries that one dump does not show are looked for in a second one,
/// so that after this call none is left that is gone. `now` returns the time of the last tick, in nanoseconds since boot,
/// sleep included ([`crate::host::clock::coarse`]).
pub fn reconcile(
    sockets: &mut BoundSockets,
    now: impl Fn() -> u64,
    resolve: impl Fn(u64) -> SocketPlace,
) -> DumpReport {
    let mut report = DumpReport::default();
    for protocol in Protocol::ENFORCED {
        for scope in [Scope::Bound, Scope::Connected] {
            sockets.begin_dump(protocol, now());
            let see = |socket| report.found += usize::from(sockets.record_dumped(&socket, &resolve));
            if let Err(error) = sock_diag::dump(protocol, scope, see) {
                report.errors.push(error);
                break;
            }
            let summary = sockets.end_dump(protocol, scope);
            report.lost += summary.removed;
            if summary.suspects == 0 {
                break;
            }
        }
    }
    report
}

impl SocketTracker {
    /// With the ports that are meant to be shared. Nothing is known yet.
    pub(super) fn new(shared: Vec<PortSpec>) -> Self {
        // Where the kernel cannot be asked, the first look says why.
        let shows_bound = sock_diag::shows_bound().unwrap_or(false);
        Self {
            holders: BoundSockets::new(SocketLimits::default(), shows_bound),
            reported: ReportedConflicts::default(),
            shared,
            published: BTreeSet::new(),
            pending: VecDeque::new(),
            bound: VecDeque::new(),
            bound_set: HashSet::new(),
            reconcile_now: false,
            more_at: None,
            reconciled_at: None,
        }
    }

    pub(super) fn bound_sockets(&self) -> &BoundSockets {
        &self.holders
    }

    /// Makes the table agree with the sockets that there are. Also the ports of which the programs are to be told anew.
    pub(super) fn reconcile(&mut self, index: &Index) -> (ReconcileReport, BTreeSet<(Protocol, u16)>) {
        self.reconciled_at = Some(now().boottime);
        let resolve = |cgroup| SocketPlace::of(cgroup, index);
        let done = reconcile(&mut self.holders, clock::coarse, resolve);
        self.holders.resolve(resolve);
        let existing = self.reported.new_conflicts(&self.holders, index, &self.shared);
        let held: BTreeSet<_> = self.holders.iter().map(|holder| (holder.protocol, holder.port)).collect();
        let changed = self.published.union(&held).copied().collect();
        (ReconcileReport { live_conflicts: existing, errors: done.errors }, changed)
    }

    /// A socket was bound.
    pub(super) fn bound(&mut self, binding: SocketBinding, index: &Index) {
        if self.bound_set.insert(binding.cookie) {
            self.bound.push_back(binding.cookie);
        }
        if self.bound.len() > MAX_BOUND_COOKIES
            && let Some(oldest) = self.bound.pop_front()
        {
            self.bound_set.remove(&oldest);
        }
        self.holders.bound(binding, |cgroup| SocketPlace::of(cgroup, index));
    }

    /// A socket was released.
    pub(super) fn released(&mut self, release: SocketRelease) {
        self.holders.released(release.name, release.time);
    }

    /// Records may follow of which nobody will be told, or do so already.
    pub(super) fn expect_more(&mut self, already: bool) {
        let now = now().boottime;
        self.more_at = Some(if already { now } else { now + SETTLE });
    }

    /// Who holds a port, in the words of the programs: [`enforcer_ebpf::wire::Mark::holder`]. It is taken for told.
    pub(super) fn port_holder(&mut self, protocol: Protocol, port: u16, index: &Index) -> u64 {
        let holder = self.holders.port_holder(protocol, port, index);
        if holder == 0 {
            self.published.remove(&(protocol, port));
        } else {
            self.published.insert((protocol, port));
        }
        holder
    }

    /// An attempt on a port that was marked as held.
    pub(super) fn add_pending(&mut self, attempt: Attempt) {
        if self.pending.len() < MAX_PENDING {
            self.pending.push_back((now().boottime + SETTLE, attempt));
        }
    }

    /// When something is to be done next.
    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        let suspect = self.pending.front().map(|(due, _)| *due);
        let look = self.reconcile_now.then(|| self.reconciled_at.map_or(Duration::ZERO, |at| at + FRESH));
        suspect.into_iter().chain(self.more_at).chain(look).min()
    }

    /// Whether the sockets are to be looked at before somebody is named: a suspect is due, and the last look is too old.
    pub(super) fn needs_reconcile(&mut self) -> bool {
        let now = now().boottime;
        if self.more_at.is_some_and(|at| at <= now) {
            self.more_at = None;
        }
        !self.is_fresh() && self.pending.front().is_some_and(|(due, _)| *due <= now)
    }

    /// Whether to look because somebody was bound to a port that another one holds. Whoever does that again and again does
    /// not make the agent look more often than [`FRESH`].
    pub(super) fn take_reconcile_now(&mut self) -> bool {
        !self.is_fresh() && std::mem::take(&mut self.reconcile_now)
    }

    fn is_fresh(&self) -> bool {
        self.reconciled_at.is_some_and(|at| now().boottime.saturating_sub(at) < FRESH)
    }

    /// The suspects that are due and did fail because somebody holds the port.
    pub(super) fn failed_binds(&mut self, index: &Index) -> Vec<Report> {
        let now = now().boottime;
        let mut reports = Vec::new();
        while let Some((_, attempt)) = self.pending.pop_front_if(|(due, _)| *due <= now) {
            if self.bound_set.contains(&attempt.socket) {
                // It shares the port, maybe. What of that is a conflict the look tells.
                self.reconcile_now |= self.holders.on(attempt.protocol, attempt.port).count() > 1;
            } else if let Some(incumbent) = self.holders.incumbent_of(&attempt, index) {
                reports.push(Report::new(attempt, index).held_by(incumbent));
            }
        }
        reports
    }
}
