//! Taking a port that could be shared, and giving it back. Deciding is not done here: what is decided under no lock is
//! carried out under one.
//!
//! Two processes that bind one port at once with `SO_REUSEPORT` (or, for UDP, `SO_REUSEADDR`) both succeed as far as the
//! kernel is concerned. Each takes the port in its slot, under the slot's lock, so that one of them is the first.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::{BPF_NOEXIST, BPF_SK_STORAGE_GET_F_CREATE},
    helpers::generated::{bpf_sk_storage_get, bpf_spin_lock as lock, bpf_spin_unlock as unlock},
};
use enforcer_ebpf::{
    abi::{
        CgroupIdentity, HOLDER_HOST, HOLDER_UNPLACED, HOLDS_PER_PORT, Hold, HoldSlot, KernelError, MARK_SOMEBODY, Mark,
        Owner, Reason, VerdictKind, bpf_spin_lock,
    },
    decide::{HOST, Kin, Verdict, decide_held, holds_overlap, may_join},
    verifier::HiddenU32,
};

use crate::bpf::{
    context::caller::Identity,
    context::config::{Live, load, owner},
    context::socket::Socket,
    emit::count_error,
    maps::{CGROUPS, HOLDS, MARKS, SLOTS, STRAYS, SUBFLOWS},
};

/// A place that there is not.
const NOWHERE: u32 = HOLDS_PER_PORT as u32;
/// How often a port is tried for whose holders change meanwhile, all of them such as the caller may join.
const ATTEMPTS: u32 = 2;

/// What a bind wants to hold.
pub(crate) struct Wanted {
    /// `port_index` of the port.
    pub(crate) port: u32,
    /// [`Hold::holder`].
    pub(crate) holder: u64,
    /// [`Hold::address`].
    pub(crate) address: u64,
    /// [`Hold::extent`].
    pub(crate) extent: u32,
}

/// What came of it.
pub(crate) struct Outcome {
    /// Allowed, audited or denied; with [`Reason::Held`] where another one holds the port.
    pub(crate) verdict: Verdict,
    /// Whether it is noted in the slot, so that it must be given back.
    pub(crate) taken: bool,
    /// That other one.
    pub(crate) holder: u64,
    /// Its owner id, 0 if it is none that is known.
    pub(crate) owner: u32,
}

/// [`Hold::holder`] for a caller.
#[inline(always)]
pub(crate) fn holder(identity: &Identity) -> u64 {
    if identity.pod_cgroup != 0 {
        identity.pod_cgroup
    } else if identity.kin.traits & HOST != 0 {
        HOLDER_HOST
    } else {
        HOLDER_UNPLACED
    }
}

/// Takes a port for a caller, unless another one holds it and that is in the way.
#[inline(always)]
pub(crate) fn take(wanted: &Wanted, kin: &Kin, config: &Live) -> Outcome {
    let mut outcome = Outcome { verdict: Verdict::allow(Reason::Unclaimed), taken: false, holder: 0, owner: 0 };
    let Some(slot) = slot(wanted.port) else {
        count_error(KernelError::HoldsFull);
        return outcome;
    };
    let take = |permit| pe_take(wanted.port, wanted.holder, wanted.address, wanted.extent, permit);
    let mut answer = take(IF_FREE);
    for _ in 0..ATTEMPTS {
        if answer != IN_THE_WAY {
            break;
        }
        let version = version(slot);
        let mut from = 0;
        for _ in 0..HOLDS_PER_PORT {
            let next = pe_in_the_way(wanted.port, wanted.holder, wanted.address, wanted.extent, from);
            if next == 0 {
                break;
            }
            let other = owner_of(next & HOLDER_MASK);
            if !may_join(&other, kin) {
                outcome.holder = next & HOLDER_MASK;
                outcome.owner = other.id();
                break;
            }
            from = (next >> PLACE_SHIFT) as u32;
        }
        if outcome.holder == 0 {
            answer = take(IF_VERSION | u64::from(version));
            continue;
        }
        outcome.verdict = decide_held(kin, &config.policy(), config.overrule());
        if outcome.verdict.kind == VerdictKind::Deny {
            return outcome;
        }
        answer = take(ALWAYS);
        break;
    }
    outcome.taken = answer == TAKEN;
    if !outcome.taken {
        // The socket holds the port all the same, and others do not know it.
        count_error(KernelError::HoldsFull);
    }
    outcome
}

