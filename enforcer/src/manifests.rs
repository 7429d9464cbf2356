//! The embedded source: a folder of Pod manifests, as the kubelet's folder of static pods.
//!
//! Every `.yaml`, `.yml`, `.json` and `.manifest` file of the folder counts (not those whose name begins with a dot), with
//! one or more documents. A problem is reported and never takes anything away: as long as a document of a file is broken,
//! the pods of that file that are not among its good documents stay as they were. [`enforcer_core::manifests`] decides
//! that; the files are read here.
//!
//! [`input`] reads manifests of all kinds, for `enforcer check`.

pub mod check_input;
mod folder_watch;

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use enforcer_core::manifests::{FolderContents, PodFolder};

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
            if is_manifest(&path) {
                files.insert(path);
            }
        }
        Ok(self.pods.refresh(files, read_bounded))
    }
}

/// Checks whether the name of a file is a manifest's: with the extension that kops and others give theirs, too.
fn is_manifest(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    let extension = path.extension().and_then(|extension| extension.to_str());
    !hidden && matches!(extension, Some("yaml" | "yml" | "json" | "manifest"))
}

/// Returns the text of a file, `None` if there is no such file, or why it cannot be read.
fn read_bounded(path: &Path) -> Result<Option<String>, String> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => return Err("is not a regular file".to_owned()),
        Ok(metadata) if metadata.len() > MAX_FILE => return Err(format!("is larger than {MAX_FILE} bytes")),
        metadata => metadata,
    };
    match metadata.and_then(|_| fs::read_to_string(path)) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

#[cfg(test)]
mod tests;
