//! Reader of documents: the objects in them that make pods, with their claims, and what is said of the other ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use enforcer_ebpf::wire::Protocol;
use k8s_openapi::api::core::v1 as api;
use serde_json::json;

use super::{
    DocumentContents, EndpointFacts, Location, MAX_MESSAGE, MAX_NAME, ManifestObject, Unreadable, WorkloadKind,
    fields::{self, FieldError, check_counts, check_pod_spec, metadata_text, pod_spec_path},
    kinds, likely, other_documents,
    pod_json::{pod_json, texts},
    refusals::Refusals,
    service,
};
use crate::{
    check::{finding::Code, placement::Placement, replica_count::ReplicaCount, scheduler_ports::scheduler_ports},
    model::{port_spec::protocol_from_name, source::ClaimSource, text::escape_bounded},
    pods::{
        annotation::claims_nothing,
        claims::{ClaimLimits, PodClaim, claims_of, max_ports_from_label},
        pod::{PORTS_ANNOTATION, SHARE_ANNOTATION, from_api},
    },
    yaml::{
        documents::NOT_RENDERED,
        spanned::{Node, Value},
    },
};

/// Reader of one document.
pub(super) struct ObjectReader<'a> {
    pub(super) file: &'a Arc<str>,
    /// Lines of the file before the document.
    pub(super) lines_before: u32,
    pub(super) limits: &'a ClaimLimits,
    pub(super) contents: DocumentContents,
}

