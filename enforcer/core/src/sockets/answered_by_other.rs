//! Ports of Ready pods that somebody else answers: the pod's bind failed and it lives on, the port is shared, or the pod
//! never bound it.
//!
//! A probe connects to one address. The kernel prefers a socket on exactly that address, then one on the wildcard address of
//! the family, then a dual-stack one (`__inet_lookup_listener` in `net/ipv4/inet_hashtables.c`): only sockets on the best
//! of these three answer. A declared port without `hostIP` is for every address. Another one on it counts
//! if the pod has no socket there, if the two overlap, or if the other one answers at the pod's own address; two servers
//! on two addresses of the node are no news.
//!
//! The pod, its share group and its siblings are one party, and so is nobody who goes: terminating pods, and pods that no
//! source names, which are gone from it or about to come.

#[cfg(test)]
pub(in crate::sockets) mod tests;

use std::{
    collections::HashSet,
    fmt,
    net::{IpAddr, SocketAddr},
};

use enforcer_ebpf::wire::Protocol;

use crate::{
    index::{Index, ReadyPod},
    model::{
        actor::{Actor, Audience},
        kernel_ids::SocketCookie,
        owner::OwnerId,
        port_spec::{Address, PortSpec, protocol_name},
        text::escape,
    },
    pods::probes::ProbeTarget,
    sockets::{
        Activity, BoundSocket, BoundSockets, NamedSocket, SocketOwner,
        live_conflict::{covers, is_in},
    },
};

/// Index of the loopback device, through which the kubelet reaches every address of its own node.
const LOOPBACK_DEVICE: u32 = 1;

/// Port of a pod that another one answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AnsweredPort {
    /// A probe connects to this address and TCP port.
    Probed(IpAddr, u16),
    /// The pod declares it.
    Declared(Address, u16, Protocol),
}

impl AnsweredPort {
    /// Returns the protocol.
    #[must_use]
    pub const fn protocol(self) -> Protocol {
        match self {
            Self::Probed(..) => Protocol::Tcp,
            Self::Declared(.., protocol) => protocol,
        }
    }

    /// Returns the port.
    #[must_use]
    pub const fn port(self) -> u16 {
        match self {
            Self::Probed(_, port) | Self::Declared(_, port, _) => port,
        }
    }
}

/// Writes `10.0.0.5:8000/tcp`, or `8000/tcp` for every address.
impl fmt::Display for AnsweredPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (address, protocol) = match *self {
            Self::Probed(address, _) => (Some(address), Protocol::Tcp),
            Self::Declared(address, _, protocol) => (address.ip(), protocol),
        };
        match address {
            Some(address) => SocketAddr::new(address, self.port()).fmt(f)?,
            None => self.port().fmt(f)?,
        }
        write!(f, "/{}", protocol_name(protocol))
    }
}

/// A port of a Ready pod that another one answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnsweredByOther {
    /// The pod.
    pub pod: Actor,
    /// The port.
    pub port: AnsweredPort,
    /// Socket of the other one.
    pub holder: NamedSocket,
    /// The pod has the port too.
    pub is_shared: bool,
}

impl AnsweredByOther {
    /// Returns both sides by name, the pod first.
    #[must_use]
    pub const fn sides(&self) -> [&Actor; 2] {
        [&self.pod, &self.holder.who]
    }

    /// Returns the sentence for the log and the Events.
    #[must_use]
    pub fn sentence(&self, node: &str, audience: Audience) -> String {
        let Self { pod, port, holder, is_shared } = self;
        let (node, target, holder) = (escape(node), holder.holder.target(), holder.name(audience));
        let what = match (port, is_shared) {
            (AnsweredPort::Probed(..), false) => {
                format!("its probe on {port} is answered by {holder}, which holds {target}")
            }
            (AnsweredPort::Probed(..), true) => {
                format!("its probe on {port} is answered by {holder} too, which holds {target} at the same time")
            }
            (AnsweredPort::Declared(..), false) => {
                format!("{port}, which it declares, is held by {holder} as {target}")
            }
            (AnsweredPort::Declared(..), true) => {
                format!("{port}, which it declares, is held by {holder} too, as {target}")
            }
        };
        format!("{pod} is Ready on {node}, but {what}; give one of the two another port")
    }
}

