//! No component is forgotten: each has values that do the same, which are compared, and a line in `docs/install.md`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use enforcer_testing::tests;
use serde_json::Value;

use super::{chart, equivalence::compared};
use crate::{
    Test, components,
    strict::{deploy, read},
};

pub(super) const TESTS: &[Test] =
    tests![every_component_is_compared, every_component_has_values, page_names_every_component];

fn every_component_is_compared() {
    let compared: BTreeSet<_> = compared().into_iter().map(|(name, _)| name.to_owned()).collect();
    assert_eq!(
        components::names(),
        compared,
        "the folders of deploy/components, and what equivalence.rs compares with the chart: a component needs a value"
    );
}

fn values() -> Value {
    read(&chart().join("values.yaml")).remove(0)
}

/// The values that stand for a component are there, and are not the defaults.
fn every_component_has_values() {
    for (component, values) in compared() {
        let mut changed = 0;
        differences("", &values, &mut |path, value| {
            let default = self::values().pointer(path).cloned();
            assert!(default.is_some(), "{component}: values.yaml has no {path}");
            changed += usize::from(default.as_ref() != Some(value));
        });
        assert!(changed > 0, "{component}: the defaults do the same");
    }
}

/// Calls a function on each value, with its place.
fn differences(path: &str, value: &Value, found: &mut impl FnMut(&str, &Value)) {
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(key, value)| differences(&format!("{path}/{key}"), value, found));
        }
        _ => found(path, value),
    }
}

/// The words in backticks of each row of a table: those of the first column, and those of the second.
fn rows(page: &str, head: &str) -> Vec<[Vec<String>; 2]> {
    let rows = page.lines().skip_while(|line| *line != head).skip(2).take_while(|line| line.starts_with('|'));
    let words = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    rows.map(|row| {
        let mut cells = row.split('|').skip(1);
        [(); 2].map(|()| words(cells.next().expect("a column")))
    })
    .collect()
}

fn page_names_every_component() {
    let path = deploy().join("../docs/install.md");
    let page = fs::read_to_string(path).expect("a page");
    let described = rows(&page, "| component | what it adds | needs |");
    let described: BTreeSet<_> = described.into_iter().flat_map(|[names, _]| names).collect();
    assert_eq!(components::names(), described, "the components in docs/install.md");
    let of_helm: BTreeMap<_, _> = rows(&page, "| kustomize | value of the chart |")
        .into_iter()
        .flat_map(|[names, values]| names.into_iter().map(move |name| (name, values.clone())))
        .collect();
    for component in components::names() {
        let named = of_helm.get(&component).unwrap_or_else(|| panic!("{component} has no value in docs/install.md"));
        assert!(!named.is_empty(), "{component}");
        for value in named {
            let path = value.split('=').next().expect("a value").replace('.', "/");
            assert!(values().pointer(&format!("/{path}")).is_some(), "{component}: values.yaml has no {value}");
        }
    }
}
