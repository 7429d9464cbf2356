//! The tail of `cgroup/bind4` and `cgroup/bind6` before Linux 5.17: takes a port that sockets can share before the
//! bind.
//!
//! A `post_bind` program that denies would leak the port there, and not even stop the socket. So the bind programs
//! continue with these by a tail call, after an attempt that the claims allow: their own stack has no space for the
//! work.
//!
//! The price: if the kernel then refuses the bind, the socket keeps what it took until it is closed or binds again.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use enforcer_ebpf::{
    decide::Target,
    wire::{Protocol, Undeclared, VerdictKind},
};

use super::{
    answer::{ALLOW, deny_bind},
    bind::bpf_socket,
};
use crate::bpf::{
    constants::TAKES_BEFORE_BIND,
    context::{address::v6_target, config::VolatileConfig, socket::Socket},
    holds::{
        first_binder::SocketBind,
        port_holders::PortHolderRef,
        socket_holds::{release_address, release_socket},
    },
    maps::{BIND_TAIL4, BIND_TAIL6},
};

/// Continues with the tail of an attempt that the claims allow. Where there is none, answers that the bind goes on.
#[inline(always)]
pub(super) fn allow_by_tail(ctx: &SockAddrContext, is_v6: bool, port: u16, config: &VolatileConfig) -> i32 {
    if TAKES_BEFORE_BIND.is_set() && port != 0 && matches!(config.policy().undeclared, Undeclared::Adopt) {
        let programs = if is_v6 { &BIND_TAIL6 } else { &BIND_TAIL4 };
        // SAFETY: nothing of this program is left to be done. If the array has no program, this one goes on.
        unsafe { programs.tail_call(ctx, 0) };
    }
    ALLOW
}

#[cgroup_sock_addr(bind4)]
pub(super) fn pe_bind_tail4(ctx: SockAddrContext) -> i32 {
    // SAFETY: reads of the context are rewritten and checked by the verifier.
    let address = unsafe { (*ctx.sock_addr).user_ip4 };
    take_before_bind(&ctx, |_| (Target::V4(address.to_ne_bytes()), 0))
}

#[cgroup_sock_addr(bind6)]
pub(super) fn pe_bind_tail6(ctx: SockAddrContext) -> i32 {
    let addr = ctx.sock_addr;
    // SAFETY: as above, one 32-bit word at a time.
    let words = unsafe { [(*addr).user_ip6[0], (*addr).user_ip6[1], (*addr).user_ip6[2], (*addr).user_ip6[3]] };
    take_before_bind(&ctx, |socket| v6_target(words, socket))
}

/// Takes the port for the socket, and answers the bind.
#[inline(always)]
fn take_before_bind(ctx: &SockAddrContext, target: impl FnOnce(Socket) -> (Target, u8)) -> i32 {
    let addr = ctx.sock_addr;
    // SAFETY: reads of the context are rewritten and checked by the verifier.
    let (number, port) = unsafe { ((*addr).protocol, u16::from_be((*addr).user_port as u16)) };
    let (Some(protocol), Some(config)) = (Protocol::from_ipproto(number), VolatileConfig::get()) else {
        return ALLOW;
    };
    let Some(port_holder) = PortHolderRef::find(protocol, port) else {
        // Counted by `bind`, which comes first.
        return ALLOW;
    };
    let pointer = bpf_socket(addr);
    // SAFETY: reads through the context are checked by the verifier. The kernel will refuse the bind of a socket that
    // is bound already, and the socket keeps what it holds.
    if pointer.is_null() || unsafe { (*pointer).src_port } != 0 {
        return ALLOW;
    }
    let socket = Socket::from_pointer(pointer);
    let is_kernel_socket = socket.is_kernel_socket();
    let mptcp_parent = if is_kernel_socket { socket.mptcp_parent() } else { 0 };
    if mptcp_parent == 0 && is_kernel_socket {
        return ALLOW;
    }
    // An earlier bind of this socket may have taken a port, and the kernel refused it.
    if mptcp_parent == 0 {
        release_socket(pointer);
    } else {
        release_address(mptcp_parent);
    }
    let (target, v6only) = target(socket);
    let bind = SocketBind {
        socket,
        mptcp_parent,
        protocol,
        port,
        target: &target,
        flags: v6only | socket.flags().reuse_flags(),
        cookie: socket.cookie(ctx),
    };
    match bind.hold_port(pointer, port_holder, config) {
        VerdictKind::Deny => deny_bind(config.policy().errno),
        VerdictKind::Allow | VerdictKind::Audit => ALLOW,
    }
}
