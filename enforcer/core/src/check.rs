//! Conflicts and other faults among manifests, before anything is deployed.
//!
//! | from | to | in |
//! | --- | --- | --- |
//! | a document | values with their lines | [`crate::yaml`] |
//! | such values | the objects that make pods, and what each pod claims | [`object`] |
//! | objects that are there already | context for new ones | [`existing`] |
//! | their specs | how many pods at once, and on which nodes | [`replica_count`], [`placement`] |
//! | the claims of all | which exclude each other, to the agent or to the scheduler | [`mod@pairs`], [`scheduler_ports`] |
//! | Services | ports that they take on nodes, and where their connections arrive | `services`, `endpoints` |
//! | claims, and what nodes and others use | claims on ports of somebody else | `reserved`, `port_ranges`, [`registry`] |
//! | all of it | findings with a remedy | [`finding`] |
//! | findings | what each is called by machines, and which of them a baseline accepts | [`fingerprint`], [`baseline`], [`rules`] |
//!
//! The rules of the agent decide what a pod claims and which claims exclude each other: [`crate::pods::claims`] and
//! [`crate::arbitration::arbiter`].

pub mod baseline;
mod endpoints;
pub mod existing;
pub mod finding;
pub mod fingerprint;
mod free_ports;
mod messages;
pub mod object;
pub mod pairs;
pub mod placement;
mod port_demand;
mod port_ranges;
pub mod registry;
pub mod replica_count;
pub mod reserved;
pub mod rules;
pub mod scheduler_ports;
mod services;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    iter,
    sync::Arc,
};

use crate::{
    check::{
        finding::{Code, Finding, Severity},
        object::{Location, ManifestObject, ManifestService, OtherKinds, Remark, Unreadable},
        pairs::{Overlap, Pair, PairSide, exclude, pairs},
        placement::{CoPlacement, Placement},
        port_demand::PortDemand,
        registry::PortRegistry,
        replica_count::ReplicaCount,
        reserved::KubernetesPorts,
    },
    model::{
        free_ports::AllocatedRanges,
        owner::{ClaimGroup, OwnerId},
        port_spec::{PortRange, PortSpec},
        source::ClaimSource,
    },
    pods::claims::{ClaimLimits, PodClaim},
};

/// Most findings that are kept; the others are counted. Errors are kept before warnings, and these before notes.
const MAX_FINDINGS: usize = 10_000;

/// Facts about the cluster.
#[derive(Clone, Debug, Default)]
pub struct CheckSettings {
    /// Number of nodes; `None` if it is not known.
    pub nodes: Option<u32>,
    /// The node's own claims.
    pub node_reserved: Vec<PortSpec>,
    /// Whether the components of Kubernetes have their ports.
    pub kubernetes_ports: KubernetesPorts,
    /// Ranges of which ports are given to Services and to outgoing connections.
    pub allocated: AllocatedRanges,
    /// The load balancer of k3s makes a `DaemonSet` with host ports of each Service of type `LoadBalancer`.
    pub service_lb: bool,
    /// Table of ports and their users.
    pub registry: Option<PortRegistry>,
    /// Limits of one pod.
    pub limits: ClaimLimits,
}

/// Findings of a check.
#[derive(Clone, Debug, Default)]
pub struct CheckResult {
    /// The findings by file, in the order of the input, and line. If some were left out, by severity before that.
    pub findings: Vec<Finding>,
    /// Counts of findings beyond those: errors, warnings and notes.
    pub more: [usize; 3],
    /// Counts of the findings that are kept, by severity.
    kept: [usize; 3],
}

impl CheckResult {
    /// Adds a finding, or counts it if there are too many of its severity.
    pub fn push(&mut self, finding: Finding) {
        let severity = finding.severity as usize;
        if self.kept[severity] < MAX_FINDINGS {
            self.kept[severity] += 1;
            self.findings.push(finding);
        } else {
            self.more[severity] += 1;
        }
    }

    /// Leaves out the findings that are too many, the least severe ones first.
    fn truncate(&mut self) {
        if self.findings.len() > MAX_FINDINGS {
            self.findings.sort_by_key(|finding| finding.severity);
            for finding in self.findings.drain(MAX_FINDINGS..) {
                self.more[finding.severity as usize] += 1;
            }
        }
    }

    /// Counts the findings of a severity.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.more[severity as usize] + self.findings.iter().filter(|finding| finding.severity == severity).count()
    }
}

/// Objects of all manifests.
#[derive(Clone, Debug, Default)]
pub struct ManifestSet {
    /// The files, safe to show, in the order of the input.
    pub files: Vec<Arc<str>>,
    /// The objects that make pods, in the order of the input.
    pub objects: Vec<ManifestObject>,
    /// The Services, in the order of the input.
    pub services: Vec<ManifestService>,
    /// Labels of namespaces with the most ports that one of their pods may claim.
    pub port_limits: BTreeMap<String, u32>,
    /// Count of documents that could be read.
    pub documents: usize,
    /// Count of objects of other kinds, of which nothing was compared.
    pub ignored: usize,
    /// The other kinds, also those of which the pod templates are among the objects.
    pub other_kinds: OtherKinds,
    /// Parts of the input that are not read because they are no manifests.
    pub remarks: Vec<Remark>,
    /// Documents that could not be read.
    pub unreadable: Vec<Unreadable>,
    /// Count of those beyond that could not be read.
    pub more_unreadable: usize,
}

