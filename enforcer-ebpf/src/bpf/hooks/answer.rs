//! Answers of the hooks to the kernel.

use aya_ebpf::helpers::generated::{bpf_get_retval, bpf_set_retval};

use crate::bpf::constants::{HAS_POST_SET_RETVAL, HAS_SET_RETVAL};

/// The operation goes on. Bit 1 of an answer of the bind hooks would lift the need for `CAP_NET_BIND_SERVICE` and stays
/// 0 (`BPF_RET_BIND_NO_CAP_NET_BIND_SERVICE` in include/linux/bpf.h).
pub(super) const ALLOW: i32 = 1;
/// The operation fails.
const DENY: i32 = 0;

/// Greatest error number (include/linux/err.h). All its bits are set, so that it masks one: Linux 7.3 refuses a program
/// that could pass a greater number ("should have been in [-4095, 0]").
const MAX_ERRNO: u16 = 4095;

/// Denies a bind in a bind hook, with this error number if the kernel lets programs choose. An error number that an
/// earlier program of the hierarchy chose stands.
#[inline(always)]
pub(super) fn deny_bind(errno: u16) -> i32 {
    // SAFETY: neither helper has a precondition; where they are missing the verifier never sees them.
    if HAS_SET_RETVAL.is_set() && unsafe { bpf_get_retval() } == 0 {
        // SAFETY: as above.
        unsafe { bpf_set_retval(-i32::from(errno & MAX_ERRNO)) };
    }
    DENY
}

/// Denies a bind in a post-bind hook, with this error number if the kernel lets programs choose.
#[inline(always)]
pub(super) fn deny_post_bind(errno: u16) -> i32 {
    if HAS_POST_SET_RETVAL.is_set() {
        // SAFETY: the helper has no precondition; where it is missing the verifier never sees it.
        unsafe { bpf_set_retval(-i32::from(errno & MAX_ERRNO)) };
    }
    DENY
}
