//! Claims of a pod.

use std::collections::HashSet;

use super::{
    annotation::{self, ItemProblem, keep},
    pod::{PORTS_ANNOTATION, Pod, PodProblem},
};
use crate::model::{
    digest::Digest,
    namespace_label::NamespaceLabel,
    port_spec::{Address, PortRange, PortSpec},
    quota::{Quota, QuotaLimit, Remaining},
    source::ClaimSource,
};

/// One claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodClaim {
    /// Ports that are claimed.
    pub spec: PortSpec,
    /// Place where it is declared.
    pub source: ClaimSource,
}

/// Limits for the claims of one pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimLimits {
    /// Most ports. A range counts with its width, and each protocol and each address of a port for itself.
    pub max_ports_per_pod: u32,
    /// Most ports that the label of a namespace may allow in their place; with 0, such labels have no effect.
    pub namespace_max_ports: u32,
}

impl Default for ClaimLimits {
    fn default() -> Self {
        Self { max_ports_per_pod: 1024, namespace_max_ports: 0 }
    }
}

impl ClaimLimits {
    /// No limit at all.
    pub const UNLIMITED: Self = Self { max_ports_per_pod: u32::MAX, namespace_max_ports: 0 };

    /// Returns the limits for the pods of a namespace with this label.
    #[must_use]
    pub fn with_label(self, label: Option<u32>) -> Self {
        let label = label.filter(|_| self.namespace_max_ports > 0);
        let max_ports_per_pod = label.map_or(self.max_ports_per_pod, |label| label.min(self.namespace_max_ports));
        Self { max_ports_per_pod, ..self }
    }
}

/// Returns the number in a label [`NamespaceLabel::MaxPorts`]; `None` if it is none. Digits alone: `+5` and `5k` are
/// mistakes.
#[must_use]
pub fn max_ports_from_label(value: &str) -> Option<u32> {
    let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| value.parse().unwrap_or(u32::MAX))
}

/// Claims of a pod, and its problems.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodClaims {
    /// The claims: declared ports first, then the annotation's items, each in their order. No [`PortSpec`] is there
    /// twice; different ones may overlap.
    pub claims: Vec<PodClaim>,
    /// Problems, each of something that counts for nothing: [`annotation::MAX_PROBLEMS`] at most.
    pub problems: Vec<ClaimProblem>,
    /// Number of problems beyond those.
    pub more_problems: usize,
    /// Something is refused because of [`ClaimLimits::max_ports_per_pod`].
    pub exceeds_limit: bool,
}

impl PodClaims {
    /// Returns the digest of the claims, in their order. It is recorded for the next agent: if the digest of a pod that
    /// is listed again is another one, its claims that are not in force go to the end of the queue.
    ///
    /// So it must cover every fact of a claim that arbitration uses, and must stay the same for the same claims in every
    /// version of the agent.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let fact = |claim: &PodClaim| {
            // The source is for people: a port that moves from the annotation to a hostPort is the same claim.
            let PodClaim { spec, source: _ } = claim;
            spec.to_string()
        };
        let facts: Vec<String> = self.claims.iter().map(fact).collect();
        Digest::of("claims", facts.iter().map(String::as_str))
    }
}

/// Reason why something in a pod's object counts for nothing. A closed list; none of it is fatal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ClaimProblem {
    /// A bad item in the annotation.
    #[error("annotation {PORTS_ANNOTATION}: {0}")]
    Item(ItemProblem),
    /// The annotation is on a pod without host network.
    #[error(
        "annotation {PORTS_ANNOTATION} counts on pods with hostNetwork: true only; declare a hostPort of a container \
         instead"
    )]
    NoHostNetwork,
    /// The claim would exceed [`ClaimLimits::max_ports_per_pod`].
    #[error(
        "{} ({}{}) is refused whole: the pod would claim more than {limit} ports, the limit of --max-ports-per-pod or of \
         the label {} of its namespace",
        claim.spec, claim.source, at(*position), NamespaceLabel::MaxPorts.key()
    )]
    Quota {
        /// The claim that is refused.
        claim: PodClaim,
        /// Its place in the annotation, see [`ItemProblem::position`].
        position: Option<usize>,
        /// Limit of [`ClaimLimits::max_ports_per_pod`].
        limit: u32,
    },
    /// There is no room for the claim: others have too much.
    #[error(
        "{} ({}{}) is refused whole: {limit}, and there is no room for it as long as others have theirs; it counts \
         when the pod changes and there is room",
        claim.spec, claim.source, at(*position)
    )]
    QuotaExceeded {
        /// The claim that is refused.
        claim: PodClaim,
        /// Its place in the annotation, see [`ItemProblem::position`].
        position: Option<usize>,
        /// The limit that is reached.
        limit: QuotaLimit,
    },
    /// Something in the object itself: a declared port or the UID.
    #[error(transparent)]
    Pod(PodProblem),
}

