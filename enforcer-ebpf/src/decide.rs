//! The verdict on a bind attempt: the heart of the product.
//!
//! Three pure steps, the same in the kernel and on the host:
//!
//! 1. [`Cover::of`]: which addresses the attempt reaches;
//! 2. [`Candidates::of`]: whose claims among those in force on the port overlap that;
//! 3. [`decide`]: what that means for this caller under this policy.
//!
//! Nothing here reads a map, a context or a clock, and nothing here takes a port: that is done under a lock elsewhere.

use crate::abi::{
    OWNER_MODE_AUDIT, OWNER_MODE_ENFORCE, OWNER_NODE, OWNER_SOFTWARE, OWNER_TERMINATING, Owner, Policy, PortWord,
    Reason, Side, Slot, Undeclared, VerdictKind,
};

/// How much of an address family a socket reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reach {
    /// Nothing of it.
    Nothing,
    /// One address.
    One,
    /// Every address: the wildcard.
    Every,
}

/// Which addresses a bind reaches. At most one side is [`Reach::One`], and then the other one is [`Reach::Nothing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cover {
    /// Its IPv4 side.
    pub v4: Reach,
    /// Its IPv6 side.
    pub v6: Reach,
}

/// The address of a bind attempt, in the way the kernel's checks look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// An IPv4 address, also one given as `::ffff:a.b.c.d`; all zeros is the wildcard. Network byte order.
    V4([u8; 4]),
    /// An IPv6 address; all zeros is the wildcard.
    V6 {
        /// Network byte order.
        address: [u8; 16],
        /// The socket is known to be IPv6 only. Where that is not known, `::` is taken to be dual-stack.
        v6only: bool,
    },
}

impl Cover {
    /// The cover of a bind to this address.
    #[must_use]
    #[inline(always)]
    pub fn of(target: &Target) -> Self {
        match target {
            Target::V4(address) => Self {
                v4: if u32::from_ne_bytes(*address) == 0 { Reach::Every } else { Reach::One },
                v6: Reach::Nothing,
            },
            Target::V6 { address, v6only } => {
                if u128::from_ne_bytes(*address) != 0 {
                    Self { v4: Reach::Nothing, v6: Reach::One }
                } else if *v6only {
                    Self { v4: Reach::Nothing, v6: Reach::Every }
                } else {
                    Self { v4: Reach::Every, v6: Reach::Every }
                }
            }
        }
    }
}

/// The owners of the claims that overlap an attempt, by slot; 0 where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidates {
    /// Slots. They may repeat.
    pub slots: [Slot; 4],
    /// The port has address-specific claims on the attempt's side: the owner of the very address, if there is one,
    /// is to be looked up in `EXACT` and put into `slots[0]`, and the attempt is then `covered`.
    pub exact: bool,
    /// Every address that the attempt reaches is claimed by `slots`.
    pub covered: bool,
}

impl Candidates {
    /// The candidates on a port for a bind with this cover.
    #[must_use]
    #[inline(always)]
    pub fn of(word: PortWord, cover: Cover) -> Self {
        let (v4, v4_exact, v4_covered) = side(word.v4(), cover.v4);
        let (v6, v6_exact, v6_covered) = side(word.v6(), cover.v6);
        Self { slots: [v4.0, v4.1, v6.0, v6.1], exact: v4_exact || v6_exact, covered: v4_covered && v6_covered }
    }
}

#[inline(always)]
fn side(side: Side, reach: Reach) -> ((Slot, Slot), bool, bool) {
    match reach {
        Reach::Nothing => ((0, 0), false, true),
        Reach::Every => ((side.first, side.second), false, side.whole),
        Reach::One if side.whole => ((side.first, 0), false, true),
        Reach::One => ((0, 0), side.first != 0, false),
    }
}

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A process outside the attached subtree: the node itself.
    Host,
    /// A pod that the agent knows.
    Pod(Owner),
    /// A process in a pod's cgroup with a UID of the API's form, of a pod that the agent does not know.
    UnknownApi,
    /// A process in a pod's cgroup with a UID of a static pod's form, of a pod that the agent does not know.
    UnknownStatic,
    /// A process below the attached root that is in no pod's cgroup we know of.
    Unresolved,
}

impl Caller {
    /// Node software: never denied, and allowed what the node claims.
    #[must_use]
    #[inline(always)]
    pub fn is_software(&self) -> bool {
        match self {
            Self::Host | Self::UnknownStatic => true,
            Self::Pod(owner) => owner.flags() & OWNER_SOFTWARE != 0,
            Self::UnknownApi | Self::Unresolved => false,
        }
    }
}

/// A verdict with what led to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What is answered.
    pub kind: VerdictKind,
    /// Why.
    pub reason: Reason,
    /// Which of the candidates decided: its place in [`Candidates::slots`].
    pub by: Option<u8>,
}

impl Verdict {
    /// An allowed attempt that no claim decided.
    #[must_use]
    #[inline(always)]
    pub const fn allow(reason: Reason) -> Self {
        Self { kind: VerdictKind::Allow, reason, by: None }
    }
}

