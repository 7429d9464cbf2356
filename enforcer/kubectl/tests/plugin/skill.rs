//! docs/ai/SKILL.md: its recipes run on what the programs really print, its keys are there, and its exit codes are those of the
//! help.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use libtest_mimic::{Completion, Trial};
use serde_json::Value;

use crate::cluster::{Cluster, end, program};

pub(crate) fn trials() -> Vec<Trial> {
    let has_jq = Command::new("jq").arg("--version").stdout(Stdio::null()).status().is_ok();
    let recipes = Trial::ignorable_test("skill::recipes_have_the_answers_that_they_promise", move || {
        if !has_jq {
            return Ok(Completion::ignored_with("jq is not installed"));
        }
        recipes_have_the_answers_that_they_promise();
        Ok(Completion::Completed)
    });
    let plain: [(&str, fn()); 5] = [
        ("docs::commands_of_all_pages_parse", commands_of_all_pages_parse),
        ("skill::page_is_short_and_has_a_head", page_is_short_and_has_a_head),
        ("skill::keys_are_those_of_real_answers", keys_are_those_of_real_answers),
        ("skill::commands_of_the_plugin_parse", commands_of_the_plugin_parse),
        ("skill::exit_codes_are_those_of_the_help", exit_codes_are_those_of_the_help),
    ];
    let mut trials: Vec<Trial> = plain
        .into_iter()
        .map(|(name, run)| {
            Trial::test(name, move || {
                run();
                Ok(())
            })
        })
        .collect();
    trials.push(recipes);
    trials
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn page() -> String {
    fs::read_to_string(root().join("docs/ai/SKILL.md")).expect("the page")
}

/// The rows of the table below a heading, as cells.
fn table(page: &str, heading: &str) -> Vec<Vec<String>> {
    let (_, after) = page.split_once(&format!("\n## {heading}\n")).expect("a heading");
    let rows = after.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|')).skip(2);
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// What `enforcer` prints, as the tests of its views have it word for word.
fn printed_by_agent(name: &str) -> Value {
    let folder = root().join("enforcer/core/src/views/explain/snapshots");
    let text = fs::read_to_string(folder.join(format!("enforcer_core__views__explain__tests__{name}.snap")));
    let text = text.expect("a snapshot");
    let (_, json) = text.split_once("\n---\n").expect("a head");
    serde_json::from_str(json).expect("JSON")
}

/// What a command of the page prints.
fn printed(cluster: &Cluster, command: &str) -> String {
    if command.starts_with("enforcer status") {
        return printed_by_agent("status").to_string();
    }
    if command.starts_with("enforcer explain") {
        return printed_by_agent("explanation").to_string();
    }
    let words = command.strip_prefix("kubectl host-ports").expect("a command of ours").split_whitespace();
    cluster.run(&words.collect::<Vec<_>>()).stdout
}

fn page_is_short_and_has_a_head() {
    let page = page();
    assert!(page.lines().count() <= 100, "{} lines", page.lines().count());
    let (head, _) = page.strip_prefix("---\n").and_then(|page| page.split_once("\n---\n")).expect("a head");
    let head: BTreeMap<String, String> = serde_saphyr::from_str(head).expect("YAML");
    assert_eq!(head.keys().collect::<Vec<_>>(), ["description", "name"]);
    assert!(head["description"].len() <= 1024, "agents read no more of it");
}

fn recipes_have_the_answers_that_they_promise() {
    let cluster = Cluster::of_the_story().with_ledgers();
    let page = page();
    let recipes: Vec<&str> = page.lines().filter(|line| line.contains(" | jq ")).collect();
    let expected = [
        "node-1\tpod\tmonitoring\tnode-exporter-3\ttrue",
        "node-2\tnotOwner\t0.0.0.0:9100/tcp\ttools/debug holds 0.0.0.0:9100/tcp, which monitoring/node-exporter-4 owns",
        "node-3",
        "pendingForPorts",
        "8000",
        "0.0.0.0\tdeny\tclaimed",
        "pod\tweb-0\tnginx\t4711",
        "claimLost\t80/tcp",
    ];
    assert_eq!(recipes.len(), expected.len(), "each recipe has a line of its answer here");
    for (recipe, expected) in recipes.into_iter().zip(expected) {
        let (command, filter) = recipe.split_once(" | jq -r ").expect("a filter");
        let filter = filter.trim_matches('\'');
        let mut jq = Command::new("jq")
            .args(["-r", filter])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("jq");
        jq.stdin.take().expect("a pipe").write_all(printed(&cluster, command).as_bytes()).expect("jq reads");
        let answer = jq.wait_with_output().expect("jq ends");
        let (stdout, stderr) = (String::from_utf8_lossy(&answer.stdout), String::from_utf8_lossy(&answer.stderr));
        assert!(answer.status.success() && stderr.is_empty(), "{recipe}: {stderr}");
        assert!(stdout.lines().any(|line| line.starts_with(expected)), "{recipe}: {stdout}");
    }
}

/// Goes down a path such as `.ports[].who`.
fn values<'a>(object: &'a Value, path: &str) -> Vec<&'a Value> {
    let mut found = vec![object];
    for step in path.trim_start_matches('.').split('.') {
        let name = step.trim_end_matches("[]");
        found = found.into_iter().filter_map(|value| value.get(name)).collect();
        if step.ends_with("[]") {
            found = found.into_iter().flat_map(|value| value.as_array().into_iter().flatten()).collect();
        }
    }
    found
}

