//! Hides numbers from the kernel's verifier, so that it does not walk the same code many times.
//!
//! The verifier walks every path of a program. Where two paths meet, it merges them only if it knows the same about
//! both. A number that is another constant on each path, and is compared later, prevents that: the verifier walks all
//! code behind it once for each constant, and several such numbers multiply. [`hide_from_verifier`] returns the same
//! number as one that the verifier knows nothing about. ADR 3 has the figures.

/// Returns the same number, about which the verifier knows nothing.
///
/// Without this, the verifier takes more than ten times as many steps for the IPv6 program alone, and with the trace
/// more than the million that the kernel allows (`BPF_COMPLEXITY_LIMIT_INSNS` in include/linux/bpf.h).
#[inline(always)]
#[must_use]
pub fn hide_from_verifier(number: u32) -> u32 {
    number ^ zero()
}

/// Returns the same boolean, about which the verifier knows nothing.
#[inline(always)]
#[must_use]
pub fn hide_bool_from_verifier(value: bool) -> bool {
    hide_from_verifier(u32::from(value)) != 0
}

/// Variable whose value the verifier never knows, whatever the compiler does with [`hide_from_verifier`].
///
/// It lives on the stack. A variable in a register would hold a constant on each path until the paths meet.
#[derive(Debug)]
pub struct HiddenU32(u32);

impl HiddenU32 {
    /// Makes a variable with this value.
    #[inline(always)]
    #[must_use]
    pub fn new(number: u32) -> Self {
        let mut new = Self(0);
        new.set(number);
        new
    }

    /// Replaces the value.
    #[inline(always)]
    pub fn set(&mut self, number: u32) {
        // SAFETY: the field is this value's own.
        unsafe { (&raw mut self.0).write_volatile(hide_from_verifier(number)) };
    }

    /// Returns the value.
    #[inline(always)]
    #[must_use]
    pub fn get(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (&raw const self.0).read_volatile() }
    }
}

#[cfg(target_arch = "bpf")]
#[inline(always)]
fn zero() -> u32 {
    // The verifier does not know the content of a map that is writable, although nothing ever writes to this one.
    #[unsafe(no_mangle)]
    static mut ALWAYS_ZERO: u32 = 0;
    // SAFETY: nothing writes to it.
    unsafe { core::ptr::read_volatile(&raw const ALWAYS_ZERO) }
}

#[cfg(not(target_arch = "bpf"))]
#[inline(always)]
fn zero() -> u32 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_value_is_unchanged() {
        for number in [0, 1, u32::MAX] {
            assert_eq!(hide_from_verifier(number), number);
            let mut hidden = HiddenU32::new(number);
            assert_eq!(hidden.get(), number);
            hidden.set(!number);
            assert_eq!(hidden.get(), !number);
        }
        assert!(hide_bool_from_verifier(true));
        assert!(!hide_bool_from_verifier(false));
    }
}
