//! The verdict on a bind attempt: the heart of the product.
//!
//! Three pure steps, the same in the kernel and on the host:
//!
//! 1. [`Cover::of`]: which addresses the attempt reaches;
//! 2. [`Candidates::of`]: whose claims among those in force on the port overlap that;
//! 3. [`decide`]: what that means for this caller under this policy.
//!
//! For sockets that could share their port, [`may_share_with`] and [`decide_held`] say what follows from who holds it.
//!
//! Nothing here reads a map, a context or a clock, and nothing here takes a port: that is done under a lock elsewhere.

use crate::verifier::{hide_bool_from_verifier, hide_from_verifier};
use crate::wire::{
    EXTENT_DEVICE_SHIFT, EXTENT_ONE, EXTENT_V4, EXTENT_V6, NodeMode, OWNER_ADVISORY, OWNER_DAEMON, OWNER_FLAGS,
    OWNER_MODE_AUDIT, OWNER_MODE_ENFORCE, OWNER_NODE, OWNER_SERVICE, OWNER_SOFTWARE, OWNER_TERMINATING, Owner, Policy,
    PortWord, Protocol, Reason, Side, Slot, Undeclared, VerdictKind,
};

/// Part of an address family that a socket reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reach {
    /// No address of the family.
    Nothing,
    /// One address.
    One,
    /// Every address: the wildcard.
    Every,
}

/// Addresses that a bind reaches. At most one side is [`Reach::One`], and then the other one is [`Reach::Nothing`].
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
    /// Returns the cover of a bind to this address.
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
    /// is to be looked up in `ADDRESS_OWNERS` and put into `slots[0]`, and the attempt is then `covered`.
    pub exact: bool,
    /// Every address that the attempt reaches is claimed by `slots`.
    pub covered: bool,
}

impl Candidates {
    /// Returns the candidates on a port for a bind with this cover.
    #[must_use]
    #[inline(always)]
    pub fn of(word: PortWord, cover: Cover) -> Self {
        let (v4, v4_exact, v4_covered) = side(word.v4(), cover.v4);
        let (v6, v6_exact, v6_covered) = side(word.v6(), cover.v6);
        Self {
            slots: [hide_slot(v4.0), hide_slot(v4.1), hide_slot(v6.0), hide_slot(v6.1)],
            exact: hide_bool_from_verifier(v4_exact || v6_exact),
            covered: hide_bool_from_verifier(v4_covered && v6_covered),
        }
    }
}

#[inline(always)]
fn hide_slot(slot: Slot) -> Slot {
    hide_from_verifier(u32::from(slot)) as Slot
}

#[inline(always)]
fn side(side: Side, reach: Reach) -> ((Slot, Slot), bool, bool) {
    match reach {
        Reach::Nothing => ((0, 0), false, true),
        Reach::Every => ((side.first, side.second), false, side.whole),
        Reach::One if side.whole => ((side.first, side.second), false, true),
        Reach::One => ((0, 0), side.first != 0, false),
    }
}

/// Kind of caller.
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

/// A verdict with what led to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Kind of the answer.
    pub kind: VerdictKind,
    /// Reason of the answer.
    pub reason: Reason,
    /// Place in [`Candidates::slots`] of the candidate that decided, or [`NO_CLAIM`]. Not an `Option`, whose empty form
    /// has bytes that nobody wrote: the compiler may read them, and the verifier then refuses the program.
    pub by: u8,
}

/// The [`Verdict::by`] where no claim decided.
pub const NO_CLAIM: u8 = 4;

impl Verdict {
    /// Returns the verdict on an allowed attempt that no claim decided.
    #[must_use]
    #[inline(always)]
    pub const fn allow(reason: Reason) -> Self {
        Self { kind: VerdictKind::Allow, reason, by: NO_CLAIM }
    }

    /// Verdict of [`decide`] on a pod that owns the whole port ([`PortWord::sole`]), whatever the address: known
    /// without it.
    pub const OWNER: Self = Self { kind: VerdictKind::Allow, reason: Reason::Owner, by: 0 };
}

