//! Dumps of the kernel's socket diagnostics (`NETLINK_SOCK_DIAG`): every socket of the node's network namespace that
//! holds a port, with its user, address and cgroup.
//!
//! A dump is no snapshot: the kernel walks its tables while sockets come and go, and a socket that changes its table
//! meanwhile (from bound to listening) may be passed over. So a socket is gone only if two dumps miss it;
//! [`enforcer_core::sockets`] keeps that rule.
//!
//! What a kernel shows (tried on 6.18; the rest from its sources, `net/ipv4/inet_diag.c`):
//!
//! | socket | since |
//! | --- | --- |
//! | TCP listening or connected, MPTCP included, as its TCP subflow | always |
//! | UDP, connected or not | always |
//! | the socket's cgroup | 5.8 |
//! | TCP bound, neither listening nor connected | 6.8 |
//!
//! Not asked for: UDP-Lite, which is not judged; and `TIME_WAIT`, which is nobody's.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    ops::ControlFlow,
};

use enforcer_ebpf::wire::Protocol;
use netlink_packet_core::{
    DecodeError, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, Nla as _,
};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, nlas::Nla},
};
use netlink_sys::{Socket as NetlinkSocket, SocketAddr, protocols::NETLINK_SOCK_DIAG};
use rustix::net::{AddressFamily, SocketType, bind, listen, socket, sockopt};

use enforcer_core::{
    model::{
        kernel_ids::{CgroupId, SocketCookie},
        port_spec::protocol_name,
    },
    sockets::{Activity, DumpedSocket, Scope},
};

/// The kernel fills at most 32 KiB at a time (`netlink_dump` in `net/netlink/af_netlink.c`), whatever the number of
/// sockets.
const BUFFER_BYTES: usize = 64 << 10;
/// Attempts of a dump that the kernel reports as interrupted.
const ATTEMPTS: u32 = 5;
/// State in which a TCP socket is shown that is bound, and neither listens nor is connected (`TCP_BOUND_INACTIVE` in
/// `include/net/tcp_states.h`). Older kernels ignore the bit.
const BOUND_INACTIVE: u8 = 13;
/// `TCP_ESTABLISHED`, `TCP_TIME_WAIT`, `TCP_CLOSE`, `TCP_LISTEN`, `TCP_NEW_SYN_RECV`.
const ESTABLISHED: u8 = 1;
const TIME_WAIT: u8 = 6;
const CLOSE: u8 = 7;
const LISTEN: u8 = 10;
const NEW_SYN_RECV: u8 = 12;
/// Types of messages (`inet_diag.h` and `sock_diag.h` in `include/uapi/linux`).
const TCPDIAG_GETSOCK: u16 = 18;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `INET_DIAG_CGROUP_ID` in `include/uapi/linux/inet_diag.h`.
const ATTRIBUTE_CGROUP: u16 = 21;

/// Error of a dump.
#[derive(Debug, thiserror::Error)]
pub enum DiagError {
    /// No diagnostics at all.
    #[error(
        "this kernel has no socket diagnostics ({0}): load the module sock_diag or build with CONFIG_INET_DIAG; without \
         it, sockets that were bound before the agent came are not known"
    )]
    Unsupported(io::Error),
    /// No diagnostics for one protocol.
    #[error(
        "this kernel has no diagnostics of {} sockets: load the module {}; without it, those that were bound before the \
         agent came are not known",
        protocol_name(*.0), module(*.0)
    )]
    NoProtocol(Protocol),
    /// The kernel refused or the connection to it broke.
    #[error("cannot ask the kernel for the {} sockets of this node: {source}", protocol_name(*protocol))]
    Failed {
        /// Protocol of the sockets.
        protocol: Protocol,
        /// Reason.
        source: io::Error,
    },
    /// The kernel's answer is not understood.
    #[error("the kernel's answer about {} sockets is not understood: {source}", protocol_name(*protocol))]
    Answer {
        /// Protocol of the sockets.
        protocol: Protocol,
        /// Fault of the answer.
        source: DecodeError,
    },
    /// It was interrupted each time.
    #[error(
        "the list of {} sockets changed too fast to be read, {ATTEMPTS} times in a row; it is read again next time",
        protocol_name(*.0)
    )]
    Interrupted(Protocol),
}

fn module(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp_diag",
        Protocol::Udp => "udp_diag",
        Protocol::Sctp => "sctp_diag",
    }
}

/// Calls `see` with every socket of one protocol in the scope, and with some maybe more than once. Memory does not grow
/// with their number. The network namespace is the calling thread's.
///
/// # Errors
///
/// If the dump is not complete. The sockets that were shown until then are valid.
pub fn dump(protocol: Protocol, scope: Scope, mut see: impl FnMut(DumpedSocket)) -> Result<(), DiagError> {
    if protocol == Protocol::Tcp {
        // The kernel walks the whole of its tables for each question, however few sockets there are.
        return ask(protocol, &request_for_both(scope), &mut see);
    }
    for family in [libc::AF_INET, libc::AF_INET6] {
        ask(protocol, &request(protocol, family, scope), &mut see)?;
    }
    Ok(())
}

