//! A bind attempt, as the kernel programs report it.

use std::net::{IpAddr, SocketAddr};

use enforcer_ebpf::wire::{Protocol, Reason, VerdictKind};

use crate::model::{
    kernel_ids::{BootNanos, CgroupId, SocketCookie},
    owner::OwnerId,
    port_spec::protocol_name,
};

/// Options by which a socket may share its port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reuse {
    /// The option `SO_REUSEPORT`.
    pub port: bool,
    /// The option `SO_REUSEADDR`.
    pub address: bool,
}

/// One bind attempt with its verdict, as the kernel programs report it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Time of the attempt.
    pub time: BootNanos,
    /// The protocol.
    pub protocol: Protocol,
    /// The address asked for.
    pub address: IpAddr,
    /// The port asked for; 0 asks for any.
    pub port: u16,
    /// The socket is IPv6 only; `None` if that could not be read.
    pub v6only: Option<bool>,
    /// The verdict.
    pub verdict: VerdictKind,
    /// Reason of the verdict.
    pub reason: Reason,
    /// Cgroup of the calling task.
    pub cgroup: CgroupId,
    /// Cgroup of the calling pod, `None` for a host process.
    pub pod_cgroup: Option<CgroupId>,
    /// Cookie of the socket.
    pub socket: SocketCookie,
    /// The calling owner, if the kernel knew it.
    pub caller: Option<OwnerId>,
    /// The owner whose claim decided.
    pub owner: Option<OwnerId>,
    /// Pod or host that holds the port, where the reason is `held`: [`enforcer_ebpf::wire::PortHold::holder`].
    pub holder: Option<u64>,
    /// The port was marked as held by another one: if it is, the kernel refuses the bind.
    pub held: bool,
    /// Options by which the socket may share the port, where they could be read.
    pub reuse: Option<Reuse>,
    /// Process id of the caller in the initial pid namespace.
    pub pid: u32,
    /// User id of the caller in the initial user namespace.
    pub uid: u32,
    /// Command name of the calling task: whatever the process likes, not safe to show.
    pub command: String,
}

/// Returns an address, port and protocol as they are written everywhere: `0.0.0.0:80/tcp`, `[::1]:53/udp`.
#[must_use]
pub fn target(address: IpAddr, port: u16, protocol: Protocol) -> String {
    format!("{}/{}", SocketAddr::new(address, port), protocol_name(protocol))
}
