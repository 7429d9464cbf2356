//! `cgroup/bind4` and `cgroup/bind6`: the verdict on an attempt.
//!
//! They run before every check of the kernel's own (`__inet_bind` in `net/ipv4/af_inet.c`), so they see attempts, not
//! results.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{bpf_sock, bpf_sock_addr},
    helpers::generated::{bpf_get_retval, bpf_get_socket_cookie, bpf_set_retval},
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use aya_log_ebpf::debug;
use enforcer_ebpf::{
    abi::{
        BIND_FLAG_HELD, BIND_FLAG_V6ONLY, BIND_FLAG_V6ONLY_UNKNOWN, EventKind, ExactKey, ExactValue, KernelError,
        Owner, PortWord, Protocol, Reason, Undeclared, VerdictKind, port_index,
    },
    decide::{Candidates, Cover, Kin, Target, Verdict, decide},
    verifier::hide_bool_from_verifier,
};

use crate::bpf::{
    context::caller::{self, Ancestor, Identity},
    context::config::{Live, MAX_ERRNO, config, is_node_netns, load, owner},
    context::socket::Socket,
    emit::{Facts, count, count_error, count_untold, has_room, send},
    holds::first_binder::words,
    holds::table::{mark, marked, set_asked},
    maps::{EXACT, HAS_SET_RETVAL, PORTS, RESERVE4, RESERVE6, RESERVES},
};

/// The hook's answers. Bit 1 of an allowing answer would lift the need for `CAP_NET_BIND_SERVICE` and stays 0
/// (`BPF_RET_BIND_NO_CAP_NET_BIND_SERVICE` in include/linux/bpf.h).
pub(crate) const ALLOW: i32 = 1;
const DENY: i32 = 0;

#[cgroup_sock_addr(bind4)]
pub(crate) fn pe_bind4(ctx: SockAddrContext) -> i32 {
    // SAFETY: reads of the context are rewritten and checked by the verifier.
    let address = unsafe { (*ctx.sock_addr).user_ip4 };
    // AF_UNSPEC with address 0 comes here too and is bound as 0.0.0.0 (`__inet_bind`), so the family is not looked at.
    judge(&ctx, Some(Target::V4(address.to_ne_bytes())))
}

#[cgroup_sock_addr(bind6)]
pub(crate) fn pe_bind6(ctx: SockAddrContext) -> i32 {
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
    let Some(mark) = mark(port_index(protocol, port)) else {
        return ALLOW;
    };
    let may_bind = port == 0 || marked(mark) == 0 && !matches!(policy.undeclared, Undeclared::Deny);
    if word == PortWord::UNCLAIMED && may_bind && !policy.report_attempts {
        let verdict = Verdict::allow(Reason::Unclaimed);
        count(&verdict, protocol);
        if port != 0 {
            set_asked(mark, &verdict);
        }
        return pass(ctx, v4.is_none(), port, config);
    }

    let is_v6 = v4.is_none();
    // Most claims are on every address, and most binds of a claimed port are its owner's: no need to look further.
    let sole = word.sole();
    let mut is_sole_owner = false;
    let mut known = Ancestor::NONE;
    if sole != 0 {
        let owner = owner_or_nobody(sole);
        known = Ancestor::at(owner.level, config);
        is_sole_owner = hide_bool_from_verifier(known.id != 0 && known.id == owner.cgroup);
        let holder = marked(mark);
        if is_sole_owner && port != 0 && (holder == 0 || holder == owner.cgroup) && !policy.report_attempts {
            count(&Verdict::OWNER, protocol);
            set_asked(mark, &Verdict::OWNER);
            return pass(ctx, is_v6, port, config);
        }
    }

    let (target, flags) = if let Some(target) = v4 {
        (target, 0)
    } else {
        // SAFETY: reads of the context, as above, one 32-bit word at a time.
        let words = unsafe { [(*addr).user_ip6[0], (*addr).user_ip6[1], (*addr).user_ip6[2], (*addr).user_ip6[3]] };
        v6_target(words, Socket::of(socket(addr)))
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
        Some(owner) if is_sole_owner || sole == 0 && is_in_cgroup_of(owner, config) => {
            Identity { kin: Kin::pod(owner), pod_cgroup: owner.cgroup }
        }
        _ => caller::identify(config, known),
    };
    let verdict = decide(&owners, candidates.covered, &identity.kin, port, &policy, || config.overrule());
    let tell = hide_bool_from_verifier(
        verdict.kind != VerdictKind::Allow || verdict.reason == Reason::Error || policy.report_attempts,
    );
    let is_lost = tell && !has_room();
    if is_lost {
        count_untold(&verdict, protocol);
    } else {
        count(&verdict, protocol);
    }
    debug!(ctx, target: env!("CARGO_CRATE_NAME"), "bind {}/{}", port, protocol as u8);
    // What is denied asks for nothing, and where it is not told either, nobody wants to know who holds the port.
    let is_over = is_lost && verdict.kind == VerdictKind::Deny;
    let held = port != 0 && !is_over && is_held_by_another(&verdict, protocol, port, &identity);
    let goes_out = if tell { !is_lost } else { held };
    if goes_out {
        let flags = flags | if held { BIND_FLAG_HELD } else { 0 };
        report(ctx, protocol, port, &target, flags, &identity, &owners, &verdict, tell);
    }
    if verdict.kind == VerdictKind::Deny { deny(policy.errno) } else { pass(ctx, is_v6, port, config) }
}

