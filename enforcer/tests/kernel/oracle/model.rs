//! The rules in the plainest words: addresses are sets, claims are a list, and everybody is compared with everybody.

use std::collections::BTreeSet;

use enforcer_ebpf::wire::{Reason, VerdictKind};

use enforcer_testing::reconciler_fixture::features;

use super::case::{Attempt, Case, Claim, Member, NODE_CLAIMS, SERVICE_CLAIM, UNRESOLVED};

/// Every address there is in this world. The last one of each family is claimed by nobody alone.
const V4: [&str; 3] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
const V6: [&str; 3] = ["2001:db8::1", "2001:db8::2", "2001:db8::3"];

/// The addresses that a claim or a socket on this one covers.
fn covers(address: &'static str) -> BTreeSet<&'static str> {
    match address {
        "*" | "::" => V4.into_iter().chain(V6).collect(),
        "0.0.0.0" | "unspec" | "::ffff:0.0.0.0" => V4.into(),
        "only ::" if features().probe_read => V6.into(),
        // Where the option cannot be read, the socket counts as dual-stack.
        "only ::" => covers("::"),
        address => [address.strip_prefix("::ffff:").unwrap_or(address)].into(),
    }
}

/// Who claims: the node, the Service, or a pod by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Node,
    Service,
    Pod(usize),
}

/// A claim on one port.
#[derive(Clone, Debug)]
pub(super) struct Claimed {
    pub(super) by: By,
    pub(super) port: u16,
    pub(super) udp: bool,
    pub(super) address: &'static str,
}

impl Claimed {
    fn overlaps(&self, port: u16, udp: bool, address: &'static str) -> bool {
        self.port == port && self.udp == udp && !covers(self.address).is_disjoint(&covers(address))
    }
}

/// What is in force.
#[derive(Debug)]
pub(super) struct World {
    pub(super) in_force: Vec<Claimed>,
}

/// What the rules say of an attempt.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) verdict: VerdictKind,
    /// Where several claims overlap, one of several reasons is as good as another.
    pub(super) reasons: Vec<Reason>,
    /// A conflict that the kernel may miss.
    pub(super) or_allow: bool,
}

impl Rule {
    pub(super) fn holds(&self, verdict: VerdictKind, reason: Reason) -> bool {
        (self.verdict == verdict && self.reasons.contains(&reason)) || (self.or_allow && verdict == VerdictKind::Allow)
    }
}

pub(super) fn is_static(place: usize) -> bool {
    place == 4
}

fn is_software(case: &Case, place: usize) -> bool {
    is_static(place) || member(case, place).is_some_and(|member| member.namespace == "kube-system")
}

fn member(case: &Case, place: usize) -> Option<&Member> {
    case.members.get(place).and_then(Option::as_ref)
}

/// Of one share group: a name within a namespace.
fn share(one: &Member, other: &Member) -> bool {
    one.share.is_some() && (one.namespace, one.share) == (other.namespace, other.share)
}

/// Of one workload: a controller within a namespace.
fn same_workload(one: &Member, other: &Member) -> bool {
    one.workload.is_some() && (one.namespace, one.workload) == (other.namespace, other.workload)
}

impl World {
    pub(super) fn of(case: &Case) -> Self {
        let node = NODE_CLAIMS.map(|(port, udp, address)| Claimed { by: By::Node, port, udp, address });
        let mut pods: Vec<&Member> = case.members.iter().flatten().collect();
        // Static pods; pods of the system namespaces; then arrival; then namespace and name.
        pods.sort_by_key(|pod| {
            let class = match () {
                () if is_static(pod.place) => 0,
                () if pod.namespace == "kube-system" => 1,
                () => 2,
            };
            (class, pod.arrival, pod.namespace, pod.name())
        });
        let claims = |pods: &[&Member]| {
            let of = |pod: &&Member| {
                let by = By::Pod(pod.place);
                let claim = |claim: &Claim| Claimed { by, port: claim.port, udp: claim.udp, address: claim.address };
                pod.claims.iter().map(claim).collect::<Vec<_>>()
            };
            pods.iter().flat_map(of).collect::<Vec<_>>()
        };
        // Of the rank of tenants, and in force before they came.
        let tenants = pods.partition_point(|pod| is_software(case, pod.place));
        let (port, udp, address) = SERVICE_CLAIM;
        let service = Claimed { by: By::Service, port, udp, address };
        let ranked = claims(&pods[..tenants]).into_iter().chain([service]).chain(claims(&pods[tenants..]));
        let mut in_force: Vec<Claimed> = Vec::new();
        for claim in node.into_iter().chain(ranked) {
            let beaten = in_force.iter().any(|better| {
                better.overlaps(claim.port, claim.udp, claim.address) && !is_one(case, better.by, claim.by)
            });
            if !beaten {
                in_force.push(claim);
            }
        }
        Self { in_force }
    }

