//! The table of bound sockets, kept in step with the kernel by the records of its programs and by its socket diagnostics.
//!
//! The programs see a bind that the kernel itself refuses before it is refused, and no program runs after that. So an
//! attempt on a port that another socket holds is pending for a moment: if its socket is not bound by then, and somebody
//! else holds the port ([`BoundSockets::incumbent_of`]), the bind failed because of that holder.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque, hash_map::Entry},
    time::{Duration, Instant},
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
/// Least time between two scans that are made because records were lost, and least part of the time that such scans leave
/// to everything else: whoever binds in a loop causes some at every moment.
const LOST_RECORDS_SCAN_AGE: Duration = Duration::from_millis(400);
const SCAN_TIME_FACTOR: u32 = 10;
/// Most pending attempts, of all and of the processes of one cgroup: one that tries over and over keeps none of another.
const MAX_PENDING: usize = 1024;
const MAX_PENDING_OF_CGROUP: usize = 64;
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
    /// Pending attempts by the cgroup of the calling task.
    pending_of: HashMap<CgroupId, usize>,
    /// Cookies of the sockets that were bound last, in that order.
    bound: VecDeque<SocketCookie>,
    bound_set: HashSet<SocketCookie>,
    /// A socket was bound to a port that another one holds.
    scan_requested: bool,
    /// Records were lost since the last scan.
    lost_records: bool,
    /// Time to read records that came without a wake-up.
    more_at: Option<Duration>,
    scanned_at: Option<Duration>,
    /// Time that the last scan took.
    scan_took: Duration,
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
            pending_of: HashMap::new(),
            bound: VecDeque::new(),
            bound_set: HashSet::new(),
            scan_requested: false,
            lost_records: false,
            more_at: None,
            scanned_at: None,
            scan_took: Duration::ZERO,
        }
    }

    pub(super) fn bound_sockets(&self) -> &BoundSockets {
        &self.sockets
    }

    /// Makes the table agree with the kernel's socket diagnostics. Returns the result, and the ports whose holder has
    /// to be written for the programs again.
    pub(super) fn scan(&mut self, index: &mut Index, now: Duration) -> (SocketScan, BTreeSet<(Protocol, u16)>) {
        self.scanned_at = Some(now);
        let began = Instant::now();
        let done = reconcile(&mut self.sockets, clock::coarse, |cgroup| SocketPlace::of(cgroup, index));
        self.host_names.add_to(&mut self.sockets, index);
        self.sockets.resolve(|cgroup| SocketPlace::of(cgroup, index));
        let live_conflicts = self.reported.new_conflicts(&self.sockets, index, &self.shared);
        self.scan_took = began.elapsed();
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

    /// Notes that records were lost: a scan has to show what they would have.
    pub(super) fn note_lost_records(&mut self) {
        self.lost_records = true;
    }

    /// Checks whether records were lost since the last scan.
    pub(super) const fn has_lost_records(&self) -> bool {
        self.lost_records
    }

    /// Returns whether records were lost before the last scan, and forgets that they were.
    pub(super) fn take_lost_records(&mut self) -> bool {
        std::mem::take(&mut self.lost_records)
    }

    /// Adds an attempt on a port that another socket held.
    pub(super) fn add_pending(&mut self, attempt: Attempt, now: Duration) {
        let of_cgroup = self.pending_of.get(&attempt.cgroup).copied().unwrap_or(0);
        if self.pending.len() < MAX_PENDING && of_cgroup < MAX_PENDING_OF_CGROUP {
            self.pending_of.insert(attempt.cgroup, of_cgroup + 1);
            self.pending.push_back((now + SETTLE, attempt));
        }
    }

    /// Returns when something is to be done next.
    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        let pending = self.pending.front().map(|(due, _)| *due);
        let scan = self.requested_scan_age().map(|age| self.scanned_at.map_or(Duration::ZERO, |at| at + age));
        pending.into_iter().chain(self.more_at).chain(scan).min()
    }

    /// Checks whether to scan the sockets before a holder is named: a pending attempt is due, and the last scan is too
    /// old.
    pub(super) fn needs_scan(&self, now: Duration) -> bool {
        !self.is_fresh(now) && self.pending.front().is_some_and(|(due, _)| *due <= now)
    }

    /// Checks whether to scan because a socket was bound to a port that another one holds, or because records were lost.
    /// Whoever does that again and again does not cause more than one scan in [`MAX_SCAN_AGE`], or in
    /// [`LOST_RECORDS_SCAN_AGE`].
    pub(super) fn take_scan_request(&mut self, now: Duration) -> bool {
        let is_due = self.requested_scan_age().is_some_and(|age| !self.was_scanned_within(age, now));
        if is_due {
            self.scan_requested = false;
        }
        is_due
    }

    /// Returns the age of the last scan at which another one is due, if one is wanted.
    fn requested_scan_age(&self) -> Option<Duration> {
        if self.lost_records {
            Some(LOST_RECORDS_SCAN_AGE.max(self.scan_took * SCAN_TIME_FACTOR))
        } else {
            self.scan_requested.then_some(MAX_SCAN_AGE)
        }
    }

    /// Asks for a scan, which is made at the next [`Self::poll_timeout`].
    pub(super) fn request_scan(&mut self) {
        self.scan_requested = true;
    }

    /// Returns the ports that any process may share.
    pub(super) fn shared_ports(&self) -> &[PortSpec] {
        &self.shared
    }

    /// Checks whether the last scan is recent enough to name holders by it.
    pub(super) fn is_fresh(&self, now: Duration) -> bool {
        self.was_scanned_within(MAX_SCAN_AGE, now)
    }

    fn was_scanned_within(&self, age: Duration, now: Duration) -> bool {
        self.scanned_at.is_some_and(|at| now.saturating_sub(at) < age)
    }

    /// Returns the pending attempts that are due and that failed because somebody else holds the port.
    pub(super) fn failed_binds(&mut self, index: &Index, now: Duration) -> Vec<Report> {
        let mut reports = Vec::new();
        while let Some((_, attempt)) = self.pending.pop_front_if(|(due, _)| *due <= now) {
            if let Entry::Occupied(mut of_cgroup) = self.pending_of.entry(attempt.cgroup) {
                *of_cgroup.get_mut() -= 1;
                if *of_cgroup.get() == 0 {
                    of_cgroup.remove();
                }
            }
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
