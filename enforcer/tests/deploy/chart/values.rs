//! The values are described, in `values.yaml` and so in the README, and the schema knows them all.

use std::{fmt::Write as _, fs};

use enforcer_testing::tests;
use serde_json::{Value, json};

use super::{chart, is_update};
use crate::{Test, strict::read};

pub(super) const TESTS: &[Test] = tests![schema_knows_all_values, readme_describes_all_values, descriptions_are_found];

/// A value with its description: `image.tag`.
#[derive(Debug, PartialEq, Eq)]
struct Described {
    path: String,
    text: String,
}

/// Reads the descriptions of the form `# -- text`, each of the key below it.
fn descriptions(text: &str) -> Vec<Described> {
    let mut described = Vec::new();
    let mut above: Vec<(usize, String)> = Vec::new();
    let mut words: Option<String> = None;
    for line in text.lines() {
        let trimmed = line.trim_start();
        let indent = line.len() - trimmed.len();
        if let Some(first) = trimmed.strip_prefix("# -- ") {
            words = Some(first.to_owned());
        } else if let Some(more) = trimmed.strip_prefix("# ") {
            if let Some(words) = &mut words {
                words.push(' ');
                words.push_str(more);
            }
        } else if let Some((key, _)) = trimmed.split_once(':').filter(|_| !trimmed.starts_with('-')) {
            above.retain(|(other, _)| *other < indent);
            above.push((indent, key.to_owned()));
            if let Some(text) = words.take() {
                let path: Vec<_> = above.iter().map(|(_, key)| key.as_str()).collect();
                described.push(Described { path: path.join("."), text });
            }
        }
    }
    described
}

fn descriptions_are_found() {
    let text = "# no\na:\n  # -- One,\n  # and more.\n  b: 1\n# -- Two.\nc:\n  - d: 1\n";
    let one = |path: &str, text: &str| Described { path: path.to_owned(), text: text.to_owned() };
    assert_eq!(descriptions(text), [one("a.b", "One, and more."), one("c", "Two.")]);
}

fn text() -> String {
    fs::read_to_string(chart().join("values.yaml")).expect("values")
}

fn values() -> Value {
    read(&chart().join("values.yaml")).remove(0)
}

/// Checks values against the schema, key by key: what the one has the other has, but for maps that users fill.
fn compare(path: &str, schema: &Value, value: &Value) {
    let Some(properties) = schema["properties"].as_object() else { return };
    assert_eq!(schema["additionalProperties"], json!(false), "{path}: a misspelt key is refused");
    let fields = value.as_object().unwrap_or_else(|| panic!("{path} is an object"));
    for (key, schema) in properties {
        if path.is_empty() && key == "global" {
            continue;
        }
        let value = fields.get(key).unwrap_or_else(|| panic!("values.yaml has {path}{key}"));
        compare(&format!("{path}{key}."), schema, value);
    }
    for key in fields.keys() {
        assert!(properties.contains_key(key), "the schema knows {path}{key}");
    }
}

fn schema_knows_all_values() {
    let schema = fs::read_to_string(chart().join("values.schema.json")).expect("a schema");
    compare("", &serde_json::from_str(&schema).expect("JSON"), &values());
}

/// The paths of all values that have no description, and no description above or below them.
fn undescribed(path: &str, value: &Value, described: &[Described], found: &mut Vec<String>) {
    let below = format!("{path}.");
    if described.iter().any(|one| one.path == path) {
        return;
    }
    match value {
        Value::Object(fields) if path.is_empty() || described.iter().any(|one| one.path.starts_with(&below)) => {
            for (key, value) in fields {
                let path = if path.is_empty() { key.clone() } else { format!("{below}{key}") };
                undescribed(&path, value, described, found);
            }
        }
        _ => found.push(path.to_owned()),
    }
}

const START: &str = "<!-- Generated from values.yaml; do not edit. -->\n";
const END: &str = "<!-- End of what is generated. -->\n";

fn table() -> String {
    let (values, described) = (values(), descriptions(&text()));
    let mut missing = Vec::new();
    undescribed("", &values, &described, &mut missing);
    assert!(missing.is_empty(), "values.yaml does not describe {missing:?}: add a comment `# -- text`");
    let mut table = "| value | default | |\n| --- | --- | --- |\n".to_owned();
    for Described { path, text } in described {
        let value =
            values.pointer(&format!("/{}", path.replace('.', "/"))).unwrap_or_else(|| panic!("{path} is there"));
        let default = match value {
            Value::Null => String::new(),
            Value::String(text) if text.is_empty() => String::new(),
            Value::String(text) => format!("`{text}`"),
            other => format!("`{other}`"),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(table, "| `{path}` | {default} | {} |", text.replace('|', "\\|"));
    }
    table
}

fn readme_describes_all_values() {
    let path = chart().join("README.md");
    let readme = fs::read_to_string(&path).expect("a README");
    let (before, rest) = readme.split_once(START).expect("where the values begin");
    let (_, after) = rest.split_once(END).expect("where the values end");
    let expected = format!("{before}{START}\n{}\n{END}{after}", table());
    if is_update() {
        fs::write(&path, expected).expect("writing the README");
        return;
    }
    assert!(
        readme == expected,
        "README.md does not say what values.yaml says; \
         INSTA_UPDATE=always cargo test --package enforcer --test deploy writes it anew"
    );
}
