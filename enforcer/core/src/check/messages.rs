//! The sentences: what is wrong, and what to do about it.

mod likely;
mod notes;

pub(super) use notes::{other_kind, remark, unknown_ports};

use super::{
    CheckResult, Conflict, common,
    finding::{Code, Finding, NamedObject, Severity},
    object::{Location, ManifestObject, Unreadable, WorkloadKind},
    pairs::{Overlap, Pair},
    placement::CoPlacement,
    replica_count::RollingUpdate,
};
use crate::{
    model::{list_text::comma_list, port_spec::PortSpec, source::ClaimSource},
    pods::claims::{ClaimProblem, PodClaim},
    yaml::documents::NOT_RENDERED,
};

/// Most items of a list in a sentence.
const MAX_LISTED: usize = 6;

/// Creates a finding about one object.
fn about(
    object: &ManifestObject,
    place: Location,
    code: Code,
    severity: Severity,
    message: String,
    remedy: &str,
) -> Finding {
    Finding {
        code,
        severity,
        place,
        object: Some(NamedObject::of(object)),
        other: None,
        ports: Vec::new(),
        position: None,
        nodes_needed: None,
        message,
        remedy: remedy.to_owned(),
    }
}

/// Creates a finding about no object.
fn alone(place: Location, code: Code, message: String, remedy: &str) -> Finding {
    Finding {
        code,
        severity: Severity::Error,
        place,
        object: None,
        other: None,
        ports: Vec::new(),
        position: None,
        nodes_needed: None,
        message,
        remedy: remedy.to_owned(),
    }
}

fn plural(count: u32, one: &str, many: &str) -> String {
    if count == 1 { format!("{count} {one}") } else { format!("{count} {many}") }
}

fn there_are(nodes: u32) -> String {
    format!("there {} {}", if nodes == 1 { "is" } else { "are" }, plural(nodes, "node", "nodes"))
}

pub(super) fn unreadable(part: &Unreadable) -> Finding {
    let remedy = if part.message.contains(NOT_RENDERED) {
        "render it first, such as with helm template CHART | enforcer check -"
    } else {
        "correct it, or leave it out"
    };
    alone(part.place.clone(), Code::Unreadable, part.message.clone(), remedy)
}

pub(super) fn gave_up(place: Location) -> Finding {
    let message = "there is too much to compare, and not all of it was: there may be more conflicts".to_owned();
    alone(
        place,
        Code::Incomplete,
        message,
        "check fewer manifests at a time: those of one cluster, or of one node pool",
    )
}

/// Reports the parts of an object that count for nothing.
pub(super) fn problems(object: &ManifestObject, outcome: &mut CheckResult) {
    for problem in &object.problems {
        let (code, remedy) = match problem {
            ClaimProblem::Item(_) => {
                (Code::Annotation, "correct the item: it counts for nothing, and the others count")
            }
            ClaimProblem::NoHostNetwork => {
                (Code::NoHostNetwork, "set hostNetwork: true, or declare a hostPort and remove the annotation")
            }
            ClaimProblem::Quota { .. } => {
                (Code::Quota, "claim fewer ports, or raise --max-ports-per-pod here and in the agent")
            }
            ClaimProblem::QuotaExceeded { .. } => (Code::Quota, "claim fewer ports"),
            ClaimProblem::Pod(_) => (Code::Port, "correct the port: as it stands, the API server refuses it"),
        };
        let message = format!("{object}: {problem}");
        let mut finding = about(object, object.place_of_problem(problem), code, Severity::Error, message, remedy);
        match problem {
            ClaimProblem::Item(item) => finding.position = Some(item.position),
            ClaimProblem::Quota { claim, position, .. } | ClaimProblem::QuotaExceeded { claim, position, .. } => {
                finding.position = *position;
                finding.ports = vec![claim.spec.to_string()];
            }
            ClaimProblem::NoHostNetwork | ClaimProblem::Pod(_) => {}
        }
        outcome.push(finding);
    }
    for refusal in &object.refusals {
        let message = format!("{object}: {}", refusal.message);
        let place = object.at(Some(refusal.line));
        outcome.push(about(object, place, refusal.code, refusal.severity, message, refusal.remedy));
    }
    if object.more_problems > 0 {
        let message = format!("{object}: there are {} more problems like these", object.more_problems);
        let code = Code::Annotation;
        outcome.push(about(object, object.place.clone(), code, Severity::Error, message, "correct the first ones"));
    }
    for &(name, line) in &object.not_text {
        let message = format!("{object}: annotation {name} is not text, and annotations must be");
        let remedy = "put it in quotes: as it stands, the API server refuses the object";
        outcome.push(about(object, object.at(Some(line)), Code::Annotation, Severity::Error, message, remedy));
    }
    for &(name, line) in &object.misplaced {
        let message = format!(
            "{object}: annotation {name} is on the {} and not on its pod template, where alone it counts",
            object.kind.as_str()
        );
        let remedy = "move it to metadata.annotations of the pod template";
        outcome.push(about(object, object.at(Some(line)), Code::Misplaced, Severity::Warning, message, remedy));
    }
}

