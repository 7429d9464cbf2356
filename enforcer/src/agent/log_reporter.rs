//! The agent's log lines about binds, conflicts and claims, and what keeps them few.

mod node;
mod reserved_ports;

use std::collections::{BTreeMap, BTreeSet};

use enforcer_ebpf::wire::{KernelError, Protocol};
use tracing::{Level, debug, enabled, error, info, warn};

use enforcer_core::{
    index::Notice,
    model::{
        actor::{Actor, Audience},
        attempt::target,
        name::Name,
        namespace_label::NamespaceLabel,
        now::Now,
        port_spec::protocol_name,
        text::escape,
    },
    reports::{
        deduplicator::Deduplicator, log_rate_limiter::LogRateLimiter, messages::notice_sentence, report::Report,
    },
    sockets::{AnsweredByOther, BoundSocket, LiveConflict, SocketBinding},
};

use crate::{
    agent::output::RingName,
    k8s::{ApiErrorKind, ApiResource},
    kernel::BpfError,
    telemetry::DroppedLines,
};

pub(super) use self::reserved_ports::ReservedPortsReporter;

/// Writes the log.
pub(super) struct Reporter {
    node: String,
    /// Address of the API server, if there is one. Safe to show.
    server: Option<String>,
    deduplicator: Deduplicator,
    rate_limiter: LogRateLimiter,
    /// Counts the dropped lines of the log.
    dropped_lines: DroppedLines,
    dropped_lines_reported: u64,
    kernel_errors: BTreeMap<KernelError, u64>,
    folder_lost: bool,
    api_errors: BTreeSet<(ApiResource, ApiErrorKind)>,
    /// Errors of socket diagnostics. Each is reported once.
    diag_errors: BTreeSet<String>,
}

impl Reporter {
    /// Returns the reporter of the node with this name.
    pub(super) fn new(node: String, server: Option<String>, dropped_lines: DroppedLines) -> Self {
        Self {
            node,
            server,
            deduplicator: Deduplicator::default(),
            rate_limiter: LogRateLimiter::default(),
            dropped_lines,
            dropped_lines_reported: 0,
            kernel_errors: BTreeMap::new(),
            folder_lost: false,
            api_errors: BTreeSet::new(),
            diag_errors: BTreeSet::new(),
        }
    }

    /// Logs a judged bind: a conflict as a warning, any other at level debug.
    pub(super) fn verdict(&mut self, report: &Report, now: Now) {
        // While somebody watches, allowed attempts come too. They must not push conflicts out of the deduplicator.
        if !report.is_conflict() && !enabled!(Level::DEBUG) {
            return;
        }
        let Some(suppressed) = self.deduplicator.admit(report, now.boottime) else { return };
        let others = if report.is_conflict() {
            self.rate_limiter.admit(&report.caller, suppressed + 1, now.boottime)
        } else {
            // At level debug every attempt is wanted.
            Some(0)
        };
        if let Some(others) = others {
            self.log_verdict(report, suppressed, others);
        }
    }

    fn log_verdict(&self, report: &Report, suppressed: u64, others: u64) {
        let attempt = &report.attempt;
        let mut message = report.sentence(&self.node, Audience::Operators);
        if suppressed > 0 {
            message = format!("{message}; {suppressed} more like it suppressed since the last line");
        }
        let message = message + &suppressed_suffix(others);
        let owner = report.owner.as_ref().map(Name::to_string);
        let holder = report.holder.as_ref().map(|holder| holder.who.to_string());
        let pod = report.caller.pod();
        let command = report.command();
        macro_rules! log {
            ($level:ident) => {
                $level!(
                    event = "bind",
                    verdict = attempt.verdict.as_str(),
                    reason = attempt.reason.as_str(),
                    protocol = protocol_name(attempt.protocol),
                    address = %attempt.address,
                    port = attempt.port,
                    pod,
                    container = report.container,
                    command,
                    pid = attempt.pid,
                    uid = attempt.uid,
                    owner,
                    holder,
                    source = report.source.map(|source| source.as_str()),
                    suppressed,
                    suppressedOthers = others,
                    "{message}"
                )
            };
        }
        if report.is_conflict() { log!(warn) } else { log!(debug) }
    }

    /// Logs a bound socket, at level debug.
    pub(super) fn bound(&self, bound: &SocketBinding) {
        let target = target(bound.address, bound.port, bound.protocol);
        let command = escape(&bound.command);
        debug!(
            event = "bound",
            node = self.node,
            protocol = protocol_name(bound.protocol),
            address = %bound.address,
            port = bound.port,
            command,
            pid = bound.pid,
            uid = bound.uid,
            "bound {target} by command {command}, pid {}",
            bound.pid
        );
    }

