//! What others use of this repository in their pull requests: the action for GitHub workflows and the hooks for pre-commit.
//! The steps of the action are run in `enforcer/kubectl/tests/plugin/action.rs`.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use serde_json::Value;
use tempfile::TempDir;

pub(crate) const TESTS: &[crate::Test] = &[
    ("action_has_its_form", action_has_its_form),
    ("page_describes_each_input_and_hook", page_describes_each_input_and_hook),
    ("hooks_have_their_form", hooks_have_their_form),
    ("hook_finds_a_conflict_of_two_files", hook_finds_a_conflict_of_two_files),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn yaml(name: &str) -> Value {
    let documents: Vec<_> = enforcer_core::yaml::documents::documents(&read(name)).collect();
    let [Ok(document)] = documents.as_slice() else { panic!("{name}: {documents:?}") };
    document.root.to_json()
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

fn action_has_its_form() {
    let action = yaml("action.yml");
    assert_eq!(keys(&action), ["description", "inputs", "name", "outputs", "runs"].into());
    assert_eq!(action["runs"]["using"], "composite");
    assert_eq!(action["inputs"]["version"]["default"], env!("CARGO_PKG_VERSION"), "the release that is installed");
    for (name, input) in action["inputs"].as_object().expect("inputs") {
        assert!(input["description"].is_string() && input["default"].is_string(), "{name}");
    }
    for step in action["runs"]["steps"].as_array().expect("steps") {
        assert_eq!(
            keys(step),
            ["env", "id", "name", "run", "shell"].into(),
            "actions of others would be pinned: {step}"
        );
        assert_eq!(step["shell"], "bash");
        // An expression in a script is text of an input that becomes code.
        assert!(!step["run"].as_str().expect("a script").contains("${{"), "{step}");
    }
}

/// Words in backticks in the first column of the table below a line.
fn first_column(page: &str, head: &str) -> BTreeSet<String> {
    let rows = page.lines().skip_while(|line| !line.starts_with(head)).skip(2);
    let cells = rows.take_while(|line| line.starts_with('|')).filter_map(|line| line.split('`').nth(1));
    cells.map(str::to_owned).collect()
}

fn page_describes_each_input_and_hook() {
    let page = read("docs/check-in-ci.md");
    let action = yaml("action.yml");
    let inputs: BTreeSet<String> = keys(&action["inputs"]).into_iter().map(str::to_owned).collect();
    assert_eq!(first_column(&page, "| input |"), inputs);
    let hooks = yaml(".pre-commit-hooks.yaml");
    let hooks = hooks.as_array().expect("hooks").iter().map(|hook| hook["id"].as_str().expect("an id").to_owned());
    assert_eq!(first_column(&page, "| hook |"), hooks.collect());
}

fn hooks_have_their_form() {
    for hook in yaml(".pre-commit-hooks.yaml").as_array().expect("hooks") {
        let known =
            ["args", "description", "entry", "files", "id", "language", "name", "pass_filenames", "require_serial"]
                .into();
        assert_eq!(keys(hook), known, "{hook}");
        // A conflict is one of two files, of which a commit may change one.
        assert_eq!((&hook["pass_filenames"], &hook["language"]), (&false.into(), &"system".into()), "{hook}");
        let entry = hook["entry"].as_str().expect("a command");
        assert!(
            ["enforcer check ", "kubectl-host_ports check --offline "].iter().any(|begin| entry.starts_with(begin))
        );
    }
}

/// The hook as pre-commit runs it: its entry, and its arguments, at the top of a repository.
fn hook_finds_a_conflict_of_two_files() {
    let hooks = yaml(".pre-commit-hooks.yaml");
    let of_agent = |hook: &&Value| hook["id"] == "enforcer-check";
    let hook = hooks.as_array().expect("hooks").iter().find(of_agent).expect("the hook");
    let words: Vec<&str> = hook["entry"].as_str().expect("a command").split(' ').skip(1).collect();
    let arguments: Vec<&str> = hook["args"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    let folder = TempDir::new().expect("a folder");
    let code = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_enforcer"));
        command.args(&words).args(&arguments).current_dir(folder.path()).env_remove("ENFORCER_NODE_RESERVED");
        command.output().expect("the binary").status.code()
    };
    for (name, expected) in [("one", 0), ("two", 1)] {
        let path = folder.path().join("deploy").join(name);
        fs::create_dir_all(&path).expect("a folder");
        let manifest = format!(
            "{{apiVersion: apps/v1, kind: DaemonSet, metadata: {{name: {name}}}, spec: {{template: {{spec: {{hostNetwork: true, \
             containers: [{{name: c, ports: [{{containerPort: 9200}}]}}]}}}}}}}}"
        );
        fs::write(path.join("a.yaml"), manifest).expect("a manifest");
        assert_eq!(code(), Some(expected), "{name}");
    }
}