pub(super) fn duplicate(object: &ManifestObject, first: &ManifestObject) -> Finding {
    let message = format!("{object} is at {} already; that one was checked, and this one was not", first.place);
    let remedy = "check variants of one object one by one";
    let mut finding = about(object, object.place.clone(), Code::Duplicate, Severity::Note, message, remedy);
    finding.other = Some(NamedObject::of(first));
    finding
}

pub(super) fn reserved(object: &ManifestObject, claim: &PodClaim, spec: &PortSpec) -> Finding {
    let (severity, verb) =
        if claim.source.is_likely() { (Severity::Warning, "most likely uses") } else { (Severity::Error, "claims") };
    let message = format!("{object} {verb} {} ({}), and {spec} is reserved for the node", claim.spec, claim.source);
    let remedy = "choose another port, or take this one out of --node-reserved here and in the agent";
    let place = object.place_of(claim);
    let mut finding = about(object, place, Code::Reserved, severity, message, remedy);
    finding.ports = vec![claim.spec.to_string()];
    finding
}

/// Formats the claims of an object that its own copies exclude, for a sentence.
fn claimed(object: &ManifestObject) -> String {
    comma_list(object.claims.iter().map(|claim| claim.spec), MAX_LISTED, 0)
}

/// Describes the outcome for pods for which there is no node.
fn scheduler_outcome(object: &ManifestObject) -> &'static str {
    if object.claims.iter().any(|claim| claim.source == ClaimSource::HostPort) {
        "stay Pending"
    } else {
        "are placed all the same, because the scheduler knows declared host ports only, and cannot bind"
    }
}

/// Creates a finding about the count of pods of an object.
fn replica_messages(
    object: &ManifestObject,
    claim: &PodClaim,
    code: Code,
    severity: Severity,
    message: String,
    remedy: &str,
) -> Finding {
    let severity = if claim.source.is_likely() { severity.max(Severity::Warning) } else { severity };
    let mut finding = about(object, object.place_of(claim), code, severity, message, remedy);
    finding.ports = object.claims.iter().take(MAX_LISTED).map(|claim| claim.spec.to_string()).collect();
    finding
}

pub(super) fn replicas(object: &ManifestObject, claim: &PodClaim, replicas: u32, nodes: Option<u32>) -> Finding {
    let ports = claimed(object);
    let (severity, message) = match nodes {
        None => {
            let message = format!("{object} needs {replicas} nodes: no two of its pods can share one ({ports})");
            (Severity::Note, message)
        }
        Some(nodes) => {
            let where_to = if object.placement.is_one_node() {
                "its nodeName puts all of them on one".to_owned()
            } else {
                there_are(nodes)
            };
            let message = format!(
                "{object} has {replicas} replicas, no two of which can share a node ({ports}), and {where_to}: the \
                 others {}",
                scheduler_outcome(object)
            );
            (Severity::Error, message)
        }
    };
    let remedy = "have no more replicas than nodes, or make it a DaemonSet; if they mean to share the port, say so with \
                  port-enforcer.io/share";
    let mut finding = replica_messages(object, claim, Code::Replicas, severity, message, remedy);
    finding.nodes_needed = Some(replicas);
    finding
}

pub(super) fn surge(
    object: &ManifestObject,
    claim: &PodClaim,
    update: RollingUpdate,
    most: u32,
    nodes: Option<u32>,
) -> Finding {
    let severity = match (nodes, update.stated, update.unavailable) {
        (None, _, _) | (_, false, _) => Severity::Note,
        (Some(_), true, 0) => Severity::Error,
        (Some(_), true, _) => Severity::Warning,
    };
    let default = if update.stated { "" } else { " (maxSurge is 25% where nothing is said)" };
    let beyond = nodes.map(|nodes| format!(", and {}", there_are(nodes))).unwrap_or_default();
    let end = match (nodes.is_some(), update.unavailable) {
        (true, 0) => {
            "it never ends, because no old pod goes before a new one is ready (maxUnavailable is 0)".to_owned()
        }
        (true, _) => format!("pods for which there is no node {} until old ones go", scheduler_outcome(object)),
        (false, 0) => "with fewer it never ends (maxUnavailable is 0)".to_owned(),
        (false, _) => format!("with fewer, new pods {} until old ones go", scheduler_outcome(object)),
    };
    let message = format!(
        "a rolling update of {object} starts {} beside its replicas{default}, and no two can share a node ({}): that \
         takes {most} nodes{beyond}; {end}",
        plural(update.surge, "pod", "pods"),
        claimed(object)
    );
    let remedy = "set maxSurge: 0 and maxUnavailable: 1 in strategy.rollingUpdate, or strategy.type: Recreate";
    let mut finding = replica_messages(object, claim, Code::Surge, severity, message, remedy);
    finding.nodes_needed = Some(most);
    finding
}

