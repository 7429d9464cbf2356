//! The paragraph that answers why a pod is as it is.

use super::{AskedPod, FreePortsNear, NodeAnswer, PodVerdict, PortUser};
use crate::{
    cluster::host_ports::NodeKnowledge,
    model::{
        list_text::{and_list, comma_list},
        text::escape_bounded,
    },
};

/// Most nodes that are described; the others are counted.
const MAX_NODES: usize = 5;
/// Most users of ports that are named for one node.
const MAX_USERS: usize = 4;
/// Longest report that is quoted, in characters.
const MAX_REPORT: usize = 1_024;

/// Returns the paragraph.
pub(super) fn message(pod: &AskedPod, verdict: PodVerdict, nodes: &[NodeAnswer], reports: &[String]) -> String {
    let mut sentences =
        if pod.is_unscheduled() { pending(pod, verdict, nodes) } else { running(pod, verdict, nodes.first()) };
    if let Some(report) = reports.first() {
        let report = escape_bounded(report.trim_end_matches('.'), MAX_REPORT);
        sentences.push(format!("The agent last reported: {report}."));
    }
    sentences.join(" ")
}

/// Returns the sentence about free ports, with a space before it.
pub(super) fn free_ports(free: &[FreePortsNear]) -> Option<String> {
    let near = |FreePortsNear { port, free }: &FreePortsNear| format!("near {port}: {}", comma_list(free, 2, 0));
    (!free.is_empty()).then(|| format!(" Free {}.", and_list(free.iter().map(near), MAX_USERS)))
}

fn ports(pod: &AskedPod) -> String {
    comma_list(pod.claims.iter().map(|claim| claim.spec), 8, 0)
}

fn pending(pod: &AskedPod, verdict: PodVerdict, nodes: &[NodeAnswer]) -> Vec<String> {
    let name = &pod.actor;
    let fitting: Vec<&NodeAnswer> = nodes.iter().filter(|node| node.misfit.is_none()).collect();
    let (blocked, open): (Vec<&NodeAnswer>, Vec<&NodeAnswer>) =
        fitting.iter().copied().partition(|node| node.users.iter().any(|user| user.seen_by_scheduler));
    let mut sentences = Vec::new();
    match verdict {
        PodVerdict::NoPorts => {
            sentences.push(format!("{name} is Pending and declares no host port, so ports are not the reason."));
        }
        PodVerdict::PendingForPorts => {
            let count = match fitting.len() {
                1 => "the one node that suits it".to_owned(),
                count => format!("each of the {count} nodes that suit it"),
            };
            sentences.push(format!(
                "{name} is Pending because on {count} another pod declares one of its ports ({}).",
                ports(pod)
            ));
        }
        _ if fitting.is_empty() && !nodes.is_empty() => {
            sentences.push(format!(
                "{name} is Pending because no node suits it; ports ({}) are not the reason.",
                ports(pod)
            ));
        }
        _ => {
            let free = and_list(open.iter().map(|node| &node.node), MAX_NODES);
            sentences.push(format!(
                "{name} is Pending, and ports ({}) are not the reason: on {free} no other pod declares them.",
                ports(pod)
            ));
        }
    }
    for node in blocked.iter().take(MAX_NODES) {
        let users = node.users.iter().filter(|user| user.seen_by_scheduler).map(declared_user);
        sentences.push(format!("On {}, {}.", node.node, and_list(users, MAX_USERS)));
    }
    if let Some(more) = blocked.len().checked_sub(MAX_NODES).filter(|more| *more > 0) {
        sentences.push(format!("It is alike on {more} more."));
    }
    // The scheduler does not see them: once the pod is there, its bind fails or is denied.
    for node in open.iter().filter(|node| !node.users.is_empty()).take(MAX_NODES) {
        let users = and_list(node.users.iter().map(in_the_way), MAX_USERS);
        sentences.push(format!("On {}, which the scheduler may take, {users}.", node.node));
    }
    let misfits = nodes.len() - fitting.len();
    if misfits > 0 {
        let mut reasons: Vec<&str> = nodes.iter().filter_map(|node| node.misfit.as_deref()).collect();
        reasons.sort_unstable();
        reasons.dedup();
        let (nodes, suit) = if misfits == 1 { ("node", "does") } else { ("nodes", "do") };
        let others = if fitting.is_empty() { "" } else { " other" };
        sentences.push(format!("{misfits}{others} {nodes} {suit} not suit it: {}.", comma_list(reasons, 3, 0)));
    }
    if let Some(scheduler) = &pod.scheduler {
        sentences.push(format!("The scheduler says: {}.", scheduler.trim_end_matches('.')));
    }
    if verdict == PodVerdict::PendingForPorts {
        sentences.push(
            "Remove one of the two, give one another port (kubectl host-ports free), or let them go to different nodes."
                .to_owned(),
        );
    }
    sentences.extend(unknown(nodes));
    sentences
}

