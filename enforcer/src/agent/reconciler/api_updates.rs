//! Updates of the API server: pods, Services, and labels of namespaces.

use std::{collections::HashMap, time::Instant};

use enforcer_core::{
    model::{namespace_label::NamespaceLabel, now::Now, source::ClaimOrigin},
    pods::service::NodePortService,
};

use crate::{
    agent::{output::Output, reconciler::Reconciler},
    k8s::{ApiErrorKind, ApiResource, Update},
};

impl Reconciler {
    pub(super) fn handle_update(&mut self, arrived: Instant, update: Update, now: Now) {
        match update {
            Update::PodsReset(pods) => {
                let was_synced = self.is_synced();
                self.reset(pods, now);
                self.report_synced(was_synced);
            }
            Update::PodApplied(pod) => self.apply(*pod, now),
            Update::PodDeleted { namespace, name } => self.delete(&namespace, &name, now),
            Update::ServicesReset(services) => {
                let was_synced = self.is_synced();
                self.reset_services(services, now);
                self.report_synced(was_synced);
            }
            Update::ServiceApplied(service) => {
                self.index.apply_service(*service, now);
                self.flush();
            }
            Update::ServiceDeleted { namespace, name } => {
                self.index.delete_service(&namespace, &name, now);
                self.flush();
            }
            Update::NamespaceLabelsReset { label, values } => self.reset_namespace_labels(label, &values),
            Update::NamespaceLabelApplied { label, namespace, value } => {
                self.set_namespace_label(label, &namespace, Some(&value));
            }
            Update::NamespaceLabelDeleted { label, namespace } => self.set_namespace_label(label, &namespace, None),
            Update::ApiError(error) => {
                if error.resource == ApiResource::NamespaceLimits && error.kind == ApiErrorKind::Forbidden {
                    self.index.settle_port_limits();
                    self.flush();
                }
                if error.resource == ApiResource::Services && self.ends_services(error.kind) {
                    let was_synced = self.is_synced();
                    self.reset_services(Vec::new(), now);
                    self.report_synced(was_synced);
                }
                return self.push(Output::ApiError(error));
            }
            Update::StartupTaint(notice) => return self.push(Output::StartupTaint(notice)),
            Update::ApiRecovered(resource) => return self.push(Output::ApiRecovered(resource)),
        }
        self.push(Output::Enforced(arrived.elapsed()));
    }

    /// Replaces all Services by these.
    pub fn reset_services(&mut self, services: Vec<NodePortService>, now: Now) {
        self.index.reset_services(services, now);
        self.flush();
    }

    /// Checks whether an error means that nobody says which Services there are: none denies anybody then, and the pods are
    /// not waited with.
    fn ends_services(&self, kind: ApiErrorKind) -> bool {
        match kind {
            ApiErrorKind::Forbidden => true,
            // A server that does not select Services by type. Later it may be a broken answer, and what is known counts.
            ApiErrorKind::Invalid | ApiErrorKind::NotFound => !self.index.is_source_synced(ClaimOrigin::Services),
            _ => false,
        }
    }

    /// Reports that every claim of the node is known, if the last list was that of an origin that was missing.
    fn report_synced(&mut self, was_synced: bool) {
        if !was_synced && self.is_synced() {
            let (claims, conflicts) = self.index.claim_counts();
            self.push(Output::Synced { pods: self.index.pod_count(), claims, conflicts });
        }
    }

    /// Sets a label of a namespace; `None` removes it.
    pub fn set_namespace_label(&mut self, label: NamespaceLabel, namespace: &str, value: Option<&str>) {
        self.index.set_namespace_label(label, namespace, value);
        self.flush();
    }

    /// Replaces all namespaces with a label by these, with their values.
    pub fn reset_namespace_labels(&mut self, label: NamespaceLabel, values: &HashMap<String, String>) {
        self.index.reset_namespace_labels(label, values);
        self.flush();
    }
}