/// Identity of such a port, for as long as it is answered by the same party.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct AnswerKey {
    pub(super) pod: OwnerId,
    protocol: Protocol,
    port: u16,
    holder: SocketOwner,
}

/// A port that another one answers, as it is found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Finding<'a> {
    pub(super) port: AnsweredPort,
    pub(super) holder: &'a BoundSocket,
    pub(super) is_shared: bool,
    /// The kernel's diagnostics show that the socket serves.
    pub(super) is_confirmed: bool,
}

/// Sockets, pods, and what is no conflict.
#[derive(Clone, Copy)]
pub struct AnswerInputs<'a> {
    /// The sockets.
    pub sockets: &'a BoundSockets,
    /// The pods.
    pub index: &'a Index,
    /// Ports that many processes may bind on purpose.
    pub shared: &'a [PortSpec],
    /// Tells the agent's own sockets, of which nothing is reported.
    pub is_own: &'a dyn Fn(SocketCookie) -> bool,
}

/// Finds the ports of a pod that another one answers, each of the other parties once for a port.
pub(super) fn find<'a>(inputs: &AnswerInputs<'a>, pod: &ReadyPod<'_>, mut found: impl FnMut(AnswerKey, Finding<'a>)) {
    let mut seen: HashSet<AnswerKey> = HashSet::new();
    let mut report = |finding: Finding<'a>| {
        let holder = inputs.sockets.place(finding.holder).party;
        let key = AnswerKey { pod: pod.id, protocol: finding.port.protocol(), port: finding.port.port(), holder };
        if seen.insert(key) {
            found(key, finding);
        }
    };
    // Probes first: they say more than a declaration.
    for target in &pod.probes.targets {
        probed(inputs, pod, target, &mut report);
    }
    for claim in pod.claims {
        declared(inputs, pod, &claim.spec, &mut report);
    }
}

fn probed<'a>(
    inputs: &AnswerInputs<'a>,
    pod: &ReadyPod<'_>,
    target: &ProbeTarget,
    report: &mut impl FnMut(Finding<'a>),
) {
    let serving = inputs.sockets.on(Protocol::Tcp, target.port).filter(|socket| may_serve(socket));
    let serving: Vec<&BoundSocket> = serving.filter(|socket| !is_shared_port(inputs, socket)).collect();
    let answering = answering(&serving, target.address, target.is_local);
    let is_shared = answering.iter().any(|socket| is_of(inputs, pod, socket));
    let port = AnsweredPort::Probed(target.address, target.port);
    report_others(inputs, pod, &answering, |holder| Some(Finding::new(port, holder, is_shared)), report);
}

fn declared<'a>(inputs: &AnswerInputs<'a>, pod: &ReadyPod<'_>, spec: &PortSpec, report: &mut impl FnMut(Finding<'a>)) {
    let serving = inputs.sockets.on_range(spec.protocol, spec.ports).filter(|socket| {
        let is_unicast = !socket.address.is_multicast();
        may_serve(socket) && is_unicast && covers(spec.address, socket) && !is_shared_port(inputs, socket)
    });
    let serving: Vec<&BoundSocket> = serving.collect();
    let address = pod.probes.address.filter(|address| spec.address.covers(Address::new(*address)));
    for on_port in serving.chunk_by(|one, other| one.port == other.port) {
        let own: Vec<&BoundSocket> = on_port.iter().copied().filter(|socket| is_of(inputs, pod, socket)).collect();
        let answering = address.map(|address| answering(on_port, address, true)).unwrap_or_default();
        let finding = |holder: &'a BoundSocket| {
            let is_shared = own.iter().any(|own| own.overlaps(holder));
            let is_answering = answering.iter().any(|socket| socket.cookie == holder.cookie);
            let port = AnsweredPort::Declared(spec.address, holder.port, holder.protocol);
            (own.is_empty() || is_shared || is_answering).then(|| Finding::new(port, holder, is_shared))
        };
        report_others(inputs, pod, on_port, finding, report);
    }
}

