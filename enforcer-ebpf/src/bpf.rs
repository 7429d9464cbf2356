//! The programs: one file per hook, plus `maps` (every map) and `emit` (what goes out). The hooks only read their
//! context; what is decided is decided in [`enforcer_ebpf::decide`].

mod context;
mod emit;
mod holds;
mod hooks;
mod maps;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Panics are compiled out; the verifier would refuse a program that could reach this.
    loop {}
}

/// The helpers that the programs need are for GPL-compatible programs only (`gpl_only` in their `bpf_func_proto`).
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
