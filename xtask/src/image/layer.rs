//! Content of the image's only layer.

use super::oci_archive::AGENT_PATH;
use crate::dependencies::Dependencies;
use crate::file_tree::{self, FileTree};
use crate::sbom;

/// Folders on which a container runtime mounts something. It cannot create them in a read-only root.
const MOUNT_POINTS: [&str; 5] = ["dev", "etc", "proc", "run", "sys"];

/// Builds the layer: the agent, licences and the SBOM.
pub(super) fn build(agent: &[u8], dependencies: &Dependencies, version: &str, epoch: u64) -> anyhow::Result<Vec<u8>> {
    let mut tree = FileTree::default();
    tree.add_program(AGENT_PATH, agent.to_vec());
    for (path, text) in dependencies.licences()? {
        tree.add_file(&format!("usr/share/licenses/{path}"), text);
    }
    let sbom = sbom::document("enforcer", dependencies, version, &sbom::sha256(agent), epoch)?;
    tree.add_file("usr/share/doc/port-enforcer/sbom.spdx.json", sbom);
    file_tree::pack_with(&tree, &MOUNT_POINTS, epoch)
}
