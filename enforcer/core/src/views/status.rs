//! How a node stands: what `enforcer status` shows. The JSON is documented in docs/status.md.

use std::collections::BTreeMap;

use enforcer_ebpf::wire::{KernelError, NodeMode, Protocol, Reason, Undeclared, VerdictKind};
use serde::{Deserialize, Serialize};

use crate::{
    model::{actor::Audience, kernel_ids::BootNanos, port_spec::protocol_name, text::escape},
    reports::failing_binds::{FailingBind, FailingBinds},
    sockets::{AnsweredByOther, AnsweredPorts, ReportedConflicts},
    views::node_snapshot::{API_VERSION, ActorView, ClaimRow, HolderRow, NodeSnapshot, time},
};

/// Most holders that are shown.
const MAX_ROWS: usize = 1 << 16;

/// Status of a node, as `enforcer status` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Version of the API: [`API_VERSION`].
    pub api_version: String,
    /// Kind of the object: `Status`.
    pub kind: String,
    /// Name of the node.
    pub node: String,
    /// Time of this state.
    pub time: String,
    /// The agent; `None` where none answered, and all else is from the pinned maps.
    pub agent: Option<AgentView>,
    /// The mode.
    pub mode: Modes,
    /// Policy that the programs have beside the mode.
    pub policy: PolicyView,
    /// Features of the kernel; `None` where no agent answered.
    pub features: Option<KernelFeatures>,
    /// Claims, by protocol and port.
    pub claims: Vec<ClaimRow>,
    /// Holders, by protocol and port.
    pub holders: Vec<HolderRow>,
    /// Count of sockets beyond those.
    pub holders_left_out: usize,
    /// Conflicts that exist.
    pub conflicts: Vec<ConflictRow>,
    /// Bind attempts as the kernel counts them; those that are 0 are left out.
    pub counters: Vec<CountRow>,
    /// Errors of the programs by kind; those that are 0 are left out.
    pub errors: BTreeMap<String, u64>,
    /// Facts that could not be found out, as sentences.
    pub problems: Vec<String>,
}

/// The agent that answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentView {
    /// Its version.
    pub version: String,
    /// Its process id, in its own pid namespace.
    pub pid: u32,
    /// Time of the start.
    pub since: String,
    /// Source of pods: `api` or `dir:PATH`.
    pub source: String,
    /// All pods were seen once.
    pub synced: bool,
    /// Count of pods that are known.
    pub pods: usize,
    /// The cgroup below which binds are judged.
    pub cgroup: String,
}

/// The mode and what it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Modes {
    /// Mode that counts for pods whose namespace says nothing: `audit` or `enforce`.
    pub effective: String,
    /// Mode that the agent was given.
    pub agent: String,
    /// Mode that an operator set on the node, if any.
    pub local: Option<String>,
    /// Namespaces that override it.
    pub namespaces: BTreeMap<String, String>,
    /// Time at which enforcement lapses unless an agent puts that off; `None` is never.
    pub lease_ends: Option<String>,
    /// Enforcement has lapsed.
    pub stale: bool,
}

/// Policy that the programs have beside the mode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyView {
    /// Answer for undeclared ports: `allow` or `deny`.
    pub undeclared: String,
    /// Answer on an internal error: `allow` or `deny`.
    pub on_error: String,
    /// Scope: `pods` or `node`.
    pub scope: String,
    /// Error number of a denied bind, where the kernel lets us choose.
    pub deny_errno: u16,
    /// Namespaces with a port limit of their own for each of their pods, as far as an agent says so.
    #[serde(default)]
    pub namespace_max_ports: BTreeMap<String, u32>,
}

/// Features of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KernelFeatures {
    /// A denied bind fails with the error number of our choice; else with EPERM.
    pub errno_choice: bool,
    /// The IPv6-only option of a socket is exact; else `::` counts as dual-stack.
    pub v6only: bool,
}