/// The slot of a port, made if it is not there.
#[inline(always)]
fn slot(port: u32) -> Option<*mut HoldSlot> {
    if let Some(slot) = SLOTS.get_ptr_mut(port) {
        return Some(slot);
    }
    // Another CPU may make it at the same time: one of the two is refused, and finds the other's.
    #[expect(clippy::needless_borrows_for_generic_args, reason = "what is not borrowed is copied to the stack")]
    let _ = SLOTS.insert(port, &EMPTY, BPF_NOEXIST.into());
    SLOTS.get_ptr_mut(port)
}

/// A new slot. Not on the stack, of which it would take half.
#[unsafe(no_mangle)]
static EMPTY: HoldSlot = HoldSlot {
    lock: bpf_spin_lock { val: 0 },
    version: 0,
    holds: [Hold { holder: 0, address: 0, extent: 0, count: 0 }; 8],
};

/// Owner of a pod's cgroup; nobody's where it is not known.
#[inline(always)]
fn owner_of(holder: u64) -> Owner {
    let found = CGROUPS.get_ptr(holder).map_or(CgroupIdentity(0), |value| CgroupIdentity(load(value)));
    let slot = if found.is_of(holder) { found.slot() } else { 0 };
    owner(slot).unwrap_or_default()
}

/// How often holders of the slot changed.
#[inline(always)]
fn version(slot: *const HoldSlot) -> u32 {
    // SAFETY: an aligned word of the map's element.
    unsafe { (&raw const (*slot).version).read_volatile() }
}

/// A place of a slot. Without a check, for which there would be a call to panic in the program.
///
/// # Safety
///
/// `place` must be less than [`HOLDS_PER_PORT`].
#[inline(always)]
unsafe fn place_of(slot: *mut HoldSlot, place: usize) -> *mut Hold {
    // SAFETY: within the element, as the caller vouches and the verifier checks.
    unsafe { (&raw mut (*slot).holds).cast::<Hold>().add(place) }
}

/// What [`pe_take`] may do: take the port if nobody else is in the way; if nobody came or went since this version of the
/// slot, in the lower half; in any case.
const IF_FREE: u64 = 0;
const IF_VERSION: u64 = 1 << 32;
const ALWAYS: u64 = 2 << 32;

/// Answers of [`pe_take`]. It did; somebody is in the way, or came or went; there is no place left.
const TAKEN: u32 = 0;
const IN_THE_WAY: u32 = 1;
const FULL: u32 = 2;

/// Answers of [`pe_in_the_way`]: a holder, and in the upper bits its place plus 1. Ids of cgroups count up from 1.
const PLACE_SHIFT: u32 = 56;
const HOLDER_MASK: u64 = (1 << PLACE_SHIFT) - 1;

// The functions that hold a lock are global functions, which take numbers only: so the verifier looks at each by itself,
// and not at every way to it (`btf_prepare_func_args` in kernel/bpf/btf.c, since 5.6). `hide_from_verifier` keeps the number of states
// in their loops low.

