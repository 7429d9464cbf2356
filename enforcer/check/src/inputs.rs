//! What `enforcer check` is given: files, folders, and standard input.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use enforcer_core::{
    check::{
        ManifestSet,
        object::{Location, Remark, Unreadable, kustomize, read},
    },
    manifests::{MAX_MESSAGE, is_hidden, shown, text_of},
    model::{list_text::comma_list, text::escape_bounded},
    pods::claims::ClaimLimits,
    yaml::{
        documents::{Document, UnreadableDocument, documents, with_large_stack},
        spanned::{Node, Value},
    },
};

use crate::paths::FilePaths;

/// Largest input that is read, in bytes: one file, or standard input.
pub const MAX_INPUT: u64 = 128 << 20;
/// Most objects that are kept.
pub const MAX_OBJECTS: usize = 100_000;
/// Most problems with files and documents that are kept.
const MAX_UNREADABLE: usize = 10_000;
/// Most files or folders that a note names.
const MAX_NAMED: usize = 6;
/// Lines of a file without an extension in which its `apiVersion` or `kind` is looked for.
const SNIFFED_LINES: usize = 200;
/// Bytes of such a line that are looked at.
const SNIFFED_BYTES: u64 = 64 << 10;
/// The name that stands for standard input.
const STDIN: &str = "-";

/// Reads all of them, in their order; a folder's files by name. Of a folder, the files count that `is_manifest`
/// accepts, and with `recursive` those of the folders below it. A file that is named counts whatever it is called, and
/// may be a pipe. Their paths are added to `known`.
#[must_use]
pub fn read_all(paths: &[PathBuf], limits: &ClaimLimits, recursive: bool, known: &mut FilePaths) -> ManifestSet {
    with_large_stack(|| {
        let mut reader = Reader {
            limits,
            recursive,
            in_folder: false,
            inputs: BTreeSet::new(),
            manifests: ManifestSet::default(),
            known,
        };
        for path in paths {
            reader.in_folder = false;
            if path.as_os_str() == STDIN {
                reader.source(&"<stdin>".into(), Ok(io::stdin().lock()));
            } else if path.is_dir() {
                reader.in_folder = true;
                if reader.folder(path) == 0 {
                    let message = "holds no file that ends in .yaml, .yml, .json or .manifest, and none without an \
                                   ending that is a manifest";
                    let folder = reader.known.add(path);
                    reader.unreadable(&folder, None, message);
                }
            } else {
                reader.file(path);
            }
        }
        reader.manifests.apply_port_limits(limits);
        reader.manifests
    })
}

/// Checks whether a file of a folder is a manifest: by its extension, as kubectl and kops give it, or without any by what
/// it begins with.
fn is_manifest(path: &Path) -> bool {
    match path.extension() {
        _ if is_kustomization(path) => true,
        Some(extension) => matches!(extension.to_str(), Some("yaml" | "yml" | "json" | "manifest")),
        None => File::open(path).is_ok_and(begins_as_manifest),
    }
}

/// Checks whether a file has a name that kustomize looks for.
fn is_kustomization(path: &Path) -> bool {
    let names = ["kustomization.yaml", "kustomization.yml", "Kustomization"];
    path.file_name().is_some_and(|name| names.iter().any(|kustomization| name == *kustomization))
}

fn begins_as_manifest(source: impl Read) -> bool {
    let lines = BufReader::new(source.take(SNIFFED_BYTES)).split(b'\n');
    let is_key = |line: &[u8]| {
        let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        let json = line.trim_ascii_start().strip_prefix(b"{").unwrap_or(line).trim_ascii_start();
        [&b"apiVersion:"[..], b"kind:"].iter().any(|key| line.starts_with(key))
            || [&b"\"apiVersion\""[..], b"\"kind\""].iter().any(|key| json.starts_with(key))
    };
    lines.take(SNIFFED_LINES).map_while(Result::ok).any(|line| is_key(&line))
}

