//! Which sockets own the port that they were bound to, and what becomes of those that come second.

use enforcer_ebpf::{
    abi::{
        BIND_FLAG_REUSE_ADDR, BIND_FLAG_REUSE_PORT, BIND_FLAG_REUSE_UNKNOWN, EXTENT_ONE, EventKind, FAMILY_V4,
        FAMILY_V6, Mark, Protocol, Reason, VerdictKind, port_index, v6_address_word,
    },
    decide::{Target, could_share, extent},
};

use crate::bpf::{
    context::caller::{self, Ancestor, Identity},
    context::config::{Live, load},
    context::socket::Socket,
    emit::{Facts, count, send, uncount},
    holds::table::{Outcome, Wanted, asked, holder, remember, take},
    maps::SHARED,
};

/// A socket with the port that it asked for.
pub(crate) struct Candidate<'a> {
    pub(crate) socket: Socket,
    /// The MPTCP socket whose subflow it is; 0 if it is none.
    pub(crate) parent: u64,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    pub(crate) target: &'a Target,
    /// `BIND_FLAG_*`.
    pub(crate) flags: u8,
    pub(crate) cookie: u64,
}

impl Candidate<'_> {
    /// Whether it may own the port. For sockets that cannot share, the kernel itself refuses the second; multicast is there
    /// to be shared, and so are some ports.
    #[inline(always)]
    fn may_own(&self) -> bool {
        // A socket of which they are not known could share.
        let has = |flag: u8| self.flags & (flag | BIND_FLAG_REUSE_UNKNOWN) != 0;
        let (reuse_port, reuse_addr) = (has(BIND_FLAG_REUSE_PORT), has(BIND_FLAG_REUSE_ADDR));
        could_share(self.protocol, reuse_port, reuse_addr) && !is_multicast(self.target) && !self.is_shared()
    }

    #[inline(always)]
    fn is_shared(&self) -> bool {
        let index = port_index(self.protocol, self.port);
        SHARED.get_ptr(index / 64).is_some_and(|word| load(word) >> (index % 64) & 1 != 0)
    }

    /// Lets the caller own the port, if it is one that can be owned and nobody else does: what is answered. `pointer` leads
    /// to the socket. What was bound by a bind to port 0 owns nothing.
    #[inline(always)]
    pub(crate) fn own<T>(&self, pointer: *mut T, mark: *mut Mark, config: &Live) -> VerdictKind {
        let asked = asked(mark);
        if asked == 0 || !self.may_own() {
            return VerdictKind::Allow;
        }
        let identity = caller::identify(config, Ancestor::NONE);
        let outcome = self.adopt(pointer, &identity, config);
        let allowed = asked <= Mark::asked_by(VerdictKind::Allow, Reason::Error);
        // A conflict with a claim was told already.
        if outcome.is_conflict() && (allowed || outcome.verdict.kind == VerdictKind::Deny) {
            // The attempt was counted as passed: it is counted once.
            uncount(asked, self.protocol);
            self.report(&outcome, &identity);
        }
        outcome.verdict.kind
    }

    /// Takes the port for the caller, unless another one holds it and is in the way. `pointer` leads to the socket.
    #[inline(always)]
    fn adopt<T>(&self, pointer: *mut T, identity: &Identity, config: &Live) -> Outcome {
        let extent = extent(self.target, self.socket.device());
        let wanted = Wanted {
            port: port_index(self.protocol, self.port),
            holder: holder(identity),
            address: if extent & EXTENT_ONE != 0 { word(self.target) } else { 0 },
            extent,
        };
        let outcome = take(&wanted, &identity.kin, config);
        if outcome.taken {
            remember(pointer, self.socket, self.parent, &wanted);
        }
        outcome
    }

    /// Counts a bind of which another holder is in the way, and tells it.
    #[inline(always)]
    fn report(&self, outcome: &Outcome, identity: &Identity) {
        count(&outcome.verdict, self.protocol);
        let (family, address) = words(self.target);
        let facts = Facts {
            kind: EventKind::Attempt,
            family,
            protocol: self.protocol,
            flags: self.flags,
            port: self.port,
            verdict: outcome.verdict,
            pod_cgroup: identity.pod_cgroup,
            socket: self.cookie,
            release: 0,
            holder: outcome.holder,
            caller: identity.kin.id,
            owner: outcome.owner,
            address,
        };
        send(&facts, false);
    }
}

impl Outcome {
    /// Whether another one holds the port and may not be joined, whatever follows from it.
    #[inline(always)]
    fn is_conflict(&self) -> bool {
        self.verdict.reason != Reason::Unclaimed
    }
}

#[inline(always)]
fn is_multicast(target: &Target) -> bool {
    match target {
        Target::V4(address) => address[0] >> 4 == 0xe,
        Target::V6 { address, .. } => address[0] == 0xff,
    }
}

#[inline(always)]
fn word(target: &Target) -> u64 {
    match target {
        Target::V4(address) => u64::from(u32::from_ne_bytes(*address)),
        Target::V6 { address, .. } => {
            let number = u128::from_ne_bytes(*address);
            v6_address_word(number as u64, (number >> 64) as u64)
        }
    }
}

/// Family and address of a target as records have them.
#[inline(always)]
pub(crate) fn words(target: &Target) -> (u8, [u32; 4]) {
    match target {
        Target::V4(address) => (FAMILY_V4, [u32::from_ne_bytes(*address), 0, 0, 0]),
        Target::V6 { address, .. } => {
            let number = u128::from_le_bytes(*address);
            (FAMILY_V6, [number, number >> 32, number >> 64, number >> 96].map(|word| (word as u32).to_le()))
        }
    }
}
