//! The system call `bpf()`, for what `aya` has no call for: replacing, detaching and describing links, questions about
//! the kernel, and the programs that benchmarks compare with.
//!
//! The attributes of each command are as much of `union bpf_attr` (include/uapi/linux/bpf.h) as the command needs: the
//! kernel takes what is missing for zeros (`__sys_bpf` in kernel/bpf/syscall.c).

use std::{
    ffi::{CStr, CString},
    io,
    mem::offset_of,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
    ptr,
};

/// `enum bpf_cmd`.
#[derive(Clone, Copy, Debug)]
#[repr(i64)]
enum Command {
    MapCreate = 0,
    MapUpdateElem = 2,
    ProgLoad = 5,
    ObjPin = 6,
    ObjGet = 7,
    ObjGetInfoByFd = 15,
    ProgQuery = 16,
    RawTracepointOpen = 17,
    LinkCreate = 28,
    LinkUpdate = 29,
    LinkDetach = 34,
}

/// `enum bpf_map_type`: an array.
pub const MAP_TYPE_ARRAY: u32 = 2;
/// `enum bpf_map_type`: an array of programs.
pub const MAP_TYPE_PROG_ARRAY: u32 = 3;
/// `enum bpf_map_type`: an array of maps.
pub const MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;
/// `enum bpf_link_type`: a link to a cgroup.
pub const LINK_TYPE_CGROUP: u32 = 3;

/// Bytes of an instruction (`struct bpf_insn`).
pub const INSTRUCTION_BYTES: usize = 8;

/// Creates a map. `inner` is the template of the maps in a map of maps.
///
/// # Errors
///
/// If the kernel refuses it.
pub fn create_map(
    kind: u32,
    key_bytes: u32,
    value_bytes: u32,
    entries: u32,
    inner: Option<BorrowedFd<'_>>,
) -> io::Result<OwnedFd> {
    // Type, size of key and value, number of elements, flags, inner map.
    let mut attributes = [kind, key_bytes, value_bytes, entries, 0, inner.map_or(0, raw)];
    // SAFETY: numbers only, of a command that answers with a descriptor.
    unsafe { descriptor(Command::MapCreate, &mut attributes) }
}

/// Writes an element of a map whose key is a `u32`.
///
/// # Errors
///
/// If the kernel refuses it.
///
/// # Safety
///
/// A value of the map must have as many bytes as a `V`, or fewer; those of a map of maps are descriptors (`u32`).
pub unsafe fn update_map<V>(map: BorrowedFd<'_>, key: u32, value: &V) -> io::Result<()> {
    // SAFETY: the key and the value live across the call, and are as long as the kernel reads, as the caller vouches.
    unsafe { update_element(map, address(&key), address(value)) }
}

/// Writes an element of a map from the bytes of its key and of its value.
///
/// # Errors
///
/// If the kernel refuses it.
///
/// # Safety
///
/// A key and a value of the map must have as many bytes as these, or fewer; a value of a map with an element for each
/// CPU has one for each possible CPU, each padded to 8 bytes.
pub unsafe fn update_map_bytes(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    let (key, value) = (key.as_ptr().expose_provenance() as u64, value.as_ptr().expose_provenance() as u64);
    // SAFETY: both live across the call, and are as long as the kernel reads, as the caller vouches.
    unsafe { update_element(map, key, value) }
}

/// Writes an element of a map.
///
/// # Safety
///
/// The addresses must be those of as many readable bytes as a key and a value of the map have.
unsafe fn update_element(map: BorrowedFd<'_>, key: u64, value: u64) -> io::Result<()> {
    #[repr(C)]
    struct Attributes {
        map: u32,
        padding: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let mut attributes = Attributes { map: raw(map), padding: 0, key, value, flags: 0 };
    // SAFETY: the caller vouches for it.
    unsafe { call(Command::MapUpdateElem, &mut attributes) }.map(drop)
}

/// Program to be loaded.
#[derive(Clone, Copy, Debug)]
pub struct ProgramLoad<'a> {
    /// `enum bpf_prog_type`.
    pub kind: u32,
    /// `enum bpf_attach_type`, 0 where the type has none.
    pub attach_type: u32,
    /// Number of the function that the program is attached to, in the kernel's type information; else 0.
    pub attach_btf_id: u32,
    /// Its instructions.
    pub instructions: &'a [[u8; INSTRUCTION_BYTES]],
}

