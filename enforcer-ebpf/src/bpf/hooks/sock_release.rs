//! `cgroup/sock_release`: what was held is free again.
//!
//! It runs at every close of an inet socket of the subtree (`inet_release` in `net/ipv4/af_inet.c`), so that what concerns
//! none of the programs' sockets goes out early. The port itself is given back by the kernel after this.

use aya_ebpf::{
    EbpfContext as _, helpers::generated::bpf_get_socket_cookie, macros::cgroup_sock, programs::SockContext,
};
use enforcer_ebpf::abi::{Protocol, port_index};

use crate::bpf::{
    context::config::{config, is_node_netns},
    context::socket::Socket,
    emit::send_release,
    holds::table::{forget_parent, forget_socket, mark, marked},
};

const ALLOW: i32 = 1;
/// `IPPROTO_MPTCP` in include/uapi/linux/in.h.
const MPTCP: u32 = 262;
/// `TCP_CLOSE` and `TCP_LISTEN` in `include/net/tcp_states.h`.
const CLOSE: u32 = 7;
const LISTEN: u32 = 10;

#[cgroup_sock(sock_release)]
pub(crate) fn pe_sock_release(ctx: SockContext) -> i32 {
    // SAFETY: reads of the context are rewritten and checked by the verifier.
    let (number, state) = unsafe { ((*ctx.sock).protocol, (*ctx.sock).state) };
    let Some(protocol) = Protocol::from_ipproto(number) else {
        return ALLOW;
    };
    let socket = if number == MPTCP {
        // The subflow was bound, and this is its parent.
        let parent = Socket::of(ctx.sock);
        forget_parent(parent.name());
        parent
    } else {
        forget_socket(ctx.sock)
    };
    let Some(config) = config() else {
        return ALLOW;
    };
    // A connection is no holder, but for one that was bound by name; of those the agent hears by socket diagnostics.
    if protocol == Protocol::Tcp && state != LISTEN && state != CLOSE || !config.policy().report_bound {
        return ALLOW;
    }
    // Only now, since it costs as much as all that was done so far.
    let port = socket.port().unwrap_or(0);
    if port == 0
        || mark(port_index(protocol, port)).is_none_or(|mark| marked(mark) == 0)
        || !is_node_netns(&ctx, config)
    {
        return ALLOW;
    }
    // SAFETY: the helper takes this program type's context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    send_release(protocol, port, if number == MPTCP { socket.name() } else { cookie });
    ALLOW
}
