//! Instructions of programs, as far as the agent writes any itself: codes of include/uapi/linux/bpf.h and
//! `bpf_common.h`.

use crate::kernel::bpf_syscall::INSTRUCTION_BYTES;

/// `struct bpf_insn`.
pub(super) type Instruction = [u8; INSTRUCTION_BYTES];

/// `BPF_ALU64 | BPF_MOV | BPF_K`.
pub(super) const MOVE: u8 = 0xb7;
/// `BPF_JMP | BPF_CALL`.
pub(super) const CALL: u8 = 0x85;
/// `BPF_STX | BPF_ATOMIC | BPF_DW`.
pub(super) const ATOMIC: u8 = 0xdb;
/// `BPF_CMPXCHG`.
pub(super) const COMPARE_EXCHANGE: i32 = 0xf1;

/// Returns an instruction with this code, these registers and this value.
pub(super) const fn instruction(code: u8, registers: u8, value: i32) -> Instruction {
    instruction_at(code, registers, 0, value)
}

/// Returns an instruction on the memory at this offset from one of the registers.
pub(super) const fn instruction_at(code: u8, registers: u8, offset: i16, value: i32) -> Instruction {
    let ([low, high], [a, b, c, d]) = (offset.to_ne_bytes(), value.to_ne_bytes());
    [code, registers, low, high, a, b, c, d]
}

/// Returns the destination and the source register in one byte: `dst_reg` and `src_reg` are bit fields, whose order is
/// the host's.
pub(super) const fn registers(destination: u8, source: u8) -> u8 {
    if cfg!(target_endian = "little") { source << 4 | destination } else { destination << 4 | source }
}
