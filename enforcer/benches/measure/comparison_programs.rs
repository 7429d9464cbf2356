//! What the programs are compared with, assembled by hand, so that it is no part of the product's object: an empty
//! program, and a list of rules that is walked at every bind, as systemd documents it for `SocketBindDeny=`
//! (`systemd.resource-control(5)`): each rule is an address family, a transport protocol and a range of ports, any of
//! which may be "any", and the first rule that matches decides.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use anyhow::{Context as _, ensure};
use aya::programs::loaded_programs;
use enforcer::kernel::bpf_syscall::{
    self, INSTRUCTION_BYTES, MAP_TYPE_ARRAY, ProgramLoad, create_link, create_map, update_map,
};
use serde::Deserialize;

/// `enum bpf_prog_type` in include/uapi/linux/bpf.h.
const CGROUP_SOCK: u32 = 9;
const CGROUP_SOCK_ADDR: u32 = 18;

/// Where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u32)]
pub(crate) enum Hook {
    SockCreate = 2,
    Bind4 = 8,
    PostBind4 = 12,
    SockRelease = 34,
}

impl Hook {
    /// Those that a socket, its bind and its close run through, in that order.
    pub(crate) const ALL: [Self; 4] = [Self::SockCreate, Self::Bind4, Self::PostBind4, Self::SockRelease];

    /// Those where the product has a program.
    pub(crate) const OURS: [Self; 3] = [Self::Bind4, Self::PostBind4, Self::SockRelease];

    fn program_type(self) -> u32 {
        match self {
            Self::Bind4 => CGROUP_SOCK_ADDR,
            Self::SockCreate | Self::PostBind4 | Self::SockRelease => CGROUP_SOCK,
        }
    }

    /// Returns the name in measurements.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SockCreate => "create",
            Self::Bind4 => "bind",
            Self::PostBind4 => "post_bind",
            Self::SockRelease => "release",
        }
    }

    /// Returns the name of the product's program there.
    fn program(self) -> &'static str {
        match self {
            Self::SockCreate => "",
            Self::Bind4 => "pe_bind4",
            Self::PostBind4 => "pe_post_bind4",
            Self::SockRelease => "pe_sock_release",
        }
    }
}

/// `struct bpf_insn`.
type Instruction = [u8; INSTRUCTION_BYTES];

const R0: u8 = 0;
const R1: u8 = 1;
const R2: u8 = 2;
const CONTEXT: u8 = 6;
const PROTOCOL: u8 = 7;
const PORT: u8 = 8;
const PLACE: u8 = 9;
const FRAME: u8 = 10;

/// Codes are those of include/uapi/linux/bpf.h and `bpf_common.h`.
const fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    let [low, high] = offset.to_ne_bytes();
    let [a, b, c, d] = immediate.to_ne_bytes();
    // Two bit fields, whose order is the host's.
    let registers = if cfg!(target_endian = "little") { from << 4 | to } else { to << 4 | from };
    [code, registers, low, high, a, b, c, d]
}

const fn set(to: u8, value: i32) -> Instruction {
    instruction(0xb7, to, 0, 0, value)
}

const fn copy(to: u8, from: u8) -> Instruction {
    instruction(0xbf, to, from, 0, 0)
}

const fn add(to: u8, value: i32) -> Instruction {
    instruction(0x07, to, 0, 0, value)
}

/// A 32-bit load.
const fn load(to: u8, from: u8, offset: i16) -> Instruction {
    instruction(0x61, to, from, offset, 0)
}

const EXIT: Instruction = instruction(0x95, 0, 0, 0, 0);

/// `r0 = 1; exit`.
pub(crate) fn empty(hook: Hook) -> io::Result<OwnedFd> {
    load_program(hook, &[set(R0, 1), EXIT])
}

/// One rule; 0 is any family or protocol.
#[repr(C)]
struct Rule {
    family: u32,
    protocol: u32,
    first: u32,
    last: u32,
}

