//! Content of the image's only layer.

use std::fs;

use anyhow::Context as _;

use super::program::{BuiltProgram, ImageProgram};
use crate::file_tree::{self, FileTree};
use crate::sbom;

/// Folders on which a container runtime mounts something. It cannot create them in a read-only root.
const MOUNT_POINTS: [&str; 5] = ["dev", "etc", "proc", "run", "sys"];

/// Builds the layer: the program, licences and the SBOM.
pub(super) fn build(program: ImageProgram, built: &BuiltProgram, version: &str, epoch: u64) -> anyhow::Result<Vec<u8>> {
    let BuiltProgram { binary, dependencies, .. } = built;
    let bytes = fs::read(binary).with_context(|| format!("cannot read {}", binary.display()))?;
    let mut tree = FileTree::default();
    for (path, text) in dependencies.licences()? {
        tree.add_file(&format!("usr/share/licenses/{path}"), text);
    }
    let sbom = sbom::document(program.package(), dependencies, version, &sbom::sha256(&bytes), epoch)?;
    tree.add_file("usr/share/doc/port-enforcer/sbom.spdx.json", sbom);
    tree.add_program(program.path(), bytes);
    file_tree::pack_with(&tree, &MOUNT_POINTS, epoch)
}
