//! `cargo xtask release --check`: two builds from scratch, one after the other in the same folder, are equal bit for bit.
//!
//! The same folder, because the line information of the kernel programs has the paths of their sources.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, bail};

use super::agent::read_folder;
use super::recreate;
use crate::{process, sbom};

/// Names of the folders with the files of the two builds.
const BUILDS: [&str; 2] = ["first", "second"];

/// Builds the last commit twice and compares.
pub(super) fn run() -> anyhow::Result<()> {
    let status = process::output(process::git().args(["status", "--porcelain"]))?;
    if !status.is_empty() {
        eprintln!("release: warning: the check builds the last commit, without the changes that are not committed");
    }
    let folder = process::workspace_root().join("target/release-check");
    recreate(&folder)?;
    let mut builds = Vec::new();
    let clone = folder.join("clone");
    for name in BUILDS {
        let source = process::workspace_root();
        process::run_on_stderr(process::git().args(["clone", "--quiet"]).args([source, &clone]))?;
        eprintln!("release: building everything in {}", clone.display());
        let mut cargo = process::cargo();
        cargo.args(["run", "--quiet", "--locked", "--package", "xtask", "--", "release"]).current_dir(&clone);
        cargo.env_remove("CARGO_TARGET_DIR");
        process::run_on_stderr(&mut cargo)?;
        let files = folder.join(name);
        fs::rename(clone.join("target/publish"), &files).context("cannot move the files of a build")?;
        builds.push(read_folder(&files, |_| true)?);
        fs::remove_dir_all(&clone).with_context(|| format!("cannot remove {}", clone.display()))?;
    }
    let differing = differences(&builds[0], &builds[1]);
    if !differing.is_empty() {
        bail!(
            "two builds of the same commit differ in {}; compare the folders first and second in {}",
            differing.join(", "),
            folder.display()
        );
    }
    for (name, content) in &builds[0] {
        println!("{}  {name}", sbom::sha256(content));
    }
    eprintln!("release: two builds from scratch are equal: {} files", builds[0].len());
    Ok(())
}

/// Returns the names of files that only one build has, or that differ.
fn differences(one: &BTreeMap<String, Vec<u8>>, other: &BTreeMap<String, Vec<u8>>) -> Vec<String> {
    let mut names: Vec<&String> = one.keys().chain(other.keys()).collect();
    names.sort();
    names.dedup();
    names.into_iter().filter(|name| one.get(*name) != other.get(*name)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_or_a_missing_file_is_a_difference() {
        let build = |files: &[(&str, &[u8])]| -> BTreeMap<String, Vec<u8>> {
            files.iter().map(|(name, content)| ((*name).to_owned(), content.to_vec())).collect()
        };
        let one = build(&[("a", b"1"), ("b", b"2")]);
        assert!(differences(&one, &one).is_empty());
        assert_eq!(differences(&one, &build(&[("a", b"1"), ("b", b"3")])), ["b"]);
        assert_eq!(differences(&one, &build(&[("a", b"1"), ("c", b"2")])), ["b", "c"]);
    }
}