pub(super) fn daemon_set_surge(object: &ManifestObject, claim: &PodClaim) -> Finding {
    let message = format!(
        "an update of {object} starts the new pod of a node while the old one has its ports ({}), and the old one goes \
         only when the new one is ready (maxSurge): it never ends",
        claimed(object)
    );
    let remedy = "set maxSurge: 0 and maxUnavailable: 1 in updateStrategy.rollingUpdate";
    replica_messages(object, claim, Code::Surge, Severity::Error, message, remedy)
}

/// Formats `both claim 80/tcp, 443/tcp; its 0.0.0.0:53/udp overlaps 169.254.20.10:53/udp`, where "its" is the second
/// one's.
fn overlaps(pair: &Pair) -> String {
    let (probed, known): (Vec<&Overlap>, Vec<&Overlap>) = pair.overlaps.iter().partition(|overlap| overlap.is_likely());
    let (equal, unequal): (Vec<&Overlap>, Vec<&Overlap>) = known.iter().partition(|overlap| overlap.is_equal());
    let mut parts = Vec::new();
    if !equal.is_empty() {
        let beyond = if unequal.is_empty() { pair.more } else { 0 };
        parts.push(format!(
            "both claim {}",
            comma_list(equal.iter().map(|overlap| overlap.first.spec), MAX_LISTED, beyond)
        ));
    }
    if !unequal.is_empty() {
        let items = unequal.iter().map(|overlap| format!("{} overlaps {}", overlap.second.spec, overlap.first.spec));
        parts.push(format!("its {}", comma_list(items, MAX_LISTED, pair.more)));
    }
    parts.extend(likely::overlaps(&probed));
    parts.join("; ")
}

pub(super) fn conflict(conflict: &Conflict<'_>) -> Finding {
    let &Conflict { first, second, pair, meeting, scheduler, pods, nodes } = conflict;
    let enough = scheduler && pods.zip(nodes).is_some_and(|(pods, nodes)| pods <= nodes);
    let severity = if meeting == CoPlacement::Perhaps || enough { Severity::Warning } else { Severity::Error };
    // Nobody declared the port, or knows how many pods there are.
    let is_likely = pair.overlaps.iter().all(Overlap::is_likely);
    let custom = first.kind == WorkloadKind::Custom || second.kind == WorkloadKind::Custom;
    let severity = if is_likely || custom { severity.max(Severity::Warning) } else { severity };
    let unless = if meeting == CoPlacement::Perhaps { ", unless they never meet on one node" } else { "" };
    let ports = overlaps(pair);
    // The first overlap is the one that is pointed at.
    let places = pair.overlaps.first().map_or_else(
        || (first.place.clone(), second.place.clone()),
        |overlap| (first.place_of(&overlap.first), second.place_of(&overlap.second)),
    );
    let other = format!("{first} ({})", places.0);
    let (code, what, remedy) = if first.host_network == second.host_network {
        let what = format!("{second} cannot share a node with {other}{unless}: {ports}");
        let share = if first.namespace == second.namespace {
            "; if they mean to share it, say so with one port-enforcer.io/share on both"
        } else {
            ""
        };
        let remedy = format!("give one of them another port, or nodeSelectors that differ in one label's value{share}");
        (Code::Conflict, what, remedy)
    } else {
        let (hider, hidden) =
            if second.host_network { ("the latter", "the former") } else { ("the former", "the latter") };
        let what = format!(
            "{second} and {other} cannot share a node{unless}: {ports}; the CNI forwards the hostPort of {hider} without \
             a socket, and so hides the listener of {hidden} in silence"
        );
        let remedy = "give one of them another port, or reach the one without host network by a Service instead of its \
                      hostPort";
        (Code::Shadowed, what, remedy.to_owned())
    };
    let placing = match (scheduler, pods, nodes) {
        (false, _, _) if pair.overlaps.iter().all(Overlap::is_declared) => {
            "the scheduler does not see it, because it knows no wildcard but 0.0.0.0".to_owned()
        }
        (false, _, _) => "the scheduler does not see it, because it knows declared host ports only".to_owned(),
        (true, None, _) => "the scheduler sees it, and pods of one of them stay Pending".to_owned(),
        (true, Some(pods), None) => format!("the scheduler keeps them apart where there are {pods} nodes"),
        (true, Some(pods), Some(nodes)) if pods <= nodes => {
            format!("the scheduler keeps them apart, on {pods} of {nodes} nodes")
        }
        (true, Some(pods), Some(nodes)) => {
            format!("that takes {pods} nodes, and {}: the scheduler leaves the others Pending", there_are(nodes))
        }
    };
    let remedy = if is_likely { likely::declarations(first, second, pair) } else { remedy };
    let mut finding = about(second, places.1, code, severity, format!("{what}; {placing}"), &remedy);
    finding.other = Some(NamedObject { place: places.0, ..NamedObject::of(first) });
    finding.nodes_needed = pods;
    finding.ports = pair
        .overlaps
        .iter()
        .filter_map(|overlap| Some(PortSpec { ports: common(overlap)?, ..overlap.second.spec }.to_string()))
        .collect();
    finding.ports.dedup();
    finding
}
