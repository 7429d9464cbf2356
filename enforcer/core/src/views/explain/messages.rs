//! The paragraph, and the remedy.

use std::net::SocketAddr;

use enforcer_ebpf::wire::{NodeMode, Protocol, Reason, VerdictKind};

use super::{ExplainQuestion, KernelAnswer, WhatIf};
use crate::{
    index::OwnerView,
    model::{
        list_text::{and_list, comma_list},
        mode::Mode,
        owner::OwnerId,
        text::escape,
    },
    reports::messages::explain_reason,
    sockets::{AnsweredByOther, AnsweredPort, AnsweredPorts},
    views::node_snapshot::{ActorView, ClaimRow, HolderRow, NodeSnapshot, port_name},
};

/// Most items of a list in a sentence.
const MAX_LISTED: usize = 6;

/// Inputs of the paragraph.
pub(super) struct MessageInputs<'a> {
    pub(super) question: &'a ExplainQuestion<'a>,
    pub(super) scene: &'a NodeSnapshot<'a>,
    pub(super) pod: Option<OwnerId>,
    pub(super) claims: &'a [ClaimRow],
    pub(super) holders: &'a [HolderRow],
    pub(super) prospects: &'a [WhatIf],
}

impl MessageInputs<'_> {
    pub(super) fn message(&self) -> String {
        let mut sentences = vec![self.owned()];
        sentences.extend(self.waited_for());
        sentences.extend(self.shadowed());
        sentences.push(self.held());
        sentences.extend(self.answered());
        sentences.extend(self.judged());
        sentences.extend(self.kernel());
        sentences.join(" ")
    }

    fn port(&self) -> String {
        port_name(self.question.protocol, self.question.port)
    }

    fn owned(&self) -> String {
        let (port, node) = (self.port(), escape(self.scene.node));
        let in_force = self.claims.iter().filter(|claim| claim.standing == "inForce");
        let owners: Vec<String> = in_force
            .map(|ClaimRow { owner, source, address, .. }| match address {
                None => format!("{owner} ({source})"),
                Some(address) => format!("{owner} on {address} ({source})"),
            })
            .collect();
        if owners.is_empty() {
            return format!("Nobody owns {port} on {node}.");
        }
        format!("{port} on {node} is owned by {}.", and_list(&owners, MAX_LISTED))
    }

    fn waited_for(&self) -> Option<String> {
        let behind: Vec<String> = (self.claims.iter())
            .filter_map(|claim| {
                let winner = claim.behind.as_ref()?;
                Some(format!("{} ({}) lost to {winner}", claim.owner, claim.source))
            })
            .collect();
        (!behind.is_empty()).then(|| format!("It is claimed in vain too: {}.", and_list(&behind, MAX_LISTED)))
    }

    /// Returns the sentence about what a Service means for sockets.
    fn shadowed(&self) -> Option<String> {
        let is_taken = self.claims.iter().any(|claim| claim.owner.kind == "service");
        is_taken.then(|| "What arrives there goes to the Service by packet rules, and reaches no socket.".to_owned())
    }

    fn held(&self) -> String {
        let holders: Vec<String> = (self.holders.iter())
            .map(|holder| {
                let since = if holder.since_is_exact { "since" } else { "since before" };
                let activity = if holder.activity.as_deref() == Some("connected") { ", connected" } else { "" };
                format!("{} on {}{activity} {since} {}", holder.name(), holder.address, holder.since)
            })
            .collect();
        if holders.is_empty() {
            return "Nobody holds it.".to_owned();
        }
        format!("It is held by {}.", and_list(&holders, MAX_LISTED))
    }

    /// Returns a sentence for each Ready pod whose port another one answers.
    fn answered(&self) -> Vec<String> {
        let answered = self.scene.answered.map(AnsweredPorts::sorted).unwrap_or_default();
        let here = answered.into_iter().map(|(answered, _)| answered).filter(|answered| {
            (answered.port.protocol(), answered.port.port()) == (self.question.protocol, self.question.port)
        });
        let sentence = |AnsweredByOther { pod, port, holder, is_shared }: &AnsweredByOther| {
            let too = if *is_shared { " too" } else { "" };
            match port {
                AnsweredPort::Probed(..) => format!(
                    "The probe of {pod} on {port} is answered by {}{too}, and the pod is Ready all the same.",
                    holder.who
                ),
                AnsweredPort::Declared(..) => {
                    format!("{pod} declares {port} and is Ready, but {} answers there{too}.", holder.who)
                }
            }
        };
        here.take(MAX_LISTED).map(sentence).collect()
    }

    fn caller(&self) -> String {
        match self.pod {
            Some(pod) => self.scene.owner(pod).to_string(),
            None if self.claims.iter().any(|claim| claim.standing == "inForce") => "any other pod".to_owned(),
            None => "any pod on the host network".to_owned(),
        }
    }

    fn view(&self) -> Option<OwnerView<'_>> {
        self.pod.and_then(|pod| self.scene.index.owner(pod))
    }

    fn judged(&self) -> Vec<String> {
        if self.question.protocol == Protocol::Sctp {
            let why = "No bind of SCTP is judged: the kernel has no hook for it, so claims on it are arbitrated and told only.";
            return vec![why.to_owned()];
        }
        if self.prospects.is_empty() {
            return vec![format!(
                "{} has a network of its own, so it never binds a port of the node and is never judged; a hostPort that it \
                 declares is forwarded to it without any socket.",
                self.caller()
            )];
        }
        let mut sentences = Vec::new();
        let mut left: Vec<&WhatIf> = self.prospects.iter().collect();
        while let Some(&first) = left.first() {
            let is_alike = |other: &&WhatIf| {
                (other.verdict, other.reason, &other.owner, other.source)
                    == (first.verdict, first.reason, &first.owner, first.source)
            };
            let (alike, others): (Vec<_>, Vec<_>) = left.into_iter().partition(is_alike);
            let targets: Vec<String> = alike.iter().map(|prospect| self.target(prospect)).collect();
            let targets = targets.join(" or ");
            let because = explain_reason(first.reason, first.owner.as_ref().map(|(_, name)| name), first.source);
            let caller = self.caller();
            sentences.push(match first.verdict {
                VerdictKind::Allow => format!("If {caller} binds {targets} now, that is allowed: {because}."),
                VerdictKind::Audit => {
                    format!(
                        "If {caller} binds {targets} now, that is let through and told: {because}; {}.",
                        self.lenient(first)
                    )
                }
                VerdictKind::Deny => {
                    format!("If {caller} binds {targets} now, that is denied: {because}; {}.", self.strict())
                }
            });
            left = others;
        }
        if self.view().is_some_and(|view| !view.recognised) {
            let why = "It has no UID of its own on this node, so that its processes are taken for a stranger's.";
            sentences.push(why.to_owned());
        }
        sentences
    }

    fn target(&self, prospect: &WhatIf) -> String {
        SocketAddr::new(prospect.address, self.question.port).to_string()
    }

    /// Returns why a conflict is not denied.
    fn lenient(&self, prospect: &WhatIf) -> &'static str {
        let reason = prospect.reason;
        let view = self.view();
        let owner = prospect.owner.as_ref().and_then(|(id, _)| self.scene.index.owner(*id));
        let is_strict = view.is_some_and(|view| view.mode == Some(Mode::Enforce));
        let enforces = self.scene.policy.enforce || self.scene.overrule.local == NodeMode::Enforce;
        if reason == Reason::Stale {
            "nothing is denied until one does"
        } else if owner.is_some_and(|owner| owner.advisory) {
            "the ports of Services are told and never denied here (--service-ports audit)"
        } else if self.scene.overrule.local == NodeMode::Audit {
            "an operator set this node to audit"
        } else if view.is_some_and(|view| view.mode == Some(Mode::Audit)) {
            "its namespace is in audit mode"
        } else if (enforces || is_strict) && view.is_some_and(|view| view.software) {
            "it is node software, which is never denied"
        } else {
            "this node is in audit mode"
        }
    }

    /// Returns why a conflict is denied.
    fn strict(&self) -> &'static str {
        if self.view().is_some_and(|view| view.mode == Some(Mode::Enforce)) {
            "its namespace is in enforce mode"
        } else if self.scene.overrule.local == NodeMode::Enforce {
            "an operator set this node to enforce"
        } else {
            "this node is in enforce mode"
        }
    }

    /// Returns the sentence about the kernel's own verdict.
    fn kernel(&self) -> Option<String> {
        let worst = self.prospects.iter().max_by_key(|prospect| prospect.kernel)?;
        let holders: Vec<&HolderRow> = worst.in_the_way.iter().filter_map(|place| self.holders.get(*place)).collect();
        let mut names: Vec<String> = holders.iter().map(|holder| self.holder(&holder.who)).collect();
        names.dedup();
        let so = if worst.verdict == VerdictKind::Deny { "Apart from that, the kernel" } else { "But the kernel" };
        let sharing = match self.question.protocol {
            Protocol::Udp => {
                "unless both sockets set SO_REUSEADDR, or SO_REUSEPORT as one user, and then packets go to one of them"
            }
            Protocol::Tcp | Protocol::Sctp => {
                "unless both sockets set SO_REUSEPORT as one user, and then connections are split between them"
            }
        };
        match worst.kernel {
            KernelAnswer::Free => None,
            KernelAnswer::InUse => Some(format!(
                "{so} itself refuses it with EADDRINUSE while {} holds the port.",
                and_list(&names, MAX_LISTED)
            )),
            KernelAnswer::InUseUnlessShared => {
                let refuses = format!(
                    "{so} itself refuses it with EADDRINUSE while {} holds the port",
                    and_list(&names, MAX_LISTED)
                );
                Some(match worst.if_shared {
                    None => format!("{refuses}, {sharing}."),
                    Some((verdict, ..)) => {
                        let then = if verdict == VerdictKind::Deny {
                            "is denied all the same"
                        } else {
                            "is let through and told"
                        };
                        format!(
                            "{refuses}; a bind that could share it {then}: whoever binds an undeclared port first owns it."
                        )
                    }
                })
            }
        }
    }

    fn holder(&self, who: &ActorView) -> String {
        let itself = self.pod.map(|pod| self.scene.owner(pod)).is_some_and(|pod| pod == *who);
        if itself { format!("{who} itself") } else { who.to_string() }
    }

    /// Checks whether the remedy is another port.
    pub(super) fn is_cured_by_another_port(&self) -> bool {
        let worst = self.prospects.iter().max_by_key(|prospect| (prospect.verdict, prospect.kernel));
        worst.is_some_and(|worst| match (worst.verdict, worst.reason) {
            (VerdictKind::Allow, _) => worst.kernel != KernelAnswer::Free,
            (_, Reason::Undeclared | Reason::Stale) => false,
            _ => worst.owner.as_ref().is_none_or(|(_, owner)| owner.handover.is_none()),
        })
    }

    pub(super) fn remedy(&self) -> Option<String> {
        let worst = self.prospects.iter().max_by_key(|prospect| (prospect.verdict, prospect.kernel))?;
        let port = self.port();
        let conflict = worst.verdict != VerdictKind::Allow;
        match (conflict, worst.reason) {
            (true, Reason::Reserved) => {
                Some(format!("use another port, or take {port} out of the agent's --node-reserved"))
            }
            (true, Reason::Undeclared) => {
                Some(format!("declare it: add {port} to the pod's annotation port-enforcer.io/ports, or a hostPort"))
            }
            (true, Reason::Stale) => Some("see why no agent runs on this node".to_owned()),
            (true, Reason::Claimed | Reason::Error)
                if worst.owner.as_ref().is_some_and(|(_, owner)| owner.handover.is_some()) =>
            {
                Some(format!("wait for the end of the handover grace, or end it now: enforcer release {port}"))
            }
            (true, Reason::Claimed | Reason::Error)
                if worst.owner.as_ref().is_some_and(|(_, owner)| owner.service) =>
            {
                Some("use a port outside of the range of NodePorts, or give the Service another nodePort".to_owned())
            }
            (
                true,
                Reason::Claimed
                | Reason::Held
                | Reason::Error
                | Reason::Owner
                | Reason::Unclaimed
                | Reason::Share
                | Reason::Sibling
                | Reason::Handover,
            ) => Some(
                "give one of the two another port, or keep them apart with podAntiAffinity or a nodeSelector; pods of one \
                 namespace that mean to share it say so with port-enforcer.io/share"
                    .to_owned(),
            ),
            (false, _) if worst.kernel != KernelAnswer::Free => {
                let stranger = worst.in_the_way.iter().filter_map(|place| self.holders.get(*place));
                let mut names: Vec<String> = stranger.map(HolderRow::name).collect();
                names.dedup();
                Some(format!("end what holds it ({}), or use another port", and_list(&names, MAX_LISTED)))
            }
            (false, _) => None,
        }
    }
}

/// Adds the free ports near the one in question to a remedy.
pub(super) fn with_free_ports(remedy: String, question: &ExplainQuestion<'_>, free: &[u16]) -> String {
    if free.is_empty() {
        return remedy;
    }
    let port = port_name(question.protocol, question.port);
    format!("{remedy}; free near {port}: {}", comma_list(free, MAX_LISTED, 0))
}
