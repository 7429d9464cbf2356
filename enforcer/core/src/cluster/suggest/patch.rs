//! The strategic merge patch that declares ports.
//!
//! A strategic merge finds an entry of `ports` by its `containerPort` alone, although the list has the protocol as a key
//! too: a second entry of one number changes the first one (<https://github.com/kubernetes/kubernetes/issues/39188>,
//! <https://github.com/kubernetes/kubernetes/issues/108255>). So `ports` gets a number only if its container has no entry
//! of it, and the annotation gets what is left.

use std::collections::{BTreeMap, BTreeSet};

use enforcer_ebpf::wire::Protocol;
use serde_json::{Value, json};

use super::{
    facts::DeclaredClaims,
    manifest_protocol,
    template::{PatchTarget, Template, is_object_name},
};
use crate::{
    model::port_spec::{Address, PortSpec},
    pods::{annotation::claims_nothing, pod::PORTS_ANNOTATION},
};

/// Place where a patch declares a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Declaration {
    Ports,
    Annotation,
}

impl Declaration {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Ports => "ports",
            Self::Annotation => "annotation",
        }
    }
}

/// Patch under construction.
pub(super) struct PatchBuilder<'a> {
    target: &'a PatchTarget,
    template: Option<&'a Template>,
    claims: &'a DeclaredClaims,
    /// Entries for `ports`, by list of containers and container.
    ports: BTreeMap<(bool, String), Vec<PortSpec>>,
    /// Numbers that no entry may have any more, by container; of no container if it is not known which one has them.
    numbers: BTreeSet<(Option<String>, u16)>,
    /// Host ports of all containers: the API server refuses one that is there twice.
    host_ports: BTreeSet<(Protocol, Address, u16)>,
    annotation: Vec<PortSpec>,
    notes: Vec<String>,
}

impl<'a> PatchBuilder<'a> {
    pub(super) fn new(target: &'a PatchTarget, template: Option<&'a Template>, claims: &'a DeclaredClaims) -> Self {
        let numbers = match template {
            Some(template) => template
                .containers
                .iter()
                .flat_map(|container| container.ports.iter().map(|port| (Some(container.name.clone()), *port)))
                .filter_map(|(container, port)| Some((container, u16::try_from(port).ok()?)))
                .collect(),
            // Which container declares a port is not known from claims.
            None => claims.of_source("hostPort").iter().flat_map(|spec| spec.ports).map(|port| (None, port)).collect(),
        };
        Self {
            target,
            template,
            claims,
            ports: BTreeMap::new(),
            numbers,
            host_ports: BTreeSet::new(),
            annotation: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Adds ports of a container. Returns where the patch declares them; `None` if there is no patch.
    pub(super) fn add(&mut self, spec: &PortSpec, container: Option<&str>) -> Option<Declaration> {
        if matches!(self.target, PatchTarget::None(_)) {
            return None;
        }
        if let Some((is_init, container)) = self.container_for(spec, container) {
            let port = spec.ports.first();
            self.numbers.insert((Some(container.clone()), port));
            self.host_ports.insert((spec.protocol, spec.address, port));
            self.ports.entry((is_init, container)).or_default().push(*spec);
            return Some(Declaration::Ports);
        }
        self.annotation.push(*spec);
        Some(Declaration::Annotation)
    }

    /// Returns the container whose `ports` can declare a port, and whether it is an init container.
    fn container_for(&self, spec: &PortSpec, container: Option<&str>) -> Option<(bool, String)> {
        if spec.ports.len() > 1 || !matches!(self.target, PatchTarget::Template { .. }) {
            return None;
        }
        let (is_init, container) = match (self.template, container) {
            (Some(template), Some(name)) => {
                let known = template.containers.iter().find(|container| container.name == name)?;
                (known.is_init, name)
            }
            // Whoever bound it, the pod has one container.
            (Some(Template { containers, .. }), None) => match containers.as_slice() {
                [only] => (only.is_init, only.name.as_str()),
                _ => return None,
            },
            (None, name) => (false, name?),
        };
        let port = spec.ports.first();
        let is_taken = [Some(container.to_owned()), None].into_iter().any(|of| self.numbers.contains(&(of, port)))
            || self.host_ports.contains(&(spec.protocol, spec.address, port));
        (is_object_name(container) && !is_taken).then(|| (is_init, container.to_owned()))
    }

    /// Returns the patch, if there is one, and notes about it.
    pub(super) fn finish(mut self) -> (Option<Value>, Vec<String>) {
        let pod = self.pod_patch();
        match self.target {
            PatchTarget::None(why) => (None, vec![why.clone()]),
            _ if pod.is_none() => (None, Vec::new()),
            PatchTarget::Pod => {
                let note = "The ports of a pod that runs cannot be changed, so the annotation declares them; the \
                            scheduler does not count it.";
                self.notes.push(note.to_owned());
                (pod, self.notes)
            }
            PatchTarget::Template { path, .. } => {
                if !self.annotation.is_empty() {
                    let note = "What the annotation declares, the agent knows and the scheduler does not count: ranges, \
                                a second protocol or address of one number, and ports of containers that the template \
                                does not have.";
                    self.notes.push(note.to_owned());
                }
                let patch = path.iter().rev().fold(pod, |inner, key| Some(json!({ *key: inner? })));
                (patch, self.notes)
            }
        }
    }

    /// Returns the part of the patch that concerns the pod.
    fn pod_patch(&self) -> Option<Value> {
        let mut pod = json!({});
        if !self.annotation.is_empty() {
            pod["metadata"]["annotations"][PORTS_ANNOTATION] = self.annotation_text().into();
        }
        for ((is_init, container), specs) in &self.ports {
            let entries: Vec<Value> = specs.iter().map(entry).collect();
            let list = if *is_init { "initContainers" } else { "containers" };
            let containers = pod["spec"][list].as_array().cloned().unwrap_or_default();
            let own = json!({ "name": container, "ports": entries });
            pod["spec"][list] = containers.into_iter().chain([own]).collect();
        }
        pod.as_object().is_some_and(|pod| !pod.is_empty()).then_some(pod)
    }

    /// Returns the annotation with what it has already, which a patch replaces as a whole.
    fn annotation_text(&self) -> String {
        let claimed: Vec<String> = match self.template {
            Some(Template { annotation, .. }) => {
                annotation.iter().map(|text| text.trim().to_owned()).filter(|text| !claims_nothing(text)).collect()
            }
            None => self.claims.of_source("annotation").iter().map(ToString::to_string).collect(),
        };
        let new = self.annotation.iter().map(ToString::to_string);
        claimed.into_iter().filter(|text| !text.is_empty()).chain(new).collect::<Vec<_>>().join(", ")
    }
}

/// Returns the entry of `ports`.
fn entry(spec: &PortSpec) -> Value {
    let port = spec.ports.first();
    let mut entry = json!({ "containerPort": port, "hostPort": port, "protocol": manifest_protocol(spec) });
    if let Some(address) = spec.address.ip() {
        entry["hostIP"] = address.to_string().into();
    }
    entry
}