/// What an owner is to a caller; later ones are stronger.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Relation {
    /// No claim at all.
    Absent,
    Owner,
    Share,
    Handover,
    Foreign,
}

#[inline(always)]
fn relation(owner: &Owner, caller: &Caller) -> Relation {
    if owner.id() == 0 {
        return Relation::Absent;
    }
    if owner.flags() & OWNER_NODE != 0 {
        return if caller.is_software() { Relation::Owner } else { Relation::Foreign };
    }
    let Caller::Pod(pod) = caller else {
        return Relation::Foreign;
    };
    if owner.id() == pod.id() {
        Relation::Owner
    } else if owner.group() != 0 && owner.group() == pod.group() {
        Relation::Share
    } else if owner.flags() & OWNER_TERMINATING != 0 && owner.workload() != 0 && owner.workload() == pod.workload() {
        Relation::Handover
    } else {
        Relation::Foreign
    }
}

/// Decides on an attempt to bind `port`.
///
/// `owners` are the elements of `OWNERS` for [`Candidates::slots`] (slot 0 holds zeros and stands for no claim), and
/// `covered` is [`Candidates::covered`]. Of several conflicts the first one decides; of several claims that all allow,
/// the weakest reason does (`owner` before `share` before `handover`).
#[must_use]
#[inline(always)]
pub fn decide(owners: &[Owner; 4], covered: bool, caller: &Caller, port: u16, policy: &Policy) -> Verdict {
    if port == 0 {
        // The kernel picks a free port.
        return Verdict::allow(Reason::Unclaimed);
    }
    // Constant places: old verifiers refuse a read of the stack at a place that varies.
    let relations = [
        relation(&owners[0], caller),
        relation(&owners[1], caller),
        relation(&owners[2], caller),
        relation(&owners[3], caller),
    ];
    let (by, strongest) = strongest(&relations);
    match strongest {
        Relation::Foreign => {
            let owner_flags = match by {
                0 => owners[0].flags(),
                1 => owners[1].flags(),
                2 => owners[2].flags(),
                _ => owners[3].flags(),
            };
            let reason = if owner_flags & OWNER_NODE != 0 { Reason::Reserved } else { Reason::Claimed };
            conflict(reason, Some(by), caller, policy)
        }
        Relation::Handover if covered || !is_bound_by_declaration(caller, policy) => {
            Verdict { kind: VerdictKind::Allow, reason: Reason::Handover, by: Some(by) }
        }
        Relation::Share if covered || !is_bound_by_declaration(caller, policy) => {
            Verdict { kind: VerdictKind::Allow, reason: Reason::Share, by: Some(by) }
        }
        Relation::Owner if covered || !is_bound_by_declaration(caller, policy) => {
            Verdict { kind: VerdictKind::Allow, reason: Reason::Owner, by: Some(by) }
        }
        Relation::Absent if !is_bound_by_declaration(caller, policy) => Verdict::allow(Reason::Unclaimed),
        Relation::Absent | Relation::Owner | Relation::Share | Relation::Handover => {
            conflict(Reason::Undeclared, None, caller, policy)
        }
    }
}

/// Whether the caller may bind only what it declared. Host processes declare nothing, so the rule is not for them.
#[inline(always)]
fn is_bound_by_declaration(caller: &Caller, policy: &Policy) -> bool {
    matches!(policy.undeclared, Undeclared::Deny) && !matches!(caller, Caller::Host)
}

#[inline(always)]
fn strongest(relations: &[Relation; 4]) -> (u8, Relation) {
    let (mut by, mut strongest) = (0, relations[0]);
    if relations[1] > strongest {
        (by, strongest) = (1, relations[1]);
    }
    if relations[2] > strongest {
        (by, strongest) = (2, relations[2]);
    }
    if relations[3] > strongest {
        (by, strongest) = (3, relations[3]);
    }
    (by, strongest)
}

#[inline(always)]
fn conflict(reason: Reason, by: Option<u8>, caller: &Caller, policy: &Policy) -> Verdict {
    if matches!(caller, Caller::Unresolved) {
        // It may be the rightful owner, whose cgroup we failed to recognise.
        let kind = if policy.deny_on_error { VerdictKind::Deny } else { VerdictKind::Allow };
        return Verdict { kind, reason: Reason::Error, by };
    }
    let kind = if enforced(caller, policy) && !caller.is_software() { VerdictKind::Deny } else { VerdictKind::Audit };
    Verdict { kind, reason, by }
}

#[inline(always)]
fn enforced(caller: &Caller, policy: &Policy) -> bool {
    match caller {
        Caller::Pod(pod) if pod.flags() & OWNER_MODE_AUDIT != 0 => false,
        Caller::Pod(pod) if pod.flags() & OWNER_MODE_ENFORCE != 0 => true,
        _ => policy.enforce,
    }
}

#[cfg(test)]
mod tests;
