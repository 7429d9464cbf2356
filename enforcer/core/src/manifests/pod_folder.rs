//! A folder of Pod manifests, as the kubelet's folder of static pods. Whoever reads the files passes their texts on.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
};

use crate::{
    manifests::{
        FileProblem,
        pod_file::{PodFile, shown},
    },
    pods::pod::Pod,
};

#[cfg(test)]
mod tests;

/// Pods of a folder, and what is wrong with its files.
#[derive(Debug, Default)]
pub struct FolderContents {
    /// All pods that are there now.
    pub pods: Vec<Pod>,
    /// Problems that were not there the last time.
    pub problems: Vec<FileProblem>,
}

/// The files of a folder by their last texts. A file that cannot be read, or a document of it, takes no pod away.
#[derive(Debug, Default)]
pub struct PodFolder {
    files: BTreeMap<PathBuf, PodFile>,
    /// Problems that the last call returned or left out, so that each problem is reported once.
    reported: BTreeSet<FileProblem>,
}

impl PodFolder {
    /// Brings the pods up to date with the files that are in the folder now. `read` returns the text of one, `None` if it
    /// is gone meanwhile, or why it cannot be read; that file stays as it was.
    pub fn refresh(
        &mut self,
        paths: BTreeSet<PathBuf>,
        mut read: impl FnMut(&Path) -> Result<Option<String>, String>,
    ) -> FolderContents {
        self.files.retain(|path, _| paths.contains(path));
        let mut problems = Vec::new();
        for path in paths {
            match read(&path) {
                Ok(Some(text)) => {
                    let file = self.files.entry(path.clone()).or_default();
                    file.update(&path, &text);
                    problems.extend(file.problems.iter().cloned());
                }
                Ok(None) => {
                    self.files.remove(&path);
                }
                Err(message) => problems.push(FileProblem::new(&path, None, &message)),
            }
        }
        let pods = self.pods(&mut problems);
        let reported = std::mem::replace(&mut self.reported, problems.iter().cloned().collect());
        problems.retain(|problem| !reported.contains(problem));
        FolderContents { pods, problems }
    }

    /// Returns all good pods; of several with one name, the first one by file name and place.
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
