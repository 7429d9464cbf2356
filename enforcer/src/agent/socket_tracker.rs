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

use enforcer_ebpf::abi::Protocol;

use enforcer_core::{
    index::Index,
    model::port_spec::PortSpec,
    reports::report::{Attempt, Report},
    sockets::{Binding, Existing, Holders, Limits, Place, Reported},
};

use crate::{
    host::{
        clock::{self, now},
        sock_diag::{self, DiagError},
    },
    kernel::ring_records::Release,
};

/// How long after an attempt its socket is bound at the latest, in all likelihood, and how long after a record of a holder
/// the next one is told without a wake-up (`QUIET` of the programs, and a bit).
const SETTLE: Duration = Duration::from_millis(60);
/// How old the last look at the sockets may be when somebody is named as a holder.
const FRESH: Duration = Duration::from_secs(1);
/// Most suspects that wait.
const SUSPECTS: usize = 1024;
/// Most sockets that are remembered as bound, also when they are released again: those of as many suspects, and more.
const REMEMBERED: usize = 8 * SUSPECTS;

/// What a look at the sockets of the node brought.
#[derive(Debug, Default)]
pub struct Looked {
    /// Conflicts that exist and were not told yet.
    pub existing: Vec<Existing>,
    /// Sockets that could not be read.
    pub errors: Vec<DiagError>,
}

/// See the module's documentation.
pub(super) struct Holding {
    holders: Holders,
    reported: Reported,
    shared: Vec<PortSpec>,
    /// Ports of which the programs were told that somebody holds them.
    marked: BTreeSet<(Protocol, u16)>,
    suspects: VecDeque<(Duration, Attempt)>,
    /// Cookies of the sockets that were bound last, in that order.
    bound: VecDeque<u64>,
    bound_set: HashSet<u64>,
    /// Somebody was bound to a port that another one holds.
    look_now: bool,
    /// When to look for records that nobody was woken for.
    more_at: Option<Duration>,
    looked_at: Option<Duration>,
}

impl Holding {
    /// With the ports that are meant to be shared. Nothing is known yet.
    pub(super) fn new(shared: Vec<PortSpec>) -> Self {
        // Where the kernel cannot be asked, the first look says why.
        let shows_bound = sock_diag::shows_bound().unwrap_or(false);
        Self {
            holders: Holders::new(Limits::default(), shows_bound),
            reported: Reported::default(),
            shared,
            marked: BTreeSet::new(),
            suspects: VecDeque::new(),
            bound: VecDeque::new(),
            bound_set: HashSet::new(),
            look_now: false,
            more_at: None,
            looked_at: None,
        }
    }

    pub(super) fn holders(&self) -> &Holders {
        &self.holders
    }

    /// Makes the table agree with the sockets that there are. Also the ports of which the programs are to be told anew.
    pub(super) fn look(&mut self, index: &Index) -> (Looked, BTreeSet<(Protocol, u16)>) {
        self.looked_at = Some(now().monotonic);
        let resolve = |cgroup| Place::of(cgroup, index);
        let done = sock_diag::reconcile(&mut self.holders, clock::coarse, resolve);
        self.holders.resolve(resolve);
        let existing = self.reported.look(&self.holders, index, &self.shared);
        let held: BTreeSet<_> = self.holders.iter().map(|holder| (holder.protocol, holder.port)).collect();
        let changed = self.marked.union(&held).copied().collect();
        (Looked { existing, errors: done.errors }, changed)
    }

    /// A socket was bound.
    pub(super) fn bound(&mut self, binding: Binding, index: &Index) {
        if self.bound_set.insert(binding.cookie) {
            self.bound.push_back(binding.cookie);
        }
        if self.bound.len() > REMEMBERED
            && let Some(oldest) = self.bound.pop_front()
        {
            self.bound_set.remove(&oldest);
        }
        self.holders.bound(binding, |cgroup| Place::of(cgroup, index));
    }

    /// A socket was released.
    pub(super) fn released(&mut self, release: Release) {
        self.holders.released(release.name, release.time);
    }

    /// Records may follow of which nobody will be told, or do so already.
    pub(super) fn expect_more(&mut self, already: bool) {
        let now = now().monotonic;
        self.more_at = Some(if already { now } else { now + SETTLE });
    }

    /// Who holds a port, in the words of the programs: [`enforcer_ebpf::abi::Mark::holder`]. It is taken for told.
    pub(super) fn mark(&mut self, protocol: Protocol, port: u16, index: &Index) -> u64 {
        let holder = self.holders.marked(protocol, port, index);
        if holder == 0 {
            self.marked.remove(&(protocol, port));
        } else {
            self.marked.insert((protocol, port));
        }
        holder
    }

    /// An attempt on a port that was marked as held.
    pub(super) fn suspect(&mut self, attempt: Attempt) {
        if self.suspects.len() < SUSPECTS {
            self.suspects.push_back((now().monotonic + SETTLE, attempt));
        }
    }

    /// When something is to be done next.
    pub(super) fn due(&self) -> Option<Duration> {
        let suspect = self.suspects.front().map(|(due, _)| *due);
        let look = self.look_now.then(|| self.looked_at.map_or(Duration::ZERO, |at| at + FRESH));
        suspect.into_iter().chain(self.more_at).chain(look).min()
    }

    /// Whether the sockets are to be looked at before somebody is named: a suspect is due, and the last look is too old.
    pub(super) fn must_look(&mut self) -> bool {
        let now = now().monotonic;
        if self.more_at.is_some_and(|at| at <= now) {
            self.more_at = None;
        }
        !self.is_fresh() && self.suspects.front().is_some_and(|(due, _)| *due <= now)
    }

    /// Whether to look because somebody was bound to a port that another one holds. Whoever does that again and again does
    /// not make the agent look more often than [`FRESH`].
    pub(super) fn take_look_now(&mut self) -> bool {
        !self.is_fresh() && std::mem::take(&mut self.look_now)
    }

    fn is_fresh(&self) -> bool {
        self.looked_at.is_some_and(|at| now().monotonic.saturating_sub(at) < FRESH)
    }

    /// The suspects that are due and did fail because somebody holds the port.
    pub(super) fn judge(&mut self, index: &Index) -> Vec<Report> {
        let now = now().monotonic;
        let mut reports = Vec::new();
        while let Some((_, attempt)) = self.suspects.pop_front_if(|(due, _)| *due <= now) {
            if self.bound_set.contains(&attempt.socket) {
                // It shares the port, maybe. What of that is a conflict the look tells.
                self.look_now |= self.holders.on(attempt.protocol, attempt.port).count() > 1;
            } else if let Some(incumbent) = self.holders.in_the_way(&attempt, index) {
                reports.push(Report::new(attempt, index).held_by(incumbent));
            }
        }
        reports
    }
}
