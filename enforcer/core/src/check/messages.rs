//! The sentences: what is wrong, and what to do about it.

mod likely;
mod notes;
mod registry;
mod reserved;
mod services;

pub(super) use likely::unknown_ports;
pub(super) use notes::{other_kind, remark};
pub(super) use registry::{bad_entry, more_bad_entries, of_another, unregistered};
pub(super) use reserved::{component_port, ephemeral, node_port_range, reserved};
pub(super) use services::{
    balanced_twice, duplicate_service, endpoint, node_port_outside, node_port_twice, service_on_node_port,
    service_overlap,
};

use super::{
    CheckResult, PairConflict, common,
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
    let alone = alone(place, code, message, remedy);
    Finding { severity, object: Some(NamedObject::of(object)), ..alone }
}

/// Creates an error about no object.
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
        subject: None,
    }
}

/// Returns a message without the numbers that change when parts of the input move: lines, columns, and places in lists.
fn without_positions(message: &str) -> String {
    let mut text = String::with_capacity(message.len());
    for character in message.chars() {
        let is_position = ["line ", "column ", "["].iter().any(|before| text.ends_with(before));
        if !(is_position && character.is_ascii_digit()) {
            text.push(character);
        }
    }
    text
}

/// Returns texts in an order that does not depend on that of the input.
fn sorted(texts: &[String]) -> Vec<&str> {
    let mut sorted: Vec<&str> = texts.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    sorted
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
    let mut finding = alone(part.place.clone(), Code::Unreadable, part.message.clone(), remedy);
    finding.set_subject([without_positions(&part.message).as_str()]);
    finding
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
            ClaimProblem::Item(item) => {
                finding.position = Some(item.position);
                finding.set_subject([item.item.as_str(), &item.kind.to_string()]);
            }
            ClaimProblem::Quota { claim, position, .. } | ClaimProblem::QuotaExceeded { claim, position, .. } => {
                finding.position = *position;
                finding.ports = vec![claim.spec.to_string()];
            }
            ClaimProblem::NoHostNetwork => {}
            ClaimProblem::Pod(problem) => finding.set_subject([problem.to_string().as_str()]),
        }
        outcome.push(finding);
    }
    for refusal in &object.refusals {
        let message = format!("{object}: {}", refusal.message);
        let place = object.at(Some(refusal.line));
        let mut finding = about(object, place, refusal.code, refusal.severity, message, refusal.remedy);
        finding.set_subject([without_positions(&refusal.message).as_str()]);
        outcome.push(finding);
    }
    let more = object.more_problems + object.more_refusals;
    if more > 0 {
        let message = format!("{object}: there are {more} more problems like these");
        let code = Code::Annotation;
        let mut finding = about(object, object.place.clone(), code, Severity::Error, message, "correct the first ones");
        finding.set_subject(["more", &more.to_string()]);
        outcome.push(finding);
    }
    for &(name, line) in &object.not_text {
        let message = format!("{object}: annotation {name} is not text, and annotations must be");
        let remedy = "put it in quotes: as it stands, the API server refuses the object";
        let place = object.at(Some(line));
        let mut finding = about(object, place, Code::Annotation, Severity::Error, message, remedy);
        finding.set_subject([name]);
        outcome.push(finding);
    }
    for &(name, line) in &object.misplaced {
        let message = format!(
            "{object}: annotation {name} is on the {} and not on its pod template, where alone it counts",
            object.kind.as_str()
        );
        let remedy = "move it to metadata.annotations of the pod template";
        let place = object.at(Some(line));
        let mut finding = about(object, place, Code::Misplaced, Severity::Warning, message, remedy);
        finding.set_subject([name]);
        outcome.push(finding);
    }
}

pub(super) fn duplicate(object: &ManifestObject, first: &ManifestObject) -> Finding {
    let message = format!("{object} is at {} already; that one was checked, and this one was not", first.place);
    let remedy = "check variants of one object one by one";
    let mut finding = about(object, object.place.clone(), Code::Duplicate, Severity::Note, message, remedy);
    finding.other = Some(NamedObject::of(first));
    finding
}

/// Remedy for ports that are shared and declared.
pub(super) const UNDECLARE: &str = "the scheduler knows no share: name shared ports in port-enforcer.io/ports alone, and take them out \
                         of the containers' ports";

/// Checks whether the object declares a port, so that the scheduler keeps its pods apart.
fn is_declared(object: &ManifestObject) -> bool {
    object.claims.iter().any(|claim| claim.source == ClaimSource::HostPort)
}

