//! `PORT_HOLDS`, `SOCKET_HOLDS` and `FALLBACK_HOLDS`: holders of ports whose sockets could share them, written by the
//! programs alone; and `PORT_HOLDERS`: one word for each port on whether it is held.
//!
//! An element of `PORT_HOLDS` is made when a port is first taken, and never removed while programs use the map: two
//! callers could both get a port whose element is removed while another CPU waits for its lock.

use crate::wire::{Protocol, Reason, VerdictKind, counter};

/// Most holds of one port, one for each holder and address. A hold beyond that is not stored, and counted
/// ([`crate::wire::KernelError::HoldsFull`]).
pub const MAX_HOLDS_PER_PORT: usize = 8;

/// Bit in [`PortHold::extent`]: the hold covers IPv4 addresses.
pub const EXTENT_V4: u32 = 1;
/// Bit in [`PortHold::extent`]: the hold covers IPv6 addresses.
pub const EXTENT_V6: u32 = 1 << 1;
/// Bit in [`PortHold::extent`]: the hold is on one address, [`PortHold::address`].
pub const EXTENT_ONE: u32 = 1 << 2;
/// First bit in [`PortHold::extent`] of the index of the device that the socket is bound to, 0 for none.
pub const EXTENT_DEVICE_SHIFT: u32 = 3;

/// The [`PortHold::holder`] of a process outside the attached subtree: the id of the hierarchy's root.
pub const HOLDER_HOST: u64 = 1;
/// The [`PortHold::holder`] of a process below the attached root that is in no pod that is known. No cgroup has this
/// id, which are counted up from 1.
pub const HOLDER_UNPLACED: u64 = (1 << 56) - 1;

/// Hold of a port: one holder on one address, with all its sockets there. All zeros in a free place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)
)]
#[repr(C)]
pub struct PortHold {
    /// Id of the pod's cgroup, [`HOLDER_HOST`] or [`HOLDER_UNPLACED`]; 0 if the place is free.
    pub holder: u64,
    /// The address, see [`v6_address_word`]; 0 unless `extent` has [`EXTENT_ONE`].
    pub address: u64,
    /// Bits `EXTENT_*`. Never 0 in use.
    pub extent: u32,
    /// Number of sockets. In `SOCKET_HOLDS` and `FALLBACK_HOLDS`, which are of one socket, [`crate::wire::port_index`]
    /// of its port.
    pub count: u32,
}

const _: () = assert!(size_of::<PortHold>() == 24);

/// Lock: `struct bpf_spin_lock` (include/uapi/linux/bpf.h). The kernel finds it in a map's value by this name
/// (`btf_find_spin_lock` in kernel/bpf/btf.c).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)
)]
#[repr(C)]
pub struct bpf_spin_lock {
    /// Opaque.
    pub val: u32,
}

/// Holds of one port: value of the `PORT_HOLDS` hash, whose key is [`crate::wire::port_index`] of the port (`u32`).
/// Read and written under its lock; a lookup by system call returns the value with a lock of zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)
)]
#[repr(C)]
pub struct PortHolds {
    /// The lock.
    pub lock: bpf_spin_lock,
    /// Incremented whenever a hold is added or removed.
    pub version: u32,
    /// The holds, in no order, with free places between.
    pub holds: [PortHold; MAX_HOLDS_PER_PORT],
}

const _: () = assert!(size_of::<PortHolds>() == 8 + MAX_HOLDS_PER_PORT * 24);

// SAFETY: `repr(C)`, integers only, no implicit padding (the size is asserted above).
#[cfg(all(feature = "object", not(target_arch = "bpf")))]
unsafe impl aya::Pod for PortHolds {}

/// Returns [`PortHold::address`] of an IPv6 address, from its halves as the kernel has them in memory: a hash, with the
/// upper bit set. Two addresses of one node with the same word would be taken for one. That of an IPv4 address is the
/// address itself, as the kernel has it.
#[must_use]
#[inline(always)]
pub const fn v6_address_word(low: u64, high: u64) -> u64 {
    (low ^ high.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 << 63
}

/// Element of the `SOLE_HOLDS` array, by [`crate::wire::port_index`] of TCP and UDP ports: the hold of one socket on a port
/// that has no other hold, or [`IN_TABLE`] in [`SoleHold::socket`] once there were more at a time. From then on further
/// holds are in the table (`PORT_HOLDS`), and this one stays until its socket is closed. Read and written under its lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SoleHold {
    /// The lock.
    pub lock: bpf_spin_lock,
    /// As [`PortHold::extent`]; 0 for no hold.
    pub extent: u32,
    /// As [`PortHold::holder`].
    pub holder: u64,
    /// As [`PortHold::address`].
    pub address: u64,
    /// Cookie of the socket, 0 for none; and [`IN_TABLE`].
    pub socket: u64,
}