/// Says of how many nodes only the declarations are known.
fn unknown(nodes: &[NodeAnswer]) -> Option<String> {
    let fitting = nodes.iter().filter(|node| node.misfit.is_none());
    let all = fitting.clone().count();
    let unknown = fitting.filter(|node| node.known == NodeKnowledge::Manifests).count();
    let which = match unknown {
        0 => return None,
        1 if all == 1 => "The node has no ledger".to_owned(),
        _ if unknown == all => "These nodes have no ledger".to_owned(),
        1 => "One of these nodes has no ledger".to_owned(),
        _ => format!("{unknown} of these nodes have no ledger"),
    };
    Some(format!("{which}: what is bound there without being declared is not known."))
}

fn declared_user(user: &PortUser) -> String {
    let PortUser { who, theirs, held, .. } = user;
    let workload = who.workload.as_ref().map(|workload| format!(" ({workload})")).unwrap_or_default();
    let held = if *held { " and holds it" } else { "" };
    format!("{who}{workload} declares {theirs}{held}")
}

fn in_the_way(user: &PortUser) -> String {
    let PortUser { who, theirs, source, held, since, .. } = user;
    let workload = who.workload.as_ref().map(|workload| format!(" ({workload})")).unwrap_or_default();
    if who.until.is_some() {
        return format!("{theirs} is kept for {who}");
    }
    let since = since.as_ref().map(|since| format!(" since {since}")).unwrap_or_default();
    match (who.kind.as_str(), source, held) {
        ("service", ..) => format!("{theirs} is a NodePort of {who}, and packets for it go to the Service"),
        (_, Some(source), true) => format!("{who}{workload} claims {theirs} ({source}) and holds it{since}"),
        (_, Some(source), false) => format!("{who}{workload} claims {theirs} ({source}){since}"),
        (_, None, _) => format!("{who}{workload} holds {theirs}{since} without declaring it"),
    }
}

fn running(pod: &AskedPod, verdict: PodVerdict, node: Option<&NodeAnswer>) -> Vec<String> {
    let name = &pod.actor;
    let Some(node) = node else {
        return vec![format!("The node of {name} is not known to the cluster.")];
    };
    let state = match &pod.waiting {
        Some(reason) => format!("{} ({reason})", pod.phase),
        None if pod.ready => format!("{} and Ready", pod.phase),
        None => pod.phase.clone(),
    };
    let mut sentences = vec![format!("{name} is {state} on {}.", node.node)];
    let users = and_list(node.users.iter().map(in_the_way), MAX_USERS);
    let denied = match node.mode.as_deref() {
        Some("enforce") => "In mode enforce its binds there are denied",
        Some(_) => "In mode audit its binds there are reported, and denied in mode enforce",
        None => "Where an agent enforces, its binds there are denied",
    };
    match verdict {
        PodVerdict::NoPorts => sentences.push("It declares no host port and holds none, as far as is known.".to_owned()),
        PodVerdict::Kept => sentences.push(format!(
            "{}. Until then its bind is refused in mode enforce; wait, or end the grace on the node (enforcer release PORT).",
            capitalised(&users)
        )),
        PodVerdict::AnsweredByOther if node.users.iter().any(|user| user.answers.is_some()) => {
            let answering = node.users.iter().filter(|user| user.answers.is_some());
            let answered = and_list(answering.map(answered), MAX_USERS);
            sentences.push(format!(
                "But {answered}. Give one of the two another port, and look why the pod did not bind it."
            ));
        }
        PodVerdict::AnsweredByOther => sentences.push(format!(
            "It is Ready although another one has a port of it: {users}. Its probes may be answered by a stranger."
        )),
        PodVerdict::InUse => sentences.push(format!(
            "It cannot bind: {users}. Stop one of the two, give one another port (kubectl host-ports free), or let them \
             go to different nodes."
        )),
        PodVerdict::Shadowed => {
            sentences.push(format!("{}: another port is needed.", capitalised(&users)));
        }
        PodVerdict::Denied => sentences.push(format!("Its claim is not in force: {users}. {denied}.")),
        PodVerdict::NotBound => {
            let ports = node.own.iter().filter(|own| own.standing.is_some() && !own.held).map(|own| &own.ports);
            sentences.push(format!("It has not bound {}, and nobody else holds it.", and_list(ports, MAX_USERS)));
        }
        PodVerdict::Fine => {
            let ports = node.own.iter().map(|own| &own.ports);
            sentences.push(format!("It holds what it claims: {}.", and_list(ports, 8)));
        }
        PodVerdict::Unknown if node.users.is_empty() => {
            sentences.push(format!("It claims {}, and nobody else on the node declares that.", ports(pod)));
        }
        PodVerdict::Unknown => sentences.push(format!(
            "It claims {}, and it is not the only one: {users}. Which of them has the port is not known.",
            ports(pod)
        )),
        PodVerdict::PendingForPorts | PodVerdict::PendingForOther => {}
    }
    sentences.extend(unknown(std::slice::from_ref(node)));
    sentences
}

fn answered(user: &PortUser) -> String {
    let PortUser { ports, who, since, answers, .. } = user;
    let what = if answers.as_deref() == Some("probe") { "probe on" } else { "port" };
    let since = since.as_ref().map(|since| format!(" since {since}")).unwrap_or_default();
    format!("its {what} {ports} is answered by {who}{since}")
}

fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map(|first| first.to_uppercase().chain(characters).collect()).unwrap_or_default()
}
