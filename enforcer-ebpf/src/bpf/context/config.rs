//! Reading kernel memory and words that the agent changes under our feet.

use core::{arch::asm, ffi::c_void, ptr};

use aya_ebpf::{
    EbpfContext,
    helpers::{
        bpf_get_current_ancestor_cgroup_id, bpf_probe_read_kernel,
        generated::{bpf_get_netns_cookie, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns, bpf_probe_read_kernel_str},
    },
};
use enforcer_ebpf::{
    abi::{Config, LocalMode, Owner, PLACE_OF_CAST, Policy, Slot},
    decide::Overrule,
};

use crate::bpf::maps::{CONFIG, HAS_COARSE_TIME, MODE, OWNERS};

/// Reads a `T` at an address in kernel memory; `None` if the address is bad.
#[inline(always)]
pub(crate) fn read<T>(address: u64) -> Option<T> {
    // SAFETY: bpf_probe_read_kernel checks the address and fails on a bad one; callers ask for integers only, of which
    // every bit pattern is valid.
    unsafe { bpf_probe_read_kernel(ptr::with_exposed_provenance::<T>(address as usize)) }.ok()
}

/// Reads a string at an address in kernel memory, at most `capacity` bytes with the closing zero, and returns its
/// length without that zero; `None` if the address is bad.
///
/// # Safety
///
/// `to` must have room for `capacity` bytes.
#[inline(always)]
pub(crate) unsafe fn read_str(to: *mut u8, capacity: u32, address: u64) -> Option<u32> {
    // SAFETY: the helper writes no more than `capacity` bytes, for which the caller vouches, and checks the address.
    let written = unsafe {
        bpf_probe_read_kernel_str(to.cast(), capacity, ptr::with_exposed_provenance::<c_void>(address as usize))
    };
    let written = u32::try_from(written).ok()?;
    if written == 0 || written > capacity { None } else { Some(written - 1) }
}

/// An address as a pointer to a structure of this type, through which programs may read as if they were the kernel's own
/// code: what is not there is read as 0 (`bpf_rdonly_cast` in kernel/bpf/helpers.c). That costs what a load costs, a tenth of
/// what a helper takes for it.
///
/// A call of a function of the kernel names it by its number in the running kernel's type information, for which the loader
/// has no relocation. So here stands an instruction that does nothing of use ([`PLACE_OF_CAST`]), and the agent puts the call
/// in its place; or it leaves the type's number 0, and the verifier never comes here.
#[inline(always)]
pub(crate) fn cast(address: u64, type_id: u32) -> *const u8 {
    let pointer;
    // SAFETY: the call takes two numbers, and changes no other registers than those of arguments.
    unsafe {
        asm!(
            "r0 = {place}",
            place = const PLACE_OF_CAST,
            inlateout("r1") address => _,
            inlateout("r2") u64::from(type_id) => _,
            lateout("r0") pointer,
            lateout("r3") _,
            lateout("r4") _,
            lateout("r5") _,
            options(nostack),
        );
    }
    pointer
}

/// Loads a word that the agent may store to at the same time.
#[inline(always)]
pub(crate) fn load(word: *const u64) -> u64 {
    // SAFETY: callers pass pointers to aligned words inside map elements, which live as long as the program runs.
    unsafe { ptr::read_volatile(word) }
}

/// Cgroup id of the calling task's ancestor at a level of the whole hierarchy; 0 if the task is not that deep.
#[inline(always)]
pub(crate) fn ancestor(level: u64) -> u64 {
    // SAFETY: the helper takes any level.
    unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) }
}

/// The time of the last tick, in nanoseconds since boot, sleep not included (`CLOCK_MONOTONIC_COARSE`). To read a clock costs
/// ten times as much. Where the kernel has only that, this very moment on the same scale.
#[inline(always)]
pub(crate) fn coarse_time() -> u64 {
    // SAFETY: neither helper has a precondition; where the first is missing the verifier never sees it.
    unsafe { if HAS_COARSE_TIME.load() != 0 { bpf_ktime_get_coarse_ns() } else { bpf_ktime_get_ns() } }
}

/// The greatest error number there is (include/linux/err.h); all lower bits are set, so that it masks one. Linux 7.3
/// refuses a program that could pass a greater one ("should have been in [-4095, 0]").
pub(crate) const MAX_ERRNO: u16 = 4095;

