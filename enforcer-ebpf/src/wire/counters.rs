//! `COUNTERS`: exact counts, one `u64` per CPU and index.
//!
//! An attempt is counted once: as reported (or needing no report), or as unreported because the ring is full. So a
//! denial in a storm costs one count and not two.
//!
//! The programs add atomically although the counts are per CPU: a hook can be preempted by another one on the same
//! CPU, so a plain `+= 1` would lose counts.
//!
//! Agents of different versions share the pinned map, so an index never changes its meaning: a discriminant that is
//! not used any more stays a gap.

use crate::wire::Protocol;

/// Verdict on a bind attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum VerdictKind {
    /// The bind went on.
    Allow = 0,
    /// The bind went on, and would have been denied in enforce mode.
    Audit = 1,
    /// The bind failed.
    Deny = 2,
}

impl VerdictKind {
    /// Every kind, in the order of their discriminants.
    pub const ALL: [Self; 3] = [Self::Allow, Self::Audit, Self::Deny];

    /// Returns the kind with this discriminant.
    #[must_use]
    pub const fn from_wire(wire: u8) -> Option<Self> {
        match wire {
            0 => Some(Self::Allow),
            1 => Some(Self::Audit),
            2 => Some(Self::Deny),
            _ => None,
        }
    }

    /// Returns the name in logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Audit => "audit",
            Self::Deny => "deny",
        }
    }
}

/// Reason of a verdict. A closed list.
///
/// Discriminants 4 and 9 are gaps: no version of the programs wrote them, and earlier agents knew them as `exempt` and
/// `quota`. They must not be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Reason {
    /// The caller owns every overlapping claim.
    Owner = 0,
    /// Nobody claims the port.
    Unclaimed = 1,
    /// The caller is in the share group that owns the port.
    Share = 2,
    /// The owner has a `deletionTimestamp`, and the caller is of the same workload.
    Handover = 3,
    /// Another pod claims the port.
    Claimed = 5,
    /// The node claims the port.
    Reserved = 6,
    /// Another pod or a host process holds the port.
    Held = 7,
    /// The caller did not declare the port, and undeclared ports are denied.
    Undeclared = 8,
    /// No agent renewed the lease.
    Stale = 10,
    /// The programs could not identify the caller or the owner.
    Error = 11,
}

/// Bound of the discriminants of [`Reason`], present and future: the stride of `COUNTERS`, which never changes.
pub const MAX_REASONS: u32 = 16;

impl Reason {
    /// Every reason, in the order of their discriminants.
    pub const ALL: [Self; 10] = [
        Self::Owner,
        Self::Unclaimed,
        Self::Share,
        Self::Handover,
        Self::Claimed,
        Self::Reserved,
        Self::Held,
        Self::Undeclared,
        Self::Stale,
        Self::Error,
    ];

    /// Returns the reason with this discriminant; `None` for a gap too.
    #[must_use]
    pub const fn from_wire(wire: u8) -> Option<Self> {
        match wire {
            0 => Some(Self::Owner),
            1 => Some(Self::Unclaimed),
            2 => Some(Self::Share),
            3 => Some(Self::Handover),
            5 => Some(Self::Claimed),
            6 => Some(Self::Reserved),
            7 => Some(Self::Held),
            8 => Some(Self::Undeclared),
            10 => Some(Self::Stale),
            11 => Some(Self::Error),
            _ => None,
        }
    }

    /// Returns the name in logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Unclaimed => "unclaimed",
            Self::Share => "share",
            Self::Handover => "handover",
            Self::Claimed => "claimed",
            Self::Reserved => "reserved",
            Self::Held => "held",
            Self::Undeclared => "undeclared",
            Self::Stale => "stale",
            Self::Error => "error",
        }
    }
}

// A port's last attempt is kept as its counter index plus one ([`crate::wire::PortHolder::asked_by`]), and the programs
// ask with one comparison whether it was allowed: every index of an allowed attempt is at most that of
// `(Allow, Error)`, and every other one is greater. So `Allow` comes first, and `Error` is the greatest reason.
const _: () = {
    let mut place = 0;
    while place < Reason::ALL.len() {
        let reason = Reason::ALL[place];
        assert!((reason as u32) < MAX_REASONS);
        assert!(reason as u32 <= Reason::Error as u32);
        assert!(place == 0 || (Reason::ALL[place - 1] as u32) < reason as u32);
        let greatest_allow = counter(VerdictKind::Allow, Reason::Error, Protocol::Tcp);
        assert!(counter(VerdictKind::Allow, reason, Protocol::Tcp) <= greatest_allow);
        assert!(counter(VerdictKind::Audit, reason, Protocol::Tcp) > greatest_allow);
        assert!(counter(VerdictKind::Deny, reason, Protocol::Tcp) > greatest_allow);
        place += 1;
    }
};