struct Reader<'a> {
    limits: &'a ClaimLimits,
    recursive: bool,
    /// The file at hand was found in a folder, and may be of another tool.
    in_folder: bool,
    /// Patches and other inputs of kustomizations, which are no manifests on their own.
    inputs: BTreeSet<PathBuf>,
    manifests: ManifestSet,
    known: &'a mut FilePaths,
}

impl Reader<'_> {
    /// Reads a folder, and returns the number of files.
    fn folder(&mut self, folder: &Path) -> usize {
        let entries = fs::read_dir(folder)
            .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>());
        let mut entries = match entries {
            Ok(entries) => entries,
            Err(error) => {
                let folder = self.known.add(folder);
                self.unreadable(&folder, None, &format!("cannot be read: {error}"));
                return 1;
            }
        };
        entries.retain(|path| !is_hidden(path));
        entries.sort_unstable();
        let (mut folders, mut files): (Vec<PathBuf>, Vec<PathBuf>) =
            entries.into_iter().partition(|path| path.is_dir());
        // What is no file, such as a pipe, might never end.
        files.retain(|path| path.is_file() && is_manifest(path));
        self.kustomization(folder, &files);
        for path in &files {
            if !self.inputs.contains(path) {
                self.file(path);
            }
        }
        // The note about the chart names the command that reads its templates.
        let is_chart = files.iter().any(|path| path.ends_with("Chart.yaml"));
        folders.retain(|path| !is_chart || !path.ends_with("templates") && !path.ends_with("charts"));
        // A link may lead back to where it is.
        let (below, unread): (Vec<PathBuf>, Vec<PathBuf>) =
            folders.into_iter().partition(|path| self.recursive && !path.is_symlink());
        if !unread.is_empty() {
            let (count, names) = (unread.len(), names(folder, &unread));
            let message = match count {
                1 => format!("holds a folder that is not read: {names}"),
                _ => format!("holds {count} folders that are not read: {names}"),
            };
            let remedy = if self.recursive {
                "name them on the command line: links to folders are not followed"
            } else {
                "--recursive reads them too"
            };
            let file = self.known.add(folder);
            self.remark(Location { file, line: None }, message, remedy.to_owned());
        }
        files.len() + below.iter().map(|folder| self.folder(folder)).sum::<usize>()
    }

    /// Takes the inputs of a folder's kustomization, if it has one.
    fn kustomization(&mut self, folder: &Path, files: &[PathBuf]) {
        let Some(path) = files.iter().find(|path| is_kustomization(path)) else {
            return;
        };
        // What is wrong with it is reported when its turn comes.
        let Ok(text) = File::open(path).and_then(read_text) else {
            return;
        };
        let mut inputs = BTreeSet::new();
        for Document { root, .. } in documents(&text).flatten() {
            inputs.extend(kustomization_inputs(&root).map(|name| folder.join(name)));
        }
        let skipped: Vec<PathBuf> = files.iter().filter(|path| inputs.contains(*path)).cloned().collect();
        if !skipped.is_empty() {
            let place = Location { file: self.known.add(path), line: None };
            let message = format!(
                "has {} among its patches and other inputs, which are no manifests on their own: not read",
                names(folder, &skipped)
            );
            let remedy = kustomize(&place);
            self.remark(place, message, remedy);
        }
        self.inputs.extend(inputs);
    }

    fn file(&mut self, path: &Path) {
        let file = self.known.add(path);
        self.source(&file, File::open(path));
    }

    fn source(&mut self, file: &Arc<str>, source: io::Result<impl Read>) {
        self.manifests.files.push(file.clone());
        match source.and_then(read_text) {
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
                    self.manifests.documents += usize::from(contents.is_manifest());
                    self.manifests.ignored += contents.ignored;
                    self.manifests.port_limits.extend(contents.port_limits);
                    self.manifests.other_kinds.merge(contents.other_kinds);
                    for Remark { place, message, remedy } in contents.remarks {
                        self.remark(place, message, remedy);
                    }
                    for Unreadable { place, message, is_foreign } in contents.unreadable {
                        if is_foreign && self.in_folder {
                            let message = "has neither apiVersion nor kind, and so is no manifest: it is not read";
                            let remedy = "move it out of the folder, or name the manifests one by one";
                            self.remark(place, message.to_owned(), remedy.to_owned());
                        } else {
                            self.unreadable(&place.file, place.line, &message);
                        }
                    }
                    self.manifests.objects.extend(contents.objects);
                    self.manifests.services.extend(contents.services);
                }
                Err(UnreadableDocument { line, message }) => self.unreadable(file, Some(line), &message),
            }
            if self.manifests.objects.len() > MAX_OBJECTS || self.manifests.services.len() > MAX_OBJECTS {
                self.manifests.objects.truncate(MAX_OBJECTS);
                self.manifests.services.truncate(MAX_OBJECTS);
                self.unreadable(file, None, &format!("holds more than {MAX_OBJECTS} objects; the others do not count"));
                return;
            }
        }
    }

    fn unreadable(&mut self, file: &Arc<str>, line: Option<u32>, message: &str) {
        if self.manifests.unreadable.len() < MAX_UNREADABLE {
            let place = Location { file: file.clone(), line };
            let message = escape_bounded(message, MAX_MESSAGE);
            self.manifests.unreadable.push(Unreadable { place, message, is_foreign: false });
        } else {
            self.manifests.more_unreadable += 1;
        }
    }

    fn remark(&mut self, place: Location, message: String, remedy: String) {
        if self.manifests.remarks.len() < MAX_UNREADABLE {
            self.manifests.remarks.push(Remark { place, message, remedy });
        }
    }
}