fn keys_are_those_of_real_answers() {
    let cluster = Cluster::of_the_story().with_ledgers();
    let parse = |arguments: &[&str]| serde_json::from_str(&cluster.run(arguments).stdout).expect("JSON");
    let answers: [Value; 4] = [
        parse(&["-o", "json"]),
        parse(&["why", "-n", "kepler", "kepler-x2vbn", "-o", "json"]),
        printed_by_agent("explanation"),
        printed_by_agent("status"),
    ];
    let rows = table(&page(), "Keys that matter");
    assert!(rows.len() >= 8, "{rows:?}");
    for row in rows {
        let (key, kind) = (row[0].trim_matches('`'), row[1].trim_matches('`'));
        let answer = answers.iter().find(|answer| answer["kind"] == kind);
        let answer = answer.unwrap_or_else(|| panic!("no answer is a {kind}"));
        let found = values(answer, key);
        assert!(!found.is_empty(), "{kind} has no {key}");
        // Of a list of values, what occurs is in it.
        for value in found.into_iter().filter_map(Value::as_str) {
            assert!(row[2].contains(&format!("`{value}`")), "{key}: {value} is not in: {}", row[2]);
        }
    }
}

fn commands_of_the_plugin_parse() {
    let page = page();
    let in_tables = table(&page, "Which command").into_iter().map(|row| row[1].trim_matches('`').to_owned());
    let in_recipes = page.lines().filter_map(|line| line.split_once(" | jq ")).map(|(command, _)| command.to_owned());
    let count = in_tables.chain(in_recipes).filter(|command| parses(command)).count();
    assert!(count >= 10, "{count} commands were found");
}

/// Returns false for a command of somebody else. One of ours must be one.
fn parses(command: &str) -> bool {
    let Some((_, words)) = command.split_once("kubectl host-ports") else { return false };
    // The parser comes to the end, where it finds the one thing that it does not know.
    let words: Vec<&str> =
        words.split_whitespace().filter(|word| *word != "--help").chain(["--no-such-flag"]).collect();
    let said = end(program(&words)).stderr;
    assert!(said.starts_with("error: unexpected argument '--no-such-flag' found"), "{command}: {said}");
    true
}

/// In blocks of a shell, and behind prompts. What is piped, redirected or commented ends a command.
fn commands_of_all_pages_parse() {
    let mut count = 0;
    for folder in ["", "docs", "docs/ai"] {
        for entry in fs::read_dir(root().join(folder)).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.extension().is_none_or(|extension| extension != "md") {
                continue;
            }
            let page = fs::read_to_string(&path).expect("a page");
            let mut in_shell = false;
            for line in page.lines() {
                if let Some(language) = line.strip_prefix("```") {
                    in_shell = language == "sh";
                } else if let Some(command) = line.strip_prefix("$ ").or_else(|| in_shell.then_some(line)) {
                    let command = command.split(" #").next().unwrap_or_default();
                    let parts = command.split([';', '|', '>']);
                    count += parts.filter(|part| parses(part)).count();
                }
            }
        }
    }
    assert!(count >= 20, "{count} commands were found");
}

fn exit_codes_are_those_of_the_help() {
    let codes: Vec<String> = table(&page(), "Exit codes").into_iter().map(|row| row[0].clone()).collect();
    let help = end(program(&["--help"])).stdout;
    let (_, list) = help.split_once("Exit codes: ").expect("exit codes");
    let list = list.split(". ").next().unwrap_or_default().replace('\n', " ");
    let expected: Vec<&str> = list.split(", ").filter_map(|item| item.split_whitespace().next()).collect();
    assert_eq!(codes, expected);
    for (row, meaning) in table(&page(), "Exit codes").iter().zip(list.split(", ")).skip(2) {
        let words = meaning.split_once(' ').map_or("", |(_, meaning)| meaning).trim();
        // The agent's command needs privileges too.
        let words = words.trim_end_matches(" is missing");
        assert!(row[1].contains(words), "{row:?}: {words}");
    }
}
