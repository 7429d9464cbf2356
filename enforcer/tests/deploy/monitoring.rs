//! Alerts and the dashboard ask for what the agent serves. What that is, docs/metrics.md says, and the unit tests of the
//! metrics compare that with the code. promtool, of Prometheus, is the judge of syntax and of what fires when; without it
//! those tests are skipped, and say so.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    path::Path,
    process::{Command, Output, Stdio},
};

use enforcer::metrics::Metrics;
use libtest_mimic::{Completion, Trial};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    Test,
    strict::{deploy, read},
};
use enforcer_testing::exposition::Exposition;
use enforcer_testing::tests;

pub(crate) const TESTS: &[Test] =
    tests![every_query_uses_served_metrics, every_alert_has_a_test_and_a_runbook, dashboard_is_complete];

const WITH_PROMTOOL: &[Test] =
    tests![promtool_accepts_rules_and_queries, alerts_fire_when_expected, promtool_accepts_metrics];

pub(crate) fn trials() -> Vec<Trial> {
    let result = Command::new("promtool").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let missing = matches!(result, Err(error) if error.kind() == io::ErrorKind::NotFound);
    let trials = WITH_PROMTOOL.iter().map(|&(name, run)| {
        Trial::ignorable_test(format!("monitoring::{name}"), move || {
            if missing {
                return Ok(Completion::ignored_with(
                    "promtool is not installed (Debian has it in the package prometheus)",
                ));
            }
            run();
            Ok(Completion::Completed)
        })
    });
    trials.collect()
}

fn dashboard() -> Value {
    let text = fs::read_to_string(deploy().join("components/monitoring/dashboard.json")).expect("a dashboard");
    serde_json::from_str(&text).expect("JSON")
}

fn rules() -> Value {
    read(&deploy().join("components/monitoring/rules.yaml")).remove(0)["spec"].clone()
}

fn alerts() -> Vec<Value> {
    rules()["groups"][0]["rules"].as_array().expect("rules").clone()
}

/// Title or name, and expression.
fn panel_queries() -> Vec<(String, String)> {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().expect("panels");
    let queries = panels.iter().flat_map(|panel| {
        let title = panel["title"].as_str().expect("a title").to_owned();
        let targets = panel["targets"].as_array().expect("targets");
        targets.iter().map(move |target| (title.clone(), target["expr"].as_str().expect("an expression").to_owned()))
    });
    queries.collect()
}

fn alert_queries() -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    alerts().iter().map(|alert| (text(&alert["alert"]), text(&alert["expr"]))).collect()
}

/// The labels of each metric that the documentation names, histograms by their samples.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join("docs/metrics.md");
    let text = fs::read_to_string(path).expect("docs/metrics.md");
    let mut metrics = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| `port_enforcer_")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let name = cells[0].trim_matches('`').to_owned();
        let mut labels: BTreeSet<String> = cells[2]
            .split(',')
            .map(|label| label.trim().trim_matches('`').to_owned())
            .filter(|label| !label.is_empty())
            .collect();
        if cells[1] == "histogram" {
            for suffix in ["count", "sum"] {
                metrics.insert(format!("{name}_{suffix}"), labels.clone());
            }
            labels.insert("le".to_owned());
            metrics.insert(format!("{name}_bucket"), labels);
        } else {
            metrics.insert(name, labels);
        }
    }
    metrics
}

/// What the Prometheus operator and the `PodMonitor` add to every series.
const TARGET: [&str; 3] = ["node", "job", "instance"];

fn is_of_a_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

/// The metrics of an expression, each with the labels that it is selected by; and the labels that it is grouped by.
fn asked(expression: &str) -> (Vec<(String, Vec<String>)>, Vec<String>) {
    let mut selected = Vec::new();
    let mut rest = expression;
    while let Some(start) = rest.find("port_enforcer_") {
        rest = &rest[start..];
        let end = rest.find(|character| !is_of_a_name(character)).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let inside = after.strip_prefix('{').and_then(|after| after.split_once('}')).map_or("", |(inside, _)| inside);
        let labels = inside.split(',').filter_map(|matcher| matcher.split(['=', '!']).next()).map(str::trim);
        selected.push((name.to_owned(), labels.filter(|label| !label.is_empty()).map(str::to_owned).collect()));
        rest = after;
    }
    let grouped = expression.split("by (").skip(1).chain(expression.split("on (").skip(1));
    let grouped = grouped.flat_map(|after| after.split(')').next().expect("a list").split(','));
    (selected, grouped.map(|label| label.trim().to_owned()).collect())
}

fn every_query_uses_served_metrics() {
    let metrics = documented();
    let mut used = BTreeSet::new();
    for (whose, expression) in panel_queries().into_iter().chain(alert_queries()) {
        let (selected, grouped) = asked(&expression);
        assert!(!selected.is_empty() || expression.starts_with("up{"), "{whose}: {expression}");
        let mut known: BTreeSet<&str> = TARGET.into();
        for (name, labels) in &selected {
            let served = metrics.get(name).unwrap_or_else(|| panic!("{whose}: nobody serves {name}"));
            known.extend(served.iter().map(String::as_str));
            for label in labels {
                assert!(
                    TARGET.contains(&label.as_str()) || served.contains(label),
                    "{whose}: {name} has no label {label}"
                );
            }
            used.insert(name.clone());
        }
        for label in grouped {
            assert!(known.contains(label.as_str()), "{whose}: nothing in it has a label {label}");
        }
    }
    assert!(used.len() > 15, "{used:?}");
    // And what is not served is found.
    assert!(!metrics.contains_key("port_enforcer_conflicts"));
    assert_eq!(asked("sum by (a, b) (port_enforcer_x{c=\"d\",e!~\"f\"})").1, ["a", "b"]);
    assert_eq!(asked("port_enforcer_x{c=\"d\",e!~\"f\"} / port_enforcer_y").0[0].1, ["c", "e"]);
}

