//! The atomic exchange with which the programs reserve space in the socket log (`BPF_CMPXCHG`, since 5.12).
//!
//! An earlier kernel refuses an object that contains one, even where no path leads to it
//! (`resolve_pseudo_ldimm64` in kernel/bpf/verifier.c: "`BPF_STX` uses reserved fields"). There the programs write to a
//! ring, and the instructions are replaced before the object is loaded.

use crate::kernel::{
    bpf_syscall::INSTRUCTION_BYTES,
    rdonly_cast::{MOVE, instruction, registers},
};

/// `BPF_STX | BPF_ATOMIC | BPF_DW`.
pub(super) const ATOMIC: u8 = 0xdb;
/// `BPF_CMPXCHG`.
pub(super) const COMPARE_EXCHANGE: i32 = 0xf1;

/// Returns the object with an instruction that every kernel knows in place of each exchange: `r0 = 0`. None of them is
/// reached.
pub(super) fn without_exchanges(mut object: Vec<u8>) -> Vec<u8> {
    // Code begins at a multiple of an instruction's size, as everywhere in an ELF file.
    for place in object.chunks_exact_mut(INSTRUCTION_BYTES).filter(|place| is_exchange(place)) {
        place.copy_from_slice(&instruction(MOVE, registers(0, 0), 0));
    }
    object
}

fn is_exchange(place: &[u8]) -> bool {
    place[0] == ATOMIC && place[4..] == COMPARE_EXCHANGE.to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use enforcer_ebpf::OBJECT;

    use super::*;

    #[test]
    fn no_exchange_is_left_and_nothing_else_changes() {
        let count = |object: &[u8]| object.chunks_exact(INSTRUCTION_BYTES).filter(|place| is_exchange(place)).count();
        assert!(count(OBJECT) > 4, "{}", count(OBJECT));
        let object = without_exchanges(OBJECT.to_vec());
        assert_eq!(count(&object), 0);
        let changed = OBJECT.chunks_exact(INSTRUCTION_BYTES).zip(object.chunks_exact(INSTRUCTION_BYTES));
        assert_eq!(changed.filter(|(before, after)| before != after).count(), count(OBJECT));
        assert_eq!(object.len(), OBJECT.len());
    }
}
