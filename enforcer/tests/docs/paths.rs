//! Paths in the documentation of the code, against the tree.

use std::fs;

use crate::root;

/// Pages that lead to files of the repository.
const PAGES: [&str; 7] = [
    "README.md",
    "docs/architecture.md",
    "docs/fuzzing.md",
    "docs/adr/0001-ports-as-words-in-memory-mapped-arrays.md",
    "docs/adr/0002-cgroup-identity-at-creation.md",
    "docs/adr/0003-hide-constants-from-the-verifier.md",
    "docs/adr/0006-kernel-functions-without-the-loader.md",
];

/// Folders at the top whose paths are checked.
const FOLDERS: [&str; 5] = ["deploy/", "docs/", "enforcer-ebpf/", "enforcer/", "xtask/"];

/// Returns the paths in backticks. A name in capitals stands for any name, so such a path is none.
fn paths(text: &str) -> Vec<&str> {
    let quoted = text.split('`').skip(1).step_by(2);
    let is_path = |word: &&str| {
        FOLDERS.iter().any(|folder| word.starts_with(folder))
            && !word.contains(char::is_whitespace)
            && !word
                .split('/')
                .any(|part| part.chars().all(|character| character.is_ascii_uppercase()) && !part.is_empty())
    };
    quoted.filter(is_path).collect()
}

#[test]
fn every_path_is_in_the_tree() {
    let mut count = 0;
    let mut missing = Vec::new();
    for page in PAGES {
        let text = fs::read_to_string(root().join(page)).expect("a page");
        for path in paths(&text) {
            count += 1;
            if !root().join(path).exists() {
                missing.push(format!("{page}: {path}"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(count > 100, "{count} paths were found");
}

#[test]
fn paths_are_found_in_backticks() {
    let text = "In `enforcer/src/main.rs` and `xtask/`, not in enforcer/src, `cargo xtask` or `deploy/components/NAME/a.yaml`.";
    assert_eq!(paths(text), ["enforcer/src/main.rs", "xtask/"]);
}