impl ObjectReader<'_> {
    fn line(&self, node: &Node) -> u32 {
        self.lines_before.saturating_add(node.line)
    }

    fn place(&self, node: &Node) -> Location {
        Location { file: self.file.clone(), line: Some(self.line(node)) }
    }

    /// Reads an object. `of_list`: version and kind that the list says its items have, where they need not say it
    /// themselves.
    pub(super) fn object(&mut self, root: &Node, of_list: Option<(&str, &str)>) {
        let (implied_version, implied_kind) = of_list.unwrap_or_default();
        let word = |key: &str, implied| root.get(key).and_then(Node::text).unwrap_or(implied);
        let (version, kind) = (word("apiVersion", implied_version), word("kind", implied_kind));
        if version.is_empty() || kind.is_empty() {
            self.no_manifest(root, version.is_empty() && kind.is_empty() && of_list.is_none());
            return;
        }
        if let Some(of_items) = kind.strip_suffix("List")
            && let Some(items) = root.get("items")
            && of_list.is_none()
        {
            let implied = if of_items.is_empty() { ("", "") } else { (version, of_items) };
            for item in items.items() {
                self.object(item, Some(implied));
            }
            return;
        }
        if let Some(text) = [version, kind].into_iter().find(|text| fields::is_placeholder(text)) {
            let text = escape_bounded(text, MAX_NAME);
            let message = format!("is no manifest: apiVersion or kind is \"{text}\", and {NOT_RENDERED}");
            self.contents.unreadable.push(Unreadable { place: self.place(root), message, is_foreign: false });
            return;
        }
        if (version, kind) == ("v1", "Service") {
            match service::read_service(root, self.file, self.lines_before) {
                Ok(service) => self.contents.services.push(service),
                Err(error) => self.invalid(root, kind, error),
            }
            return;
        }
        let Some(known) = WorkloadKind::of(version, kind) else {
            self.other_kind(version, kind, root);
            return;
        };
        match self.pod_template_owner(known, (version, kind), root) {
            Ok(object) => self.contents.objects.push(object),
            Err(error) => self.invalid(root, known.as_str(), error),
        }
    }

    /// Takes an object that cannot be read.
    fn invalid(&mut self, root: &Node, kind: &str, FieldError { line, message }: FieldError) {
        let message = format!("is not a valid {kind}: {}", escape_bounded(&message, MAX_MESSAGE));
        let line = line.map_or_else(|| self.line(root), |line| self.lines_before.saturating_add(line));
        let place = Location { file: self.file.clone(), line: Some(line) };
        self.contents.unreadable.push(Unreadable { place, message, is_foreign: false });
    }

    /// Takes a document without an API version or a kind.
    fn no_manifest(&mut self, root: &Node, neither: bool) {
        let place = self.place(root);
        if let Some(remark) = other_documents::recognize(root, &place) {
            self.contents.remarks.push(remark);
            return;
        }
        let message = if root.text().is_some_and(fields::is_placeholder) {
            format!("is no manifest: it {NOT_RENDERED}")
        } else {
            "is no manifest: it has no apiVersion or no kind".to_owned()
        };
        let is_foreign = neither && matches!(root.value, Value::Map(_) | Value::List(_));
        self.contents.unreadable.push(Unreadable { place, message, is_foreign });
    }

    /// Takes an object of a kind that is not of Kubernetes or makes no pods. With a pod template at the usual place it
    /// counts as one that makes pods, as far as it can be read.
    fn other_kind(&mut self, version: &str, kind: &str, root: &Node) {
        let group = kinds::group(version);
        if (version, kind) == ("v1", "Namespace")
            && let Some((namespace, label)) = other_documents::port_limit(root)
        {
            match label.text().and_then(max_ports_from_label) {
                Some(limit) => self.contents.port_limits.push((namespace.to_owned(), limit)),
                None => self.contents.remarks.push(other_documents::bad_port_limit(namespace, self.place(label))),
            }
        }
        if group == "kustomize.config.k8s.io" {
            self.contents.remarks.push(other_documents::kustomization(&self.place(root)));
        }
        let with_template = other_documents::has_pod_template(version, kind, root);
        let at_usual_place = root
            .at(&["spec", "template", "spec", "containers"])
            .is_some_and(|containers| with_template && !containers.items().is_empty());
        let object = at_usual_place.then(|| self.pod_template_owner(WorkloadKind::Custom, (version, kind), root));
        let compared = matches!(object, Some(Ok(_)));
        self.contents.other_kinds.add(version, kind, with_template, compared, self.place(root));
        match object {
            Some(Ok(object)) => self.contents.objects.push(object),
            _ => self.contents.ignored += 1,
        }
    }

    fn pod_template_owner(
        &self,
        kind: WorkloadKind,
        (version, kind_name): (&str, &str),
        root: &Node,
    ) -> Result<ManifestObject, FieldError> {
        let metadata = root.get("metadata").ok_or("it has no metadata")?;
        let (name, generated) = match (metadata_text(metadata, "name")?, metadata_text(metadata, "generateName")?) {
            (Some(name), _) => (name, false),
            (None, Some(beginning)) => (beginning, true),
            (None, None) => return Err("it has no metadata.name".into()),
        };
        let spec = root.get("spec").ok_or("it has no spec")?;
        check_counts(kind, root)?;
        let scale = match kind {
            WorkloadKind::Pod => ReplicaCount::one(),
            WorkloadKind::Deployment => ReplicaCount::of_deployment(spec)?,
            WorkloadKind::DaemonSet => ReplicaCount::of_daemon_set(spec)?,
            WorkloadKind::StatefulSet | WorkloadKind::ReplicaSet | WorkloadKind::ReplicationController => {
                ReplicaCount::of_set(spec)?
            }
            WorkloadKind::Job => ReplicaCount::of_job(spec)?,
            WorkloadKind::CronJob => ReplicaCount::of_cron_job(spec)?,
            // The count has a meaning of its own, except for none.
            WorkloadKind::Custom => ReplicaCount::of_set(spec).unwrap_or_else(|_| ReplicaCount::one()),
        };
        let template = root.at(kind.template()).ok_or("it has no pod template")?;
        let pod_spec = template.get("spec").ok_or("its pod template has no spec")?;
        let path = pod_spec_path(kind);
        check_pod_spec(pod_spec, &path)?;
        let annotations = template.at(&["metadata", "annotations"]);
        let own = if kind == WorkloadKind::Pod { None } else { metadata.get("annotations") };
        let pod = json!({
            "metadata": {
                "name": name,
                "namespace": metadata_text(metadata, "namespace")?,
                "annotations": texts(annotations),
            },
            "spec": pod_json(pod_spec),
        });
        let pod: api::Pod = serde_json::from_value(pod).map_err(|error| error.to_string())?;
        let scheduler_ports = scheduler_ports(&pod);
        let mut pod = from_api(&pod);
        // A manifest has no UID, and no template ever has. Bad ports are found below, with their lines.
        pod.problems.clear();
        pod.more_problems = 0;
        let mut found = claims_of(&pod, self.limits);
        let none = pod.ports_annotation.as_deref().is_some_and(claims_nothing);
        let likely = if pod.host_network && !none {
            likely::likely_ports(pod_spec, annotations, &found.claims, self.lines_before)
        } else {
            Vec::new()
        };
        found.claims.extend(likely.iter().map(|likely| likely.claim));
        let mut refusals = Refusals::new(self.lines_before);
        if kind != WorkloadKind::Custom {
            refusals.api_version(kind, version, kind_name, root);
            refusals.update_strategy(kind, spec);
        }
        refusals.pod_spec(pod_spec, &path);
        let labels = template.at(&["metadata", "labels"]);
        let placement = Placement::of(pod_spec, labels, &pod.namespace, kind == WorkloadKind::DaemonSet);
        let not_text = self.our_annotations(annotations, |node| node.text().is_none());
        let misplaced = self.our_annotations(own, |_| true);
        // An error beside it is enough.
        let unknown = pod.host_network
            && !none
            && not_text.is_empty()
            && misplaced.is_empty()
            && found.claims.iter().all(|claim| claim.source.is_guessed())
            && found.problems.is_empty()
            && refusals.found.iter().all(|refusal| refusal.code != Code::Port);
        let (kind_name, group) = match kind {
            WorkloadKind::Custom => (escape_bounded(kind_name, MAX_NAME), kinds::group(version)),
            _ => (kind.as_str().to_owned(), ""),
        };
        // Lines also of the claims that only the label of a namespace grants.
        let ports = self.port_lines(pod_spec, &claims_of(&pod, &ClaimLimits::UNLIMITED).claims);
        let claiming = (!found.claims.is_empty() || found.exceeds_limit).then(|| Box::new(pod.clone()));
        Ok(ManifestObject {
            kind,
            kind_name: kind_name.into(),
            group: group.into(),
            namespace: pod.namespace,
            name: pod.name,
            generated,
            place: self.place(root),
            existing: false,
            host_network: pod.host_network,
            share: pod.share,
            ports,
            claims: found.claims,
            likely,
            unknown_ports: pod_spec.get("hostNetwork").filter(|_| unknown).map(|node| self.line(node)),
            annotation: annotations.and_then(|node| node.get(PORTS_ANNOTATION)).map(|node| self.line(node)),
            problems: found.problems,
            more_problems: found.more_problems,
            refusals: refusals.found,
            more_refusals: refusals.more,
            not_text,
            misplaced,
            scale,
            placement,
            scheduler_ports,
            endpoint: EndpointFacts::of(labels, likely::running_containers(pod_spec)),
            pod: claiming,
        })
    }

    /// Returns our annotations of which something is true.
    fn our_annotations(&self, annotations: Option<&Node>, is: impl Fn(&Node) -> bool) -> Vec<(&'static str, u32)> {
        let found = |name: &'static str| {
            let node = annotations?.get(name).filter(|node| is(node))?;
            Some((name, self.line(node)))
        };
        [PORTS_ANNOTATION, SHARE_ANNOTATION].into_iter().filter_map(found).collect()
    }

    /// Returns the lines and containers that declare claims, the first one for each port and protocol.
    fn port_lines(&self, spec: &Node, claims: &[PodClaim]) -> BTreeMap<(Protocol, u16), (u32, String)> {
        let declared = claims.iter().filter(|claim| claim.source == ClaimSource::HostPort);
        let wanted: BTreeSet<_> = declared.map(|claim| (claim.spec.protocol, claim.spec.ports.first())).collect();
        let mut lines = BTreeMap::new();
        let lists = [spec.get("containers"), spec.get("initContainers")];
        let containers = lists.into_iter().flatten().flat_map(Node::items);
        let ports = containers.filter_map(|container| Some((container, container.get("ports")?.items())));
        for (container, entry) in ports.flat_map(|(container, ports)| ports.iter().map(move |port| (container, port))) {
            let name = entry.get("protocol").and_then(Node::text).filter(|name| !name.is_empty());
            let protocol = name.map_or(Some(Protocol::Tcp), protocol_from_name);
            for port in ["hostPort", "containerPort"].into_iter().filter_map(|key| entry.get(key)) {
                let number = if let Value::Number(number) = &port.value { number.as_u64() } else { None };
                let number = number.and_then(|number| u16::try_from(number).ok());
                if let (Some(protocol), Some(number)) = (protocol, number)
                    && wanted.contains(&(protocol, number))
                {
                    let container = container.get("name").and_then(Node::text).unwrap_or_default();
                    let container = || (self.line(entry), escape_bounded(container, MAX_NAME));
                    lines.entry((protocol, number)).or_insert_with(container);
                }
            }
        }
        lines
    }
}
