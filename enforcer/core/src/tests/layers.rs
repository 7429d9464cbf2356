//! The folders of enforcer-core and of the agent form layers: no circle of imports is between any of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// Returns, for each folder directly in `sources`, the others that its product code imports. A folder and the file of
/// its name count as one. Test code does not count: it may drive later layers.
fn imports(sources: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut imports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut paths = vec![sources.to_owned()];
    while let Some(path) = paths.pop() {
        let relative = path.strip_prefix(sources).expect("it is below").with_extension("");
        if path.is_dir() {
            paths.extend(fs::read_dir(&path).expect("it is a folder").map(|entry| entry.expect("it is read").path()));
        } else if !relative.iter().any(|name| ["lib", "main", "tests"].iter().any(|other| *other == name)) {
            let folder = relative.iter().next().and_then(|name| name.to_str()).expect("names are text").to_owned();
            let source = fs::read_to_string(&path).expect("it is read");
            let product = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            imports.entry(folder).or_default().extend(imported(product));
        }
    }
    let folders: BTreeSet<String> = imports.keys().cloned().collect();
    for (folder, others) in &mut imports {
        others.retain(|other| other != folder && folders.contains(other));
    }
    imports
}

/// Returns the names right behind `crate::` in code, or in the braces behind it.
fn imported(source: &str) -> BTreeSet<String> {
    let code: String = source.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let first = |path: &str| path.trim().chars().take_while(|char| char.is_alphanumeric() || *char == '_').collect();
    let mut names: BTreeSet<String> = BTreeSet::new();
    for path in code.split("crate::").skip(1) {
        let Some(list) = path.strip_prefix('{') else {
            names.insert(first(path));
            continue;
        };
        let mut open = 1;
        for part in list.split_inclusive(',') {
            if open == 1 {
                names.insert(first(part));
            }
            open += part.matches('{').count();
            open = open.saturating_sub(part.matches('}').count());
            if open == 0 {
                break;
            }
        }
    }
    names
}

/// Returns the folders that are on a circle of imports or behind one.
fn circle(mut left: BTreeMap<String, BTreeSet<String>>) -> BTreeMap<String, BTreeSet<String>> {
    while let Some(lowest) = left.iter().find(|(_, imports)| imports.is_empty()).map(|(name, _)| name.clone()) {
        left.remove(&lowest);
        for imports in left.values_mut() {
            imports.remove(&lowest);
        }
    }
    left
}

#[test]
fn folders_of_core_have_no_circle_of_imports() {
    let imports = imports(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(
        imports["index"].contains("plan") && imports["plan"].contains("model"),
        "no imports are found: {imports:?}"
    );
    assert!(imports["model"].is_empty(), "{imports:?}");
    assert_eq!(circle(imports), BTreeMap::new());
}

#[test]
fn folders_of_the_agent_have_no_circle_of_imports() {
    let imports = imports(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../src"));
    assert!(imports["agent"].contains("k8s") && imports["cli"].contains("agent"), "no imports are found: {imports:?}");
    assert_eq!(circle(imports), BTreeMap::new());
}
