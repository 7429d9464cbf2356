//! Archive of the agent for nodes without Kubernetes: the program, its units, manual pages, completions and licences.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context as _;

use crate::file_tree::{self, FileTree};
use crate::image::BuiltProgram;
use crate::{process, sbom};

/// What the archive and the Debian package of one architecture contain.
pub(super) struct Contents {
    /// The program.
    pub(super) program: Vec<u8>,
    /// List of what is linked into it.
    pub(super) sbom: Vec<u8>,
    /// Texts of all licences, by path.
    pub(super) licences: BTreeMap<String, Vec<u8>>,
    /// Units by file name, as they are in the sources: the program is in /usr/local.
    pub(super) units: BTreeMap<String, String>,
    /// Manual pages of the agent by file name.
    pub(super) man: BTreeMap<String, Vec<u8>>,
    /// Completions of the agent by file name.
    pub(super) completions: BTreeMap<String, Vec<u8>>,
}

impl Contents {
    /// Reads everything. `manual` is the folder of the manual pages and completions.
    pub(super) fn read(agent: &BuiltProgram, manual: &Path, version: &str, epoch: u64) -> anyhow::Result<Self> {
        let program = fs::read(&agent.binary).with_context(|| format!("cannot read {}", agent.binary.display()))?;
        let sbom = sbom::document("enforcer", &agent.dependencies, version, &sbom::sha256(&program), epoch)?;
        let units = read_folder(&process::workspace_root().join("deploy/systemd"), |_| true)?;
        let units = units.into_iter().map(|(name, text)| Ok((name, String::from_utf8(text)?)));
        let is_agents = |name: &str| !name.contains("kubectl");
        Ok(Self {
            program,
            sbom,
            licences: agent.dependencies.licences()?,
            units: units.collect::<anyhow::Result<_>>()?,
            man: read_folder(&manual.join("man/man1"), is_agents)?,
            completions: read_folder(&manual.join("completions"), is_agents)?,
        })
    }

    /// Packs the archive.
    pub(super) fn archive(&self, version: &str, epoch: u64) -> anyhow::Result<Vec<u8>> {
        let folder = format!("enforcer-{version}");
        let mut tree = FileTree::default();
        tree.add_program(&format!("{folder}/enforcer"), self.program.clone());
        tree.add_file(&format!("{folder}/sbom.spdx.json"), self.sbom.clone());
        add_own_licences(&mut tree, &format!("{folder}/"))?;
        for (kind, files) in [("licenses", &self.licences), ("man", &self.man), ("completions", &self.completions)] {
            for (name, content) in files {
                tree.add_file(&format!("{folder}/{kind}/{name}"), content.clone());
            }
        }
        for (name, text) in &self.units {
            tree.add_file(&format!("{folder}/systemd/{name}"), text.clone().into_bytes());
        }
        file_tree::pack_gzip(&tree, epoch)
    }
}

/// Adds the licences of the project itself, behind this beginning of a path.
pub(super) fn add_own_licences(tree: &mut FileTree, prefix: &str) -> anyhow::Result<()> {
    for name in ["LICENSE-APACHE", "LICENSE-MIT"] {
        let text = fs::read(process::workspace_root().join(name)).with_context(|| format!("cannot read {name}"))?;
        tree.add_file(&format!("{prefix}{name}"), text);
    }
    Ok(())
}

/// Reads the files of a folder that a rule selects by their names.
pub(super) fn read_folder(folder: &Path, selects: impl Fn(&str) -> bool) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let cannot_read = || format!("cannot read {}", folder.display());
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).with_context(cannot_read)? {
        let path = entry.with_context(cannot_read)?.path();
        let name = path.file_name().context("a file has no name")?.to_string_lossy().into_owned();
        if path.is_file() && selects(&name) {
            files.insert(name, fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?);
        }
    }
    Ok(files)
}
