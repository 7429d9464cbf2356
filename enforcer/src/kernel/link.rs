//! Links by raw system call: `aya` cannot replace the program of a cgroup link in place, nor tell where one is attached; and
//! the wait for the programs that were replaced, for which `aya` would have to make a map of maps.
//!
//! The attributes of each command are as much of `union bpf_attr` (include/uapi/linux/bpf.h) as the command needs: the
//! kernel takes what is missing for zeros (`__sys_bpf` in kernel/bpf/syscall.c).

use std::{
    ffi::{CStr, CString},
    fs, io,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const OBJ_PIN: libc::c_int = 6;
const OBJ_GET: libc::c_int = 7;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const RAW_TRACEPOINT_OPEN: libc::c_int = 17;
const LINK_CREATE: libc::c_int = 28;
const LINK_UPDATE: libc::c_int = 29;
const LINK_DETACH: libc::c_int = 34;

const LINK_TYPE_CGROUP: u32 = 3;

const MAP_TYPE_ARRAY: u32 = 2;
const MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;

/// Where a bind is hooked into: `enum bpf_attach_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Hook {
    Bind4 = 8,
    Bind6 = 9,
    PostBind4 = 12,
    PostBind6 = 13,
    SockRelease = 34,
}

/// What the kernel tells of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkInfo {
    /// Id of the program that runs.
    pub(super) program: u32,
    /// Where it is attached, if it is a link to a cgroup.
    pub(super) cgroup: Option<CgroupLink>,
}

/// Where a link to a cgroup is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CgroupLink {
    /// Id of the cgroup, 0 after it was removed (`cgroup_bpf_release` in kernel/bpf/cgroup.c detaches the link).
    pub(super) id: u64,
    /// `enum bpf_attach_type`.
    pub(super) hook: u32,
}

/// A link. The program runs as long as a descriptor or a pin of the link exists.
#[derive(Debug)]
pub(super) struct Link(OwnedFd);

impl Link {
    /// Attaches a program to a cgroup, beside others: `cgroup_bpf_link_attach` in kernel/bpf/cgroup.c adds
    /// `BPF_F_ALLOW_MULTI` itself and refuses it from the caller, so the flags are 0.
    pub(super) fn to_cgroup(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>, hook: Hook) -> io::Result<Self> {
        let mut attributes = [raw(program), raw(cgroup), hook as u32, 0];
        descriptor(LINK_CREATE, &mut attributes).map(Self)
    }

    /// Attaches a program to a raw tracepoint.
    pub(super) fn to_raw_tracepoint(program: BorrowedFd<'_>, tracepoint: &CStr) -> io::Result<Self> {
        #[repr(C)]
        struct Attributes {
            name: u64,
            program: u32,
            padding: u32,
        }
        let name = tracepoint.as_ptr().expose_provenance() as u64;
        let mut attributes = Attributes { name, program: raw(program), padding: 0 };
        descriptor(RAW_TRACEPOINT_OPEN, &mut attributes).map(Self)
    }

    /// The link that is pinned there.
    pub(super) fn pinned(path: &Path) -> io::Result<Self> {
        let path = c_path(path)?;
        let mut attributes = Object::new(&path, 0);
        descriptor(OBJ_GET, &mut attributes).map(Self)
    }

    /// Pins the link.
    pub(super) fn pin(&self, path: &Path) -> io::Result<()> {
        let path = c_path(path)?;
        let mut attributes = Object::new(&path, self.raw());
        call(OBJ_PIN, &mut attributes).map(drop)
    }

    /// Puts another program of the same type in place of the one that runs. Every bind is judged by one of the two.
    pub(super) fn update(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        let mut attributes = [self.raw(), raw(program), 0, 0];
        call(LINK_UPDATE, &mut attributes).map(drop)
    }

    /// Detaches a link to a cgroup at once, whoever else holds it. Since Linux 5.9.
    pub(super) fn detach(&self) -> io::Result<()> {
        let mut attributes = [self.raw()];
        call(LINK_DETACH, &mut attributes).map(drop)
    }

