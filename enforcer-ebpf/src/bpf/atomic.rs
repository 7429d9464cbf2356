//! Atomic operations that answer, in instructions that the compiler has no function for on this target.

use core::arch::asm;

use super::constants::ORDERED_STORES;

/// Stores `to` in a word if it contains `from`. Returns what it contained. Fully ordered where it stores.
///
/// Kernels before 5.12 do not know the instruction, and refuse an object with it even where no path leads to it
/// (`resolve_pseudo_ldimm64` in kernel/bpf/verifier.c). There the agent replaces it, and sets
/// [`HAS_SOCKET_LOG`](super::constants::HAS_SOCKET_LOG) to 0, so that none is reached.
///
/// # Safety
///
/// `word` must point to an aligned word of a map's element.
#[inline(always)]
pub(crate) unsafe fn compare_exchange(word: *mut u64, from: u64, to: u64) -> u64 {
    let found;
    // SAFETY: the caller vouches for the word; register 0 is what the instruction compares with, and answers in.
    unsafe {
        asm!(
            "r0 = cmpxchg_64({word} + 0, r0, {to})",
            word = in(reg) word,
            to = in(reg) to,
            inlateout("r0") from => found,
            options(nostack),
        );
    }
    found
}

/// Stores in a word that contains 0, after everything that was stored before.
///
/// # Safety
///
/// As [`compare_exchange`].
#[inline(always)]
pub(crate) unsafe fn publish(word: *mut u64, value: u64) {
    if !ORDERED_STORES.is_set() {
        // SAFETY: as the caller vouches.
        unsafe { compare_exchange(word, 0, value) };
        return;
    }
    // SAFETY: nothing; the compiler moves no store across it.
    unsafe { asm!("", options(nostack)) };
    // SAFETY: as the caller vouches.
    unsafe { word.write_volatile(value) };
}
