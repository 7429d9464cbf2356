//! Conflicts between sockets that exist: bound before the agent came, in audit mode or in a gap. Each is reported once,
//! and no socket is closed.

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
};

use enforcer_ebpf::wire::Protocol;

use crate::{
    index::Index,
    model::{
        actor::{Actor, Audience},
        kernel_ids::SocketCookie,
        owner::OwnerId,
        port_spec::{Address, PortSpec},
        source::ClaimSource,
        text::escape,
    },
    sockets::{Activity, BoundSocket, BoundSockets, SocketOwner},
};

/// Most conflicts that one call returns; the others are left for the next one.
const MAX_REPORTED: usize = 1024;

/// A conflict between sockets that exist, or between one and a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LiveConflict {
    /// Two owners that do not belong together hold the port at once, and the kernel splits the traffic.
    Shared {
        /// One socket.
        first: NamedSocket,
        /// The other socket.
        second: NamedSocket,
    },
    /// A socket holds a port that another one owns.
    NotOwner {
        /// The holder.
        holder: NamedSocket,
        /// The owner.
        owner: Actor,
        /// Place where the owner declared it.
        source: ClaimSource,
    },
}

/// A socket with the name of its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedSocket {
    /// The socket.
    pub holder: BoundSocket,
    /// The owner.
    pub who: Actor,
    /// The container, safe to show.
    pub container: Option<String>,
}

impl NamedSocket {
    /// Identifies the owner of a socket.
    #[must_use]
    pub fn new(holder: &BoundSocket, holders: &BoundSockets) -> Self {
        let place = holders.place(holder);
        Self { holder: holder.clone(), who: place.who.clone(), container: place.container.clone() }
    }

    /// Returns `default/web-0 (container nginx, command nginx, pid 4711)`, as far as it is known and the audience may see
    /// it. Safe to show.
    pub(super) fn name(&self, audience: Audience) -> String {
        let details = if audience == Audience::Tenants { String::new() } else { self.details() };
        format!("{}{details}", self.who)
    }

    /// Returns ` (container nginx, command nginx, pid 4711)`, or nothing where nothing is known. Safe to show.
    #[must_use]
    pub fn details(&self) -> String {
        let container = self.container.as_ref().map(|container| format!("container {container}"));
        let process = self.holder.process.as_ref();
        let process = process.map(|process| format!("command {}, pid {}", escape(&process.command), process.pid));
        let details: Vec<String> = container.into_iter().chain(process).collect();
        if details.is_empty() { String::new() } else { format!(" ({})", details.join(", ")) }
    }
}

impl LiveConflict {
    /// Returns both sides by name, the holder first.
    #[must_use]
    pub fn sides(&self) -> [&Actor; 2] {
        match self {
            Self::Shared { first, second } => [&first.who, &second.who],
            Self::NotOwner { holder, owner, .. } => [&holder.who, owner],
        }
    }

    /// Returns the cookies of the sockets that it is about.
    pub fn sockets(&self) -> impl Iterator<Item = SocketCookie> {
        let second = match self {
            Self::Shared { second, .. } => Some(second),
            Self::NotOwner { .. } => None,
        };
        [Some(self.holder()), second].into_iter().flatten().map(|socket| socket.holder.cookie)
    }

    /// Returns the first socket.
    #[must_use]
    pub fn holder(&self) -> &NamedSocket {
        match self {
            Self::Shared { first: holder, .. } | Self::NotOwner { holder, .. } => holder,
        }
    }

    /// Returns the sentence for the log and the Events.
    #[must_use]
    pub fn sentence(&self, node: &str, audience: Audience) -> String {
        let node = escape(node);
        match self {
            Self::Shared { first, second } => format!(
                "{} on {node} is held by {} and, as {}, by {} at once; sockets that exist are left alone: stop one of the two",
                first.holder.target(),
                first.name(audience),
                second.holder.target(),
                second.name(audience),
            ),
            Self::NotOwner { holder, owner, source } => format!(
                "{} on {node} is held by {}, but claimed by {owner} ({source}); sockets that exist are left alone: stop \
                 the holder, or change the claim",
                holder.holder.target(),
                holder.name(audience),
            ),
        }
    }
}

/// Owner of a socket, for comparing conflicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct ConflictSide {
    /// The pod, if the index knows it.
    owner: Option<OwnerId>,
    party: SocketOwner,
}

/// Conflicts that were reported, so that each is reported once.
#[derive(Debug, Default)]
pub struct ReportedConflicts {
    reported: HashSet<ConflictKey>,
}

