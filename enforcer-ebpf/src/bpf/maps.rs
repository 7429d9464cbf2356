//! Every map, and the read-only globals that the agent sets before it loads the object.

use aya_ebpf::{
    Global,
    bindings::BPF_F_MMAPABLE,
    btf_maps::{Array, HashMap, PerCpuArray, ProgramArray, RingBuf, SkStorage},
    macros::btf_map,
};
use enforcer_ebpf::abi;

const MMAPABLE: usize = BPF_F_MMAPABLE as usize;

/// What the programs are told; one element, written by the agent through its memory map.
#[btf_map]
pub(crate) static CONFIG: Array<abi::Config, 1, MMAPABLE> = Array::new();

/// Who claims a port: [`abi::PortWord`] by [`abi::port_index`]. Written by the agent through its memory map.
#[btf_map]
pub(crate) static PORTS: Array<u64, { abi::PORTS as usize }, MMAPABLE> = Array::new();

/// Owners by slot; slot 0 is nobody and stays zero. Written by the agent through its memory map.
#[btf_map]
pub(crate) static OWNERS: Array<abi::Owner, { abi::OWNERS as usize }, MMAPABLE> = Array::new();

/// Owners of single addresses: [`abi::ExactValue`] by key. Written by the agent.
#[btf_map]
pub(crate) static EXACT: HashMap<abi::ExactKey, u64, { abi::EXACT_CLAIMS as usize }, { NO_PREALLOC }> = HashMap::new();

/// From a pod's UID to its owner's slot (`u64`). Written by the agent, read when a cgroup is made.
#[btf_map]
pub(crate) static UIDS: HashMap<abi::UidKey, u64, { abi::UIDS as usize }> = HashMap::new();

/// From the id of a pod's cgroup to [`abi::CgroupIdentity`]. Written by `cgroup_mkdir` and `cgroup_rmdir`, and by the
/// agent for what existed before it. Preallocated, as `UIDS` is: kernels before 6.1 warn about anything else in a
/// tracing program (`check_map_prog_compatibility` in kernel/bpf/verifier.c).
#[btf_map]
pub(crate) static CGROUPS: HashMap<u64, u64, { abi::CGROUPS as usize }> = HashMap::new();

/// Exact counts by [`abi::counter`] and [`abi::error_counter`]. Every agent's programs use the same map, so that totals
/// go on.
#[btf_map]
pub(crate) static COUNTERS: PerCpuArray<u64, { abi::COUNTERS as usize }> = PerCpuArray::new();

/// The mode that an operator set on the node: [`abi::LocalMode`]. Every agent's programs use the same map. Written by
/// user space through its memory map.
#[btf_map]
pub(crate) static MODE: Array<u64, 1, MMAPABLE> = Array::new();

/// [`abi::BindEvent`]s to the agent.
#[btf_map]
pub(crate) static BIND_EVENTS: RingBuf<abi::BindEvent, { abi::BIND_RING_BYTES as usize }> = RingBuf::new();

/// [`abi::CgroupEvent`]s to the agent.
#[btf_map]
pub(crate) static CGROUP_EVENTS: RingBuf<abi::CgroupEvent, { abi::CGROUP_RING_BYTES as usize }> = RingBuf::new();

/// Sockets that were bound and released, as [`abi::BindEvent`]s to the agent.
#[btf_map]
pub(crate) static HOLDER_EVENTS: RingBuf<abi::BindEvent, { abi::HOLDER_RING_BYTES as usize }> = RingBuf::new();

/// Which ports are held: [`abi::Mark`] by [`abi::port_index`]. Written by the programs and, through its memory map, by the
/// agent.
#[btf_map]
pub(crate) static MARKS: Array<abi::Mark, { abi::MARKS as usize }, MMAPABLE> = Array::new();

/// Ports that may be shared by whoever binds them, a bit for each. Written by the agent through its memory map.
#[btf_map]
pub(crate) static SHARED: Array<u64, { abi::SHARED_WORDS as usize }, MMAPABLE> = Array::new();

/// Who holds the ports whose sockets could share them: [`abi::HoldSlot`] by [`abi::port_index`]. Every agent's programs
/// use the same map, so that what is held stays held. Written by the programs only.
#[btf_map]
pub(crate) static SLOTS: HashMap<u32, abi::HoldSlot, { abi::SLOTS as usize }, { NO_PREALLOC }> = HashMap::new();

/// What a socket holds in `SLOTS`: [`abi::Hold`]. Shared as `SLOTS` is.
#[btf_map]
pub(crate) static HOLDS: SkStorage<abi::Hold> = SkStorage::new();