/// The caller as far as a verdict depends on it. Every [`Caller`] has one; the kernel programs make it directly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallerIdentity {
    /// Id of the owner that the caller is, 0 if it is none that is known.
    pub id: u32,
    /// Its share group, 0 for none.
    pub group: u32,
    /// Its workload, 0 for none.
    pub workload: u32,
    /// Flags: [`HOST`], [`UNRESOLVED`], and of the `OWNER_*` flags [`OWNER_SOFTWARE`], [`OWNER_MODE_AUDIT`] and
    /// [`OWNER_MODE_ENFORCE`]; above [`OWNER_FLAGS`] its revision, as in [`Owner::flags_and_revision`].
    pub flags: u32,
}

/// Flag in [`CallerIdentity::flags`] of [`Caller::Host`], beside [`OWNER_SOFTWARE`].
pub const HOST: u32 = 1 << 6;
/// Flag in [`CallerIdentity::flags`] of [`Caller::Unresolved`].
pub const UNRESOLVED: u32 = 1 << 7;

const _: () = assert!(
    (HOST | UNRESOLVED) & !OWNER_FLAGS == 0
        && (HOST | UNRESOLVED) & (OWNER_SOFTWARE | OWNER_MODE_AUDIT | OWNER_MODE_ENFORCE) == 0
);

impl CallerIdentity {
    /// Returns the identity of a pod that is known.
    #[must_use]
    #[inline(always)]
    pub const fn pod(pod: &Owner) -> Self {
        let kept = !OWNER_FLAGS | OWNER_SOFTWARE | OWNER_MODE_AUDIT | OWNER_MODE_ENFORCE;
        let flags = pod.flags_and_revision() & kept;
        Self { id: pod.id(), group: pod.group(), workload: pod.workload(), flags }
    }

    /// Returns the identity of a caller that is no owner.
    #[must_use]
    #[inline(always)]
    pub const fn nobody(flags: u32) -> Self {
        Self { id: 0, group: 0, workload: 0, flags }
    }

    #[inline(always)]
    const fn has(&self, traits: u32) -> bool {
        self.flags & traits != 0
    }
}

impl From<&Caller> for CallerIdentity {
    fn from(caller: &Caller) -> Self {
        match caller {
            Caller::Host => Self::nobody(HOST | OWNER_SOFTWARE),
            Caller::Pod(pod) => Self::pod(pod),
            Caller::UnknownApi => Self::nobody(0),
            Caller::UnknownStatic => Self::nobody(OWNER_SOFTWARE),
            Caller::Unresolved => Self::nobody(UNRESOLVED),
        }
    }
}

/// Facts that can overrule a conflict's mode. They are asked for on the way to a conflict only, so that it costs others
/// nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModeOverride {
    /// Mode that an operator set on the node.
    pub local: NodeMode,
    /// The lease ran out: no agent has vouched for the claims for too long, so that none of them denies any more.
    pub stale: bool,
}

/// Reason for which an owner's claim does not stand in the way; 0 if there is no claim, and the weakest last.
const OWNER: u32 = 1;
const SHARE: u32 = 2;
const SIBLING: u32 = 3;
const HANDOVER: u32 = 4;
/// The owner's claim is in the way, and is reported only.
const ADVISORY: u32 = 5;
/// The owner's claim is in the way.
const FOREIGN: u32 = 6;

