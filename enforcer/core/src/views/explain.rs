//! One port explained: who owns it, who holds it, and what would happen to whom on binding it now, and why. The JSON is
//! documented in docs/explain.md.
//!
//! The verdicts are those of [`Index::judge`](crate::index::Index::judge), which is the kernel programs' own function
//! on the words that the programs read. What the kernel itself would say because of sockets that are there
//! is shown beside it: a bind that the programs let through can still fail.

mod kernel_answer;
mod messages;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use enforcer_ebpf::{
    decide::could_share,
    wire::{Protocol, Reason, Undeclared, VerdictKind},
};
use serde::{Deserialize, Serialize};

pub use kernel_answer::KernelAnswer;

use crate::{
    model::{
        free_ports::{AllocatedRanges, free_ports_near},
        name::Name,
        owner::OwnerId,
        port_spec::{Address, PortSpec, protocol_name},
        source::ClaimSource,
        text::escape,
    },
    sockets,
    views::node_snapshot::{API_VERSION, ActorView, ClaimRow, HolderRow, NodeSnapshot, WILDCARDS, dual_stack, time},
};

/// Question that is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExplainQuestion<'a> {
    /// The protocol.
    pub protocol: Protocol,
    /// The port, not 0.
    pub port: u16,
    /// Namespace and name of the pod that would bind it; any pod that is a stranger to all owners if none is given.
    pub pod: Option<(&'a str, &'a str)>,
}

/// Reason for which there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExplainError {
    /// There is no such pod.
    #[error("no pod {pod} is known on {node}; write --pod NAMESPACE/NAME, as `kubectl get pods -A` shows them")]
    NoPod {
        /// The pod, safe to show.
        pod: String,
        /// The node, safe to show.
        node: String,
    },
}

/// Explanation of one port, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// Version of the API: [`API_VERSION`].
    pub api_version: String,
    /// Kind of the object: `Explanation`.
    pub kind: String,
    /// Name of the node.
    pub node: String,
    /// Time of this state.
    pub time: String,
    /// Protocol: `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// The port.
    pub port: u16,
    /// The mode that counts for pods whose namespace says nothing.
    pub mode: String,
    /// The claims on it.
    pub claims: Vec<ClaimRow>,
    /// Holders of the port.
    pub holders: Vec<HolderRow>,
    /// Pod that would bind it; `None` is any pod that is a stranger to all owners.
    pub pod: Option<ActorView>,
    /// Outcomes of binds; nothing where no bind is judged.
    pub binds: Vec<BindView>,
    /// The paragraph, for people; its words may change.
    pub message: String,
    /// Remedy, for people; `None` if nothing needs to be done.
    pub remedy: Option<String>,
    /// Ports near it that nobody on the node claims or holds, where another port would do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub free_ports: Vec<u16>,
}

/// Outcome of a bind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BindView {
    /// The address that would be bound.
    pub address: IpAddr,
    /// Answer of the programs: `allow`, `audit` or `deny`.
    pub verdict: String,
    /// Reason of the answer.
    pub reason: String,
    /// Owner of the claim that decides.
    pub owner: Option<ActorView>,
    /// Place where that was declared.
    pub source: Option<String>,
    /// Answer of the kernel itself: `free`, `inUse` or `inUseUnlessShared`.
    pub kernel: String,
    /// Answer of the programs to a socket that could share the port with those that are there, where that is something
    /// else.
    pub if_shared: Option<IfShared>,
}

/// Outcome for a socket that could share the port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IfShared {
    /// Verdict: `audit` or `deny`.
    pub verdict: String,
    /// Reason of the verdict.
    pub reason: String,
    /// Holder of the port.
    pub holder: ActorView,
}

/// Outcome of a bind, before it becomes JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
struct WhatIf {
    address: IpAddr,
    verdict: VerdictKind,
    reason: Reason,
    owner: Option<(OwnerId, Name)>,
    source: Option<ClaimSource>,
    kernel: KernelAnswer,
    /// Places of the holders that are in the way.
    in_the_way: Vec<usize>,
    /// Outcome for a socket that could share, where that is something else, and the place of the holder.
    if_shared: Option<(VerdictKind, Reason, usize)>,
}

