//! Ports that the pods of a node bound and do not declare, so that they can be suggested.
//!
//! A bind counts at its moment, from the programs' record, so that a socket which is closed between two scans counts
//! too. The scans add what was bound before the agent came, and what became of a socket: it listens, or it is a
//! client's. Only pods on the host network count, by the workload whose template makes them: what is learned of one pod
//! holds for its successors.
//!
//! The record of a bind often comes before the pod's status names the container. Such a bind waits for the name.
//!
//! Memory is bounded, whatever pods bind: ports of one workload and of all. A port that was bound recently is not
//! removed for a new one, so that a pod which binds port after port does not change what is known all the time.

#[cfg(test)]
mod tests;
mod workload_name;

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    ops::RangeInclusive,
    time::Duration,
};

use enforcer_ebpf::wire::Protocol;

pub use self::workload_name::WorkloadName;

use crate::{
    index::{ClaimView, Index},
    model::{kernel_ids::CgroupId, now::Now, owner::OwnerId, port_spec::Address},
    sockets::{Activity, BoundSince, BoundSocket, BoundSockets, SocketBinding},
};

/// Most ports that are kept.
pub const MAX_PORTS: usize = 4096;
/// Most ports that are kept of one workload.
pub const MAX_WORKLOAD_PORTS: usize = 256;
/// Most binds that wait for the names of their pod and container.
const MAX_WAITING: usize = 1024;
/// Time within which the status of a pod names its containers, in all likelihood.
const NAME_WAIT: Duration = Duration::from_mins(1);
/// Time for which a port is kept after the last pod that bound it went.
pub const RETENTION: Duration = Duration::from_hours(24);
/// Time without a pod after which a port makes room for a new one.
const IDLE: Duration = Duration::from_hours(1);
/// Time between two looks at which pods are gone.
const PRUNE_INTERVAL: Duration = Duration::from_mins(10);
/// Count of pods beyond which they are not counted: it must come to rest.
pub const MAX_PODS: u32 = 100;
/// Pods of one count that are told apart.
const RECENT_PODS: usize = 8;

/// Kind of a bind, as far as it matters for a declaration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BindKind {
    /// The process named the port.
    Named,
    /// The process named the port and connected from it: nobody is served there.
    Outgoing,
    /// The kernel chose the port of a server, so that it is another one next time.
    Chosen,
}

impl BindKind {
    /// Returns its name in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Named => "named",
            Self::Outgoing => "outgoing",
            Self::Chosen => "chosen",
        }
    }
}

/// A port that pods of one workload bound and did not declare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObservedPort<'a> {
    /// The workload.
    pub workload: &'a WorkloadName,
    /// The container that bound it; `None` if its name never became known.
    pub container: Option<&'a str>,
    /// The protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
    /// The address; `None` for all.
    pub address: Option<IpAddr>,
    /// Kind of the bind.
    pub kind: BindKind,
    /// Count of the pods that bound it, [`MAX_PODS`] at most.
    pub pods: u32,
    /// Count of the pods of the workload that bound an undeclared port, [`MAX_PODS`] at most.
    pub of_pods: u32,
    /// Time when it was first seen, in microseconds since 1970.
    pub first: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PortKey {
    container: Option<String>,
    protocol: Protocol,
    address: Option<IpAddr>,
    port: u16,
}

/// Count of pods. Those that came last are told apart; it ends at [`MAX_PODS`].
#[derive(Debug, Default)]
struct PodCount {
    count: u32,
    recent: VecDeque<OwnerId>,
}

impl PodCount {
    fn add(&mut self, pod: OwnerId) {
        if self.recent.contains(&pod) {
            return;
        }
        if self.recent.len() >= RECENT_PODS {
            self.recent.pop_front();
        }
        self.recent.push_back(pod);
        self.count = (self.count + 1).min(MAX_PODS);
    }

    fn is_alive(&self, index: &Index) -> bool {
        self.recent.iter().any(|pod| index.owner(*pod).is_some())
    }
}

#[derive(Debug, Default)]
struct PortFacts {
    /// A bind named the port.
    named: bool,
    /// A socket served there: TCP that listened, or UDP that was not connected.
    served: bool,
    /// A socket was connected from there.
    connected: bool,
    pods: PodCount,
    first: i64,
    /// Time since boot when it was bound, or a pod that bound it was there.
    seen: Duration,
}

