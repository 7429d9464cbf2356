//! From a document to the objects in it that make pods, and what these pods claim.

mod fields;
mod kinds;
mod likely;
mod other_documents;
mod pod_json;
mod reader;
mod refusals;
mod service;

pub use kinds::WorkloadKind;
pub use likely::LikelyPort;
pub use other_documents::{OtherKind, OtherKinds, Remark, kustomize};
pub use refusals::ApiRefusal;
pub use service::{EndpointFacts, ManifestService, ServiceTarget, TargetPort};

use std::{collections::BTreeMap, fmt, sync::Arc};

use enforcer_ebpf::wire::Protocol;

use self::{
    fields::{FieldError, check_pod_spec, metadata_text},
    reader::ObjectReader,
};
use super::{placement::Placement, replica_count::ReplicaCount, scheduler_ports::SchedulerPorts};
use crate::{
    model::{source::ClaimSource, text::escape_bounded},
    pods::{
        claims::{ClaimLimits, ClaimProblem, PodClaim, PodClaims, claims_of},
        pod::Pod,
    },
    yaml::spanned::Node,
};

/// Longest name that is shown, in characters. Names of objects have at most 253.
const MAX_NAME: usize = 256;
/// Longest text of the manifest that is quoted, in characters.
const MAX_QUOTED: usize = 64;
/// Longest message of the object's reader that is passed on, in characters. It may quote the manifest.
const MAX_MESSAGE: usize = 200;

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
    /// The name of its kind, safe to show; of a custom kind with its group behind it in [`Self::group`].
    pub kind_name: Arc<str>,
    /// The API group of a custom kind; empty for kinds of Kubernetes.
    pub group: Arc<str>,
    /// Its namespace; `default` if it names none.
    pub namespace: String,
    /// Its name, or the beginning of it where the API server makes one.
    pub name: String,
    /// The API server makes the name, a new one each time.
    pub generated: bool,
    /// Place of the object.
    pub place: Location,
    /// It is there already: only what others bring is reported.
    pub existing: bool,
    /// The object's pods live in the node's network namespace.
    pub host_network: bool,
    /// The share group of its pods.
    pub share: Option<String>,
    /// Claims of each of the object's pods, the likely ones last.
    pub claims: Vec<PodClaim>,
    /// Details of the likely claims.
    pub likely: Vec<LikelyPort>,
    /// Line of `hostNetwork` if the object is on the host network and none of its ports is known for certain.
    pub unknown_ports: Option<u32>,
    /// Parts that the API server or a container runtime refuses.
    pub refusals: Vec<ApiRefusal>,
    /// Count of refusals beyond those.
    pub more_refusals: usize,
    /// Host ports of each of its pods, as the scheduler counts them.
    pub scheduler_ports: SchedulerPorts,
    /// Lines of the claims that its containers declare, and the names of the containers, safe to show.
    ports: BTreeMap<(Protocol, u16), (u32, String)>,
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
    /// Facts that decide whether a Service reaches its pods.
    pub endpoint: EndpointFacts,
    /// One of its pods, if it claims something.
    pod: Option<Box<Pod>>,
}

/// The kind, namespace and name, safe to show.
impl fmt::Display for ManifestObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind_name, self.shown_namespace(), self.shown_name())
    }
}