impl ManifestSet {
    /// Applies the labels of namespaces to the objects in them, wherever they stand in the input.
    pub fn apply_port_limits(&mut self, limits: &ClaimLimits) {
        for object in &mut self.objects {
            if let Some(label) = self.port_limits.get(&object.namespace) {
                object.limit_claims(&limits.with_label(Some(*label)));
            }
        }
    }
}

/// Checks the manifests of one cluster.
#[must_use]
pub fn check(manifests: &ManifestSet, settings: &CheckSettings) -> CheckResult {
    let ManifestSet {
        files,
        objects,
        services,
        port_limits: _,
        documents: _,
        ignored: _,
        other_kinds,
        remarks,
        unreadable,
        more_unreadable,
    } = manifests;
    let mut outcome = CheckResult::default();
    for part in unreadable {
        outcome.push(messages::unreadable(part));
    }
    for remark in remarks {
        outcome.push(messages::remark(remark));
    }
    for ((version, kind), other) in &other_kinds.kinds {
        if other.with_template > 0 {
            outcome.push(messages::other_kind(version, kind, other));
        }
    }
    outcome.more[Severity::Error as usize] += more_unreadable;
    for object in objects.iter().filter(|object| !object.existing) {
        messages::problems(object, &mut outcome);
    }
    let objects = first_of_each(objects, &mut outcome);
    let services = services::first_of_each(services, &mut outcome);
    let shadowed = services::check_services(&objects, &services, settings, &mut outcome);
    endpoints::check_endpoints(&objects, &services, &mut outcome);
    registry::check_registry(&objects, &services, settings, &mut outcome);
    let mut numbers = GroupNumbers::default();
    let ids = iter::successors(Some(OwnerId::FIRST), |id| Some(id.saturating_add(1)));
    let groups: Vec<ClaimGroup> = ids.zip(&objects).map(|(id, object)| numbers.group(id, object)).collect();
    let demand = PortDemand::of(&objects);
    for (place, (object, &group)) in objects.iter().zip(&groups).enumerate() {
        if object.scale.replicas() != Some(0) && !object.existing {
            reserved::check_reserved(object, group, settings, &mut outcome);
            port_ranges::check_ranges(object, settings, &shadowed[place], &mut outcome);
            check_replicas(object, group, demand.of_object(place, object), settings, &mut outcome);
            if let Some(line) = object.unknown_ports {
                outcome.push(messages::unknown_ports(object, line));
            }
        }
    }
    let holders: Vec<PairSide<'_>> = objects
        .iter()
        .zip(&groups)
        .map(|(object, &group)| {
            let none = object.scale.replicas() == Some(0);
            let claims: &[PodClaim] = if none { &[] } else { &object.claims };
            PairSide { group, claims, scheduler_ports: &object.scheduler_ports, existing: object.existing }
        })
        .collect();
    let found = pairs(&holders);
    for (&(first, second), pair) in &found.pairs {
        let competitors = demand.of_pair((first, second), &objects);
        conflict(objects[first], objects[second], pair, competitors, settings, &mut outcome);
    }
    if let Some(last) = objects.last().filter(|_| found.gave_up) {
        outcome.push(messages::gave_up(Location { line: None, ..last.place.clone() }));
    }
    free_ports::propose(manifests, settings, &mut outcome);
    let mut order: HashMap<&str, usize> = HashMap::new();
    for (place, file) in files.iter().enumerate() {
        order.entry(file).or_insert(place);
    }
    outcome.truncate();
    let left_out = outcome.more.iter().any(|count| *count > 0);
    outcome.findings.sort_by_key(|finding| {
        let place = (order.get(&*finding.place.file).copied(), finding.place.line);
        (left_out.then_some(finding.severity), place, finding.severity, finding.code)
    });
    outcome
}

/// Returns the objects without those that are there already: of one object that is there twice, the first one counts.
fn first_of_each<'a>(objects: &'a [ManifestObject], outcome: &mut CheckResult) -> Vec<&'a ManifestObject> {
    let mut seen: HashMap<_, &ManifestObject> = HashMap::new();
    let mut first = Vec::new();
    for object in objects {
        if object.generated {
            first.push(object);
            continue;
        }
        match seen.entry(object.key()) {
            Entry::Vacant(entry) => {
                entry.insert(object);
                first.push(object);
            }
            Entry::Occupied(_) if object.existing => {}
            Entry::Occupied(entry) => outcome.push(messages::duplicate(object, entry.get())),
        }
    }
    first
}

/// Numbers of the share groups, as the index gives them.
#[derive(Default)]
struct GroupNumbers<'a> {
    known: HashMap<(&'a str, &'a str), u32>,
}

