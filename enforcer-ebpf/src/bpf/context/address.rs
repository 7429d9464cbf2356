//! Address of a bind: from the context of a hook, and to the forms in which records and holds contain it.

use enforcer_ebpf::{
    decide::Target,
    wire::{BIND_FLAG_V6ONLY, BIND_FLAG_V6ONLY_UNKNOWN, FAMILY_V4, FAMILY_V6, v6_address_word},
};

use super::socket::Socket;

/// Returns the target of a bind of an IPv6 socket, with `BIND_FLAG_V6ONLY*`. The address is four words in network byte
/// order, as the context of a hook has them.
#[inline(always)]
pub(crate) fn v6_target(words: [u32; 4], socket: Socket) -> (Target, u8) {
    if words[0] == 0 && words[1] == 0 && words[2] == 0xffff_u32.to_be() {
        // `::ffff:a.b.c.d` binds the IPv4 address.
        return (Target::V4(words[3].to_ne_bytes()), 0);
    }
    let [a, b, c, d] = words;
    let low = u64::from(a) | u64::from(b) << 32;
    let high = u64::from(c) | u64::from(d) << 32;
    let address = (u128::from(low) | u128::from(high) << 64).to_le_bytes();
    if low != 0 || high != 0 {
        return (Target::V6 { address, v6only: false }, 0);
    }
    match socket.flags().v6only() {
        Some(v6only) => (Target::V6 { address, v6only }, if v6only { BIND_FLAG_V6ONLY } else { 0 }),
        None => (Target::V6 { address, v6only: false }, BIND_FLAG_V6ONLY_UNKNOWN),
    }
}

/// Encodes the address for a record: `FAMILY_*`, and four words in network byte order.
#[inline(always)]
pub(crate) fn encode_address(target: &Target) -> (u8, [u32; 4]) {
    match target {
        Target::V4(address) => (FAMILY_V4, [u32::from_ne_bytes(*address), 0, 0, 0]),
        Target::V6 { address, .. } => {
            let number = u128::from_le_bytes(*address);
            (FAMILY_V6, [number, number >> 32, number >> 64, number >> 96].map(|word| (word as u32).to_le()))
        }
    }
}

/// Encodes the address for a hold: [`enforcer_ebpf::wire::PortHold::address`].
#[inline(always)]
pub(crate) fn encode_hold_address(target: &Target) -> u64 {
    match target {
        Target::V4(address) => u64::from(u32::from_ne_bytes(*address)),
        Target::V6 { address, .. } => {
            let number = u128::from_ne_bytes(*address);
            v6_address_word(number as u64, (number >> 64) as u64)
        }
    }
}

/// Returns whether the address is a multicast group's.
#[inline(always)]
pub(crate) fn is_multicast(target: &Target) -> bool {
    match target {
        Target::V4(address) => address[0] >> 4 == 0xe,
        Target::V6 { address, .. } => address[0] == 0xff,
    }
}