    /// Logs a conflict between sockets that are bound.
    pub(super) fn live_conflict(&mut self, conflict: &LiveConflict, now: Now) {
        let others = self.rate_limiter.admit(conflict.sides()[0], 1, now.boottime);
        let Some(others) = others else { return };
        let message = conflict.sentence(&self.node, Audience::Operators) + &suppressed_suffix(others);
        let [holder, other] = conflict.sides().map(ToString::to_string);
        let BoundSocket { protocol, address, port, .. } = conflict.holder().holder;
        warn!(
            event = "port_shared",
            protocol = protocol_name(protocol),
            %address,
            port,
            pod = conflict.sides()[0].pod(),
            holder,
            other,
            "{message}"
        );
    }

    /// Logs a port of a Ready pod that another one answers.
    pub(super) fn answered_by_other(&mut self, answered: &AnsweredByOther, now: Now) {
        let Some(others) = self.rate_limiter.admit(&answered.pod, 1, now.boottime) else { return };
        let message = answered.sentence(&self.node, Audience::Operators) + &suppressed_suffix(others);
        let BoundSocket { protocol, address, port, .. } = answered.holder.holder;
        warn!(
            event = "port_answered_by_other",
            protocol = protocol_name(protocol),
            %address,
            port,
            pod = answered.pod.pod(),
            holder = answered.holder.who.to_string(),
            shared = answered.is_shared,
            "{message}"
        );
    }

    /// Logs a ring record that cannot be decoded.
    pub(super) fn undecodable_record(&self, ring: RingName, error: &str) {
        let ring = ring.as_str();
        error!(event = "record_invalid", node = self.node, ring, "cannot decode a record of the {ring} ring: {error}");
    }

    /// Logs the end of handover reservations by an operator.
    pub(super) fn handover_released(&self, protocol: Protocol, port: u16, names: &[Name]) {
        for name in names {
            info!(
                event = "handover_released",
                node = %escape(&self.node),
                port,
                protocol = protocol_name(protocol),
                workload = %name,
                "the handover grace of {port}/{} for {name} was ended by an operator",
                protocol_name(protocol),
            );
        }
    }

    /// Logs a finding of the index.
    pub(super) fn notice(&mut self, notice: &Notice, now: Now) {
        let others =
            notice.pod().map_or(Some(0), |pod| self.rate_limiter.admit(&Actor::Known(pod.clone()), 1, now.boottime));
        let Some(others) = others else { return };
        let message = notice_sentence(notice, &self.node) + &suppressed_suffix(others);
        match notice {
            Notice::Problem { pod, problem } => {
                warn!(event = "claim_invalid", pod = %pod, kind = problem.as_str(), "{message}");
            }
            Notice::MoreProblems { pod, count } => {
                warn!(event = "claim_invalid", pod = %pod, kind = "more", count, "{message}");
            }
            Notice::SameUid { pod, first } => {
                warn!(event = "identity_rejected", pod = %pod, owner = %first, "{message}");
            }
            Notice::LabelInvalid { label: NamespaceLabel::Mode, namespace, .. } => {
                warn!(event = "mode_invalid", namespace, "{message}");
            }
            Notice::LabelInvalid { label: NamespaceLabel::MaxPorts, namespace, .. } => {
                warn!(event = "max_ports_invalid", namespace, "{message}");
            }
            Notice::MirrorRejected { pod, .. } => {
                warn!(event = "identity_rejected", pod = %pod, "{message}");
            }
            Notice::QuotaExceeded { pod, limit } | Notice::HandoverQuotaExceeded { pod, limit } => {
                warn!(event = "quota_exceeded", pod = %pod, limit = %limit, "{message}");
            }
            Notice::Conflict { loser, winner, source, .. } => {
                let source = source.as_str();
                warn!(event = "claim_conflict", pod = %loser, owner = %winner, source, "{message}");
            }
            Notice::Granted { pod, .. } => info!(event = "claim_granted", pod = %pod, "{message}"),
        }
    }

    /// Logs a change that the kernel refused.
    pub(super) fn map_failure(&self, error: &BpfError) {
        error!(
            event = "map_write_failed",
            node = self.node,
            "a claim or an identity is missing in the kernel's maps: {error}"
        );
    }
}

/// Returns the end of a line before which other lines about the same pod were suppressed.
fn suppressed_suffix(others: u64) -> String {
    if others > 0 { format!("; {others} other lines about it suppressed") } else { String::new() }
}
