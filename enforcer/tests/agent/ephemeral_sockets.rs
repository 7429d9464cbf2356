//! Sockets whose ports the kernel chooses.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    thread,
    time::Duration,
};

use enforcer_core::reserved_ports::PortSet;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, accept_with, bind, connect, getsockname, listen, socket,
    sockopt::set_socket_linger,
};

/// A listener, with a thread that takes and closes what comes. It ends with the process.
fn server(address: IpAddr) -> SocketAddr {
    let listener = socket(family(address), SocketType::STREAM, None).expect("a socket");
    let address = SocketAddr::new(address, 0);
    bind(&listener, &address).expect("a free port");
    listen(&listener, 4096).expect("a listener");
    let address = name(&listener).expect("an address");
    thread::spawn(move || while accept_with(&listener, SocketFlags::CLOEXEC).is_ok() {});
    address
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

fn name(socket: &OwnedFd) -> io::Result<SocketAddr> {
    SocketAddr::try_from(getsockname(socket)?).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Connects: the port that the kernel chose. No port is kept from others once the socket is closed.
fn connected(kind: SocketType, server: SocketAddr) -> io::Result<u16> {
    let socket = socket(family(server.ip()), kind, None)?;
    if kind == SocketType::STREAM {
        set_socket_linger(&socket, Some(Duration::ZERO))?;
    }
    connect(&socket, &server)?;
    Ok(name(&socket)?.port())
}

/// Binds port 0: the port that the kernel chose.
fn bound(kind: SocketType, address: IpAddr) -> io::Result<u16> {
    let socket = socket(family(address), kind, None)?;
    bind(&socket, &SocketAddr::new(address, 0))?;
    Ok(name(&socket)?.port())
}

const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// So many TCP connections, one after the other: their ports.
pub(crate) fn connections(count: u32) -> PortSet {
    let server = server(LOOPBACK[0]);
    (0..count).map(|_| connected(SocketType::STREAM, server).expect("a connection")).collect()
}

/// So many times: `connect` and `bind` to port 0, each for TCP and UDP, in turn for IPv4 and IPv6. The ports, each of
/// which is looked at as it comes.
pub(crate) fn all_ways(rounds: u32, look: impl Fn(u16)) -> PortSet {
    let servers = LOOPBACK.map(server);
    let mut seen = PortSet::default();
    for round in 0..rounds {
        let server = servers[usize::from(round % 2 == 1)];
        for kind in [SocketType::STREAM, SocketType::DGRAM] {
            for port in [connected(kind, server), bound(kind, server.ip())] {
                let port = port.unwrap_or_else(|error| panic!("round {round}: {error}"));
                look(port);
                seen.insert(port);
            }
        }
    }
    seen
}
