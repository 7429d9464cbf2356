//! Crates and libraries that are linked into a program, with their licences.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, PackageId, Target};

use crate::release::Platform;
use crate::{arch::Arch, process};

/// Crates and libraries that are linked into a program.
pub(crate) struct Dependencies {
    /// Crates by name and version.
    pub(crate) crates: BTreeMap<(String, String), Crate>,
    /// Libraries of the toolchain: the standard library and the C library.
    pub(crate) libraries: Vec<ToolchainLibrary>,
}

/// A linked crate.
pub(crate) struct Crate {
    /// SPDX expression, as its authors wrote it.
    pub(crate) licence: Option<String>,
    /// The crate belongs to this workspace.
    pub(crate) is_local: bool,
    folder: PathBuf,
}

/// A library that comes with the toolchain.
pub(crate) struct ToolchainLibrary {
    pub(crate) name: &'static str,
    pub(crate) version: String,
    pub(crate) licence: &'static str,
    /// Path of its licence's text, which not every machine has.
    licence_file: PathBuf,
}

/// Target of the kernel programs, which the agent embeds.
const BPF_TARGET: &str = "bpfel-unknown-none";

impl Dependencies {
    /// Finds the dependencies of the agent for this architecture.
    pub(crate) fn of_agent(arch: Arch) -> anyhow::Result<Self> {
        let glibc = ToolchainLibrary {
            name: "glibc",
            version: glibc_version(arch)?,
            licence: "LGPL-2.1-or-later",
            licence_file: "/usr/share/doc/libc6/copyright".into(),
        };
        Self::find(&[("enforcer", arch.triple()), ("enforcer-ebpf", BPF_TARGET)], glibc)
    }

    /// Finds the dependencies of the kubectl plugin for this platform.
    pub(crate) fn of_plugin(platform: &Platform) -> anyhow::Result<Self> {
        // The toolchain contains it, and does not say which version it is.
        let (name, licence) = platform.c_library;
        let library = ToolchainLibrary { name, version: "unknown".to_owned(), licence, licence_file: PathBuf::new() };
        Self::find(&[("enforcer-kubectl", platform.triple)], library)
    }

    /// Finds what is linked into these packages, each for a target.
    fn find(roots: &[(&str, &str)], c_library: ToolchainLibrary) -> anyhow::Result<Self> {
        let mut crates = BTreeMap::new();
        for (root, target) in roots {
            let metadata = MetadataCommand::new()
                .manifest_path(process::workspace_root().join("Cargo.toml"))
                .other_options(["--locked", "--filter-platform", target].map(str::to_owned))
                .exec()
                .context("cannot read the dependencies with cargo metadata")?;
            for package in linked_packages(&metadata, root)? {
                let folder =
                    package.manifest_path.parent().context("a package has no folder")?.as_std_path().to_owned();
                let licence = package.license.clone();
                let linked = Crate { licence, is_local: package.source.is_none(), folder };
                crates.insert((package.name.to_string(), package.version.to_string()), linked);
            }
        }
        let rust = process::output(process::cargo().arg("--version"))?;
        let rust = rust.split(' ').nth(1).unwrap_or("unknown").to_owned();
        let sysroot = PathBuf::from(process::output(process::rustc().args(["--print", "sysroot"]))?);
        let rust_std = ToolchainLibrary {
            name: "rust-std",
            version: rust,
            licence: "MIT OR Apache-2.0",
            licence_file: sysroot.join("share/doc/rust/COPYRIGHT-library.html"),
        };
        Ok(Self { crates, libraries: vec![rust_std, c_library] })
    }

    /// Returns the texts of all licences, by path.
    pub(crate) fn licences(&self) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
        let mut texts = BTreeMap::new();
        for ((name, version), Crate { licence, is_local, folder }) in &self.crates {
            // The licences of the workspace's crates are in its root folder.
            let files = licence_files(if *is_local { process::workspace_root() } else { folder })?;
            if files.is_empty() {
                // The expression in its manifest is all that the crate has.
                let expression = licence.as_deref().unwrap_or("no licence is named");
                texts.insert(format!("{name}-{version}/LICENSE"), format!("{expression}\n").into_bytes());
            }
            for path in files {
                let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
                let file = path.file_name().context("a licence file has no name")?.to_string_lossy();
                texts.insert(format!("{name}-{version}/{file}"), text);
            }
        }
        for ToolchainLibrary { name, version, licence, licence_file } in &self.libraries {
            texts.insert(format!("{name}-{version}/LICENSE"), format!("{licence}\n").into_bytes());
            // Not every installation has the text. The expression above is always there.
            if let (Ok(text), Some(file)) = (fs::read(licence_file), licence_file.file_name()) {
                texts.insert(format!("{name}-{version}/{}", file.to_string_lossy()), text);
            }
        }
        Ok(texts)
    }
}

