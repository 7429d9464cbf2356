//! Modes and port limits per namespace, from labels.

use std::collections::HashMap;

use crate::{
    index::{Index, Notice, owner::OwnerState},
    model::{
        mode::{Mode, NamespaceMode},
        namespace_label::NamespaceLabel,
        owner::OwnerKind,
        text::{escape, escape_bounded},
    },
    pods::{
        claims::{ClaimLimits, ClaimProblem, PodClaims, claims_within_quota, max_ports_from_label},
        pod::Pod,
    },
};

/// Most characters of a bad label's value that are shown.
const MAX_SHOWN: usize = 64;

/// Port limits of namespaces.
#[derive(Debug)]
pub(super) struct PortLimits {
    /// Limits by namespace, from valid labels.
    labels: HashMap<String, u32>,
    /// The labels are known, or it is known that they will not be.
    known: bool,
}

impl PortLimits {
    /// Returns no limits. `most` is what a label may grant; where that is nothing, no labels are awaited.
    pub(super) fn new(most: u32) -> Self {
        Self { labels: HashMap::new(), known: most == 0 }
    }
}

impl Index {
    /// Sets, changes or removes (`None`) a label of a namespace.
    pub fn set_namespace_label(&mut self, label: NamespaceLabel, namespace: &str, value: Option<&str>) {
        match label {
            NamespaceLabel::Mode => self.set_mode_label(namespace, value),
            NamespaceLabel::MaxPorts => self.set_max_ports_label(namespace, value),
        }
    }

    /// Replaces all namespaces with a label by these, with their values.
    pub fn reset_namespace_labels(&mut self, label: NamespaceLabel, values: &HashMap<String, String>) {
        let known: Vec<&String> = match label {
            NamespaceLabel::Mode => self.modes.keys().collect(),
            NamespaceLabel::MaxPorts => self.port_limits.labels.keys().collect(),
        };
        let gone: Vec<String> = known.into_iter().filter(|name| !values.contains_key(*name)).cloned().collect();
        for namespace in gone {
            self.set_namespace_label(label, &namespace, None);
        }
        for (namespace, value) in values {
            self.set_namespace_label(label, namespace, Some(value));
        }
        if label == NamespaceLabel::MaxPorts {
            self.settle_port_limits();
        }
    }

    /// Notes that the port limits of namespaces are all known, or will stay unknown: from now on what exceeds a limit is
    /// reported. Before that it may be that a label grants it.
    pub fn settle_port_limits(&mut self) {
        if !std::mem::replace(&mut self.port_limits.known, true) {
            let is_open = |owner: &OwnerState| {
                let limit = self.limits_of(&owner.name.namespace).max_ports_per_pod;
                owner.exceeds_limit || (owner.kind == OwnerKind::Pod && owner.usage.claims > limit as usize)
            };
            self.output.relist |= self.owners.values().any(is_open);
        }
    }

    fn set_mode_label(&mut self, namespace: &str, value: Option<&str>) {
        let mode = value.and_then(Mode::from_word);
        self.check_label(NamespaceLabel::Mode, namespace, value, mode.is_some());
        let before = match mode {
            Some(mode) => self.modes.insert(namespace.to_owned(), mode),
            None => self.modes.remove(namespace),
        };
        if before == mode {
            return;
        }
        let effective = self.mode_of(namespace);
        let mut turned = Vec::new();
        for owner in self.owners.values_mut().filter(|owner| owner.kind == OwnerKind::Pod) {
            if owner.name.namespace == namespace && owner.mode != effective {
                owner.mode = effective;
                turned.push(owner.id);
            }
        }
        for id in turned {
            self.write_owner(id);
        }
    }

    /// The pods' texts are not kept: where a pod has, or would have, another number of claims, all are read again.
    fn set_max_ports_label(&mut self, namespace: &str, value: Option<&str>) {
        let limit = value.and_then(max_ports_from_label);
        self.check_label(NamespaceLabel::MaxPorts, namespace, value, limit.is_some());
        let before = self.limits_of(namespace).max_ports_per_pod;
        match limit {
            Some(limit) => self.port_limits.labels.insert(namespace.to_owned(), limit),
            None => self.port_limits.labels.remove(namespace),
        };
        let limit = self.limits_of(namespace).max_ports_per_pod;
        if limit == before {
            return;
        }
        let is_affected = |owner: &OwnerState| {
            let more = limit > before && owner.exceeds_limit;
            let less = limit < before && owner.usage.claims > limit as usize;
            owner.name.namespace == namespace && (more || less)
        };
        self.output.relist |= self.owners.values().any(is_affected);
    }

    fn check_label(&mut self, label: NamespaceLabel, namespace: &str, value: Option<&str>, valid: bool) {
        if let (Some(value), false) = (value, valid) {
            let (namespace, value) = (escape(namespace), escape_bounded(value, MAX_SHOWN));
            self.output.notices.push(Notice::LabelInvalid { label, namespace, value });
        }
    }

    /// Returns the mode of a namespace where it overrides the node's.
    pub(super) fn mode_of(&self, namespace: &str) -> Option<Mode> {
        let mode = self.modes.get(namespace).copied();
        match self.settings.namespace_mode {
            NamespaceMode::Any => mode,
            NamespaceMode::Stricter => mode.filter(|mode| *mode == Mode::Enforce),
            NamespaceMode::Off => None,
        }
    }

    /// Returns the claims of a pod within the limits of its namespace.
    ///
    /// As long as the labels are not known, nothing is reported that one of them may grant, and a pod whose claims are
    /// the very same as before keeps them: the last agent knew the label.
    pub(super) fn limited_claims(&self, pod: &Pod, owner: &OwnerState) -> PodClaims {
        let room = self.quotas.quota(owner.class, &pod.namespace, owner.usage);
        let within = |limits| claims_within_quota(pod, &limits, &room);
        let mut claims = within(self.limits_of(&pod.namespace));
        if self.port_limits.known || !claims.exceeds_limit {
            return claims;
        }
        let granted = within(self.settings.limits.with_label(Some(u32::MAX)));
        if granted.digest() == owner.claimed {
            claims = granted;
        }
        claims.problems.retain(|problem| !matches!(problem, ClaimProblem::Quota { .. }));
        claims
    }

    /// Returns the port limits of the namespaces that have one, within what a label may grant.
    pub fn port_limits(&self) -> impl Iterator<Item = (&str, u32)> {
        self.port_limits.labels.keys().map(|namespace| (&**namespace, self.limits_of(namespace).max_ports_per_pod))
    }

    fn limits_of(&self, namespace: &str) -> ClaimLimits {
        self.settings.limits.with_label(self.port_limits.labels.get(namespace).copied())
    }
}