/// Describes what keeps the copies of an object's pod from one node, with their ports.
fn apart(object: &ManifestObject) -> String {
    let shared = object.share.is_some();
    let claims = object.claims.iter().filter(|claim| !shared || claim.source == ClaimSource::HostPort);
    let ports = comma_list(claims.map(|claim| claim.spec), MAX_LISTED, 0);
    if shared {
        format!("({ports}: they share it, but the scheduler knows no share and counts declared ports)")
    } else {
        format!("({ports})")
    }
}

/// Describes the condition under which old and new pods of an update can be on one node. The agent lets them overlap as
/// siblings; the scheduler leaves a pod with a declared port Pending.
fn unless_shared(object: &ManifestObject) -> &'static str {
    if is_declared(object) { "" } else { ", unless its programs bind with SO_REUSEPORT" }
}

/// Outcome for pods that the scheduler finds no node for.
const PENDING: &str = "stay Pending";

/// Describes the outcome for pods for which there is no node.
fn scheduler_outcome(object: &ManifestObject) -> &'static str {
    if object.placement.is_bound() && is_declared(object) {
        "are refused by the kubelet, because nodeName passes the scheduler by"
    } else if is_declared(object) || object.placement.keeps_apart(&object.placement) {
        PENDING
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
    // There is one of an object, whatever its ports; how many nodes are needed says whether it got worse.
    finding.set_subject(["pods of one object"]);
    likely::explain(&mut finding, object, claim);
    finding
}

/// Describes the nodes that there are for an object's pods.
fn nodes_for(object: &ManifestObject, nodes: u32) -> String {
    match object.placement.node_count() {
        Some(1) => "its nodeSelector, affinity or nodeName puts all of them on one".to_owned(),
        Some(named) if named == nodes => format!("its affinity names {}", plural(nodes, "node", "nodes")),
        _ => there_are(nodes),
    }
}

/// Describes which nodes count where only some suit an object.
fn of_those_that_suit(object: &ManifestObject) -> &'static str {
    if object.placement.node_count().is_none() && object.placement.is_selective() {
        " that suit its nodeSelector or affinity"
    } else {
        ""
    }
}

pub(super) fn replicas(object: &ManifestObject, claim: &PodClaim, replicas: u32, nodes: Option<u32>) -> Finding {
    let apart = apart(object);
    let (severity, message) = match nodes {
        None => {
            let suit = of_those_that_suit(object);
            (Severity::Note, format!("{object} needs {replicas} nodes{suit}: no two of its pods can share one {apart}"))
        }
        Some(nodes) => {
            let message = format!(
                "{object} has {replicas} replicas, no two of which can share a node {apart}, and {}: the others {}",
                nodes_for(object, nodes),
                scheduler_outcome(object)
            );
            (Severity::Error, message)
        }
    };
    let remedy = match (object.share.is_some(), is_declared(object)) {
        (true, _) => UNDECLARE,
        (false, true) => "have no more replicas than nodes, or make it a DaemonSet",
        (false, false) => {
            "have no more replicas than nodes, or make it a DaemonSet; if they mean to share the port, say so with \
             port-enforcer.io/share"
        }
    };
    let mut finding = replica_messages(object, claim, Code::Replicas, severity, message, remedy);
    finding.nodes_needed = Some(replicas);
    finding
}

/// Reports an update without room. `replicas` and `pods`: the object's own pods, and with those of others that want the
/// same port.
pub(super) fn surge(
    object: &ManifestObject,
    claim: &PodClaim,
    update: RollingUpdate,
    (replicas, pods): (u32, u32),
    nodes: Option<u32>,
) -> Finding {
    // One free node is enough for an update to go on.
    let never_ends = update.unavailable == 0 && nodes.is_some_and(|nodes| pods >= nodes);
    let severity = match (nodes.is_some(), never_ends, update.stated) {
        (false, ..) | (true, false, false) => Severity::Note,
        (true, true, true) if is_declared(object) => Severity::Error,
        (true, ..) => Severity::Warning,
    };
    let most = pods.saturating_add(update.surge);
    let default = if update.stated { "" } else { " (maxSurge is 25% where nothing is said)" };
    let others = match pods - replicas {
        0 => String::new(),
        others => format!(", beside {} of other objects on the same port", plural(others, "pod", "pods")),
    };
    let beyond = nodes.map(|nodes| format!(", and {}", nodes_for(object, nodes))).unwrap_or_default();
    let end = match (nodes.is_some(), update.unavailable) {
        (true, _) if never_ends => {
            let unless = unless_shared(object);
            format!("it never ends, because no old pod goes before a new one is ready (maxUnavailable is 0){unless}")
        }
        (true, _) => format!("pods for which there is no node {} until old ones go", scheduler_outcome(object)),
        (false, 0) => format!("with {} it never ends (maxUnavailable is 0)", plural(pods, "node", "nodes")),
        (false, _) => format!("with fewer, new pods {} until old ones go", scheduler_outcome(object)),
    };
    let message = format!(
        "a rolling update of {object} starts {} beside its replicas{default}, and no two can share a node {}{others}: \
         that takes {most} nodes{}{beyond}; {end}",
        plural(update.surge, "pod", "pods"),
        apart(object),
        if nodes.is_none() { of_those_that_suit(object) } else { "" },
    );
    let remedy = "set maxSurge: 0 and maxUnavailable: 1 in strategy.rollingUpdate, or strategy.type: Recreate";
    let mut finding = replica_messages(object, claim, Code::Surge, severity, message, remedy);
    finding.nodes_needed = Some(most);
    finding
}

