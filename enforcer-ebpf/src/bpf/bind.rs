//! `cgroup/bind4` and `cgroup/bind6`: the verdict on an attempt.
//!
//! They run before every check of the kernel's own (`__inet_bind` in `net/ipv4/af_inet.c`), so they see attempts, not
//! results.

use aya_ebpf::{
    EbpfContext as _,
    bindings::bpf_sock_addr,
    helpers::generated::{bpf_get_netns_cookie, bpf_get_retval, bpf_get_socket_cookie, bpf_set_retval},
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use aya_log_ebpf::debug;
use enforcer_ebpf::{
    abi::{
        BIND_FLAG_V6ONLY, BIND_FLAG_V6ONLY_UNKNOWN, EventKind, ExactKey, ExactValue, FAMILY_V4, FAMILY_V6, KernelError,
        Owner, PortWord, Protocol, Reason, Undeclared, VerdictKind, port_index,
    },
    decide::{Candidates, Cover, Kin, Target, Verdict, decide},
};

use super::{
    caller::{self, Identity},
    emit::{Facts, count, count_error, send},
    kernel::{Live, ancestor, config, load, owner, read},
    maps::{EXACT, HAS_SET_RETVAL, PORTS, SOCK_FLAGS_OFFSET},
};

/// The hook's answers. Bit 1 of an allowing answer would lift the need for `CAP_NET_BIND_SERVICE` and stays 0
/// (`BPF_RET_BIND_NO_CAP_NET_BIND_SERVICE` in include/linux/bpf.h).
const ALLOW: i32 = 1;
const DENY: i32 = 0;

/// The greatest error number there is (include/linux/err.h); all lower bits are set, so that it masks one. Linux 7.3
/// refuses a program that could pass a greater one ("should have been in [-4095, 0]").
const MAX_ERRNO: u16 = 4095;

#[cgroup_sock_addr(bind4)]
pub(super) fn pe_bind4(ctx: SockAddrContext) -> i32 {
    // SAFETY: reads of the context are rewritten and checked by the verifier.
    let address = unsafe { (*ctx.sock_addr).user_ip4 };
    // AF_UNSPEC with address 0 comes here too and is bound as 0.0.0.0 (`__inet_bind`), so the family is not looked at.
    judge(&ctx, Some(Target::V4(address.to_ne_bytes())))
}

#[cgroup_sock_addr(bind6)]
pub(super) fn pe_bind6(ctx: SockAddrContext) -> i32 {
    judge(&ctx, None)
}

/// The answer, given the target of a v4 socket; for a v6 socket (`None`) it is read when it is needed.
#[inline(always)]
fn judge(ctx: &SockAddrContext, v4: Option<Target>) -> i32 {
    let addr = ctx.sock_addr;
    // SAFETY: reads of the context are rewritten and checked by the verifier.
    let number = unsafe { (*addr).protocol };
    let Some(protocol) = Protocol::from_ipproto(number) else {
        return ALLOW;
    };
    let Some(config) = config() else {
        count_error(KernelError::MapMiss);
        return ALLOW;
    };
    if !is_node_netns(ctx, config) {
        return ALLOW;
    }
    // SAFETY: as above.
    let port = u16::from_be(unsafe { (*addr).user_port } as u16);
    let Some(word) = PORTS.get_ptr(port_index(protocol, port)) else {
        count_error(KernelError::MapMiss);
        return ALLOW;
    };
    let word = PortWord(load(word.cast()));
    let policy = config.policy();
    if word == PortWord::UNCLAIMED && !policy.report_attempts && (port == 0 || policy.undeclared == Undeclared::Allow) {
        count(&Verdict::allow(Reason::Unclaimed), protocol);
        return ALLOW;
    }

    let (target, flags) = match v4 {
        Some(target) => (target, 0),
        None => v6_target(addr),
    };
    let mut candidates = Candidates::of(word, Cover::of(&target));
    if candidates.exact
        && let Some(slot) = exact_owner(protocol, port, &target)
    {
        candidates.slots[0] = slot;
        candidates.covered = true;
    }
    let [a, b, c, d] = candidates.slots;
    let owners = [owner_or_nobody(a), owner_or_nobody(b), owner_or_nobody(c), owner_or_nobody(d)];

    // The rightful owner is recognised by one helper and one comparison; only others are looked up.
    let identity = match sole_owner(&owners) {
        Some(owner) if is_in_cgroup_of(owner, config) => Identity { kin: Kin::pod(owner), pod_cgroup: owner.cgroup },
        _ => caller::identify(config),
    };
    let verdict = decide(&owners, candidates.covered, &identity.kin, port, &policy, || config.overrule());
    count(&verdict, protocol);
    debug!(ctx, "bind {}/{} -> verdict {} reason {}", port, protocol as u8, verdict.kind as u8, verdict.reason as u8);
    if verdict.kind != VerdictKind::Allow || verdict.reason == Reason::Error || policy.report_attempts {
        report(ctx, protocol, port, &target, flags, &identity, &owners, &verdict);
    }
    if verdict.kind == VerdictKind::Deny { deny(policy.errno) } else { ALLOW }
}

/// Whether the socket is in the node's network namespace. Others are never touched.
#[inline(always)]
fn is_node_netns(ctx: &SockAddrContext, config: &Live) -> bool {
    // SAFETY: the helper takes this program type's context.
    let cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    let node = config.netns_cookie();
    if node != 0 {
        return cookie == node;
    }
    // SAFETY: without a context the helper answers for the initial network namespace.
    cookie == unsafe { bpf_get_netns_cookie(core::ptr::null_mut()) }
}

/// The target of an IPv6 bind.
#[inline(always)]
fn v6_target(addr: *mut bpf_sock_addr) -> (Target, u8) {
    // SAFETY: reads of the context are rewritten and checked by the verifier, one 32-bit word at a time.
    let words = unsafe { [(*addr).user_ip6[0], (*addr).user_ip6[1], (*addr).user_ip6[2], (*addr).user_ip6[3]] };
    if words[0] == 0 && words[1] == 0 && words[2] == 0xffff_u32.to_be() {
        // `::ffff:a.b.c.d` binds the IPv4 address.
        return (Target::V4(words[3].to_ne_bytes()), 0);
    }
    let [a, b, c, d] = words;
    let low = u64::from(a) | u64::from(b) << 32;
    let high = u64::from(c) | u64::from(d) << 32;
    let address = (u128::from(low) | u128::from(high) << 64).to_le_bytes();
    if low != 0 || high != 0 {
        return (Target::V6 { address, v6only: false }, 0);
    }
    match is_v6only(addr) {
        Some(v6only) => (Target::V6 { address, v6only }, if v6only { BIND_FLAG_V6ONLY } else { 0 }),
        None => (Target::V6 { address, v6only: false }, BIND_FLAG_V6ONLY_UNKNOWN),
    }
}

/// `skc_ipv6only` of the socket, where it can be read.
#[inline(always)]
fn is_v6only(addr: *mut bpf_sock_addr) -> Option<bool> {
    const IPV6ONLY: u8 = 1 << 5;
    let offset = SOCK_FLAGS_OFFSET.load();
    if offset == 0 {
        return None;
    }
    // SAFETY: a read of the context, as above.
    let sock = unsafe { (*addr).__bindgen_anon_1.sk };
    // The verifier forbids arithmetic on a socket pointer, so the pointer's value is read back from the stack as a
    // plain number ("pointer arithmetic on sock prohibited", adjust_ptr_min_max_vals in kernel/bpf/verifier.c).
    let slot = [sock as u64];
    let sock: u64 = read(slot.as_ptr() as u64)?;
    let byte: u8 = read(sock + u64::from(offset))?;
    Some(byte & IPV6ONLY != 0)
}

/// The owner of the very address, on a port with address-specific claims.
#[inline(always)]
fn exact_owner(protocol: Protocol, port: u16, target: &Target) -> Option<u16> {
    let key = match target {
        Target::V4(address) => ExactKey::v4(protocol, port, *address),
        Target::V6 { address, .. } => ExactKey::v6(protocol, port, *address),
    };
    let value = EXACT.get_ptr(key)?;
    ExactValue(load(value)).slot(&key)
}

#[inline(always)]
fn owner_or_nobody(slot: u16) -> Owner {
    // Slot 0 holds zeros: nobody. It is read like any other, which is cheap and leaves the verifier one case less.
    owner(slot).unwrap_or_default()
}

/// The one owner of all candidates, if there is just one.
#[inline(always)]
fn sole_owner(owners: &[Owner; 4]) -> Option<&Owner> {
    let [a, b, c, d] = owners;
    let same = |one: &Owner, other: &Owner| other.id() == 0 || other.id() == one.id();
    if a.id() != 0 {
        (same(a, b) && same(a, c) && same(a, d)).then_some(a)
    } else {
        (b.id() == 0 && c.id() != 0 && same(c, d)).then_some(c)
    }
}

/// Whether the calling task is in this owner's pod cgroup. That cgroup is the outermost one of its path, since the
/// agent and `cgroup_mkdir` note no other.
#[inline(always)]
fn is_in_cgroup_of(owner: &Owner, config: &Live) -> bool {
    owner.level != 0 && ancestor(caller::root_level(config) + owner.level) == owner.cgroup
}

#[inline(always)]
fn deny(errno: u16) -> i32 {
    // An earlier program of the hierarchy may have denied already, with an error number of its own: that one stands.
    // SAFETY: neither helper has a precondition; where they are missing the verifier never sees them.
    if HAS_SET_RETVAL.load() != 0 && unsafe { bpf_get_retval() } == 0 {
        // SAFETY: as above.
        unsafe { bpf_set_retval(-i32::from(errno & MAX_ERRNO)) };
    }
    DENY
}

#[expect(clippy::too_many_arguments, reason = "always inlined, and each is a fact of the record")]
#[inline(always)]
fn report(
    ctx: &SockAddrContext,
    protocol: Protocol,
    port: u16,
    target: &Target,
    flags: u8,
    identity: &Identity,
    owners: &[Owner; 4],
    verdict: &Verdict,
) {
    let owner = match verdict.by {
        0 => owners[0].id(),
        1 => owners[1].id(),
        2 => owners[2].id(),
        3 => owners[3].id(),
        _ => 0,
    };
    let (family, address) = match target {
        Target::V4(address) => (FAMILY_V4, [u32::from_ne_bytes(*address), 0, 0, 0]),
        Target::V6 { address, .. } => (FAMILY_V6, words(address)),
    };
    send(&Facts {
        kind: EventKind::Attempt,
        family,
        protocol,
        flags,
        port,
        verdict: *verdict,
        pod_cgroup: identity.pod_cgroup,
        // SAFETY: the helper takes this program type's context.
        socket: unsafe { bpf_get_socket_cookie(ctx.as_ptr()) },
        caller: identity.kin.id,
        owner,
        address,
    });
}

#[inline(always)]
fn words(address: &[u8; 16]) -> [u32; 4] {
    let number = u128::from_le_bytes(*address);
    [number, number >> 32, number >> 64, number >> 96].map(|word| (word as u32).to_le())
}
