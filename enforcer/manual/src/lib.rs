//! Manual pages and shell completions of `enforcer` and `kubectl host-ports`, made of their command lines: what a flag does
//! is written once. They are no part of either program.
//!
//! The same sources give the same bytes: pages have the date of `SOURCE_DATE_EPOCH`, or none.

pub mod completions;
pub mod page;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

/// A program with manual pages.
pub struct Program {
    /// Name of its file, and of its first page.
    pub file: &'static str,
    /// Its command line.
    pub command: clap::Command,
    /// Variables of the environment that it reads besides those of its flags, and what for.
    pub variables: &'static [(&'static str, &'static str)],
    /// Files that it uses besides those of its flags, and what for.
    pub files: &'static [(&'static str, &'static str)],
}

/// Returns the programs.
#[must_use]
pub fn programs() -> [Program; 2] {
    const NO_COLOR: (&str, &str) = ("NO_COLOR", "Turns colours off, with any value but the empty one.");
    [
        Program {
            file: "enforcer",
            command: enforcer::cli::command(),
            variables: &[NO_COLOR, ("KUBECONFIG", "Kubeconfig, where --kubeconfig names none.")],
            files: &[],
        },
        Program {
            file: "kubectl-host_ports",
            command: enforcer_kubectl::command(),
            variables: &[
                NO_COLOR,
                ("KUBECONFIG", "Kubeconfigs as of kubectl, where --kubeconfig names none."),
                ("KUBERNETES_SERVICE_HOST", "API server, in a pod without a kubeconfig."),
            ],
            files: &[("~/.kube/config", "Kubeconfig, where neither --kubeconfig nor KUBECONFIG names one.")],
        },
    ]
}

/// Writes all pages and completions into a folder, below `man/man1` and `completions`, and returns their paths below it.
/// `date` is that of the pages, as 2026-11-30, or empty.
///
/// # Errors
///
/// If a file cannot be written.
pub fn write(folder: &Path, date: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for program in programs() {
        for page in page::pages(&program, date) {
            files.push((Path::new("man/man1").join(page.file_name()), page.text()?));
        }
        files.extend(completions::files(&program).into_iter().map(|(name, text)| {
            let path = Path::new("completions").join(name);
            (path, text)
        }));
    }
    for (path, text) in &files {
        let path = folder.join(path);
        let parent = path.parent().unwrap_or(folder);
        fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let mut paths: Vec<PathBuf> = files.into_iter().map(|(path, _)| path).collect();
    paths.sort();
    Ok(paths)
}
