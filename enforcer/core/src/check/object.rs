//! From a document to the objects in it that make pods, and what these pods claim.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use enforcer_ebpf::wire::Protocol;
use k8s_openapi::api::core::v1 as api;
use serde_json::{Map, Value as Json, json};

use super::{
    placement::Placement,
    replica_count::ReplicaCount,
    scheduler_ports::{SchedulerPorts, scheduler_ports},
};
use crate::yaml::spanned::{Node, Value};
use crate::{
    model::{port_spec::protocol_from_name, source::ClaimSource, text::escape_bounded},
    pods::{
        claims::{ClaimLimits, ClaimProblem, PodClaim, claims_of},
        pod::{PORTS_ANNOTATION, PodProblem, SHARE_ANNOTATION, from_api},
    },
};

/// Longest name that is shown, in characters. Names of objects have at most 253.
const MAX_NAME: usize = 256;
/// Longest message of the object's reader that is passed on, in characters. It may quote the manifest.
const MAX_MESSAGE: usize = 200;

/// The kinds that make pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WorkloadKind {
    /// v1
    Pod,
    /// apps
    Deployment,
    /// apps
    DaemonSet,
    /// apps
    StatefulSet,
    /// apps
    ReplicaSet,
    /// batch
    Job,
    /// batch
    CronJob,
}

impl WorkloadKind {
    /// Returns the kind of an object, if it is one that makes pods.
    #[must_use]
    pub fn of(api_version: &str, kind: &str) -> Option<Self> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let kind = match (group, kind) {
            ("", "Pod") => Self::Pod,
            ("apps", "Deployment") => Self::Deployment,
            ("apps", "DaemonSet") => Self::DaemonSet,
            ("apps", "StatefulSet") => Self::StatefulSet,
            ("apps", "ReplicaSet") => Self::ReplicaSet,
            ("batch", "Job") => Self::Job,
            ("batch", "CronJob") => Self::CronJob,
            _ => return None,
        };
        Some(kind)
    }

    /// Returns the kind's name in manifests.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pod => "Pod",
            Self::Deployment => "Deployment",
            Self::DaemonSet => "DaemonSet",
            Self::StatefulSet => "StatefulSet",
            Self::ReplicaSet => "ReplicaSet",
            Self::Job => "Job",
            Self::CronJob => "CronJob",
        }
    }

    /// Returns the path to the metadata and the spec of the kind's pods.
    const fn template(self) -> &'static [&'static str] {
        match self {
            Self::Pod => &[],
            Self::CronJob => &["spec", "jobTemplate", "spec", "template"],
            _ => &["spec", "template"],
        }
    }
}

/// Place in a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    /// The file, safe to show.
    pub file: Arc<str>,
    /// The line, counted from 1; `None` if the file as a whole is meant.
    pub line: Option<u32>,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        self.line.map_or(Ok(()), |line| write!(f, ":{line}"))
    }
}

/// An object that makes pods.
#[derive(Clone, Debug)]
pub struct ManifestObject {
    /// Its kind.
    pub kind: WorkloadKind,
    /// Its namespace; `default` if it names none.
    pub namespace: String,
    /// Its name, or the beginning of it where the API server makes one.
    pub name: String,
    /// The API server makes the name, a new one each time.
    pub generated: bool,
    /// Place of the object.
    pub place: Location,
    /// The object's pods live in the node's network namespace.
    pub host_network: bool,
    /// The share group of its pods.
    pub share: Option<String>,
    /// Claims of each of the object's pods.
    pub claims: Vec<PodClaim>,
    /// Host ports of each of its pods, as the scheduler counts them.
    pub scheduler_ports: SchedulerPorts,
    /// Lines of the claims that its containers declare.
    ports: BTreeMap<(Protocol, u16), u32>,
    /// Line of the annotation with the ports.
    annotation: Option<u32>,
    /// Problems: parts that count for nothing.
    pub problems: Vec<ClaimProblem>,
    /// Count of problems beyond those.
    pub more_problems: usize,
    /// Our annotations that are not text: name and line.
    pub not_text: Vec<(&'static str, u32)>,
    /// Our annotations that stand on the object itself and not on its template: name and line.
    pub misplaced: Vec<(&'static str, u32)>,
    /// Count of the object's pods.
    pub scale: ReplicaCount,
    /// Nodes that the pods may come to.
    pub placement: Placement,
}

/// The kind, namespace and name, safe to show.
impl fmt::Display for ManifestObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind.as_str(), self.shown_namespace(), self.shown_name())
    }
}