/// Decides on an attempt to bind `port`.
///
/// `owners` are the elements of `OWNERS` for [`Candidates::slots`] (slot 0 holds zeros and stands for no claim), and
/// `covered` is [`Candidates::covered`]. Of several conflicts the first one decides, and one that is only reported
/// decides if there is no other; of several claims that all allow, the weakest reason does (`owner` before `share` before
/// `sibling` before `handover`). `overrule` is called only where there is a conflict, and then once.
#[must_use]
#[inline(always)]
pub fn decide(
    owners: &[Owner; 4],
    covered: bool,
    kin: &CallerIdentity,
    port: u16,
    policy: &Policy,
    overrule: impl FnOnce() -> ModeOverride,
) -> Verdict {
    if port == 0 {
        // The kernel picks a free port.
        return Verdict::allow(Reason::Unclaimed);
    }
    let (mut by, mut strongest) = (u32::from(NO_CLAIM), 0);
    let mut place = 0;
    while place < owners.len() {
        let owner = &owners[place];
        place += 1;
        let mut relation = OWNER;
        if owner.id() == 0 {
            relation = 0;
        } else if owner.flags() & (OWNER_NODE | OWNER_SERVICE) != 0 {
            if !kin.has(OWNER_SOFTWARE) {
                relation = foreign(owner);
            }
        } else if owner.id() != kin.id {
            relation = relation_to(owner, kin);
            if relation == 0 {
                relation = foreign(owner);
            }
        }
        if relation > strongest {
            (by, strongest) = (place as u32 - 1, relation);
        }
        by = hide_from_verifier(by);
        strongest = hide_from_verifier(strongest);
        if strongest == FOREIGN {
            break;
        }
    }
    // Host processes declare nothing, so that they may bind what they did not declare.
    let undeclared = !covered && matches!(policy.undeclared, Undeclared::Deny) && !kin.has(HOST);
    if strongest >= ADVISORY {
        let node = place_flags(owners, by) & OWNER_NODE != 0;
        let reason = if node { Reason::Reserved } else { Reason::Claimed };
        conflict(reason, by as u8, strongest == ADVISORY, kin, policy, overrule())
    } else if undeclared {
        conflict(Reason::Undeclared, NO_CLAIM, false, kin, policy, overrule())
    } else {
        let reason = match strongest {
            0 => Reason::Unclaimed,
            OWNER => Reason::Owner,
            SHARE => Reason::Share,
            SIBLING => Reason::Sibling,
            _ => Reason::Handover,
        };
        Verdict { kind: VerdictKind::Allow, reason, by: by as u8 }
    }
}

/// Returns [`ADVISORY`] or [`FOREIGN`], by what the claims of an owner that is in the way do.
#[inline(always)]
const fn foreign(owner: &Owner) -> u32 {
    if owner.flags() & OWNER_ADVISORY != 0 { ADVISORY } else { FOREIGN }
}

/// Returns [`SHARE`], [`SIBLING`], [`HANDOVER`], or 0 where none holds between the two.
#[inline(always)]
const fn relation_to(owner: &Owner, kin: &CallerIdentity) -> u32 {
    if owner.group() != 0 && owner.group() == kin.group {
        SHARE
    } else if owner.workload() == 0 || owner.workload() != kin.workload {
        0
    } else if owner.flags() & OWNER_TERMINATING != 0 {
        HANDOVER
    } else {
        SIBLING
    }
}

/// Checks whether a caller may hold a port beside this holder, another pod: both are of one share group, or of one
/// workload and the holder is going, or the two are a rollout.
#[must_use]
#[inline(always)]
pub const fn may_share_with(holder: &Owner, kin: &CallerIdentity) -> bool {
    match relation_to(holder, kin) {
        0 => false,
        SIBLING => is_rollout(holder.flags_and_revision(), kin.flags),
        _ => true,
    }
}

/// Checks whether two pods of one workload are a rollout, which may have one port twice for a while: two pods of a
/// `DaemonSet` are, and two of different revisions. `holder` is [`Owner::flags_and_revision`] of one, and `caller` that
/// of the other, whose flags do not matter.
///
/// Where a revision is not known the two are taken for a rollout: no pod is denied its port for what nobody knows.
#[must_use]
#[inline(always)]
pub const fn is_rollout(holder: u32, caller: u32) -> bool {
    let (revision, other) = (holder & !OWNER_FLAGS, caller & !OWNER_FLAGS);
    holder & OWNER_DAEMON != 0 || revision != other || revision == 0
}

