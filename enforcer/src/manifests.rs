//! The embedded source: a folder of Pod manifests, as the kubelet's folder of static pods.
//!
//! Every file of the folder counts whose name does not begin with a dot, whatever it ends in, as for the kubelet
//! (`extractFromDir` in pkg/kubelet/config/file.go). Of each, all documents count, while the kubelet runs the pod of
//! the first one only. A problem is reported and never takes anything away: as long as a document of a file is broken,
//! the pods of that file that are not among its good documents stay as they were. [`enforcer_core::manifests`] decides
//! that; the files are read here.

mod folder_watch;

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use enforcer_core::manifests::{FolderContents, PodFolder, is_hidden, text_of};

pub use enforcer_core::manifests::FileProblem;
pub use folder_watch::Watch;

/// Largest file that is read, in bytes.
pub const MAX_FILE: u64 = 4 << 20;

/// The folder, with the pods that were good when it was read last.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    pods: PodFolder,
}

impl Folder {
    /// Takes the path of a folder that has not been read.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, pods: PodFolder::default() }
    }

    /// Returns the folder's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads all files.
    ///
    /// # Errors
    ///
    /// If the folder itself cannot be read. What was known before stays as it was.
    pub fn read(&mut self) -> io::Result<FolderContents> {
        let mut files = BTreeSet::new();
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            if !is_hidden(&path) {
                files.insert(path);
            }
        }
        Ok(self.pods.refresh(files, read_bounded))
    }
}

/// Returns the text of a file, `None` if there is no such file, or why it cannot be read.
fn read_bounded(path: &Path) -> Result<Option<String>, String> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => return Err("is not a regular file".to_owned()),
        Ok(metadata) if metadata.len() > MAX_FILE => return Err(format!("is larger than {MAX_FILE} bytes")),
        metadata => metadata,
    };
    match metadata.and_then(|_| fs::read(path)) {
        Ok(bytes) => text_of(bytes).map(Some).map_err(|problem| format!("cannot be read: {problem}")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

#[cfg(test)]
mod tests;
