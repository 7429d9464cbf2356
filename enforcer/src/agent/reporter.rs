//! What the agent learned, as log lines, counts and, where there is a cluster, Events.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
    sync::Arc,
    time::Duration,
};

use enforcer_ebpf::wire::{KernelError, NodeMode};
use tracing::{Level, debug, enabled, error, info, warn};

use enforcer_core::{
    index::{Notice, RestoreSummary},
    model::{
        actor::{Actor, Audience},
        attempt::target,
        name::Name,
        port_spec::protocol_name,
        text::escape,
    },
    plan::recover::UnreadableOwner,
    reports::{deduplicator::Deduplicator, messages::notice_sentence, rate_limit::LogRateLimiter, report::Report},
    sockets::{BoundSocket, LiveConflict},
};

use crate::{
    agent::{
        reconciler::{KernelEvents, Reconciler, TakeoverSummary},
        socket_tracker::ReconcileReport,
    },
    host::clock::now,
    k8s::{ApiError, ApiErrorKind, EventQueue, Resource},
    manifests::FileProblem,
    metrics::Metrics,
    telemetry::DroppedLines,
};

/// Most claims that are listed in one line.
const MAX_LISTED: usize = 16;

pub(super) struct Reporter {
    node: String,
    deduplicator: Deduplicator,
    rate_limiter: LogRateLimiter,
    /// Counts the lines of the log that are lost, and how many there were at the last look.
    log: (DroppedLines, u64),
    errors: BTreeMap<KernelError, u64>,
    folder_gone: bool,
    synced: bool,
    api_errors: BTreeSet<(Resource, ApiErrorKind)>,
    local_mode: NodeMode,
    /// What of the sockets could not be read: each is told once.
    diag_errors: BTreeSet<String>,
    /// Where Events go; `None` without a cluster.
    event_queue: Option<EventQueue>,
    metrics: Arc<Metrics>,
}

impl Reporter {
    pub(super) fn new(node: String, event_queue: Option<EventQueue>, metrics: Arc<Metrics>, log: DroppedLines) -> Self {
        if let Some(outbox) = &event_queue {
            metrics.set_outbox(outbox.clone());
        }
        Self {
            node,
            deduplicator: Deduplicator::default(),
            rate_limiter: LogRateLimiter::default(),
            log: (log, 0),
            errors: BTreeMap::new(),
            folder_gone: false,
            synced: false,
            api_errors: BTreeSet::new(),
            local_mode: NodeMode::Unset,
            diag_errors: BTreeSet::new(),
            event_queue,
            metrics,
        }
    }

    /// Attempts that the kernel told.
    pub(super) fn handle_events(&mut self, told: &KernelEvents) {
        if let Some(outbox) = &self.event_queue
            && !told.reports.is_empty()
        {
            let now = now();
            outbox.put(|events| {
                for report in &told.reports {
                    events.report(report, now);
                }
            });
        }
        for report in told.reports.iter().filter(|report| report.is_conflict()) {
            self.metrics.conflict(report.caller.namespace(), report.attempt.verdict);
        }
        for report in &told.reports {
            // While somebody watches, allowed attempts come too. They must not push conflicts out of the memory of what
            // was told.
            if !report.is_conflict() && !enabled!(Level::DEBUG) {
                continue;
            }
            let now = now().boottime;
            let Some(held_back) = self.deduplicator.admit(report, now) else { continue };
            let others = if report.is_conflict() {
                self.rate_limiter.admit(&report.caller, held_back + 1, now)
            } else {
                // Who looks at all of them wants all of them.
                Some(0)
            };
            if let Some(others) = others {
                self.report(report, held_back, others);
            }
        }
        for bound in &told.bound {
            let target = target(bound.address, bound.port, bound.protocol);
            let command = escape(&bound.command);
            debug!(
                event = "bound",
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
        self.live_conflicts(&told.live_conflicts);
        for problem in &told.undecodable {
            error!(event = "record_invalid", "cannot read a record of a bind: {problem}");
        }
    }

    fn report(&self, report: &Report, held_back: u64, others: u64) {
        let attempt = &report.attempt;
        let mut message = report.sentence(&self.node, Audience::Operators);
        if held_back > 0 {
            message = format!("{message}; {held_back} like it since the last time it was told");
        }
        let message = message + &suppressed_suffix(others);
        let owner = report.owner.as_ref().map(Name::to_string);
        let holder = report.holder.as_ref().map(|holder| holder.who.to_string());
        let pod = report.caller.pod();
        let command = report.command();
        macro_rules! tell {
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
                    heldBack = held_back,
                    othersHeldBack = others,
                    "{message}"
                )
            };
        }
        if report.is_conflict() { tell!(warn) } else { tell!(debug) }
    }