/// Part of `union bpf_attr` that is used for loading a program, as Linux 5.10 knows it.
#[repr(C)]
#[derive(Default)]
struct LoadAttributes {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_bytes: u32,
    log: u64,
    /// Kernel version, flags, name and device: none.
    unused: [u64; 3],
    interface: u32,
    attach_type: u32,
    /// Type information of the program: none.
    btf: [u64; 4],
    line_count: u32,
    attach_btf_id: u32,
    attach_program: u32,
    padding: u32,
}

const _: () = {
    assert!(offset_of!(LoadAttributes, log) == 32);
    assert!(offset_of!(LoadAttributes, attach_type) == 68);
    assert!(offset_of!(LoadAttributes, line_count) == 104);
    assert!(offset_of!(LoadAttributes, attach_btf_id) == 108);
    assert!(size_of::<LoadAttributes>() == 120);
};

/// Loads a program under the GPL. With a buffer for it, the kernel writes the verifier's log there.
///
/// # Errors
///
/// If the kernel refuses the program, or does not know its type.
pub fn load_program(program: ProgramLoad<'_>, log: Option<&mut [u8]>) -> io::Result<OwnedFd> {
    let ProgramLoad { kind, attach_type, attach_btf_id, instructions } = program;
    let mut attributes = LoadAttributes {
        kind,
        instruction_count: u32::try_from(instructions.len()).map_err(io::Error::other)?,
        instructions: instructions.as_ptr().expose_provenance() as u64,
        license: c"GPL".as_ptr().expose_provenance() as u64,
        attach_type,
        attach_btf_id,
        ..LoadAttributes::default()
    };
    if let Some(log) = log {
        attributes.log_level = 1;
        attributes.log_bytes = u32::try_from(log.len()).map_err(io::Error::other)?;
        attributes.log = log.as_mut_ptr().expose_provenance() as u64;
    }
    // SAFETY: the instructions, the licence and the log live across the call and are as long as is said; the command
    // answers with a descriptor.
    unsafe { descriptor(Command::ProgLoad, &mut attributes) }
}

/// Attaches a program to a cgroup. `hook` is an `enum bpf_attach_type`.
///
/// # Errors
///
/// If the kernel refuses it.
pub fn create_link(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>, hook: u32) -> io::Result<OwnedFd> {
    // SAFETY: numbers only, of a command that answers with a descriptor.
    unsafe { descriptor(Command::LinkCreate, &mut [raw(program), raw(cgroup), hook, 0]) }
}

/// Returns the ids of the programs that are attached to a cgroup itself, and not to one above it. `hook` is an
/// `enum bpf_attach_type`.
///
/// # Errors
///
/// If the kernel refuses it, or more than 64 programs are attached there, the most that it allows
/// (`BPF_CGROUP_MAX_PROGS` in kernel/bpf/cgroup.c).
pub fn attached_programs(cgroup: BorrowedFd<'_>, hook: u32) -> io::Result<Vec<u32>> {
    #[repr(C)]
    struct Attributes {
        cgroup: u32,
        hook: u32,
        query_flags: u32,
        attach_flags: u32,
        ids: u64,
        count: u32,
        padding: u32,
    }
    const MAX_PROGRAMS: usize = 64;
    let mut ids = vec![0_u32; MAX_PROGRAMS];
    let mut attributes = Attributes {
        cgroup: raw(cgroup),
        hook,
        query_flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr().expose_provenance() as u64,
        count: u32::try_from(MAX_PROGRAMS).map_err(io::Error::other)?,
        padding: 0,
    };
    // SAFETY: the kernel writes at most `count` ids, which live across the call.
    unsafe { call(Command::ProgQuery, &mut attributes) }?;
    ids.truncate(usize::try_from(attributes.count).map_err(io::Error::other)?);
    Ok(ids)
}

/// Attaches a program to a raw tracepoint.
///
/// # Errors
///
/// If the kernel refuses it.
pub fn open_raw_tracepoint(program: BorrowedFd<'_>, tracepoint: &CStr) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        name: u64,
        program: u32,
        padding: u32,
    }
    let name = tracepoint.as_ptr().expose_provenance() as u64;
    let mut attributes = Attributes { name, program: raw(program), padding: 0 };
    // SAFETY: the name ends with a zero and lives across the call; the command answers with a descriptor.
    unsafe { descriptor(Command::RawTracepointOpen, &mut attributes) }
}

