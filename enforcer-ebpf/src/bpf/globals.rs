//! Read-only globals, which the agent sets in the object before it loads it. The verifier takes each for a constant and
//! drops the code that this kernel does not need.
//!
//! The agent finds a global by the name of its symbol. All are 0 in the object: no feature, and nothing is known of the
//! kernel's structures. An offset is in bytes; it is 0 also where the programs may not read kernel memory.

use aya_ebpf::Global;

/// 1 where bind hooks may choose the error number (`bpf_set_retval`, since 6.1).
#[unsafe(no_mangle)]
pub(crate) static HAS_SET_RETVAL: Global<u8> = Global::new(0);

/// 1 where post-bind hooks may choose the error number (`bpf_set_retval`, since 5.18).
#[unsafe(no_mangle)]
pub(crate) static HAS_POST_SET_RETVAL: Global<u8> = Global::new(0);

/// 1 where the kernel returns the time of the last tick (`bpf_ktime_get_coarse_ns`, since 5.11).
#[unsafe(no_mangle)]
pub(crate) static HAS_COARSE_TIME: Global<u8> = Global::new(0);

/// 1 where programs have an atomic exchange that answers (since 5.12), and so write the socket log.
#[unsafe(no_mangle)]
pub(crate) static HAS_SOCKET_LOG: Global<u8> = Global::new(0);

/// 1 where a processor never shows another one a later store before an earlier one, as on x86.
#[unsafe(no_mangle)]
pub(crate) static ORDERED_STORES: Global<u8> = Global::new(0);

/// 1 where a post-bind hook that denies gives the port back, and so really denies (since 5.17).
#[unsafe(no_mangle)]
pub(crate) static POST_BIND_DENIES: Global<u8> = Global::new(0);

/// 1 where the programs take a port before the bind, because a post-bind hook cannot deny.
#[unsafe(no_mangle)]
pub(crate) static TAKES_BEFORE_BIND: Global<u8> = Global::new(0);

/// Offset of `sk_kern_sock` in `struct sock`, in bits.
#[unsafe(no_mangle)]
pub(crate) static KERN_SOCK_BIT: Global<u32> = Global::new(0);

/// Offset of `skc_bound_dev_if` in `struct sock_common`.
#[unsafe(no_mangle)]
pub(crate) static BOUND_DEV_OFFSET: Global<u32> = Global::new(0);

/// Offset of `skc_num` in `struct sock_common`.
#[unsafe(no_mangle)]
pub(crate) static SOCK_NUM_OFFSET: Global<u32> = Global::new(0);

/// Offset of `is_mptcp` in `struct tcp_sock`; 0 also where the kernel has no MPTCP.
#[unsafe(no_mangle)]
pub(crate) static IS_MPTCP_OFFSET: Global<u32> = Global::new(0);

/// Offset of `icsk_ulp_data` in `struct inet_connection_sock`; 0 also where the kernel has no MPTCP.
#[unsafe(no_mangle)]
pub(crate) static ULP_DATA_OFFSET: Global<u32> = Global::new(0);

/// Offset of `conn` in `struct mptcp_subflow_context`; 0 also where the kernel has no MPTCP.
#[unsafe(no_mangle)]
pub(crate) static SUBFLOW_CONN_OFFSET: Global<u32> = Global::new(0);

/// Offset of the byte in `struct sock_common` that holds `skc_reuse`, `skc_reuseport` and `skc_ipv6only`.
#[unsafe(no_mangle)]
pub(crate) static SOCK_FLAGS_OFFSET: Global<u32> = Global::new(0);

/// Id of `struct sock` in the running kernel's type information, where programs may load through a pointer to one
/// (`bpf_rdonly_cast`, since 6.2).
#[unsafe(no_mangle)]
pub(crate) static SOCK_TYPE: Global<u32> = Global::new(0);

/// Offset of `skc_cookie` in `struct sock_common`. This and the next three are of use only where [`SOCK_TYPE`] is known.
#[unsafe(no_mangle)]
pub(crate) static SOCK_COOKIE_OFFSET: Global<u32> = Global::new(0);

/// Offset of `skc_net` in `struct sock_common`.
#[unsafe(no_mangle)]
pub(crate) static SOCK_NET_OFFSET: Global<u32> = Global::new(0);

/// Offset of `net_cookie` in `struct net`.
#[unsafe(no_mangle)]
pub(crate) static NET_COOKIE_OFFSET: Global<u32> = Global::new(0);

/// Offset of `sk_bpf_storage` in `struct sock`.
#[unsafe(no_mangle)]
pub(crate) static SOCK_STORAGE_OFFSET: Global<u32> = Global::new(0);

/// Id of `struct task_struct`, as [`SOCK_TYPE`]. The offsets in it are of use only where it is known.
#[unsafe(no_mangle)]
pub(crate) static TASK_TYPE: Global<u32> = Global::new(0);

/// Offset of `tgid` in `struct task_struct`.
#[unsafe(no_mangle)]
pub(crate) static TASK_TGID_OFFSET: Global<u32> = Global::new(0);

/// Offset of `comm` in `struct task_struct`, a multiple of 8.
#[unsafe(no_mangle)]
pub(crate) static TASK_COMM_OFFSET: Global<u32> = Global::new(0);

/// Offset of `cred` in `struct task_struct`.
#[unsafe(no_mangle)]
pub(crate) static TASK_CRED_OFFSET: Global<u32> = Global::new(0);

/// Offset of `uid` in `struct cred`.
#[unsafe(no_mangle)]
pub(crate) static CRED_UID_OFFSET: Global<u32> = Global::new(0);

/// Offset of `cgroups` in `struct task_struct`.
#[unsafe(no_mangle)]
pub(crate) static TASK_CSS_SET_OFFSET: Global<u32> = Global::new(0);

/// Offset of `dfl_cgrp` in `struct css_set`.
#[unsafe(no_mangle)]
pub(crate) static CSS_SET_CGROUP_OFFSET: Global<u32> = Global::new(0);

/// Offset of `kn` in `struct cgroup`.
#[unsafe(no_mangle)]
pub(crate) static CGROUP_KN_OFFSET: Global<u32> = Global::new(0);

/// Offset of `root` in `struct cgroup`.
#[unsafe(no_mangle)]
pub(crate) static CGROUP_ROOT_OFFSET: Global<u32> = Global::new(0);

/// Offset of `hierarchy_id` in `struct cgroup_root`.
#[unsafe(no_mangle)]
pub(crate) static ROOT_HIERARCHY_OFFSET: Global<u32> = Global::new(0);

/// Offset of `id` in `struct kernfs_node`.
#[unsafe(no_mangle)]
pub(crate) static KN_ID_OFFSET: Global<u32> = Global::new(0);

/// Offset of `name` in `struct kernfs_node`.
#[unsafe(no_mangle)]
pub(crate) static KN_NAME_OFFSET: Global<u32> = Global::new(0);

/// Offset of `parent` (`__parent` since 6.15) in `struct kernfs_node`.
#[unsafe(no_mangle)]
pub(crate) static KN_PARENT_OFFSET: Global<u32> = Global::new(0);
