//! The programs, their maps, and what they share.
//!
//! | module | contents |
//! | --- | --- |
//! | [`hooks`] | the programs, one file per hook of the kernel |
//! | [`context`] | what a program reads about its surroundings |
//! | [`holds`] | who holds a port |
//! | [`atomic`] | atomic operations |
//! | [`counters`] | exact counts |
//! | [`emit`] | records to the agent |
//! | [`maps`] | every map |
//! | [`constants`] | constants that the agent sets |
//!
//! A verdict is not made here, but by the pure functions of [`enforcer_ebpf::decide`].

mod atomic;
mod constants;
mod context;
mod counters;
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
