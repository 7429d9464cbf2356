//! What `enforcer check` is given: files, folders, and standard input.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use enforcer_core::yaml::documents::{Document, UnreadableDocument, documents, with_large_stack};

use super::is_manifest;
use enforcer_core::{
    check::{
        ManifestSet,
        object::{Location, read},
    },
    manifests::{MAX_MESSAGE, shown},
    model::text::escape_bounded,
    pods::claims::ClaimLimits,
    yaml::spanned::Value,
};

/// Largest input that is read, in bytes: one file, or standard input.
pub const MAX_INPUT: u64 = 128 << 20;
/// Most objects that are kept.
pub const MAX_OBJECTS: usize = 100_000;
/// Most problems with files and documents that are kept.
const MAX_UNREADABLE: usize = 10_000;
/// The name that stands for standard input.
const STDIN: &str = "-";

/// Reads all of them, in their order; a folder's files by name. Of a folder, the files directly in it with a
/// manifest's extension count; a file that is named counts whatever it is called, and may be a pipe.
#[must_use]
pub fn read_all(paths: &[PathBuf], limits: &ClaimLimits) -> ManifestSet {
    with_large_stack(|| {
        let mut reader = Reader { limits, manifests: ManifestSet::default() };
        for path in paths {
            if path.as_os_str() == STDIN {
                reader.source(&"<stdin>".into(), Ok(io::stdin().lock()));
            } else if path.is_dir() {
                reader.folder(path);
            } else {
                reader.source(&shown(path).into(), File::open(path));
            }
        }
        reader.manifests
    })
}

struct Reader<'a> {
    limits: &'a ClaimLimits,
    manifests: ManifestSet,
}

impl Reader<'_> {
    fn folder(&mut self, folder: &Path) {
        let entries = fs::read_dir(folder)
            .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>());
        let mut files = match entries {
            Ok(files) => files,
            Err(error) => {
                self.unreadable(&shown(folder).into(), None, &format!("cannot be read: {error}"));
                return;
            }
        };
        // What is no file, such as a pipe, might never end.
        files.retain(|path| is_manifest(path) && path.is_file());
        files.sort_unstable();
        if files.is_empty() {
            self.unreadable(&shown(folder).into(), None, "holds no file that ends in .yaml, .yml, .json or .manifest");
        }
        for path in files {
            self.source(&shown(&path).into(), File::open(&path));
        }
    }

    fn source(&mut self, file: &Arc<str>, source: io::Result<impl Read>) {
        self.manifests.files.push(file.clone());
        match source.and_then(text_of) {
            Ok(text) => self.text(file, &text),
            Err(error) => self.unreadable(file, None, &format!("cannot be read: {error}")),
        }
    }

    fn text(&mut self, file: &Arc<str>, text: &str) {
        for document in documents(text) {
            match document {
                Ok(Document { lines_before, root }) => {
                    if root.value == Value::Null {
                        continue;
                    }
                    let contents = read(&root, file, lines_before, self.limits);
                    self.manifests.documents += usize::from(!contents.is_unreadable());
                    self.manifests.ignored += contents.ignored;
                    for (Location { file, line }, message) in contents.unreadable {
                        self.unreadable(&file, line, &message);
                    }
                    self.manifests.objects.extend(contents.objects);
                }
                Err(UnreadableDocument { line, message }) => self.unreadable(file, Some(line), &message),
            }
            if self.manifests.objects.len() > MAX_OBJECTS {
                self.manifests.objects.truncate(MAX_OBJECTS);
                self.unreadable(file, None, &format!("holds more than {MAX_OBJECTS} objects; the others do not count"));
                return;
            }
        }
    }

    fn unreadable(&mut self, file: &Arc<str>, line: Option<u32>, message: &str) {
        if self.manifests.unreadable.len() < MAX_UNREADABLE {
            let place = Location { file: file.clone(), line };
            self.manifests.unreadable.push((place, escape_bounded(message, MAX_MESSAGE)));
        } else {
            self.manifests.more_unreadable += 1;
        }
    }
}

fn text_of(source: impl Read) -> io::Result<String> {
    let mut bytes = Vec::new();
    source.take(MAX_INPUT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_INPUT {
        return Err(io::Error::other(format!("it is larger than {MAX_INPUT} bytes; split it")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let place = error.utf8_error().valid_up_to();
        io::Error::other(format!("it is not UTF-8 (at byte {place}); write it as UTF-8"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use enforcer_core::check::{CheckSettings, check, finding::Severity};

    #[test]
    fn what_is_too_much_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("many.yaml");
        fs::write(&path, "- x\n---\n".repeat(MAX_UNREADABLE + 7)).unwrap();
        let manifests = read_all(&[path], &ClaimLimits::default());
        assert_eq!((manifests.unreadable.len(), manifests.more_unreadable), (MAX_UNREADABLE, 7));
        assert_eq!(check(&manifests, &CheckSettings::default()).count(Severity::Error), MAX_UNREADABLE + 7);
    }
}
