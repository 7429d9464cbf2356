//! `PORTS`: the owners of a port, in one word.

use crate::wire::Protocol;

/// Elements of the `PORTS` array: one [`PortWord`] for every port of every protocol.
pub const PORT_COUNT: u32 = (Protocol::ALL.len() as u32) << 16;

/// Returns the index of a port in the `PORTS` array.
#[must_use]
#[inline(always)]
pub const fn port_index(protocol: Protocol, port: u16) -> u32 {
    ((protocol as u32) << 16) | port as u32
}

/// The claims in force on one address family of a port, summed up so that no bind has to walk a list.
///
/// A side is in one of four states: nobody's (`first == 0`); `whole`, where claims on the wildcard address are in
/// force; one owner's on some addresses (`first`, `second == 0`); or several owners', each on addresses of their own.
/// Where there are a `first` and a `second`, they are two *different* owners, chosen so that a caller to whom any owner
/// of the side is foreign finds one of the two foreign. Claims on one address are in force together only for pods that
/// share it: then one of them mostly stands for all, and `second` is 0 on a `whole` side too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Side {
    /// Slot of an owner in `OWNERS`, 1 to 32767; 0 means that nobody claims this side.
    pub first: u16,
    /// Slot of an owner that differs from `first`; 0 if there is none, or `first` stands for all.
    pub second: u16,
    /// The owners in `first` and `second` own every address of the family.
    pub whole: bool,
}

/// One element of `PORTS`: both [`Side`]s in one word.
///
/// | bits | meaning |
/// | --- | --- |
/// | 0–14 | IPv4: first owner's slot |
/// | 15 | IPv4: whole |
/// | 16–30 | IPv4: second owner's slot |
/// | 31 | zero |
/// | 32–46 | IPv6: first owner's slot |
/// | 47 | IPv6: whole |
/// | 48–62 | IPv6: second owner's slot |
/// | 63 | zero |
///
/// Examples: `0` is an unclaimed port; `0x0000_8003_0000_8003` is a port that slot 3 claims without an address;
/// `0x0000_0000_0004_0003` is a port of which slots 3 and 4 each claim some IPv4 address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct PortWord(pub u64);

const SLOT_MASK: u64 = 0x7fff;
const WHOLE: u64 = 0x8000;

impl PortWord {
    /// Nobody claims the port.
    pub const UNCLAIMED: Self = Self(0);

    /// Packs both sides.
    #[must_use]
    pub const fn new(v4: Side, v6: Side) -> Self {
        Self(pack(v4) | pack(v6) << 32)
    }

    /// Returns the slot of the owner that alone stands for every address of both families, as of most claims; 0 if there
    /// is none.
    #[must_use]
    #[inline(always)]
    pub const fn sole(self) -> u16 {
        // The word that it is then, made of its slot alone: of two comparisons the compiler makes a dozen jumps.
        let slot = self.0 & SLOT_MASK;
        let side = slot | WHOLE;
        if self.0 == side | side << 32 { slot as u16 } else { 0 }
    }

    /// Returns the IPv4 side.
    #[must_use]
    #[inline(always)]
    pub const fn v4(self) -> Side {
        unpack(self.0)
    }

    /// Returns the IPv6 side.
    #[must_use]
    #[inline(always)]
    pub const fn v6(self) -> Side {
        unpack(self.0 >> 32)
    }
}

const fn pack(side: Side) -> u64 {
    (side.first as u64 & SLOT_MASK) | if side.whole { WHOLE } else { 0 } | (side.second as u64 & SLOT_MASK) << 16
}

#[inline(always)]
const fn unpack(bits: u64) -> Side {
    Side { first: (bits & SLOT_MASK) as u16, second: (bits >> 16 & SLOT_MASK) as u16, whole: bits & WHOLE != 0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_documented_examples() {
        let whole = Side { first: 3, second: 0, whole: true };
        assert_eq!(PortWord::new(whole, whole).0, 0x0000_8003_0000_8003);
        let mixed = Side { first: 3, second: 4, whole: false };
        assert_eq!(PortWord::new(mixed, Side::default()).0, 0x0000_0000_0004_0003);
        assert_eq!(PortWord::UNCLAIMED, PortWord::new(Side::default(), Side::default()));
    }

    #[test]
    fn indexes_do_not_overlap() {
        assert_eq!(port_index(Protocol::Tcp, 65535) + 1, port_index(Protocol::Udp, 0));
        assert_eq!(port_index(Protocol::Sctp, 65535) + 1, PORT_COUNT);
    }

    fn side() -> impl Strategy<Value = Side> {
        (0u16..1 << 15, 0u16..1 << 15, any::<bool>()).prop_map(|(first, second, whole)| Side { first, second, whole })
    }

    proptest! {
        #[test]
        fn only_who_has_both_sides_whole_is_the_sole_owner(
            v4 in side(), v6 in side(), same in any::<bool>(), alone in any::<bool>(),
        ) {
            let v4 = if alone { Side { second: 0, ..v4 } } else { v4 };
            let v6 = if same { v4 } else { v6 };
            let is_sole = v4.whole && v6 == v4 && v4.second == 0;
            prop_assert_eq!(PortWord::new(v4, v6).sole(), if is_sole { v4.first } else { 0 });
        }

        #[test]
        fn packing_loses_nothing(v4 in side(), v6 in side()) {
            let word = PortWord::new(v4, v6);
            prop_assert_eq!(word.v4(), v4);
            prop_assert_eq!(word.v6(), v6);
        }
    }
}
