//! Who holds each TCP and UDP port, and the last attempt to bind it: `PORT_HOLDERS`.
//!
//! Of the holder, the rules are in [`enforcer_ebpf::port_holder`].

use enforcer_ebpf::{
    decide::Verdict,
    port_holder,
    wire::{ASKED_BITS, PortHolder, Protocol, Reason, VerdictKind, counter, port_index},
};

use crate::bpf::{
    context::{caller::is_in_pod, config::VolatileConfig, read::load_word},
    maps::PORT_HOLDERS,
};

/// The element of a port.
#[derive(Clone, Copy)]
pub(crate) struct PortHolderRef(*mut PortHolder);

impl PortHolderRef {
    /// Returns the element of a port; `None` for a protocol that has no elements, since no hook sees its binds (SCTP).
    /// A hook that judges binds counts an error then, so that none for a further protocol allows everything unnoticed.
    #[inline(always)]
    pub(crate) fn find(protocol: Protocol, port: u16) -> Option<Self> {
        PORT_HOLDERS.get_ptr_mut(port_index(protocol, port)).map(Self)
    }

    /// Returns [`PortHolder::holder`]: a pod's cgroup id, a socket's cookie, [`HOLDER_SOMEBODY`], or 0 for a port that nobody holds.
    #[inline(always)]
    pub(crate) fn holder(self) -> u64 {
        // SAFETY: only an address of a field of the map's element is taken.
        load_word(unsafe { &raw const (*self.0).holder })
    }

    /// Returns whether another one than the caller's pod may hold the port.
    #[inline(always)]
    pub(crate) fn is_held_by_other(self, config: &VolatileConfig) -> bool {
        let holder = self.holder();
        holder != 0 && port_holder::pod_cgroup(holder).is_none_or(|pod| !is_in_pod(pod, config))
    }

    /// Notes that the socket with this cookie holds the port (0 for a socket that is not known by its cookie later). What
    /// the agent wrote stays.
    ///
    /// Of two sockets that share the port, and are bound or closed at the very same time, one may not be noted: until the
    /// agent has read its record, an attempt that fails because of it is not reported.
    #[inline(always)]
    pub(crate) fn set_held(self, cookie: u64) {
        let holder = self.holder();
        let after = port_holder::after_bind(holder, cookie);
        if after != holder {
            self.set_holder(after);
        }
    }

    /// Notes that the port is free, if the socket with this cookie alone holds it, as far as the programs know. Returns
    /// whether it did. What the agent wrote stays.
    #[inline(always)]
    pub(crate) fn clear_held(self, cookie: u64) -> bool {
        let is_noted = port_holder::is_free_without(self.holder(), cookie);
        if is_noted {
            self.set_holder(0);
        }
        is_noted
    }

    #[inline(always)]
    fn set_holder(self, holder: u64) {
        // SAFETY: an aligned word of the map's element.
        unsafe { (&raw mut (*self.0).holder).write_volatile(holder) };
    }

    /// Returns the last attempt to bind this very port that was not denied.
    #[inline(always)]
    pub(crate) fn last_attempt(self) -> LastAttempt {
        // SAFETY: only an address of a field of the map's element is taken.
        LastAttempt(load_word(unsafe { &raw const (*self.0).asked }))
    }

    /// Notes an attempt to bind this very port that is not denied. `cookie` is that of a socket which is to be known
    /// again, else 0.
    #[inline(always)]
    pub(crate) fn set_last_attempt(self, verdict: &Verdict, cookie: u64) {
        let attempt = LastAttempt(LastAttempt::with(verdict.kind, verdict.reason).0 | cookie << ASKED_BITS);
        if self.last_attempt().0 != attempt.0 {
            // SAFETY: an aligned word of the map's element; all programs that store here saw such an attempt.
            unsafe { (&raw mut (*self.0).asked).write_volatile(attempt.0) };
        }
    }
}

/// Verdict under which the last attempt to bind a port was counted: [`PortHolder::asked`].
#[derive(Clone, Copy)]
pub(crate) struct LastAttempt(u64);

impl LastAttempt {
    /// Returns the attempt with this verdict.
    #[inline(always)]
    const fn with(kind: VerdictKind, reason: Reason) -> Self {
        Self(PortHolder::asked_by(kind, reason))
    }

    /// Returns whether there was one. Sockets that were bound by a bind to port 0 had none.
    #[inline(always)]
    pub(crate) fn exists(self) -> bool {
        self.0 != 0
    }

    /// Returns whether the verdict was [`VerdictKind::Allow`], provided that there was one.
    #[inline(always)]
    pub(crate) fn was_allowed(self) -> bool {
        self.code() <= LAST_ALLOWED
    }

    /// Returns whether it was by the socket with this cookie, and nobody asked since.
    #[inline(always)]
    pub(crate) fn is_by(self, cookie: u64) -> bool {
        self.0 >> ASKED_BITS != 0 && self.0 >> ASKED_BITS == cookie
    }

    /// Returns [`PortHolder::asked_by`].
    #[inline(always)]
    const fn code(self) -> u64 {
        self.0 & ((1 << ASKED_BITS) - 1)
    }

    /// Returns the index in `COUNTERS` at which the attempt was counted, unless as unreported.
    #[inline(always)]
    pub(crate) const fn counter(self, protocol: Protocol) -> u32 {
        counter(VerdictKind::Allow, Reason::Owner, protocol) + (self.code() as u32).wrapping_sub(1)
    }
}

/// Greatest value of [`PortHolder::asked`] after an attempt that was allowed.
const LAST_ALLOWED: u64 = PortHolder::asked_by(VerdictKind::Allow, Reason::ALL[Reason::ALL.len() - 1]);

// `was_allowed` and `counter` depend on the order of verdicts, reasons and protocols in `COUNTERS`.
const _: () = {
    let mut place = 0;
    while place < Reason::ALL.len() {
        let reason = Reason::ALL[place];
        assert!(PortHolder::asked_by(VerdictKind::Allow, reason) <= LAST_ALLOWED);
        assert!(PortHolder::asked_by(VerdictKind::Audit, reason) > LAST_ALLOWED);
        assert!(PortHolder::asked_by(VerdictKind::Deny, reason) > LAST_ALLOWED);
        let mut kind = 0;
        while kind < VerdictKind::ALL.len() {
            let verdict = VerdictKind::ALL[kind];
            let attempt = LastAttempt::with(verdict, reason);
            let mut protocol = 0;
            while protocol < Protocol::ALL.len() {
                let by = Protocol::ALL[protocol];
                assert!(attempt.counter(by) == counter(verdict, reason, by) && attempt.code() == attempt.0);
                protocol += 1;
            }
            kind += 1;
        }
        place += 1;
    }
};
