//! The log events that the pages name against those that the agent writes.

use std::{collections::BTreeSet, fs, path::Path};

use crate::{Page, pages, root};

/// What a page writes in front of the name of a log event, as in `"event":"bind"`.
const KEY: &str = "\"event\":\"";

/// Names of log events in a text. A page may name several in a pattern of grep: `"event":"(bind|claim_conflict)"`.
fn named(text: &str) -> Vec<String> {
    let values = text.split(KEY).skip(1).filter_map(|rest| rest.split_once('"').map(|(value, _)| value));
    values.flat_map(|value| value.trim_matches(['(', ')']).split('|')).map(str::to_owned).collect()
}

/// Collects the names behind `event = "` in the sources below a folder.
fn written(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            written(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source file");
            let names = text.split("event = \"").skip(1).filter_map(|rest| rest.split('"').next());
            found.extend(names.map(str::to_owned));
        }
    }
}

#[test]
fn named_log_events_exist() {
    let mut known = BTreeSet::new();
    written(&root().join("enforcer/src"), &mut known);
    assert!(known.len() > 30, "{known:?}");
    let mut count = 0;
    for Page { path, text } in pages() {
        for event in named(&text) {
            count += 1;
            assert!(known.contains(&event), "{}: the agent writes no log event '{event}'", path.display());
        }
    }
    assert!(count > 0, "no page names a log event");
}

#[test]
fn patterns_name_several_log_events() {
    assert_eq!(named(r#"grep -E '"event":"(bind|bound)"' and {"event":"ready","#), ["bind", "bound", "ready"]);
}