/// Returns the version of the C library that is linked for an architecture, from its headers.
fn glibc_version(arch: Arch) -> anyhow::Result<String> {
    let mut compiler = Command::new(arch.c_compiler());
    compiler.args(["-E", "-dM", "-include", "features.h", "-x", "c", "/dev/null"]);
    let macros = process::output(&mut compiler).context("cannot find out the version of the C library")?;
    let number = |name: &str| {
        macros.lines().find_map(|line| line.strip_prefix("#define ")?.strip_prefix(name)?.strip_prefix(' '))
    };
    match (number("__GLIBC__"), number("__GLIBC_MINOR__")) {
        (Some(major), Some(minor)) => Ok(format!("{major}.{minor}")),
        _ => bail!("`{}` has no headers of the GNU C library", process::display(&compiler)),
    }
}

/// Returns the licence files of a folder, sorted.
fn licence_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read {}", folder.display()))?.path();
        if path.is_file() && path.file_name().is_some_and(|name| is_licence_file(&name.to_string_lossy())) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn is_licence_file(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"].iter().any(|start| name.starts_with(start))
}

/// Returns the packages that are linked into a root package, with itself: all normal dependencies, without those for
/// tests and build scripts.
fn linked_packages<'a>(metadata: &'a Metadata, root: &str) -> anyhow::Result<Vec<&'a Package>> {
    let resolve = metadata.resolve.as_ref().context("cargo metadata contains no dependency graph")?;
    let nodes: BTreeMap<&PackageId, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let packages: BTreeMap<&PackageId, &Package> =
        metadata.packages.iter().map(|package| (&package.id, package)).collect();
    let root = metadata
        .packages
        .iter()
        .find(|package| package.name.as_str() == root)
        .context("the root package is not in the workspace")?;
    let (mut seen, mut pending) = (BTreeSet::from([&root.id]), vec![&root.id]);
    while let Some(id) = pending.pop() {
        let node = nodes.get(id).context("a package is not in the dependency graph")?;
        let normal = node
            .deps
            .iter()
            .filter(|dependency| dependency.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal));
        for dependency in normal {
            let is_macro =
                packages.get(&dependency.pkg).is_some_and(|package| package.targets.iter().any(Target::is_proc_macro));
            // A procedural macro runs in the compiler and is not linked.
            if !is_macro && seen.insert(&dependency.pkg) {
                pending.push(&dependency.pkg);
            }
        }
    }
    seen.into_iter().map(|id| packages.get(id).copied().context("a package has no description")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linked_crates_are_found_without_build_and_test_dependencies() {
        let dependencies = Dependencies::of_agent(Arch::host()).unwrap();
        let glibc = dependencies.libraries.iter().find(|library| library.name == "glibc").unwrap();
        assert!(glibc.version.starts_with("2."), "{}", glibc.version);
        let names: BTreeSet<&str> = dependencies.crates.keys().map(|(name, _)| name.as_str()).collect();
        for linked in ["enforcer", "enforcer-ebpf", "aya", "aya-ebpf", "kube-client", "rustls"] {
            assert!(names.contains(linked), "{linked} is linked");
        }
        for other in ["proptest", "insta", "serde_derive", "syn", "xtask", "aya-build", "cel"] {
            assert!(!names.contains(other), "{other} is not linked");
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
    fn licence_files_are_recognized_by_name() {
        for name in ["LICENSE", "LICENSE-MIT", "license.txt", "COPYING", "UNLICENSE", "NOTICE.md", "COPYRIGHT"] {
            assert!(is_licence_file(name), "{name}");
        }
        assert!(!is_licence_file("README.md") && !is_licence_file("build.rs"));
    }
}
