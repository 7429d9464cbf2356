//! Acquires a port for a caller: decides about each holder in the way without the lock, and takes the port under it if
//! no holder came or went meanwhile.

use enforcer_ebpf::{
    decide::{CallerIdentity, Verdict, decide_held, may_share_with},
    wire::{KernelError, MAX_HOLDS_PER_PORT, Reason, VerdictKind},
};

use super::{
    sole_hold::{SAME_HOLD, leave_to_table, take_sole_hold},
    table::{Condition, HoldRequest, REFUSED, TAKEN, slot_version},
};
use crate::bpf::{
    constants::{POST_BIND_DENIES, SOCK_TYPE},
    context::{config::VolatileConfig, owners::owner_of_pod_cgroup},
    counters::count_error,
};

/// Most attempts at a port whose holders come and go meanwhile, all of them such as the caller may join.
const MAX_ATTEMPTS: u32 = 2;

/// Result of [`acquire`].
pub(super) struct Acquisition {
    /// Allowed, audited or denied; with [`Reason::Held`] if another holder is in the way.
    pub(super) verdict: Verdict,
    /// The table has the hold, so that it must be given back there. A sole hold is given back by the socket's cookie.
    pub(super) is_in_table: bool,
    /// The [`enforcer_ebpf::wire::PortHold::holder`] of the holder in the way; 0 for none.
    pub(super) holder: u64,
    /// Owner id of that holder; 0 for one that is no known owner.
    pub(super) owner: u32,
}

impl Acquisition {
    /// Returns whether a holder is in the way that the caller may not join, whatever the verdict.
    #[inline(always)]
    pub(super) fn is_conflict(&self) -> bool {
        self.verdict.reason != Reason::Unclaimed
    }

    /// Notes another holder that is in the way (0 for none), unless the caller may join it.
    #[inline(always)]
    fn meet(&mut self, holder: u64, caller: &CallerIdentity) {
        if holder == 0 {
            return;
        }
        let answer = pe_may_join(holder, caller.group, caller.workload, caller.flags);
        if answer != MAY_JOIN {
            self.holder = holder;
            self.owner = answer as u32;
        }
    }
}

/// Takes a port for a caller, unless another holder is in the way and the policy is to deny that.
///
/// `cookie` is that of a socket that may take a sole hold, else 0.
#[inline(always)]
pub(super) fn acquire(
    request: &HoldRequest,
    cookie: u64,
    caller: &CallerIdentity,
    config: &VolatileConfig,
) -> Acquisition {
    let mut result =
        Acquisition { verdict: Verdict::allow(Reason::Unclaimed), is_in_table: false, holder: 0, owner: 0 };
    if cookie != 0 && config.sole_holds() && take_sole_hold(request, cookie) {
        return result;
    }
    // Where a post-bind hook cannot deny, or sockets are read by helpers, nobody takes a sole hold.
    let sole = if POST_BIND_DENIES.is_set() && SOCK_TYPE.is_set() { leave_to_table(request) } else { 0 };
    // One more socket of a holder that is there puts nobody new in the way of others.
    let condition = if sole == SAME_HOLD { Condition::NONE } else { Condition::NO_CONFLICT };
    if sole != SAME_HOLD {
        result.meet(sole, caller);
    }
    let mut answer = REFUSED;
    if result.holder == 0 {
        answer = request.take_or_make_slot(condition);
    }
    for _ in 0..MAX_ATTEMPTS {
        if answer != REFUSED {
            break;
        }
        let version = slot_version(request.port);
        let mut from = 0;
        for _ in 0..MAX_HOLDS_PER_PORT {
            let conflict = request.find_conflict(from);
            if result.holder != 0 || !conflict.exists() {
                break;
            }
            result.meet(conflict.holder(), caller);
            from = conflict.next_place();
        }
        if result.holder == 0 {
            answer = request.take(Condition::version_is(version));
            continue;
        }
        result.verdict = decide_held(caller, &config.policy(), config.mode_override());
        if result.verdict.kind == VerdictKind::Deny {
            return result;
        }
        answer = request.take_or_make_slot(Condition::NONE);
        break;
    }
    result.is_in_table = answer == TAKEN;
    if !result.is_in_table {
        // The socket holds the port all the same, and others do not know it.
        count_error(KernelError::HoldsFull);
    }
    result
}

/// Answer of [`pe_may_join`]: the caller may hold the port beside the holder. Else it is [`MAY_NOT_JOIN`] with the
/// holder's owner id.
const MAY_JOIN: u64 = 0;
const MAY_NOT_JOIN: u64 = 1 << 32;

/// Decides whether a caller may hold a port beside this holder. A global function with numbers as arguments, as those of
/// the table: the verifier checks it once, and not for each holder on each path. Inlined, it takes Linux 6.1 more than the
/// million permitted steps.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn pe_may_join(holder: u64, group: u32, workload: u32, flags: u32) -> u64 {
    let owner = owner_of_pod_cgroup(holder);
    let caller = CallerIdentity { id: 0, group, workload, flags };
    if may_share_with(&owner, &caller) { MAY_JOIN } else { MAY_NOT_JOIN | u64::from(owner.id()) }
}
