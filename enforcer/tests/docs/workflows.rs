//! The workflows of `.github/`: each action is pinned, each job may do only what it must, and no value of an event gets
//! into a script.

use std::fs;

use enforcer_core::yaml::documents::documents;
use serde_json::Value;

use crate::root;

/// Returns every workflow with its name.
fn workflows() -> Vec<(String, Value)> {
    let entries = fs::read_dir(root().join(".github/workflows")).expect("the workflows");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let read = |path: std::path::PathBuf| {
        let text = fs::read_to_string(&path).expect("a workflow");
        let document = documents(&text).next().expect("a document").expect("YAML");
        (path.display().to_string(), document.root.to_json())
    };
    paths.map(read).collect()
}

/// Returns what is wrong with a workflow.
fn defects(workflow: &Value) -> Vec<String> {
    let mut defects = Vec::new();
    if workflow["permissions"] != serde_json::json!({ "contents": "read" }) {
        defects.push("its permissions are not contents: read, to which a job adds its own".to_owned());
    }
    let jobs = workflow["jobs"].as_object().expect("jobs");
    for (name, job) in jobs {
        if !job["timeout-minutes"].is_u64() {
            defects.push(format!("{name} has no time limit"));
        }
        for step in job["steps"].as_array().expect("steps") {
            let pin = step["uses"].as_str().map(|uses| uses.rsplit('@').next().unwrap_or_default());
            let is_commit = |pin: &str| pin.len() == 40 && pin.bytes().all(|byte| byte.is_ascii_hexdigit());
            if pin.is_some_and(|pin| !is_commit(pin)) {
                defects.push(format!("{name}: {} is not pinned to a commit", step["uses"]));
            }
            if step["run"].as_str().is_some_and(|script| script.contains("${{")) {
                defects.push(format!("{name}: a script has an expression: put it into env"));
            }
        }
    }
    defects
}

#[test]
fn workflows_are_pinned_and_may_do_only_what_they_must() {
    let all = workflows();
    assert!(all.len() >= 4, "{}", all.len());
    for (path, workflow) in all {
        assert_eq!(defects(&workflow), Vec::<String>::new(), "{path}");
    }
}

#[test]
fn defects_are_found() {
    let bad = serde_json::json!({
        "permissions": { "contents": "write" },
        "jobs": { "a": { "steps": [{ "uses": "actions/checkout@v7" }, { "run": "echo ${{ github.head_ref }}" }] } },
    });
    assert_eq!(defects(&bad).len(), 4, "{:?}", defects(&bad));
}
