//! Claims and holders as people and programs are shown them, by `enforcer status` and `enforcer explain`.
//!
//! The JSON is documented in docs/status.md. Every text that others chose is safe to show.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use enforcer_ebpf::{
    decide::ModeOverride,
    wire::{NodeMode, Policy, Protocol, UidForm},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    index::{ClaimStatus, ClaimView, Index},
    model::{
        actor::Actor,
        kernel_ids::{BootNanos, CgroupId},
        mode::Mode,
        name::Name,
        now::Now,
        owner::{OwnerId, OwnerKind},
        port_spec::{Address, PortRange, PortSpec, compress, protocol_name},
        source::ClaimSource,
        text::escape,
    },
    pods::pod::ARRIVAL_UNKNOWN,
    sockets::{self, Activity, AnsweredPorts, BoundSince, BoundSockets},
};

/// Version of the JSON.
pub const API_VERSION: &str = "port-enforcer.io/v1alpha1";

/// State of the node that is looked at, at one moment.
#[derive(Clone, Copy, Debug)]
pub struct NodeSnapshot<'a> {
    /// Name of the node.
    pub node: &'a str,
    /// Pods and claims.
    pub index: &'a Index,
    /// Holders of ports.
    pub holders: &'a BoundSockets,
    /// Policy of the programs.
    pub policy: Policy,
    /// Facts that can overrule the mode.
    pub overrule: ModeOverride,
    /// Ports that are meant to be shared.
    pub shared: &'a [PortSpec],
    /// Ports of Ready pods that others answer; `None` where nobody watches them.
    pub answered: Option<&'a AnsweredPorts>,
    /// The moment.
    pub now: Now,
}

impl NodeSnapshot<'_> {
    /// Returns the mode that counts for pods whose namespace says nothing.
    #[must_use]
    pub fn mode(&self) -> Mode {
        match (self.overrule.local, self.policy.enforce, self.overrule.stale) {
            (NodeMode::Audit, ..) | (_, _, true) | (NodeMode::Unset, false, _) => Mode::Audit,
            _ => Mode::Enforce,
        }
    }

    /// Formats a moment of the kernel's time in the form of RFC 3339.
    #[must_use]
    pub fn time(&self, since_boot: BootNanos) -> String {
        moment(since_boot, self.now)
    }

    /// Describes an owner.
    #[must_use]
    pub fn owner(&self, id: OwnerId) -> ActorView {
        let kind = self.index.owner(id).map_or("pod", |owner| match owner.kind {
            OwnerKind::Node => "node",
            OwnerKind::Pod => "pod",
            OwnerKind::HandoverReservation => "remnant",
            OwnerKind::Service => "service",
        });
        match self.index.name(id) {
            Some(name) if !name.is_node() => ActorView::owner(kind, name),
            _ => ActorView::of("node"),
        }
    }

    /// Groups claims: those that differ in nothing but the port as few ranges, by protocol and port.
    #[must_use]
    pub fn claim_runs(claims: impl Iterator<Item = ClaimView>) -> Vec<ClaimRun> {
        let mut groups: BTreeMap<Group, Vec<u16>> = BTreeMap::new();
        for ClaimView { protocol, port, address, owner, source, since, stand } in claims {
            groups.entry((protocol, address, owner, source, since, stand)).or_default().push(port);
        }
        let mut runs: Vec<ClaimRun> = groups
            .into_iter()
            .flat_map(|((protocol, address, owner, source, since, stand), ports)| {
                let run = move |ports| ClaimRun { protocol, address, ports, owner, source, since, stand };
                compress(ports).into_iter().map(run)
            })
            .collect();
        runs.sort_by_key(|run| {
            let lost = run.stand != ClaimStatus::InForce;
            (run.protocol, run.ports.first(), lost, run.address, run.since, run.owner)
        });
        runs
    }

    /// Describes claims as [`Self::claim_runs`] groups them.
    pub fn claims(&self, claims: impl Iterator<Item = ClaimView>) -> Vec<ClaimRow> {
        let row = |run: &ClaimRun| ClaimRow {
            ports: PortSpec { protocol: run.protocol, address: run.address, ports: run.ports }.to_string(),
            protocol: protocol_name(run.protocol).to_owned(),
            address: run.address.ip(),
            first_port: run.ports.first(),
            last_port: run.ports.last(),
            owner: self.owner(run.owner),
            source: run.source.to_string(),
            standing: run.stand.as_str().to_owned(),
            behind: run.stand.behind().map(|owner| self.owner(owner)),
            since: run.since(),
        };
        Self::claim_runs(claims).iter().map(row).collect()
    }

    /// Describes a holder.
    #[must_use]
    pub fn holder(&self, holder: &sockets::BoundSocket) -> HolderRow {
        let place = self.holders.place(holder);
        let (since, exact) = match holder.since {
            BoundSince::Bound(at) => (at, true),
            BoundSince::Seen(at) => (at, false),
        };
        HolderRow {
            protocol: protocol_name(holder.protocol).to_owned(),
            address: holder.address,
            port: holder.port,
            who: ActorView::from(&place.who),
            container: place.container.clone(),
            command: holder.process.as_ref().map(|process| escape(&process.command)),
            pid: holder.process.as_ref().map(|process| process.pid),
            since: self.time(since),
            since_is_exact: exact,
            activity: holder.activity.map(|activity| activity_word(activity).to_owned()),
            reuse_port: holder.reuse.map(|reuse| reuse.port),
            reuse_address: holder.reuse.map(|reuse| reuse.address),
            v6only: holder.v6only,
            uid: holder.uid,
            cgroup: holder.cgroup.map(CgroupId::get),
            inode: holder.inode,
            device: holder.device,
        }
    }
}

