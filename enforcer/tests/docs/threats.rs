//! `docs/threat-model.md` against the tests that it names, both ways.

use std::{collections::BTreeSet, fs};

use super::root;

/// What stands in backticks and names a test: `SUITE/SUBJECT::NAME`.
fn named() -> BTreeSet<(String, String)> {
    let text = fs::read_to_string(root().join("docs/threat-model.md")).expect("the threat model");
    let quoted = text.split('`').skip(1).step_by(2);
    let tests = quoted.filter(|word| word.starts_with("kernel/") || word.starts_with("agent/"));
    tests
        .map(|word| {
            let (place, name) = word.split_once("::").unwrap_or_else(|| panic!("{word} names no test"));
            (place.to_owned(), name.to_owned())
        })
        .collect()
}

/// The text of a subject's tests.
fn source(place: &str) -> String {
    let path = root().join("enforcer/tests").join(place).with_extension("rs");
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Whether a subject lists a test of this name.
fn lists(source: &str, name: &str) -> bool {
    source.contains(&format!("\"{name}\","))
}

#[test]
fn every_test_that_is_named_is_there() {
    let named = named();
    assert!(named.len() > 50, "{}", named.len());
    for (place, name) in &named {
        assert!(lists(&source(place), name), "docs/threat-model.md names {place}::{name}, which is no test");
    }
}

#[test]
fn every_test_of_the_suites_is_named() {
    let named = named();
    for place in ["kernel/bypass", "agent/abuse", "agent/trouble"] {
        let source = source(place);
        let tests: Vec<&str> = source
            .lines()
            .skip_while(|line| !line.contains("const TESTS"))
            .take_while(|line| *line != "];")
            .filter_map(|line| line.trim().strip_prefix("(\"")?.split_once('"').map(|(name, _)| name))
            .collect();
        assert!(tests.len() >= 3, "{place}: {tests:?}");
        for name in tests {
            assert!(
                named.contains(&(place.to_owned(), name.to_owned())),
                "docs/threat-model.md does not name {place}::{name}"
            );
        }
    }
}
