//! The table of bound sockets, kept in step with the kernel by the records of its programs and by its socket diagnostics.
//!
//! The programs see a bind that the kernel itself refuses before it is refused, and no program runs after that. So an
//! attempt on a port that another socket holds is pending for a moment: if its socket is not bound by then, and somebody
//! else holds the port ([`BoundSockets::incumbent_of`]), the bind failed because of that holder.

use std::{
    collections::{BTreeSet, HashSet, VecDeque},
    time::Duration,
};

use enforcer_ebpf::wire::Protocol;

use enforcer_core::{
    index::Index,
    model::{
        attempt::Attempt,
        kernel_ids::{BootNanos, CgroupId, SocketCookie},
        port_spec::PortSpec,
    },
    reports::{report::Report, ring_records::SocketRelease},
    sockets::{BoundSockets, LiveConflict, ReportedConflicts, Scope, SocketBinding, SocketLimits, SocketPlace},
};

use crate::host::{
    clock,
    host_processes::HostNames,
    sock_diag::{self, DiagError},
};

/// Time within which the socket of an attempt is bound, in all likelihood, and within which a socket record that follows
/// another one comes without a wake-up (`INTERVAL_NS` in enforcer-ebpf/src/bpf/emit/wakeup.rs, and a bit).
const SETTLE: Duration = Duration::from_millis(60);
/// Greatest age of the last scan of the sockets when a holder is named.
const MAX_SCAN_AGE: Duration = Duration::from_secs(1);
/// Most pending attempts.
const MAX_PENDING: usize = 1024;
/// Most cookies of bound sockets that are kept, released sockets included: those of as many pending attempts, and more.
const MAX_BOUND_COOKIES: usize = 8 * MAX_PENDING;

/// Result of a comparison with the kernel's socket diagnostics.
#[derive(Debug, Default)]
pub(super) struct SocketScan {
    /// Conflicts that were not reported yet.
    pub(super) live_conflicts: Vec<LiveConflict>,
    /// Sockets that could not be read.
    pub(super) errors: Vec<DiagError>,
}