impl ManifestObject {
    /// Returns the object's namespace, safe to show.
    #[must_use]
    pub fn shown_namespace(&self) -> String {
        escape_bounded(&self.namespace, MAX_NAME)
    }

    /// Returns the object's name, safe to show; ends in `*` where the API server makes the rest.
    #[must_use]
    pub fn shown_name(&self) -> String {
        let name = escape_bounded(&self.name, MAX_NAME);
        if self.generated { name + "*" } else { name }
    }

    /// Returns the place of a claim; the object's own place if that is not known.
    #[must_use]
    pub fn place_of(&self, claim: &PodClaim) -> Location {
        let line = match claim.source {
            ClaimSource::Annotation => self.annotation,
            ClaimSource::HostPort | ClaimSource::Reserved | ClaimSource::Recovered => {
                self.ports.get(&(claim.spec.protocol, claim.spec.ports.first())).copied()
            }
        };
        self.at(line)
    }

    /// Returns the place of the problem.
    #[must_use]
    pub fn place_of_problem(&self, problem: &ClaimProblem) -> Location {
        match problem {
            ClaimProblem::Item(_) | ClaimProblem::NoHostNetwork => self.at(self.annotation),
            ClaimProblem::Quota { claim, .. } | ClaimProblem::QuotaExceeded { claim, .. } => self.place_of(claim),
            ClaimProblem::Pod(_) => self.place.clone(),
        }
    }

    /// Returns the place of a line of the object's file; the object's own place if there is none.
    #[must_use]
    pub fn at(&self, line: Option<u32>) -> Location {
        Location { file: self.place.file.clone(), line: line.or(self.place.line) }
    }
}

/// Contents of a document.
#[derive(Clone, Debug, Default)]
pub struct DocumentContents {
    /// The objects that make pods, in their order.
    pub objects: Vec<ManifestObject>,
    /// Count of objects of other kinds.
    pub ignored: usize,
    /// Parts that could not be read.
    pub unreadable: Vec<(Location, String)>,
}

impl DocumentContents {
    /// Checks whether there was something, and nothing of it could be read.
    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        self.objects.is_empty() && self.ignored == 0 && !self.unreadable.is_empty()
    }
}

/// Reads a document, or the items of a list. `lines_before` is how many lines of the file come before it.
#[must_use]
pub fn read(root: &Node, file: &Arc<str>, lines_before: u32, limits: &ClaimLimits) -> DocumentContents {
    let mut reader = ObjectReader { file, lines_before, limits, contents: DocumentContents::default() };
    reader.object(root, None);
    reader.contents
}