/// Notes that an attempt asks for the port, if it is not denied, and says whether the port is marked as held by another one.
/// The mark is looked up anew: to keep it would take room on a stack that has none.
#[inline(always)]
fn is_held_by_another(verdict: &Verdict, protocol: Protocol, port: u16, identity: &Identity) -> bool {
    let Some(mark) = mark(port_index(protocol, port)) else {
        return false;
    };
    if verdict.kind != VerdictKind::Deny {
        set_asked(mark, verdict);
    }
    let holder = marked(mark);
    hide_bool_from_verifier(holder != 0 && holder != identity.pod_cgroup)
}

/// The answer to an attempt that claims let pass. Where a port that could be shared is taken before it is bound, a program
/// of its own has the last word: there is no room for it on this one's stack.
#[inline(always)]
fn pass(ctx: &SockAddrContext, is_v6: bool, port: u16, config: &Live) -> i32 {
    if RESERVES.load() != 0 && port != 0 && matches!(config.policy().undeclared, Undeclared::Adopt) {
        let programs = if is_v6 { &RESERVE6 } else { &RESERVE4 };
        // SAFETY: nothing of this program is left to be done. Where there is no such program, it goes on.
        unsafe { programs.tail_call(ctx, 0) };
    }
    ALLOW
}

/// The target of an IPv6 bind to this address, in words as the kernel has them, and `BIND_FLAG_*`.
#[inline(always)]
pub(crate) fn v6_target(words: [u32; 4], socket: Socket) -> (Target, u8) {
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
    match socket.flags().v6only() {
        Some(v6only) => (Target::V6 { address, v6only }, if v6only { BIND_FLAG_V6ONLY } else { 0 }),
        None => (Target::V6 { address, v6only: false }, BIND_FLAG_V6ONLY_UNKNOWN),
    }
}

/// The socket of a bind.
#[inline(always)]
pub(crate) fn socket(addr: *mut bpf_sock_addr) -> *mut bpf_sock {
    // SAFETY: reads of the context are rewritten and checked by the verifier.
    unsafe { (*addr).__bindgen_anon_1.sk }
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

/// Whether the calling task is in this owner's pod cgroup. That cgroup is the outermost one of its path, since no other is
/// noted.
#[inline(always)]
fn is_in_cgroup_of(owner: &Owner, config: &Live) -> bool {
    owner.level != 0 && Ancestor::at(owner.level, config).id == owner.cgroup
}

#[inline(always)]
pub(crate) fn deny(errno: u16) -> i32 {
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
    tell: bool,
) {
    let owner = match verdict.by {
        0 => owners[0].id(),
        1 => owners[1].id(),
        2 => owners[2].id(),
        3 => owners[3].id(),
        _ => 0,
    };
    let (family, address) = words(target);
    let facts = Facts {
        kind: EventKind::Attempt,
        family,
        protocol,
        flags: flags | Socket::of(socket(ctx.sock_addr)).flags().reuse_bits(),
        port,
        verdict: *verdict,
        pod_cgroup: identity.pod_cgroup,
        // SAFETY: the helper takes this program type's context.
        socket: unsafe { bpf_get_socket_cookie(ctx.as_ptr()) },
        release: 0,
        holder: 0,
        caller: identity.kin.id,
        owner,
        address,
    };
    // What is only of use together with what is bound goes where that goes, and is in nobody's way.
    send(&facts, !tell);
}
