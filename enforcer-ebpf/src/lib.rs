//! What the kernel programs and the agent agree on: the bytes in the maps ([`wire`]), the pure function that gives a
//! verdict ([`decide`]), the rules of who is noted as a port's holder ([`port_holder`]) and of how cgroups share the space
//! for records ([`record_share`]), and the reader of pod cgroup names ([`cgroup_name`]).
//!
//! The library is `no_std` and holds no map, no context and no clock, so that the very same code runs in the kernel
//! (`src/main.rs`), answers `enforcer explain`, and is tested on the host. On the host it also carries the compiled
//! object, `OBJECT` (feature `object`).
#![cfg_attr(not(test), no_std)]
#![expect(
    clippy::inline_always,
    reason = "a program is one function: calls cost time, and the verifier follows them badly"
)]
#![expect(clippy::cast_possible_truncation, reason = "words are taken apart by masks and shifts")]

pub mod cgroup_name;
pub mod decide;
pub mod port_holder;
pub mod record_share;
pub mod verifier;
pub mod wire;

/// The ELF object with all programs and maps, for the BPF target of this host's byte order.
#[cfg(all(feature = "object", not(target_arch = "bpf")))]
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/port-enforcer-bpf"));
