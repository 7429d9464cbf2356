//! Users of the ports that a pod wants.

use serde::{Deserialize, Serialize};

use super::{AskedNode, AskedPod, ports_text};
use crate::{
    cluster::host_ports::{NodeKnowledge, is_same, spec_of},
    ledger::node_host_ports::{LedgerActor, LedgerConflict, LedgerRow},
    model::source::ClaimSource,
    pods::{annotation, claims::PodClaim},
};

/// Most users of a pod's ports that are kept for one node.
const MAX_USERS: usize = 64;

/// User of a port that the pod wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortUser {
    /// Ports of the pod that it is in the way of.
    pub ports: String,
    /// The user.
    pub who: LedgerActor,
    /// Its own ports.
    pub theirs: String,
    /// Place where it declares them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// It has a socket bound there.
    pub held: bool,
    /// What it answers in the place of the pod, which is Ready, as the agent reports: `probe` or `port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<String>,
    /// The scheduler counts both, and so never places the pod there.
    pub seen_by_scheduler: bool,
    /// Time from which on it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}

/// Returns the users of ports that a pod wants on a node. `own`: the rows of the pod itself.
pub(super) fn users(pod: &AskedPod, node: &AskedNode, services: &[LedgerRow], own: &[&LedgerRow]) -> Vec<PortUser> {
    // Where nobody knows what is bound, whoever else declares the port may have it.
    let all = pod.is_unscheduled() || node.known == NodeKnowledge::Manifests;
    let others = node.rows.iter().filter(|row| !pod.is_own(row) && (all || is_in_the_way(row, own)));
    let mut users: Vec<PortUser> = Vec::new();
    for row in others.chain(services) {
        let Some(claim) = pod.overlap(row) else { continue };
        let user = user(pod, claim, row);
        // A Service of every node can be in a ledger too.
        let is_known = users.iter().any(|known| is_same(&known.who, &user.who) && known.theirs == user.theirs);
        if !is_known && users.len() < MAX_USERS {
            users.push(user);
        }
    }
    let own_conflicts = |kind: &'static str| {
        node.conflicts.iter().filter(move |conflict| conflict.kind == kind && is_same(&conflict.who, &pod.actor))
    };
    // Ports that the pod declares nowhere: those that others answer, and those that it tries to bind.
    for conflict in own_conflicts("answeredByOther") {
        if users.len() < MAX_USERS {
            let answers = if pod.probes(&conflict.ports) { "probe" } else { "port" };
            users.retain(|user| !(user.held && is_same(&user.who, &conflict.other) && is_port_of(user, conflict)));
            users.push(PortUser { answers: Some(answers.to_owned()), ..conflict_user(conflict) });
        }
    }
    for conflict in own_conflicts("inUse") {
        if users.len() < MAX_USERS && !users.iter().any(|user| user.held && is_same(&user.who, &conflict.other)) {
            users.push(conflict_user(conflict));
        }
    }
    users
}

/// Checks whether a user of a port keeps a pod on the same node from it. `own`: the pod's own rows.
fn is_in_the_way(row: &LedgerRow, own: &[&LedgerRow]) -> bool {
    let is_kept = row.who.until.is_some();
    let mine = spec_of(row).and_then(|spec| own.iter().find(|own| spec_of(own).is_some_and(|own| own.overlaps(&spec))));
    let in_force = row.standing.as_deref() == Some("inForce");
    is_kept
        || match mine.map(|own| (own.standing.as_deref() == Some("inForce"), own.held)) {
            // Others may share it; who claims nothing there may not.
            Some((true, true)) => row.held && row.standing.is_none(),
            Some((true, false)) => row.held,
            Some((false, _)) | None => row.held || in_force,
        }
}

/// Returns the user of a port that the pod wants and does not have.
fn conflict_user(conflict: &LedgerConflict) -> PortUser {
    PortUser {
        ports: conflict.ports.clone(),
        who: conflict.other.clone(),
        theirs: conflict.ports.clone(),
        source: None,
        held: true,
        answers: None,
        seen_by_scheduler: false,
        since: conflict.since.clone(),
    }
}

/// Checks whether a user is one of the port that a conflict is about.
fn is_port_of(user: &PortUser, conflict: &LedgerConflict) -> bool {
    let specs = |ports: &str| annotation::parse_list(ports).unwrap_or_default();
    specs(&user.theirs).iter().any(|one| specs(&conflict.ports).iter().any(|other| one.overlaps(other)))
}

fn user(pod: &AskedPod, claim: &PodClaim, row: &LedgerRow) -> PortUser {
    let is_declared = match row.who.kind.as_str() {
        "pod" => row.source.as_deref() == Some(ClaimSource::HostPort.as_str()),
        // The agent's pod may declare what is reserved for the node. Its ledger does not say so, but the scheduler does.
        "node" => pod.scheduler.as_ref().is_some_and(|message| message.contains("free ports")),
        _ => false,
    };
    PortUser {
        ports: claim.spec.to_string(),
        who: row.who.clone(),
        theirs: ports_text(row),
        source: row.source.clone(),
        held: row.held,
        answers: None,
        seen_by_scheduler: claim.source == ClaimSource::HostPort && is_declared,
        since: row.since.clone(),
    }
}
