//! Log lines about the node and the agent: takeover, mode, source of pods, API, kernel errors, the log itself.

use std::{io, path::Path, time::Duration};

use enforcer_core::{index::RestoreSummary, model::text::escape, plan::recover::UnreadableOwner};
use enforcer_ebpf::wire::{KernelError, NodeMode};
use tracing::{debug, error, info, warn};

use super::Reporter;
use crate::{
    agent::{
        error::ReconcilerError,
        output::{TakeoverFrom, TakeoverProblem, TakeoverSummary},
    },
    host::{boot_state_folder::FolderError, sock_diag::DiagError},
    k8s::{ApiError, ApiResource, TaintNotice},
    kernel::Counters,
    manifests::FileProblem,
};

/// Most claims that are listed in one line.
const MAX_LISTED: usize = 16;

impl Reporter {
    /// Logs the takeover, and how many verdicts the previous agent had not reported.
    pub(in crate::agent) fn takeover(&self, summary: &TakeoverSummary, conflicts: usize) {
        let TakeoverSummary { restored: RestoreSummary { pods, services, reservations, refused }, unreadable, from } =
            summary;
        let source = match from {
            TakeoverFrom::Agent => "the previous agent".to_owned(),
            TakeoverFrom::BootRestore(after) => {
                format!("the boot state that was restored {:.1} s after the boot", after.as_secs_f64())
            }
            TakeoverFrom::BootState => "the boot state".to_owned(),
        };
        info!(
            event = "takeover",
            node = self.node,
            pods,
            services,
            reservations,
            conflicts,
            from = match from {
                TakeoverFrom::Agent => "agent",
                TakeoverFrom::BootRestore(_) => "bootRestore",
                TakeoverFrom::BootState => "bootState",
            },
            "took over from {source}: the claims of {pods} pods and {services} Services, and {conflicts} conflicts that were not reported",
        );
        for pod in refused {
            warn!(
                event = "takeover_refused",
                pod = %pod,
                "cannot restore {pod}; its claims are not enforced until it is listed"
            );
        }
        for UnreadableOwner { claims, why, .. } in unreadable {
            let claims: Vec<String> = claims.iter().take(MAX_LISTED).map(ToString::to_string).collect();
            let claims = claims.join(", ");
            let why = why.map_or_else(|| "no record".to_owned(), |why| why.to_string());
            warn!(
                event = "takeover_unreadable",
                "cannot restore the owner of {claims} ({why}); not enforced until its pod is listed"
            );
        }
    }

    /// Logs that the boot state could not be written.
    pub(in crate::agent) fn boot_state(&self, error: &FolderError) {
        warn!(
            event = "boot_state_failed",
            node = self.node,
            "{error}; after a reboot nothing is enforced until an agent comes"
        );
    }

    /// Logs a part of the takeover that failed.
    pub(in crate::agent) fn takeover_problem(&self, problem: &TakeoverProblem) {
        match problem {
            TakeoverProblem::Unreadable(error) => error!(
                event = "takeover_failed",
                node = self.node,
                %error,
                "cannot read the previous agent's state: {error}; its claims are enforced again once the pods are known"
            ),
            TakeoverProblem::EventsLost(error) => {
                warn!(
                    event = "takeover_events_lost",
                    node = self.node,
                    %error,
                    "the previous agent's last events may be lost: {error}"
                );
            }
            TakeoverProblem::NotRetired(error) => error!(
                event = "takeover_cleanup_failed",
                node = self.node,
                %error,
                "cannot remove the pins of previous agents: {error}; the next start tries again"
            ),
        }
    }

    /// Logs the mode that an operator set on the node, after it changed.
    pub(in crate::agent) fn node_mode(&self, mode: NodeMode) {
        let node = &self.node;
        match mode {
            NodeMode::Unset => {
                info!(
                    event = "node_mode",
                    node,
                    mode = "unset",
                    "the operator's mode of {node} was cleared; the agent's --mode applies"
                );
            }
            NodeMode::Audit => warn!(
                event = "node_mode",
                node,
                mode = "audit",
                "an operator set {node} to audit: nothing is denied on it until `enforcer mode --clear`"
            ),
            NodeMode::Enforce => warn!(
                event = "node_mode",
                node,
                mode = "enforce",
                "an operator set {node} to enforce, whatever --mode says, until `enforcer mode --clear`"
            ),
        }
    }

    /// Logs a manifest that is unusable.
    pub(in crate::agent) fn manifest_problem(&self, problem: &FileProblem) {
        let (node, file) = (&self.node, problem.file());
        warn!(event = "manifest_invalid", node, file, "manifest {problem}; its last good version stays in force");
    }

    /// Logs that the folder of manifests cannot be watched.
    pub(in crate::agent) fn folder_unwatched(&self, error: &notify::Error) {
        warn!(
            event = "watch_failed",
            node = self.node,
            %error,
            "cannot watch the folder of manifests: {error}; it is read periodically"
        );
    }

    /// Logs once that the folder of manifests cannot be read.
    pub(in crate::agent) fn folder_lost(&mut self, path: &Path, error: &io::Error) {
        if !std::mem::replace(&mut self.folder_lost, true) {
            let path = path.display();
            error!(event = "source_lost", "cannot read the folder {path}: {error}; the claims stay as they were");
        }
    }

