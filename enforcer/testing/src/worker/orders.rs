//! Orders to a worker, and its answers: one JSON object a line.

use std::{collections::HashMap, net::IpAddr, os::fd::RawFd, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::bind_race::Tally;

/// Way to make a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    Tcp,
    Udp,
    Mptcp,
    UdpLite,
    Ping,
    Raw,
}

/// A bind to try.
#[expect(clippy::struct_excessive_bools, reason = "each is an option of the socket or of the call")]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bind {
    pub kind: Kind,
    /// The socket is IPv6.
    pub v6: bool,
    /// Set or clear `IPV6_V6ONLY`, or leave it.
    pub v6only: Option<bool>,
    pub address: IpAddr,
    pub port: u16,
    /// Pass `AF_UNSPEC` as the address's family.
    pub unspec: bool,
    pub reuse_port: bool,
    pub reuse_addr: bool,
    /// Device to bind to.
    pub device: Option<String>,
    /// Keep the socket open after a success, and listen where that is possible.
    pub keep: bool,
}

impl Bind {
    /// Returns a TCP bind without any option.
    pub fn tcp(address: &str, port: u16) -> Self {
        let address: IpAddr = address.parse().expect("an address");
        Self {
            kind: Kind::Tcp,
            v6: address.is_ipv6(),
            v6only: None,
            address,
            port,
            unspec: false,
            reuse_port: false,
            reuse_addr: false,
            device: None,
            keep: false,
        }
    }

    /// Returns a UDP bind without any option.
    pub fn udp(address: &str, port: u16) -> Self {
        Self { kind: Kind::Udp, ..Self::tcp(address, port) }
    }

    /// Returns the same, and the socket stays open until [`super::Worker::close`].
    pub fn kept(self) -> Self {
        Self { keep: true, ..self }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    Bind(Bind),
    /// Bind so many times, from so many threads, closing every socket; the answer counts the failures by errno.
    Storm {
        bind: Bind,
        times: u32,
        threads: u32,
    },
    /// Bind so many times, from this port on so many ports in turn, closing every socket; the answer counts the
    /// failures by errno.
    Burst {
        bind: Bind,
        ports: u16,
        times: u32,
    },
    /// Make a socket and leave it unbound.
    Open(Bind),
    /// Take a socket from another process, keep it and bind it.
    BindGiven {
        pid: u32,
        descriptor: RawFd,
        bind: Bind,
    },
    /// Bind the same port as another worker in the same moment, so many times; the two meet in the memory behind that
    /// descriptor.
    Race {
        bind: Bind,
        ports: u16,
        rounds: u32,
        place: usize,
        pid: u32,
        descriptor: RawFd,
    },
    /// Fork: the child keeps all sockets open until it is killed. The answer is its process id.
    Fork,
    /// Make and remove a tunnel whose socket the kernel binds to this port.
    Tunnel(u16),
    Close,
    /// Move to a network namespace of its own.
    Unshare,
    /// Move back to the network namespace that it was started in.
    Return,
    /// Move to another cgroup.
    Enter(PathBuf),
    /// Bind by `io_uring`.
    RingBind(Bind, Ring),
    /// Start a process that enters a cgroup, makes a socket, binds it and keeps it until it is killed.
    Live {
        cgroup: PathBuf,
        bind: Bind,
    },
    /// Kill such a process.
    Kill(i32),
    /// Fork and run programs so many times, and bind in each child before it becomes another program, while as many
    /// binds are tried by a thread; the answer counts all of them by errno.
    Forks {
        bind: Bind,
        times: u32,
    },
}

/// The part of `io_uring` that does the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ring {
    /// The thread that asks.
    Inline,
    /// A worker thread of the process's.
    Worker,
    /// The kernel's thread that polls the queue.
    Poller,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    Bound {
        errno: i32,
        port: u16,
    },
    Storm(HashMap<i32, u32>),
    Opened(RawFd),
    Race(Tally),
    Forked(i32),
    Lives {
        errno: i32,
        process: i32,
    },
    /// The kernel has no such thing.
    Unsupported,
    Done,
}
