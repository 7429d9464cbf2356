//! Every map of the programs.
//!
//! "Shared" maps are pinned and used by the programs of every agent on the node, so that their content outlives an
//! agent. The others belong to one agent's programs.
//!
//! A name has at most 15 bytes: the kernel keeps no more of it (`BPF_OBJ_NAME_LEN` in include/uapi/linux/bpf.h), and
//! operators see it in `bpftool map list`.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, HashMap, PerCpuArray, ProgramArray, RingBuf, SkStorage},
    macros::btf_map,
};
use enforcer_ebpf::{record_share::SHARES, wire};

use super::emit::share::LANES;

/// The agent reads and writes the array through its memory map.
const MMAPABLE: usize = BPF_F_MMAPABLE as usize;
/// Elements are allocated when they are inserted.
const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

/// Configuration by the agent; one element.
#[btf_map]
pub(crate) static CONFIG: Array<wire::Config, 1, MMAPABLE> = Array::new();

/// Owners of a port: [`wire::PortWord`] by [`wire::port_index`]. Written by the agent.
#[btf_map]
pub(crate) static PORTS: Array<u64, { wire::PORT_COUNT as usize }, MMAPABLE> = Array::new();

/// Owners by slot. Slot 0 is nobody and stays zero. Written by the agent, and by `cgroup_mkdir`.
#[btf_map]
pub(crate) static OWNERS: Array<wire::Owner, { wire::MAX_OWNERS as usize }, MMAPABLE> = Array::new();

/// Owners of one address of a port: [`wire::AddressOwner`] by key. Written by the agent.
#[btf_map]
pub(crate) static ADDRESS_OWNERS: HashMap<
    wire::AddressKey,
    u64,
    { wire::MAX_ADDRESS_CLAIMS as usize },
    { NO_PREALLOC },
> = HashMap::new();

/// Slot of the owner (`u64`) by the pod's UID. Written by the agent, and read when a cgroup is made.
#[btf_map]
pub(crate) static POD_UIDS: HashMap<wire::UidKey, u64, { wire::MAX_POD_UIDS as usize }> = HashMap::new();

/// The [`wire::CgroupIdentity`] by the id of a pod's cgroup. Written by `cgroup_mkdir` and `cgroup_rmdir`, and by the
/// agent for cgroups that are older than the programs. Preallocated, as [`POD_UIDS`] is: kernels before 6.1 warn about
/// anything else in a tracing program (`check_map_prog_compatibility` in kernel/bpf/verifier.c).
#[btf_map]
pub(crate) static POD_CGROUPS: HashMap<u64, u64, { wire::MAX_POD_CGROUPS as usize }> = HashMap::new();

/// Exact counts by [`wire::counter`] and [`wire::error_counter`]. Shared, so that the totals go on.
#[btf_map]
pub(crate) static COUNTERS: PerCpuArray<u64, { wire::COUNTER_COUNT as usize }> = PerCpuArray::new();

/// The mode that an operator set on the node: [`wire::NodeMode`]. Shared. Written by user space.
#[btf_map]
pub(crate) static MODE: Array<u64, 1, MMAPABLE> = Array::new();

/// Ring of attempts that the agent reports: [`wire::BindEvent`].
#[btf_map]
pub(crate) static VERDICT_RING: RingBuf<wire::BindEvent, { wire::VERDICT_RING_BYTES as usize }> = RingBuf::new();

/// Log of sockets that were bound and released; one element. The agent reads it through its memory map.
#[btf_map]
pub(crate) static SOCKET_LOG: Array<wire::SocketLog, 1, MMAPABLE> = Array::new();

/// Ring of attempts on held ports, which are of use only together with the socket log ([`wire::BindEvent`]), and of
/// wake-ups. Where there is no socket log, also of what it would contain: [`wire::BoundEvent`], [`wire::ReleaseEvent`].
#[btf_map]
pub(crate) static SOCKET_RING: RingBuf<wire::BindEvent, { wire::SOCKET_RING_BYTES as usize }> = RingBuf::new();

/// Share of each cgroup in the space for records: see [`enforcer_ebpf::record_share`].
#[btf_map]
pub(crate) static RECORD_SHARES: Array<u64, { (LANES * SHARES) as usize }> = Array::new();

/// Ring of cgroups that were made or removed: [`wire::CgroupEvent`].
#[btf_map]
pub(crate) static CGROUP_RING: RingBuf<wire::CgroupEvent, { wire::CGROUP_RING_BYTES as usize }> = RingBuf::new();

/// The holder of each port, as far as is known: [`wire::PortHolder`] by [`wire::port_index`]. Written by the programs
/// and by the agent.
#[btf_map]
pub(crate) static PORT_HOLDERS: Array<wire::PortHolder, { wire::ENFORCED_PORT_COUNT as usize }, MMAPABLE> =
    Array::new();

/// Ports that any number of pods may share, one bit for each by [`wire::port_index`]. Written by the agent.
#[btf_map]
pub(crate) static SHARED_PORTS: Array<u64, { wire::SHARED_PORT_WORDS as usize }, MMAPABLE> = Array::new();

/// The holders of each port whose sockets can share it: [`wire::PortHolds`] by [`wire::port_index`]. Shared, so that a
/// held port stays held. Written by the programs only.
#[btf_map]
pub(crate) static PORT_HOLDS: HashMap<u32, wire::PortHolds, { wire::MAX_PORT_HOLDS as usize }, { NO_PREALLOC }> =
    HashMap::new();

/// The only hold of each port that has one: [`wire::SoleHold`] by [`wire::port_index`]. Shared. Written by the programs,
/// and by an agent that marks the ports with holds in
/// the table.
#[btf_map]
pub(crate) static SOLE_HOLDS: Array<wire::SoleHold, { wire::ENFORCED_PORT_COUNT as usize }> = Array::new();

/// Hold of a socket in [`PORT_HOLDS`]: [`wire::PortHold`] in the socket's storage. Shared.
#[btf_map]
pub(crate) static SOCKET_HOLDS: SkStorage<wire::PortHold> = SkStorage::new();

/// Hold of a socket without storage in [`PORT_HOLDS`]: [`wire::PortHold`] by the socket's address in kernel memory.
/// Shared.
///
/// MPTCP sockets are such: the kernel binds the subflow and closes its parent. So are sockets for which the kernel had
/// no memory (see [`FALLBACK_USED`]).
#[btf_map]
pub(crate) static FALLBACK_HOLDS: HashMap<u64, wire::PortHold, { wire::MAX_FALLBACK_HOLDS as usize }, { NO_PREALLOC }> =
    HashMap::new();

/// 1 as soon as a socket that is not MPTCP had no storage, so that every close must look into [`FALLBACK_HOLDS`].
/// Shared.
#[btf_map]
pub(crate) static FALLBACK_USED: Array<u64, 1> = Array::new();

/// The program that `bind4` continues with. Filled by the agent where it sets `TAKES_BEFORE_BIND`.
/// There is an array for each hook, since the programs of one array must be of the same hook.
#[btf_map]
pub(crate) static BIND_TAIL4: ProgramArray<1> = ProgramArray::new();

/// The program that `bind6` continues with, as [`BIND_TAIL4`].
#[btf_map]
pub(crate) static BIND_TAIL6: ProgramArray<1> = ProgramArray::new();