/// Claims of one owner that differ in nothing but the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimRun {
    /// The protocol.
    pub protocol: Protocol,
    /// The address.
    pub address: Address,
    /// The ports.
    pub ports: PortRange,
    /// Their owner.
    pub owner: OwnerId,
    /// Place where they are declared.
    pub source: ClaimSource,
    /// Their arrival, in microseconds since 1970; [`i64::MIN`] for the node's.
    pub since: i64,
    /// Their status.
    pub stand: ClaimStatus,
}

impl ClaimRun {
    /// Returns the time of their arrival; `None` for the node's, and where the pod says nothing of it.
    #[must_use]
    pub fn since(&self) -> Option<String> {
        (self.since != i64::MIN && self.since != ARRIVAL_UNKNOWN).then(|| time(self.since))
    }
}

/// Properties in common of claims that are shown as one range.
type Group = (Protocol, Address, OwnerId, ClaimSource, i64, ClaimStatus);

/// Returns the word for people and JSON.
const fn activity_word(activity: Activity) -> &'static str {
    match activity {
        Activity::Bound => "bound",
        Activity::Listening => "listening",
        Activity::Connected => "connected",
    }
}

/// Microseconds since 1970 in the form of RFC 3339.
#[must_use]
pub fn time(wall: i64) -> String {
    Timestamp::from_microsecond(wall).unwrap_or_default().to_string()
}

/// Formats a time since boot in the form of RFC 3339. In milliseconds: the two clocks are not read in the same
/// instant, and a moment is to be the same however often it is shown.
#[must_use]
pub fn moment(since_boot: BootNanos, now: Now) -> String {
    let monotonic = i64::try_from(now.boottime.as_micros()).unwrap_or(i64::MAX);
    let boot = now.wall.saturating_sub(monotonic).saturating_add(500).div_euclid(1000).saturating_mul(1000);
    time(boot.saturating_add(i64::try_from(since_boot.get() / 1_000_000 * 1000).unwrap_or(i64::MAX)))
}

/// The two wildcard addresses, which servers bind.
pub const WILDCARDS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];

/// An owner, a holder or a caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ActorView {
    /// Kind: `pod`, `node`, `remnant` (what is left of a pod), `service`, `unknownPod`, `host`, or `unplaced`.
    pub kind: String,
    /// Namespace of a pod that is known, or of a Service.
    pub namespace: Option<String>,
    /// Its name.
    pub name: Option<String>,
    /// UID of a pod, known or not.
    pub uid: Option<String>,
    /// Systemd unit of a host process or, without one, the path of its cgroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Workload for which the ports of a pod that is gone are kept: `DaemonSet ingress/edge`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_for: Option<String>,
    /// Time until which they are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

impl ActorView {
    fn of(kind: &str) -> Self {
        Self { kind: kind.to_owned(), namespace: None, name: None, uid: None, unit: None, kept_for: None, until: None }
    }

    fn named(kind: &str, name: &Name) -> Self {
        Self {
            namespace: Some(escape(&name.namespace)),
            name: Some(escape(&name.name)),
            uid: Some(escape(&name.uid)),
            ..Self::of(kind)
        }
    }

    fn owner(kind: &str, name: &Name) -> Self {
        let until = name.handover.as_ref().map(|handover| time(handover.until / 1_000_000 * 1_000_000));
        let kept_for = until.is_some().then(|| name.to_string());
        Self { kept_for, until, ..Self::named(kind, name) }
    }
}