    /// What the index found worth telling, and what the kernel refused.
    pub(super) fn notices(&mut self, engine: &mut Reconciler) {
        let notices = engine.take_notices();
        self.publish(&notices, engine);
        for notice in notices {
            self.metrics.claim_problem(&notice);
            let others = notice
                .pod()
                .map_or(Some(0), |pod| self.rate_limiter.admit(&Actor::Known(pod.clone()), 1, now().boottime));
            let Some(others) = others else { continue };
            let message = notice_sentence(&notice, &self.node) + &suppressed_suffix(others);
            match &notice {
                Notice::Problem { pod, problem } => {
                    warn!(event = "claim_invalid", pod = %pod, kind = problem.as_str(), "{message}");
                }
                Notice::MoreProblems { pod, count } => {
                    warn!(event = "claim_invalid", pod = %pod, kind = "more", count, "{message}");
                }
                Notice::SameUid { pod, first } => {
                    warn!(event = "identity_rejected", pod = %pod, owner = %first, "{message}");
                }
                Notice::ModeInvalid { namespace, .. } => warn!(event = "mode_invalid", namespace, "{message}"),
                Notice::MirrorRejected { pod, .. } => {
                    warn!(event = "identity_rejected", pod = %pod, "{message}");
                }
                Notice::QuotaExceeded { pod, limit } | Notice::HandoverQuotaExceeded { pod, limit } => {
                    warn!(event = "no_room", pod = %pod, limit = %limit, "{message}");
                }
                Notice::Conflict { loser, winner, source, .. } => {
                    let source = source.as_str();
                    warn!(event = "claim_conflict", pod = %loser, owner = %winner, source, "{message}");
                }
                Notice::Granted { pod, .. } => info!(event = "claim_granted", pod = %pod, "{message}"),
            }
        }
        for failure in engine.take_failures() {
            self.metrics.map_write_error();
            error!(event = "map_failed", "a claim or a pod is missing in the kernel: {failure}");
        }
    }

    /// What a look at the sockets of the node brought. Such looks are taken every few seconds, and so one at the log is too.
    pub(super) fn socket_report(&mut self, looked: &ReconcileReport) {
        self.dropped_lines();
        let ReconcileReport { live_conflicts: existing, errors } = looked;
        self.live_conflicts(existing);
        for error in errors {
            let message = error.to_string();
            if self.diag_errors.insert(message.clone()) {
                warn!(event = "sockets_unknown", node = self.node, "{message}");
            }
        }
    }

    fn live_conflicts(&mut self, existing: &[LiveConflict]) {
        if let Some(outbox) = &self.event_queue
            && !existing.is_empty()
        {
            let now = now();
            outbox.put(|events| existing.iter().for_each(|existing| events.live_conflict(existing, now)));
        }
        for existing in existing {
            let others = self.rate_limiter.admit(existing.sides()[0], 1, now().boottime);
            let Some(others) = others else { continue };
            let message = existing.sentence(&self.node, Audience::Operators) + &suppressed_suffix(others);
            let [holder, other] = existing.sides().map(ToString::to_string);
            let BoundSocket { protocol, address, port, .. } = existing.holder().holder;
            warn!(
                event = "port_shared",
                protocol = protocol_name(protocol),
                %address,
                port,
                pod = existing.sides()[0].pod(),
                holder,
                other,
                "{message}"
            );
        }
    }