/// Takes the port, or counts one socket more of who has it there already: that puts nobody new in the way of others.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn pe_take(port: u32, holder: u64, address: u64, extent: u32, permit: u64) -> u32 {
    let Some(slot) = SLOTS.get_ptr_mut(port) else {
        return FULL;
    };
    let (mut others, mut own, mut free) = (HiddenU32::new(0), HiddenU32::new(NOWHERE), HiddenU32::new(NOWHERE));
    let answer;
    // SAFETY: the verifier checks that the lock is a map element's, and that no helper is called until it is released.
    // All accesses are of fields of the element, through raw pointers, as other CPUs use it before and after.
    unsafe {
        lock((&raw mut (*slot).lock).cast());
        for place in 0..HOLDS_PER_PORT {
            let hold = place_of(slot, place);
            let by = (&raw const (*hold).holder).read_volatile();
            if by == 0 {
                free.set(place as u32);
                continue;
            }
            let there = ((&raw const (*hold).address).read_volatile(), (&raw const (*hold).extent).read_volatile());
            if by != holder {
                if holds_overlap(there, (address, extent)) {
                    others.set(1);
                }
            } else if there == (address, extent) {
                own.set(place as u32);
            }
        }
        let version = &raw mut (*slot).version;
        let may = permit == ALWAYS
            || if permit == IF_FREE { others.get() == 0 } else { permit as u32 == version.read_volatile() };
        if own.get() < NOWHERE {
            // The compiler leaves out a mask of what it knows to be less, which the verifier does not: so it is read anew.
            let count = &raw mut (*place_of(slot, own.get() as usize & (HOLDS_PER_PORT - 1))).count;
            count.write_volatile(count.read_volatile() + 1);
            answer = TAKEN;
        } else if !may {
            answer = IN_THE_WAY;
        } else if free.get() < NOWHERE {
            let hold = place_of(slot, free.get() as usize & (HOLDS_PER_PORT - 1));
            (&raw mut (*hold).holder).write_volatile(holder);
            (&raw mut (*hold).address).write_volatile(address);
            (&raw mut (*hold).extent).write_volatile(extent);
            (&raw mut (*hold).count).write_volatile(1);
            version.write_volatile(version.read_volatile() + 1);
            answer = TAKEN;
        } else {
            answer = FULL;
        }
        unlock((&raw mut (*slot).lock).cast());
    }
    answer
}

/// The first of those, from this place on, who are in the way of a holder: see [`HOLDER_MASK`]. 0 if there is none.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn pe_in_the_way(port: u32, holder: u64, address: u64, extent: u32, from: u32) -> u64 {
    let Some(slot) = SLOTS.get_ptr_mut(port) else {
        return 0;
    };
    let mut found = 0;
    // SAFETY: as in `pe_take`.
    unsafe {
        lock((&raw mut (*slot).lock).cast());
        for place in 0..HOLDS_PER_PORT {
            let hold = place_of(slot, place);
            let by = (&raw const (*hold).holder).read_volatile();
            let there = ((&raw const (*hold).address).read_volatile(), (&raw const (*hold).extent).read_volatile());
            let counts = place as u32 >= from && by != 0 && by != holder;
            if counts && holds_overlap(there, (address, extent)) {
                found = by & HOLDER_MASK | (place as u64 + 1) << PLACE_SHIFT;
                break;
            }
        }
        unlock((&raw mut (*slot).lock).cast());
    }
    found
}

/// Gives one socket of a holder back.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn pe_give_back(port: u32, holder: u64, address: u64, extent: u32) -> u32 {
    let Some(slot) = SLOTS.get_ptr_mut(port) else {
        return 0;
    };
    // SAFETY: as in `pe_take`.
    unsafe {
        lock((&raw mut (*slot).lock).cast());
        for place in 0..HOLDS_PER_PORT {
            let hold = place_of(slot, place);
            let count = &raw mut (*hold).count;
            if (&raw const (*hold).holder).read_volatile() == holder
                && (&raw const (*hold).address).read_volatile() == address
                && (&raw const (*hold).extent).read_volatile() == extent
            {
                let left = count.read_volatile() - 1;
                count.write_volatile(left);
                if left == 0 {
                    (&raw mut (*hold).holder).write_volatile(0);
                    (&raw mut (*hold).address).write_volatile(0);
                    (&raw mut (*hold).extent).write_volatile(0);
                    let version = &raw mut (*slot).version;
                    version.write_volatile(version.read_volatile() + 1);
                }
                break;
            }
        }
        unlock((&raw mut (*slot).lock).cast());
    }
    0
}

/// Gives back what [`take`] took.
#[inline(always)]
fn give_back(held: &Hold) {
    pe_give_back(held.count, held.holder, held.address, held.extent);
}

/// What a socket holds, made (as nothing) where it is not there and `create` is set; null if there is none, or no memory.
#[inline(always)]
pub(crate) fn of_socket<T>(socket: *mut T, create: bool) -> *mut Hold {
    let flags = if create { u64::from(BPF_SK_STORAGE_GET_F_CREATE) } else { 0 };
    let map = (&raw const HOLDS).cast_mut().cast::<c_void>();
    // SAFETY: the verifier checks that the pointers are of a map and of a socket.
    unsafe { bpf_sk_storage_get(map, socket.cast(), ptr::null_mut(), flags) }.cast()
}

