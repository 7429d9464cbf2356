//! What is found.

use super::object::{Location, ManifestObject};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// It cannot work.
    Error,
    /// It works only if something that the manifests do not say keeps it from going wrong.
    Warning,
    /// Good to know; no finding.
    Note,
}

impl Severity {
    /// The word for people and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// What kind of finding it is. A closed list.
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
    /// A declared port is none.
    Port,
    /// A claim on a port of the node.
    Reserved,
    /// Two objects whose pods cannot share a node.
    Conflict,
    /// A forwarded host port before a listener on the host network.
    Shadowed,
    /// More replicas than nodes.
    Replicas,
    /// An update that needs more nodes than there are.
    Surge,
    /// The same object again.
    Duplicate,
}

impl Code {
    /// Every code.
    pub const ALL: [Self; 13] = [
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
        Self::Replicas,
        Self::Surge,
        Self::Duplicate,
    ];

    /// The word for programs.
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
            Self::Replicas => "replicas",
            Self::Surge => "surge",
            Self::Duplicate => "duplicate",
        }
    }
}

/// An object, as a finding names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedObject {
    /// Its kind.
    pub kind: &'static str,
    /// Its namespace, safe to show.
    pub namespace: String,
    /// Its name, safe to show; ends in `*` where the API server makes the rest.
    pub name: String,
    /// Where it stands, or its part in the finding does.
    pub place: Location,
}

impl NamedObject {
    /// The object at its own place.
    #[must_use]
    pub fn of(object: &ManifestObject) -> Self {
        Self {
            kind: object.kind.as_str(),
            namespace: object.shown_namespace(),
            name: object.shown_name(),
            place: object.place.clone(),
        }
    }
}

/// Something that is wrong, or may be, or is worth knowing. All its texts are safe to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What kind of finding it is.
    pub code: Code,
    /// How bad it is.
    pub severity: Severity,
    /// Where.
    pub place: Location,
    /// Which object; `None` if none could be read.
    pub object: Option<NamedObject>,
    /// The other object that has part in it; its place is that of its claim.
    pub other: Option<NamedObject>,
    /// The ports that it is about, in the grammar of the annotation.
    pub ports: Vec<String>,
    /// Of a bad item of an annotation: where in the text it begins, in characters from 1.
    pub position: Option<usize>,
    /// How many nodes would do, where more of them would.
    pub nodes_needed: Option<u32>,
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}