impl ManifestObject {
    /// Checks whether only a controller that is not of Kubernetes knows the count of the object's pods.
    #[must_use]
    pub fn is_custom(&self) -> bool {
        self.kind == WorkloadKind::Custom
    }

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
            source if source.is_likely() => self.likely_port(claim).map(|likely| likely.line).filter(|line| *line > 0),
            _ => self.declared_port(claim).map(|(line, _)| *line),
        };
        self.at(line)
    }

    /// Returns the name of the container that a claim comes from, safe to show; `None` for claims of the pod as a whole.
    #[must_use]
    pub fn container_of(&self, claim: &PodClaim) -> Option<&str> {
        match self.likely_port(claim) {
            Some(likely) => likely.container.as_deref(),
            None if claim.source == ClaimSource::HostPort => self.declared_port(claim).map(|(_, name)| name.as_str()),
            None => None,
        }
    }

    fn declared_port(&self, claim: &PodClaim) -> Option<&(u32, String)> {
        self.ports.get(&(claim.spec.protocol, claim.spec.ports.first()))
    }

    /// Returns the details of a likely claim.
    #[must_use]
    pub fn likely_port(&self, claim: &PodClaim) -> Option<&LikelyPort> {
        self.likely.iter().find(|likely| likely.claim == *claim)
    }

    /// Returns what tells the object from all others of its cluster.
    #[must_use]
    pub fn key(&self) -> (WorkloadKind, &str, &str, &str, &str) {
        (self.kind, &self.group, &self.kind_name, &self.namespace, &self.name)
    }

    /// Forgets the lines on which its parts stand: it was never a file that people know.
    pub(super) fn forget_lines(&mut self) {
        self.place.line = None;
        self.ports.clear();
        self.annotation = None;
        for likely in &mut self.likely {
            likely.line = 0;
        }
    }

    /// Reads the claims of its pods again, within these limits.
    pub fn limit_claims(&mut self, limits: &ClaimLimits) {
        if let Some(pod) = &self.pod {
            let PodClaims { claims, problems, more_problems, exceeds_limit: _ } = claims_of(pod, limits);
            self.likely.retain(|likely| !likely::is_covered(&claims, &likely.claim.spec));
            self.claims = claims;
            self.claims.extend(self.likely.iter().map(|likely| likely.claim));
            self.problems = problems;
            self.more_problems = more_problems;
        }
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

/// Part of the input that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Its place.
    pub place: Location,
    /// The reason. Safe to show.
    pub message: String,
    /// It has neither an API version nor a kind, and may be a file of another tool.
    pub is_foreign: bool,
}

/// Contents of a document.
#[derive(Clone, Debug, Default)]
pub struct DocumentContents {
    /// The objects that make pods, in their order.
    pub objects: Vec<ManifestObject>,
    /// The Services, in their order.
    pub services: Vec<ManifestService>,
    /// Labels of namespaces with the most ports that one of their pods may claim.
    pub port_limits: Vec<(String, u32)>,
    /// Count of objects of other kinds.
    pub ignored: usize,
    /// The other kinds, also those of which the pod templates are among the objects.
    pub other_kinds: OtherKinds,
    /// Parts that are not read because they are no manifests.
    pub remarks: Vec<Remark>,
    /// Parts that could not be read.
    pub unreadable: Vec<Unreadable>,
}

impl DocumentContents {
    /// Checks whether something of it could be read as a manifest.
    #[must_use]
    pub fn is_manifest(&self) -> bool {
        !self.objects.is_empty()
            || !self.services.is_empty()
            || self.ignored > 0
            || self.unreadable.is_empty() && self.remarks.is_empty()
    }
}

/// Reads a document, or the items of a list. `lines_before` is how many lines of the file come before it.
#[must_use]
pub fn read(root: &Node, file: &Arc<str>, lines_before: u32, limits: &ClaimLimits) -> DocumentContents {
    let mut reader = ObjectReader { file, lines_before, limits, contents: DocumentContents::default() };
    reader.object(root, None);
    reader.contents
}

/// Checks the types of a Pod's fields that claims come from.
///
/// # Errors
///
/// The field, what it is, and the way out; with the line of the document. Not escaped.
pub fn check_pod_types(root: &Node) -> Result<(), String> {
    let check = || -> Result<(), FieldError> {
        if let Some(metadata) = root.get("metadata") {
            metadata_text(metadata, "name")?;
            metadata_text(metadata, "namespace")?;
        }
        root.get("spec").map_or(Ok(()), |spec| check_pod_spec(spec, "spec"))
    };
    check().map_err(|FieldError { line, message }| match line {
        Some(line) => format!("{message} (line {line} of the document)"),
        None => message,
    })
}

/// Checks whether an init container runs beside the main containers.
fn is_sidecar(container: &Node) -> bool {
    container.get("restartPolicy").and_then(Node::text) == Some("Always")
}
