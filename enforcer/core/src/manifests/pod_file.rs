//! One file of Pod manifests, and what stays of its pods while a document of it is broken.

use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1 as api;

use crate::{
    check::object::check_pod_types,
    model::{
        digest::Digest,
        text::{escape, escape_bounded},
    },
    pods::pod::{Pod, from_api},
    yaml::{
        documents::{Document, UnreadableDocument, documents, with_large_stack},
        spanned::{Node, Value},
    },
};

/// Longest message about a file, in characters. It may quote the file.
pub const MAX_MESSAGE: usize = 300;
/// Most documents of a file whose problems are listed one by one.
pub(super) const MAX_PROBLEMS: usize = 20;

/// Returns a path that is safe to show: whoever writes the manifests also chooses the names of their files.
#[must_use]
pub fn shown(path: &Path) -> String {
    escape(&path.to_string_lossy())
}

/// Problem of a file. Its text is safe to show.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileProblem {
    /// The file.
    pub path: PathBuf,
    /// The document in it, counted from 1; `None` if the file as a whole is meant.
    pub document: Option<usize>,
    /// Description of the problem. Safe to show.
    pub message: String,
}

impl FileProblem {
    pub(super) fn new(path: &Path, document: Option<usize>, message: &str) -> Self {
        Self { path: path.to_owned(), document, message: escape_bounded(message, MAX_MESSAGE) }
    }

    /// Returns the path of the file, safe to show.
    #[must_use]
    pub fn file(&self) -> String {
        shown(&self.path)
    }
}

impl fmt::Display for FileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file())?;
        if let Some(document) = self.document {
            write!(f, ", document {document}")?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Pods and problems of a file, by its last text.
#[derive(Debug, Default)]
pub(super) struct PodFile {
    /// Digest of that text. A text that did not change is not parsed again: the folder is read every now and then, and
    /// most of the time nothing happened.
    digest: Option<Digest>,
    /// The good pods, those of broken documents as they were.
    pub(super) pods: Vec<Pod>,
    pub(super) problems: Vec<FileProblem>,
}

impl PodFile {
    /// Takes the pods of a text, if it is not the last one again.
    pub(super) fn update(&mut self, path: &Path, text: &str) {
        let digest = Some(Digest::of_bytes(text.as_bytes()));
        if self.digest != digest {
            self.parse(path, text);
            self.digest = digest;
        }
    }

    /// Parses the file's text. As long as a document of the file is broken, the pods that are not among its good
    /// documents stay.
    fn parse(&mut self, path: &Path, text: &str) {
        let mut pods = Vec::new();
        let mut more = 0;
        self.problems.clear();
        for (document, result) in (1..).zip(pods_of(text)) {
            match result {
                Ok(pod) => pods.push(pod),
                Err(message) if self.problems.len() < MAX_PROBLEMS => {
                    self.problems.push(FileProblem::new(path, Some(document), &message));
                }
                Err(_) => more += 1,
            }
        }
        if more > 0 {
            self.problems.push(FileProblem::new(path, None, &format!("{more} more documents of it are wrong")));
        }
        if pods.is_empty() && self.problems.is_empty() {
            // Somebody may be writing it at this moment.
            self.problems.push(FileProblem::new(path, None, "holds no pod; delete the file to delete its pods"));
        }
        let before = std::mem::take(&mut self.pods);
        if !self.problems.is_empty() {
            let present: BTreeSet<_> = pods.iter().map(|pod| (pod.namespace.clone(), pod.name.clone())).collect();
            pods.extend(before.into_iter().filter(|pod| !present.contains(&(pod.namespace.clone(), pod.name.clone()))));
        }
        self.pods = pods;
    }
}

/// Returns the pod of each document, or why there is none. Documents that are empty or null do not count.
fn pods_of(text: &str) -> Vec<Result<Pod, String>> {
    with_large_stack(|| {
        let pod = |document| match document {
            Ok(Document { root: Node { value: Value::Null, .. }, .. }) => None,
            Ok(Document { root, .. }) => Some(to_pod(&root)),
            Err(UnreadableDocument { message, .. }) => Some(Err(message)),
        };
        documents(text).filter_map(pod).collect()
    })
}

fn to_pod(root: &Node) -> Result<Pod, String> {
    let word = |key: &str| root.get(key).and_then(Node::text).unwrap_or_default();
    let (version, kind) = (word("apiVersion"), word("kind"));
    if (version, kind) != ("v1", "Pod") {
        return Err(format!(
            "is a '{version}' '{kind}', and only 'v1' 'Pod' counts here; of a Deployment or the like, write its pods"
        ));
    }
    check_pod_types(root).map_err(|error| format!("is not a valid Pod: {error}"))?;
    let object: api::Pod =
        serde_json::from_value(root.to_json()).map_err(|error| format!("is not a valid Pod: {error}"))?;
    if object.metadata.name.as_deref().unwrap_or_default().is_empty() {
        return Err("has no metadata.name".to_owned());
    }
    Ok(from_api(&object))
}