/// Returns whether this kernel shows TCP sockets that are bound and neither listen nor are connected: makes one and looks
/// for it.
///
/// # Errors
///
/// If the socket cannot be made or the kernel cannot be asked.
pub fn shows_bound() -> Result<bool, DiagError> {
    shows(false, |_| true)
}

/// Returns whether this kernel shows the cgroup of a socket: makes one that listens and looks for it.
///
/// # Errors
///
/// As [`shows_bound`].
pub fn shows_cgroup() -> Result<bool, DiagError> {
    shows(true, |socket| socket.cgroup.is_some())
}

/// Returns whether a TCP socket that is bound, or listens, is shown as it should be.
fn shows(listens: bool, is_right: impl Fn(&DumpedSocket) -> bool) -> Result<bool, DiagError> {
    let failed = |source: io::Error| DiagError::Failed { protocol: Protocol::Tcp, source };
    let make = || {
        let probe = socket(AddressFamily::INET, SocketType::STREAM, None)?;
        bind(&probe, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
        if listens {
            listen(&probe, 1)?;
        }
        let cookie = SocketCookie::new(sockopt::socket_cookie(&probe)?);
        Ok::<_, rustix::io::Errno>((probe, cookie))
    };
    let (_probe, cookie) = make().map_err(|error| failed(error.into()))?;
    let mut shown = false;
    let mut see = |socket: DumpedSocket| shown |= socket.cookie == cookie && is_right(&socket);
    ask(Protocol::Tcp, &request(Protocol::Tcp, libc::AF_INET, Scope::Bound), &mut see)?;
    Ok(shown)
}

/// Sends the request for a dump, and calls `see` with each socket of the answer.
fn ask(protocol: Protocol, request: &[u8], see: &mut impl FnMut(DumpedSocket)) -> Result<(), DiagError> {
    let mut buffer = vec![0; BUFFER_BYTES];
    for _ in 0..ATTEMPTS {
        // A connection for each dump: the kernel refuses a second dump while the rest of one that failed was not read.
        let kernel = connect().map_err(DiagError::Unsupported)?;
        kernel.send(request, 0).map_err(|source| DiagError::Failed { protocol, source })?;
        let mut interrupted = false;
        while receive(&kernel, &mut buffer, protocol, &mut interrupted, see)?.is_continue() {}
        if !interrupted {
            return Ok(());
        }
    }
    Err(DiagError::Interrupted(protocol))
}

fn connect() -> io::Result<NetlinkSocket> {
    let mut kernel = NetlinkSocket::new(NETLINK_SOCK_DIAG)?;
    kernel.bind_auto()?;
    kernel.connect(&SocketAddr::new(0, 0))?;
    Ok(kernel)
}

fn request(protocol: Protocol, family: i32, scope: Scope) -> Vec<u8> {
    let number = match protocol {
        Protocol::Tcp => libc::IPPROTO_TCP,
        Protocol::Udp => libc::IPPROTO_UDP,
        Protocol::Sctp => libc::IPPROTO_SCTP,
    };
    let narrow = |number: i32| u8::try_from(number).unwrap_or_default();
    let request = InetRequest {
        family: narrow(family),
        protocol: narrow(number),
        extensions: ExtensionFlags::empty(),
        states: StateFlags::from_bits_retain(states(protocol, scope)),
        socket_id: if family == libc::AF_INET { SocketId::new_v4() } else { SocketId::new_v6() },
    };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// Returns the request for TCP sockets of both families, which only the old form can ask for (`inet_diag_dump_compat` in
/// `net/ipv4/inet_diag.c`): `struct inet_diag_req` in `include/uapi/linux/inet_diag.h`.
fn request_for_both(scope: Scope) -> Vec<u8> {
    const HEADER: usize = 16;
    const STATES: usize = HEADER + 52;
    const LENGTH: usize = HEADER + 60;
    let mut bytes = vec![0; LENGTH];
    let mut header = NetlinkBuffer::new(&mut bytes);
    header.set_length(u32::try_from(LENGTH).unwrap_or_default());
    header.set_message_type(TCPDIAG_GETSOCK);
    header.set_flags(NLM_F_REQUEST | NLM_F_DUMP);
    bytes[STATES..STATES + 4].copy_from_slice(&states(Protocol::Tcp, scope).to_ne_bytes());
    bytes
}

/// Reads one datagram. Breaks after the last one of the dump.
fn receive(
    kernel: &NetlinkSocket,
    buffer: &mut [u8],
    protocol: Protocol,
    interrupted: &mut bool,
    see: &mut impl FnMut(DumpedSocket),
) -> Result<ControlFlow<()>, DiagError> {
    let failed = |source| DiagError::Failed { protocol, source };
    let misunderstood = |source| DiagError::Answer { protocol, source };
    let length = loop {
        match kernel.recv(&mut &mut *buffer, 0) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => break result.map_err(failed)?,
        }
    };
    let mut rest = &mut buffer[..length];
    while !rest.is_empty() {
        if let Ok(mut header) = NetlinkBuffer::new_checked(&mut *rest)
            && header.message_type() == TCPDIAG_GETSOCK
        {
            // Answers to the old request have the old type, and are otherwise the same.
            header.set_message_type(SOCK_DIAG_BY_FAMILY);
        }
        let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(misunderstood)?;
        // The next message begins at a multiple of four (NLMSG_ALIGN in include/uapi/linux/netlink.h).
        let taken = usize::try_from(message.header.length).unwrap_or(usize::MAX).next_multiple_of(4);
        rest = rest.get_mut(taken..).unwrap_or_default();
        *interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
        match message.payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                if let Some(socket) = dumped_socket(protocol, &response) {
                    see(socket);
                }
            }
            NetlinkPayload::Done(done) if done.code < 0 => {
                return Err(refused(protocol, io::Error::from_raw_os_error(-done.code)));
            }
            NetlinkPayload::Done(_) => return Ok(ControlFlow::Break(())),
            NetlinkPayload::Error(error) => return Err(refused(protocol, error.to_io())),
            NetlinkPayload::Overrun(_) => return Err(failed(io::Error::from_raw_os_error(libc::ENOBUFS))),
            _ => {}
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// Returns the bits of the states to ask for.
fn states(protocol: Protocol, scope: Scope) -> u32 {
    let all = !(1u32 << TIME_WAIT | 1 << NEW_SYN_RECV);
    match (protocol, scope) {
        (Protocol::Udp, _) => 1 << ESTABLISHED | 1 << CLOSE,
        (_, Scope::Bound) => 1 << LISTEN | 1 << BOUND_INACTIVE,
        (_, Scope::Connected) => all,
    }
}

fn refused(protocol: Protocol, source: io::Error) -> DiagError {
    // There is no handler for the protocol, and no module to load (`inet_diag_lock_handler` in net/ipv4/inet_diag.c);
    // or for no protocol at all, which the old request gets another answer for (`sock_diag_rcv_msg` in
    // net/core/sock_diag.c).
    if matches!(source.raw_os_error(), Some(libc::ENOENT | libc::EOPNOTSUPP)) {
        DiagError::NoProtocol(protocol)
    } else {
        DiagError::Failed { protocol, source }
    }
}

/// Reads one socket of an answer; `None` if it holds no port.
fn dumped_socket(protocol: Protocol, response: &InetResponse) -> Option<DumpedSocket> {
    let header = &response.header;
    let port = header.socket_id.source_port;
    if port == 0 {
        return None;
    }
    let (mut cgroup, mut v6only) = (None, None);
    for attribute in &response.nlas {
        match attribute {
            Nla::SkV6Only(flag) => v6only = Some(*flag),
            Nla::Other(other) if other.kind() == ATTRIBUTE_CGROUP => {
                let mut value = [0; size_of::<u64>()];
                if other.value_len() == value.len() {
                    other.emit_value(&mut value);
                    cgroup = Some(CgroupId::new(u64::from_ne_bytes(value)));
                }
            }
            _ => {}
        }
    }
    Some(DumpedSocket {
        protocol,
        // An IPv4 address on an IPv6 socket is an IPv4 address.
        address: header.socket_id.source_address.to_canonical(),
        port,
        cookie: cookie(header.socket_id.cookie),
        cgroup,
        uid: header.uid,
        // 0 where no process's file refers to it (any more), and for MPTCP.
        inode: Some(header.inode).filter(|inode| *inode != 0),
        device: Some(header.socket_id.interface_id).filter(|device| *device != 0),
        activity: match (protocol, header.state) {
            (Protocol::Tcp, LISTEN) => Activity::Listening,
            (Protocol::Tcp, BOUND_INACTIVE | CLOSE) | (_, CLOSE) => Activity::Bound,
            _ => Activity::Connected,
        },
        v6only,
    })
}

/// Joins the halves of a cookie, the lower one first, each in the byte order of the machine (`sock_diag_save_cookie` in
/// `net/core/sock_diag.c`).
fn cookie(bytes: [u8; 8]) -> SocketCookie {
    let value = u64::from_ne_bytes(bytes);
    SocketCookie::new(if cfg!(target_endian = "big") { value.rotate_left(32) } else { value })
}
