//! The documentation says what is so: every link leads somewhere, every command is one, every manifest can be read, and
//! what a command is said to print it prints.

mod codes;
mod commands;
mod links;
mod log_events;
mod manifests;
mod overlap_table;
mod paths;
mod threats;
mod workflows;

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The workspace's root.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

/// A text with its place below the root.
struct Page {
    path: PathBuf,
    text: String,
}

/// Pages at the root that a repository is expected to have.
const ROOT_PAGES: [&str; 5] = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "RELEASE.md", "SECURITY.md"];

/// Returns every page: those at the root, those in `docs/` and its folders, and that of the chart.
fn pages() -> Vec<Page> {
    let mut paths = Vec::new();
    for folder in ["", "docs", "docs/adr", "docs/ai", "deploy/helm/port-enforcer"] {
        for entry in fs::read_dir(root().join(folder)).expect("a folder") {
            let name = entry.expect("an entry").file_name();
            if Path::new(&name).extension().is_some_and(|extension| extension == "md") {
                paths.push(Path::new(folder).join(name));
            }
        }
    }
    paths.sort();
    assert!(paths.len() > 20, "{paths:?}");
    for page in ROOT_PAGES {
        assert!(paths.iter().any(|path| path == Path::new(page)), "{page} is read too");
    }
    let read = |path: PathBuf| Page { text: fs::read_to_string(root().join(&path)).expect("a page"), path };
    paths.into_iter().map(read).collect()
}

/// The fenced blocks of a page: language, first line's number, lines.
fn blocks(text: &str) -> Vec<(&str, usize, Vec<&str>)> {
    let mut blocks = Vec::new();
    let mut open: Option<(&str, usize, Vec<&str>)> = None;
    for (number, line) in text.lines().enumerate() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(language), None) => open = Some((language, number + 2, Vec::new())),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some((_, _, lines))) => lines.push(line),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block has no end");
    blocks
}

#[test]
fn blocks_have_line_numbers() {
    let found = blocks("a\n```sh\none\ntwo\n```\nb\n```text\nthree\n```\n");
    assert_eq!(found, [("sh", 3, vec!["one", "two"]), ("text", 8, vec!["three"])]);
}