impl<'a> Finding<'a> {
    fn new(port: AnsweredPort, holder: &'a BoundSocket, is_shared: bool) -> Self {
        Self { port, holder, is_shared, is_confirmed: holder.activity.is_some() }
    }
}

/// Reports the sockets of others, first those that are confirmed.
fn report_others<'a>(
    inputs: &AnswerInputs<'a>,
    pod: &ReadyPod<'_>,
    sockets: &[&'a BoundSocket],
    finding: impl Fn(&'a BoundSocket) -> Option<Finding<'a>>,
    report: &mut impl FnMut(Finding<'a>),
) {
    let others = sockets.iter().filter(|socket| is_of_other(inputs, pod, socket));
    let findings: Vec<Finding<'a>> = others.filter_map(|socket| finding(socket)).collect();
    let (confirmed, others): (Vec<_>, Vec<_>) = findings.into_iter().partition(|finding| finding.is_confirmed);
    confirmed.into_iter().chain(others).for_each(report);
}

/// Checks whether a socket takes what anybody sends, as far as is known.
fn may_serve(socket: &BoundSocket) -> bool {
    match socket.activity {
        None | Some(Activity::Listening) => true,
        Some(Activity::Bound) => socket.protocol == Protocol::Udp,
        Some(Activity::Connected) => false,
    }
}

/// Returns the sockets to which the kernel gives what is sent to an address of the node.
fn answering<'a>(serving: &[&'a BoundSocket], address: IpAddr, is_local: bool) -> Vec<&'a BoundSocket> {
    let rank = |socket: &BoundSocket| {
        if socket.device.is_some_and(|device| device != LOOPBACK_DEVICE) {
            return None;
        }
        match (socket.address, address) {
            (one, other) if one == other => Some(0),
            // Nobody knows whether the address is this node's.
            _ if !is_local => None,
            (IpAddr::V4(any), IpAddr::V4(_)) if any.is_unspecified() => Some(1),
            (IpAddr::V6(any), IpAddr::V6(_)) if any.is_unspecified() => Some(1),
            (IpAddr::V6(any), IpAddr::V4(_)) if any.is_unspecified() && socket.v6only != Some(true) => Some(2),
            _ => None,
        }
    };
    let best = serving.iter().filter_map(|socket| rank(socket)).min();
    serving.iter().copied().filter(|socket| best.is_some() && rank(socket) == best).collect()
}

/// Checks whether a socket is of the pod or of one that may hold its ports.
fn is_of(inputs: &AnswerInputs<'_>, pod: &ReadyPod<'_>, socket: &BoundSocket) -> bool {
    let owner = socket.cgroup.and_then(|cgroup| inputs.index.owner_by_cgroup(cgroup));
    owner.is_some_and(|owner| inputs.index.may_hold(Some(owner), false, pod.id))
}

/// Checks whether a socket is of another party that stays.
fn is_of_other(inputs: &AnswerInputs<'_>, pod: &ReadyPod<'_>, socket: &BoundSocket) -> bool {
    let Some(cgroup) = socket.cgroup else {
        // Nobody knows whose it is.
        return false;
    };
    if (inputs.is_own)(socket.cookie) {
        return false;
    }
    match (inputs.index.owner_by_cgroup(cgroup), inputs.sockets.place(socket).party) {
        (Some(owner), _) => {
            let is_leaving = inputs.index.owner(owner).is_none_or(|owner| owner.terminating);
            !is_leaving && !inputs.index.may_hold(Some(owner), false, pod.id)
        }
        (None, SocketOwner::Pod(_)) => false,
        (None, SocketOwner::Host | SocketOwner::Unplaced) => true,
    }
}

fn is_shared_port(inputs: &AnswerInputs<'_>, socket: &BoundSocket) -> bool {
    inputs.shared.iter().any(|spec| is_in(spec, socket))
}