/// What an MPTCP socket holds in `SLOTS`, by its address in kernel memory: its subflow is bound, and what is released is
/// itself. Also what another socket holds that has no storage (see `STRAYS`). Shared as `SLOTS` is.
#[btf_map]
pub(crate) static SUBFLOWS: HashMap<u64, abi::Hold, { abi::SUBFLOWS as usize }, { NO_PREALLOC }> = HashMap::new();

/// 1 once a socket that is no MPTCP socket had no room for what it holds, which is then in `SUBFLOWS` too. Shared as `SLOTS`
/// is.
#[btf_map]
pub(crate) static STRAYS: Array<u64, 1> = Array::new();

/// The program that takes a port before it is bound, for IPv4 sockets. Filled by the agent where [`RESERVES`] is set, and
/// one for each hook, as such an array takes programs of one hook only.
#[btf_map]
pub(crate) static RESERVE4: ProgramArray<1> = ProgramArray::new();

/// The same for IPv6 sockets.
#[btf_map]
pub(crate) static RESERVE6: ProgramArray<1> = ProgramArray::new();

const NO_PREALLOC: usize = aya_ebpf::bindings::BPF_F_NO_PREALLOC as usize;

/// 1 where bind hooks may choose the error number (`bpf_set_retval`, since 6.1).
#[unsafe(no_mangle)]
pub(crate) static HAS_SET_RETVAL: Global<u8> = Global::new(0);

/// 1 where post-bind hooks may choose the error number (`bpf_set_retval`, since 5.18).
#[unsafe(no_mangle)]
pub(crate) static HAS_POST_SET_RETVAL: Global<u8> = Global::new(0);

/// 1 where there is the time of the last tick (`bpf_ktime_get_coarse_ns`, since 5.11).
#[unsafe(no_mangle)]
pub(crate) static HAS_COARSE_TIME: Global<u8> = Global::new(0);

/// 1 where a post-bind hook that denies really denies, and gives the port back (since 5.17).
#[unsafe(no_mangle)]
pub(crate) static POST_BIND_DENIES: Global<u8> = Global::new(0);

/// 1 where a port is taken before it is bound, because a post-bind hook could not deny.
#[unsafe(no_mangle)]
pub(crate) static RESERVES: Global<u8> = Global::new(0);

/// Bit offset of `sk_kern_sock` in `struct sock`; 0 where it is unknown or may not be read, as all offsets below.
#[unsafe(no_mangle)]
pub(crate) static KERN_SOCK_BIT: Global<u32> = Global::new(0);

/// Offset of `skc_bound_dev_if` in `struct sock_common`.
#[unsafe(no_mangle)]
pub(crate) static BOUND_DEV_OFFSET: Global<u32> = Global::new(0);

/// Offset of `skc_num` in `struct sock_common`.
#[unsafe(no_mangle)]
pub(crate) static SOCK_NUM_OFFSET: Global<u32> = Global::new(0);

/// Offset of `is_mptcp` in `struct tcp_sock`; 0 also where the kernel has no MPTCP, as the two below.
#[unsafe(no_mangle)]
pub(crate) static IS_MPTCP_OFFSET: Global<u32> = Global::new(0);

/// Offset of `icsk_ulp_data` in `struct inet_connection_sock`.
#[unsafe(no_mangle)]
pub(crate) static ULP_DATA_OFFSET: Global<u32> = Global::new(0);

/// Offset of `conn` in `struct mptcp_subflow_context`.
#[unsafe(no_mangle)]
pub(crate) static SUBFLOW_CONN_OFFSET: Global<u32> = Global::new(0);

/// Offset of the byte in `struct sock_common` whose bit 5 is `skc_ipv6only`; 0 where it is unknown or may not be read.
#[unsafe(no_mangle)]
pub(crate) static SOCK_FLAGS_OFFSET: Global<u32> = Global::new(0);

/// Number of `struct sock` in the running kernel's type information, where programs may read through a pointer to one
/// (`bpf_rdonly_cast`, since 6.2); else 0.
#[unsafe(no_mangle)]
pub(crate) static SOCK_TYPE: Global<u32> = Global::new(0);

/// The same of `struct task_struct`.
#[unsafe(no_mangle)]
pub(crate) static TASK_TYPE: Global<u32> = Global::new(0);

/// Offset of `tgid` in `struct task_struct`. These are only of use where [`TASK_TYPE`] is known.
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
