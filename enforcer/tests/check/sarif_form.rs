//! The form of SARIF 2.1.0, as far as the report uses it: which properties an object has and must have, and of which types.
//! The specification allows more; what is not here, the report must not have.

use std::collections::BTreeSet;

use serde_json::Value;

/// Form of a value.
enum Form {
    Text,
    Flag,
    /// A number from this one on.
    Number(u64),
    /// One of these words.
    Word(&'static [&'static str]),
    /// An address, percent-encoded.
    Uri,
    List(&'static Form),
    /// Required and optional properties.
    Object(&'static [(&'static str, Form)], &'static [(&'static str, Form)]),
    /// Any names, with values of one form.
    Names(&'static Form),
}

use Form::{Flag, List, Names, Number, Object, Text, Uri, Word};

const LEVEL: Form = Word(&["none", "note", "warning", "error"]);
const MESSAGE: Form = Object(&[("text", Text)], &[]);
const RULE: Form = Object(
    &[
        ("id", Text),
        ("name", Text),
        ("shortDescription", MESSAGE),
        ("fullDescription", MESSAGE),
        ("help", Object(&[("text", Text), ("markdown", Text)], &[])),
        ("defaultConfiguration", Object(&[("level", LEVEL)], &[])),
    ],
    &[(
        "properties",
        Object(&[("tags", List(&Text))], &[("problem.severity", Word(&["error", "warning", "recommendation"]))]),
    )],
);
const PHYSICAL: Form = Object(
    &[
        ("artifactLocation", Object(&[("uri", Uri)], &[("uriBaseId", Word(&["SRCROOT"])), ("description", MESSAGE)])),
        ("region", Object(&[("startLine", Number(1))], &[])),
    ],
    &[],
);
const LOGICAL: Form = List(&Object(&[("name", Text), ("fullyQualifiedName", Text), ("kind", Text)], &[]));
const RESULT: Form = Object(
    &[
        ("ruleId", Text),
        ("ruleIndex", Number(0)),
        ("level", LEVEL),
        ("message", MESSAGE),
        ("locations", List(&Object(&[("physicalLocation", PHYSICAL)], &[("logicalLocations", LOGICAL)]))),
        ("partialFingerprints", Names(&Text)),
    ],
    &[
        (
            "relatedLocations",
            List(&Object(
                &[("id", Number(0)), ("physicalLocation", PHYSICAL)],
                &[("message", MESSAGE), ("logicalLocations", LOGICAL)],
            )),
        ),
        ("baselineState", Word(&["new", "unchanged", "updated", "absent"])),
        (
            "suppressions",
            List(&Object(
                &[("kind", Word(&["inSource", "external"]))],
                &[("status", Word(&["accepted", "underReview", "rejected"])), ("justification", Text)],
            )),
        ),
    ],
);
const RUN: Form = Object(
    &[
        (
            "tool",
            Object(
                &[("driver", Object(&[("name", Text), ("semanticVersion", Text), ("rules", List(&RULE))], &[]))],
                &[],
            ),
        ),
        (
            "invocations",
            List(&Object(
                &[("executionSuccessful", Flag)],
                &[("toolExecutionNotifications", List(&Object(&[("message", MESSAGE)], &[("level", LEVEL)])))],
            )),
        ),
        ("originalUriBaseIds", Names(&Object(&[], &[("description", MESSAGE), ("uri", Uri)]))),
        ("columnKind", Word(&["utf16CodeUnits", "unicodeCodePoints"])),
        ("results", List(&RESULT)),
    ],
    &[],
);
const LOG: Form = Object(&[("$schema", Uri), ("version", Word(&["2.1.0"])), ("runs", List(&RUN))], &[]);

fn assert_form(value: &Value, form: &Form, path: &str) {
    let text = || value.as_str().unwrap_or_else(|| panic!("{path} is no text: {value}"));
    match form {
        Text => assert!(!text().is_empty(), "{path} is empty"),
        Flag => assert!(value.is_boolean(), "{path}: {value}"),
        Number(first) => assert!(value.as_u64().is_some_and(|number| number >= *first), "{path}: {value}"),
        Word(words) => assert!(words.contains(&text()), "{path}: {value}"),
        Uri => {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/%:".contains(&byte);
            assert!(
                text().bytes().all(is_plain) && !text().contains("/../") && !text().starts_with('/'),
                "{path}: {value}"
            );
            for (place, _) in text().match_indices('%') {
                let digits = text().get(place + 1..place + 3).unwrap_or_default();
                assert!(digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()), "{path}: {value}");
            }
        }
        List(form) => {
            let items = value.as_array().unwrap_or_else(|| panic!("{path} is no list: {value}"));
            items.iter().enumerate().for_each(|(place, item)| assert_form(item, form, &format!("{path}[{place}]")));
        }
        Names(form) => {
            let entries = value.as_object().unwrap_or_else(|| panic!("{path} is no object: {value}"));
            entries.iter().for_each(|(name, value)| assert_form(value, form, &format!("{path}.{name}")));
        }
        Object(required, optional) => {
            let entries = value.as_object().unwrap_or_else(|| panic!("{path} is no object: {value}"));
            for (name, _) in *required {
                assert!(entries.contains_key(*name), "{path} has no {name}: {value}");
            }
            for (name, value) in entries {
                let known = required.iter().chain(*optional).find(|(known, _)| known == name);
                let (_, form) = known.unwrap_or_else(|| panic!("{path} has the unknown property {name}"));
                assert_form(value, form, &format!("{path}.{name}"));
            }
        }
    }
}

/// Returns the results of a report.
pub(super) fn results(report: &Value) -> &[Value] {
    report["runs"][0]["results"].as_array().expect("results")
}

/// Asserts that a report has the form of SARIF, and that its parts fit together.
pub(super) fn assert_sarif(report: &Value) {
    assert_form(report, &LOG, "$");
    let rules = report["runs"][0]["tool"]["driver"]["rules"].as_array().expect("rules");
    let ids: BTreeSet<_> = rules.iter().map(|rule| rule["id"].as_str()).collect();
    assert_eq!(ids.len(), rules.len(), "no rule is there twice");
    let mut prints = BTreeSet::new();
    for result in results(report) {
        let index = usize::try_from(result["ruleIndex"].as_u64().expect("a number")).expect("a place");
        assert_eq!(rules[index]["id"], result["ruleId"]);
        assert_eq!(result["locations"].as_array().map(Vec::len), Some(1), "{result}");
        let print = result["partialFingerprints"]["portEnforcerFinding/v1"].as_str().expect("a fingerprint");
        assert!(prints.insert(print), "two results have one fingerprint: {result}");
    }
}