impl ClaimProblem {
    /// Returns its label value in metrics.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Item(_) => "annotation",
            Self::NoHostNetwork => "no_host_network",
            Self::Quota { .. } => "quota",
            Self::QuotaExceeded { .. } => "no_room",
            Self::Pod(PodProblem::UidMissing | PodProblem::UidInvalid { .. }) => "uid",
            Self::Pod(PodProblem::Port { .. } | PodProblem::Protocol { .. } | PodProblem::Address { .. }) => "port",
        }
    }
}

/// Returns the number of entries that a claim can take in the kernel's map of single addresses.
#[must_use]
pub fn single_addresses(spec: &PortSpec) -> u32 {
    match spec.address {
        Address::V4(address) if !address.is_unspecified() => spec.ports.len(),
        Address::V6(address) if !address.is_unspecified() => spec.ports.len(),
        _ => 0,
    }
}

fn at(position: Option<usize>) -> String {
    position.map(|position| format!(" at character {position}")).unwrap_or_default()
}

/// Returns the claims of a pod, whatever its phase: the life of claims is not looked at here.
///
/// Ports count up to the limit, declared ports first, then the annotation's items. What would exceed it is refused
/// whole, and smaller claims that come later may still fit. A claim that repeats another one word for word counts
/// once; two that merely overlap (`80` and `80-81`, or `80` and `127.0.0.1:80`) count both, so that the sum does not
/// depend on their order.
#[must_use]
pub fn claims_of(pod: &Pod, limits: &ClaimLimits) -> PodClaims {
    claims_within_quota(pod, limits, &Quota::UNLIMITED)
}

/// Returns the claims of a pod within a quota: what exceeds it is refused whole, in the same order.
#[must_use]
pub fn claims_within_quota(pod: &Pod, limits: &ClaimLimits, room: &Quota) -> PodClaims {
    // Every fact of a pod is either read here, and then in the digest of the claims, or changes no claim.
    let Pod {
        host_network,
        ports_annotation,
        ports,
        problems,
        more_problems,
        // Who the pod is, its rank and its group.
        namespace: _,
        name: _,
        uid: _,
        uid_text: _,
        node_name: _,
        workload: _,
        revision: _,
        share: _,
        mirror: _,
        config_hash: _,
        // How long its claims live, and since when.
        phase: _,
        deletion: _,
        arrival: _,
        // For messages, and for reports.
        containers: _,
        probes: _,
    } = pod;
    let mut book =
        ClaimCollector { limits, room, ports: 0, addresses: 0, seen: HashSet::new(), result: PodClaims::default() };
    for problem in problems {
        book.problem(ClaimProblem::Pod(problem.clone()));
    }
    book.result.more_problems += *more_problems;
    for port in ports {
        let Ok(ports) = PortRange::single(port.host_port) else {
            continue;
        };
        let spec = PortSpec { protocol: port.protocol, address: port.host_ip, ports };
        book.claim(PodClaim { spec, source: ClaimSource::HostPort }, None);
    }
    match ports_annotation {
        None => {}
        Some(_) if !host_network => book.problem(ClaimProblem::NoHostNetwork),
        Some(text) => {
            for (position, item) in annotation::items(text) {
                match item {
                    Ok(spec) => book.claim(PodClaim { spec, source: ClaimSource::Annotation }, Some(position)),
                    Err(problem) => book.problem(ClaimProblem::Item(problem)),
                }
            }
        }
    }
    book.result
}

/// Claims as they are taken in.
struct ClaimCollector<'a> {
    limits: &'a ClaimLimits,
    room: &'a Quota,
    /// Number of ports that are taken in.
    ports: u32,
    /// Number of ports on a single address, which count among the former too.
    addresses: u32,
    /// Specs taken in, never more than there are ports.
    seen: HashSet<PortSpec>,
    result: PodClaims,
}

impl ClaimCollector<'_> {
    fn claim(&mut self, claim: PodClaim, position: Option<usize>) {
        if self.seen.contains(&claim.spec) {
            return;
        }
        let limit = self.limits.max_ports_per_pod;
        let ports = self.ports.saturating_add(claim.spec.ports.len());
        if ports > limit {
            self.result.exceeds_limit = true;
            self.problem(ClaimProblem::Quota { claim, position, limit });
            return;
        }
        let addresses = self.addresses.saturating_add(single_addresses(&claim.spec));
        let full = |count: u32, left: &Remaining| (count as usize > left.most).then_some(left.limit);
        if let Some(limit) = full(addresses, &self.room.addresses).or_else(|| full(ports, &self.room.claims)) {
            self.problem(ClaimProblem::QuotaExceeded { claim, position, limit });
            return;
        }
        self.ports = ports;
        self.addresses = addresses;
        self.seen.insert(claim.spec);
        self.result.claims.push(claim);
    }

    fn problem(&mut self, problem: ClaimProblem) {
        keep(&mut self.result.problems, &mut self.result.more_problems, problem);
    }
}

#[cfg(test)]
mod tests;
