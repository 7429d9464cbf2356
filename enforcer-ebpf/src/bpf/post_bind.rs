//! `cgroup/post_bind4` and `cgroup/post_bind6`: what was really bound.
//!
//! They run only after the kernel took the port (`__inet_bind` in `net/ipv4/af_inet.c`), and see the true port even of a
//! bind to port 0. They never deny: before 5.17 that would leak the port and not even stop the socket.

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie},
    macros::cgroup_sock,
    programs::SockContext,
};
use enforcer_ebpf::{
    abi::{EventKind, FAMILY_V4, FAMILY_V6, Protocol, Reason},
    decide::Verdict,
};

use super::{
    emit::{Facts, send},
    kernel::config,
};

const ALLOW: i32 = 1;

#[cgroup_sock(post_bind4)]
pub(super) fn pe_post_bind4(ctx: SockContext) -> i32 {
    // SAFETY: reads of the context are rewritten and checked by the verifier.
    let address = unsafe { (*ctx.sock).src_ip4 };
    tell(&ctx, FAMILY_V4, [address, 0, 0, 0])
}

#[cgroup_sock(post_bind6)]
pub(super) fn pe_post_bind6(ctx: SockContext) -> i32 {
    let sock = ctx.sock;
    // SAFETY: as above, one 32-bit word at a time.
    let address = unsafe { [(*sock).src_ip6[0], (*sock).src_ip6[1], (*sock).src_ip6[2], (*sock).src_ip6[3]] };
    tell(&ctx, FAMILY_V6, address)
}

#[inline(always)]
fn tell(ctx: &SockContext, family: u8, address: [u32; 4]) -> i32 {
    // SAFETY: reads of the context are rewritten and checked by the verifier.
    let number = unsafe { (*ctx.sock).protocol };
    let Some(protocol) = Protocol::from_ipproto(number) else {
        return ALLOW;
    };
    let Some(config) = config() else {
        return ALLOW;
    };
    if !config.policy().report_bound {
        return ALLOW;
    }
    // SAFETY: the helper takes this program type's context; without one it answers for the initial namespace.
    let (own, initial) = unsafe { (bpf_get_netns_cookie(ctx.as_ptr()), bpf_get_netns_cookie(core::ptr::null_mut())) };
    let node = config.netns_cookie();
    if own != if node == 0 { initial } else { node } {
        return ALLOW;
    }
    send(&Facts {
        kind: EventKind::Bound,
        family,
        protocol,
        flags: 0,
        // SAFETY: as above; post_bind sees the source port as a plain number.
        port: unsafe { (*ctx.sock).src_port } as u16,
        verdict: Verdict::allow(Reason::Unclaimed),
        pod_cgroup: 0,
        // SAFETY: the helper takes this program type's context.
        socket: unsafe { bpf_get_socket_cookie(ctx.as_ptr()) },
        caller: 0,
        owner: 0,
        address,
    });
    ALLOW
}
