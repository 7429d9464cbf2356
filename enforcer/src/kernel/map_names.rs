//! Names of the maps: in the BPF object, and of their pins.
//!
//! A name that changes goes into [`RENAMED`] with its earlier form, so that the next agent finds the pins of the one
//! before it.

/// Policy and facts of the node, one element: [`enforcer_ebpf::wire::Config`].
pub const CONFIG: &str = "CONFIG";
/// Claims on each port: [`enforcer_ebpf::wire::PortWord`].
pub const PORT_OWNERS: &str = "PORTS";
/// Owners by slot: [`enforcer_ebpf::wire::Owner`].
pub const OWNERS: &str = "OWNERS";
/// Owners of single addresses: [`enforcer_ebpf::wire::AddressOwner`].
pub const ADDRESS_OWNERS: &str = "ADDRESS_OWNERS";
/// Owners by pod UID.
pub const POD_UIDS: &str = "POD_UIDS";
/// Owners by pod cgroup: [`enforcer_ebpf::wire::CgroupIdentity`].
pub const POD_CGROUPS: &str = "POD_CGROUPS";
/// Exact counts, shared by all generations.
pub const COUNTERS: &str = "COUNTERS";
/// The mode that an operator set on the node, shared by all generations: [`enforcer_ebpf::wire::NodeMode`]. It never
/// changes its name: an operator who set it may well go back to an earlier version next.
pub const NODE_MODE: &str = "MODE";
/// Ring of judged binds: [`enforcer_ebpf::wire::BindEvent`].
pub const VERDICT_RING: &str = "VERDICT_RING";
/// Log of sockets that were bound and released: [`enforcer_ebpf::wire::SocketLog`].
pub const SOCKET_LOG: &str = "SOCKET_LOG";
/// Shares of cgroups in the space for records.
pub const RECORD_SHARES: &str = "RECORD_SHARES";
/// Ring of binds of held ports: [`enforcer_ebpf::wire::BindEvent`]. Where there is no socket log, also of what that would
/// contain.
pub const SOCKET_RING: &str = "SOCKET_RING";
/// Ring of cgroups that were made and removed: [`enforcer_ebpf::wire::CgroupEvent`].
pub const CGROUP_RING: &str = "CGROUP_RING";
/// Holder of each port: [`enforcer_ebpf::wire::PortHolder`].
pub const PORT_HOLDERS: &str = "PORT_HOLDERS";
/// Ports that everybody may share, one bit each.
pub const SHARED_PORTS: &str = "SHARED_PORTS";
/// Holders of ports whose sockets could share them, shared by all generations: [`enforcer_ebpf::wire::PortHolds`].
pub const PORT_HOLDS: &str = "PORT_HOLDS";
/// The only hold of each port that has one, shared by all generations: [`enforcer_ebpf::wire::SoleHold`].
pub const SOLE_HOLDS: &str = "SOLE_HOLDS";
/// Ports that a socket holds, in the socket's storage. Shared by all generations.
pub const SOCKET_HOLDS: &str = "SOCKET_HOLDS";
/// Ports that MPTCP sockets and sockets without storage hold. Shared by all generations.
pub const FALLBACK_HOLDS: &str = "FALLBACK_HOLDS";
/// Mark that a socket had no storage. Shared by all generations.
pub const FALLBACK_USED: &str = "FALLBACK_USED";
/// The program that `bind4` goes on with.
pub const BIND_TAIL4: &str = "BIND_TAIL4";
/// The program that `bind6` goes on with.
pub const BIND_TAIL6: &str = "BIND_TAIL6";
/// Record that an agent writes of each owner for the next agent. It is not in the object: no program uses it.
pub const OWNER_RECORDS: &str = "OWNER_RECORDS";

/// Maps that every start makes anew and pins in its generation, beside [`OWNER_RECORDS`].
pub const OF_GENERATION: [&str; 15] = [
    CONFIG,
    PORT_OWNERS,
    OWNERS,
    ADDRESS_OWNERS,
    POD_UIDS,
    POD_CGROUPS,
    VERDICT_RING,
    CGROUP_RING,
    SOCKET_RING,
    SOCKET_LOG,
    RECORD_SHARES,
    PORT_HOLDERS,
    BIND_TAIL4,
    BIND_TAIL6,
    SHARED_PORTS,
];

/// Maps of the holders of ports, which the programs of all generations share: a port that is held stays held, whichever
/// generation sees it taken and released.
pub const OF_HOLDS: [&str; 5] = [PORT_HOLDS, SOLE_HOLDS, SOCKET_HOLDS, FALLBACK_HOLDS, FALLBACK_USED];

/// An earlier name of a map, and its present name.
pub type Renamed = (&'static str, &'static str);

/// Earlier names of maps, whose pins a start finds under either name.
pub const RENAMED: &[Renamed] = &[
    ("EXACT", ADDRESS_OWNERS),
    ("UIDS", POD_UIDS),
    ("CGROUPS", POD_CGROUPS),
    ("BIND_EVENTS", VERDICT_RING),
    ("HOLDER_EVENTS", SOCKET_RING),
    ("CGROUP_EVENTS", CGROUP_RING),
    ("MARKS", PORT_HOLDERS),
    ("SHARED", SHARED_PORTS),
    ("SLOTS", PORT_HOLDS),
    ("HOLDS", SOCKET_HOLDS),
    ("SUBFLOWS", FALLBACK_HOLDS),
    ("STRAYS", FALLBACK_USED),
    ("RESERVE4", BIND_TAIL4),
    ("RESERVE6", BIND_TAIL6),
    ("RECORDS", OWNER_RECORDS),
];
