//! `COUNTERS`: exact counts, one `u64` per CPU and index.
//!
//! An attempt is counted once: where it is told or need not be, or where it should be told and is not, because the ring is
//! full. So a denial in a storm costs one count and not two.
//!
//! They are added to atomically although they are per CPU: a hook can be preempted by another one on the same CPU, so
//! a plain `+= 1` would lose counts.

use crate::wire::Protocol;

/// What was answered to a bind attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum VerdictKind {
    /// It went on.
    Allow = 0,
    /// It went on, and would have been denied in enforce mode.
    Audit = 1,
    /// It failed.
    Deny = 2,
}

impl VerdictKind {
    /// Every kind, in the order of their discriminants.
    pub const ALL: [Self; 3] = [Self::Allow, Self::Audit, Self::Deny];

    /// The kind with this discriminant.
    #[must_use]
    pub const fn from_wire(wire: u8) -> Option<Self> {
        match wire {
            0 => Some(Self::Allow),
            1 => Some(Self::Audit),
            2 => Some(Self::Deny),
            _ => None,
        }
    }

    /// The word for people and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Audit => "audit",
            Self::Deny => "deny",
        }
    }
}

/// Why a verdict is what it is. A closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Reason {
    /// The caller owns every overlapping claim.
    Owner = 0,
    /// Nobody claims the port.
    Unclaimed = 1,
    /// The caller is in the share group that owns the port.
    Share = 2,
    /// The owner is going, and the caller is of the same workload.
    Handover = 3,
    /// The socket is none of the programs' business.
    Exempt = 4,
    /// Another pod claims the port.
    Claimed = 5,
    /// The node claims the port.
    Reserved = 6,
    /// Another one holds the port.
    Held = 7,
    /// The caller did not declare the port, and undeclared ports are denied.
    Undeclared = 8,
    /// More was claimed than one pod may.
    Quota = 9,
    /// No agent renewed the lease.
    Stale = 10,
    /// The programs could not find out who is asking or who owns.
    Error = 11,
}

impl Reason {
    /// Every reason, in the order of their discriminants.
    pub const ALL: [Self; 12] = [
        Self::Owner,
        Self::Unclaimed,
        Self::Share,
        Self::Handover,
        Self::Exempt,
        Self::Claimed,
        Self::Reserved,
        Self::Held,
        Self::Undeclared,
        Self::Quota,
        Self::Stale,
        Self::Error,
    ];

    /// The reason with this discriminant.
    #[must_use]
    pub const fn from_wire(wire: u8) -> Option<Self> {
        if (wire as usize) < Self::ALL.len() { Some(Self::ALL[wire as usize]) } else { None }
    }

    /// The word for people and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Unclaimed => "unclaimed",
            Self::Share => "share",
            Self::Handover => "handover",
            Self::Exempt => "exempt",
            Self::Claimed => "claimed",
            Self::Reserved => "reserved",
            Self::Held => "held",
            Self::Undeclared => "undeclared",
            Self::Quota => "quota",
            Self::Stale => "stale",
            Self::Error => "error",
        }
    }
}

/// What can go wrong inside a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum KernelError {
    /// A bind attempt could not be reported, the ring was full. All in all these are the attempts at [`untold_counter`] and
    /// those at this error's own index, for whose records room was gone when they came to ask for it.
    BindEventLost = 0,
    /// A cgroup event could not be reported, the ring was full.
    CgroupEventLost = 1,
    /// `CGROUPS` is full: a pod's identity could not be noted.
    CgroupsFull = 2,
    /// Kernel memory could not be read.
    ReadFailed = 3,
    /// The caller is below the attached root but in no pod's cgroup that is known.
    CallerUnknown = 4,
    /// `CONFIG` or `OWNERS` gave no element.
    MapMiss = 5,
    /// A socket that was bound or released could not be reported, the ring was full.
    HolderEventLost = 6,
    /// There was no room to note who holds a port: others can share it.
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

    /// The word for people and metrics.
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

const ATTEMPTS: u32 = 3 * 3 * 16;

const ERRORS: u32 = 16;

/// Elements of the `COUNTERS` array.
pub const COUNTER_COUNT: u32 = ATTEMPTS + ERRORS + ATTEMPTS;

/// Index of the count of attempts with this verdict, reason and protocol that were told or need not be.
#[must_use]
#[inline(always)]
pub const fn counter(verdict: VerdictKind, reason: Reason, protocol: Protocol) -> u32 {
    ((protocol as u32) * 3 + verdict as u32) * 16 + reason as u32
}

/// Index of the count of attempts with this verdict, reason and protocol that should be told, and for which the ring had no
/// room.
#[must_use]
#[inline(always)]
pub const fn unreported_counter(verdict: VerdictKind, reason: Reason, protocol: Protocol) -> u32 {
    ATTEMPTS + ERRORS + counter(verdict, reason, protocol)
}

/// Index of the count of this error.
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
    fn every_count_has_an_index_of_its_own() {
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
    fn discriminants_are_places_in_the_lists() {
        for (place, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place);
            assert_eq!(Reason::from_wire(reason as u8), Some(reason));
        }
        assert_eq!(Reason::from_wire(12), None);
        for (place, verdict) in VerdictKind::ALL.into_iter().enumerate() {
            assert_eq!(VerdictKind::from_wire(u8::try_from(place).unwrap()), Some(verdict));
        }
    }
}