const _: () = assert!(size_of::<SoleHold>() == 32);

// SAFETY: `repr(C)`, integers only, no implicit padding (the size is asserted above).
#[cfg(all(feature = "object", not(target_arch = "bpf")))]
unsafe impl aya::Pod for SoleHold {}

/// Bit in [`SoleHold::socket`]: further holds of the port are in the table. Never cleared.
pub const IN_TABLE: u64 = 1 << 63;

/// Element of the `PORT_HOLDERS` array, by [`crate::wire::port_index`] of TCP and UDP ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)
)]
#[repr(C)]
pub struct PortHolder {
    /// 0 if no holder of the port is known; [`HOLDER_SOMEBODY`]; the id of the pod cgroup that alone holds it; or
    /// [`HOLDER_SOCKET`] and the cookie of the socket that alone holds it. The programs write the last one, take it back
    /// when that socket is closed, and change it to [`HOLDER_SOMEBODY`] when another socket joins. The agent writes the
    /// rest.
    pub holder: u64,
    /// 0 until a bind asks for this very port, then [`Self::asked_by`] of the last attempt that was not denied, and above
    /// [`ASKED_BITS`] the cookie of its socket, if that could share the port and is to be known again. By this the
    /// programs know what was bound by a bind to port 0, which owns nothing.
    pub asked: u64,
}

const _: () = assert!(size_of::<PortHolder>() == 16);

// SAFETY: `repr(C)`, integers only, no implicit padding, as the derive of `IntoBytes` proves.
#[cfg(all(feature = "object", not(target_arch = "bpf")))]
unsafe impl aya::Pod for PortHolder {}

impl PortHolder {
    /// Returns [`Self::asked`] after an attempt with this verdict.
    #[must_use]
    #[inline(always)]
    pub const fn asked_by(kind: VerdictKind, reason: Reason) -> u64 {
        1 + counter(kind, reason, Protocol::Tcp) as u64
    }
}

/// Bits of [`PortHolder::asked`] that contain [`PortHolder::asked_by`].
pub const ASKED_BITS: u32 = 8;

/// Value of [`PortHolder::holder`]: the port is held by several holders, by the host, or by one that the agent has not
/// written yet. No pod's cgroup has this id, which is the root's.
pub const HOLDER_SOMEBODY: u64 = 1;

/// Bit of [`PortHolder::holder`]: the rest is the cookie of a socket, which the agent has not written by whom.
pub const HOLDER_SOCKET: u64 = 1 << 63;

/// Ports of all enforced protocols: elements of `PORT_HOLDERS`, by [`crate::wire::port_index`].
pub const ENFORCED_PORT_COUNT: u32 = (Protocol::ENFORCED.len() as u32) << 16;

/// 64-bit words of `SHARED`: one bit for each port of an enforced protocol, by [`crate::wire::port_index`]. A set bit
/// means that everybody may share the port.
pub const SHARED_PORT_WORDS: u32 = ENFORCED_PORT_COUNT / 64;

/// Most ports in `PORT_HOLDS`: every port of every enforced protocol.
pub const MAX_PORT_HOLDS: u32 = ENFORCED_PORT_COUNT;
/// Most MPTCP sockets in `FALLBACK_HOLDS`.
pub const MAX_FALLBACK_HOLDS: u32 = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v6_addresses_have_different_words() {
        let word = |text: &str| {
            let octets = text.parse::<std::net::Ipv6Addr>().unwrap().octets();
            let half = |at: usize| u64::from_ne_bytes(octets[at..at + 8].try_into().unwrap());
            v6_address_word(half(0), half(8))
        };
        let words = ["::1", "::2", "fe80::1", "fe80::2", "1::", "2::", "fd00:1::1", "fd00::1:1", "1::1"].map(word);
        for (place, word) in words.iter().enumerate() {
            assert!(!words[place + 1..].contains(word));
        }
    }
}