/// Replaces the program of a link to a cgroup by another one of the same type.
///
/// # Errors
///
/// If the kernel refuses it: with `ENOLINK` if the cgroup was removed (`cgroup_bpf_replace` in kernel/bpf/cgroup.c).
pub fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: numbers only.
    unsafe { call(Command::LinkUpdate, &mut [raw(link), raw(program), 0, 0]) }.map(drop)
}

/// Detaches a link at once, whoever else holds it. Since Linux 5.9.
///
/// # Errors
///
/// If the kernel refuses it.
pub fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: numbers only.
    unsafe { call(Command::LinkDetach, &mut [raw(link)]) }.map(drop)
}

/// `struct bpf_link_info` of a link to a cgroup.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct RawLinkInfo {
    /// `enum bpf_link_type`.
    pub kind: u32,
    /// Id of the link.
    pub id: u32,
    /// Id of its program.
    pub program: u32,
    padding: u32,
    /// Id of the cgroup, if it is a link to one.
    pub cgroup: u64,
    /// `enum bpf_attach_type`, if it is a link to a cgroup.
    pub hook: u32,
    rest: u32,
}

/// Returns what the kernel knows of a link.
///
/// # Errors
///
/// If the kernel refuses it.
pub fn link_info(link: BorrowedFd<'_>) -> io::Result<RawLinkInfo> {
    #[repr(C)]
    struct Attributes {
        descriptor: u32,
        length: u32,
        info: u64,
    }
    const LENGTH: u32 = 32;
    const _: () = assert!(size_of::<RawLinkInfo>() == LENGTH as usize);
    let mut info = RawLinkInfo::default();
    let mut attributes =
        Attributes { descriptor: raw(link), length: LENGTH, info: (&raw mut info).expose_provenance() as u64 };
    // SAFETY: the kernel writes no more than `LENGTH` bytes, integers, into `info`, which lives across the call.
    unsafe { call(Command::ObjGetInfoByFd, &mut attributes) }?;
    Ok(info)
}

/// Attributes of `BPF_OBJ_PIN` and `BPF_OBJ_GET`.
#[repr(C)]
struct PinAttributes {
    path: u64,
    descriptor: u32,
    flags: u32,
}

/// Opens what is pinned at a path: a map, a program or a link.
///
/// # Errors
///
/// If nothing is pinned there, or it cannot be opened.
pub fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = PinAttributes { path: path.as_ptr().expose_provenance() as u64, descriptor: 0, flags: 0 };
    // SAFETY: the path ends with a zero and lives across the call; the command answers with a descriptor.
    unsafe { descriptor(Command::ObjGet, &mut attributes) }
}

/// Pins an object at a path of a BPF file system.
///
/// # Errors
///
/// If the kernel refuses it.
pub fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let path_address = path.as_ptr().expose_provenance() as u64;
    let mut attributes = PinAttributes { path: path_address, descriptor: raw(object), flags: 0 };
    // SAFETY: the path ends with a zero and lives across the call.
    unsafe { call(Command::ObjPin, &mut attributes) }.map(drop)
}

fn raw(descriptor: BorrowedFd<'_>) -> u32 {
    descriptor.as_raw_fd().cast_unsigned()
}

fn address<T>(value: &T) -> u64 {
    ptr::from_ref(value).expose_provenance() as u64
}

/// Runs a command and returns the descriptor that it answers with.
///
/// # Safety
///
/// As [`call`]; and the command must answer with a new descriptor.
unsafe fn descriptor<A>(command: Command, attributes: &mut A) -> io::Result<OwnedFd> {
    // SAFETY: the caller vouches for it.
    let answer = unsafe { call(command, attributes) }?;
    // SAFETY: the kernel has just made this descriptor, as the caller vouches, and nothing else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(answer) })
}

/// Runs a command of the system call and returns its answer.
///
/// # Safety
///
/// `A` must be a prefix of `union bpf_attr` for this command; the addresses in it must be those of values that live
/// across the call, with as many bytes as the command reads or writes there.
unsafe fn call<A>(command: Command, attributes: &mut A) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads as many bytes of the attributes as are said; the caller vouches for the rest.
    let answer =
        unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_long, ptr::from_mut(attributes), size_of::<A>()) };
    match libc::c_int::try_from(answer) {
        Ok(answer) if answer >= 0 => Ok(answer),
        _ => Err(io::Error::last_os_error()),
    }
}
