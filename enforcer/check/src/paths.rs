//! Names of files for machines: relative to the folder in which the check runs, with forward slashes.

use std::{
    collections::HashMap,
    env,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use enforcer_core::{manifests::shown, model::text::escape};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

/// Characters of a segment of a URI that are not as they are.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The same of a path from the root: that of a drive has a colon, and nothing else could be one of a scheme.
const ABSOLUTE_SEGMENT: &AsciiSet = &SEGMENT.remove(b':');

/// Paths of the files that were read, by the names under which they are shown. Standard input and a cluster have none.
#[derive(Clone, Debug, Default)]
pub struct FilePaths {
    /// The folder in which the check runs; empty if nobody knows it.
    root: PathBuf,
    paths: HashMap<Arc<str>, PathBuf>,
}

/// A path without `.` and `..`.
struct CleanPath<'a> {
    /// It begins at the folder in which the check runs.
    is_relative: bool,
    segments: Vec<&'a [u8]>,
}

/// Address of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileUri {
    /// The address, percent-encoded.
    pub(crate) uri: String,
    /// It is relative to the folder in which the check runs.
    pub(crate) is_relative: bool,
}

impl FilePaths {
    /// Creates a set without files, for the folder in which the program runs.
    #[must_use]
    pub fn here() -> Self {
        Self { root: env::current_dir().unwrap_or_default(), paths: HashMap::new() }
    }

    /// Adds a path. Returns the name under which it is shown.
    pub(crate) fn add(&mut self, path: &Path) -> Arc<str> {
        let name: Arc<str> = shown(path).into();
        self.paths.entry(name.clone()).or_insert_with(|| path.to_owned());
        name
    }

    /// Returns the name of a file, safe to show, that is the same for each way to write its path, and on each machine for
    /// files below the folder in which the check runs. What is no file keeps its name.
    pub(crate) fn name(&self, shown: &str) -> String {
        let Some(path) = self.paths.get(shown) else { return shown.to_owned() };
        let absolute = self.root.join(path);
        let CleanPath { is_relative, segments } = self.clean(&absolute);
        let segments: Vec<_> = segments.into_iter().map(String::from_utf8_lossy).collect();
        let begin = if is_relative { "" } else { "/" };
        escape(&format!("{begin}{}", segments.join("/")))
    }

    /// Returns the address of a file; `None` for what is none.
    pub(crate) fn uri(&self, shown: &str) -> Option<FileUri> {
        let absolute = self.root.join(self.paths.get(shown)?);
        let CleanPath { is_relative, segments } = self.clean(&absolute);
        let (begin, set) = if is_relative { ("", SEGMENT) } else { ("file:///", ABSOLUTE_SEGMENT) };
        let segments: Vec<_> = segments.into_iter().map(|segment| percent_encode(segment, set).to_string()).collect();
        // The folder itself, which has no name in itself.
        let path = if is_relative && segments.is_empty() { "./".to_owned() } else { segments.join("/") };
        Some(FileUri { uri: format!("{begin}{path}"), is_relative })
    }

    fn clean<'a>(&self, absolute: &'a Path) -> CleanPath<'a> {
        let segments = segments(absolute);
        let root = segments_below(&segments, &self.root);
        match root {
            Some(below) => CleanPath { is_relative: true, segments: segments[below..].to_vec() },
            None => CleanPath { is_relative: false, segments },
        }
    }
}

/// Returns how many segments of a path are those of a folder; `None` if it is not in the folder.
fn segments_below(path: &[&[u8]], folder: &Path) -> Option<usize> {
    let folder = segments(folder);
    path.starts_with(&folder).then_some(folder.len())
}

fn segments(path: &Path) -> Vec<&[u8]> {
    let mut segments = Vec::new();
    for component in path.components() {
        match component {
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir => {
                segments.pop();
            }
            Component::Prefix(_) | Component::Normal(_) => segments.push(component.as_os_str().as_encoded_bytes()),
        }
    }
    segments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(root: &str, path: &str) -> (String, FileUri) {
        let mut paths = FilePaths { root: root.into(), paths: HashMap::new() };
        let shown = paths.add(Path::new(path));
        (paths.name(&shown), paths.uri(&shown).unwrap())
    }

    #[test]
    fn each_way_to_write_a_path_is_one_name() {
        for path in [
            "deploy/a.yaml",
            "./deploy/a.yaml",
            "deploy/../deploy//a.yaml",
            "/work/repo/deploy/a.yaml",
            "../repo/deploy/a.yaml",
        ] {
            let (name, FileUri { uri, is_relative }) = at("/work/repo", path);
            assert_eq!((name.as_str(), uri.as_str(), is_relative), ("deploy/a.yaml", "deploy/a.yaml", true), "{path}");
        }
        for path in ["../other/a.yaml", "/work/other/a.yaml"] {
            let (name, FileUri { uri, is_relative }) = at("/work/repo", path);
            let expected = ("/work/other/a.yaml", "file:///work/other/a.yaml", false);
            assert_eq!((name.as_str(), uri.as_str(), is_relative), expected, "{path}");
        }
        assert_eq!((at("/work/repo", ".").1.uri.as_str(), at("/work/repo", "/").1.uri.as_str()), ("./", "file:///"));
        assert_eq!(at("/r", "/a:b/c.yaml").1.uri, "file:///a:b/c.yaml");
    }

    #[test]
    fn address_has_no_character_with_a_meaning() {
        for (path, uri) in [
            ("a b/c#d?e.yaml", "a%20b/c%23d%3Fe.yaml"),
            ("100%.yaml", "100%25.yaml"),
            ("größe.yaml", "gr%C3%B6%C3%9Fe.yaml"),
            ("http:/x.yaml", "http%3A/x.yaml"),
            ("a\nb.yaml", "a%0Ab.yaml"),
            ("e\u{301}.yaml", "e%CC%81.yaml"),
        ] {
            assert_eq!(at("/r", path).1.uri, uri, "{path:?}");
        }
        assert_eq!(at("/r", "a\nb.yaml").0, r"a\u{a}b.yaml");
        let paths = FilePaths::here();
        assert_eq!((paths.name("<stdin>").as_str(), paths.uri("<stdin>")), ("<stdin>", None));
    }
}
