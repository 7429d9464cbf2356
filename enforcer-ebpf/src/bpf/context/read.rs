//! Reads kernel memory, and words of maps that are written at the same time.

use core::{arch::asm, ffi::c_void, ptr};

use aya_ebpf::helpers::{bpf_probe_read_kernel, generated::bpf_probe_read_kernel_str};
use enforcer_ebpf::wire::RDONLY_CAST_PLACEHOLDER;

/// Reads a `T` from an address in kernel memory. Returns `None` for a bad address.
#[inline(always)]
pub(crate) fn read_kernel<T>(address: u64) -> Option<T> {
    // SAFETY: bpf_probe_read_kernel checks the address and fails on a bad one; callers ask for integers only, of which
    // every bit pattern is valid.
    unsafe { bpf_probe_read_kernel(ptr::with_exposed_provenance::<T>(address as usize)) }.ok()
}

/// Reads a string from an address in kernel memory: at most `capacity` bytes, the closing zero included. Returns the
/// length in bytes without that zero, or `None` for a bad address.
///
/// # Safety
///
/// `to` must have room for `capacity` bytes.
#[inline(always)]
pub(crate) unsafe fn read_kernel_str(to: *mut u8, capacity: u32, address: u64) -> Option<u32> {
    // SAFETY: the helper writes no more than `capacity` bytes, for which the caller vouches, and checks the address.
    let written = unsafe {
        bpf_probe_read_kernel_str(to.cast(), capacity, ptr::with_exposed_provenance::<c_void>(address as usize))
    };
    let written = u32::try_from(written).ok()?;
    if written == 0 || written > capacity { None } else { Some(written - 1) }
}

/// Turns an address into a pointer to a kernel structure of this type. Programs load fields through the pointer as the
/// kernel's own code does, at a tenth of the cost of a helper; a bad address reads as 0 (`bpf_rdonly_cast` in
/// kernel/bpf/helpers.c).
///
/// A call of a kernel function names the function by its number in the running kernel's type information, and aya has
/// no relocation for that. So the object contains an instruction that does nothing of use
/// ([`RDONLY_CAST_PLACEHOLDER`]), and the agent replaces it by the call. Where the kernel has no such function, the
/// type's number is 0 and the verifier never comes here.
#[inline(always)]
pub(crate) fn rdonly_cast(address: u64, type_id: u64) -> *const u8 {
    let pointer;
    // SAFETY: the call takes two numbers, and changes no other registers than those of arguments.
    unsafe {
        asm!(
            "r0 = {place}",
            place = const RDONLY_CAST_PLACEHOLDER,
            inlateout("r1") address => _,
            inlateout("r2") type_id => _,
            lateout("r0") pointer,
            lateout("r3") _,
            lateout("r4") _,
            lateout("r5") _,
            options(nostack),
        );
    }
    pointer
}

/// Loads a field of a kernel structure.
///
/// # Safety
///
/// The pointer must come from [`rdonly_cast`], or from a field that was loaded through such a pointer.
#[inline(always)]
pub(crate) unsafe fn field<T: Copy>(structure: *const u8, offset: u64) -> T {
    // SAFETY: the verifier checks that the structure has such a field, and the kernel reads a bad address as 0.
    unsafe { structure.add(offset as usize).cast::<T>().read_volatile() }
}

/// Loads a word of a map's element that the agent, or a program on another CPU, may store to at the same time.
#[inline(always)]
pub(crate) fn load_word(word: *const u64) -> u64 {
    // SAFETY: callers pass pointers to aligned words inside map elements, which live as long as the program runs.
    unsafe { ptr::read_volatile(word) }
}
