//! `cgroup/bind4` and `cgroup/bind6`: the verdict on an attempt.
//!
//! They run before every check of the kernel's own (`__inet_bind` in `net/ipv4/af_inet.c`), so they see attempts, not
//! results.

use core::mem::transmute;

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_addr},
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use aya_log_ebpf::debug;
use enforcer_ebpf::{
    decide::{CallerIdentity, Candidates, Cover, Target, Verdict, decide},
    verifier::{hide_bool_from_verifier, hide_from_verifier},
    wire::{
        BIND_FLAG_HELD, KernelError, Owner, Policy, PortWord, Protocol, Reason, Undeclared, VerdictKind, port_index,
    },
};

use super::{
    answer::{ALLOW, deny_bind},
    bind_tail::allow_by_tail,
};
use crate::bpf::{
    constants::{POST_BIND_DENIES, SOCK_TYPE},
    context::{
        address::{encode_address, v6_target},
        caller::{Ancestor, CallerContext, identify, is_in_pod_of},
        config::VolatileConfig,
        netns::is_in_node_netns,
        owners::{address_owner, nobody, owner_or_nobody},
        read::load_word,
        socket::Socket,
    },
    counters::{count, count_error, count_unreported},
    emit::attempts::{BindFields, emit_attempt_on_held_port, emit_verdict, verdict_ring_has_space},
    holds::{first_binder::could_share_with, port_holders::PortHolderRef},
    maps::PORTS,
};

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

/// Judges an attempt and answers it. `v4` is the target of an IPv4 socket; that of an IPv6 socket (`None`) is read when
/// it is needed.
#[inline(always)]
fn judge(ctx: &SockAddrContext, v4: Option<Target>) -> i32 {
    let addr = ctx.sock_addr;
    let is_v6 = v4.is_none();
    // SAFETY: reads of the context are rewritten and checked by the verifier.
    let number = unsafe { (*addr).protocol };
    let Some(protocol) = Protocol::from_ipproto(number) else {
        return ALLOW;
    };
    let Some(config) = VolatileConfig::get() else {
        count_error(KernelError::MapMiss);
        return ALLOW;
    };
    if !is_in_node_netns(ctx, Socket::from_pointer(bpf_socket(addr)), config) {
        return ALLOW;
    }
    // SAFETY: as above.
    let port = u16::from_be(unsafe { (*addr).user_port } as u16);
    let Some((claims, port_holder)) = port_elements(protocol, port) else {
        count_error(KernelError::MapMiss);
        return ALLOW;
    };
    let policy = config.policy_word();
    let is_short = policy & (Policy::REPORTS_ATTEMPTS | Policy::DENIES_UNDECLARED) == 0;
    if claims == PortWord::UNCLAIMED && is_short && (port == 0 || !port_holder.is_held_by_other(config)) {
        let verdict = Verdict::allow(Reason::Unclaimed);
        count(&verdict, protocol);
        if port != 0 {
            port_holder.set_last_attempt(&verdict, cookie_to_know_again(ctx, protocol, config));
        }
        return allow_by_tail(ctx, is_v6, port, config);
    }

    // Most claims are on all addresses, and most binds of a claimed port are by its owner: they need no further
    // look-up.
    let sole = claims.sole();
    let mut is_sole_owner = false;
    let mut tried = Ancestor::NONE;
    if sole != 0 {
        let owner = owner_or_nobody(sole);
        tried = Ancestor::at(owner.level, config);
        is_sole_owner = hide_bool_from_verifier(tried.id != 0 && tried.id == owner.cgroup);
        let held_by = port_holder.holder();
        if is_sole_owner
            && port != 0
            && (held_by == 0 || held_by == owner.cgroup)
            && policy & Policy::REPORTS_ATTEMPTS == 0
        {
            count(&Verdict::OWNER, protocol);
            port_holder.set_last_attempt(&Verdict::OWNER, cookie_to_know_again(ctx, protocol, config));
            return allow_by_tail(ctx, is_v6, port, config);
        }
    }

    let policy = Policy::from_word(policy);
    let (owners, covered) = if sole != 0 {
        let nobody = nobody();
        ([owner_or_nobody(sole), nobody, nobody, nobody], true)
    } else {
        let (target, _) = target_of(ctx, v4);
        let mut candidates = Candidates::of(claims, Cover::of(&target));
        if candidates.exact
            && let Some(slot) = address_owner(protocol, port, &target)
        {
            candidates.slots[0] = slot;
            candidates.covered = true;
        }
        let [a, b, c, d] = candidates.slots;
        ([owner_or_nobody(a), owner_or_nobody(b), owner_or_nobody(c), owner_or_nobody(d)], candidates.covered)
    };

    // One helper call and one comparison recognise the rightful owner; only other callers are looked up.
    let caller = match sole_owner(&owners) {
        Some(owner) if is_sole_owner || sole == 0 && is_in_pod_of(owner, config) => {
            CallerContext { identity: CallerIdentity::pod(owner), pod_cgroup: owner.cgroup }
        }
        _ => identify(config, tried),
    };
    let verdict = decide(&owners, covered, &caller.identity, port, &policy, || config.mode_override());
    let verdict = hide_verdict(verdict);
    let is_reported = hide_bool_from_verifier(
        verdict.kind != VerdictKind::Allow || verdict.reason == Reason::Error || policy.report_attempts,
    );
    let is_lost = is_reported && !verdict_ring_has_space(caller.pod_cgroup);
    if is_lost {
        count_unreported(&verdict, protocol);
    } else {
        count(&verdict, protocol);
    }
    // No more than these: each number takes space on the stack, of which the trace's own function needs some too. The
    // target is the crate, which the agent's log filter knows. The trace copies it byte by byte, with the paths of this
    // module and file: each byte costs the verifier steps.
    debug!(ctx, target: env!("CARGO_CRATE_NAME"), "bind {}/{}", port, protocol as u8);
    // A denied attempt does not ask for the port. If it is not reported either, nobody needs to know who holds the
    // port.
    let skips_holder = is_lost && verdict.kind == VerdictKind::Deny;
    let mut is_held_by_other = false;
    // Looked up again: to keep the pointer takes space on the stack, which is full.
    if port != 0
        && !skips_holder
        && let Some(port_holder) = PortHolderRef::find(protocol, port)
    {
        if verdict.kind != VerdictKind::Deny {
            port_holder.set_last_attempt(&verdict, cookie_to_know_again(ctx, protocol, config));
        }
        let held_by = port_holder.holder();
        is_held_by_other = hide_bool_from_verifier(held_by != 0 && held_by != caller.pod_cgroup);
    }
    let is_emitted = if is_reported { !is_lost } else { is_held_by_other };
    if is_emitted {
        // Read again: to keep the address takes space on the stack, which is full.
        let (target, flags) = target_of(ctx, v4);
        let flags = flags | if is_held_by_other { BIND_FLAG_HELD } else { 0 };
        report(ctx, protocol, port, &target, flags, &caller, &owners, &verdict, is_reported);
    }
    if verdict.kind == VerdictKind::Deny { deny_bind(policy.errno) } else { allow_by_tail(ctx, is_v6, port, config) }
}

