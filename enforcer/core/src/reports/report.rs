//! An attempt with the names that belong to it.

use std::fmt;

use enforcer_ebpf::wire::{Reason, VerdictKind};

use crate::{
    index::Index,
    model::{
        actor::Actor,
        attempt::{Attempt, target},
        name::Name,
        port_spec::Address,
        source::ClaimSource,
        text::escape,
    },
    sockets::NamedSocket,
};

/// An attempt with the names that belong to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The attempt.
    pub attempt: Attempt,
    /// The caller.
    pub caller: Actor,
    /// Container of the caller, where its cgroup shows it. Safe to show.
    pub container: Option<String>,
    /// The owner whose claim decided.
    pub owner: Option<Name>,
    /// Place where the owner declared that claim.
    pub source: Option<ClaimSource>,
    /// The holder of the port, where the programs or the kernel refuse the bind because of it.
    pub holder: Option<Incumbent>,
}

/// The holder of a port that another one asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incumbent {
    /// The holder by name.
    pub who: Actor,
    /// Its socket, where that is known.
    pub socket: Option<NamedSocket>,
    /// The holder is an older pod of the caller's workload.
    pub older: bool,
}

impl fmt::Display for Incumbent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.who.fmt(f)?;
        if self.older {
            f.write_str(", an older pod of the same workload, whose end the new one has to wait for")?;
        }
        Ok(())
    }
}

impl Report {
    /// Finds the names for an attempt.
    #[must_use]
    pub fn new(attempt: Attempt, index: &Index) -> Self {
        let caller = match (attempt.caller.and_then(|id| index.name(id)), attempt.pod_cgroup) {
            (Some(name), _) => Actor::Known(name.clone()),
            (_, Some(cgroup)) => match Actor::of_cgroup(cgroup, index) {
                Actor::Host => Actor::Unplaced,
                who => who,
            },
            (_, None) if attempt.reason == Reason::Error => Actor::Unplaced,
            (_, None) => match Actor::of_cgroup(attempt.cgroup, index) {
                unit @ Actor::HostUnit(_) => unit,
                _ => Actor::Host,
            },
        };
        Self {
            container: index.container(attempt.cgroup).map(|container| escape(&container)),
            owner: attempt.owner.and_then(|id| index.name(id)).cloned(),
            source: attempt
                .owner
                .and_then(|id| index.source(id, attempt.protocol, attempt.port, Address::new(attempt.address))),
            caller,
            holder: None,
            attempt,
        }
    }

    /// Adds the holder of the port. An attempt that the programs allowed is then one that the kernel itself refuses.
    #[must_use]
    pub fn held_by(mut self, holder: Incumbent) -> Self {
        self.attempt.reason = Reason::Held;
        if let Actor::Known(name) = &holder.who {
            self.owner = Some(name.clone());
        }
        self.holder = Some(holder);
        self
    }

    /// Checks whether it is a conflict: audited or denied, or refused by the kernel itself because another one holds
    /// the port.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.attempt.verdict != VerdictKind::Allow || self.attempt.reason == Reason::Held
    }

    /// Returns the address, port and protocol: `0.0.0.0:80/tcp`, `[::1]:53/udp`.
    #[must_use]
    pub fn target(&self) -> String {
        target(self.attempt.address, self.attempt.port, self.attempt.protocol)
    }

    /// Returns the command, safe to show.
    #[must_use]
    pub fn command(&self) -> String {
        escape(&self.attempt.command)
    }
}