impl PortFacts {
    /// Returns the kind of its binds; `None` for a client whose port the kernel chose.
    fn kind(&self, port: u16, protocol: Protocol, ephemeral: Option<&RangeInclusive<u16>>) -> Option<BindKind> {
        // Two pods do not get one number by chance.
        let is_named =
            self.named || self.pods.count > 1 || ephemeral.is_some_and(|ephemeral| !ephemeral.contains(&port));
        match (is_named, self.served, self.connected) {
            (true, false, true) => Some(BindKind::Outgoing),
            (true, ..) => Some(BindKind::Named),
            // Clients of UDP look like servers.
            (false, true, _) => (protocol == Protocol::Tcp).then_some(BindKind::Chosen),
            (false, false, _) => None,
        }
    }
}

#[derive(Debug, Default)]
struct WorkloadPorts {
    ports: BTreeMap<PortKey, PortFacts>,
    pods: PodCount,
}

/// A bind, or a socket that a scan shows.
#[derive(Clone, Copy, Debug)]
struct Sighting {
    cgroup: CgroupId,
    protocol: Protocol,
    port: u16,
    address: Address,
    named: bool,
    served: bool,
    connected: bool,
    /// Time of the bind since boot, as far as known.
    bound: Duration,
}

/// A bind that waits for the names of its pod and container.
#[derive(Debug)]
struct WaitingBind {
    sighting: Sighting,
    /// The pod and the runtime's id of the container, once the pod is known: its cgroup may be gone when its name comes.
    pod: Option<(OwnerId, WorkloadName, String)>,
    wall: i64,
    until: Duration,
}

/// What is known about the place of a bind.
enum Placing {
    /// It is of no pod on the host network, or the pod declares the port.
    Irrelevant,
    /// The pod is not known yet.
    NoPod,
    /// The container's name is not known yet.
    NoContainer(OwnerId, WorkloadName, String),
    /// All is known.
    Placed(OwnerId, WorkloadName, Option<String>),
}

/// Undeclared ports of the node's pods.
#[derive(Debug, Default)]
pub struct ObservedPorts {
    workloads: BTreeMap<WorkloadName, WorkloadPorts>,
    /// Count of ports of all workloads.
    count: usize,
    waiting: VecDeque<WaitingBind>,
    /// Count of binds for whose port there was no room.
    left_out: u64,
    /// Time since boot until which no room is looked for.
    full_until: Duration,
    pruned_at: Duration,
    /// Generation of the table of sockets that was looked at last.
    generation: Option<u64>,
    /// That look met a socket whose pod or container has no name yet.
    is_incomplete: bool,
    changes: u64,
}

impl ObservedPorts {
    /// Takes the record of a bind. `named`: the process named the port; where the kernel chose it, a scan shows whether
    /// somebody is served there.
    pub fn bound(&mut self, binding: &SocketBinding, named: bool, index: &Index, now: Now) {
        if named {
            let sighting = Sighting {
                cgroup: binding.cgroup,
                protocol: binding.protocol,
                port: binding.port,
                address: socket_address(binding.address, binding.v6only),
                named,
                served: false,
                connected: false,
                bound: now.boottime,
            };
            self.take(sighting, index, now);
        }
    }

    /// Takes the sockets after a scan. `was_named`: somebody named this port since the programs run.
    pub fn scanned(
        &mut self,
        sockets: &BoundSockets,
        was_named: impl Fn(Protocol, u16) -> bool,
        index: &Index,
        now: Now,
    ) {
        self.retry_waiting(index, now);
        self.prune(index, now);
        if self.generation == Some(sockets.generation()) && !self.is_incomplete {
            return;
        }
        self.generation = Some(sockets.generation());
        self.is_incomplete = false;
        for socket in sockets.iter() {
            let named = was_named(socket.protocol, socket.port);
            if let Some(sighting) = sighting(socket, named) {
                self.take_shown(sighting, index, now);
            }
        }
    }

    /// Records a bind, or lets it wait for the names.
    fn take(&mut self, sighting: Sighting, index: &Index, now: Now) {
        let pod = match place(&sighting, index) {
            Placing::Irrelevant => return,
            Placing::Placed(pod, workload, container) => {
                return self.record(&sighting, pod, workload, container, now.wall, now);
            }
            Placing::NoPod => None,
            Placing::NoContainer(pod, workload, container) => Some((pod, workload, container)),
        };
        let until = sighting.bound + NAME_WAIT;
        if self.waiting.len() < MAX_WAITING {
            self.waiting.push_back(WaitingBind { sighting, pod, wall: now.wall, until });
        } else {
            self.left_out += 1;
        }
    }

