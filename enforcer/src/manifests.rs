//! The embedded source: a folder of Pod manifests, as the kubelet's folder of static pods.
//!
//! Every `.yaml`, `.yml` and `.json` file of the folder counts (not those whose name begins with a dot), with one or
//! more documents. What cannot be read is told and never takes anything away: as long as a document of a file is
//! broken, the pods of that file that are not among its good documents stay as they were.
//!
//! [`input`] reads manifests of all kinds, for `enforcer check`; [`mod@documents`] finds the documents in a text.

mod folder_watch;
pub mod input;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt, fs, io,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1 as api;
use serde::Deserialize as _;

use enforcer_core::{
    model::{
        digest::Digest,
        text::{escape, escape_bounded},
    },
    pods::pod::{Pod, from_api},
};

pub use folder_watch::Watch;

/// Largest file that is read, in bytes.
pub const MAX_FILE: u64 = 4 << 20;
/// Longest message of the YAML reader that is passed on, in characters. It may quote the file.
const MAX_MESSAGE: usize = 300;
/// Most documents of a file of which it is said one by one what is wrong.
const MAX_PROBLEMS: usize = 20;

/// A path, safe to show: whoever writes the manifests also chooses the names of their files.
fn shown(path: &Path) -> String {
    escape(&path.to_string_lossy())
}

/// Something that is wrong with a file. Its text is safe to show.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FileProblem {
    /// The file.
    pub path: PathBuf,
    /// The document in it, counted from 1; `None` if the file as a whole is meant.
    pub document: Option<usize>,
    /// What is wrong. Safe to show.
    pub message: String,
}

impl FileProblem {
    /// The file, safe to show.
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

/// What a look at the folder gave.
#[derive(Debug, Default)]
pub struct Contents {
    /// All pods that are there now.
    pub pods: Vec<Pod>,
    /// What is wrong and was not so at the last look.
    pub problems: Vec<FileProblem>,
}

/// What is known of a file.
#[derive(Debug, Default)]
struct File {
    /// Of the text that was parsed last. One that did not change is not parsed again: the folder is looked at every now and
    /// then, and most of the time nothing happened.
    text: Option<Digest>,
    /// The good pods.
    pods: Vec<Pod>,
    /// What is wrong with that text.
    problems: Vec<FileProblem>,
}

impl File {
    /// Takes in a new text of the file.
    fn parse(&mut self, path: &Path, text: &str) {
        let mut pods = Vec::new();
        let mut more = 0;
        self.problems.clear();
        for (document, result) in (1..).zip(documents(text)) {
            match result {
                Ok(pod) => pods.push(pod),
                Err(message) if self.problems.len() < MAX_PROBLEMS => {
                    self.problems.push(problem(path, Some(document), &message));
                }
                Err(_) => more += 1,
            }
        }
        if more > 0 {
            self.problems.push(problem(path, None, &format_args!("{more} more documents of it are wrong")));
        }
        if pods.is_empty() && self.problems.is_empty() {
            // Somebody may be writing it at this moment.
            self.problems.push(problem(path, None, &"holds no pod; delete the file to delete its pods"));
        }
        let before = std::mem::take(&mut self.pods);
        if !self.problems.is_empty() {
            let present: BTreeSet<_> = pods.iter().map(|pod| (pod.namespace.clone(), pod.name.clone())).collect();
            pods.extend(before.into_iter().filter(|pod| !present.contains(&(pod.namespace.clone(), pod.name.clone()))));
        }
        self.pods = pods;
    }
}

fn problem(path: &Path, document: Option<usize>, message: &dyn fmt::Display) -> FileProblem {
    FileProblem { path: path.to_owned(), document, message: escape_bounded(&message.to_string(), MAX_MESSAGE) }
}

/// The folder. It remembers what was good.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    files: BTreeMap<PathBuf, File>,
    told: BTreeSet<(PathBuf, Option<usize>, String)>,
}

