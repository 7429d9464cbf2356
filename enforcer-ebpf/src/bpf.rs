//! The programs: one file per hook, plus `maps` (every map) and `emit` (what goes out). The hooks only read their
//! context; what is decided is decided in [`enforcer_ebpf::decide`].

mod adopt;
mod bind;
mod caller;
mod cgroup;
mod emit;
mod hold;
mod kernel;
mod maps;
mod post_bind;
mod release;
mod reserve;
mod socket;
mod task;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Panics are compiled out; the verifier would refuse a program that could reach this.
    loop {}
}

/// The helpers that the programs need are for GPL-compatible programs only (`gpl_only` in their `bpf_func_proto`).
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
