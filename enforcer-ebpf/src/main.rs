//! The kernel programs, in `bpf/`. Only the BPF target has them; on the host this binary is empty.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    target_arch = "bpf",
    feature(asm_experimental_arch, core_intrinsics),
    expect(internal_features, reason = "atomic_xadd is the only way to an XADD on this target"),
    expect(
        clippy::inline_always,
        reason = "a program is one function: calls cost time, and the verifier follows them badly"
    ),
    expect(clippy::cast_possible_truncation, reason = "masks and shifts take words apart"),
    expect(clippy::needless_pass_by_value, reason = "the macros of the hooks require the context by value")
)]

#[cfg(target_arch = "bpf")]
mod bpf;

#[cfg(not(target_arch = "bpf"))]
fn main() {}
