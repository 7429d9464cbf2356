//! `cgroup/post_bind4` and `cgroup/post_bind6`: what was really bound.
//!
//! They run only after the kernel took the port (`__inet_bind` in `net/ipv4/af_inet.c`), and see the true port even of a
//! bind to port 0. A socket that could share its port is denied here if another one holds it: where that is of use, from
//! 5.17 on. Before, it would leak the port and not even stop the socket, and `bind` does it instead.

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{bpf_get_socket_cookie, bpf_set_retval},
    macros::cgroup_sock,
    programs::SockContext,
};
use enforcer_ebpf::{
    abi::{EventKind, Protocol, Reason, Undeclared, VerdictKind, port_index},
    decide::{Target, Verdict},
};

use crate::bpf::{
    context::config::{MAX_ERRNO, config, is_node_netns},
    context::socket::Socket,
    emit::{Facts, send},
    holds::first_binder::{Candidate, words},
    holds::table::{mark, set_marked},
    hooks::bind::v6_target,
    maps::{HAS_POST_SET_RETVAL, POST_BIND_DENIES},
};

const ALLOW: i32 = 1;
const DENY: i32 = 0;

#[cgroup_sock(post_bind4)]
pub(crate) fn pe_post_bind4(ctx: SockContext) -> i32 {
    // SAFETY: reads of the context are rewritten and checked by the verifier.
    let address = unsafe { (*ctx.sock).src_ip4 };
    after_bind(&ctx, |_| (Target::V4(address.to_ne_bytes()), 0))
}

#[cgroup_sock(post_bind6)]
pub(crate) fn pe_post_bind6(ctx: SockContext) -> i32 {
    let sock = ctx.sock;
    // SAFETY: as above, one 32-bit word at a time.
    let address = unsafe { [(*sock).src_ip6[0], (*sock).src_ip6[1], (*sock).src_ip6[2], (*sock).src_ip6[3]] };
    after_bind(&ctx, |socket| v6_target(address, socket))
}

#[inline(always)]
fn after_bind(ctx: &SockContext, target: impl FnOnce(Socket) -> (Target, u8)) -> i32 {
    // SAFETY: reads of the context are rewritten and checked by the verifier; post_bind sees the source port as a plain
    // number.
    let (number, port) = unsafe { ((*ctx.sock).protocol, (*ctx.sock).src_port as u16) };
    let Some(protocol) = Protocol::from_ipproto(number) else {
        return ALLOW;
    };
    let Some(config) = config() else {
        return ALLOW;
    };
    if !is_node_netns(ctx, config) {
        return ALLOW;
    }
    let Some(mark) = mark(port_index(protocol, port)) else {
        return ALLOW;
    };
    let socket = Socket::of(ctx.sock);
    let is_kernels = socket.is_kernels();
    let parent = if is_kernels { socket.parent() } else { 0 };
    if parent == 0 && is_kernels {
        // Opened by the kernel on behalf of whoever called (a tunnel, NFS): nobody's, and never released.
        return ALLOW;
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
    let policy = config.policy();
    if POST_BIND_DENIES.load() != 0
        && matches!(policy.undeclared, Undeclared::Adopt)
        && candidate.own(ctx.sock, mark, config) == VerdictKind::Deny
    {
        return deny(policy.errno);
    }
    set_marked(mark);
    if policy.report_bound {
        tell(&candidate);
    }
    ALLOW
}

#[inline(always)]
fn tell(candidate: &Candidate<'_>) {
    let (family, address) = words(candidate.target);
    let facts = Facts {
        kind: EventKind::Bound,
        family,
        protocol: candidate.protocol,
        flags: candidate.flags,
        port: candidate.port,
        verdict: Verdict::allow(Reason::Unclaimed),
        pod_cgroup: 0,
        socket: candidate.cookie,
        release: if candidate.parent == 0 { candidate.cookie } else { candidate.parent },
        holder: 0,
        caller: 0,
        owner: 0,
        address,
    };
    send(&facts, true);
}

#[inline(always)]
fn deny(errno: u16) -> i32 {
    if HAS_POST_SET_RETVAL.load() != 0 {
        // SAFETY: the helper has no precondition; where it is missing the verifier never sees it.
        unsafe { bpf_set_retval(-i32::from(errno & MAX_ERRNO)) };
    }
    DENY
}
