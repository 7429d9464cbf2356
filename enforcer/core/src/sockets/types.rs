//! What goes into the table of holders, and comes out of it.

use std::net::IpAddr;

use enforcer_ebpf::wire::{Protocol, UidKey};

use crate::{
    index::Index,
    model::{
        actor::Actor,
        attempt::{Reuse, target},
        text::escape,
    },
};

/// What a socket does with its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activity {
    /// It is bound: a UDP socket that receives from everybody, or a TCP socket that neither listens nor is connected.
    Bound,
    /// It listens.
    Listening,
    /// It is connected, or was.
    Connected,
}

/// Which sockets a dump shows.
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
    pub cookie: u64,
    /// The cgroup in which it was made; `None` before 5.8.
    pub cgroup: Option<u64>,
    /// User id of its owner in the agent's user namespace.
    pub uid: u32,
    /// Inode number, as in `/proc/PID/fd` and `/proc/net/tcp`. Not told for MPTCP.
    pub inode: Option<u32>,
    /// Index of the device it is bound to.
    pub device: Option<u32>,
    /// What it does.
    pub activity: Activity,
    /// Whether it is IPv6 only, where told: on IPv6 sockets that are not connected.
    pub v6only: Option<bool>,
}

/// A socket as the kernel programs tell it, in the moment in which it was bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketBinding {
    /// When: nanoseconds since boot, sleep included.
    pub time: u64,
    /// The protocol.
    pub protocol: Protocol,
    /// The address taken.
    pub address: IpAddr,
    /// The port taken, never 0.
    pub port: u16,
    /// The socket's cookie; the subflow's for MPTCP, as diagnostics show it.
    pub cookie: u64,
    /// By what [`super::Holders::released`] will call it: the cookie, but for MPTCP whatever the programs know the parent
    /// socket by.
    pub release: u64,
    /// Cgroup of the calling task: who binds is the holder, whoever made the socket.
    pub cgroup: u64,
    /// Process id of the caller in the initial pid namespace.
    pub pid: u32,
    /// User id of the caller in the initial user namespace.
    pub uid: u32,
    /// Command name of the calling task, not safe to show.
    pub command: String,
    /// Whether it is IPv6 only, where that could be read.
    pub v6only: Option<bool>,
    /// Its options, where they could be read.
    pub reuse: Option<Reuse>,
}

/// Since when a holder holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BoundSince {
    /// Since this moment: nanoseconds since boot.
    Bound(u64),
    /// It was first seen then, and has held for longer.
    Seen(u64),
}

/// The process that called `bind`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id in the initial pid namespace.
    pub pid: u32,
    /// Its command name, not safe to show.
    pub command: String,
}

/// Whose a cgroup is, for counting and comparing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SocketOwner {
    /// A pod's.
    Pod(UidKey),
    /// The host's, or nobody tells (before 5.8).
    Host,
    /// It is below the attached root and in no pod.
    Unplaced,
}

/// Whose a cgroup is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketPlace {
    /// For comparing.
    pub party: SocketOwner,
    /// By name.
    pub who: Actor,
    /// The container, safe to show.
    pub container: Option<String>,
}

impl SocketPlace {
    /// Of a host process.
    pub const HOST: Self = Self { party: SocketOwner::Host, who: Actor::Host, container: None };

    /// Whose a cgroup is by what the index knows now.
    #[must_use]
    pub fn of(cgroup: u64, index: &Index) -> Self {
        let who = Actor::of_cgroup(cgroup, index);
        let party = match (&who, index.uid_by_cgroup(cgroup)) {
            (_, Some(key)) => SocketOwner::Pod(key),
            (Actor::Host, None) => SocketOwner::Host,
            (_, None) => SocketOwner::Unplaced,
        };
        Self { party, who, container: index.container(cgroup).map(|container| escape(&container)) }
    }
}

/// Who has a socket bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundSocket {
    /// The protocol.
    pub protocol: Protocol,
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// Cookie of the socket.
    pub cookie: u64,
    /// Cgroup of the process that bound it or, where nobody told, in which the socket was made; 0 if unknown.
    pub cgroup: u64,
    /// Since when.
    pub since: BoundSince,
    /// Who bound it, where that was told.
    pub process: Option<Process>,
    /// User id.
    pub uid: u32,
    /// What it does; `None` as long as diagnostics have not shown it.
    pub activity: Option<Activity>,
    /// Inode number, where known.
    pub inode: Option<u32>,
    /// Index of the device it is bound to.
    pub device: Option<u32>,
    /// Whether it is IPv6 only, where known.
    pub v6only: Option<bool>,
    /// By which options it may share the port, where known.
    pub reuse: Option<Reuse>,
}

impl BoundSocket {
    /// `0.0.0.0:80/tcp`.
    #[must_use]
    pub fn target(&self) -> String {
        target(self.address, self.port, self.protocol)
    }

    /// Whether both could be meant by one packet. Different protocols, ports or devices do not meet.
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
