//! Before 5.17 a port that could be shared is taken before it is bound: a `post_bind` that denies would leak the port and not
//! even stop the socket. `bind4` and `bind6` go on here by a tail call, with an attempt that claims let pass.
//!
//! The price: a bind that the kernel then refuses keeps what it took until its socket is closed, or binds again.

use aya_ebpf::{
    EbpfContext as _, helpers::generated::bpf_get_socket_cookie, macros::cgroup_sock_addr, programs::SockAddrContext,
};
use enforcer_ebpf::{
    abi::{Protocol, VerdictKind, port_index},
    decide::Target,
};

use crate::bpf::{
    context::config::config,
    context::socket::Socket,
    holds::first_binder::Candidate,
    holds::table::{forget_parent, forget_socket, mark},
    hooks::bind::{ALLOW, deny, socket, v6_target},
};

#[cgroup_sock_addr(bind4)]
pub(crate) fn pe_reserve4(ctx: SockAddrContext) -> i32 {
    // SAFETY: reads of the context are rewritten and checked by the verifier.
    let address = unsafe { (*ctx.sock_addr).user_ip4 };
    reserve(&ctx, |_| (Target::V4(address.to_ne_bytes()), 0))
}

#[cgroup_sock_addr(bind6)]
pub(crate) fn pe_reserve6(ctx: SockAddrContext) -> i32 {
    let addr = ctx.sock_addr;
    // SAFETY: as above, one 32-bit word at a time.
    let words = unsafe { [(*addr).user_ip6[0], (*addr).user_ip6[1], (*addr).user_ip6[2], (*addr).user_ip6[3]] };
    reserve(&ctx, |socket| v6_target(words, socket))
}

#[inline(always)]
fn reserve(ctx: &SockAddrContext, target: impl FnOnce(Socket) -> (Target, u8)) -> i32 {
    let addr = ctx.sock_addr;
    // SAFETY: reads of the context are rewritten and checked by the verifier.
    let (number, port) = unsafe { ((*addr).protocol, u16::from_be((*addr).user_port as u16)) };
    let (Some(protocol), Some(config)) = (Protocol::from_ipproto(number), config()) else {
        return ALLOW;
    };
    let Some(mark) = mark(port_index(protocol, port)) else {
        return ALLOW;
    };
    let pointer = socket(addr);
    // SAFETY: reads through the context are checked by the verifier. A socket that is bound will be refused, and what it
    // holds it holds.
    if pointer.is_null() || unsafe { (*pointer).src_port } != 0 {
        return ALLOW;
    }
    let socket = Socket::of(pointer);
    let is_kernels = socket.is_kernels();
    let parent = if is_kernels { socket.parent() } else { 0 };
    if parent == 0 && is_kernels {
        return ALLOW;
    }
    // What an earlier bind of this socket took, which the kernel refused.
    if parent == 0 {
        forget_socket(pointer);
    } else {
        forget_parent(parent);
    }
    let (target, v6only) = target(socket);
    let candidate = Candidate {
        socket,
        parent,
        protocol,
        port,
        target: &target,
        flags: v6only | socket.flags().reuse_bits(),
        // SAFETY: the helper takes this program type's context.
        cookie: unsafe { bpf_get_socket_cookie(ctx.as_ptr()) },
    };
    match candidate.own(pointer, mark, config) {
        VerdictKind::Deny => deny(config.policy().errno),
        VerdictKind::Allow | VerdictKind::Audit => ALLOW,
    }
}