    /// Logs that the folder can be read again, if it could not.
    pub(in crate::agent) fn folder_read(&mut self) {
        if std::mem::take(&mut self.folder_lost) {
            info!(event = "source_recovered", "the folder of manifests can be read again");
        }
    }

    /// Logs that the pods are not known yet.
    pub(in crate::agent) fn not_synced(&self) {
        let node = &self.node;
        warn!(
            event = "not_synced",
            node,
            "the pods of {node} are not known yet; until then the node's reserved ports and the claims of the previous \
             agent are enforced"
        );
    }

    /// Logs the first complete list of pods.
    pub(in crate::agent) fn synced(&self, pods: usize, claims: usize, conflicts: usize) {
        info!(event = "synced", pods, claims, conflicts, "all {pods} pods of {} are known", self.node);
    }

    /// Logs how long an update took, at level debug.
    pub(in crate::agent) fn enforced(&self, delay: Duration) {
        let micros = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
        debug!(event = "enforced", node = self.node, delayMicros = micros, "an update took {micros} µs to the kernel");
    }

    /// Logs that the startup taint was removed, or that there was none.
    pub(in crate::agent) fn startup_taint(&self, TaintNotice { key, effects }: &TaintNotice) {
        let effects: Vec<&str> = effects.iter().map(|effect| effect.as_str()).collect();
        let (node, effects) = (escape(&self.node), effects.join(", "));
        if effects.is_empty() {
            info!(event = "startup_taint_absent", %node, %key, "the Node {node} has no taint {key}; nothing to remove");
        } else {
            info!(
                event = "startup_taint_removed",
                %node,
                %key,
                effects,
                "removed the taint {key} ({effects}) from the Node {node}: the binds of its pods are judged"
            );
        }
    }

    /// Logs a failed call to the API server, once for each kind of error until calls succeed again.
    pub(in crate::agent) fn api_error(&mut self, ApiError { resource, kind, message }: &ApiError) {
        if self.api_errors.insert((*resource, *kind)) {
            let (name, verb, remedy) = (resource.as_str(), resource.verb(), kind.remedy(*resource));
            let server = self.server.as_deref().unwrap_or("the API server");
            warn!(
                event = "api_error",
                resource = name,
                kind = kind.as_str(),
                server,
                "cannot {verb} {name} at {server}: {message}; {remedy}; known claims stay enforced, and the agent retries"
            );
        }
    }

    /// Logs that calls succeed again.
    pub(in crate::agent) fn api_recovered(&mut self, resource: ApiResource) {
        self.api_errors.retain(|(failed, _)| *failed != resource);
        let (name, done) = (resource.as_str(), resource.verb_done());
        info!(event = "api_recovered", resource = name, "{name} are {done} again");
    }

    /// Logs the errors of a scan of the node's sockets, each once.
    pub(in crate::agent) fn socket_scan(&mut self, errors: &[DiagError]) {
        for error in errors {
            let message = error.to_string();
            if self.diag_errors.insert(message.clone()) {
                warn!(event = "socket_scan_failed", node = self.node, "{message}");
            }
        }
    }

    /// Logs that cgroup records were lost and the tree cannot be read instead.
    pub(in crate::agent) fn cgroup_scan_failed(&self, error: &ReconcilerError) {
        error!(event = "cgroup_scan_failed", node = self.node, %error, "cannot update the cgroups of the pods: {error}");
    }

    /// Logs how many lines of the log were dropped since the last call, and returns the number.
    pub(in crate::agent) fn log_dropped_lines(&mut self) -> u64 {
        let total = self.dropped_lines.lines();
        let count = total - std::mem::replace(&mut self.dropped_lines_reported, total);
        if count > 0 {
            warn!(
                event = "log_lines_dropped",
                count,
                total,
                "{count} lines of the log were dropped: its reader is too slow, or its disk is full; enforcement, counters \
                 and Events go on"
            );
        }
        count
    }

    /// Logs the errors that the kernel programs counted since the last call.
    pub(in crate::agent) fn counters(&mut self, counters: &Result<Counters, ReconcilerError>) {
        let counters = match counters {
            Ok(counters) => counters,
            Err(error) => {
                error!(event = "counters_failed", "{error}");
                return;
            }
        };
        for kind in KernelError::ALL {
            let total = counters.errors(kind);
            let before = self.kernel_errors.insert(kind, total).unwrap_or(0);
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

fn kernel_error_text(error: KernelError) -> &'static str {
    match error {
        KernelError::BindEventLost => {
            "some verdicts were not reported, because the ring was full; they took effect all the same"
        }
        KernelError::CgroupEventLost => {
            "some cgroup records were lost, because the ring was full; the agent read the cgroup tree instead"
        }
        KernelError::CgroupsFull => "the kernel's map of pod cgroups is full",
        KernelError::ReadFailed => "the programs could not read kernel memory",
        KernelError::CallerUnknown => "processes below the attached cgroup, but in no pod's cgroup, tried to bind",
        KernelError::HolderEventLost => {
            "some socket records were lost, because a pod wrote more than there was room for; the agent reads the sockets from the kernel instead"
        }
        KernelError::HoldsFull => {
            "the holder of a port could not be noted, so that others may share it: more than eight pods or addresses share \
             one port, or kernel memory is short"
        }
        KernelError::MapMiss => "the programs missed an element of a map that is always there",
    }
}