    /// Records a socket that is bound now. If its place has no name yet, the next scan shows it again.
    fn take_shown(&mut self, sighting: Sighting, index: &Index, now: Now) {
        match place(&sighting, index) {
            Placing::Irrelevant => {}
            Placing::Placed(pod, workload, container) => {
                self.record(&sighting, pod, workload, container, now.wall, now);
            }
            Placing::NoContainer(pod, workload, _) if sighting.bound + NAME_WAIT <= now.boottime => {
                self.record(&sighting, pod, workload, None, now.wall, now);
            }
            Placing::NoPod | Placing::NoContainer(..) => self.is_incomplete = true,
        }
    }

    fn retry_waiting(&mut self, index: &Index, now: Now) {
        for mut bind in std::mem::take(&mut self.waiting) {
            let sighting = bind.sighting;
            if bind.pod.is_none() {
                match place(&sighting, index) {
                    Placing::Irrelevant => continue,
                    Placing::NoPod => {}
                    Placing::NoContainer(pod, workload, container) => bind.pod = Some((pod, workload, container)),
                    Placing::Placed(pod, workload, container) => {
                        self.record(&sighting, pod, workload, container, bind.wall, now);
                        continue;
                    }
                }
            }
            let is_late = bind.until <= now.boottime;
            match bind.pod.take() {
                Some((pod, workload, container)) => match index.container_name(pod, &container) {
                    Some(name) => self.record(&sighting, pod, workload, Some(name.to_owned()), bind.wall, now),
                    None if is_late => self.record(&sighting, pod, workload, None, bind.wall, now),
                    None => self.waiting.push_back(WaitingBind { pod: Some((pod, workload, container)), ..bind }),
                },
                None if is_late => {}
                None => self.waiting.push_back(bind),
            }
        }
    }

    fn record(
        &mut self,
        sighting: &Sighting,
        pod: OwnerId,
        workload: WorkloadName,
        container: Option<String>,
        first: i64,
        now: Now,
    ) {
        let Sighting { protocol, port, address, named, served, connected, .. } = *sighting;
        let address = address.ip().filter(|address| !address.is_unspecified());
        let key = PortKey { container, protocol, address, port };
        let known = self.workloads.get(&workload).map_or(0, |known| known.ports.len());
        let is_known = self.workloads.get(&workload).is_some_and(|known| known.ports.contains_key(&key));
        let has_room = is_known
            || (known < MAX_WORKLOAD_PORTS || self.make_room(Some(&workload), now))
                && (self.count < MAX_PORTS || self.make_room(None, now));
        if !has_room {
            self.left_out += 1;
            return;
        }
        self.count += usize::from(!is_known);
        let workload = self.workloads.entry(workload).or_default();
        workload.pods.add(pod);
        let facts = workload.ports.entry(key).or_insert_with(|| PortFacts { first, ..PortFacts::default() });
        let before = (facts.named, facts.served, facts.connected, facts.pods.count);
        facts.named |= named;
        facts.served |= served;
        facts.connected |= connected;
        facts.pods.add(pod);
        facts.seen = now.boottime;
        let after = (facts.named, facts.served, facts.connected, facts.pods.count);
        self.changes += u64::from(!is_known || before != after);
    }

    /// Removes the port that was bound the longest ago, of one workload or of all, if that is long ago.
    fn make_room(&mut self, of: Option<&WorkloadName>, now: Now) -> bool {
        if now.boottime < self.full_until {
            return false;
        }
        let workloads = self.workloads.iter().filter(|(name, _)| of.is_none_or(|of| of == *name));
        let ports = workloads.flat_map(|(name, workload)| workload.ports.iter().map(move |port| (name, port)));
        let oldest = ports.min_by_key(|(_, (_, facts))| facts.seen);
        let oldest = oldest.filter(|(_, (_, facts))| facts.seen + IDLE <= now.boottime);
        let Some((name, (key, _))) = oldest.map(|(name, (key, facts))| (name.clone(), (key.clone(), facts.seen)))
        else {
            self.full_until = now.boottime + Duration::from_secs(10);
            return false;
        };
        self.remove(&name, &key);
        true
    }

    fn remove(&mut self, name: &WorkloadName, key: &PortKey) {
        if let Some(workload) = self.workloads.get_mut(name) {
            self.count -= usize::from(workload.ports.remove(key).is_some());
            if workload.ports.is_empty() {
                self.workloads.remove(name);
            }
        }
        self.changes += 1;
    }