impl Folder {
    /// A folder that has not been looked at.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, files: BTreeMap::new(), told: BTreeSet::new() }
    }

    /// The folder's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Looks at all files.
    ///
    /// # Errors
    ///
    /// If the folder itself cannot be read. What was known before stays as it was.
    pub fn read(&mut self) -> io::Result<Contents> {
        let mut files = BTreeSet::new();
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            if is_manifest(&path) {
                files.insert(path);
            }
        }
        self.files.retain(|path, _| files.contains(path));
        let mut problems = Vec::new();
        for path in files {
            self.read_file(&path, &mut problems);
        }
        let mut contents = Contents { pods: self.pods(&mut problems), problems: Vec::new() };
        let mut told = BTreeSet::new();
        for problem in problems {
            let key = (problem.path.clone(), problem.document, problem.message.clone());
            if !self.told.contains(&key) {
                contents.problems.push(problem);
            }
            told.insert(key);
        }
        self.told = told;
        Ok(contents)
    }

    fn read_file(&mut self, path: &Path, problems: &mut Vec<FileProblem>) {
        match read_bounded(path) {
            Ok(text) => {
                let digest = Some(Digest::of_bytes(text.as_bytes()));
                let file = self.files.entry(path.to_owned()).or_default();
                if file.text != digest {
                    file.parse(path, &text);
                    file.text = digest;
                }
                problems.extend(file.problems.iter().cloned());
            }
            Err(ReadError::Gone) => {
                self.files.remove(path);
            }
            Err(ReadError::Other(error)) => problems.push(problem(path, None, &error)),
        }
    }

    /// All good pods; of several with one name, the first one by file name and place.
    fn pods(&self, problems: &mut Vec<FileProblem>) -> Vec<Pod> {
        let mut first: HashMap<(&str, &str), &Path> = HashMap::new();
        let mut pods = Vec::new();
        for (path, file) in &self.files {
            for pod in &file.pods {
                if let Some(other) = first.get(&(pod.namespace.as_str(), pod.name.as_str())) {
                    problems.push(FileProblem {
                        path: path.clone(),
                        document: None,
                        message: format!("{} is also in {}, which counts", pod.display_name(), shown(other)),
                    });
                    continue;
                }
                first.insert((&pod.namespace, &pod.name), path);
                pods.push(pod.clone());
            }
        }
        pods
    }
}

fn is_manifest(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    let extension = path.extension().and_then(|extension| extension.to_str());
    !hidden && matches!(extension, Some("yaml" | "yml" | "json"))
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("it is gone")]
    Gone,
    #[error("{0}")]
    Other(String),
}

fn read_bounded(path: &Path) -> Result<String, ReadError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => ReadError::Gone,
        _ => ReadError::Other(format!("cannot be read: {error}")),
    };
    let metadata = fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        return Err(ReadError::Other("is not a regular file".to_owned()));
    }
    if metadata.len() > MAX_FILE {
        return Err(ReadError::Other(format!("is larger than {MAX_FILE} bytes")));
    }
    fs::read_to_string(path).map_err(failed)
}

/// The documents of a text. After one that is not even YAML, no further one can be found.
fn documents(text: &str) -> Vec<Result<Pod, String>> {
    let mut results = Vec::new();
    for document in serde_norway::Deserializer::from_str(text) {
        match serde_norway::Value::deserialize(document) {
            Ok(serde_norway::Value::Null) => {}
            Ok(value) => results.push(to_pod(value)),
            Err(error) => {
                results.push(Err(format!("is not valid YAML: {error}")));
                break;
            }
        }
    }
    results
}

fn to_pod(value: serde_norway::Value) -> Result<Pod, String> {
    let word = |key: &str| value.get(key).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
    let (version, kind) = (word("apiVersion"), word("kind"));
    if (version.as_str(), kind.as_str()) != ("v1", "Pod") {
        return Err(format!(
            "is a '{version}' '{kind}', and only 'v1' 'Pod' counts here; of a Deployment or the like, write its pods"
        ));
    }
    let object: api::Pod = serde_norway::from_value(value).map_err(|error| format!("is not a valid Pod: {error}"))?;
    if object.metadata.name.as_deref().unwrap_or_default().is_empty() {
        return Err("has no metadata.name".to_owned());
    }
    Ok(from_api(&object))
}

#[cfg(test)]
mod tests;
