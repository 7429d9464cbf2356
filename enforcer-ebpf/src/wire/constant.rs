//! Constants of the programs: facts of the running kernel, which the agent puts into the object before it loads it.
//!
//! The object contains, in the place of each, an instruction that moves a number of its own to a register
//! ([`Constant::placeholder`]), and the agent replaces that number. So a constant costs nothing: the verifier knows it, and
//! drops the code that this kernel does not need. Read from a map, each would take two instructions and a load at every
//! use.

/// Constant of the programs.
///
/// A flag is 0 or 1. An offset is in bytes; it is 0 also where the programs may not read kernel memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Constant {
    /// 1 where bind hooks may choose the error number (`bpf_set_retval`, since 6.1).
    HasSetRetval,
    /// 1 where post-bind hooks may choose the error number (`bpf_set_retval`, since 5.18).
    HasPostSetRetval,
    /// 1 where the kernel returns the time of the last tick (`bpf_ktime_get_coarse_ns`, since 5.11).
    HasCoarseTime,
    /// 1 where programs have an atomic exchange that answers (since 5.12), and so write the socket log.
    HasSocketLog,
    /// 1 where a processor never shows another one a later store before an earlier one, as on x86.
    OrderedStores,
    /// 1 where a post-bind hook that denies gives the port back, and so really denies (since 5.17).
    PostBindDenies,
    /// 1 where the programs take a port before the bind, because a post-bind hook cannot deny.
    TakesBeforeBind,
    /// Offset of `sk_kern_sock` in `struct sock`, in bits.
    KernSockBit,
    /// Offset of `skc_bound_dev_if` in `struct sock_common`.
    BoundDevOffset,
    /// Offset of `skc_num` in `struct sock_common`.
    SockNumOffset,
    /// Offset of `is_mptcp` in `struct tcp_sock`; 0 also where the kernel has no MPTCP.
    IsMptcpOffset,
    /// Offset of `icsk_ulp_data` in `struct inet_connection_sock`; 0 also where the kernel has no MPTCP.
    UlpDataOffset,
    /// Offset of `conn` in `struct mptcp_subflow_context`; 0 also where the kernel has no MPTCP.
    SubflowConnOffset,
    /// Offset of the byte in `struct sock_common` that holds `skc_reuse`, `skc_reuseport` and `skc_ipv6only`.
    SockFlagsOffset,
    /// Id of `struct sock` in the running kernel's type information, where programs may load through a pointer to one
    /// (`bpf_rdonly_cast`, since 6.2).
    SockType,
    /// Offset of `skc_cookie` in `struct sock_common`. This and the next three are of use only where [`Self::SockType`] is known.
    SockCookieOffset,
    /// Offset of `skc_net` in `struct sock_common`.
    SockNetOffset,
    /// Offset of `net_cookie` in `struct net`.
    NetCookieOffset,
    /// Offset of `sk_bpf_storage` in `struct sock`.
    SockStorageOffset,
    /// Id of `struct task_struct`, as [`Self::SockType`]. The offsets in it are of use only where it is known.
    TaskType,
    /// Offset of `tgid` in `struct task_struct`.
    TaskTgidOffset,
    /// Offset of `comm` in `struct task_struct`, a multiple of 8.
    TaskCommOffset,
    /// Offset of `cred` in `struct task_struct`.
    TaskCredOffset,
    /// Offset of `uid` in `struct cred`.
    CredUidOffset,
    /// Offset of `cgroups` in `struct task_struct`.
    TaskCssSetOffset,
    /// Offset of `dfl_cgrp` in `struct css_set`.
    CssSetCgroupOffset,
    /// Offset of `level` in `struct cgroup`.
    CgroupLevelOffset,
    /// Offset of `ancestors` in `struct cgroup`, an array of pointers to cgroups; 0 where it is not read by loads.
    CgroupAncestorsOffset,
    /// Id of a structure that begins with a pointer to a cgroup, as [`Self::SockType`]: such a pointer in an array is read
    /// as that structure.
    CgroupPointerType,
    /// Offset of `kn` in `struct cgroup`.
    CgroupKnOffset,
    /// Offset of `root` in `struct cgroup`.
    CgroupRootOffset,
    /// Offset of `hierarchy_id` in `struct cgroup_root`.
    RootHierarchyOffset,
    /// Offset of `id` in `struct kernfs_node`.
    KnIdOffset,
    /// Offset of `name` in `struct kernfs_node`.
    KnNameOffset,
    /// Offset of `parent` (`__parent` since 6.15) in `struct kernfs_node`.
    KnParentOffset,
}

impl Constant {
    /// Every constant, in the order of their discriminants.
    pub const ALL: [Self; 35] = [
        Self::HasSetRetval,
        Self::HasPostSetRetval,
        Self::HasCoarseTime,
        Self::HasSocketLog,
        Self::OrderedStores,
        Self::PostBindDenies,
        Self::TakesBeforeBind,
        Self::KernSockBit,
        Self::BoundDevOffset,
        Self::SockNumOffset,
        Self::IsMptcpOffset,
        Self::UlpDataOffset,
        Self::SubflowConnOffset,
        Self::SockFlagsOffset,
        Self::SockType,
        Self::SockCookieOffset,
        Self::SockNetOffset,
        Self::NetCookieOffset,
        Self::SockStorageOffset,
        Self::TaskType,
        Self::TaskTgidOffset,
        Self::TaskCommOffset,
        Self::TaskCredOffset,
        Self::CredUidOffset,
        Self::TaskCssSetOffset,
        Self::CssSetCgroupOffset,
        Self::CgroupLevelOffset,
        Self::CgroupAncestorsOffset,
        Self::CgroupPointerType,
        Self::CgroupKnOffset,
        Self::CgroupRootOffset,
        Self::RootHierarchyOffset,
        Self::KnIdOffset,
        Self::KnNameOffset,
        Self::KnParentOffset,
    ];

    /// Returns the number that stands for the constant in the object. Nothing else in the programs is moved that has such
    /// a number.
    #[must_use]
    #[inline(always)]
    pub const fn placeholder(self) -> i32 {
        FIRST_PLACEHOLDER + self as i32
    }
}

/// The placeholder of the first constant.
const FIRST_PLACEHOLDER: i32 = 0x7065_0000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_listed_once_in_their_order() {
        for (place, constant) in Constant::ALL.into_iter().enumerate() {
            assert_eq!(usize::try_from(constant as i32), Ok(place));
        }
    }
}