/// Table of bound sockets, and the attempts that wait for their end. All times are since boot.
pub(super) struct SocketTracker {
    sockets: BoundSockets,
    host_names: HostNames,
    reported: ReportedConflicts,
    shared: Vec<PortSpec>,
    /// Ports whose holder the programs know.
    published: BTreeSet<(Protocol, u16)>,
    pending: VecDeque<(Duration, Attempt)>,
    /// Cookies of the sockets that were bound last, in that order.
    bound: VecDeque<SocketCookie>,
    bound_set: HashSet<SocketCookie>,
    /// A socket was bound to a port that another one holds.
    scan_requested: bool,
    /// Time to read records that came without a wake-up.
    more_at: Option<Duration>,
    scanned_at: Option<Duration>,
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

/// Makes the table agree with the sockets of the node. Entries that one dump does not show are looked for in a second
/// one, so that after this call none is left that is gone. `now` returns the time of the last tick
/// ([`crate::host::clock::coarse`]).
pub fn reconcile(
    sockets: &mut BoundSockets,
    now: impl Fn() -> BootNanos,
    resolve: impl Fn(CgroupId) -> SocketPlace,
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
    /// Returns an empty table. Sharing one of the `shared` ports is no conflict.
    pub(super) fn new(shared: Vec<PortSpec>, host_names: HostNames) -> Self {
        // If the kernel cannot be asked, the first scan reports why.
        let shows_bound = sock_diag::shows_bound().unwrap_or(false);
        Self {
            sockets: BoundSockets::new(SocketLimits::default(), shows_bound),
            host_names,
            reported: ReportedConflicts::default(),
            shared,
            published: BTreeSet::new(),
            pending: VecDeque::new(),
            bound: VecDeque::new(),
            bound_set: HashSet::new(),
            scan_requested: false,
            more_at: None,
            scanned_at: None,
        }
    }

    pub(super) fn bound_sockets(&self) -> &BoundSockets {
        &self.sockets
    }

    /// Makes the table agree with the kernel's socket diagnostics. Returns the result, and the ports whose holder has
    /// to be written for the programs again.
    pub(super) fn scan(&mut self, index: &mut Index, now: Duration) -> (SocketScan, BTreeSet<(Protocol, u16)>) {
        self.scanned_at = Some(now);
        let done = reconcile(&mut self.sockets, clock::coarse, |cgroup| SocketPlace::of(cgroup, index));
        self.host_names.add_to(&mut self.sockets, index);
        self.sockets.resolve(|cgroup| SocketPlace::of(cgroup, index));
        let live_conflicts = self.reported.new_conflicts(&self.sockets, index, &self.shared);
        let held: BTreeSet<_> = self.sockets.iter().map(|socket| (socket.protocol, socket.port)).collect();
        let changed = self.published.union(&held).copied().collect();
        (SocketScan { live_conflicts, errors: done.errors }, changed)
    }

    /// Adds a socket that was bound.
    pub(super) fn bound(&mut self, binding: SocketBinding, index: &Index) {
        if self.bound_set.insert(binding.cookie) {
            self.bound.push_back(binding.cookie);
        }
        if self.bound.len() > MAX_BOUND_COOKIES
            && let Some(oldest) = self.bound.pop_front()
        {
            self.bound_set.remove(&oldest);
        }
        self.sockets.bound(binding, |cgroup| SocketPlace::of(cgroup, index));
    }

    /// Removes a socket that was released.
    pub(super) fn released(&mut self, release: SocketRelease) {
        self.sockets.released(release.name, release.time);
    }

    /// Expects records without a wake-up, `already` or soon.
    pub(super) fn expect_more(&mut self, already: bool, now: Duration) {
        self.more_at = Some(if already { now } else { now + SETTLE });
    }

    /// Forgets that records were expected by now. To be called before the ring is read, which may expect more at once.
    pub(super) fn read_expected(&mut self, now: Duration) {
        self.more_at.take_if(|at| *at <= now);
    }

    /// Returns the holder of a port as the programs encode it, to be written for them.
    pub(super) fn port_holder(&mut self, protocol: Protocol, port: u16, index: &Index) -> u64 {
        let holder = self.sockets.port_holder(protocol, port, index);
        if holder == 0 {
            self.published.remove(&(protocol, port));
        } else {
            self.published.insert((protocol, port));
        }
        holder
    }

    /// Adds an attempt on a port that another socket held.
    pub(super) fn add_pending(&mut self, attempt: Attempt, now: Duration) {
        if self.pending.len() < MAX_PENDING {
            self.pending.push_back((now + SETTLE, attempt));
        }
    }

    /// Returns when something is to be done next.
    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        let pending = self.pending.front().map(|(due, _)| *due);
        let scan = self.scan_requested.then(|| self.scanned_at.map_or(Duration::ZERO, |at| at + MAX_SCAN_AGE));
        pending.into_iter().chain(self.more_at).chain(scan).min()
    }

    /// Checks whether to scan the sockets before a holder is named: a pending attempt is due, and the last scan is too
    /// old.
    pub(super) fn needs_scan(&self, now: Duration) -> bool {
        !self.is_fresh(now) && self.pending.front().is_some_and(|(due, _)| *due <= now)
    }

    /// Checks whether to scan because a socket was bound to a port that another one holds. Whoever does that again and
    /// again does not cause more than one scan in [`MAX_SCAN_AGE`].
    pub(super) fn take_scan_request(&mut self, now: Duration) -> bool {
        !self.is_fresh(now) && std::mem::take(&mut self.scan_requested)
    }

    fn is_fresh(&self, now: Duration) -> bool {
        self.scanned_at.is_some_and(|at| now.saturating_sub(at) < MAX_SCAN_AGE)
    }

    /// Returns the pending attempts that are due and that failed because somebody else holds the port.
    pub(super) fn failed_binds(&mut self, index: &Index, now: Duration) -> Vec<Report> {
        let mut reports = Vec::new();
        while let Some((_, attempt)) = self.pending.pop_front_if(|(due, _)| *due <= now) {
            if self.bound_set.contains(&attempt.socket) {
                // It may share the port. If that is a conflict, the scan finds it.
                self.scan_requested |= self.sockets.on(attempt.protocol, attempt.port).count() > 1;
            } else if let Some(incumbent) = self.sockets.incumbent_of(&attempt, index) {
                reports.push(Report::new(attempt, index).held_by(incumbent));
            }
        }
        reports
    }
}
