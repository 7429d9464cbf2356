//! Fields of a socket in kernel memory. Where the programs may not read it (lockdown, no `CAP_PERFMON`), nothing is
//! known.

use core::{arch::asm, ffi::c_void};

use aya_ebpf::{
    EbpfContext,
    helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_map_lookup_elem},
};
use enforcer_ebpf::wire::{BIND_FLAG_REUSE_ADDR, BIND_FLAG_REUSE_PORT, BIND_FLAG_REUSE_UNKNOWN};

use super::read::{field, rdonly_cast, read_kernel};
use crate::bpf::{
    constants::{
        BOUND_DEV_OFFSET, IS_MPTCP_OFFSET, KERN_SOCK_BIT, NET_COOKIE_OFFSET, SOCK_COOKIE_OFFSET, SOCK_FLAGS_OFFSET,
        SOCK_NET_OFFSET, SOCK_NUM_OFFSET, SOCK_STORAGE_OFFSET, SOCK_TYPE, SUBFLOW_CONN_OFFSET, ULP_DATA_OFFSET,
    },
    maps::FALLBACK_USED,
};

/// Bits of `skc_reuse` in the byte of [`SocketFlags`].
const REUSE_BITS: u8 = 0xf;
/// Bit of `skc_reuseport`.
const REUSEPORT_BIT: u8 = 1 << 4;
/// Bit of `skc_ipv6only`.
const IPV6ONLY_BIT: u8 = 1 << 5;

/// A `struct sock`: where the programs read it by loads, the verifier's pointer to it, which is no number that may be
/// reckoned with; else its address. 0 where its memory may not be read.
#[derive(Clone, Copy)]
pub(crate) struct Socket(u64);

impl Socket {
    /// Returns the socket that a pointer of the verifier's leads to: the context of a socket program, or the field `sk`
    /// of another one.
    #[inline(always)]
    pub(crate) fn from_pointer<T>(pointer: *const T) -> Self {
        if !SOCK_FLAGS_OFFSET.is_set() {
            return Self(0);
        }
        Self(if SOCK_TYPE.is_set() { pointer as u64 } else { pointer_value(pointer) })
    }

    /// Returns the same as [`Self::from_pointer`] at a lower cost, provided that `element` is null. `element` is a
    /// pointer to a map's element that the program has not compared with null yet.
    #[inline(always)]
    pub(crate) fn from_pointer_if_null<T, U>(pointer: *const T, element: *const U) -> Self {
        if !SOCK_FLAGS_OFFSET.is_set() {
            return Self(0);
        }
        Self(pointer_difference(pointer, element))
    }

    /// Returns the address, which identifies the socket as long as it lives.
    #[inline(always)]
    pub(crate) fn address(self) -> u64 {
        if !SOCK_TYPE.is_set() || self.0 == 0 { self.0 } else { pointer_value(self.0 as *const u8) }
    }

    /// Returns `SO_REUSEPORT`, `SO_REUSEADDR` and `IPV6_V6ONLY`.
    #[inline(always)]
    pub(crate) fn flags(self) -> SocketFlags {
        SocketFlags(self.sock_field(SOCK_FLAGS_OFFSET.get()))
    }

    /// Returns whether the kernel opened the socket for itself, as it does with the subflows of MPTCP sockets.
    #[inline(always)]
    pub(crate) fn is_kernel_socket(self) -> bool {
        let bit = KERN_SOCK_BIT.get();
        self.sock_field::<u8>(bit / 8).is_some_and(|byte| byte >> (bit % 8) & 1 != 0)
    }

    /// Returns the address of the MPTCP socket that this TCP socket is a subflow of; 0 if there is none.
    #[inline(always)]
    pub(crate) fn mptcp_parent(self) -> u64 {
        let address = self.address();
        if read_field::<u8>(address, IS_MPTCP_OFFSET.get()).is_none_or(|is_mptcp| is_mptcp == 0) {
            return 0;
        }
        // `mptcp_subflow_ctx` in net/mptcp/protocol.h.
        let subflow = read_field(address, ULP_DATA_OFFSET.get()).unwrap_or(0);
        read_field(subflow, SUBFLOW_CONN_OFFSET.get()).unwrap_or(0)
    }

    /// Returns the index of the device that the socket is bound to; 0 for none.
    #[inline(always)]
    pub(crate) fn bound_device(self) -> u32 {
        self.sock_field(BOUND_DEV_OFFSET.get()).unwrap_or(0)
    }

    /// Returns the local port, 0 if the socket has none; `None` where it cannot be read.
    #[inline(always)]
    pub(crate) fn local_port(self) -> Option<u16> {
        self.sock_field(SOCK_NUM_OFFSET.get())
    }

    /// Returns the cookie, as `SO_COOKIE` gives it. `context` is that of the program that this socket is of.
    #[inline(always)]
    pub(crate) fn cookie(self, context: &impl EbpfContext) -> u64 {
        let cookie = self.known_cookie();
        if cookie != 0 {
            return cookie;
        }
        // SAFETY: the helper takes the context of a socket program.
        unsafe { bpf_get_socket_cookie(context.as_ptr()) }
    }

