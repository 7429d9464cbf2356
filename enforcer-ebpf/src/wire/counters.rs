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

use crate::wire::{MAX_REASONS, Protocol, Reason, VerdictKind};

/// Error inside a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum KernelError {
    /// A bind attempt could not be reported: the verdict ring was full, or the pod had used its share of it. The total is the sum of the attempts at
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
    /// A record about a socket could not be written: the socket log or the socket ring was full, or the cgroup had used its
    /// share.
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

// A port's last attempt is kept as its counter index plus one ([`crate::wire::PortHolder::asked_by`]), and the programs
// ask with one comparison whether it was allowed: every index of an allowed attempt is less than that of any other
// verdict. So `Allow` comes first.
const _: () = {
    let mut place = 0;
    while place < Reason::ALL.len() {
        let reason = Reason::ALL[place];
        assert!((reason as u32) < MAX_REASONS);
        assert!(place == 0 || (Reason::ALL[place - 1] as u32) < reason as u32);
        assert!(counter(VerdictKind::Allow, reason, Protocol::Tcp) < MAX_REASONS);
        assert!(counter(VerdictKind::Audit, reason, Protocol::Tcp) >= MAX_REASONS);
        assert!(counter(VerdictKind::Deny, reason, Protocol::Tcp) >= MAX_REASONS);
        place += 1;
    }
};

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
