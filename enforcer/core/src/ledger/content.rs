//! Content of a node's ledger, from its claims, its sockets and its conflicts.

mod observed;
mod room;
#[cfg(test)]
pub(crate) mod tests;

use std::{collections::BTreeMap, ops::RangeInclusive};

use enforcer_ebpf::wire::{Protocol, Undeclared};

pub use room::{LedgerRoom, fit};

use super::node_host_ports::{
    LedgerActor, LedgerConflict, LedgerCounts, LedgerRow, MAX_CONFLICTS, MAX_OBSERVED, MAX_ROWS, MAX_TEXT,
    NodeHostPortsStatus,
};
use crate::{
    index::ClaimStatus,
    model::{
        kernel_ids::{BootNanos, CgroupId},
        owner::{OwnerId, OwnerKind},
        port_spec::{Address, PortRange, compress, protocol_name},
        text::escape_bounded,
    },
    reports::failing_binds::FailingBinds,
    sockets::{Activity, BoundSince, BoundSocket, SocketOwner, observed_ports::ObservedPorts},
    views::{
        node_snapshot::{ActorView, ClaimRun, NodeSnapshot, time},
        status::{ConflictRow, conflicts},
    },
};

/// Most rows of claims, and of sockets without one, that are made at all. Pods decide how many there could be.
const MAX_COMPILED: usize = 4 * MAX_ROWS;
/// Widest range of claims of which held ports are shown apart.
const MAX_SPLIT: u32 = 64;

/// Facts beside the snapshot.
#[derive(Clone, Debug, Default)]
pub struct LedgerInputs<'a> {
    /// Binds that fail; `None` where nobody watches them.
    pub failing: Option<&'a FailingBinds>,
    /// Ports that pods bound and do not declare; `None` where nobody watches them.
    pub observed: Option<&'a ObservedPorts>,
    /// Ports that the kernel gives to outgoing connections, where known.
    pub ephemeral: Option<RangeInclusive<u16>>,
    /// Version of the agent.
    pub version: &'a str,
}

/// Returns the content of the ledger of a node, without its time and without a bound on its rows.
#[must_use]
pub fn content(scene: &NodeSnapshot<'_>, inputs: &LedgerInputs<'_>) -> NodeHostPortsStatus {
    let runs = NodeSnapshot::claim_runs(scene.index.claims());
    let mut held = HeldPorts::of(scene);
    let mut claims = 0_u32;
    let mut rows: Vec<LedgerRow> = Vec::new();
    let mut beyond = 0;
    for run in &runs {
        if scene.index.is_service(run.owner) && !held.is_concerned(run, scene) {
            continue;
        }
        claims = claims.saturating_add(run.ports.len());
        let more = held.claim_rows(run, scene);
        if rows.len() < MAX_COMPILED {
            rows.extend(more);
        } else {
            beyond += more.len();
        }
    }
    let (without_claim, more) = held.rows_without_claim(scene, inputs.ephemeral.as_ref());
    beyond += more;
    rows.extend(without_claim);
    rows.sort_by_key(|row| (protocol_order(&row.protocol), row.first_port));
    let of = |wanted: &dyn Fn(&LedgerRow) -> bool| count(rows.iter().filter(|row| wanted(row)).count());
    let (held, undeclared) = (of(&|row| row.held), of(&|row| row.held && !row.declared && is_pod(&row.who)));
    let (observed, observed_left_out) = observed::rows(inputs, &runs, scene.index);
    let conflicts = conflicts(scene, inputs.failing, &scene.claims(scene.index.claims()));
    NodeHostPortsStatus {
        mode: Some(scene.mode().as_str().to_owned()),
        undeclared: Some(
            match scene.policy.undeclared {
                Undeclared::Allow => "allow",
                Undeclared::Deny => "deny",
                Undeclared::Adopt => "adopt",
            }
            .to_owned(),
        ),
        agent_version: Some(inputs.version.to_owned()).filter(|version| !version.is_empty()),
        updated: None,
        counts: LedgerCounts { claims, held, undeclared, conflicts: count(conflicts.len()) },
        ephemeral_ports: inputs.ephemeral.as_ref().map(|ports| format!("{}-{}", ports.start(), ports.end())),
        ports: rows,
        left_out: count(beyond + conflicts.len().saturating_sub(MAX_CONFLICTS)),
        conflicts: conflicts.into_iter().take(MAX_CONFLICTS).map(conflict).collect(),
        observed,
        observed_left_out,
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn is_pod(who: &LedgerActor) -> bool {
    matches!(who.kind.as_str(), "pod" | "unknownPod")
}

fn protocol_order(name: &str) -> usize {
    Protocol::ALL.iter().position(|protocol| protocol_name(*protocol) == name).unwrap_or(Protocol::ALL.len())
}

/// Sockets of one cgroup on one address of a port.
#[derive(Clone, Debug)]
struct HeldPort {
    address: Address,
    since: BootNanos,
    owner: Option<OwnerId>,
    is_host: bool,
    usage: SocketUsage,
    covered: bool,
}

/// Likely usage of a socket, the least telling first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum SocketUsage {
    /// It is connected, or the kernel has not shown it yet: most are of clients. It makes no row without a claim.
    Client,
    /// It is bound. With an ephemeral port it is most likely a client's.
    Bound,
    /// It listens.
    Server,
}

impl From<Option<Activity>> for SocketUsage {
    fn from(activity: Option<Activity>) -> Self {
        match activity {
            None | Some(Activity::Connected) => Self::Client,
            Some(Activity::Bound) => Self::Bound,
            Some(Activity::Listening) => Self::Server,
        }
    }
}

/// User of ports that it does not claim.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct UnclaimedUser {
    protocol: Protocol,
    who: LedgerActor,
    address: Address,
}