/// Whether a program's socket is in the node's network namespace. Others are never touched.
#[inline(always)]
pub(crate) fn is_node_netns(ctx: &impl EbpfContext, config: &Live) -> bool {
    // SAFETY: the helper takes the context of a socket program.
    let cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    let node = config.netns_cookie();
    if node != 0 {
        return cookie == node;
    }
    // SAFETY: without a context the helper answers for the initial network namespace.
    cookie == unsafe { bpf_get_netns_cookie(ptr::null_mut()) }
}

/// The configuration. `None` cannot happen for an array's first element, but the verifier wants the question asked.
#[inline(always)]
pub(crate) fn config() -> Option<&'static Live> {
    let config = CONFIG.get_ptr(0)?;
    // SAFETY: the pointer is to the map's element; `Live` has the same layout and is read word by word.
    Some(unsafe { &*config.cast::<Live>() })
}

/// A [`Config`] in the map: every read loads the word anew.
#[repr(transparent)]
pub(crate) struct Live(core::cell::UnsafeCell<Config>);

impl Live {
    #[inline(always)]
    fn field(&self, of: impl FnOnce(*mut Config) -> *mut u64) -> u64 {
        load(of(self.0.get()))
    }

    #[inline(always)]
    pub(crate) fn policy(&self) -> Policy {
        // SAFETY: only the address is taken.
        Policy::from_word(self.field(|config| unsafe { &raw mut (*config).policy }))
    }

    #[inline(always)]
    pub(crate) fn root_cgroup(&self) -> u64 {
        // SAFETY: only the address is taken.
        self.field(|config| unsafe { &raw mut (*config).root_cgroup })
    }

    #[inline(always)]
    pub(crate) fn pod_levels(&self) -> u64 {
        // SAFETY: only the address is taken.
        self.field(|config| unsafe { &raw mut (*config).pod_levels })
    }

    #[inline(always)]
    pub(crate) fn netns_cookie(&self) -> u64 {
        // SAFETY: only the address is taken.
        self.field(|config| unsafe { &raw mut (*config).netns_cookie })
    }

    #[inline(always)]
    pub(crate) fn root_level(&self) -> u64 {
        // SAFETY: only the address is taken.
        self.field(|config| unsafe { &raw mut (*config).root_level })
    }

    /// What may overrule the mode of a conflict now.
    #[inline(always)]
    pub(crate) fn overrule(&self) -> Overrule {
        // SAFETY: only the address is taken.
        let deadline = self.field(|config| unsafe { &raw mut (*config).lease_deadline });
        let stale = deadline != 0 && coarse_time() > deadline;
        let local = MODE.get_ptr(0).map_or(0, |word| load(word.cast()));
        Overrule { local: LocalMode::from_word(local), stale }
    }

    /// Notes that a pod's cgroup was made so many levels below the root.
    #[inline(always)]
    pub(crate) fn add_pod_level(&self, level: u64) {
        let levels = self.pod_levels();
        let bit = 1 << (level & 63);
        if levels & bit == 0 {
            // SAFETY: an aligned word of the map's element. Of two stores at once one may be lost: the agent, which
            // sees the same cgroup's event, sets the bit again.
            unsafe { ptr::write_volatile(&raw mut (*self.0.get()).pod_levels, levels | bit) }
        }
    }

    /// Notes the level that a program found out.
    #[inline(always)]
    pub(crate) fn set_root_level(&self, level: u64) {
        // SAFETY: an aligned word of the map's element; whoever else stores here stores the same level.
        unsafe { ptr::write_volatile(&raw mut (*self.0.get()).root_level, level) }
    }
}

/// The owner in a slot, word by word.
#[inline(always)]
pub(crate) fn owner(slot: Slot) -> Option<Owner> {
    let owner = OWNERS.get_ptr(u32::from(slot))?;
    // SAFETY: only addresses of fields of the map's element are taken.
    let (cgroup, identity, kinship, level) = unsafe {
        (
            &raw const (*owner).cgroup,
            &raw const (*owner).identity,
            &raw const (*owner).kinship,
            &raw const (*owner).level,
        )
    };
    Some(Owner { cgroup: load(cgroup), identity: load(identity), kinship: load(kinship), level: load(level) })
}