pub(super) fn daemon_set_surge(object: &ManifestObject, claim: &PodClaim) -> Finding {
    let message = format!(
        "an update of {object} starts the new pod of a node while the old one has its ports {}, and the old one goes \
         only when the new one is ready (maxSurge): it never ends{}",
        apart(object),
        unless_shared(object)
    );
    let remedy = "set maxSurge: 0 and maxUnavailable: 1 in updateStrategy.rollingUpdate";
    let severity = if is_declared(object) { Severity::Error } else { Severity::Warning };
    replica_messages(object, claim, Code::Surge, severity, message, remedy)
}

/// Formats `both claim 80/tcp, 443/tcp; its 0.0.0.0:53/udp overlaps 169.254.20.10:53/udp`, where "its" is the second
/// one's.
fn overlaps(conflict: &PairConflict<'_>) -> String {
    let pair = conflict.pair;
    let (likely, known): (Vec<&Overlap>, Vec<&Overlap>) = pair.overlaps.iter().partition(|overlap| overlap.is_likely());
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
    parts.extend(likely::overlaps(conflict, &likely));
    parts.join("; ")
}

/// Describes the outcome for two objects whose pods cannot share a node.
fn placing(conflict: &PairConflict<'_>) -> String {
    let &PairConflict { first, second, pair, meeting, scheduler, keeps_apart, pods, nodes } = conflict;
    let is_bound = first.placement.is_bound() || second.placement.is_bound();
    let are_static = can_be_static(first) && can_be_static(second);
    match (pods, nodes) {
        _ if !scheduler && pair.overlaps.iter().all(Overlap::is_declared) => {
            "the scheduler does not see it, because it compares addresses as texts and knows no wildcard but 0.0.0.0"
                .to_owned()
        }
        _ if !scheduler => "the scheduler does not see it, because it knows declared host ports only".to_owned(),
        _ if is_bound => {
            "nodeName passes the scheduler by, and the kubelet refuses the pod that comes second".to_owned()
        }
        (Some(pods), _) if are_static => {
            format!(
                "through the API server that takes {pods} nodes; of static pods, which no scheduler sees, the kubelet \
                 refuses the one that comes second"
            )
        }
        _ if meeting == CoPlacement::Perhaps && keeps_apart => {
            "their pod anti-affinity keeps them apart, and pods without another node stay Pending".to_owned()
        }
        (None, _) if first.is_custom() || second.is_custom() => {
            "the scheduler keeps them apart, and pods without another node stay Pending".to_owned()
        }
        (None, _) => "the scheduler sees it, and pods of one of them stay Pending".to_owned(),
        (Some(pods), None) => format!("the scheduler keeps them apart where there are {pods} nodes"),
        (Some(pods), Some(nodes)) if pods > nodes => {
            let named = [first, second].iter().any(|object| object.placement.node_count() == Some(nodes));
            let there_are =
                if named { format!("only {} suits both", plural(nodes, "node", "nodes")) } else { there_are(nodes) };
            // Copies that the scheduler does not keep apart come to one node.
            let is_kept =
                |object: &ManifestObject| object.scale.replicas() == Some(1) || scheduler_outcome(object) == PENDING;
            let outcome = if is_kept(first) && is_kept(second) {
                "the scheduler leaves the others Pending"
            } else {
                "the others stay Pending or cannot bind"
            };
            format!("that takes {pods} nodes, and {there_are}: {outcome}")
        }
        _ if meeting == CoPlacement::Perhaps => {
            "the scheduler keeps them apart, and pods without another node stay Pending".to_owned()
        }
        (Some(pods), Some(nodes)) if first.placement.is_selective() => {
            format!("the scheduler keeps them apart on {pods} nodes that suit them, of {nodes}")
        }
        (Some(pods), Some(nodes)) => format!("the scheduler keeps them apart, on {pods} of {nodes} nodes"),
    }
}

