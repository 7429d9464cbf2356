//! The findings as text for people, and as JSON for programs, which is documented in docs/check.md.

use std::fmt::Write as _;

use enforcer_core::check::{
    ManifestSet,
    finding::{Finding, NamedObject, Severity},
};
use serde_json::{Value, json};

use crate::judged::{Judged, JudgedFinding};

/// Writes a count with its noun.
pub(crate) fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Returns the findings for people.
pub(crate) fn text(judged: &Judged<'_>, colours: bool) -> String {
    let paint = |code: &'static str| if colours { code } else { "" };
    let (bold, plain) = (paint("\u{1b}[1m"), paint("\u{1b}[0m"));
    let mut text = String::new();
    for JudgedFinding { finding, .. } in judged.findings().filter(|judged| !judged.is_accepted) {
        let Finding { place, severity, code, message, remedy, .. } = finding;
        let colour = paint(match severity {
            Severity::Error => "\u{1b}[1;31m",
            Severity::Warning => "\u{1b}[1;33m",
            Severity::Note => "\u{1b}[1;36m",
        });
        let (word, code) = (severity.as_str(), code.as_str());
        let written =
            write!(text, "{bold}{place}:{plain} {colour}{word}:{plain} {message} [{code}]\n    remedy: {remedy}\n");
        written.expect("writing to a string never fails");
    }
    text += &summary(judged);
    text.push('\n');
    if let Some(stale) = judged.stale_text() {
        text += &stale;
        text.push('\n');
    }
    text
}

/// Returns the line with the counts.
pub(crate) fn summary(judged: &Judged<'_>) -> String {
    let manifests = judged.manifests;
    let more = judged.left_out();
    let beyond = if more > 0 { format!("; {more} findings more than are shown") } else { String::new() };
    let accepted = match &judged.baseline {
        Some(name) => {
            format!("; {} by the baseline {name}", counted(judged.accepted(), "finding accepted", "findings accepted"))
        }
        None => String::new(),
    };
    let against = match manifests.objects.len() - manifests.new_objects().count() {
        0 => String::new(),
        count => format!(
            ", against {} that {} there",
            counted(count, "object", "objects"),
            if count == 1 { "is" } else { "are" }
        ),
    };
    let services = match manifests.new_services() {
        0 => String::new(),
        count => format!(" and {}", counted(count, "Service", "Services")),
    };
    format!(
        "checked {}{services} in {}, {} of other kinds{against}: {}, {}, {}{beyond}{accepted}",
        counted(manifests.new_objects().count(), "object", "objects"),
        counted(manifests.files.len(), "file", "files"),
        manifests.ignored,
        counted(judged.count(Severity::Error), "error", "errors"),
        counted(judged.count(Severity::Warning), "warning", "warnings"),
        counted(judged.count(Severity::Note), "note", "notes"),
    )
}

fn ignored_kinds(manifests: &ManifestSet) -> Value {
    let kinds = manifests.other_kinds.kinds.iter().map(|((version, kind), other)| {
        json!({
            "apiVersion": version,
            "kind": kind,
            "count": other.count,
            "podTemplates": other.with_template,
            "compared": other.compared,
        })
    });
    kinds.collect()
}

/// Returns the report in JSON, which is documented in docs/check.md.
pub(crate) fn report(judged: &Judged<'_>) -> Value {
    let manifests = judged.manifests;
    let list = |of: fn(&JudgedFinding<'_>) -> bool| judged.findings().filter(of).map(finding_json).collect::<Value>();
    let is_note = |judged: &JudgedFinding<'_>| judged.finding.severity == Severity::Note;
    let stale = judged.stale().iter().map(|(fingerprint, entry)| {
        json!({
            "fingerprint": fingerprint.to_string(),
            "code": entry.code,
            "severity": entry.severity.as_str(),
            "object": entry.object,
        })
    });
    json!({
        "apiVersion": "port-enforcer.io/v1alpha1",
        "kind": "CheckReport",
        "nodes": judged.nodes,
        "findings": list(|judged| judged.finding.severity != Severity::Note && !judged.is_accepted),
        "accepted": list(|judged| judged.is_accepted),
        "notes": list(is_note),
        "baseline": judged.baseline.as_ref().map(|file| json!({"file": file, "stale": stale.collect::<Value>()})),
        "ignoredKinds": ignored_kinds(manifests),
        "summary": {
            "files": manifests.files.len(),
            "documents": manifests.documents,
            "objects": manifests.new_objects().count(),
            "services": manifests.new_services(),
            "existing": manifests.objects.len() - manifests.new_objects().count(),
            "ignored": manifests.ignored,
            "unreadable": manifests.unreadable.len() + manifests.more_unreadable,
            "errors": judged.count(Severity::Error),
            "warnings": judged.count(Severity::Warning),
            "notes": judged.count(Severity::Note),
            "accepted": judged.accepted(),
            "leftOut": judged.left_out(),
        },
    })
}

fn finding_json(judged: JudgedFinding<'_>) -> Value {
    let JudgedFinding { finding, fingerprint, is_accepted: _ } = judged;
    let Finding { code, severity, place, object, other, ports, position, nodes_needed, message, remedy, subject: _ } =
        finding;
    let named = |named: &Option<NamedObject>| named.as_ref().map(named_json);
    json!({
        "code": code.as_str(),
        "severity": severity.as_str(),
        "fingerprint": fingerprint.to_string(),
        "file": &*place.file,
        "line": place.line,
        "object": named(object),
        "other": named(other),
        "ports": ports,
        "position": position,
        "nodesNeeded": nodes_needed,
        "message": message,
        "remedy": remedy,
    })
}

/// Returns the name of an object in JSON, with its place.
pub(crate) fn named_json(NamedObject { kind, namespace, name, place }: &NamedObject) -> Value {
    json!({"kind": &**kind, "namespace": namespace, "name": name, "file": &*place.file, "line": place.line})
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::paths::FilePaths;
    use enforcer_core::check::{
        CheckSettings, check,
        object::{Location, Unreadable},
    };

    #[test]
    fn colours_change_no_word() {
        let file: Arc<str> = "a.yaml".into();
        let place = Location { file: file.clone(), line: Some(3) };
        let unreadable = vec![Unreadable { place, message: "is no manifest".to_owned(), is_foreign: false }];
        let manifests = ManifestSet { files: vec![file], unreadable, ..ManifestSet::default() };
        let (outcome, paths) = (check(&manifests, &CheckSettings::default()), FilePaths::here());
        let judged = Judged::new(&manifests, &paths, None, outcome);
        let [plain, coloured] = [false, true].map(|colours| text(&judged, colours));
        assert!(!plain.contains('\u{1b}'), "{plain}");
        assert!(
            coloured.starts_with("\u{1b}[1ma.yaml:3:\u{1b}[0m \u{1b}[1;31merror:\u{1b}[0m is no manifest"),
            "{coloured}"
        );
        let codes = ["\u{1b}[1m", "\u{1b}[1;31m", "\u{1b}[0m"];
        assert_eq!(codes.iter().fold(coloured, |text, code| text.replace(code, "")), plain);
    }
}