/// Decides on an attempt to take a port that another one holds, whom the caller may not join.
#[must_use]
#[inline(always)]
pub fn decide_held(kin: &CallerIdentity, policy: &Policy, overrule: ModeOverride) -> Verdict {
    conflict(Reason::Held, NO_CLAIM, false, kin, policy, overrule)
}

/// Checks whether a socket could hold its port together with one of another pod: for all others the kernel itself
/// refuses the second (`inet_csk_bind_conflict` in `net/ipv4/inet_connection_sock.c`, `inet_rcv_saddr_equal` and
/// `udp_lib_lport_inuse` in net/ipv4/udp.c).
#[must_use]
#[inline(always)]
pub const fn could_share(protocol: Protocol, reuse_port: bool, reuse_addr: bool) -> bool {
    match protocol {
        Protocol::Tcp => reuse_port,
        Protocol::Udp => reuse_port | reuse_addr,
        Protocol::Sctp => false,
    }
}

/// Returns the [`crate::wire::PortHold::extent`] of a bind to this address on this device (its index, 0 for none).
#[must_use]
#[inline(always)]
pub fn extent(target: &Target, device: u32) -> u32 {
    let Cover { v4, v6 } = Cover::of(target);
    let families = if matches!(v4, Reach::Nothing) { 0 } else { EXTENT_V4 }
        | if matches!(v6, Reach::Nothing) { 0 } else { EXTENT_V6 };
    let one = if matches!(v4, Reach::One) || matches!(v6, Reach::One) { EXTENT_ONE } else { 0 };
    families | one | device << EXTENT_DEVICE_SHIFT
}

/// Checks whether two of [`crate::wire::PortHold`] meet: by address word and extent. Sockets on different devices do
/// not.
#[must_use]
#[inline(always)]
pub const fn holds_overlap(one: (u64, u32), other: (u64, u32)) -> bool {
    let (device, other_device) = (one.1 >> EXTENT_DEVICE_SHIFT, other.1 >> EXTENT_DEVICE_SHIFT);
    (device == 0 || other_device == 0 || device == other_device)
        && one.1 & other.1 & (EXTENT_V4 | EXTENT_V6) != 0
        && (one.1 & other.1 & EXTENT_ONE == 0 || one.0 == other.0)
}

/// Returns the flags of the owner at a place. Written out: old verifiers refuse a read of the stack at a place that
/// varies.
#[inline(always)]
const fn place_flags(owners: &[Owner; 4], place: u32) -> u32 {
    match place {
        0 => owners[0].flags(),
        1 => owners[1].flags(),
        2 => owners[2].flags(),
        _ => owners[3].flags(),
    }
}

#[inline(always)]
fn conflict(
    reason: Reason,
    by: u8,
    advisory: bool,
    kin: &CallerIdentity,
    policy: &Policy,
    overrule: ModeOverride,
) -> Verdict {
    let ModeOverride { local, stale } = overrule;
    let mode = policy.enforce || matches!(local, NodeMode::Enforce);
    let enforced = !advisory
        && !matches!(local, NodeMode::Audit)
        && !kin.has(OWNER_MODE_AUDIT)
        && (kin.has(OWNER_MODE_ENFORCE) || mode);
    // A caller that cannot be placed may be the rightful owner, whose cgroup we failed to recognise.
    let unresolved = kin.has(UNRESOLVED);
    let denied = enforced && if unresolved { policy.deny_on_error } else { !kin.has(OWNER_SOFTWARE) };
    let reason = if unresolved { Reason::Error } else { reason };
    match (denied, stale) {
        (true, false) => Verdict { kind: VerdictKind::Deny, reason, by },
        (true, true) => Verdict { kind: VerdictKind::Audit, reason: Reason::Stale, by },
        (false, _) if unresolved => Verdict { kind: VerdictKind::Allow, reason, by },
        (false, _) => Verdict { kind: VerdictKind::Audit, reason, by },
    }
}

#[cfg(test)]
mod tests;