/// A conflict that exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConflictRow {
    /// Kind: `claimLost`, `shared`, `notOwner`, `inUse` or `answeredByOther`.
    pub kind: String,
    /// Subject: ports in the grammar of the annotation, or an address with its port.
    pub ports: String,
    /// Actor that is in the way, has lost, tries in vain, or does not answer itself.
    pub who: ActorView,
    /// The other one.
    pub other: ActorView,
    /// Number of attempts, of kind `inUse` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Time of the first attempt, of kind `inUse`; time from which on it holds, of kind `answeredByOther`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<String>,
    /// Time of the last attempt, of kind `inUse` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
    /// Message for people; its words may change.
    pub message: String,
}

/// Attempts with one verdict, reason and protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CountRow {
    /// Verdict: `allow`, `audit` or `deny`.
    pub verdict: String,
    /// Reason of the verdict.
    pub reason: String,
    /// Protocol: `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Count of attempts.
    pub count: u64,
}

/// Inputs of a status beside the scene.
pub struct StatusInputs<'a> {
    /// The agent, if one answers.
    pub agent: Option<AgentView>,
    /// Features of the kernel, if they are known.
    pub features: Option<KernelFeatures>,
    /// End of the lease; `None` is never.
    pub lease_deadline: Option<BootNanos>,
    /// Count of attempts.
    pub attempts: &'a dyn Fn(VerdictKind, Reason, Protocol) -> u64,
    /// Count of errors.
    pub errors: &'a dyn Fn(KernelError) -> u64,
    /// Binds that fail; `None` where no agent answered.
    pub failing: Option<&'a FailingBinds>,
    /// Facts that could not be found out.
    pub problems: Vec<String>,
}

impl Status {
    /// Creates the status.
    #[must_use]
    pub fn of(scene: &NodeSnapshot<'_>, facts: StatusInputs<'_>) -> Self {
        let StatusInputs { agent, features, lease_deadline, attempts, errors, failing, problems } = facts;
        let word = |denied: bool| if denied { "deny" } else { "allow" }.to_owned();
        let claims = scene.claims(scene.index.claims());
        let conflicts = conflicts(scene, failing, &claims);
        Self {
            api_version: API_VERSION.to_owned(),
            kind: "Status".to_owned(),
            node: escape(scene.node),
            time: time(scene.now.wall),
            agent,
            mode: Modes {
                effective: scene.mode().as_str().to_owned(),
                agent: if scene.policy.enforce { "enforce" } else { "audit" }.to_owned(),
                local: match scene.overrule.local {
                    NodeMode::Unset => None,
                    NodeMode::Audit => Some("audit".to_owned()),
                    NodeMode::Enforce => Some("enforce".to_owned()),
                },
                namespaces: (scene.index.namespace_modes())
                    .map(|(namespace, mode)| (escape(namespace), mode.as_str().to_owned()))
                    .collect(),
                lease_ends: lease_deadline.map(|deadline| scene.time(deadline)),
                stale: scene.overrule.stale,
            },
            policy: PolicyView {
                undeclared: match scene.policy.undeclared {
                    Undeclared::Allow => "allow",
                    Undeclared::Deny => "deny",
                    Undeclared::Adopt => "adopt",
                }
                .to_owned(),
                on_error: word(scene.policy.deny_on_error),
                scope: if scene.policy.node_scope { "node" } else { "pods" }.to_owned(),
                deny_errno: scene.policy.errno,
                namespace_max_ports: (scene.index.port_limits())
                    .map(|(namespace, limit)| (escape(namespace), limit))
                    .collect(),
            },
            features,
            claims,
            holders: scene.holders.iter().take(MAX_ROWS).map(|holder| scene.holder(holder)).collect(),
            holders_left_out: scene.holders.untracked().map(|(_, _, count)| count).sum(),
            conflicts,
            counters: counts(attempts),
            errors: KernelError::ALL
                .into_iter()
                .map(|error| (error.as_str().to_owned(), errors(error)))
                .filter(|(_, count)| *count > 0)
                .collect(),
            problems,
        }
    }
}

