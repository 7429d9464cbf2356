//! Reading sockets and tasks as the kernel's own code does: by a load, through a pointer that `bpf_rdonly_cast`
//! (kernel/bpf/helpers.c, since 6.2) makes of an address. A helper takes ten times as long for it, and the programs read both
//! at every bind, and a socket at every close.
//!
//! It is a function of the kernel and no helper, so a call names it by its number in the running kernel's type information.
//! `aya` has no relocation for that: the call is put into the object before it is loaded.

use enforcer_ebpf::wire::RDONLY_CAST_PLACEHOLDER;

use crate::kernel::btf::{self, BtfError, Offsets, TaskOffsets};

/// Bytes of an instruction (`struct bpf_insn` in include/uapi/linux/bpf.h).
pub(super) const INSTRUCTION: usize = 8;
/// `BPF_ALU64 | BPF_MOV | BPF_K`.
pub(super) const MOVE: u8 = 0xb7;
/// `BPF_JMP | BPF_CALL`.
pub(super) const CALL: u8 = 0x85;
/// `BPF_PSEUDO_KFUNC_CALL`, which stands where other instructions have their source register.
const OF_KERNEL: u8 = 2;
/// What stands where the call belongs.
const PLACE: [u8; INSTRUCTION] = instruction(MOVE, registers(0, 0), RDONLY_CAST_PLACEHOLDER);

/// What the running kernel calls the things that are needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RdonlyCast {
    function: u32,
    /// Id of `struct sock`.
    pub(super) sock: u32,
    /// Id of `struct task_struct`.
    pub(super) task: u32,
    /// Where what is read of a task is.
    pub(super) offsets: TaskOffsets,
}

impl RdonlyCast {
    /// What this kernel has; `None` if it has no such function.
    ///
    /// # Errors
    ///
    /// If the kernel has no BTF.
    pub(super) fn of_running_kernel(offsets: &Offsets) -> Result<Option<Self>, BtfError> {
        // Two words are read of a command's name.
        let Some(offsets) = offsets.task.filter(|task| task.comm % 8 == 0) else { return Ok(None) };
        let ids = btf::ids("bpf_rdonly_cast", ["sock", "task_struct"])?;
        Ok(ids.map(|(function, [sock, task])| Self { function, sock, task, offsets }))
    }

    /// The call.
    pub(super) const fn call(self) -> [u8; INSTRUCTION] {
        instruction(CALL, registers(0, OF_KERNEL), self.function.cast_signed())
    }

    /// The object with the calls in their places.
    pub(super) fn patch_calls(self, object: &[u8]) -> Vec<u8> {
        let mut object = object.to_vec();
        // Code begins at a multiple of an instruction's size, as everywhere in an ELF file.
        for place in object.chunks_exact_mut(INSTRUCTION).filter(|place| **place == PLACE) {
            place.copy_from_slice(&self.call());
        }
        object
    }
}

/// An instruction with this code, these registers and this value.
pub(super) const fn instruction(code: u8, registers: u8, value: i32) -> [u8; INSTRUCTION] {
    let [a, b, c, d] = value.to_ne_bytes();
    [code, registers, 0, 0, a, b, c, d]
}

/// Where the result goes and what it is made of, in one byte: `dst_reg` and `src_reg` are bit fields, whose order is the
/// host's.
pub(super) const fn registers(destination: u8, source: u8) -> u8 {
    if cfg!(target_endian = "little") { source << 4 | destination } else { destination << 4 | source }
}

#[cfg(test)]
mod tests {
    use enforcer_ebpf::OBJECT;

    use super::*;

    #[test]
    fn every_place_becomes_a_call_and_nothing_else_changes() {
        // Wherever it begins: a place that is not found would be run as it stands.
        let places = |object: &[u8], what| object.windows(INSTRUCTION).filter(|bytes| **bytes == what).count();
        let offsets = TaskOffsets { tgid: 0, comm: 0, cred: 0, uid: 0 };
        let cast = RdonlyCast { function: 0x0001_2345, sock: 7, task: 8, offsets };
        assert!(places(OBJECT, PLACE) > 10, "{}", places(OBJECT, PLACE));
        assert_eq!(places(OBJECT, cast.call()), 0);
        let object = cast.patch_calls(OBJECT);
        assert_eq!(places(&object, PLACE), 0);
        assert_eq!(places(&object, cast.call()), places(OBJECT, PLACE));
        let changed = OBJECT.iter().zip(&object).filter(|(before, after)| before != after).count();
        assert!(changed <= places(OBJECT, PLACE) * INSTRUCTION);
        assert_eq!(object.len(), OBJECT.len());
    }
}