/// Answers.
///
/// # Errors
///
/// If there is no such pod.
pub fn explain(question: &ExplainQuestion<'_>, scene: &NodeSnapshot<'_>) -> Result<Explanation, ExplainError> {
    let &ExplainQuestion { protocol, port, pod } = question;
    let unknown = |(namespace, name)| ExplainError::NoPod {
        pod: escape(&format!("{namespace}/{name}")),
        node: escape(scene.node),
    };
    let pod =
        pod.map(|(namespace, name)| scene.index.pod_named(namespace, name).ok_or_else(|| unknown((namespace, name))));
    let pod = pod.transpose()?;
    let sockets: Vec<_> = scene.holders.on(protocol, port).collect();
    let holders: Vec<HolderRow> = sockets.iter().map(|holder| scene.holder(holder)).collect();
    let judged = protocol != Protocol::Sctp && pod.is_none_or(|pod| is_on_the_nodes_network(scene, pod));
    let prospects: Vec<WhatIf> = WILDCARDS
        .into_iter()
        .filter(|_| judged)
        .map(|address| {
            let (policy, overrule) = (&scene.policy, scene.overrule);
            let (verdict, owner) = scene.index.judge(pod, (protocol, port), &dual_stack(address), policy, overrule);
            let (kernel, in_the_way) = kernel_answer::kernel_answer(address, protocol, port, &sockets);
            WhatIf {
                address,
                verdict: verdict.kind,
                reason: verdict.reason,
                owner: owner.and_then(|id| Some((id, scene.index.name(id)?.clone()))),
                source: owner.and_then(|id| scene.index.source(id, protocol, port, Address::new(address))),
                kernel,
                if_shared: if_shared(scene, pod, verdict.kind, &sockets, &in_the_way),
                in_the_way,
            }
        })
        .collect();
    let claims = scene.claims(scene.index.claims_on(protocol, port));
    let parts =
        messages::MessageInputs { question, scene, pod, claims: &claims, holders: &holders, prospects: &prospects };
    let (message, remedy) = (parts.message(), parts.remedy());
    let free_ports = if parts.is_cured_by_another_port() { free_ports(scene, protocol, port) } else { Vec::new() };
    Ok(Explanation {
        api_version: API_VERSION.to_owned(),
        kind: "Explanation".to_owned(),
        node: escape(scene.node),
        time: time(scene.now.wall),
        protocol: protocol_name(protocol).to_owned(),
        port,
        mode: scene.mode().as_str().to_owned(),
        pod: pod.map(|pod| scene.owner(pod)),
        binds: prospects.iter().map(|prospect| bind(prospect, scene, &holders)).collect(),
        claims,
        holders,
        message,
        remedy: remedy.map(|remedy| messages::with_free_ports(remedy, question, &free_ports)),
        free_ports,
    })
}

/// Returns ports near one that nobody on the node claims or holds.
fn free_ports(scene: &NodeSnapshot<'_>, protocol: Protocol, port: u16) -> Vec<u16> {
    let is_used = |other: u16| {
        scene.index.claims_on(protocol, other).next().is_some() || scene.holders.on(protocol, other).next().is_some()
    };
    free_ports_near((protocol, port), &AllocatedRanges::default(), is_used)
}

/// Checks whether a pod is on the node's network. A pod of which nobody has said is taken to be: only what is on it has
/// a claim in force that outlives the agent.
fn is_on_the_nodes_network(scene: &NodeSnapshot<'_>, pod: OwnerId) -> bool {
    scene.index.owner(pod).and_then(|owner| owner.host_network) != Some(false)
}

/// Computes the outcome for a socket that could share the port. Under `--undeclared adopt` the first pod to bind a port
/// owns it, also against those that could share it.
fn if_shared(
    scene: &NodeSnapshot<'_>,
    pod: Option<OwnerId>,
    verdict: VerdictKind,
    sockets: &[&sockets::BoundSocket],
    in_the_way: &[usize],
) -> Option<(VerdictKind, Reason, usize)> {
    if scene.policy.undeclared != Undeclared::Adopt || verdict == VerdictKind::Deny {
        return None;
    }
    let answers = in_the_way.iter().filter_map(|&place| {
        let holder = sockets[place];
        let shares = holder.reuse.is_none_or(|reuse| could_share(holder.protocol, reuse.port, reuse.address));
        let is_shared = |spec: &PortSpec| spec.protocol == holder.protocol && spec.ports.contains(holder.port);
        if !shares || holder.address.is_multicast() || scene.shared.iter().any(is_shared) {
            return None;
        }
        let owner = holder.cgroup.and_then(|cgroup| scene.index.owner_by_cgroup(cgroup));
        let verdict = scene.index.judge_sharing(pod, owner, &scene.policy, scene.overrule);
        (verdict.reason != Reason::Unclaimed).then_some((verdict.kind, verdict.reason, place))
    });
    answers.max_by_key(|(kind, ..)| *kind)
}

fn bind(prospect: &WhatIf, scene: &NodeSnapshot<'_>, holders: &[HolderRow]) -> BindView {
    let WhatIf { address, verdict, reason, owner, source, kernel, in_the_way: _, if_shared } = prospect;
    BindView {
        address: *address,
        verdict: verdict.as_str().to_owned(),
        reason: reason.as_str().to_owned(),
        owner: owner.as_ref().map(|(id, _)| scene.owner(*id)),
        source: source.map(|source| source.to_string()),
        kernel: kernel.as_str().to_owned(),
        if_shared: if_shared.and_then(|(verdict, reason, place)| {
            Some(IfShared {
                verdict: verdict.as_str().to_owned(),
                reason: reason.as_str().to_owned(),
                holder: holders.get(place)?.who.clone(),
            })
        }),
    }
}
