//! Keeping the kernel's verifier from exploring one and the same code many times.
//!
//! The verifier follows every path and merges two of them only if what it knows of them agrees. A number that is a
//! constant on each path and is later compared splits all that follows into as many walks as there are constants, and a
//! handful of such numbers multiply. [`forget`] makes the verifier forget that it knows the number.

/// The same number, of which the verifier knows nothing.
///
/// Without this the IPv6 program alone takes more than ten times as many steps to verify, and with the trace switched
/// on more than the million that the kernel allows (`BPF_COMPLEXITY_LIMIT_INSNS`).
#[inline(always)]
#[must_use]
pub fn forget(number: u32) -> u32 {
    number ^ zero()
}

/// [`forget`] for a yes or no.
#[inline(always)]
#[must_use]
pub fn forget_bool(yes: bool) -> bool {
    forget(u32::from(yes)) != 0
}

#[cfg(target_arch = "bpf")]
#[inline(always)]
fn zero() -> u32 {
    // In a map that can be written to, so that its content is unknown to the verifier, although nobody ever does.
    #[unsafe(no_mangle)]
    static mut ALWAYS_ZERO: u32 = 0;
    // SAFETY: nobody writes to it.
    unsafe { core::ptr::read_volatile(&raw const ALWAYS_ZERO) }
}

#[cfg(not(target_arch = "bpf"))]
#[inline(always)]
fn zero() -> u32 {
    0
}