    /// What the kernel tells of it.
    pub(super) fn info(&self) -> io::Result<LinkInfo> {
        // `struct bpf_link_info`: for a link to a cgroup, the id of the cgroup and the hook follow.
        #[derive(Default)]
        #[repr(C)]
        struct Info {
            kind: u32,
            id: u32,
            program: u32,
            padding: u32,
            cgroup: u64,
            hook: u32,
            rest: u32,
        }
        #[repr(C)]
        struct Attributes {
            descriptor: u32,
            length: u32,
            info: u64,
        }
        const LENGTH: u32 = 32;
        const _: () = assert!(size_of::<Info>() == LENGTH as usize);
        let mut info = Info::default();
        let mut attributes =
            Attributes { descriptor: self.raw(), length: LENGTH, info: (&raw mut info).expose_provenance() as u64 };
        call(OBJ_GET_INFO_BY_FD, &mut attributes)?;
        let Info { kind, program, cgroup: id, hook, .. } = info;
        Ok(LinkInfo { program, cgroup: (kind == LINK_TYPE_CGROUP).then_some(CgroupLink { id, hook }) })
    }

    /// The same, if what was opened is a link: [`Self::pinned`] opens whatever is pinned.
    pub(super) fn checked(self) -> Option<Self> {
        // The kernel names its anonymous files (`bpf_link_new_file` in kernel/bpf/syscall.c).
        let name = fs::read_link(format!("/proc/self/fd/{}", self.0.as_raw_fd())).ok()?;
        name.to_str().is_some_and(|name| name.contains("bpf_link") || name.contains("bpf-link")).then_some(self)
    }

    fn raw(&self) -> u32 {
        self.0.as_raw_fd().cast_unsigned()
    }
}

/// Waits until no program runs any more that was started before: until then one that was replaced may still count and
/// tell. Whoever changes a map of maps waits for an RCU grace period (`maybe_wait_bpf_programs` in kernel/bpf/syscall.c), and
/// a program runs in one RCU read-side section (`bpf_prog_run_array_cg` in kernel/bpf/cgroup.c). `membarrier` would not do:
/// with a single CPU it returns at once (kernel/sched/membarrier.c), although a program can be preempted there as well.
pub(super) fn wait_for_programs() -> io::Result<()> {
    #[repr(C)]
    struct Element {
        map: u32,
        padding: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    // Type, size of key and value, number of elements, flags, inner map.
    let inner = descriptor(MAP_CREATE, &mut [MAP_TYPE_ARRAY, 4, 4, 1, 0, 0])?;
    let (first, value) = (0u32, raw(inner.as_fd()));
    let outer = descriptor(MAP_CREATE, &mut [MAP_TYPE_ARRAY_OF_MAPS, 4, 4, 1, 0, value])?;
    let mut element = Element {
        map: raw(outer.as_fd()),
        padding: 0,
        key: (&raw const first).expose_provenance() as u64,
        value: (&raw const value).expose_provenance() as u64,
        flags: 0,
    };
    call(MAP_UPDATE_ELEM, &mut element).map(drop)
}

/// Attributes of `BPF_OBJ_PIN` and `BPF_OBJ_GET`.
#[repr(C)]
struct Object {
    path: u64,
    descriptor: u32,
    flags: u32,
}

impl Object {
    fn new(path: &CStr, descriptor: u32) -> Self {
        Self { path: path.as_ptr().expose_provenance() as u64, descriptor, flags: 0 }
    }
}

fn raw(descriptor: BorrowedFd<'_>) -> u32 {
    descriptor.as_raw_fd().cast_unsigned()
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// The system call, for a command that answers with a new descriptor.
fn descriptor<A>(command: libc::c_int, attributes: &mut A) -> io::Result<OwnedFd> {
    let answer = call(command, attributes)?;
    // SAFETY: the kernel has just made this descriptor for us, and nothing else knows of it.
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
