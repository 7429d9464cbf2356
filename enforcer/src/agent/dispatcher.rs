//! Where outputs go: each to the log, the metrics, the Events and the watchers that want it.

use std::sync::Arc;

use enforcer_core::{model::now::Now, views::unenforced_time::GapCause};

use crate::{
    agent::{
        admin::Watchers,
        log_reporter::{Reporter, ReservedPortsReporter},
        output::Output,
        pod_source::PodSource,
        reconciler::Reconciler,
        reserved_ports_worker::{Shutdown, SyncOutcome},
    },
    host::{boot_state_folder::FolderError, malloc_trim},
    k8s::EventQueue,
    metrics::Metrics,
    telemetry::DroppedLines,
};

/// Dispatches outputs.
pub(super) struct Dispatcher {
    node: String,
    reporter: Reporter,
    reserved_ports: ReservedPortsReporter,
    metrics: Arc<Metrics>,
    /// Queue of Kubernetes Events; `None` without a cluster.
    events: Option<EventQueue>,
    watchers: Watchers,
}

impl Dispatcher {
    /// Returns the dispatcher of the node with this name. `server` is the address of the API server, if there is one.
    pub(super) fn new(
        node: &str,
        server: Option<String>,
        events: Option<EventQueue>,
        metrics: Arc<Metrics>,
        lines: DroppedLines,
    ) -> Self {
        if let Some(events) = &events {
            metrics.set_event_queue(events.clone());
        }
        Self {
            node: node.to_owned(),
            reporter: Reporter::new(node.to_owned(), server, lines),
            reserved_ports: ReservedPortsReporter::new(node.to_owned(), Arc::clone(&metrics)),
            metrics,
            events,
            watchers: Watchers::default(),
        }
    }

    /// Dispatches all queued outputs of the reconciler, and the Events whose names are known now.
    pub(super) fn drain(&mut self, reconciler: &mut Reconciler, source: &PodSource, now: Now) {
        while let Some(output) = reconciler.poll_output() {
            self.dispatch(output, source, now);
        }
        if let Some(events) = &self.events
            && events.waits_for_names()
        {
            events.put(|events| events.retry_unnamed(reconciler.index(), now));
        }
    }

    fn dispatch(&mut self, output: Output, source: &PodSource, now: Now) {
        let reporter = &mut self.reporter;
        match output {
            Output::Verdict(report) => {
                self.watchers.broadcast(&report, &self.node, now);
                if let Some(events) = &self.events {
                    events.put(|events| events.report(&report, now));
                }
                if report.is_conflict() {
                    self.metrics.conflict(report.caller.namespace(), report.attempt.verdict);
                }
                reporter.verdict(&report, now);
            }
            Output::Bound(bound) => reporter.bound(&bound),
            Output::LiveConflict(conflict) => {
                if let Some(events) = &self.events {
                    events.put(|events| events.live_conflict(&conflict, now));
                }
                reporter.live_conflict(&conflict, now);
            }
            Output::AnsweredByOther(answered) => {
                if let Some(events) = &self.events {
                    events.put(|events| events.answered_by_other(&answered, now));
                }
                reporter.answered_by_other(&answered, now);
            }
            Output::UndecodableRecord { ring, error } => reporter.undecodable_record(ring, &error),
            Output::Notice(notice) => {
                if let Some(events) = &self.events {
                    events.put(|events| events.notice(&notice, now));
                }
                self.metrics.claim_problem(&notice);
                reporter.notice(&notice, now);
            }
            Output::HandoverReleased { protocol, port, names } => reporter.handover_released(protocol, port, &names),
            Output::MapFailure(error) => {
                self.metrics.map_write_error();
                reporter.map_failure(&error);
            }
            Output::SocketScan(errors) => {
                reporter.socket_scan(&errors);
                self.metrics.log_lines_dropped(reporter.log_dropped_lines());
            }
            Output::CgroupScanFailed(error) => reporter.cgroup_scan_failed(&error),
            Output::Takeover { summary, conflicts } => reporter.takeover(&summary, conflicts),
            Output::TakeoverProblem(problem) => reporter.takeover_problem(&problem),
            Output::Synced { pods, claims, conflicts } => {
                reporter.synced(pods, claims, conflicts);
                // Reading a first list takes memory that is not needed again.
                malloc_trim::give_back();
            }
            Output::Enforced(delay) => {
                self.metrics.enforced(delay);
                reporter.enforced(delay);
            }
            Output::StartupTaint(notice) => reporter.startup_taint(&notice),
            Output::ApiError(error) => {
                self.metrics.api_error(error.resource, error.kind);
                reporter.api_error(&error);
            }
            Output::RelistPods => source.relist(),
            Output::ApiRecovered(resource) => reporter.api_recovered(resource),
            Output::ManifestProblem(problem) => reporter.manifest_problem(&problem),
            Output::FolderUnwatched(error) => reporter.folder_unwatched(&error),
            Output::FolderLost { path, error } => reporter.folder_lost(&path, &error),
            Output::FolderRead => reporter.folder_read(),
            Output::LeaseRenewed { unenforced, deadline } => {
                self.metrics.was_unenforced(GapCause::Stale, unenforced);
                self.metrics.lease_ends(deadline);
            }
            Output::NodeMode(mode) => reporter.node_mode(mode),
            Output::Counters(counters) => reporter.counters(&counters),
        }
    }

    /// Reports that the pods are not known yet.
    pub(super) fn not_synced(&self) {
        self.reporter.not_synced();
    }

    /// Reports an outcome of the worker of reserved ports.
    pub(super) fn reserved_ports(&mut self, outcome: SyncOutcome) {
        self.reserved_ports.outcome(outcome);
    }

    /// Reports that the boot state could not be written.
    pub(super) fn boot_state_failed(&self, error: &FolderError) {
        self.reporter.boot_state(error);
    }

    /// Reports the end of that worker.
    pub(super) fn reserved_ports_shutdown(&mut self, shutdown: Shutdown) {
        self.reserved_ports.shutdown(shutdown);
    }

    /// Returns the clients that watch attempts.
    pub(super) fn watchers(&mut self) -> &mut Watchers {
        &mut self.watchers
    }
}
