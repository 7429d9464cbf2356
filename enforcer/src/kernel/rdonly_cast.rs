//! Calls of `bpf_rdonly_cast` (kernel/bpf/helpers.c, since 6.2), which are put into the object before it is loaded.
//!
//! With it the programs read sockets and tasks as the kernel's own code does: by a load, through a pointer that the
//! function makes of an address. A helper takes ten times as long, and the programs read both at every bind, and a socket
//! at every close.
//!
//! It is a function of the kernel (a kfunc) and no helper, so a call names it by its number in the running kernel's type
//! information. `aya` 0.14 has no relocation for that. The releases after it resolve kfuncs (`__ksym`); this module goes
//! with the update to one.

use enforcer_ebpf::wire::RDONLY_CAST_PLACEHOLDER;

use crate::kernel::{
    bpf_syscall::INSTRUCTION_BYTES,
    btf::{self, BtfError, LoadOffsets, Offsets, TaskOffsets},
};

/// `BPF_ALU64 | BPF_MOV | BPF_K`.
pub(super) const MOVE: u8 = 0xb7;
/// `BPF_JMP | BPF_CALL`.
pub(super) const CALL: u8 = 0x85;
/// `BPF_PSEUDO_KFUNC_CALL`, which stands where other instructions have their source register.
const OF_KERNEL: u8 = 2;
/// Instruction that the call replaces.
const PLACEHOLDER: [u8; INSTRUCTION_BYTES] = instruction(MOVE, registers(0, 0), RDONLY_CAST_PLACEHOLDER);

/// Numbers in the running kernel's type information, and offsets, that a cast needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RdonlyCast {
    function: u32,
    /// Id of `struct sock`.
    pub(super) sock: u32,
    /// Id of `struct task_struct`.
    pub(super) task: u32,
    /// Offsets of the fields of a task that the programs read.
    pub(super) offsets: TaskOffsets,
    /// Offsets of the fields of a socket that helpers return elsewhere.
    pub(super) loads: LoadOffsets,
}

impl RdonlyCast {
    /// Reads them from the running kernel; `None` if it has no such function.
    ///
    /// # Errors
    ///
    /// If the kernel has no BTF.
    pub(super) fn of_running_kernel(offsets: &Offsets) -> Result<Option<Self>, BtfError> {
        // Two words are read of a command's name.
        let task = offsets.task.filter(|task| task.comm % 8 == 0);
        let (Some(offsets), Some(loads)) = (task, offsets.loads) else { return Ok(None) };
        let ids = btf::ids("bpf_rdonly_cast", ["sock", "task_struct"])?;
        Ok(ids.map(|(function, [sock, task])| Self { function, sock, task, offsets, loads }))
    }

    /// Returns the call instruction.
    pub(super) const fn call(self) -> [u8; INSTRUCTION_BYTES] {
        instruction(CALL, registers(0, OF_KERNEL), self.function.cast_signed())
    }

    /// Returns the object with the calls in place of the placeholders.
    pub(super) fn patch_calls(self, object: &[u8]) -> Vec<u8> {
        let mut object = object.to_vec();
        // Code begins at a multiple of an instruction's size, as everywhere in an ELF file.
        for place in object.chunks_exact_mut(INSTRUCTION_BYTES).filter(|place| **place == PLACEHOLDER) {
            place.copy_from_slice(&self.call());
        }
        object
    }
}

/// Returns an instruction with this code, these registers and this value.
pub(super) const fn instruction(code: u8, registers: u8, value: i32) -> [u8; INSTRUCTION_BYTES] {
    instruction_at(code, registers, 0, value)
}

/// Returns an instruction on the memory at this offset from the destination.
pub(super) const fn instruction_at(code: u8, registers: u8, offset: i16, value: i32) -> [u8; INSTRUCTION_BYTES] {
    let ([low, high], [a, b, c, d]) = (offset.to_ne_bytes(), value.to_ne_bytes());
    [code, registers, low, high, a, b, c, d]
}

/// Returns the destination and the source register in one byte: `dst_reg` and `src_reg` are bit fields, whose order is
/// the host's.
pub(super) const fn registers(destination: u8, source: u8) -> u8 {
    if cfg!(target_endian = "little") { source << 4 | destination } else { destination << 4 | source }
}

#[cfg(test)]
mod tests {
    use enforcer_ebpf::OBJECT;

    use super::*;

    #[test]
    fn every_placeholder_becomes_a_call_and_nothing_else_changes() {
        // Wherever it begins: a place that is not found would be run as it stands.
        let places = |object: &[u8], what| object.windows(INSTRUCTION_BYTES).filter(|bytes| **bytes == what).count();
        let (offsets, loads) = (TaskOffsets::default(), LoadOffsets::default());
        let cast = RdonlyCast { function: 0x0001_2345, sock: 7, task: 8, offsets, loads };
        assert!(places(OBJECT, PLACEHOLDER) > 10, "{}", places(OBJECT, PLACEHOLDER));
        assert_eq!(places(OBJECT, cast.call()), 0);
        let object = cast.patch_calls(OBJECT);
        assert_eq!(places(&object, PLACEHOLDER), 0);
        assert_eq!(places(&object, cast.call()), places(OBJECT, PLACEHOLDER));
        let changed = OBJECT.iter().zip(&object).filter(|(before, after)| before != after).count();
        assert!(changed <= places(OBJECT, PLACEHOLDER) * INSTRUCTION_BYTES);
        assert_eq!(object.len(), OBJECT.len());
    }
}
