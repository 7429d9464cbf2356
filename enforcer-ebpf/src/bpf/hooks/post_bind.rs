//! `cgroup/post_bind4` and `cgroup/post_bind6`: the port that a socket was bound to.
//!
//! They run after the kernel took the port (`__inet_bind` in `net/ipv4/af_inet.c`), and see the real port of a bind to
//! port 0. They deny a socket that can share its port if another pod holds it. That works since Linux 5.17; before, the
//! [`bind_tail`](super::bind_tail) does it.

use aya_ebpf::{macros::cgroup_sock, programs::SockContext};
use enforcer_ebpf::{
    decide::Target,
    wire::{Protocol, Undeclared, VerdictKind},
};

use super::answer::{ALLOW, deny_post_bind};
use crate::bpf::{
    constants::POST_BIND_DENIES,
    context::{
        address::{encode_address, v6_target},
        config::VolatileConfig,
        netns::is_in_node_netns,
        socket::Socket,
        task::current_task,
    },
    emit::sockets::{BoundFields, emit_bound},
    holds::{first_binder::SocketBind, port_holders::PortHolderRef},
};

#[cgroup_sock(post_bind4)]
pub(super) fn pe_post_bind4(ctx: SockContext) -> i32 {
    // SAFETY: reads of the context are rewritten and checked by the verifier.
    let address = unsafe { (*ctx.sock).src_ip4 };
    after_bind(&ctx, |_| (Target::V4(address.to_ne_bytes()), 0))
}

#[cgroup_sock(post_bind6)]
pub(super) fn pe_post_bind6(ctx: SockContext) -> i32 {
    let sock = ctx.sock;
    // SAFETY: as above, one 32-bit word at a time.
    let address = unsafe { [(*sock).src_ip6[0], (*sock).src_ip6[1], (*sock).src_ip6[2], (*sock).src_ip6[3]] };
    after_bind(&ctx, |socket| v6_target(address, socket))
}

/// Takes the port where the first binder owns it, notes that it is held, and answers the bind.
#[inline(always)]
fn after_bind(ctx: &SockContext, target: impl FnOnce(Socket) -> (Target, u8)) -> i32 {
    // SAFETY: reads of the context are rewritten and checked by the verifier; post_bind sees the source port as a plain
    // number.
    let (number, port) = unsafe { ((*ctx.sock).protocol, (*ctx.sock).src_port as u16) };
    let Some(protocol) = Protocol::from_ipproto(number) else {
        return ALLOW;
    };
    let Some(config) = VolatileConfig::get() else {
        return ALLOW;
    };
    let socket = Socket::from_pointer(ctx.sock);
    if !is_in_node_netns(ctx, socket, config) {
        return ALLOW;
    }
    let Some(port_holder) = PortHolderRef::find(protocol, port) else {
        // Counted by `bind`, which comes first.
        return ALLOW;
    };
    let is_kernel_socket = socket.is_kernel_socket();
    let mptcp_parent = if is_kernel_socket { socket.mptcp_parent() } else { 0 };
    if mptcp_parent == 0 && is_kernel_socket {
        // The kernel opened it on behalf of whoever called (a tunnel, NFS). It is nobody's, and no hook sees its close.
        return ALLOW;
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
    let policy = config.policy();
    if POST_BIND_DENIES.is_set()
        && matches!(policy.undeclared, Undeclared::Adopt)
        && bind.hold_port(ctx.sock, port_holder, config) == VerdictKind::Deny
    {
        return deny_post_bind(policy.errno);
    }
    // The parent of a subflow is closed in its place, and has another cookie.
    port_holder.set_held(if mptcp_parent == 0 { bind.cookie } else { 0 });
    if policy.report_bound {
        report_bound(&bind);
    }
    ALLOW
}

/// Reports a socket that was bound.
#[inline(always)]
fn report_bound(bind: &SocketBind<'_>) {
    let (family, address) = encode_address(bind.target);
    let fields = BoundFields {
        family,
        protocol: bind.protocol,
        flags: bind.flags,
        port: bind.port,
        socket: bind.cookie,
        release: if bind.mptcp_parent == 0 { bind.cookie } else { bind.mptcp_parent },
        address,
    };
    let task = current_task();
    emit_bound(&fields, task, task.cgroup());
}
