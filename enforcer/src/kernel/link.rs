//! Links of programs to cgroups and raw tracepoints. `aya` can neither replace the program of a cgroup link in place nor
//! show where a link is attached.

use std::{
    ffi::CStr,
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use enforcer_core::model::kernel_ids::CgroupId;

use crate::kernel::bpf_syscall::{
    self, LINK_TYPE_CGROUP, create_link, detach_link, link_info, open_pinned, open_raw_tracepoint, update_link,
};

/// Hook of a program: `enum bpf_attach_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Hook {
    Bind4 = 8,
    Bind6 = 9,
    PostBind4 = 12,
    PostBind6 = 13,
    SockRelease = 34,
}

/// Description of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkInfo {
    /// Id of the program that runs.
    pub(super) program: u32,
    /// Place where the link is attached, if it is a link to a cgroup.
    pub(super) cgroup: Option<CgroupLink>,
}

/// Place where a link to a cgroup is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CgroupLink {
    /// Id of the cgroup, `None` after it was removed (`cgroup_bpf_release` in kernel/bpf/cgroup.c detaches the link).
    pub(super) id: Option<CgroupId>,
    /// `enum bpf_attach_type`.
    pub(super) hook: u32,
}

/// Link. The program runs as long as a descriptor or a pin of the link exists.
#[derive(Debug)]
pub(super) struct Link(OwnedFd);

impl Link {
    /// Attaches a program to a cgroup, beside others: `cgroup_bpf_link_attach` in kernel/bpf/cgroup.c adds
    /// `BPF_F_ALLOW_MULTI` itself and refuses it from the caller, so the flags are 0.
    pub(super) fn to_cgroup(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>, hook: Hook) -> io::Result<Self> {
        create_link(program, cgroup, hook as u32).map(Self)
    }

    /// Attaches a program to a raw tracepoint.
    pub(super) fn to_raw_tracepoint(program: BorrowedFd<'_>, tracepoint: &CStr) -> io::Result<Self> {
        open_raw_tracepoint(program, tracepoint).map(Self)
    }

    /// Opens what is pinned at this path. [`Self::checked`] shows whether it is a link.
    pub(super) fn pinned(path: &Path) -> io::Result<Self> {
        open_pinned(path).map(Self)
    }

    /// Pins the link.
    pub(super) fn pin(&self, path: &Path) -> io::Result<()> {
        bpf_syscall::pin(self.0.as_fd(), path)
    }

    /// Replaces the program by another one of the same type. Every bind is judged by one of the two.
    pub(super) fn update(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        update_link(self.0.as_fd(), program)
    }

    /// Detaches a link to a cgroup at once, whoever else holds it. Since Linux 5.9.
    pub(super) fn detach(&self) -> io::Result<()> {
        detach_link(self.0.as_fd())
    }

    /// Returns the link's program and place.
    pub(super) fn info(&self) -> io::Result<LinkInfo> {
        let bpf_syscall::RawLinkInfo { kind, program, cgroup: id, hook, .. } = link_info(self.0.as_fd())?;
        let place = CgroupLink { id: CgroupId::from_wire(id), hook };
        Ok(LinkInfo { program, cgroup: (kind == LINK_TYPE_CGROUP).then_some(place) })
    }

    /// Returns the link if it is one: [`Self::pinned`] opens whatever is pinned.
    pub(super) fn checked(self) -> Option<Self> {
        // The kernel names its anonymous files (`bpf_link_new_file` in kernel/bpf/syscall.c).
        let name = fs::read_link(format!("/proc/self/fd/{}", self.0.as_raw_fd())).ok()?;
        name.to_str().is_some_and(|name| name.contains("bpf_link") || name.contains("bpf-link")).then_some(self)
    }
}
