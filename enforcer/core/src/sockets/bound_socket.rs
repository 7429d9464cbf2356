//! Inputs and rows of the table of bound sockets.

use std::net::IpAddr;

use enforcer_ebpf::wire::{Protocol, UidKey};

use crate::{
    index::Index,
    model::{
        actor::Actor,
        attempt::{Reuse, target},
        kernel_ids::{BootNanos, CgroupId, SocketCookie},
        text::escape,
    },
};

/// State of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activity {
    /// It is bound: a UDP socket that receives from everybody, or a TCP socket that neither listens nor is connected.
    Bound,
    /// It listens.
    Listening,
    /// It is connected, or was.
    Connected,
}

/// Sockets that a dump shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Those that are bound or listen, and all UDP sockets: few.
    Bound,
    /// Connected TCP sockets too: as many as the node has connections.
    Connected,
}

/// A socket as the kernel's diagnostics show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DumpedSocket {
    /// The protocol; MPTCP shows as the TCP subflow it listens on.
    pub protocol: Protocol,
    /// Its own address, canonical.
    pub address: IpAddr,
    /// Its own port, never 0.
    pub port: u16,
    /// Its cookie, never used twice. The subflow's for MPTCP.
    pub cookie: SocketCookie,
    /// The cgroup in which it was made; `None` before 5.8.
    pub cgroup: Option<CgroupId>,
    /// User id of its owner in the agent's user namespace.
    pub uid: u32,
    /// Inode number, as in `/proc/PID/fd` and `/proc/net/tcp`; `None` for MPTCP.
    pub inode: Option<u32>,
    /// Index of the device it is bound to.
    pub device: Option<u32>,
    /// Its state.
    pub activity: Activity,
    /// The socket is IPv6 only; known for IPv6 sockets that are not connected.
    pub v6only: Option<bool>,
}

/// A socket as the kernel programs report it at the moment of its bind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketBinding {
    /// Time of the bind.
    pub time: BootNanos,
    /// The protocol.
    pub protocol: Protocol,
    /// The address taken.
    pub address: IpAddr,
    /// The port taken, never 0.
    pub port: u16,
    /// The socket's cookie; the subflow's for MPTCP, as diagnostics show it.
    pub cookie: SocketCookie,
    /// Id by which [`super::BoundSockets::released`] will name it: the cookie, but for MPTCP the id of the parent socket.
    pub release: u64,
    /// Cgroup of the calling task: who binds is the holder, whoever made the socket.
    pub cgroup: CgroupId,
    /// Process id of the caller in the initial pid namespace.
    pub pid: u32,
    /// User id of the caller in the initial user namespace.
    pub uid: u32,
    /// Command name of the calling task, not safe to show.
    pub command: String,
    /// The socket is IPv6 only, where that could be read.
    pub v6only: Option<bool>,
    /// Its options, where they could be read.
    pub reuse: Option<Reuse>,
}

/// Moment from which on a socket is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BoundSince {
    /// Since this moment.
    Bound(BootNanos),
    /// It was first seen then, and has held for longer.
    Seen(BootNanos),
}

/// The process that called `bind`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id in the initial pid namespace.
    pub pid: u32,
    /// Its command name, not safe to show.
    pub command: String,
}

/// Owner of a cgroup, for counting and comparing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SocketOwner {
    /// A pod.
    Pod(UidKey),
    /// The host, or unknown (before 5.8).
    Host,
    /// It is below the attached root and in no pod.
    Unplaced,
}

/// Owner of a cgroup with its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketPlace {
    /// The owner, for comparing.
    pub party: SocketOwner,
    /// The owner by name.
    pub who: Actor,
    /// The container, safe to show.
    pub container: Option<String>,
}

impl SocketPlace {
    /// A host process.
    pub const HOST: Self = Self { party: SocketOwner::Host, who: Actor::Host, container: None };

    /// Returns the owner of a cgroup, by what the index knows now.
    #[must_use]
    pub fn of(cgroup: CgroupId, index: &Index) -> Self {
        let who = Actor::of_cgroup(cgroup, index);
        let party = match (&who, index.uid_by_cgroup(cgroup)) {
            (_, Some(key)) => SocketOwner::Pod(key),
            (Actor::Host | Actor::HostUnit(_), None) => SocketOwner::Host,
            (_, None) => SocketOwner::Unplaced,
        };
        Self { party, who, container: index.container(cgroup).map(|container| escape(&container)) }
    }
}

/// A socket that is bound, with its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundSocket {
    /// The protocol.
    pub protocol: Protocol,
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// Cookie of the socket.
    pub cookie: SocketCookie,
    /// Cgroup of the process that bound it or, if no event came, in which the socket was made; `None` if unknown.
    pub cgroup: Option<CgroupId>,
    /// Time of the bind.
    pub since: BoundSince,
    /// The process that bound it, if an event came.
    pub process: Option<Process>,
    /// User id.
    pub uid: u32,
    /// Its state; `None` as long as no dump has shown it.
    pub activity: Option<Activity>,
    /// Inode number, where known.
    pub inode: Option<u32>,
    /// Index of the device it is bound to.
    pub device: Option<u32>,
    /// The socket is IPv6 only, where known.
    pub v6only: Option<bool>,
    /// Options by which it may share the port, where known.
    pub reuse: Option<Reuse>,
}

impl BoundSocket {
    /// Returns the address, port and protocol: `0.0.0.0:80/tcp`.
    #[must_use]
    pub fn target(&self) -> String {
        target(self.address, self.port, self.protocol)
    }

    /// Checks whether one packet could be for both. Sockets of different protocols, ports or devices do not overlap.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let same_device = self.device.is_none() || other.device.is_none() || self.device == other.device;
        (self.protocol, self.port) == (other.protocol, other.port)
            && same_device
            && match (self.address, other.address) {
                (IpAddr::V4(_), IpAddr::V6(v6)) => v6.is_unspecified() && other.v6only != Some(true),
                (IpAddr::V6(v6), IpAddr::V4(_)) => v6.is_unspecified() && self.v6only != Some(true),
                (one, other) => one == other || one.is_unspecified() || other.is_unspecified(),
            }
    }
}