impl<'a> GroupNumbers<'a> {
    /// Returns the group that the claims of an object's pods are for.
    fn group(&mut self, id: OwnerId, object: &'a ManifestObject) -> ClaimGroup {
        let Some(share) = &object.share else {
            return ClaimGroup::Pod(id);
        };
        let next = u32::try_from(self.known.len()).unwrap_or(u32::MAX);
        ClaimGroup::Group(*self.known.entry((&object.namespace, share)).or_insert(next))
    }
}

/// Checks the object's pods among themselves. `competitors`: the count of pods that want its port on its nodes, if the
/// scheduler keeps them apart.
fn check_replicas(
    object: &ManifestObject,
    group: ClaimGroup,
    competitors: u32,
    settings: &CheckSettings,
    outcome: &mut CheckResult,
) {
    if object.is_custom() {
        // How many pods there are, and how they are updated, is up to its controller.
        return;
    }
    // Another pod of the same object: itself again if they share, else somebody else. The kernel refuses its bind though
    // siblings deny each other nothing, and the scheduler knows no share.
    let other = if let ClaimGroup::Pod(id) = group { ClaimGroup::Pod(id.saturating_add(1)) } else { group };
    let twice = |claim: &&PodClaim| {
        claim.source == ClaimSource::HostPort || exclude((group, &claim.spec), (other, &claim.spec))
    };
    let Some(claim) = object.claims.iter().find(twice) else {
        return;
    };
    let (replicas, update) = match object.scale {
        ReplicaCount::EveryNode { surge } => {
            // One that the API server refuses never begins.
            if surge && object.refusals.iter().all(|refusal| refusal.code != Code::Surge) {
                outcome.push(messages::daemon_set_surge(object, claim));
            }
            return;
        }
        ReplicaCount::Count { replicas, update } => (replicas, update),
    };
    let named = object.placement.node_count();
    if named == Some(0) {
        // No node suits it, whatever it claims.
        return;
    }
    let nodes = [named, settings.nodes].into_iter().flatten().min();
    // How many of the nodes have the labels, nobody said.
    let is_some_of = named.is_none() && nodes.is_some() && object.placement.is_selective();
    if nodes.map_or(replicas > 1, |nodes| replicas > nodes) {
        outcome.push(messages::replicas(object, claim, replicas, nodes));
    } else if is_some_of && replicas > 1 {
        outcome.push(messages::replicas(object, claim, replicas, None));
    }
    let pods = competitors.max(replicas);
    if let Some(update) = update
        && update.surge > 0
        // Too many pods are reported already.
        && nodes.is_none_or(|nodes| pods <= nodes)
    {
        let most = pods.saturating_add(update.surge);
        if nodes.is_none_or(|nodes| most > nodes) {
            outcome.push(messages::surge(object, claim, update, (replicas, pods), nodes));
        } else if is_some_of {
            outcome.push(messages::surge(object, claim, update, (replicas, pods), None));
        }
    }
}

/// Facts to report about two objects of which no two pods can share a node.
struct PairConflict<'a> {
    first: &'a ManifestObject,
    second: &'a ManifestObject,
    pair: &'a Pair,
    meeting: CoPlacement,
    /// The scheduler sees the conflict, and so never places them on one node.
    scheduler: bool,
    /// Their pod anti-affinity keeps them apart.
    keeps_apart: bool,
    /// Count of pods of both and of those that want the same; `None` if there is one on every node.
    pods: Option<u32>,
    /// Count of nodes for them.
    nodes: Option<u32>,
}

fn conflict(
    first: &ManifestObject,
    second: &ManifestObject,
    pair: &Pair,
    competitors: u32,
    settings: &CheckSettings,
    outcome: &mut CheckResult,
) {
    let meeting = first.placement.co_placement(&second.placement);
    if meeting == CoPlacement::Never {
        return;
    }
    let custom = first.is_custom() || second.is_custom();
    let counted = |count: Option<u32>| count.filter(|_| !custom);
    let pods = first.scale.replicas().zip(second.scale.replicas());
    let pods = pods.map(|(one, other)| one.saturating_add(other).max(competitors));
    let named = [&first.placement, &second.placement].map(Placement::node_count);
    // Where both suit the same nodes, those that they name are all that there are for them.
    let named = named.into_iter().flatten().min().filter(|_| meeting == CoPlacement::Free);
    let keeps_apart = first.placement.keeps_apart(&second.placement);
    outcome.push(messages::conflict(&PairConflict {
        first,
        second,
        pair,
        meeting,
        // One overlap that it sees keeps the pods apart, whatever else they claim.
        scheduler: keeps_apart || pair.overlaps.iter().any(|overlap| overlap.seen_by_scheduler),
        keeps_apart,
        pods: counted(pods),
        nodes: counted([named, settings.nodes].into_iter().flatten().min()),
    }));
}

/// Returns the ports of which both of an overlap's claims speak.
fn common(overlap: &Overlap) -> Option<PortRange> {
    let (one, other) = (overlap.first.spec.ports, overlap.second.spec.ports);
    PortRange::new(one.first().max(other.first()), one.last().min(other.last())).ok()
}