    /// Notes which ports still have a pod, and removes those that have had none for long.
    fn prune(&mut self, index: &Index, now: Now) {
        if now.boottime < self.pruned_at + PRUNE_INTERVAL {
            return;
        }
        self.pruned_at = now.boottime;
        for workload in self.workloads.values_mut() {
            for facts in workload.ports.values_mut().filter(|facts| facts.pods.is_alive(index)) {
                facts.seen = now.boottime;
            }
            let before = workload.ports.len();
            workload.ports.retain(|_, facts| facts.seen + RETENTION > now.boottime);
            self.count -= before - workload.ports.len();
            self.changes += u64::from(before != workload.ports.len());
        }
        self.workloads.retain(|_, workload| !workload.ports.is_empty());
    }

    /// Returns the ports by workload. `ephemeral`: ports that the kernel chooses from.
    pub fn ports(&self, ephemeral: Option<&RangeInclusive<u16>>) -> impl Iterator<Item = ObservedPort<'_>> {
        self.workloads.iter().flat_map(move |(name, workload)| {
            workload.ports.iter().filter_map(move |(key, facts)| {
                Some(ObservedPort {
                    workload: name,
                    container: key.container.as_deref(),
                    protocol: key.protocol,
                    port: key.port,
                    address: key.address,
                    kind: facts.kind(key.port, key.protocol, ephemeral)?,
                    pods: facts.pods.count,
                    of_pods: workload.pods.count,
                    first: facts.first,
                })
            })
        })
    }

    /// Returns the number of binds for whose port there was no room.
    #[must_use]
    pub const fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Returns a number that is another one whenever [`Self::ports`] may return other ones.
    #[must_use]
    pub const fn changes(&self) -> u64 {
        self.changes
    }
}

/// Returns what a socket shows; `None` if it is a client's whose port the kernel chose.
fn sighting(socket: &BoundSocket, named: bool) -> Option<Sighting> {
    let is_tcp = socket.protocol == Protocol::Tcp;
    let served = match socket.activity {
        Some(Activity::Listening) => true,
        Some(Activity::Bound) => !is_tcp,
        Some(Activity::Connected) | None => false,
    };
    let (BoundSince::Bound(since) | BoundSince::Seen(since)) = socket.since;
    // Of a socket that was there before the programs, nobody knows who chose the port.
    let is_record = matches!(socket.since, BoundSince::Bound(_));
    if is_record && !named && !(is_tcp && served) {
        return None;
    }
    Some(Sighting {
        cgroup: socket.cgroup?,
        protocol: socket.protocol,
        port: socket.port,
        address: socket_address(socket.address, socket.v6only),
        named,
        served,
        connected: socket.activity == Some(Activity::Connected),
        bound: since.since_boot(),
    })
}

/// Returns the address of a socket as a claim has it: a dual-stack socket is on every address.
fn socket_address(address: IpAddr, v6only: Option<bool>) -> Address {
    match Address::new(address) {
        Address::V6(address) if address.is_unspecified() && v6only != Some(true) => Address::Any,
        address => address,
    }
}

fn place(sighting: &Sighting, index: &Index) -> Placing {
    let Some(pod) = index.owner_by_cgroup(sighting.cgroup) else {
        let is_pod = index.uid_by_cgroup(sighting.cgroup).is_some();
        return if is_pod { Placing::NoPod } else { Placing::Irrelevant };
    };
    match index.owner(pod).and_then(|owner| owner.host_network) {
        None => return Placing::NoPod,
        // It entered the node's network by itself, as parts of a CNI do: its ports cannot be declared.
        Some(false) => return Placing::Irrelevant,
        Some(true) => {}
    }
    let is_declared = |claim: ClaimView| claim.owner == pod && is_declared_by(sighting.address, claim.address);
    let is_declared = index.claims_on(sighting.protocol, sighting.port).any(is_declared);
    let Some(workload) = WorkloadName::of_owner(pod, index).filter(|_| !is_declared) else {
        return Placing::Irrelevant;
    };
    match index.container_id(sighting.cgroup) {
        None => Placing::Placed(pod, workload, None),
        Some(id) => match index.container_name(pod, id) {
            Some(name) => Placing::Placed(pod, workload, Some(name.to_owned())),
            None => Placing::NoContainer(pod, workload, id.to_owned()),
        },
    }
}

/// Checks whether a claim declares the port for a socket on an address. One wildcard is as good as another: a manifest
/// with `hostIP: 0.0.0.0` means all addresses.
#[must_use]
pub fn is_declared_by(socket: Address, claim: Address) -> bool {
    let is_wildcard = |address: Address| address.ip().is_none_or(|address| address.is_unspecified());
    claim.covers(socket) || is_wildcard(claim) && (is_wildcard(socket) || claim.overlaps(socket))
}