type ConflictKey = (Protocol, u16, IpAddr, ConflictSide, Option<(IpAddr, ConflictSide)>, Option<OwnerId>);

impl ReportedConflicts {
    /// Returns the conflicts that exist now and did not the last time. Ports in `shared` are meant to be shared: their
    /// holders conflict with claims only.
    pub fn new_conflicts(&mut self, holders: &BoundSockets, index: &Index, shared: &[PortSpec]) -> Vec<LiveConflict> {
        let mut now = HashSet::new();
        let mut fresh = Vec::new();
        let mut report = |key: ConflictKey, existing: &dyn Fn() -> LiveConflict| {
            if self.reported.contains(&key) {
                now.insert(key);
            } else if fresh.len() < MAX_REPORTED && now.insert(key) {
                fresh.push(existing());
            }
        };
        let mut ports: BTreeMap<(Protocol, u16), Vec<(ConflictSide, &BoundSocket)>> = BTreeMap::new();
        for holder in holders.iter().filter(|holder| !holder.address.is_multicast()) {
            let owner = holder.cgroup.and_then(|cgroup| index.owner_by_cgroup(cgroup));
            let side = ConflictSide { owner, party: holders.place(holder).party };
            ports.entry((holder.protocol, holder.port)).or_default().push((side, holder));
        }
        for ((protocol, port), mut all) in ports {
            // Of sockets that are alike, as a server with many workers has them, one stands for all.
            let alike =
                |(side, holder): &(ConflictSide, &BoundSocket)| (*side, holder.address, holder.v6only, holder.device);
            let mut seen = HashSet::new();
            all.retain(|one| seen.insert(alike(one)));
            for claim in index.claims_in_force(protocol, port) {
                for (side, holder) in &all {
                    let rightful = index.may_hold(side.owner, side.party == SocketOwner::Host, claim.owner);
                    if rightful || !covers(claim.address, holder) {
                        continue;
                    }
                    let Some(owner) = index.name(claim.owner) else {
                        continue;
                    };
                    let key = (protocol, port, holder.address, *side, None, Some(claim.owner));
                    report(key, &|| LiveConflict::NotOwner {
                        holder: NamedSocket::new(holder, holders),
                        owner: Actor::Known(owner.clone()),
                        source: claim.source,
                    });
                }
            }
            // A connected socket takes only what its peer sends.
            all.retain(|(_, holder)| holder.activity != Some(Activity::Connected));
            all.retain(|(_, holder)| !shared.iter().any(|spec| is_in(spec, holder)));
            each_pair(&all, |(one, first), (other, second)| {
                let together = one.party == other.party
                    || matches!((one.owner, other.owner), (Some(one), Some(other)) if index.may_share(one, other));
                if together || !first.overlaps(second) {
                    return;
                }
                let key = (protocol, port, first.address, *one, Some((second.address, *other)), None);
                let (first, second) = (NamedSocket::new(first, holders), NamedSocket::new(second, holders));
                report(key, &|| LiveConflict::Shared { first: first.clone(), second: second.clone() });
            });
        }
        self.reported = now;
        fresh
    }
}

/// Calls `with` for each pair that could overlap: of sockets on single addresses those with the same one.
fn each_pair<'a>(
    all: &[(ConflictSide, &'a BoundSocket)],
    mut with: impl FnMut(&(ConflictSide, &'a BoundSocket), &(ConflictSide, &'a BoundSocket)),
) {
    let mut sorted = all.to_vec();
    sorted.sort_by_key(|(_, holder)| (!holder.address.is_unspecified(), holder.address, holder.cookie));
    for (place, one) in sorted.iter().enumerate() {
        for other in &sorted[place + 1..] {
            if !one.1.address.is_unspecified() && one.1.address != other.1.address {
                break;
            }
            with(one, other);
        }
    }
}

/// Checks whether a claim on this address covers the holder's socket, in part at least.
pub(super) fn covers(claim: Address, holder: &BoundSocket) -> bool {
    let v6only = holder.v6only == Some(true) && matches!(claim, Address::V4(_));
    !v6only && claim.overlaps(Address::new(holder.address))
}

/// Checks whether a socket is on one of these ports.
pub(super) fn is_in(spec: &PortSpec, holder: &BoundSocket) -> bool {
    spec.protocol == holder.protocol && spec.ports.contains(holder.port) && covers(spec.address, holder)
}
