//! What the programs are compared with, assembled by hand, so that it is no part of the product's object: an empty program,
//! and a list of rules that is walked at every bind, as systemd documents it for `SocketBindDeny=`
//! (`systemd.resource-control(5)`): each rule is an address family, a transport protocol and a range of ports, any of which
//! may be "any", and the first rule that matches decides.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

/// `enum bpf_cmd` in include/uapi/linux/bpf.h.
const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const PROG_LOAD: libc::c_int = 5;
const LINK_CREATE: libc::c_int = 28;
/// `enum bpf_map_type`.
const ARRAY: u32 = 2;
/// `enum bpf_prog_type`.
const CGROUP_SOCK: u32 = 9;
const CGROUP_SOCK_ADDR: u32 = 18;

/// Where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub(crate) enum Hook {
    Bind4 = 8,
    PostBind4 = 12,
    SockRelease = 34,
}

impl Hook {
    /// Those that one bind and one close run through, in that order.
    pub(crate) const ALL: [Self; 3] = [Self::Bind4, Self::PostBind4, Self::SockRelease];

    fn program_type(self) -> u32 {
        match self {
            Self::Bind4 => CGROUP_SOCK_ADDR,
            Self::PostBind4 | Self::SockRelease => CGROUP_SOCK,
        }
    }

    /// Name of the product's program there.
    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::Bind4 => "pe_bind4",
            Self::PostBind4 => "pe_post_bind4",
            Self::SockRelease => "pe_sock_release",
        }
    }
}

/// `struct bpf_insn`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

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
    Instruction { code, registers: from << 4 | to, offset, immediate }
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
    // SAFETY: the answer is a descriptor.
    let map = unsafe { descriptor(MAP_CREATE, &mut [ARRAY, 4, size, count])? };
    for place in 0..count {
        let port = first + place;
        let rule = Rule { family: 2, protocol: 6, first: port, last: port };
        let mut attributes = [
            u64::from(map.as_raw_fd().cast_unsigned()),
            (&raw const place).expose_provenance() as u64,
            (&raw const rule).expose_provenance() as u64,
            0,
        ];
        call(MAP_UPDATE_ELEM, &mut attributes)?;
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
    #[repr(C)]
    struct Attributes {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        version: u32,
        flags: u32,
        name: [u8; 16],
        device: u32,
        attach_type: u32,
    }
    let mut log = vec![0_u8; 1 << 16];
    let mut attributes = Attributes {
        kind: hook.program_type(),
        count: u32::try_from(instructions.len()).map_err(io::Error::other)?,
        instructions: instructions.as_ptr().expose_provenance() as u64,
        license: c"GPL".as_ptr().expose_provenance() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        version: 0,
        flags: 0,
        name: [0; 16],
        device: 0,
        attach_type: hook as u32,
    };
    // SAFETY: the answer is a descriptor.
    let error = match unsafe { descriptor(PROG_LOAD, &mut attributes) } {
        Ok(program) => return Ok(program),
        Err(error) => error,
    };
    // Once more for the verifier's words.
    attributes.log_level = 1;
    attributes.log_size = u32::try_from(log.len()).map_err(io::Error::other)?;
    attributes.log = log.as_mut_ptr().expose_provenance() as u64;
    // SAFETY: as above.
    let _ = unsafe { descriptor(PROG_LOAD, &mut attributes) };
    let words = String::from_utf8_lossy(&log);
    Err(io::Error::new(error.kind(), format!("{error}: {}", words.trim_end_matches('\0'))))
}

/// Attaches a program to a cgroup, as the product does.
pub(crate) fn attach(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>, hook: Hook) -> io::Result<OwnedFd> {
    let raw = |descriptor: BorrowedFd<'_>| descriptor.as_raw_fd().cast_unsigned();
    // SAFETY: the answer is a descriptor.
    unsafe { descriptor(LINK_CREATE, &mut [raw(program), raw(cgroup), hook as u32, 0]) }
}

/// # Safety
///
/// The command must be one that answers with a new descriptor.
unsafe fn descriptor<A>(command: libc::c_int, attributes: &mut A) -> io::Result<OwnedFd> {
    let answer = call(command, attributes)?;
    // SAFETY: the kernel has just made this descriptor for us, as the caller vouches, and nothing else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(answer) })
}

fn call<A>(command: libc::c_int, attributes: &mut A) -> io::Result<libc::c_int> {
    // SAFETY: `A` is a prefix of `union bpf_attr` for this command, of as many bytes as are said; the addresses in it
    // are those of values that live across the call, with as many bytes as the command reads or writes there.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<A>()) };
    match libc::c_int::try_from(answer) {
        Ok(answer) if answer >= 0 => Ok(answer),
        _ => Err(io::Error::last_os_error()),
    }
}