    fn publish(&self, notices: &[Notice], engine: &Reconciler) {
        let Some(outbox) = &self.event_queue else {
            return;
        };
        // Whatever happened, a name that an Event waits for may have come with it.
        if notices.is_empty() && !outbox.waits_for_names() {
            return;
        }
        let now = now();
        outbox.put(|events| {
            for notice in notices {
                events.notice(notice, now);
            }
            events.retry_unnamed(engine.index(), now);
        });
    }

    /// What was taken over from the agent before this one, and how many conflicts nobody had told yet.
    pub(super) fn takeover(&self, resumed: &TakeoverSummary, conflicts: usize) {
        let TakeoverSummary { restored: RestoreSummary { pods, reservations: remnants, refused }, forgotten } = resumed;
        info!(
            event = "resumed",
            node = self.node,
            pods,
            remnants,
            conflicts,
            "took over from the agent before this one: {pods} pods with what they had in force, and {conflicts} conflicts \
             that nobody had told",
        );
        for pod in refused {
            warn!(event = "resume_refused", pod = %pod, "{pod} of before cannot be taken over; its claims end until it is listed");
        }
        for UnreadableOwner { claims, why, .. } in forgotten {
            let claims: Vec<String> = claims.iter().take(MAX_LISTED).map(ToString::to_string).collect();
            let (claims, why) = (claims.join(", "), why.map_or_else(|| "nothing".to_owned(), |why| why.to_string()));
            warn!(
                event = "resume_forgotten",
                "whose {claims} was in force is not known ({why} was written down); it ends until its pod is listed"
            );
        }
    }

    /// The mode that an operator set on the node. Told when it changes.
    pub(super) fn local_mode(&mut self, mode: NodeMode) {
        if std::mem::replace(&mut self.local_mode, mode) == mode {
            return;
        }
        let node = &self.node;
        match mode {
            NodeMode::Unset => {
                info!(
                    event = "local_mode",
                    node,
                    mode = "unset",
                    "the mode that was set on {node} is cleared; the agent's counts"
                );
            }
            NodeMode::Audit => warn!(
                event = "local_mode",
                node,
                mode = "audit",
                "an operator set {node} to audit: nothing is denied on it until `enforcer mode --clear`"
            ),
            NodeMode::Enforce => warn!(
                event = "local_mode",
                node,
                mode = "enforce",
                "an operator set {node} to enforce, whatever --mode says, until `enforcer mode --clear`"
            ),
        }
    }

    /// Manifests that cannot be used.
    pub(super) fn problems(&self, problems: &[FileProblem]) {
        let node = &self.node;
        for problem in problems {
            let file = problem.file();
            warn!(
                event = "manifest_invalid",
                node, file, "manifest {problem}; what was known of it before stays in force"
            );
        }
    }

    /// The agent enforces what it can while it does not know the pods.
    pub(super) fn not_synced(&self) {
        let node = &self.node;
        warn!(
            event = "not_synced",
            node,
            "the pods of {node} are not known yet; until then what the node reserved is enforced, and what was in force before"
        );
    }

    /// A list of all pods came.
    pub(super) fn synced(&mut self, engine: &Reconciler) {
        let pods = engine.index().pod_count();
        if !std::mem::replace(&mut self.synced, true) {
            let (claims, conflicts) = engine.index().claim_counts();
            info!(event = "synced", pods, claims, conflicts, "all {pods} pods of {} are known", self.node);
        }
    }

    /// An update took so long from its arrival to the kernel's maps.
    pub(super) fn enforced(&self, delay: Duration) {
        self.metrics.enforced(delay);
        let micros = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
        debug!(event = "enforced", node = self.node, delayMicros = micros, "an update took {micros} µs to the kernel");
    }

