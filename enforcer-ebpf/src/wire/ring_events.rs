//! Records of the three rings, and of the socket log ([`crate::wire::SocketLog`]).

/// Kind of a record: the first byte of every record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EventKind {
    /// A [`BindEvent`]: a `bind()` was judged.
    Attempt = 1,
    /// A [`BoundEvent`]: a socket was bound.
    Bound = 2,
    /// A [`CgroupEvent`]: a cgroup was made below the attached root.
    CgroupMade = 3,
    /// A [`CgroupEvent`]: a cgroup below the attached root was removed.
    CgroupRemoved = 4,
    /// A [`ReleaseEvent`]: a socket that may have held a port was closed.
    Released = 5,
    /// Eight bytes in the socket ring, all others zero: wakes the agent, which then reads the socket log.
    Wakeup = 6,
}

impl EventKind {
    /// Returns the kind with this discriminant.
    #[must_use]
    pub const fn from_wire(wire: u8) -> Option<Self> {
        match wire {
            1 => Some(Self::Attempt),
            2 => Some(Self::Bound),
            3 => Some(Self::CgroupMade),
            4 => Some(Self::CgroupRemoved),
            5 => Some(Self::Released),
            6 => Some(Self::Wakeup),
            _ => None,
        }
    }
}

/// The [`BindEvent::family`] of an IPv4 bind, an IPv4-mapped address included.
pub const FAMILY_V4: u8 = 4;
/// The [`BindEvent::family`] of an IPv6 bind.
pub const FAMILY_V6: u8 = 6;

/// The socket is IPv6 only.
pub const BIND_FLAG_V6ONLY: u8 = 1;
/// The IPv6-only option could not be read; the socket was taken to be dual-stack.
pub const BIND_FLAG_V6ONLY_UNKNOWN: u8 = 1 << 1;
/// The socket has `SO_REUSEPORT`.
pub const BIND_FLAG_REUSE_PORT: u8 = 1 << 2;
/// The socket has `SO_REUSEADDR`.
pub const BIND_FLAG_REUSE_ADDR: u8 = 1 << 3;
/// One of `SO_REUSEPORT` and `SO_REUSEADDR` at least could not be read.
pub const BIND_FLAG_REUSE_UNKNOWN: u8 = 1 << 4;
/// The port is marked as held by another holder ([`crate::wire::PortHolder`]): if it is, the kernel refuses the bind by
/// itself. An allowed attempt that is reported for that alone is in the socket ring.
pub const BIND_FLAG_HELD: u8 = 1 << 5;

/// One bind attempt with its verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)
)]
#[repr(C)]
pub struct BindEvent {
    /// Kind of the event: [`EventKind`].
    pub kind: u8,
    /// Address family: [`FAMILY_V4`] or [`FAMILY_V6`].
    pub family: u8,
    /// Protocol: [`crate::wire::Protocol`].
    pub protocol: u8,
    /// Flags of the bind: `BIND_FLAG_*`.
    pub flags: u8,
    /// The port asked for; 0 asks for any.
    pub port: u16,
    /// Kind of the verdict: [`crate::wire::VerdictKind`].
    pub verdict: u8,
    /// Reason of the verdict: [`crate::wire::Reason`].
    pub reason: u8,
    /// Time in nanoseconds since boot. In the verdict ring, sleep included (`CLOCK_BOOTTIME`). In the socket ring, as
    /// [`BoundEvent::time`].
    pub time: u64,
    /// Cgroup of the calling task: a container's, usually.
    pub cgroup: u64,
    /// Cgroup of the calling pod, 0 for a host process or where it was not needed.
    pub pod_cgroup: u64,
    /// Cookie of the socket, as `SO_COOKIE` gives it.
    pub socket: u64,
    /// Zero. Agents before the socket log had the name of a bound socket here, and the next one reads their ring.
    pub reserved: u64,
    /// The [`crate::wire::PortHold::holder`] of a holder of the port, where the reason is `held`; else 0.
    pub holder: u64,
    /// Id of the owner that the caller is ([`crate::wire::Owner::id`]), 0 if unknown or not looked up.
    pub caller: u32,
    /// Id of the owner whose claim decided, 0 if none did.
    pub owner: u32,
    /// Process id (thread group) of the caller, in the initial pid namespace.
    pub pid: u32,
    /// User id of the caller, in the initial user namespace.
    pub uid: u32,
    /// The address in network byte order; an IPv4 address takes the first four bytes, the others are zero.
    pub address: [u8; 16],
    /// Command name of the calling task, cut to 15 bytes and padded with zeros. Whatever the process likes.
    pub command: [u8; 16],
}