/// Sockets by protocol, port and cgroup.
#[derive(Debug, Default)]
struct HeldPorts(BTreeMap<(Protocol, u16, Option<CgroupId>), Vec<HeldPort>>);

impl HeldPorts {
    fn of(scene: &NodeSnapshot<'_>) -> Self {
        let mut ports = Self::default();
        for socket in scene.holders.iter() {
            let (BoundSince::Bound(since) | BoundSince::Seen(since)) = socket.since;
            let held = HeldPort {
                address: held_address(socket),
                since,
                owner: socket.cgroup.and_then(|cgroup| scene.index.owner_by_cgroup(cgroup)),
                is_host: scene.holders.place(socket).party == SocketOwner::Host,
                usage: socket.activity.into(),
                covered: false,
            };
            let known = ports.0.entry((socket.protocol, socket.port, socket.cgroup)).or_default();
            match known.iter_mut().find(|known| known.address == held.address) {
                Some(known) => {
                    known.since = known.since.min(held.since);
                    known.usage = known.usage.max(held.usage);
                }
                None => known.push(held),
            }
        }
        for held in ports.0.values_mut() {
            merge_wildcards(held);
        }
        ports
    }

    /// Checks whether a claim of a Service is of this node in particular: somebody else claims or holds the port. All
    /// Services of the cluster are the same on every node, and are no rows of a ledger.
    fn is_concerned(&self, run: &ClaimRun, scene: &NodeSnapshot<'_>) -> bool {
        let is_claimed = |port| {
            let mut claims = scene.index.claims_on(run.protocol, port);
            claims.any(|claim| !scene.index.is_service(claim.owner))
        };
        let is_held = |((_, port, _), held): (&(Protocol, u16, Option<CgroupId>), &Vec<HeldPort>)| {
            run.ports.contains(*port)
                && held.iter().any(|held| !scene.index.may_hold(held.owner, held.is_host, run.owner))
        };
        let first = (run.protocol, run.ports.first(), None);
        let last = (run.protocol, run.ports.last(), Some(CgroupId::new(u64::MAX)));
        self.0.range(first..=last).any(is_held) || run.ports.iter().any(is_claimed)
    }

    /// Returns the rows of claims, and notes which sockets they cover. Ports that are held and others are rows of their
    /// own, unless there are too many: the ports that a media server has of its range change all the time.
    fn claim_rows(&mut self, run: &ClaimRun, scene: &NodeSnapshot<'_>) -> Vec<LedgerRow> {
        let held = self.held_by_owner(run, scene);
        let ports = if run.ports.len() > MAX_SPLIT {
            vec![(run.ports, held.values().copied().reduce(HeldSummary::and))]
        } else {
            let (held_ports, free): (Vec<u16>, Vec<u16>) = run.ports.iter().partition(|port| held.contains_key(port));
            let summary = |ports: PortRange| {
                (ports, ports.iter().filter_map(|port| held.get(&port).copied()).reduce(HeldSummary::and))
            };
            let mut ports: Vec<_> = compress(held_ports).into_iter().chain(compress(free)).map(summary).collect();
            ports.sort_by_key(|(ports, _)| *ports);
            ports
        };
        ports.into_iter().map(|(ports, held)| claim_row(run, ports, held, scene)).collect()
    }