/// Returns the target of an attempt with `BIND_FLAG_V6ONLY*`; `v4` is that of an IPv4 socket.
#[inline(always)]
fn target_of(ctx: &SockAddrContext, v4: Option<Target>) -> (Target, u8) {
    if let Some(target) = v4 {
        return (target, 0);
    }
    let addr = ctx.sock_addr;
    // SAFETY: reads of the context are rewritten and checked by the verifier, one 32-bit word at a time.
    let words = unsafe { [(*addr).user_ip6[0], (*addr).user_ip6[1], (*addr).user_ip6[2], (*addr).user_ip6[3]] };
    v6_target(words, Socket::from_pointer(bpf_socket(addr)))
}

/// Returns the cookie of a socket that could share the port, and whose post-bind hook is to know that its bind named the
/// port; else 0. Where the socket is read by helpers, that would cost more than it saves.
#[inline(always)]
fn cookie_to_know_again(ctx: &SockAddrContext, protocol: Protocol, config: &VolatileConfig) -> u64 {
    // Asked for again: to keep the pointer takes space on the stack, which is full.
    let socket = Socket::from_pointer(bpf_socket(ctx.sock_addr));
    let is_asked_for = SOCK_TYPE.is_set()
        && POST_BIND_DENIES.is_set()
        && could_share_with(protocol, socket.flags().reuse_flags())
        && matches!(config.policy().undeclared, Undeclared::Adopt);
    if is_asked_for { socket.cookie(ctx) } else { 0 }
}

/// Reads the claims on a port, and finds who holds it. Returns `None` for a port without an element, as those of a
/// protocol that the hooks do not see.
#[inline(always)]
fn port_elements(protocol: Protocol, port: u16) -> Option<(PortWord, PortHolderRef)> {
    let claims = PORTS.get_ptr(port_index(protocol, port))?;
    let claims = PortWord(load_word(claims.cast()));
    Some((claims, PortHolderRef::find(protocol, port)?))
}

/// Returns the same verdict, about whose kind and reason the verifier knows nothing: each pair of them would split all
/// that follows.
#[inline(always)]
fn hide_verdict(verdict: Verdict) -> Verdict {
    let kind = hide_from_verifier(verdict.kind as u32) as u8;
    let reason = hide_from_verifier(verdict.reason as u32) as u8;
    // SAFETY: the numbers are the same, and so they are discriminants.
    let (kind, reason) = unsafe { (transmute::<u8, VerdictKind>(kind), transmute::<u8, Reason>(reason)) };
    Verdict { kind, reason, by: verdict.by }
}

/// Returns the socket of a bind.
#[inline(always)]
pub(super) fn bpf_socket(addr: *mut bpf_sock_addr) -> *mut bpf_sock {
    // SAFETY: reads of the context are rewritten and checked by the verifier.
    unsafe { (*addr).__bindgen_anon_1.sk }
}

/// Returns the only owner among the candidates, if there is just one.
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

/// Emits the record of an attempt. One that is recorded only because another pod holds the port (`is_reported` is
/// false) goes to the ring of sockets: it is of use only together with what follows there, and takes no space from
/// verdicts.
#[expect(clippy::too_many_arguments, reason = "always inlined, and each is a fact of the record")]
#[inline(always)]
fn report(
    ctx: &SockAddrContext,
    protocol: Protocol,
    port: u16,
    target: &Target,
    flags: u8,
    caller: &CallerContext,
    owners: &[Owner; 4],
    verdict: &Verdict,
    is_reported: bool,
) {
    let owner = match verdict.by {
        0 => owners[0].id(),
        1 => owners[1].id(),
        2 => owners[2].id(),
        3 => owners[3].id(),
        _ => 0,
    };
    let (family, address) = encode_address(target);
    let socket = Socket::from_pointer(bpf_socket(ctx.sock_addr));
    let fields = BindFields {
        family,
        protocol,
        flags: flags | socket.flags().reuse_flags(),
        port,
        verdict: *verdict,
        pod_cgroup: caller.pod_cgroup,
        socket: socket.cookie(ctx),
        holder: 0,
        caller: caller.identity.id,
        owner,
        address,
    };
    if is_reported {
        emit_verdict(&fields);
    } else {
        emit_attempt_on_held_port(&fields);
    }
}
