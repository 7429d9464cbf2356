//! The kernel programs' entry: one file per hook under `bpf/`. Only under the BPF target; elsewhere this binary has
//! nothing to do.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    target_arch = "bpf",
    feature(asm_experimental_arch, core_intrinsics),
    expect(internal_features, reason = "atomic_xadd: the only way to an XADD on this target"),
    expect(
        clippy::inline_always,
        reason = "a program is one function: calls cost time, and the verifier follows them badly"
    ),
    expect(clippy::cast_possible_truncation, reason = "words are taken apart by masks and shifts"),
    expect(clippy::needless_pass_by_value, reason = "the context's type is what the macros of the hooks want")
)]

#[cfg(target_arch = "bpf")]
mod bpf;

#[cfg(not(target_arch = "bpf"))]
fn main() {}
