//! Files by path, and their reproducible packing: sorted, with one time and one user for everything.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use flate2::{Compression, write::GzEncoder};
use tar::{Builder, EntryType, Header};

/// Files by path. The packing adds their folders.
#[derive(Default)]
pub(crate) struct FileTree(BTreeMap<String, (u32, Vec<u8>)>);

impl FileTree {
    /// Adds a file with mode 0644.
    pub(crate) fn add_file(&mut self, path: &str, content: Vec<u8>) {
        self.0.insert(path.to_owned(), (0o644, content));
    }

    /// Adds a file with mode 0755.
    pub(crate) fn add_program(&mut self, path: &str, content: Vec<u8>) {
        self.0.insert(path.to_owned(), (0o755, content));
    }
}

/// Packs files into a tar archive.
pub(crate) fn pack(tree: &FileTree, epoch: u64) -> anyhow::Result<Vec<u8>> {
    pack_with(tree, &[], epoch)
}

/// Packs files into a compressed tar archive.
pub(crate) fn pack_gzip(tree: &FileTree, epoch: u64) -> anyhow::Result<Vec<u8>> {
    gzip(&pack(tree, epoch)?)
}

/// Compresses bytes. The header has no name and no time.
pub(crate) fn gzip(bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).context("cannot compress")?;
    encoder.finish().context("cannot compress")
}

/// Packs files and empty folders into a tar archive.
pub(crate) fn pack_with(tree: &FileTree, folders: &[&str], epoch: u64) -> anyhow::Result<Vec<u8>> {
    let mut entries: BTreeMap<String, Option<&(u32, Vec<u8>)>> =
        folders.iter().map(|folder| (format!("{folder}/"), None)).collect();
    for (path, file) in &tree.0 {
        for folder in Path::new(path).ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()) {
            entries.insert(format!("{}/", folder.display()), None);
        }
        entries.insert(path.clone(), Some(file));
    }
    let mut builder = Builder::new(Vec::new());
    for (path, file) in entries {
        let mut header = Header::new_ustar();
        header.set_mtime(epoch);
        header.set_uid(0);
        header.set_gid(0);
        let (kind, mode, content) = file.map_or((EntryType::Directory, 0o755, &[][..]), |(mode, content)| {
            (EntryType::Regular, *mode, content.as_slice())
        });
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(u64::try_from(content.len()).with_context(|| format!("{path} is too large"))?);
        builder.append_data(&mut header, &path, content).with_context(|| format!("cannot pack {path}"))?;
    }
    builder.into_inner().context("cannot finish the archive")
}

#[cfg(test)]
mod tests {
    use tar::Archive;

    use super::*;

    #[test]
    fn packed_entries_are_sorted_and_have_one_time_and_one_user() {
        let mut tree = FileTree::default();
        tree.add_file("b/c/d", b"text".to_vec());
        tree.add_program("a", b"binary".to_vec());
        let bytes = pack_with(&tree, &["proc"], 1_700_000_000).unwrap();
        let mut archive = Archive::new(&bytes[..]);
        let entries: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                assert_eq!(
                    (header.mtime().unwrap(), header.uid().unwrap(), header.gid().unwrap()),
                    (1_700_000_000, 0, 0)
                );
                (entry.path().unwrap().display().to_string(), header.mode().unwrap(), header.size().unwrap())
            })
            .collect();
        let expected =
            [("a", 0o755, 6), ("b/", 0o755, 0), ("b/c/", 0o755, 0), ("b/c/d", 0o644, 4), ("proc/", 0o755, 0)];
        assert_eq!(entries, expected.map(|(path, mode, size)| (path.to_owned(), mode, size)));
        assert_eq!(bytes, pack_with(&tree, &["proc"], 1_700_000_000).unwrap());
    }
}
