//! From a pod to what it claims.

use std::collections::HashSet;

use super::{
    annotation::{self, ItemProblem, keep},
    pod::{PORTS_ANNOTATION, Pod, PodProblem},
};
use crate::model::{
    port_spec::{Address, PortRange, PortSpec},
    quota::{Quota, QuotaLimit, Remaining},
    source::ClaimSource,
};

/// One claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodClaim {
    /// What is claimed.
    pub spec: PortSpec,
    /// Where it was said.
    pub source: ClaimSource,
}

/// What one pod may claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimLimits {
    /// Most ports. A range counts with its width, and each protocol and each address of a port for itself.
    pub max_ports_per_pod: u32,
}

impl Default for ClaimLimits {
    fn default() -> Self {
        Self { max_ports_per_pod: 1024 }
    }
}

/// What a pod claims, and what it said in vain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodClaims {
    /// The claims: declared ports first, then the annotation's items, each in their order. No [`PortSpec`] is there
    /// twice; different ones may overlap.
    pub claims: Vec<PodClaim>,
    /// What counts for nothing, [`annotation::MAX_PROBLEMS`] at most.
    pub problems: Vec<ClaimProblem>,
    /// How many problems there were beyond those.
    pub more_problems: usize,
}

/// Why something that a pod says counts for nothing. A closed list; none of it is fatal.
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
    /// The claim would exceed [`Limits::max_ports_per_pod`].
    #[error(
        "{} ({}{}) is refused whole: the pod would claim more than {limit} ports",
        claim.spec, claim.source, at(*position)
    )]
    Quota {
        /// What is refused.
        claim: PodClaim,
        /// Where in the annotation it stands, see [`Problem::position`].
        position: Option<usize>,
        /// [`Limits::max_ports_per_pod`].
        limit: u32,
    },
    /// There is no room for the claim: others have too much.
    #[error(
        "{} ({}{}) is refused whole: {limit}, and there is no room for it as long as others have theirs; it counts \
         when the pod changes and there is room",
        claim.spec, claim.source, at(*position)
    )]
    QuotaExceeded {
        /// What is refused.
        claim: PodClaim,
        /// Where in the annotation it stands, see [`Problem::position`].
        position: Option<usize>,
        /// What stands in the way.
        limit: QuotaLimit,
    },
    /// Something in the object itself: a declared port or the UID.
    #[error(transparent)]
    Pod(PodProblem),
}

impl ClaimProblem {
    /// The word for metrics.
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

/// How many entries a claim can take in the kernel's map of single addresses.
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

/// What a pod claims, whatever its phase: the life of claims is not looked at here.
///
/// Ports count up to the limit, declared ports first, then the annotation's items. What would exceed it is refused
/// whole, and smaller claims that come later may still fit. A claim that repeats another one word for word counts
/// once; two that merely overlap (`80` and `80-81`, or `80` and `127.0.0.1:80`) count both, so that the sum does not
/// depend on their order.
#[must_use]
pub fn claims_of(pod: &Pod, limits: &ClaimLimits) -> PodClaims {
    claims_within_quota(pod, limits, &Quota::UNLIMITED)
}

/// What a pod claims where others claim too: what there is no room for is refused whole, in the same order.
#[must_use]
pub fn claims_within_quota(pod: &Pod, limits: &ClaimLimits, room: &Quota) -> PodClaims {
    let mut book =
        ClaimCollector { limits, room, ports: 0, addresses: 0, seen: HashSet::new(), result: PodClaims::default() };
    for problem in &pod.problems {
        book.problem(ClaimProblem::Pod(problem.clone()));
    }
    book.result.more_problems += pod.more_problems;
    for port in &pod.ports {
        let Ok(ports) = PortRange::single(port.host_port) else {
            continue;
        };
        let spec = PortSpec { protocol: port.protocol, address: port.host_ip, ports };
        book.claim(PodClaim { spec, source: ClaimSource::HostPort }, None);
    }
    match &pod.ports_annotation {
        None => {}
        Some(_) if !pod.host_network => book.problem(ClaimProblem::NoHostNetwork),
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
    /// How many ports are taken in.
    ports: u32,
    /// Of these, how many on a single address.
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
