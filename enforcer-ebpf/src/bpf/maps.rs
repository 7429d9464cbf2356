//! Every map, and the read-only globals that the agent sets before it loads the object.

use aya_ebpf::{
    Global,
    bindings::BPF_F_MMAPABLE,
    btf_maps::{Array, HashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};
use enforcer_ebpf::abi;

const MMAPABLE: usize = BPF_F_MMAPABLE as usize;

/// What the programs are told; one element, written by the agent through its memory map.
#[btf_map]
pub(super) static CONFIG: Array<abi::Config, 1, MMAPABLE> = Array::new();

/// Who claims a port: [`abi::PortWord`] by [`abi::port_index`]. Written by the agent through its memory map.
#[btf_map]
pub(super) static PORTS: Array<u64, { abi::PORTS as usize }, MMAPABLE> = Array::new();

/// Owners by slot; slot 0 is nobody and stays zero. Written by the agent through its memory map.
#[btf_map]
pub(super) static OWNERS: Array<abi::Owner, { abi::OWNERS as usize }, MMAPABLE> = Array::new();

/// Owners of single addresses: [`abi::ExactValue`] by key. Written by the agent.
#[btf_map]
pub(super) static EXACT: HashMap<abi::ExactKey, u64, { abi::EXACT_CLAIMS as usize }, { NO_PREALLOC }> = HashMap::new();

/// From a pod's UID to its owner's slot (`u64`). Written by the agent, read when a cgroup is made.
#[btf_map]
pub(super) static UIDS: HashMap<abi::UidKey, u64, { abi::UIDS as usize }> = HashMap::new();

/// From the id of a pod's cgroup to [`abi::CgroupIdentity`]. Written by `cgroup_mkdir` and `cgroup_rmdir`, and by the
/// agent for what existed before it. Preallocated, as `UIDS` is: kernels before 6.1 warn about anything else in a
/// tracing program (`check_map_prog_compatibility` in kernel/bpf/verifier.c).
#[btf_map]
pub(super) static CGROUPS: HashMap<u64, u64, { abi::CGROUPS as usize }> = HashMap::new();

/// What the agent knows of an owner beyond its element in `OWNERS`, by slot. Written and read by agents alone: it tells
/// the next one who owns what.
#[btf_map]
pub(super) static RECORDS: HashMap<u32, [u8; abi::RECORD_LEN], { abi::OWNERS as usize }, { NO_PREALLOC }> =
    HashMap::new();

/// Exact counts by [`abi::counter`] and [`abi::error_counter`].
#[btf_map]
pub(super) static COUNTERS: PerCpuArray<u64, { abi::COUNTERS as usize }> = PerCpuArray::new();

/// [`abi::BindEvent`]s to the agent.
#[btf_map]
pub(super) static BIND_EVENTS: RingBuf<abi::BindEvent, { abi::BIND_RING_BYTES as usize }> = RingBuf::new();

/// [`abi::CgroupEvent`]s to the agent.
#[btf_map]
pub(super) static CGROUP_EVENTS: RingBuf<abi::CgroupEvent, { abi::CGROUP_RING_BYTES as usize }> = RingBuf::new();

const NO_PREALLOC: usize = aya_ebpf::bindings::BPF_F_NO_PREALLOC as usize;

/// 1 where bind hooks may choose the error number (`bpf_set_retval`, since 6.1).
#[unsafe(no_mangle)]
pub(super) static HAS_SET_RETVAL: Global<u8> = Global::new(0);

/// Offset of the byte in `struct sock_common` whose bit 5 is `skc_ipv6only`; 0 where it is unknown or may not be read.
#[unsafe(no_mangle)]
pub(super) static SOCK_FLAGS_OFFSET: Global<u32> = Global::new(0);

/// Offset of `kn` in `struct cgroup`.
#[unsafe(no_mangle)]
pub(super) static CGROUP_KN_OFFSET: Global<u32> = Global::new(0);

/// Offset of `root` in `struct cgroup`.
#[unsafe(no_mangle)]
pub(super) static CGROUP_ROOT_OFFSET: Global<u32> = Global::new(0);

/// Offset of `hierarchy_id` in `struct cgroup_root`.
#[unsafe(no_mangle)]
pub(super) static ROOT_HIERARCHY_OFFSET: Global<u32> = Global::new(0);

/// Offset of `id` in `struct kernfs_node`.
#[unsafe(no_mangle)]
pub(super) static KN_ID_OFFSET: Global<u32> = Global::new(0);

/// Offset of `name` in `struct kernfs_node`.
#[unsafe(no_mangle)]
pub(super) static KN_NAME_OFFSET: Global<u32> = Global::new(0);

/// Offset of `parent` (`__parent` since 6.15) in `struct kernfs_node`.
#[unsafe(no_mangle)]
pub(super) static KN_PARENT_OFFSET: Global<u32> = Global::new(0);
