//! The bytes in the maps: one file per wire type.
//!
//! All integers are in the host's byte order and ports are plain numbers (80 is `80`), except where a field's name
//! ends in `_be`. No field is a `bool`; padding is explicit and zero; sizes are asserted at compile time.
//!
//! Whatever a bind reads is published as single 64-bit words in memory-mapped arrays, because an update of a map
//! element by system call is a plain `memcpy` (`array_map_update_elem` in kernel/bpf/arraymap.c) that a program
//! running at the same time may see half done. A word is seen either old or new.

mod address_owner;
mod cgroup;
mod config;
mod constant;
mod counters;
mod node_mode;
mod owner;
mod port_hold;
mod port_owners;
mod protocol;
mod ring_events;
mod socket_log;
mod uid;
mod verdict;

pub use address_owner::{AddressKey, AddressOwner};
pub use cgroup::CgroupIdentity;
pub use config::{Config, Policy, ROOT_LEVEL_UNKNOWN, Undeclared};
pub use constant::Constant;
pub use counters::{COUNTER_COUNT, KernelError, counter, error_counter, unreported_counter};
pub use node_mode::NodeMode;
pub use owner::{
    CGROUP_UNKNOWN, MAX_REVISION, OWNER_ADVISORY, OWNER_DAEMON, OWNER_FLAGS, OWNER_MODE_AUDIT, OWNER_MODE_ENFORCE,
    OWNER_NODE, OWNER_RECORD_BYTES, OWNER_SERVICE, OWNER_SOFTWARE, OWNER_TERMINATING, Owner, Slot,
};
pub use port_hold::{
    ASKED_BITS, ENFORCED_PORT_COUNT, EXTENT_DEVICE_SHIFT, EXTENT_ONE, EXTENT_V4, EXTENT_V6, HOLDER_HOST, HOLDER_SOCKET,
    HOLDER_SOMEBODY, HOLDER_UNPLACED, IN_TABLE, MAX_FALLBACK_HOLDS, MAX_HOLDS_PER_PORT, MAX_PORT_HOLDS, PortHold,
    PortHolder, PortHolds, SHARED_PORT_WORDS, SoleHold, bpf_spin_lock, v6_address_word,
};
pub use port_owners::{PORT_COUNT, PortWord, Side, port_index};
pub use protocol::Protocol;
pub use ring_events::{
    BIND_FLAG_HELD, BIND_FLAG_REUSE_ADDR, BIND_FLAG_REUSE_PORT, BIND_FLAG_REUSE_UNKNOWN, BIND_FLAG_V6ONLY,
    BIND_FLAG_V6ONLY_UNKNOWN, BindEvent, BoundEvent, CgroupEvent, EventKind, FAMILY_V4, FAMILY_V6, NAME_CAPACITY,
    ReleaseEvent,
};
pub use socket_log::{SOCKET_LOG_BYTES, SOCKET_LOG_HEADER_BYTES, SOCKET_LOG_RECORD_BYTES, SocketLog};
pub use uid::{PodUid, UidForm, UidKey};
pub use verdict::{MAX_REASONS, Reason, VerdictKind};

/// Version of the layout of what an agent takes over from the one before it: the shapes and meanings of all maps but the
/// rings' records, and the names of the pins. A pinned layout of another version is never reused, so this is raised
/// with every change of those, and with no other.
pub const LAYOUT_VERSION: u32 = 3;
/// Constant that the programs move to register 0 in the place where the agent puts the call of `bpf_rdonly_cast`, a
/// function of the kernel. Nothing else in the programs has this number.
pub const RDONLY_CAST_PLACEHOLDER: i32 = 0x6361_7374;
/// Elements of the `OWNERS` array, slot 0 (nobody) included.
pub const MAX_OWNERS: u32 = 1 << 15;
/// Most address-specific claims in force at once, over all ports.
pub const MAX_ADDRESS_CLAIMS: u32 = 1 << 16;
/// Most pods whose UID the kernel can turn into an owner.
pub const MAX_POD_UIDS: u32 = 1 << 14;
/// Most pod cgroups that can exist at once.
pub const MAX_POD_CGROUPS: u32 = 1 << 14;
/// Bytes of the ring that carries bind attempts.
pub const VERDICT_RING_BYTES: u32 = 1 << 19;
/// Bytes of the ring that carries binds of held ports and, where there is no socket log, sockets that were bound and
/// released; its own, so that a storm of sockets cannot crowd out conflicts.
pub const SOCKET_RING_BYTES: u32 = 1 << 19;
/// Bytes of the ring that carries the coming and going of cgroups; its own, so that no storm of binds can crowd out
/// the identity of a pod.
pub const CGROUP_RING_BYTES: u32 = 1 << 18;
