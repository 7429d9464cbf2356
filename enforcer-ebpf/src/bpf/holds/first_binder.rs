//! The first binder owns the port (`--undeclared adopt`): sockets that can share a port hold it for their pod, and a
//! bind by another pod is a conflict.

use enforcer_ebpf::{
    decide::{Target, could_share, extent},
    wire::{
        BIND_FLAG_REUSE_ADDR, BIND_FLAG_REUSE_PORT, BIND_FLAG_REUSE_UNKNOWN, EXTENT_ONE, Protocol, VerdictKind,
        port_index,
    },
};

use super::{
    acquire::{Acquisition, acquire},
    port_holders::{LastAttempt, PortHolderRef},
    socket_holds::store_hold,
    table::HoldRequest,
};
use crate::bpf::{
    constants::SOCK_TYPE,
    context::{
        address::{encode_address, encode_hold_address, is_multicast},
        caller::{Ancestor, CallerContext, identify},
        config::VolatileConfig,
        read::load_word,
        socket::Socket,
    },
    counters::{count, uncount},
    emit::attempts::{BindFields, emit_verdict},
    maps::SHARED_PORTS,
};

/// The bind of a socket to a port.
pub(crate) struct SocketBind<'a> {
    pub(crate) socket: Socket,
    /// Address of the MPTCP socket whose subflow the socket is; 0 for none.
    pub(crate) mptcp_parent: u64,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    pub(crate) target: &'a Target,
    /// Flags of the bind: `BIND_FLAG_*`.
    pub(crate) flags: u8,
    /// Cookie of the socket.
    pub(crate) cookie: u64,
}

/// Returns whether a socket with these flags (`BIND_FLAG_*`) could share its port. One whose flags are not known could.
#[inline(always)]
pub(crate) fn could_share_with(protocol: Protocol, flags: u8) -> bool {
    let has = |flag: u8| flags & (flag | BIND_FLAG_REUSE_UNKNOWN) != 0;
    could_share(protocol, has(BIND_FLAG_REUSE_PORT), has(BIND_FLAG_REUSE_ADDR))
}

impl SocketBind<'_> {
    /// Takes the port for the caller if sockets can share it and the bind asked for it, and reports a conflict with
    /// another holder. Returns the answer to the bind.
    ///
    /// `pointer` is the verifier's pointer to the socket. A bind to port 0 takes nothing.
    #[inline(always)]
    pub(crate) fn hold_port<T>(
        &self,
        pointer: *mut T,
        port_holder: PortHolderRef,
        config: &VolatileConfig,
    ) -> VerdictKind {
        let attempt = port_holder.last_attempt();
        if !attempt.exists() || !self.needs_hold() {
            return VerdictKind::Allow;
        }
        let caller = identify(config, Ancestor::NONE);
        let result = self.acquire(pointer, attempt, &caller, config);
        // A conflict with a claim was reported already.
        if result.is_conflict() && (attempt.was_allowed() || result.verdict.kind == VerdictKind::Deny) {
            // The attempt was counted as allowed: it is counted once.
            uncount(attempt, self.protocol);
            self.report_conflict(&result, &caller);
        }
        result.verdict.kind
    }

    /// Returns whether the socket must hold the port for its pod. A socket that cannot share needs no hold, since the
    /// kernel itself refuses the second one. Neither does one on a multicast address, which is there to be shared, or
    /// on a port that the agent lets any number of pods share.
    #[inline(always)]
    fn needs_hold(&self) -> bool {
        could_share_with(self.protocol, self.flags) && !is_multicast(self.target) && !self.is_shared_port()
    }

    #[inline(always)]
    fn is_shared_port(&self) -> bool {
        let index = port_index(self.protocol, self.port);
        SHARED_PORTS.get_ptr(index / 64).is_some_and(|word| load_word(word) >> (index % 64) & 1 != 0)
    }

    /// Takes the port for the caller and stores with the socket what it holds.
    #[inline(always)]
    fn acquire<T>(
        &self,
        pointer: *mut T,
        attempt: LastAttempt,
        caller: &CallerContext,
        config: &VolatileConfig,
    ) -> Acquisition {
        let extent = extent(self.target, self.socket.bound_device());
        let request = HoldRequest {
            port: port_index(self.protocol, self.port),
            holder: caller.holder(),
            address: if extent & EXTENT_ONE != 0 { encode_hold_address(self.target) } else { 0 },
            extent,
        };
        let may_take_sole_hold = SOCK_TYPE.is_set() && self.mptcp_parent == 0 && attempt.is_by(self.cookie);
        let cookie = if may_take_sole_hold { self.cookie } else { 0 };
        let result = acquire(&request, cookie, &caller.identity, config);
        if result.is_in_table {
            store_hold(pointer, self.socket, self.mptcp_parent, &request);
        }
        result
    }

    /// Counts and reports a bind that another holder is in the way of.
    #[inline(always)]
    fn report_conflict(&self, result: &Acquisition, caller: &CallerContext) {
        count(&result.verdict, self.protocol);
        let (family, address) = encode_address(self.target);
        let fields = BindFields {
            family,
            protocol: self.protocol,
            flags: self.flags,
            port: self.port,
            verdict: result.verdict,
            pod_cgroup: caller.pod_cgroup,
            socket: self.cookie,
            holder: result.holder,
            caller: caller.identity.id,
            owner: result.owner,
            address,
        };
        emit_verdict(&fields);
    }
}
