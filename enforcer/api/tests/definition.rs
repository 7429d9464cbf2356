//! The definition in `deploy/` is the one that follows from the types, and a structural schema with bounds. After a change
//! that was meant, `INSTA_UPDATE=always cargo test --package enforcer-api` writes the file anew.

use std::{env, fs, path::PathBuf};

use enforcer_api::node_host_ports_definition;
use serde_json::{Value, json};

const HEAD: &str = "\
# The ledger of each node: which pod uses which of its host ports. Generated from the types in enforcer/core/src/ledger/
# and enforcer/api/; do not edit.
";

/// The definition as manifests have it: without what only the API server writes, and with the labels of the project.
fn definition() -> Value {
    let mut definition = serde_json::to_value(node_host_ports_definition()).expect("a definition is JSON");
    let name = "port-enforcer";
    definition["metadata"]["labels"] = json!({
        "app.kubernetes.io/name": name,
        "app.kubernetes.io/part-of": name,
    });
    definition
}

fn path() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/base/nodehostports.yaml"))
}

#[test]
fn deployed_definition_follows_from_the_types() {
    let text = format!("{HEAD}{}", serde_saphyr::to_string(&definition()).expect("a definition is YAML"));
    if env::var_os("INSTA_UPDATE").is_some_and(|update| update == "always") {
        fs::write(path(), &text).expect("writing the definition");
    }
    let deployed = fs::read_to_string(path()).expect("reading deploy/base/nodehostports.yaml");
    assert_eq!(deployed, text, "INSTA_UPDATE=always cargo test --package enforcer-api writes it anew");
}

#[test]
fn schema_is_structural_and_bounded() {
    let definition = definition();
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let mut seen = 0;
    check(schema, "", &mut seen);
    assert!(seen > 50, "{seen} fields");
    let version = &definition["spec"]["versions"][0];
    assert_eq!(version["subresources"], json!({"status": {}}), "the status is written apart");
    let columns: Vec<_> = version["additionalPrinterColumns"].as_array().into_iter().flatten().collect();
    let names: Vec<_> = columns.iter().filter_map(|column| column["name"].as_str()).collect();
    assert_eq!(names, ["Mode", "Claims", "Held", "Undeclared", "Conflicts", "Updated"]);
    assert_eq!(
        (&definition["spec"]["scope"], &definition["spec"]["names"]["shortNames"]),
        (&json!("Cluster"), &json!(["nhp"]))
    );
}

/// Every field has a type, every text and list a greatest length, every number a range, and every field a description.
fn check(schema: &Value, path: &str, seen: &mut usize) {
    *seen += 1;
    for word in ["$ref", "allOf", "anyOf", "oneOf", "not"] {
        assert!(schema[word].is_null(), "{path}: {word} is not structural here");
    }
    let bounded = match schema["type"].as_str() {
        Some("array") => !schema["maxItems"].is_null(),
        Some("string") => !schema["maxLength"].is_null() || !schema["enum"].is_null(),
        Some("integer") => !schema["minimum"].is_null() && !schema["maximum"].is_null(),
        Some("object" | "boolean") => true,
        other => panic!("{path}: type {other:?}"),
    };
    assert!(bounded, "{path} has no bound: {schema}");
    if let Some(items) = schema.get("items") {
        check(items, &format!("{path}[]"), seen);
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        assert!(property["description"].is_string(), "{path} has no description");
        check(property, &path, seen);
    }
}