/// Returns the conflicts that exist: binds that fail, ports of Ready pods that others answer, claims that lost, and
/// sockets that hold what others own.
/// `claims`: all claims of the node.
#[must_use]
pub fn conflicts(scene: &NodeSnapshot<'_>, failing: Option<&FailingBinds>, claims: &[ClaimRow]) -> Vec<ConflictRow> {
    let in_use = failing.map(FailingBinds::sorted).unwrap_or_default();
    let in_use = in_use.into_iter().map(|bind| in_use_row(bind, scene.node));
    let answered = scene.answered.map(AnsweredPorts::sorted).unwrap_or_default();
    let answered = answered.into_iter().map(|(answered, first)| answered_row(answered, first, scene.node));
    in_use.chain(answered).chain(claims.iter().filter_map(lost)).chain(existing(scene)).collect()
}

fn lost(claim: &ClaimRow) -> Option<ConflictRow> {
    let winner = claim.behind.as_ref().filter(|_| claim.standing == "lost")?;
    Some(ConflictRow {
        kind: "claimLost".to_owned(),
        ports: claim.ports.clone(),
        who: claim.owner.clone(),
        other: winner.clone(),
        count: None,
        first: None,
        last: None,
        message: format!("{} claims {}, which is in force for {winner}", claim.owner, claim.ports),
    })
}

fn in_use_row(bind: &FailingBind, node: &str) -> ConflictRow {
    let times = if bind.count == 1 { "once" } else { "times" };
    let count = if bind.count == 1 { String::new() } else { format!("{} ", bind.count) };
    ConflictRow {
        kind: "inUse".to_owned(),
        ports: bind.target.clone(),
        who: ActorView::from(&bind.caller),
        other: ActorView::from(&bind.holder),
        count: Some(bind.count),
        first: Some(time(bind.first)),
        last: Some(time(bind.last)),
        message: format!(
            "{} ({count}{times}, first at {}, last at {})",
            bind.sentence(node),
            time(bind.first / 1_000_000 * 1_000_000),
            time(bind.last / 1_000_000 * 1_000_000)
        ),
    }
}

fn answered_row(answered: &AnsweredByOther, first: i64, node: &str) -> ConflictRow {
    let [who, other] = answered.sides().map(ActorView::from);
    ConflictRow {
        kind: "answeredByOther".to_owned(),
        ports: answered.port.to_string(),
        who,
        other,
        count: None,
        first: Some(time(first)),
        last: None,
        message: answered.sentence(node, Audience::Operators),
    }
}

fn existing(scene: &NodeSnapshot<'_>) -> impl Iterator<Item = ConflictRow> {
    // Nothing was told to whoever asks, so all of them are new.
    let found = ReportedConflicts::default().new_conflicts(scene.holders, scene.index, scene.shared);
    let node = scene.node.to_owned();
    found.into_iter().map(move |existing| {
        let [who, other] = existing.sides().map(ActorView::from);
        ConflictRow {
            kind: if matches!(existing, crate::sockets::LiveConflict::Shared { .. }) { "shared" } else { "notOwner" }
                .to_owned(),
            ports: existing.holder().holder.target(),
            who,
            other,
            count: None,
            first: None,
            last: None,
            message: existing.sentence(&node, Audience::Operators),
        }
    })
}

fn counts(attempts: &dyn Fn(VerdictKind, Reason, Protocol) -> u64) -> Vec<CountRow> {
    let mut counts = Vec::new();
    for verdict in [VerdictKind::Deny, VerdictKind::Audit, VerdictKind::Allow] {
        for reason in Reason::ALL {
            for protocol in Protocol::ALL {
                let count = attempts(verdict, reason, protocol);
                if count > 0 {
                    counts.push(CountRow {
                        verdict: verdict.as_str().to_owned(),
                        reason: reason.as_str().to_owned(),
                        protocol: protocol_name(protocol).to_owned(),
                        count,
                    });
                }
            }
        }
    }
    counts
}
