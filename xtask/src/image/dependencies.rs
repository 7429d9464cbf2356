//! What is linked into the agent, and under which licences: crates, by cargo's own account, and what comes with the tools.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, PackageId, Target};

use crate::process;

/// Everything that is linked into the agent.
pub(super) struct Dependencies {
    /// By name and version.
    pub(super) crates: BTreeMap<(String, String), Crate>,
    /// What no crate is: the standard library and the C library.
    pub(super) tools: Vec<Tool>,
}

/// A crate.
pub(super) struct Crate {
    /// As its authors wrote it, an SPDX expression.
    pub(super) licence: Option<String>,
    /// Whether it is of this workspace.
    pub(super) own: bool,
    folder: PathBuf,
}

/// Something that comes with the tools.
pub(super) struct Tool {
    pub(super) name: &'static str,
    pub(super) version: String,
    pub(super) licence: &'static str,
    /// Where its licences' texts are on this machine, if they are here.
    texts: PathBuf,
}

/// The target of the kernel programs, which are in the agent as an object.
const KERNEL: &str = "bpfel-unknown-none";

impl Dependencies {
    /// Of the agent that is built for this target.
    pub(super) fn of_the_agent(target: &str) -> anyhow::Result<Self> {
        let mut crates = BTreeMap::new();
        for (root, target) in [("enforcer", target), ("enforcer-ebpf", KERNEL)] {
            let metadata = MetadataCommand::new()
                .manifest_path(process::root().join("Cargo.toml"))
                .other_options(["--locked", "--filter-platform", target].map(str::to_owned))
                .exec()
                .context("cargo says nothing of the dependencies")?;
            for package in linked(&metadata, root)? {
                let folder = package.manifest_path.parent().context("a package in no folder")?.as_std_path().to_owned();
                let licence = package.license.clone();
                let made = Crate { licence, own: package.source.is_none(), folder };
                crates.insert((package.name.to_string(), package.version.to_string()), made);
            }
        }
        let rust = process::output(process::cargo().arg("--version"))?;
        let rust = rust.split(' ').nth(1).unwrap_or("unknown").to_owned();
        let sysroot = PathBuf::from(process::output(process::rustc().args(["--print", "sysroot"]))?);
        let libc = process::output(Command::new("getconf").arg("GNU_LIBC_VERSION"))?;
        let tools = vec![
            Tool {
                name: "rust-std",
                version: rust,
                licence: "MIT OR Apache-2.0",
                texts: sysroot.join("share/doc/rust/COPYRIGHT-library.html"),
            },
            Tool {
                name: "glibc",
                version: libc.trim_start_matches("glibc ").to_owned(),
                licence: "LGPL-2.1-or-later",
                texts: "/usr/share/doc/libc6/copyright".into(),
            },
        ];
        Ok(Self { crates, tools })
    }

    /// The texts of all licences, by path.
    pub(super) fn licences(&self) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
        let mut texts = BTreeMap::new();
        let own = process::root();
        for ((name, version), Crate { licence, own: is_own, folder }) in &self.crates {
            // What the workspace's crates are under lies at its top.
            let found = files(if *is_own { own } else { folder })?;
            if found.is_empty() {
                // What its authors say of it is all that there is.
                let said = licence.as_deref().unwrap_or("no licence is named");
                texts.insert(format!("{name}-{version}/LICENSE"), format!("{said}\n").into_bytes());
            }
            for path in found {
                let text = fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))?;
                let file = path.file_name().context("a file without a name")?.to_string_lossy();
                texts.insert(format!("{name}-{version}/{file}"), text);
            }
        }
        for Tool { name, version, licence, texts: path } in &self.tools {
            texts.insert(format!("{name}-{version}/LICENSE"), format!("{licence}\n").into_bytes());
            // Not every installation has the texts; the expression above is there always.
            if let (Ok(text), Some(file)) = (fs::read(path), path.file_name()) {
                texts.insert(format!("{name}-{version}/{}", file.to_string_lossy()), text);
            }
        }
        Ok(texts)
    }
}

/// The files that are licences, in order.
fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("{} cannot be read", folder.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("{} cannot be read", folder.display()))?.path();
        if path.is_file() && path.file_name().is_some_and(|name| is_licence(&name.to_string_lossy())) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn is_licence(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"].iter().any(|start| name.starts_with(start))
}

/// The packages that a root is linked with, itself among them: what it depends on but for tests and builds.
fn linked<'a>(metadata: &'a Metadata, root: &str) -> anyhow::Result<Vec<&'a Package>> {
    let resolve = metadata.resolve.as_ref().context("cargo resolved nothing")?;
    let nodes: BTreeMap<&PackageId, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let packages: BTreeMap<&PackageId, &Package> =
        metadata.packages.iter().map(|package| (&package.id, package)).collect();
    let root =
        metadata.packages.iter().find(|package| package.name.as_str() == root).context("the root is no package")?;
    let (mut seen, mut to_do) = (BTreeSet::from([&root.id]), vec![&root.id]);
    while let Some(id) = to_do.pop() {
        let node = nodes.get(id).context("a package that is not resolved")?;
        let normal = node
            .deps
            .iter()
            .filter(|dependency| dependency.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal));
        for dependency in normal {
            let is_macro =
                packages.get(&dependency.pkg).is_some_and(|package| package.targets.iter().any(Target::is_proc_macro));
            // A procedural macro runs in the compiler and is linked into nothing.
            if !is_macro && seen.insert(&dependency.pkg) {
                to_do.push(&dependency.pkg);
            }
        }
    }
    seen.into_iter().map(|id| packages.get(id).copied().context("a package without its description")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_linked_is_found_and_tools_and_tests_are_not() {
        let target = "x86_64-unknown-linux-gnu";
        let dependencies = Dependencies::of_the_agent(target).unwrap();
        let names: BTreeSet<&str> = dependencies.crates.keys().map(|(name, _)| name.as_str()).collect();
        for linked in ["enforcer", "enforcer-ebpf", "aya", "aya-ebpf", "kube-client", "rustls"] {
            assert!(names.contains(linked), "{linked} is linked");
        }
        for other in ["proptest", "insta", "serde_derive", "syn", "xtask", "aya-build", "cel"] {
            assert!(!names.contains(other), "{other} is not");
        }
        let licences = dependencies.licences().unwrap();
        for (name, version) in dependencies.crates.keys() {
            let start = format!("{name}-{version}/");
            assert!(licences.keys().any(|path| path.starts_with(&start)), "{name} has a text");
        }
        let own = format!("enforcer-{}/LICENSE-MIT", env!("CARGO_PKG_VERSION"));
        assert!(licences.contains_key(&own));
    }

    #[test]
    fn licences_are_known_by_their_names() {
        for name in ["LICENSE", "LICENSE-MIT", "license.txt", "COPYING", "UNLICENSE", "NOTICE.md", "COPYRIGHT"] {
            assert!(is_licence(name), "{name}");
        }
        assert!(!is_licence("README.md") && !is_licence("build.rs"));
    }
}
