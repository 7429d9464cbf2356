//! `ADDRESS_OWNERS`: owner of one address of a port, for ports with address-specific claims.

use crate::wire::Protocol;

/// Key of the `ADDRESS_OWNERS` hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)
)]
#[repr(C)]
pub struct AddressKey {
    /// The address in network byte order; an IPv4 address takes the first four bytes, the others are zero.
    pub address: [u8; 16],
    /// The port.
    pub port: u16,
    /// Discriminant of the [`Protocol`].
    pub protocol: u8,
    /// 4 or 6.
    pub family: u8,
    /// Zero.
    pub padding: u32,
}

const _: () = assert!(size_of::<AddressKey>() == 24);

// SAFETY: `repr(C)`, integers only, no implicit padding (the size is asserted above).
#[cfg(all(feature = "object", not(target_arch = "bpf")))]
unsafe impl aya::Pod for AddressKey {}

impl AddressKey {
    /// Makes the key of an IPv4 address.
    #[must_use]
    #[inline(always)]
    pub const fn v4(protocol: Protocol, port: u16, address: [u8; 4]) -> Self {
        let [a, b, c, d] = address;
        Self {
            address: [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            port,
            protocol: protocol as u8,
            family: 4,
            padding: 0,
        }
    }

    /// Makes the key of an IPv6 address. An IPv4-mapped one belongs under [`Self::v4`].
    #[must_use]
    #[inline(always)]
    pub const fn v6(protocol: Protocol, port: u16, address: [u8; 16]) -> Self {
        Self { address, port, protocol: protocol as u8, family: 6, padding: 0 }
    }

    /// Returns a digest of the key that its value repeats, see [`AddressOwner`].
    #[must_use]
    #[inline(always)]
    pub const fn check(&self) -> u32 {
        let a = &self.address;
        let low = u32::from_ne_bytes([a[0], a[1], a[2], a[3]]);
        let high = u32::from_ne_bytes([a[12], a[13], a[14], a[15]]);
        let port = (self.port as u32) << 16 | (self.protocol as u32) << 8 | self.family as u32;
        low.rotate_left(7) ^ high ^ port
    }
}

/// Value of the `ADDRESS_OWNERS` hash: one word.
///
/// The kernel hands the memory of a deleted element to the next insertion without waiting for programs that still
/// look at it (`free_htab_elem` in kernel/bpf/hashtab.c), so a lookup may return another key's value. The
/// upper half, [`AddressKey::check`], shows that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct AddressOwner(pub u64);

impl AddressOwner {
    /// Makes the value for `key`.
    #[must_use]
    pub const fn new(slot: u16, key: &AddressKey) -> Self {
        Self(slot as u64 | (key.check() as u64) << 32)
    }

    /// Returns the owner's slot, or `None` if the value belongs to another key.
    #[must_use]
    #[inline(always)]
    pub const fn slot(self, key: &AddressKey) -> Option<u16> {
        if (self.0 >> 32) as u32 == key.check() { Some((self.0 & 0x7fff) as u16) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_belongs_to_its_key_only() {
        let one = AddressKey::v4(Protocol::Tcp, 80, [127, 0, 0, 1]);
        let value = AddressOwner::new(12, &one);
        assert_eq!(value.slot(&one), Some(12));
        for other in [
            AddressKey::v4(Protocol::Tcp, 81, [127, 0, 0, 1]),
            AddressKey::v4(Protocol::Udp, 80, [127, 0, 0, 1]),
            AddressKey::v4(Protocol::Tcp, 80, [127, 0, 0, 2]),
            AddressKey::v6(Protocol::Tcp, 80, core::net::Ipv6Addr::LOCALHOST.octets()),
        ] {
            assert_eq!(value.slot(&other), None, "{other:?}");
        }
    }
}