    /// Returns what the owner of claims holds of their ports, and notes which sockets they cover.
    fn held_by_owner(&mut self, run: &ClaimRun, scene: &NodeSnapshot<'_>) -> BTreeMap<u16, HeldSummary> {
        let is_node = is_node(run.owner, scene);
        let last = (run.protocol, run.ports.last(), Some(CgroupId::new(u64::MAX)));
        let range = (run.protocol, run.ports.first(), None)..=last;
        let mut ports: BTreeMap<u16, HeldSummary> = BTreeMap::new();
        for ((_, port, cgroup), held) in self.0.range_mut(range) {
            for held in held.iter_mut().filter(|held| held.address.overlaps(run.address)) {
                let own = if is_node {
                    scene.index.may_hold(held.owner, held.is_host, run.owner)
                } else {
                    held.owner == Some(run.owner)
                };
                if own {
                    held.covered = true;
                    let summary = HeldSummary { reach: Reach::of(held.address), cgroup: *cgroup };
                    ports.entry(*port).and_modify(|known| *known = known.and(summary)).or_insert(summary);
                }
            }
        }
        ports
    }

    /// Returns rows of the sockets that no claim of their own covers, neighbours as one, and the count of further ones.
    fn rows_without_claim(
        &self,
        scene: &NodeSnapshot<'_>,
        ephemeral: Option<&RangeInclusive<u16>>,
    ) -> (Vec<LedgerRow>, usize) {
        let mut rows: BTreeMap<UnclaimedUser, Vec<(u16, BootNanos)>> = BTreeMap::new();
        for (&(protocol, port, cgroup), held) in &self.0 {
            let is_ephemeral = ephemeral.is_some_and(|ports| ports.contains(&port));
            let least = if is_ephemeral { SocketUsage::Server } else { SocketUsage::Bound };
            for held in held.iter().filter(|held| held.usage >= least && !held.covered) {
                let who = holder_actor(scene, protocol, port, cgroup);
                let user = UnclaimedUser { protocol, who, address: held.address };
                rows.entry(user).or_default().push((port, held.since));
            }
        }
        let mut merged: Vec<LedgerRow> = Vec::new();
        let mut beyond = 0;
        for (UnclaimedUser { protocol, who, address }, ports) in rows {
            let mut ports = ports.into_iter().peekable();
            while let Some((first, mut since)) = ports.next() {
                let mut last = first;
                while let Some((next, other)) = ports.next_if(|(port, _)| *port == last.saturating_add(1)) {
                    last = next;
                    since = since.min(other);
                }
                if merged.len() == MAX_COMPILED {
                    beyond += 1;
                    continue;
                }
                merged.push(LedgerRow {
                    protocol: protocol_name(protocol).to_owned(),
                    first_port: first,
                    last_port: last,
                    address: address.ip().map(|address| address.to_string()),
                    who: who.clone(),
                    source: None,
                    standing: None,
                    behind: None,
                    held: true,
                    declared: false,
                    never_held: false,
                    reach: Reach::of(address).as_str().to_owned(),
                    since: Some(scene.time(since)),
                });
            }
        }
        (merged, beyond)
    }
}

/// What an owner holds of ports that it claims.
#[derive(Clone, Copy, Debug)]
struct HeldSummary {
    reach: Reach,
    cgroup: Option<CgroupId>,
}

impl HeldSummary {
    fn and(self, other: Self) -> Self {
        Self { reach: self.reach.max(other.reach), cgroup: self.cgroup.or(other.cgroup) }
    }
}

fn is_node(owner: OwnerId, scene: &NodeSnapshot<'_>) -> bool {
    scene.index.owner(owner).is_some_and(|owner| owner.kind == OwnerKind::Node)
}

fn claim_row(run: &ClaimRun, ports: PortRange, held: Option<HeldSummary>, scene: &NodeSnapshot<'_>) -> LedgerRow {
    let mut who = owner_actor(scene, run.owner);
    if !is_node(run.owner, scene) {
        let container = held.and_then(|held| held.cgroup).and_then(|cgroup| scene.index.container(cgroup));
        who.container = container.map(|name| text(&name));
    }
    LedgerRow {
        protocol: protocol_name(run.protocol).to_owned(),
        first_port: ports.first(),
        last_port: ports.last(),
        address: run.address.ip().map(|address| address.to_string()),
        who,
        source: Some(run.source.to_string()),
        standing: Some(run.stand.as_str().to_owned()),
        behind: match run.stand {
            ClaimStatus::InForce => None,
            ClaimStatus::Lost(owner) => Some(owner_actor(scene, owner)),
        },
        held: held.is_some(),
        declared: true,
        never_held: held.is_none() && is_never_held(run, ports, scene),
        reach: held.map_or_else(|| Reach::of(run.address), |held| held.reach).as_str().to_owned(),
        since: run.since(),
    }
}

