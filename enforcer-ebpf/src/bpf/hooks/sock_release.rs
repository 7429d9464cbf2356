//! `cgroup/sock_release`: gives back what a closed socket held.
//!
//! It runs at every close of an inet socket of the subtree (`inet_release` in `net/ipv4/af_inet.c`), so it returns
//! early for a socket that no program noted. The kernel frees the port itself after this.

use aya_ebpf::{macros::cgroup_sock, programs::SockContext};
use enforcer_ebpf::wire::{Protocol, port_index};

use super::answer::ALLOW;
use crate::bpf::{
    constants::SOCK_TYPE,
    context::{config::VolatileConfig, netns::is_in_node_netns, socket::Socket},
    emit::sockets::emit_release,
    holds::{
        port_holders::PortHolderRef,
        socket_holds::{release_address, release_socket},
        sole_hold::give_back_sole_hold,
    },
};

/// include/uapi/linux/in.h.
const IPPROTO_MPTCP: u32 = 262;
/// State of a closed socket, from `include/net/tcp_states.h`.
const TCP_CLOSE: u32 = 7;
/// State of a listening socket, from `include/net/tcp_states.h`.
const TCP_LISTEN: u32 = 10;

#[cgroup_sock(sock_release)]
pub(super) fn pe_sock_release(ctx: SockContext) -> i32 {
    // SAFETY: reads of the context are rewritten and checked by the verifier.
    let (number, state) = unsafe { ((*ctx.sock).protocol, (*ctx.sock).state) };
    let Some(protocol) = Protocol::from_ipproto(number) else {
        return ALLOW;
    };
    let socket = if number == IPPROTO_MPTCP {
        // The subflow was bound, and this is its parent.
        let parent = Socket::from_pointer(ctx.sock);
        release_address(parent.address());
        parent
    } else {
        release_socket(ctx.sock)
    };
    let mut port = 0;
    // Where the socket is read by helpers, no socket takes a sole hold, and the port is read later: that costs as much as
    // everything before it.
    if SOCK_TYPE.is_set() {
        port = socket.local_port().unwrap_or(0);
        if port == 0 {
            return ALLOW;
        }
        give_back_sole_hold(port_index(protocol, port), socket.known_cookie());
    }
    let Some(config) = VolatileConfig::get() else {
        return ALLOW;
    };
    // A connection holds no port, unless a bind named its port. The agent finds those by socket diagnostics.
    if protocol == Protocol::Tcp && state != TCP_LISTEN && state != TCP_CLOSE || !config.policy().report_bound {
        return ALLOW;
    }
    if !SOCK_TYPE.is_set() {
        port = socket.local_port().unwrap_or(0);
    }
    if port == 0 {
        return ALLOW;
    }
    let Some(port_holder) = PortHolderRef::find(protocol, port).filter(|port_holder| port_holder.holder() != 0) else {
        return ALLOW;
    };
    let mut release = socket.address();
    let mut is_noted = false;
    if number != IPPROTO_MPTCP {
        release = socket.cookie(&ctx);
        is_noted = port_holder.clear_held(release);
    }
    // Only sockets in the node's network namespace are noted.
    if !is_noted && !is_in_node_netns(&ctx, socket, config) {
        return ALLOW;
    }
    emit_release(protocol, port, release);
    ALLOW
}