struct ObjectReader<'a> {
    file: &'a Arc<str>,
    lines_before: u32,
    limits: &'a ClaimLimits,
    contents: DocumentContents,
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
    fn object(&mut self, root: &Node, of_list: Option<(&str, &str)>) {
        let (implied_version, implied_kind) = of_list.unwrap_or_default();
        let word = |key: &str, implied| root.get(key).and_then(Node::text).unwrap_or(implied);
        let (version, kind) = (word("apiVersion", implied_version), word("kind", implied_kind));
        if version.is_empty() || kind.is_empty() {
            let message = "is no manifest: it has no apiVersion or no kind".to_owned();
            self.contents.unreadable.push((self.place(root), message));
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
        let Some(kind) = WorkloadKind::of(version, kind) else {
            self.contents.ignored += 1;
            return;
        };
        match self.pod_template_owner(kind, root) {
            Ok(object) => self.contents.objects.push(object),
            Err(why) => {
                let message = format!("is not a valid {}: {}", kind.as_str(), escape_bounded(&why, MAX_MESSAGE));
                self.contents.unreadable.push((self.place(root), message));
            }
        }
    }

    fn pod_template_owner(&self, kind: WorkloadKind, root: &Node) -> Result<ManifestObject, String> {
        let metadata = root.get("metadata").ok_or("it has no metadata")?;
        let word = |key: &str| match metadata.get(key).map(|node| node.text()) {
            Some(None) => Err(format!("metadata.{key} is not text; put it in quotes")),
            text => Ok(text.flatten().filter(|text| !text.is_empty())),
        };
        let (name, generated) = match (word("name")?, word("generateName")?) {
            (Some(name), _) => (name, false),
            (None, Some(beginning)) => (beginning, true),
            (None, None) => return Err("it has no metadata.name".to_owned()),
        };
        let spec = root.get("spec").ok_or("it has no spec")?;
        let scale = match kind {
            WorkloadKind::Pod => ReplicaCount::one(),
            WorkloadKind::Deployment => ReplicaCount::of_deployment(spec)?,
            WorkloadKind::DaemonSet => ReplicaCount::of_daemon_set(spec)?,
            WorkloadKind::StatefulSet | WorkloadKind::ReplicaSet => ReplicaCount::of_set(spec)?,
            WorkloadKind::Job => ReplicaCount::of_job(spec)?,
            WorkloadKind::CronJob => ReplicaCount::of_cron_job(spec)?,
        };
        let template = root.at(kind.template()).ok_or("it has no pod template")?;
        let pod_spec = template.get("spec").ok_or("its pod template has no spec")?;
        let annotations = template.at(&["metadata", "annotations"]);
        let own = if kind == WorkloadKind::Pod { None } else { metadata.get("annotations") };
        let pod = json!({
            "metadata": {"name": name, "namespace": word("namespace")?, "annotations": texts(annotations)},
            "spec": pod_json(pod_spec),
        });
        let pod: api::Pod = serde_json::from_value(pod).map_err(|error| error.to_string())?;
        let scheduler_ports = scheduler_ports(&pod);
        let pod = from_api(&pod);
        let mut found = claims_of(&pod, self.limits);
        // A manifest has no UID, and no template ever has.
        found.problems.retain(|problem| !matches!(problem, ClaimProblem::Pod(PodProblem::UidMissing)));
        let labels = template.at(&["metadata", "labels"]);
        let placement = Placement::of(pod_spec, labels, &pod.namespace, kind == WorkloadKind::DaemonSet);
        Ok(ManifestObject {
            kind,
            namespace: pod.namespace,
            name: pod.name,
            generated,
            place: self.place(root),
            host_network: pod.host_network,
            share: pod.share,
            ports: self.port_lines(pod_spec, &found.claims),
            claims: found.claims,
            annotation: annotations.and_then(|node| node.get(PORTS_ANNOTATION)).map(|node| self.line(node)),
            problems: found.problems,
            more_problems: found.more_problems,
            not_text: self.our_annotations(annotations, |node| node.text().is_none()),
            misplaced: self.our_annotations(own, |_| true),
            scale,
            placement,
            scheduler_ports,
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

    /// Returns the lines on which claims are declared, the first one for each port and protocol.
    fn port_lines(&self, spec: &Node, claims: &[PodClaim]) -> BTreeMap<(Protocol, u16), u32> {
        let declared = claims.iter().filter(|claim| claim.source == ClaimSource::HostPort);
        let wanted: BTreeSet<_> = declared.map(|claim| (claim.spec.protocol, claim.spec.ports.first())).collect();
        let mut lines = BTreeMap::new();
        let lists = [spec.get("containers"), spec.get("initContainers")];
        let ports = lists.into_iter().flatten().flat_map(Node::items).filter_map(|node| node.get("ports"));
        for entry in ports.flat_map(Node::items) {
            let name = entry.get("protocol").and_then(Node::text).filter(|name| !name.is_empty());
            let protocol = name.map_or(Some(Protocol::Tcp), protocol_from_name);
            for port in ["hostPort", "containerPort"].into_iter().filter_map(|key| entry.get(key)) {
                let number = if let Value::Number(number) = &port.value { number.as_u64() } else { None };
                let number = number.and_then(|number| u16::try_from(number).ok());
                if let (Some(protocol), Some(number)) = (protocol, number)
                    && wanted.contains(&(protocol, number))
                {
                    lines.entry((protocol, number)).or_insert(self.line(entry));
                }
            }
        }
        lines
    }
}

/// Returns our annotations, as far as they are text. What else is there is nothing to us, valid or not.
fn texts(annotations: Option<&Node>) -> Json {
    let ours = [PORTS_ANNOTATION, SHARE_ANNOTATION];
    let text = |name: &&str| annotations?.get(name)?.text();
    ours.iter().filter_map(|name| text(name).map(|text| ((*name).to_owned(), Json::from(text)))).collect()
}

/// Returns the part of a pod's spec that claims come from. Nothing else needs to be valid: a manifest may be of a newer
/// version than what this was built with.
fn pod_json(spec: &Node) -> Json {
    let containers = |key: &str| -> Json {
        let items = spec.get(key).map(Node::items).unwrap_or_default();
        items.iter().map(|container| part(container, &["name", "ports", "restartPolicy"])).collect()
    };
    let mut json = part(spec, &["hostNetwork"]);
    json["containers"] = containers("containers");
    json["initContainers"] = containers("initContainers");
    json
}

fn part(node: &Node, keys: &[&str]) -> Json {
    let entries = keys.iter().filter_map(|key| node.get(key).map(|value| ((*key).to_owned(), value.to_json())));
    Json::Object(entries.collect::<Map<_, _>>())
}