/// Error inside a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum KernelError {
    /// A bind attempt could not be reported: the verdict ring was full. The total is the sum of the attempts at
    /// [`unreported_counter`] and of those at this error's own index, for whose records the ring was full when the
    /// program reserved space.
    BindEventLost = 0,
    /// A cgroup event could not be reported: the cgroup ring was full.
    CgroupEventLost = 1,
    /// The map `POD_CGROUPS` is full: a pod's cgroup could not be added.
    CgroupsFull = 2,
    /// Kernel memory could not be read.
    ReadFailed = 3,
    /// The caller is below the attached root but in no known pod cgroup.
    CallerUnknown = 4,
    /// A lookup in an array returned no element.
    MapMiss = 5,
    /// A socket that was bound or released could not be reported: the socket ring was full.
    HolderEventLost = 6,
    /// The holder of a port could not be stored: others can share the port.
    HoldsFull = 7,
}

impl KernelError {
    /// Every kind, in the order of their discriminants.
    pub const ALL: [Self; 8] = [
        Self::BindEventLost,
        Self::CgroupEventLost,
        Self::CgroupsFull,
        Self::ReadFailed,
        Self::CallerUnknown,
        Self::MapMiss,
        Self::HolderEventLost,
        Self::HoldsFull,
    ];

    /// Returns the name in logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BindEventLost => "bind_event_lost",
            Self::CgroupEventLost => "cgroup_event_lost",
            Self::CgroupsFull => "cgroups_full",
            Self::ReadFailed => "read_failed",
            Self::CallerUnknown => "caller_unknown",
            Self::MapMiss => "map_miss",
            Self::HolderEventLost => "holder_event_lost",
            Self::HoldsFull => "holds_full",
        }
    }
}

const VERDICTS: u32 = VerdictKind::ALL.len() as u32;

const ATTEMPTS: u32 = Protocol::ALL.len() as u32 * VERDICTS * MAX_REASONS;

const ERRORS: u32 = 16;

const _: () = assert!(KernelError::ALL.len() as u32 <= ERRORS);

/// Elements of the `COUNTERS` array.
pub const COUNTER_COUNT: u32 = ATTEMPTS + ERRORS + ATTEMPTS;

/// Returns the index of the attempts with this verdict, reason and protocol that were reported or need no report.
#[must_use]
#[inline(always)]
pub const fn counter(verdict: VerdictKind, reason: Reason, protocol: Protocol) -> u32 {
    ((protocol as u32) * VERDICTS + verdict as u32) * MAX_REASONS + reason as u32
}

/// Returns the index of the attempts with this verdict, reason and protocol whose report was lost because the ring was
/// full.
#[must_use]
#[inline(always)]
pub const fn unreported_counter(verdict: VerdictKind, reason: Reason, protocol: Protocol) -> u32 {
    ATTEMPTS + ERRORS + counter(verdict, reason, protocol)
}

/// Returns the index of this error.
#[must_use]
#[inline(always)]
pub const fn error_counter(error: KernelError) -> u32 {
    ATTEMPTS + error as u32
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_count_has_its_own_index() {
        let mut seen = HashSet::new();
        for protocol in Protocol::ALL {
            for verdict in VerdictKind::ALL {
                for reason in Reason::ALL {
                    assert!(seen.insert(counter(verdict, reason, protocol)));
                    assert!(seen.insert(unreported_counter(verdict, reason, protocol)));
                }
            }
        }
        for error in KernelError::ALL {
            assert!(seen.insert(error_counter(error)));
        }
        assert!(seen.iter().all(|index| *index < COUNTER_COUNT));
    }

    #[test]
    fn discriminants_survive_the_wire_and_gaps_are_refused() {
        for reason in Reason::ALL {
            assert_eq!(Reason::from_wire(reason as u8), Some(reason));
        }
        let known: Vec<u8> = (0..=u8::MAX).filter(|wire| Reason::from_wire(*wire).is_some()).collect();
        assert_eq!(known, [0, 1, 2, 3, 5, 6, 7, 8, 10, 11]);
        for (place, verdict) in VerdictKind::ALL.into_iter().enumerate() {
            assert_eq!(VerdictKind::from_wire(u8::try_from(place).unwrap()), Some(verdict));
        }
    }

    #[test]
    fn indexes_of_the_shared_map_do_not_move() {
        let first = counter(VerdictKind::Allow, Reason::Owner, Protocol::Tcp);
        let last = counter(VerdictKind::Deny, Reason::Error, Protocol::Sctp);
        assert_eq!((first, last), (0, 139));
        assert_eq!(counter(VerdictKind::Audit, Reason::Held, Protocol::Udp), 71);
        assert_eq!((error_counter(KernelError::BindEventLost), error_counter(KernelError::HoldsFull)), (144, 151));
        assert_eq!(unreported_counter(VerdictKind::Allow, Reason::Owner, Protocol::Tcp), 160);
        assert_eq!(COUNTER_COUNT, 304);
    }
}
