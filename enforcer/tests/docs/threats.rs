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

/// Names in the lists of a subject's tests, `tests![…]` and `backend_tests![…]`.
fn listed(source: &str) -> BTreeSet<String> {
    let lists = source.split("tests![").skip(1).filter_map(|rest| rest.split_once(']').map(|(list, _)| list));
    let items = lists.flat_map(|list| list.rsplit_once("=>").map_or(list, |(_, items)| items).split(','));
    let names = items.map(|item| item.split(':').next().unwrap_or_default().trim());
    names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[test]
fn every_named_test_exists() {
    let named = named();
    assert!(named.len() > 50, "{}", named.len());
    for (place, name) in &named {
        assert!(listed(&source(place)).contains(name), "docs/threat-model.md names {place}::{name}, which is no test");
    }
}

#[test]
fn every_threat_test_is_named() {
    let named = named();
    for place in ["kernel/bypass", "agent/abuse", "agent/unwritable_outputs"] {
        let tests = listed(&source(place));
        assert!(tests.len() >= 3, "{place}: {tests:?}");
        for name in tests {
            assert!(
                named.contains(&(place.to_owned(), name.clone())),
                "docs/threat-model.md does not name {place}::{name}"
            );
        }
    }
}