/// Notes with the socket what was taken for it, or gives it back and counts an error if there is no room. `parent` is the
/// MPTCP socket whose subflow the socket is, 0 for none.
#[inline(always)]
pub(crate) fn remember<T>(pointer: *mut T, socket: Socket, parent: u64, wanted: &Wanted) {
    let hold = Hold { holder: wanted.holder, address: wanted.address, extent: wanted.extent, count: wanted.port };
    let mut name = parent;
    if parent == 0 {
        let storage = of_socket(pointer, true);
        if !storage.is_null() {
            // SAFETY: the storage of a socket that is alive and locked; nobody else writes to it meanwhile.
            unsafe { storage.write(hold) };
            return;
        }
        // The kernel had no memory, or cannot allocate it here at all: storage comes from `kmalloc_nolock` since 7.0, which
        // gives none to a CPU without cmpxchg16b.
        name = socket.name();
        if let Some(strays) = STRAYS.get_ptr_mut(0) {
            // SAFETY: an aligned word of the map's element, to which nothing else is ever stored.
            unsafe { strays.write_volatile(1) };
        }
    }
    if name == 0 || SUBFLOWS.insert(name, hold, 0).is_err() {
        give_back(&hold);
        count_error(KernelError::HoldsFull);
    }
}

/// Gives back what a socket holds, if it holds anything. The socket.
#[inline(always)]
pub(crate) fn forget_socket<T>(pointer: *mut T) -> Socket {
    let storage = of_socket(pointer, false);
    let socket = Socket::if_null(pointer, storage);
    if storage.is_null() {
        if STRAYS.get_ptr(0).is_some_and(|strays| load(strays) != 0) {
            forget_parent(socket.name());
        }
        return socket;
    }
    // SAFETY: as in `remember`.
    let hold = unsafe { storage.read() };
    if hold.extent != 0 {
        // SAFETY: as in `remember`.
        unsafe { (&raw mut (*storage).extent).write(0) };
        give_back(&hold);
    }
    Socket::of(pointer)
}

/// Gives back what the subflows of an MPTCP socket hold, or a socket without storage.
#[inline(always)]
pub(crate) fn forget_parent(parent: u64) {
    if let Some(element) = SUBFLOWS.get_ptr(parent) {
        // SAFETY: an element of the map, which nobody but this socket's own calls write to or remove.
        let hold = unsafe { element.read() };
        let _ = SUBFLOWS.remove(parent);
        give_back(&hold);
    }
}

/// The mark of a port; `None` of protocols whose binds no hook sees.
#[inline(always)]
pub(crate) fn mark(port: u32) -> Option<*mut Mark> {
    MARKS.get_ptr_mut(port)
}

/// Who holds the port by its mark: [`Mark::holder`].
#[inline(always)]
pub(crate) fn marked(mark: *const Mark) -> u64 {
    // SAFETY: only an address of a field of the map's element is taken.
    load(unsafe { &raw const (*mark).holder })
}

/// Marks the port as held by somebody, unless it is said already by whom.
#[inline(always)]
pub(crate) fn set_marked(mark: *mut Mark) {
    if marked(mark) == 0 {
        // SAFETY: an aligned word of the map's element; whoever else stores here says the same, or knows more.
        unsafe { (&raw mut (*mark).holder).write_volatile(MARK_SOMEBODY) };
    }
}

/// How the last attempt was counted that asked for the port and was not denied, plus 1; 0 if there was none.
#[inline(always)]
pub(crate) fn asked(mark: *const Mark) -> u64 {
    // SAFETY: only an address of a field of the map's element is taken.
    load(unsafe { &raw const (*mark).asked })
}

/// Notes how an attempt that asked for the port is counted.
#[inline(always)]
pub(crate) fn set_asked(mark: *mut Mark, verdict: &Verdict) {
    let value = Mark::asked_by(verdict.kind, verdict.reason);
    if asked(mark) != value {
        // SAFETY: an aligned word of the map's element; whoever else stores here asked for the port too.
        unsafe { (&raw mut (*mark).asked).write_volatile(value) };
    }
}