impl From<&Actor> for ActorView {
    fn from(who: &Actor) -> Self {
        match who {
            Actor::Known(name) if name.is_node() => Self::of("node"),
            Actor::Known(name) if name.service => Self::named("service", name),
            Actor::Known(name) => Self::named("pod", name),
            Actor::UnknownPod { uid, form: UidForm::Api | UidForm::Static } => {
                Self { uid: Some(uid.clone()), ..Self::of("unknownPod") }
            }
            Actor::Host => Self::of("host"),
            Actor::HostUnit(unit) => Self { unit: Some(unit.clone()), ..Self::of("host") },
            Actor::Unplaced => Self::of("unplaced"),
        }
    }
}

/// Text as everywhere in sentences.
impl fmt::Display for ActorView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(workload), Some(until)) = (&self.kept_for, &self.until) {
            return write!(f, "{workload} until {until} (handover grace)");
        }
        if let Some(unit) = &self.unit {
            return Actor::HostUnit(unit.clone()).fmt(f);
        }
        match (self.kind.as_str(), &self.namespace, &self.name, &self.uid) {
            ("service", Some(namespace), Some(name), _) => write!(f, "Service {namespace}/{name}"),
            (_, Some(namespace), Some(name), _) => write!(f, "{namespace}/{name}"),
            ("node", ..) => f.write_str("the node"),
            ("host", ..) => f.write_str("a host process"),
            ("unknownPod", _, _, Some(uid)) => write!(f, "an unknown pod (UID {uid})"),
            _ => f.write_str("a process in no known pod"),
        }
    }
}

/// Claims of one owner that differ in the port alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimRow {
    /// Ports in the grammar of the annotation.
    pub ports: String,
    /// Protocol: `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Address; `None` is every address of both families.
    pub address: Option<IpAddr>,
    /// The lowest port.
    pub first_port: u16,
    /// The highest port.
    pub last_port: u16,
    /// Owner of the claims.
    pub owner: ActorView,
    /// Place where they were declared.
    pub source: String,
    /// Standing: `inForce` or `lost`.
    pub standing: String,
    /// Owner whose claim stands in the way.
    pub behind: Option<ActorView>,
    /// Time of their arrival; `None` for the node's, and where the pod says nothing of it.
    pub since: Option<String>,
}

/// A socket that is bound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HolderRow {
    /// Protocol: `tcp` or `udp`.
    pub protocol: String,
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// Holder of the port.
    pub who: ActorView,
    /// Name of the container, or the beginning of its id.
    pub container: Option<String>,
    /// Command of the process that bound it, where that is known.
    pub command: Option<String>,
    /// Id of that process in the node's pid namespace.
    pub pid: Option<u32>,
    /// Since when.
    pub since: String,
    /// The socket was bound then; else it was first seen then.
    pub since_is_exact: bool,
    /// Activity: `bound`, `listening` or `connected`.
    pub activity: Option<String>,
    /// Option `SO_REUSEPORT`, where known.
    pub reuse_port: Option<bool>,
    /// Option `SO_REUSEADDR`, where known.
    pub reuse_address: Option<bool>,
    /// Option `IPV6_V6ONLY`, where known.
    pub v6only: Option<bool>,
    /// User id.
    pub uid: u32,
    /// Id of the cgroup.
    pub cgroup: Option<u64>,
    /// Inode number of the socket.
    pub inode: Option<u32>,
    /// Index of the device that it is bound to.
    pub device: Option<u32>,
}

impl HolderRow {
    /// Formats the target: `0.0.0.0:80/tcp`.
    #[must_use]
    pub fn target(&self) -> String {
        format!("{}/{}", std::net::SocketAddr::new(self.address, self.port), self.protocol)
    }

    /// Formats the name: `default/web-0 (container nginx, command nginx, pid 4711)`, as much of it as is known.
    #[must_use]
    pub fn name(&self) -> String {
        let container = self.container.as_ref().map(|name| format!("container {name}"));
        let command = self.command.as_ref().map(|command| format!("command {command}"));
        let pid = self.pid.map(|pid| format!("pid {pid}"));
        let details: Vec<String> = [container, command, pid].into_iter().flatten().collect();
        if details.is_empty() { self.who.to_string() } else { format!("{} ({})", self.who, details.join(", ")) }
    }
}

/// Returns the address that a bind reaches, for [`Index::judge`].
#[must_use]
pub fn dual_stack(address: IpAddr) -> enforcer_ebpf::decide::Target {
    match address.to_canonical() {
        IpAddr::V4(address) => enforcer_ebpf::decide::Target::V4(address.octets()),
        IpAddr::V6(address) => enforcer_ebpf::decide::Target::V6 { address: address.octets(), v6only: false },
    }
}

/// Formats the port: `80/tcp`.
#[must_use]
pub fn port_name(protocol: Protocol, port: u16) -> String {
    format!("{port}/{}", protocol_name(protocol))
}
