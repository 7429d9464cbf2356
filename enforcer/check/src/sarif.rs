//! The findings as SARIF 2.1.0, for tools that show findings of many programs side by side, such as code scanning.

use enforcer_core::check::{
    finding::{Code, Finding, NamedObject, Severity},
    object::Location,
    rules::Rule,
};
use serde_json::{Value, json};

use crate::{
    judged::{Judged, JudgedFinding},
    paths::FileUri,
};

/// Address of the schema.
const SCHEMA: &str = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json";
/// Name of the folder in which the check ran.
const ROOT: &str = "SRCROOT";
/// Name of the fingerprint, with the version of the rules by which it is made.
const FINGERPRINT: &str = "portEnforcerFinding/v1";
/// Address of standard input, which has none.
const STDIN: &str = "stdin";

/// Returns the report.
pub(crate) fn sarif(judged: &Judged<'_>) -> Value {
    let rules = Code::ALL.into_iter().map(rule);
    let results = judged.findings().map(|finding| result(judged, finding));
    json!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "port-enforcer",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": rules.collect::<Value>(),
            }},
            "invocations": [{
                "executionSuccessful": judged.manifests.documents > 0,
                "toolExecutionNotifications": notifications(judged),
            }],
            "originalUriBaseIds": {ROOT: {"description": {"text": "The folder in which the check ran"}}},
            "columnKind": "unicodeCodePoints",
            "results": results.collect::<Value>(),
        }],
    })
}

/// Returns what the report says about the run itself.
fn notifications(judged: &Judged<'_>) -> Value {
    let left_out = match judged.left_out() {
        0 => None,
        count => Some(("warning", format!("{count} findings more than are shown"))),
    };
    let stale = judged.stale_text().map(|text| ("note", text));
    let all = left_out.into_iter().chain(stale);
    all.map(|(level, text)| json!({"level": level, "message": {"text": plain(&text)}})).collect()
}

fn rule(code: Code) -> Value {
    let Rule { name, summary, description, help, severity } = code.rule();
    let id = code.as_str();
    // GitHub's words for the three levels.
    let problem = match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "recommendation",
    };
    json!({
        "id": id,
        "name": name,
        "shortDescription": {"text": summary},
        "fullDescription": {"text": description},
        "help": {
            "text": format!("{help} See docs/check.md of port-enforcer."),
            "markdown": format!("**{summary}.** {description}\n\n{help}\n\nSee `docs/check.md` of port-enforcer, code `{id}`."),
        },
        "defaultConfiguration": {"level": severity.as_str()},
        "properties": {"tags": ["kubernetes", "host-ports"], "problem.severity": problem},
    })
}

fn result(judged: &Judged<'_>, JudgedFinding { finding, fingerprint, is_accepted }: JudgedFinding<'_>) -> Value {
    let Finding { code, severity, place, object, other, message, remedy, .. } = finding;
    let mut location = json!({"physicalLocation": physical(judged, place)});
    if let Some(object) = object {
        location["logicalLocations"] = json!([logical(object)]);
    }
    let mut result = json!({
        "ruleId": code.as_str(),
        "ruleIndex": *code as usize,
        "level": severity.as_str(),
        "message": {"text": plain(&format!("{message}\nRemedy: {remedy}"))},
        "locations": [location],
        "partialFingerprints": {FINGERPRINT: fingerprint.to_string()},
    });
    // What runs in a cluster has no file to show.
    if let Some(other) = other.as_ref().filter(|other| judged.paths.uri(&other.place.file).is_some()) {
        result["relatedLocations"] = json!([{
            "id": 1,
            "message": {"text": plain(&other.to_string())},
            "physicalLocation": physical(judged, &other.place),
            "logicalLocations": [logical(other)],
        }]);
    }
    if let Some(name) = &judged.baseline {
        result["baselineState"] = if is_accepted { "unchanged" } else { "new" }.into();
        if is_accepted {
            let justification = format!("accepted by the baseline {name}");
            result["suppressions"] =
                json!([{"kind": "external", "status": "accepted", "justification": justification}]);
        }
    }
    result
}

/// Returns a place. Tools show no finding without a line: one of a whole file is shown at its first.
fn physical(judged: &Judged<'_>, place: &Location) -> Value {
    let artifact = match judged.paths.uri(&place.file) {
        Some(FileUri { uri, is_relative: true }) => json!({"uri": uri, "uriBaseId": ROOT}),
        Some(FileUri { uri, is_relative: false }) => json!({"uri": uri}),
        None => json!({"uri": STDIN, "description": {"text": "Standard input"}}),
    };
    json!({"artifactLocation": artifact, "region": {"startLine": place.line.unwrap_or(1)}})
}

fn logical(named: &NamedObject) -> Value {
    json!({"name": named.name, "fullyQualifiedName": named.to_string(), "kind": "object"})
}

/// Returns a text in which no name makes a link: viewers turn `[text](address)` into one.
fn plain(text: &str) -> String {
    text.replace("](", "] (")
}