fn every_alert_has_a_test_and_a_runbook() {
    let played = fs::read_to_string(played()).expect("alerts.yaml");
    for alert in alerts() {
        let name = alert["alert"].as_str().expect("a name");
        assert!(played.contains(&format!("alertname: {name}\n")), "{name} is not played");
        let severity = alert["labels"]["severity"].as_str().expect("a severity");
        assert!(["info", "warning", "critical"].contains(&severity), "{name}: {severity}");
        let page = alert["annotations"]["runbook_url"].as_str().expect("a page");
        assert!(page.starts_with("docs/operations.md#"), "{name}: {page}");
    }
}

fn dashboard_is_complete() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().expect("panels");
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().expect("an id")).collect();
    assert_eq!(ids.len(), panels.len());
    let variables: Vec<&str> = dashboard["templating"]["list"]
        .as_array()
        .expect("variables")
        .iter()
        .filter_map(|variable| variable["name"].as_str())
        .collect();
    assert_eq!(variables, ["datasource", "node"]);
    let mut taken: Vec<[u64; 4]> = Vec::new();
    for panel in panels {
        assert_eq!(panel["datasource"], json!({ "type": "prometheus", "uid": "${datasource}" }));
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().expect("a number"));
        assert!(x + w <= 24 && w > 0 && h > 0, "{}", panel["title"]);
        for [left, top, width, height] in &taken {
            let apart = x + w <= *left || left + width <= x || y + h <= *top || top + height <= y;
            assert!(apart, "{} lies on another panel", panel["title"]);
        }
        taken.push([x, y, w, h]);
    }
}

fn played() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/deploy/alerts.yaml")
}

fn promtool(arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new("promtool");
    let mut child = command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("running promtool");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("promtool reads");
    child.wait_with_output().expect("promtool ends")
}

fn accepts(arguments: &[&str], input: &str) {
    let Output { status, stdout, stderr } = promtool(arguments, input);
    let said = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(status.success(), "{arguments:?}: {said}");
}

/// The dashboard's queries become rules for that, because promtool checks no others. Its variables have a value then.
fn promtool_accepts_rules_and_queries() {
    let folder = TempDir::new().expect("a folder");
    let write = |name: &str, rules: &Value| {
        let path = folder.path().join(name);
        fs::write(&path, rules.to_string()).expect("a file");
        path.display().to_string()
    };
    accepts(&["check", "rules", "--lint-fatal", &write("alerts.yaml", &rules())], "");
    let queries = panel_queries().into_iter().enumerate().map(|(index, (_, expression))| {
        let expression = expression.replace("$node", ".*").replace("$__rate_interval", "5m");
        assert!(!expression.contains('$'), "{expression}");
        json!({ "record": format!("panel:{index}"), "expr": expression })
    });
    let queries = json!({ "groups": [{ "name": "dashboard", "rules": queries.collect::<Vec<_>>() }] });
    accepts(&["check", "rules", &write("dashboard.yaml", &queries)], "");
    // And it is a judge.
    let wrong = json!({ "groups": [{ "name": "wrong", "rules": [{ "record": "a", "expr": "sum(" }] }] });
    assert!(!promtool(&["check", "rules", &write("wrong.yaml", &wrong)], "").status.success());
}

fn alerts_fire_when_expected() {
    let folder = TempDir::new().expect("a folder");
    fs::write(folder.path().join("rules.yaml"), rules().to_string()).expect("a file");
    let tests = fs::read_to_string(played()).expect("alerts.yaml");
    let path = folder.path().join("alerts.yaml");
    fs::write(&path, format!("rule_files: [rules.yaml]\n{tests}")).expect("a file");
    accepts(&["test", "rules", &path.display().to_string()], "");
}

/// promtool reads the older text form alone, in which a counter's family has the name of its samples and there is no
/// info.
fn promtool_accepts_metrics() {
    let text = Metrics::new(None).exposition().expect("metrics");
    // Writing to a string cannot fail.
    let mut older = String::new();
    for (name, family) in Exposition::parse(&text).0 {
        let (known, kind) = (family.known_as(&name), if family.kind == "info" { "gauge" } else { &family.kind });
        let _ = writeln!(older, "# HELP {known} {}\n# TYPE {known} {kind}", family.help);
        for ((suffix, labels), value) in family.samples {
            let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
            let _ = writeln!(older, "{name}{suffix}{{{}}} {value}", labels.join(","));
        }
    }
    assert!(older.contains("port_enforcer_ready{} 0\n"), "{older}");
    accepts(&["check", "metrics"], &older);
    let nameless = "# TYPE bad_total gauge\nbad_total 1\n";
    assert!(!promtool(&["check", "metrics"], nameless).status.success(), "it is a judge");
}