/// Returns the files that a kustomization names and that are no manifests on their own.
fn kustomization_inputs(root: &Node) -> impl Iterator<Item = &str> {
    let items = |key: &str| root.get(key).map(Node::items).unwrap_or_default().iter();
    let paths = ["patches", "patchesJson6902", "replacements"].into_iter().flat_map(items);
    let paths = paths.filter_map(|item| item.get("path")?.text());
    let names = ["patchesStrategicMerge", "configurations", "transformers", "generators"].into_iter().flat_map(items);
    let names = names.filter_map(Node::text);
    let generators = ["configMapGenerator", "secretGenerator"].into_iter().flat_map(items);
    let files = generators.flat_map(|item| item.get("files").map(Node::items).unwrap_or_default());
    // An entry may be `KEY=FILE`.
    let files = files.filter_map(|file| Some(file.text()?.rsplit('=').next().unwrap_or_default()));
    let values = items("helmCharts").filter_map(|chart| chart.get("valuesFile")?.text());
    paths.chain(names).chain(files).chain(values)
}

/// Returns the names of entries of a folder for a sentence, safe to show.
fn names(folder: &Path, entries: &[PathBuf]) -> String {
    let names = entries.iter().map(|path| shown(path.strip_prefix(folder).unwrap_or(path)));
    comma_list(names, MAX_NAMED, 0)
}

fn read_text(source: impl Read) -> io::Result<String> {
    let mut bytes = Vec::new();
    source.take(MAX_INPUT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_INPUT {
        return Err(io::Error::other(format!("it is larger than {MAX_INPUT} bytes; split it")));
    }
    text_of(bytes).map_err(io::Error::other)
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
        let manifests = read_all(&[path], &ClaimLimits::default(), false, &mut FilePaths::here());
        assert_eq!((manifests.unreadable.len(), manifests.more_unreadable), (MAX_UNREADABLE, 7));
        assert_eq!(check(&manifests, &CheckSettings::default()).count(Severity::Error), MAX_UNREADABLE + 7);
    }
}