    /// Returns the cookie, or 0 if nobody asked for it yet, or if the socket is not read by loads.
    #[inline(always)]
    pub(crate) fn known_cookie(self) -> u64 {
        match self.loadable() {
            // SAFETY: as in `loadable`.
            Some(pointer) => unsafe { field(pointer, SOCK_COOKIE_OFFSET.get()) },
            None => 0,
        }
    }

    /// Returns the cookie of its network namespace. `context` is that of the program that this socket is of.
    #[inline(always)]
    pub(crate) fn netns_cookie(self, context: &impl EbpfContext) -> u64 {
        let Some(pointer) = self.loadable() else {
            // SAFETY: the helper takes the context of a socket program.
            return unsafe { bpf_get_netns_cookie(context.as_ptr()) };
        };
        // SAFETY: as in `loadable`.
        unsafe {
            let net: *const u8 = field(pointer, SOCK_NET_OFFSET.get());
            field(net, NET_COOKIE_OFFSET.get())
        }
    }

    /// Returns whether the socket may have storage. Without a load it is not known.
    #[inline(always)]
    pub(crate) fn may_have_storage(self) -> bool {
        self.sock_field::<u64>(SOCK_STORAGE_OFFSET.get()).is_none_or(|storage| storage != 0)
    }

    /// Returns a pointer for [`field`], where sockets are read by loads.
    #[inline(always)]
    fn loadable(self) -> Option<*const u8> {
        let type_id = SOCK_TYPE.get();
        if type_id == 0 { None } else { Some(rdonly_cast(self.0, type_id)) }
    }

    /// Reads a field of `struct sock` itself: by a load where the kernel can do that, else by a helper.
    #[inline(always)]
    fn sock_field<T: Copy>(self, offset: u64) -> Option<T> {
        match self.loadable() {
            // SAFETY: as in `field`. Callers ask for integers only.
            Some(pointer) if offset != 0 => Some(unsafe { field(pointer, offset) }),
            Some(_) => None,
            None => read_field(self.0, offset),
        }
    }
}

/// Reads a field of any structure at this address, by a helper; `None` where address or offset is 0.
#[inline(always)]
fn read_field<T>(address: u64, offset: u64) -> Option<T> {
    if offset == 0 || address == 0 { None } else { read_kernel(address + offset) }
}

/// The byte of `struct sock_common` with `skc_reuse`, `skc_reuseport` and `skc_ipv6only`, if it could be read.
#[derive(Clone, Copy)]
pub(crate) struct SocketFlags(Option<u8>);

impl SocketFlags {
    /// Returns whether the socket is IPv6 only; `None` if that is not known.
    #[inline(always)]
    pub(crate) fn v6only(self) -> Option<bool> {
        self.0.map(|byte| byte & IPV6ONLY_BIT != 0)
    }

    /// Returns `SO_REUSEPORT` and `SO_REUSEADDR` as `BIND_FLAG_REUSE_*`.
    #[inline(always)]
    pub(crate) fn reuse_flags(self) -> u8 {
        let Some(byte) = self.0 else {
            return BIND_FLAG_REUSE_UNKNOWN;
        };
        (if byte & REUSEPORT_BIT != 0 { BIND_FLAG_REUSE_PORT } else { 0 })
            | if byte & REUSE_BITS != 0 { BIND_FLAG_REUSE_ADDR } else { 0 }
    }
}

/// Returns the value of a pointer of the verifier's, as a plain number.
///
/// The verifier forbids arithmetic on a socket pointer ("pointer arithmetic on sock prohibited",
/// `adjust_ptr_min_max_vals` in kernel/bpf/verifier.c). But it takes the difference of two pointers for a number that
/// it knows nothing about (`adjust_reg_min_max_vals`; for programs that may leak pointers, which are those that may
/// read kernel memory), and a pointer to an element that no array has is 0. The other way costs much more: to write the
/// pointer to the stack, and to read it from there by a helper.
#[inline(always)]
fn pointer_value<T>(pointer: *const T) -> u64 {
    let out_of_range = 1_u32;
    // SAFETY: the key lives across the call; the verifier checks that the map is one.
    let null =
        unsafe { bpf_map_lookup_elem((&raw const FALLBACK_USED).cast_mut().cast(), (&raw const out_of_range).cast()) };
    pointer_difference(pointer, null)
}

/// Returns the difference of two pointers: the first one's value, if the second is null. The verifier must not know yet
/// whether it is. See [`pointer_value`].
#[expect(clippy::pointers_in_nomem_asm_block, reason = "the registers are subtracted, and nothing is read by them")]
#[inline(always)]
fn pointer_difference<T, U>(pointer: *const T, other: *const U) -> u64 {
    let mut number = pointer.cast::<c_void>();
    // SAFETY: a subtraction of two registers. In assembly, since the compiler would find that 0 is subtracted; and not
    // `pure`, since it would move it behind the check whether the second pointer is null.
    unsafe { asm!("{0} -= {1}", inout(reg) number, in(reg) other, options(nomem, nostack)) };
    number as u64
}
