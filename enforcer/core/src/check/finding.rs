//! Findings: code, severity, place, message and remedy.

use std::{fmt, sync::Arc};

use super::object::{Location, ManifestObject};
use crate::model::digest::Digest;

/// Severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// It cannot work.
    Error,
    /// It works only under a condition that the manifests do not show.
    Warning,
    /// Good to know; no finding.
    Note,
}

impl Severity {
    /// Returns the word for people and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// Kind of a finding. A closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// A file or a document could not be read.
    Unreadable,
    /// There was too much to compare.
    Incomplete,
    /// A bad item in the annotation, or an annotation that is not text.
    Annotation,
    /// The annotation is on a template without host network.
    NoHostNetwork,
    /// An annotation is on the object and not on its pod template.
    Misplaced,
    /// A pod would claim more ports than it may.
    Quota,
    /// A declared port is invalid.
    Port,
    /// A claim on a port of the node.
    Reserved,
    /// Two objects whose pods cannot share a node.
    Conflict,
    /// A forwarded host port before a listener on the host network.
    Shadowed,
    /// A node port that the API server gives to one Service only, for two.
    NodePort,
    /// A claim on a port that the API server may give to a Service, or a node port that it does not give.
    NodePortRange,
    /// A claim on a port that the kernel may give to an outgoing connection.
    Ephemeral,
    /// A port that the registry gives to somebody else, or to nobody.
    Registry,
    /// A Service whose connections to its pods arrive nowhere, or not where they should.
    Endpoint,
    /// More replicas than nodes.
    Replicas,
    /// An update that needs more nodes than there are.
    Surge,
    /// An API version or a kind that no API server serves.
    ApiVersion,
    /// Pods of a kind that is not of Kubernetes.
    OtherKind,
    /// An object on the host network of which no port is known.
    UnknownPorts,
    /// A part of the input that is no manifest, or a folder that is not read.
    NotRead,
    /// The same object again.
    Duplicate,
}

impl Code {
    /// Every code, as docs/check.md lists them. A new variant makes the array's length wrong.
    pub const ALL: [Self; Self::Duplicate as usize + 1] = [
        Self::Unreadable,
        Self::Incomplete,
        Self::Annotation,
        Self::NoHostNetwork,
        Self::Misplaced,
        Self::Quota,
        Self::Port,
        Self::Reserved,
        Self::Conflict,
        Self::Shadowed,
        Self::NodePort,
        Self::NodePortRange,
        Self::Ephemeral,
        Self::Registry,
        Self::Endpoint,
        Self::Replicas,
        Self::Surge,
        Self::ApiVersion,
        Self::OtherKind,
        Self::UnknownPorts,
        Self::NotRead,
        Self::Duplicate,
    ];

    /// Returns the word for programs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Incomplete => "incomplete",
            Self::Annotation => "annotation",
            Self::NoHostNetwork => "no_host_network",
            Self::Misplaced => "misplaced",
            Self::Quota => "quota",
            Self::Port => "port",
            Self::Reserved => "reserved",
            Self::Conflict => "conflict",
            Self::Shadowed => "shadowed",
            Self::NodePort => "node_port",
            Self::NodePortRange => "node_port_range",
            Self::Ephemeral => "ephemeral",
            Self::Registry => "registry",
            Self::Endpoint => "endpoint",
            Self::Replicas => "replicas",
            Self::Surge => "surge",
            Self::ApiVersion => "api_version",
            Self::OtherKind => "other_kind",
            Self::UnknownPorts => "unknown_ports",
            Self::NotRead => "not_read",
            Self::Duplicate => "duplicate",
        }
    }
}

/// An object, as a finding names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedObject {
    /// Its kind, safe to show.
    pub kind: Arc<str>,
    /// Its namespace, safe to show.
    pub namespace: String,
    /// Its name, safe to show; ends in `*` where the API server makes the rest.
    pub name: String,
    /// Place of the object, or of its part in the finding.
    pub place: Location,
}

impl NamedObject {
    /// Refers to an object, at its own place.
    #[must_use]
    pub fn of(object: &ManifestObject) -> Self {
        Self {
            kind: object.kind_name.clone(),
            namespace: object.shown_namespace(),
            name: object.shown_name(),
            place: object.place.clone(),
        }
    }
}

/// The kind, namespace and name.
impl fmt::Display for NamedObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, namespace, name, place: _ } = self;
        write!(f, "{kind} {namespace}/{name}")
    }
}

/// Something that is wrong, or may be, or is worth knowing. All its texts are safe to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The kind.
    pub code: Code,
    /// The severity.
    pub severity: Severity,
    /// The place.
    pub place: Location,
    /// The object; `None` if none could be read.
    pub object: Option<NamedObject>,
    /// The other object of the finding; its place is that of its claim.
    pub other: Option<NamedObject>,
    /// The ports, in the grammar of the annotation.
    pub ports: Vec<String>,
    /// First character of a bad item in the text of an annotation, counted from 1.
    pub position: Option<usize>,
    /// Count of nodes that are enough, where more of them would help.
    pub nodes_needed: Option<u32>,
    /// Description of the problem, in one sentence without a full stop.
    pub message: String,
    /// The remedy.
    pub remedy: String,
    /// Digest of what the finding is about beyond its code and objects, without lines and positions; `None` if the ports
    /// say it.
    pub subject: Option<Digest>,
}

impl Finding {
    /// Sets what the finding is about beyond its code and objects. Texts must not depend on lines, on the order of the
    /// input or on other findings.
    pub(super) fn set_subject<'a>(&mut self, texts: impl IntoIterator<Item = &'a str>) {
        self.subject = Some(Digest::of("subject of a finding", texts));
    }
}