const _: () = assert!(size_of::<BindEvent>() == 104);

/// One socket that was bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)
)]
#[repr(C)]
pub struct BoundEvent {
    /// Kind of the event: [`EventKind`].
    pub kind: u8,
    /// Address family: [`FAMILY_V4`] or [`FAMILY_V6`].
    pub family: u8,
    /// Protocol: [`crate::wire::Protocol`].
    pub protocol: u8,
    /// Flags of the bind: `BIND_FLAG_*`.
    pub flags: u8,
    /// The port that was taken.
    pub port: u16,
    /// Zero.
    pub padding: u16,
    /// Time of the last tick in nanoseconds since boot, sleep not included (`CLOCK_MONOTONIC_COARSE`; before Linux 5.11
    /// `CLOCK_MONOTONIC`): such a record is written at every bind.
    pub time: u64,
    /// Cgroup of the calling task: a container's, usually.
    pub cgroup: u64,
    /// Cookie of the socket, as `SO_COOKIE` gives it.
    pub socket: u64,
    /// Name of the socket in [`EventKind::Released`]: the cookie. For MPTCP, whose subflow is bound and whose parent is
    /// released, the parent's address in kernel memory; 0 where that is not known.
    pub release: u64,
    /// Process id (thread group) of the caller, in the initial pid namespace.
    pub pid: u32,
    /// User id of the caller, in the initial user namespace.
    pub uid: u32,
    /// The address, as [`BindEvent::address`].
    pub address: [u8; 16],
    /// Command name, as [`BindEvent::command`].
    pub command: [u8; 16],
}

const _: () = assert!(size_of::<BoundEvent>() == 80);

/// One socket that may have held a port and was closed. The record is short, since a program writes it at every close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)
)]
#[repr(C)]
pub struct ReleaseEvent {
    /// Kind of the event: [`EventKind`].
    pub kind: u8,
    /// Protocol: [`crate::wire::Protocol`].
    pub protocol: u8,
    /// The port.
    pub port: u16,
    /// Zero.
    pub padding: u32,
    /// Time, as [`BoundEvent::time`].
    pub time: u64,
    /// Name of the socket: [`BoundEvent::release`].
    pub release: u64,
}

const _: () = assert!(size_of::<ReleaseEvent>() == 24);

/// Bytes of a cgroup's name that fit a [`CgroupEvent`], the closing zero included. The longest names that container
/// runtimes make have about 150.
pub const NAME_CAPACITY: usize = 192;

/// One cgroup that was made or removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)
)]
#[repr(C)]
pub struct CgroupEvent {
    /// Kind of the event: [`EventKind`].
    pub kind: u8,
    /// Form of the UID, [`crate::wire::UidForm`], if the programs read a pod's UID from the name, else 0.
    pub form: u8,
    /// Bytes of `name` in use, the closing zero not counted. [`NAME_CAPACITY`] − 1 may mean a longer name.
    pub name_len: u16,
    /// Zero.
    pub padding: u32,
    /// Cgroup id: the inode number of its directory.
    pub id: u64,
    /// Cgroup id of its parent.
    pub parent: u64,
    /// Name of the directory (its last path segment).
    pub name: [u8; NAME_CAPACITY],
}

const _: () = assert!(size_of::<CgroupEvent>() == 24 + NAME_CAPACITY);