    /// Whose the claim is to others: of a group with a member that stays and claims the port too, that member's. The
    /// group's port is handed over only when all who claim it go.
    fn stand_in(&self, case: &Case, claim: &Claimed) -> By {
        let By::Pod(owner) = claim.by else {
            return claim.by;
        };
        let stays = |place| member(case, place).is_some_and(|member| !member.terminating);
        let mate_of =
            |place| member(case, place).zip(member(case, owner)).is_some_and(|(one, other)| share(one, other));
        if stays(owner) {
            return claim.by;
        }
        let same_port = self.in_force.iter().filter(|other| (other.port, other.udp) == (claim.port, claim.udp));
        let mates = same_port.filter_map(|other| match other.by {
            By::Pod(mate) if stays(mate) && mate_of(mate) => Some(mate),
            _ => None,
        });
        mates.min().map_or(claim.by, By::Pod)
    }

    pub(super) fn judge(&self, case: &Case, attempt: &Attempt) -> Rule {
        let allow = |reasons| Rule { verdict: VerdictKind::Allow, reasons, or_allow: false };
        if attempt.port == 0 {
            return allow(vec![Reason::Unclaimed]);
        }
        let overlapping: Vec<&Claimed> =
            self.in_force.iter().filter(|claim| claim.overlaps(attempt.port, attempt.udp, attempt.address)).collect();
        let relations: Vec<Reason> =
            overlapping.iter().map(|claim| relation(case, self.stand_in(case, claim), attempt.caller)).collect();
        let conflicts: Vec<Reason> =
            relations.iter().copied().filter(|reason| matches!(reason, Reason::Claimed | Reason::Reserved)).collect();
        if !conflicts.is_empty() && overlapping.iter().all(|claim| claim.by == By::Service) {
            return reported(attempt.caller, conflicts);
        }
        if !conflicts.is_empty() {
            let or_allow = may_be_missed(case, &overlapping, &relations);
            return Rule { or_allow, ..conflict(case, attempt.caller, conflicts) };
        }
        let declared: BTreeSet<&str> = overlapping.iter().flat_map(|claim| covers(claim.address)).collect();
        if case.deny_undeclared && !covers(attempt.address).is_subset(&declared) {
            return conflict(case, attempt.caller, vec![Reason::Undeclared]);
        }
        allow(if relations.is_empty() { vec![Reason::Unclaimed] } else { relations })
    }
}

/// Conflicts that two owners of a port, or one of an address, cannot express: the caller gets along with one of those
/// in force, and not with another that is one with it; or with one by group and with another as a sibling, and meets a
/// third.
fn may_be_missed(case: &Case, overlapping: &[&Claimed], relations: &[Reason]) -> bool {
    let is_conflict = |reason: &Reason| matches!(reason, Reason::Claimed | Reason::Reserved);
    let (foreign, familiar): (Vec<_>, Vec<_>) =
        overlapping.iter().zip(relations).partition(|(_, reason)| is_conflict(reason));
    let stands_for =
        |(claim, _): &(&&Claimed, &Reason)| foreign.iter().any(|(other, _)| is_one(case, claim.by, other.by));
    let by_group = relations.iter().any(|reason| matches!(reason, Reason::Owner | Reason::Share));
    let by_workload = relations.iter().any(|reason| matches!(reason, Reason::Handover | Reason::Sibling));
    familiar.iter().any(stands_for) || by_group && by_workload
}

/// Whether two owners never conflict: one pod, one share group, or siblings.
fn is_one(case: &Case, one: By, other: By) -> bool {
    match (one, other) {
        (By::Pod(one), By::Pod(other)) => {
            let both = member(case, one).zip(member(case, other));
            one == other || both.is_some_and(|(one, other)| share(one, other) || same_workload(one, other))
        }
        (one, other) => one == other,
    }
}

/// What somebody's claim means for a caller.
fn relation(case: &Case, by: By, caller: usize) -> Reason {
    let owner = match by {
        By::Node | By::Service if is_software(case, caller) => return Reason::Owner,
        By::Node => return Reason::Reserved,
        By::Service => return Reason::Claimed,
        By::Pod(owner) => owner,
    };
    let Some((owner, caller)) = member(case, owner).zip(member(case, caller)) else {
        return Reason::Claimed;
    };
    match () {
        () if owner.place == caller.place => Reason::Owner,
        () if share(owner, caller) => Reason::Share,
        () if owner.terminating && same_workload(owner, caller) => Reason::Handover,
        () if same_workload(owner, caller) => Reason::Sibling,
        () => Reason::Claimed,
    }
}

/// A conflict that no mode makes a denial.
fn reported(caller: usize, reasons: Vec<Reason>) -> Rule {
    if caller == UNRESOLVED {
        return Rule { verdict: VerdictKind::Allow, reasons: vec![Reason::Error], or_allow: false };
    }
    Rule { verdict: VerdictKind::Audit, reasons, or_allow: false }
}

fn conflict(case: &Case, caller: usize, reasons: Vec<Reason>) -> Rule {
    if caller == UNRESOLVED {
        let verdict = if case.enforce && case.deny_on_error { VerdictKind::Deny } else { VerdictKind::Allow };
        return Rule { verdict, reasons: vec![Reason::Error], or_allow: false };
    }
    let denied = case.enforce && !is_software(case, caller);
    Rule { verdict: if denied { VerdictKind::Deny } else { VerdictKind::Audit }, reasons, or_allow: false }
}
