//! What is in the image's one layer, and how it is packed: in order, of nobody's time and nobody's user.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use tar::{Builder, EntryType, Header};

use super::dependencies::Dependencies;
use super::oci_archive::PROGRAM;
use super::sbom;

/// Files by their paths. Folders come by themselves.
#[derive(Default)]
pub(super) struct Tree(BTreeMap<String, (u32, Vec<u8>)>);

impl Tree {
    /// Adds a file that everybody may read.
    pub(super) fn file(&mut self, path: &str, content: Vec<u8>) {
        self.0.insert(path.to_owned(), (0o644, content));
    }

    /// Adds a program.
    fn program(&mut self, path: &str, content: Vec<u8>) {
        self.0.insert(path.to_owned(), (0o755, content));
    }
}

/// Folders that a runtime mounts something on; a root that is read-only can get none later.
const MOUNT_POINTS: [&str; 5] = ["dev", "etc", "proc", "run", "sys"];

/// The layer.
pub(super) fn layer(program: &[u8], dependencies: &Dependencies, version: &str, epoch: u64) -> anyhow::Result<Vec<u8>> {
    let mut tree = Tree::default();
    tree.program(PROGRAM, program.to_vec());
    for (path, text) in dependencies.licences()? {
        tree.file(&format!("usr/share/licenses/{path}"), text);
    }
    let sbom = sbom::document(dependencies, version, &super::oci_archive::sha256(program), epoch)?;
    tree.file("usr/share/doc/port-enforcer/sbom.spdx.json", sbom);
    pack_with(&tree, &MOUNT_POINTS, epoch)
}

/// A tree as a tar file.
pub(super) fn pack(tree: &Tree, epoch: u64) -> anyhow::Result<Vec<u8>> {
    pack_with(tree, &[], epoch)
}

fn pack_with(tree: &Tree, folders: &[&str], epoch: u64) -> anyhow::Result<Vec<u8>> {
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
        header.set_size(u64::try_from(content.len()).context("a large file")?);
        builder.append_data(&mut header, &path, content).with_context(|| format!("{path} cannot be packed"))?;
    }
    builder.into_inner().context("the archive cannot be ended")
}

#[cfg(test)]
mod tests {
    use tar::Archive;

    use super::*;

    #[test]
    fn what_is_packed_is_in_order_and_of_nobody() {
        let mut tree = Tree::default();
        tree.file("b/c/d", b"text".to_vec());
        tree.program("a", b"binary".to_vec());
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
