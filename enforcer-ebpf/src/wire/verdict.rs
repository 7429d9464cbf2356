//! Verdict on a bind attempt, and its reason: the words of counters, rings, logs and metrics.

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
    /// The owner has a `deletionTimestamp` or is gone, and the caller is of the same workload.
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
    /// Another pod of the caller's workload claims the port.
    Sibling = 12,
}

/// Bound of the discriminants of [`Reason`], present and future: the stride of `COUNTERS`, which never changes.
pub const MAX_REASONS: u32 = 16;

impl Reason {
    /// Every reason, in the order of their discriminants.
    pub const ALL: [Self; 11] = [
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
        Self::Sibling,
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
            12 => Some(Self::Sibling),
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
            Self::Sibling => "sibling",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discriminants_survive_the_wire_and_gaps_are_refused() {
        for reason in Reason::ALL {
            assert_eq!(Reason::from_wire(reason as u8), Some(reason));
        }
        let known: Vec<u8> = (0..=u8::MAX).filter(|wire| Reason::from_wire(*wire).is_some()).collect();
        assert_eq!(known, [0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12]);
        for (place, verdict) in VerdictKind::ALL.into_iter().enumerate() {
            assert_eq!(VerdictKind::from_wire(u8::try_from(place).unwrap()), Some(verdict));
        }
    }
}