/// Checks whether the object can be a static pod: the manifest does not show it.
fn can_be_static(object: &ManifestObject) -> bool {
    object.kind == WorkloadKind::Pod && object.namespace == "kube-system"
}

/// Checks whether each overlap rests on a likely claim.
fn are_likely(pair: &Pair) -> bool {
    pair.overlaps.iter().all(Overlap::is_likely)
}

/// Grades a conflict.
fn severity(conflict: &PairConflict<'_>) -> Severity {
    let &PairConflict { first, second, pair, meeting, scheduler, keeps_apart, pods, nodes } = conflict;
    let enough = scheduler && pods.is_some_and(|pods| nodes.map_or(keeps_apart, |nodes| pods <= nodes));
    let has_custom = first.is_custom() || second.is_custom();
    match meeting {
        CoPlacement::Perhaps if keeps_apart => Severity::Note,
        CoPlacement::Perhaps => Severity::Warning,
        _ if enough && can_be_static(first) && can_be_static(second) => Severity::Warning,
        _ if enough => Severity::Note,
        // Nobody declared the port, or knows how many pods there are.
        _ if are_likely(pair) || has_custom => Severity::Warning,
        _ => Severity::Error,
    }
}

pub(super) fn conflict(conflict: &PairConflict<'_>) -> Finding {
    let &PairConflict { first, second, pair, meeting, keeps_apart, pods, .. } = conflict;
    let unless =
        if meeting == CoPlacement::Perhaps && !keeps_apart { ", unless they never meet on one node" } else { "" };
    let ports = overlaps(conflict);
    // The first overlap is the one that is pointed at.
    let places = pair.overlaps.first().map_or_else(
        || (first.place.clone(), second.place.clone()),
        |overlap| (first.place_of(&overlap.first), second.place_of(&overlap.second)),
    );
    let other = format!("{first} ({})", places.0);
    let excluded = pair.overlaps.iter().any(|overlap| overlap.excluded);
    let share_group = (first.share.is_some() && first.share == second.share && first.namespace == second.namespace)
        .then_some("; they share it, but the scheduler knows no share and counts declared ports");
    let what = format!("{second} cannot share a node with {other}{unless}: {ports}");
    let (code, what, remedy) = if !excluded && let Some(shared) = share_group {
        (Code::Conflict, format!("{what}{shared}"), UNDECLARE.to_owned())
    } else if !excluded {
        let why = "; the kernel has room for both, but to the scheduler 0.0.0.0 is every address, of IPv6 too";
        let remedy = "give one of them another port, or write one address as hostIP instead of 0.0.0.0";
        (Code::Conflict, format!("{what}{why}"), remedy.to_owned())
    } else if first.host_network == second.host_network {
        let is_declared = |claim: &PodClaim| claim.source == ClaimSource::HostPort;
        let is_undeclared =
            !pair.overlaps.iter().any(|overlap| is_declared(&overlap.first) || is_declared(&overlap.second));
        let share = if first.namespace == second.namespace && is_undeclared {
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
    let remedy = if are_likely(pair) { likely::declarations(first, second, pair) } else { remedy };
    let message = format!("{what}; {}", placing(conflict));
    let mut finding = about(second, places.1, code, severity(conflict), message, &remedy);
    finding.other = Some(NamedObject { place: places.0, ..NamedObject::of(first) });
    finding.nodes_needed = pods;
    finding.ports = pair
        .overlaps
        .iter()
        .filter_map(|overlap| Some(PortSpec { ports: common(overlap)?, ..overlap.second.spec }.to_string()))
        .collect();
    finding.ports.dedup();
    let mut overlaps: Vec<String> = pair.overlaps.iter().map(|overlap| both(first, second, overlap)).collect();
    overlaps.sort_unstable();
    overlaps.push(pair.more.to_string());
    finding.set_subject(overlaps.iter().map(String::as_str));
    finding
}

/// Returns the claims of both sides of an overlap, the same whichever side comes first in the input.
fn both(first: &ManifestObject, second: &ManifestObject, overlap: &Overlap) -> String {
    let mut sides = [format!("{first} {}", overlap.first.spec), format!("{second} {}", overlap.second.spec)];
    sides.sort_unstable();
    sides.join(" and ")
}