/// Checks whether a pod on the host network claims the ports and never bound one of them, as far as anybody watched. A
/// claim that has lost tells nothing: somebody is in its way.
fn is_never_held(run: &ClaimRun, ports: PortRange, scene: &NodeSnapshot<'_>) -> bool {
    let owner = scene.index.owner(run.owner);
    let is_pod = owner.is_some_and(|owner| owner.kind == OwnerKind::Pod && owner.host_network == Some(true));
    is_pod
        && run.stand == ClaimStatus::InForce
        && !ports.iter().any(|port| scene.index.had_bound(run.owner, run.protocol, port))
}

/// A server often binds both wildcard addresses, or one besides single ones: the widest is what counts.
fn merge_wildcards(held: &mut Vec<HeldPort>) {
    let has = |wanted: Address| held.iter().any(|held| held.address == wanted);
    let (v4, v6) = (Address::V4([0; 4].into()), Address::V6([0; 16].into()));
    if has(v4)
        && has(v6)
        && let Some(place) = held.iter().position(|held| held.address == v6)
    {
        held[place].address = Address::Any;
    }
    for place in (0..held.len()).rev() {
        let wider =
            (0..held.len()).find(|other| *other != place && is_wider(held[*other].address, held[place].address));
        if let Some(wider) = wider {
            let narrow = held.remove(place);
            let wider = if wider > place { wider - 1 } else { wider };
            held[wider].since = held[wider].since.min(narrow.since);
            held[wider].usage = held[wider].usage.max(narrow.usage);
        }
    }
}

/// Checks whether sockets on the first address get all that sockets on the second one get, and more. As a socket's address
/// `::` is IPv6 only, other than as a claim's.
fn is_wider(one: Address, other: Address) -> bool {
    let families = matches!((one, other), (Address::V6(_), Address::V4(_)));
    one != other && !families && one.covers(other)
}

/// Returns the address of a socket as a claim would have it: a dual-stack socket is on every address.
fn held_address(socket: &BoundSocket) -> Address {
    match Address::new(socket.address) {
        Address::V6(address) if address.is_unspecified() && socket.v6only != Some(true) => Address::Any,
        address => address,
    }
}

/// Addresses through which a port can be reached, the narrowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    Loopback,
    Address,
    All,
}

impl Reach {
    fn of(address: Address) -> Self {
        match address.ip() {
            None => Self::All,
            Some(ip) if ip.is_unspecified() => Self::All,
            Some(ip) if ip.is_loopback() => Self::Loopback,
            Some(_) => Self::Address,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Address => "address",
            Self::All => "all",
        }
    }
}

fn text(of: &str) -> String {
    escape_bounded(of, MAX_TEXT)
}

impl From<ActorView> for LedgerActor {
    fn from(view: ActorView) -> Self {
        let ActorView { kind, namespace, name, uid, unit, kept_for, until } = view;
        let text = |of: Option<String>| of.map(|of| text(&of));
        Self {
            // The name says it, and rows are many.
            uid: text(uid).filter(|_| name.is_none()),
            namespace: text(namespace),
            name: text(name),
            workload: None,
            container: None,
            unit: text(unit),
            kept_for: text(kept_for),
            until,
            kind,
        }
    }
}

fn owner_actor(scene: &NodeSnapshot<'_>, id: OwnerId) -> LedgerActor {
    let workload = scene.index.owner(id).and_then(|owner| owner.workload);
    LedgerActor {
        workload: workload.map(|(kind, name)| text(&format!("{kind} {name}"))),
        ..LedgerActor::from(scene.owner(id))
    }
}

fn holder_actor(scene: &NodeSnapshot<'_>, protocol: Protocol, port: u16, cgroup: Option<CgroupId>) -> LedgerActor {
    let owner = cgroup.and_then(|cgroup| scene.index.owner_by_cgroup(cgroup));
    let socket = scene.holders.on(protocol, port).find(|socket| socket.cgroup == cgroup);
    let place = socket.map(|socket| scene.holders.place(socket));
    let named = owner.map(|owner| owner_actor(scene, owner));
    let actor = named.or_else(|| place.map(|place| ActorView::from(&place.who).into())).unwrap_or_default();
    LedgerActor { container: place.and_then(|place| place.container.as_deref()).map(text), ..actor }
}

fn conflict(row: ConflictRow) -> LedgerConflict {
    let ConflictRow { kind, ports, who, other, count: _, first, last: _, message: _ } = row;
    LedgerConflict { kind, ports: escape_bounded(&ports, 128), who: who.into(), other: other.into(), since: first }
}

/// Sets the time of the content.
pub fn set_updated(status: &mut NodeHostPortsStatus, wall: i64) {
    status.updated = Some(time(wall / 1_000_000 * 1_000_000));
}