    /// Something of the API does not work. Counted each time, told once for each kind of trouble until it works again.
    pub(super) fn api_error(&mut self, trouble: &ApiError) {
        let ApiError { resource, kind, message } = trouble;
        self.metrics.api_error(*resource, *kind);
        if self.api_errors.insert((*resource, *kind)) {
            let (name, verb, remedy) = (resource.as_str(), resource.verb(), kind.remedy(*resource));
            warn!(
                event = "api_trouble",
                resource = name,
                kind = kind.as_str(),
                "cannot {verb} {name}: {message}; {remedy}; what is known stays enforced, and it is tried again"
            );
        }
    }

    /// It works again.
    pub(super) fn api_recovered(&mut self, resource: Resource) {
        self.api_errors.retain(|(troubled, _)| *troubled != resource);
        let (name, verb) = (resource.as_str(), resource.verb());
        info!(event = "api_back", resource = name, "{name} are {verb}ed again");
    }

    pub(super) fn source_lost(&mut self, path: &Path, error: &io::Error) {
        if !self.folder_gone {
            let path = path.display();
            error!(event = "source_lost", "cannot read the folder {path}: {error}; the claims stay as they were");
        }
        self.folder_gone = true;
    }

    pub(super) fn is_source_lost(&self) -> bool {
        self.folder_gone
    }

    pub(super) fn source_recovered(&mut self) {
        if std::mem::take(&mut self.folder_gone) {
            info!(event = "source_back", "the folder of manifests can be read again");
        }
    }

    /// Lines of the log that were lost since the last time: whoever reads it did not keep up, or there is no room for it.
    fn dropped_lines(&mut self) {
        let (log, before) = &mut self.log;
        let total = log.lines();
        let count = total - std::mem::replace(before, total);
        if count > 0 {
            self.metrics.log_lost(count);
            warn!(
                event = "log_lost",
                count,
                total,
                "{count} lines of the log are lost: it could not be written as fast, or there is no room for it; \
                 enforcement, counters and Events go on"
            );
        }
    }

    /// Errors that the programs counted since the last time.
    pub(super) fn counters(&mut self, engine: &Reconciler) {
        let counters = match engine.counters() {
            Ok(counters) => counters,
            Err(error) => {
                error!(event = "counters_failed", "{error}");
                return;
            }
        };
        for kind in KernelError::ALL {
            let total = counters.errors(kind);
            let before = self.errors.insert(kind, total).unwrap_or(0);
            if total > before {
                warn!(
                    event = "kernel_error",
                    kind = kind.as_str(),
                    count = total - before,
                    total,
                    "{}",
                    kernel_error_text(kind)
                );
            }
        }
    }
}

/// The end of a line before which others about the same pod were held back.
fn suppressed_suffix(others: u64) -> String {
    if others > 0 { format!("; {others} other lines about it were held back") } else { String::new() }
}

fn kernel_error_text(error: KernelError) -> &'static str {
    match error {
        KernelError::BindEventLost => {
            "more binds were judged than could be reported; verdicts and counters are right all the same"
        }
        KernelError::CgroupEventLost => "more cgroups came and went than could be reported; the tree was read instead",
        KernelError::CgroupsFull => "there are more pod cgroups than the kernel's map has room for",
        KernelError::ReadFailed => "the programs could not read kernel memory",
        KernelError::CallerUnknown => "processes below the attached cgroup, but in no pod's cgroup, tried to bind",
        KernelError::HolderEventLost => {
            "more sockets were bound and released than could be reported; they are looked up instead"
        }
        KernelError::HoldsFull => {
            "who holds a port could not be noted: others may share it; more than eight pods or addresses share one port, or \
             kernel memory is short"
        }
        KernelError::MapMiss => "the programs missed an element of a map that is always there",
    }
}
