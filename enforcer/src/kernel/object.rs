//! From the object in this binary to the object for this kernel: what depends on the kernel is put into the code before
//! it is loaded.
//!
//! | in the object | for this kernel |
//! | --- | --- |
//! | a move of [`Constant::placeholder`] | a move of the constant's value |
//! | a move of [`RDONLY_CAST_PLACEHOLDER`] | a call of `bpf_rdonly_cast` ([`RdonlyCast`]), where the kernel has it |
//! | an atomic exchange (`BPF_CMPXCHG`) | before Linux 5.12 a move of 0 |
//!
//! A kernel that does not know the exchange refuses an object that contains one, even where no path leads to it
//! (`resolve_pseudo_ldimm64` in kernel/bpf/verifier.c: "`BPF_STX` uses reserved fields"). There the programs write to a
//! ring, and never come to the instructions that replace it.

use enforcer_ebpf::wire::{Constant, RDONLY_CAST_PLACEHOLDER};

use crate::kernel::{
    bpf_syscall::INSTRUCTION_BYTES,
    instruction::{ATOMIC, COMPARE_EXCHANGE, Instruction, MOVE, instruction, registers},
    rdonly_cast::RdonlyCast,
};

/// What an object is adapted to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target<'a> {
    /// Value of each constant, in the order of [`Constant::ALL`].
    pub(super) constants: &'a [u32; Constant::ALL.len()],
    /// The call of `bpf_rdonly_cast`, where the kernel has it.
    pub(super) cast: Option<RdonlyCast>,
    /// The kernel knows the atomic exchange.
    pub(super) has_atomic_exchange: bool,
}

impl Target<'_> {
    /// Returns the object for this kernel.
    pub(super) fn adapt(&self, object: &[u8]) -> Vec<u8> {
        let mut object = object.to_vec();
        // Code begins at a multiple of an instruction's size, as everywhere in an ELF file.
        for place in object.as_chunks_mut::<INSTRUCTION_BYTES>().0 {
            if let Some(adapted) = self.adapt_instruction(*place) {
                *place = adapted;
            }
        }
        object
    }

    fn adapt_instruction(&self, found: Instruction) -> Option<Instruction> {
        let [code, registers_of_it, _, _, value @ ..] = found;
        let value = i32::from_ne_bytes(value);
        if code == ATOMIC && value == COMPARE_EXCHANGE {
            return (!self.has_atomic_exchange).then_some(instruction(MOVE, registers(0, 0), 0));
        }
        if code != MOVE {
            return None;
        }
        if value == RDONLY_CAST_PLACEHOLDER {
            return self.cast.map(RdonlyCast::call);
        }
        let constant = Constant::ALL.into_iter().position(|constant| constant.placeholder() == value)?;
        Some(instruction(MOVE, registers_of_it, self.constants[constant].cast_signed()))
    }
}

#[cfg(test)]
mod tests {
    use enforcer_ebpf::OBJECT;

    use super::*;
    use crate::kernel::{
        btf::{LoadOffsets, TaskOffsets},
        instruction::CALL,
    };

    const CONSTANTS: [u32; Constant::ALL.len()] = [0x0fed_cba9; Constant::ALL.len()];

    fn cast() -> RdonlyCast {
        let (offsets, loads) = (TaskOffsets::default(), LoadOffsets::default());
        RdonlyCast { function: 0x0001_2345, sock: 7, task: 8, offsets, ancestors: None, loads }
    }

    fn is_move_of(bytes: &[u8], value: i32) -> bool {
        bytes[0] == MOVE && bytes[4..] == value.to_ne_bytes()
    }

    fn is_exchange(bytes: &[u8]) -> bool {
        bytes[0] == ATOMIC && bytes[4..] == COMPARE_EXCHANGE.to_ne_bytes()
    }

    /// Counts places at any offset: one that is not found because it begins elsewhere would be run as it stands.
    fn count(object: &[u8], is_wanted: impl Fn(&[u8]) -> bool) -> usize {
        object.windows(INSTRUCTION_BYTES).filter(|bytes| is_wanted(bytes)).count()
    }

    #[test]
    fn every_placeholder_is_replaced_and_nothing_else_changes() {
        let target = Target { constants: &CONSTANTS, cast: Some(cast()), has_atomic_exchange: false };
        let object = target.adapt(OBJECT);
        let mut replaced = 0;
        for constant in Constant::ALL {
            let places = count(OBJECT, |bytes| is_move_of(bytes, constant.placeholder()));
            assert!(places > 0, "{constant:?}");
            assert_eq!(count(&object, |bytes| is_move_of(bytes, constant.placeholder())), 0, "{constant:?}");
            replaced += places;
        }
        assert_eq!(count(&object, |bytes| is_move_of(bytes, 0x0fed_cba9)), replaced);

        let casts = count(OBJECT, |bytes| is_move_of(bytes, RDONLY_CAST_PLACEHOLDER));
        assert!(casts > 10, "{casts}");
        assert_eq!(count(&object, |bytes| bytes == cast().call()), casts);
        assert_eq!(cast().call()[0], CALL);

        let exchanges = count(OBJECT, is_exchange);
        assert!(exchanges > 4, "{exchanges}");
        assert_eq!(count(&object, is_exchange), 0);

        let (before, after) = (OBJECT.as_chunks::<INSTRUCTION_BYTES>().0, object.as_chunks::<INSTRUCTION_BYTES>().0);
        let changed = before.iter().zip(after).filter(|(before, after)| before != after).count();
        assert_eq!(changed, replaced + casts + exchanges);
        assert_eq!(object.len(), OBJECT.len());
    }

    #[test]
    fn calls_and_exchanges_stay_where_they_are_not_to_be_replaced() {
        let target = Target { constants: &CONSTANTS, cast: None, has_atomic_exchange: true };
        let object = target.adapt(OBJECT);
        let casts = |object: &[u8]| count(object, |bytes| is_move_of(bytes, RDONLY_CAST_PLACEHOLDER));
        assert_eq!(casts(&object), casts(OBJECT));
        assert_eq!(count(&object, is_exchange), count(OBJECT, is_exchange));
    }
}
