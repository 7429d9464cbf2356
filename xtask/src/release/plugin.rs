//! Archives of the kubectl plugin, one for each platform.

use std::fs;
use std::path::Path;

use anyhow::Context as _;

use super::agent::{add_own_licences, read_folder};
use super::platform::Platform;
use crate::dependencies::Dependencies;
use crate::file_tree::{self, FileTree};
use crate::{dist_binary, sbom};

/// Returns the name of a platform's archive.
pub(super) fn file_name(version: &str, platform: &Platform) -> String {
    format!("kubectl-host_ports-{version}-{}.tar.gz", platform.name)
}

/// Builds the plugin for a platform and packs its archive. Everything is at the top, where krew looks.
pub(super) fn archive(platform: &Platform, manual: &Path, version: &str, epoch: u64) -> anyhow::Result<Vec<u8>> {
    let path = dist_binary::plugin_executable(platform)?;
    let program = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let dependencies = Dependencies::of_plugin(platform)?;
    let sbom = sbom::document("enforcer-kubectl", &dependencies, version, &sbom::sha256(&program), epoch)?;
    let mut tree = FileTree::default();
    tree.add_program(platform.program, program);
    tree.add_file("sbom.spdx.json", sbom);
    add_own_licences(&mut tree, "")?;
    for (name, content) in dependencies.licences()? {
        tree.add_file(&format!("licenses/{name}"), content);
    }
    for (kind, folder) in [("man", "man/man1"), ("completions", "completions")] {
        for (name, content) in read_folder(&manual.join(folder), |name| name.contains("kubectl"))? {
            tree.add_file(&format!("{kind}/{name}"), content);
        }
    }
    file_tree::pack_gzip(&tree, epoch)
}