/// The list on `bind4`, of so many rules for TCP ports from `first` on.
pub(crate) fn rules(count: u32, first: u32) -> io::Result<OwnedFd> {
    let size = u32::try_from(size_of::<Rule>()).map_err(io::Error::other)?;
    let map = create_map(MAP_TYPE_ARRAY, 4, size, count, None)?;
    for place in 0..count {
        let port = first + place;
        let rule = Rule { family: 2, protocol: 6, first: port, last: port };
        // SAFETY: the values of the map are rules.
        unsafe { update_map(map.as_fd(), place, &rule)? };
    }
    let count = i32::try_from(count).map_err(io::Error::other)?;
    // Jumps count from the instruction after them; the numbers in the margin are the places.
    load_program(
        Hook::Bind4,
        &[
            /* 0 */ copy(CONTEXT, R1),
            /* 1 */ load(PROTOCOL, CONTEXT, 36),
            /* 2 */ load(PORT, CONTEXT, 24),
            /* 3 */ instruction(0xdc, PORT, 0, 0, 16),
            /* 4 */ set(PLACE, 0),
            /* 5 */ instruction(0x35, PLACE, 0, 20, count),
            /* 6 */ instruction(0x63, FRAME, PLACE, -4, 0),
            /* 7 */ instruction(0x18, R1, 1, 0, map.as_raw_fd()),
            /* 8 */ instruction(0, 0, 0, 0, 0),
            /* 9 */ copy(R2, FRAME),
            /* 10 */ add(R2, -4),
            /* 11 */ instruction(0x85, 0, 0, 0, 1),
            /* 12 */ instruction(0x15, R0, 0, 13, 0),
            /* 13 */ add(PLACE, 1),
            /* 14: any family, or IPv4 */ load(R1, R0, 0),
            /* 15 */ instruction(0x15, R1, 0, 1, 0),
            /* 16 */ instruction(0x55, R1, 0, -12, 2),
            /* 17: any protocol, or this one */ load(R1, R0, 4),
            /* 18 */ instruction(0x15, R1, 0, 1, 0),
            /* 19 */ instruction(0x5d, R1, PROTOCOL, -15, 0),
            /* 20 */ load(R1, R0, 8),
            /* 21 */ instruction(0x2d, R1, PORT, -17, 0),
            /* 22 */ load(R1, R0, 12),
            /* 23 */ instruction(0xad, R1, PORT, -19, 0),
            /* 24: it matches */ set(R0, 0),
            /* 25 */ EXIT,
            /* 26: none does */ set(R0, 1),
            /* 27 */ EXIT,
        ],
    )
}

fn load_program(hook: Hook, instructions: &[Instruction]) -> io::Result<OwnedFd> {
    let program = ProgramLoad { kind: hook.program_type(), attach_type: hook as u32, attach_btf_id: 0, instructions };
    let error = match bpf_syscall::load_program(program, None) {
        Ok(program) => return Ok(program),
        Err(error) => error,
    };
    // Once more for the verifier's log.
    let mut log = vec![0_u8; 1 << 16];
    let _ = bpf_syscall::load_program(program, Some(&mut log));
    let text = String::from_utf8_lossy(&log);
    Err(io::Error::new(error.kind(), format!("{error}: {}", text.trim_end_matches('\0'))))
}

/// Finds the product's programs on a cgroup, whichever process attached them.
pub(crate) fn product_programs(cgroup: BorrowedFd<'_>) -> anyhow::Result<HashMap<Hook, OwnedFd>> {
    let mut found = HashMap::new();
    for hook in Hook::OURS {
        let ids = bpf_syscall::attached_programs(cgroup, hook as u32).context("asking for a cgroup's programs")?;
        for program in loaded_programs() {
            let program = program?;
            // The kernel keeps no more than 15 bytes of a name.
            let is_ours =
                program.name_as_str().is_some_and(|name| !name.is_empty() && hook.program().starts_with(name));
            if is_ours && ids.contains(&program.id()) {
                found.insert(hook, program.fd()?.as_fd().try_clone_to_owned()?);
            }
        }
        ensure!(found.contains_key(&hook), "the cgroup has no program {}", hook.program());
    }
    Ok(found)
}

/// Attaches a program to a cgroup, as the product does.
pub(crate) fn attach(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>, hook: Hook) -> io::Result<OwnedFd> {
    create_link(program, cgroup, hook as u32)
}
