//! Sentences about reports and notices.

use enforcer_ebpf::wire::{Reason, VerdictKind};

use crate::{
    index::Notice,
    model::{
        actor::Audience,
        list_text::comma_list,
        name::Name,
        port_spec::{PortList, PortSpec},
        quota::QuotaLimit,
        source::ClaimSource,
        text::escape,
    },
    reports::report::{Incumbent, Report},
};

/// Most ports that are listed in one sentence.
const MAX_LISTED: usize = 16;

impl Report {
    /// Returns the sentence for the log and for the offender's Event.
    #[must_use]
    pub fn sentence(&self, node: &str, audience: Audience) -> String {
        let container = self.container.as_ref().map(|name| format!("container {name}, ")).unwrap_or_default();
        let verdict = match self.attempt.verdict {
            VerdictKind::Allow if self.attempt.reason == Reason::Held => "fails",
            VerdictKind::Allow => "allowed",
            VerdictKind::Audit if self.is_shadowed() => "audited (what arrives there goes to the Service)",
            VerdictKind::Audit => "audited (it would be denied in enforce mode)",
            VerdictKind::Deny => "denied",
        };
        format!(
            "bind {} by {} ({container}command {}, pid {}) {verdict} on {}: {}",
            self.target(),
            self.caller,
            self.command(),
            self.attempt.pid,
            escape(node),
            self.reason_text(audience),
        )
    }

    /// Checks whether a Service has the port, so that the socket gets nothing, whatever the mode is.
    fn is_shadowed(&self) -> bool {
        self.attempt.reason == Reason::Claimed && self.owner.as_ref().is_some_and(|owner| owner.service)
    }

    fn reason_text(&self, audience: Audience) -> String {
        match (self.attempt.reason, &self.holder) {
            (Reason::Held, Some(Incumbent { socket: Some(socket), .. })) if audience == Audience::Operators => {
                format!("{}{}", self.holder_text(), socket.details())
            }
            (Reason::Held, Some(_)) => self.holder_text(),
            (Reason::Stale, Some(_)) => format!("{}, but no agent has renewed the lease", self.holder_text()),
            (reason, _) => explain_reason(reason, self.owner.as_ref(), self.source),
        }
    }

    fn holder_text(&self) -> String {
        self.holder.as_ref().map_or_else(String::new, |holder| format!("held by {holder}"))
    }
}

/// Returns the reason of a verdict as the end of a sentence. `owner` and `source` are of the claim that decided.
#[must_use]
pub fn explain_reason(reason: Reason, owner: Option<&Name>, source: Option<ClaimSource>) -> String {
    let declared = source.map(|source| format!(" ({source})")).unwrap_or_default();
    let name = || owner.map_or_else(|| "somebody who is gone".to_owned(), Name::to_string);
    let claimed = || owner.and_then(Name::kept_for).unwrap_or_else(|| format!("claimed by {}{declared}", name()));
    match reason {
        Reason::Owner => "it owns the port".to_owned(),
        Reason::Unclaimed => "nobody claims the port".to_owned(),
        Reason::Share => format!("it shares the port with {}{declared}", name()),
        Reason::Sibling => format!("its sibling {} claims the port{declared}", name()),
        Reason::Handover => format!("it takes the port over from {}{declared}", name()),
        Reason::Claimed => claimed(),
        Reason::Reserved => "reserved for the node (node-reserved)".to_owned(),
        Reason::Held => format!("held by {}", name()),
        Reason::Undeclared => "no claim of the pod in force covers it, and undeclared ports are denied".to_owned(),
        Reason::Stale => format!("{}, but no agent has renewed the lease", claimed()),
        Reason::Error => format!("the caller is in no known pod, and the port is {}", claimed()),
    }
}

/// Returns ports as in an annotation, at most `most` of them: `80/tcp, 127.0.0.1:53/udp and 2 more`.
#[must_use]
pub fn port_list(ports: &PortList, most: usize) -> String {
    comma_list(ports.iter().map(|&(protocol, address, ports)| PortSpec { protocol, address, ports }), most, 0)
}

/// Returns the sentence for a notice.
#[must_use]
pub fn notice_sentence(notice: &Notice, node: &str) -> String {
    let node = escape(node);
    match notice {
        Notice::Problem { pod, problem } => format!("{pod} on {node}: {problem}"),
        Notice::MoreProblems { pod, count } => format!("{pod} on {node}: {count} more problems of that kind"),
        Notice::LabelInvalid { label, namespace, value } => format!(
            "namespace {namespace}: the label {} is '{value}', which counts for nothing; write {}",
            label.key(),
            label.values()
        ),
        Notice::MirrorRejected { pod, why } => format!("{pod} on {node} is not taken for a static pod: {why}"),
        Notice::SameUid { pod, first } => {
            format!("{pod} on {node} has the UID of {first}: its claims bind nobody; give it a UID of its own")
        }
        Notice::QuotaExceeded { pod, limit } if pod.service => {
            format!("{pod}: {} reached: a listener on its ports is not reported on {node}", quota(limit))
        }
        Notice::QuotaExceeded { pod, limit } => {
            format!(
                "{pod} on {node}: {} reached: its claims are not enforced; retried when the pod changes",
                quota(limit)
            )
        }
        Notice::HandoverQuotaExceeded { pod, limit } => {
            format!("{pod} on {node}: {} reached: its ports are not reserved for a successor", quota(limit))
        }
        Notice::Conflict { loser, winner, source, ports } => {
            let ports = port_list(ports, MAX_LISTED);
            match winner.kept_for() {
                Some(kept) => format!("claim of {loser} on {ports} waits on {node}: {kept}; it is granted then"),
                None => format!(
                    "claim of {loser} on {ports} loses on {node}: in force for {winner} ({source}); it is granted when \
                     that one goes"
                ),
            }
        }
        Notice::Granted { pod, ports } => {
            format!("claim of {pod} on {} is now in force on {node}", port_list(ports, MAX_LISTED))
        }
    }
}

fn quota(limit: &QuotaLimit) -> String {
    let scope = if limit.of_namespace { "namespace" } else { "node" };
    format!("{scope} quota of {} {}", limit.most, limit.what.as_str())
}

#[cfg(test)]
pub(super) mod tests;
