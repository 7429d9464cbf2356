//! What is read of a socket in kernel memory. Where it may not be read (lockdown, no `CAP_PERFMON`), nothing is known.

use core::{arch::asm, ffi::c_void};

use aya_ebpf::helpers::generated::bpf_map_lookup_elem;
use enforcer_ebpf::abi::{BIND_FLAG_REUSE_ADDR, BIND_FLAG_REUSE_PORT, BIND_FLAG_REUSE_UNKNOWN};

use crate::bpf::{
    context::config::{cast, read},
    maps::{
        BOUND_DEV_OFFSET, IS_MPTCP_OFFSET, KERN_SOCK_BIT, SOCK_FLAGS_OFFSET, SOCK_NUM_OFFSET, SOCK_TYPE, STRAYS,
        SUBFLOW_CONN_OFFSET, ULP_DATA_OFFSET,
    },
};

/// The value of a pointer of the verifier's, as a plain number.
///
/// The verifier forbids arithmetic on a socket pointer ("pointer arithmetic on sock prohibited", `adjust_ptr_min_max_vals` in
/// kernel/bpf/verifier.c). But the difference of two pointers is a number, of which it knows nothing
/// (`adjust_reg_min_max_vals`; for programs that may leak pointers, which are those that may read kernel memory), and a
/// pointer to an element that no array has is 0. To write the pointer to the stack and let a helper read it back from there
/// as a number costs much more.
#[inline(always)]
fn number<T>(pointer: *const T) -> u64 {
    let beyond = 1_u32;
    // SAFETY: the key lives across the call; the verifier checks that the map is one.
    let nothing = unsafe { bpf_map_lookup_elem((&raw const STRAYS).cast_mut().cast(), (&raw const beyond).cast()) };
    less(pointer, nothing)
}

/// What [`number`] is about: the difference of two pointers, and so the first one's value if the second is null. The verifier
/// must not know yet whether it is.
#[expect(clippy::pointers_in_nomem_asm_block, reason = "the registers are subtracted, and nothing is read by them")]
#[inline(always)]
fn less<T, U>(pointer: *const T, other: *const U) -> u64 {
    let mut number = pointer.cast::<c_void>();
    // SAFETY: a subtraction of two registers. By hand, since the compiler would find out that 0 is subtracted, and not `pure`,
    // since it would put it behind the question whether the second is null.
    unsafe { asm!("{0} -= {1}", inout(reg) number, in(reg) other, options(nomem, nostack)) };
    number as u64
}

const REUSE: u8 = 0xf;
const REUSEPORT: u8 = 1 << 4;
const IPV6ONLY: u8 = 1 << 5;

/// Address of a `struct sock`, 0 where it is not known.
#[derive(Clone, Copy)]
pub(crate) struct Socket(u64);

/// The byte with `skc_reuse`, `skc_reuseport` and `skc_ipv6only`, where it could be read.
#[derive(Clone, Copy)]
pub(crate) struct Flags(Option<u8>);

impl Socket {
    /// The socket that a pointer of the verifier's leads to: the context of a socket program, or the field `sk` of another.
    #[inline(always)]
    pub(crate) fn of<T>(pointer: *const T) -> Self {
        if SOCK_FLAGS_OFFSET.load() == 0 {
            return Self(0);
        }
        Self(number(pointer))
    }

    /// As [`Self::of`], where there is a pointer to a map's element that may be null and was not looked at yet. It is the
    /// socket only if that pointer is.
    #[inline(always)]
    pub(crate) fn if_null<T, U>(pointer: *const T, element: *const U) -> Self {
        if SOCK_FLAGS_OFFSET.load() == 0 {
            return Self(0);
        }
        Self(less(pointer, element))
    }

    /// The address, as a name of the socket for as long as it lives.
    #[inline(always)]
    pub(crate) const fn name(self) -> u64 {
        self.0
    }

    #[inline(always)]
    fn field<T>(self, offset: u32) -> Option<T> {
        if offset == 0 || self.0 == 0 { None } else { read(self.0 + u64::from(offset)) }
    }

    /// A field of `struct sock` itself.
    #[inline(always)]
    fn of_sock<T: Copy>(self, offset: u32) -> Option<T> {
        let type_id = SOCK_TYPE.load();
        if type_id == 0 || offset == 0 || self.0 == 0 {
            return self.field(offset);
        }
        // SAFETY: the verifier checks that the field is one of the structure, and the kernel gives 0 for what is not there.
        // Callers ask for integers only.
        Some(unsafe { cast(self.0, type_id).add(offset as usize).cast::<T>().read_volatile() })
    }

    #[inline(always)]
    pub(crate) fn flags(self) -> Flags {
        Flags(self.of_sock(SOCK_FLAGS_OFFSET.load()))
    }

    /// Whether the kernel made it for itself. Its subflows of MPTCP sockets are such, too.
    #[inline(always)]
    pub(crate) fn is_kernels(self) -> bool {
        let bit = KERN_SOCK_BIT.load();
        self.of_sock::<u8>(bit / 8).is_some_and(|byte| byte >> (bit % 8) & 1 != 0)
    }

    /// The MPTCP socket of which this TCP socket is a subflow; 0 if it is none.
    #[inline(always)]
    pub(crate) fn parent(self) -> u64 {
        if self.field::<u8>(IS_MPTCP_OFFSET.load()).is_none_or(|is_mptcp| is_mptcp == 0) {
            return 0;
        }
        // `mptcp_subflow_ctx` in net/mptcp/protocol.h.
        let subflow = Self(self.field(ULP_DATA_OFFSET.load()).unwrap_or(0));
        subflow.field(SUBFLOW_CONN_OFFSET.load()).unwrap_or(0)
    }

    /// Index of the device that it is bound to, 0 for none.
    #[inline(always)]
    pub(crate) fn device(self) -> u32 {
        self.of_sock(BOUND_DEV_OFFSET.load()).unwrap_or(0)
    }

    /// Its own port, 0 if it has none; `None` where that cannot be read.
    #[inline(always)]
    pub(crate) fn port(self) -> Option<u16> {
        self.of_sock(SOCK_NUM_OFFSET.load())
    }
}

impl Flags {
    /// Whether it is IPv6 only, where that is known.
    #[inline(always)]
    pub(crate) fn v6only(self) -> Option<bool> {
        self.0.map(|byte| byte & IPV6ONLY != 0)
    }

    /// `SO_REUSEPORT` and `SO_REUSEADDR` as `BIND_FLAG_*`.
    #[inline(always)]
    pub(crate) fn reuse_bits(self) -> u8 {
        let Some(byte) = self.0 else {
            return BIND_FLAG_REUSE_UNKNOWN;
        };
        (if byte & REUSEPORT != 0 { BIND_FLAG_REUSE_PORT } else { 0 })
            | if byte & REUSE != 0 { BIND_FLAG_REUSE_ADDR } else { 0 }
    }
}
