//! Suggestions as text: for people, and as YAML for kubectl.

use std::{fmt::Write as _, iter};

use serde_json::Value;

use super::{PortApart, Seen, SuggestedPort, Suggestion, Suggestions};
use crate::model::list_text::and_list;

/// Most workloads that are named in one sentence.
const MAX_NAMED: usize = 6;

/// Returns suggestions for people. `program`: the command that wrote them, as `kubectl host-ports suggest`.
#[must_use]
pub fn people(suggestions: &Suggestions, program: &str) -> String {
    let mut text = format!("{}\n", suggestions.message);
    for suggestion in &suggestions.suggestions {
        let _ = write!(text, "\n{}", one(suggestion, program));
    }
    text
}

fn one(suggestion: &Suggestion, program: &str) -> String {
    let Suggestion { namespace, kind, name, ports, apart, never_bound, patch, command, notes } = suggestion;
    let mut lines = vec![format!("{kind} {namespace}/{name}")];
    if !ports.is_empty() {
        lines.push("  binds and does not declare".to_owned());
        lines.extend(ports.iter().map(|SuggestedPort { ports, container, declared_by, seen }| {
            let by = declared_by.as_ref().map(|by| format!(", to be declared by {by}")).unwrap_or_default();
            format!("    {ports}{}, {}{by}", of_container(container.as_ref()), times(seen))
        }));
    }
    if !apart.is_empty() {
        lines.push("  binds and cannot declare".to_owned());
        lines.extend(apart.iter().map(|PortApart { ports, container, message, seen, .. }| {
            format!("    {ports}{}, {}: {message}", of_container(container.as_ref()), times(seen))
        }));
    }
    if !never_bound.is_empty() {
        lines.push("  declares and never bound since the agents watch".to_owned());
        lines.extend(never_bound.iter().map(|never| {
            let (pods, nodes) = (count(never.pods, "pod"), count(never.nodes as u64, "node"));
            format!("    {} ({}), {pods} on {nodes}", never.ports, never.source)
        }));
    }
    if let (Some(command), true) = (command, patch.is_some()) {
        lines.push("  to declare it".to_owned());
        lines.push(format!("    {program} {}/{name} -n {namespace} -o patch > patch.yaml", kind.to_ascii_lowercase()));
        lines.push(format!("    {command}"));
    }
    lines.extend(notes.iter().map(|note| format!("  note: {note}")));
    lines.join("\n") + "\n"
}

fn of_container(container: Option<&String>) -> String {
    container.map(|name| format!(" by container {name}")).unwrap_or_default()
}

fn times(seen: &Seen) -> String {
    let Seen { pods, of_pods, nodes, since } = seen;
    let of = if of_pods > pods { format!(" of {of_pods}") } else { String::new() };
    let pods = if of.is_empty() { count(*pods, "pod") } else { format!("{pods}{of} pods") };
    format!("{pods} on {} since {since}", count(*nodes as u64, "node"))
}

fn count(number: u64, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// Returns the patch of a suggestion as YAML for `kubectl patch --patch-file`, with the command in a comment; `None` if
/// it has none.
#[must_use]
pub fn patch_yaml(suggestion: &Suggestion) -> Option<String> {
    let Suggestion { namespace, kind, name, ports, patch, command, notes, .. } = suggestion;
    let (patch, command) = (patch.as_ref()?, command.as_ref()?);
    let mut text = format!("# {kind} {namespace}/{name}\n# {command}\n");
    for SuggestedPort { ports, container, declared_by: _, seen } in ports {
        let _ = writeln!(text, "# {ports}{}, {}", of_container(container.as_ref()), times(seen));
    }
    for note in notes {
        let _ = writeln!(text, "# {note}");
    }
    yaml(patch, 0, &mut text);
    Some(text)
}

/// Returns the patch of the one workload that has one; `None` if none has.
///
/// # Errors
///
/// If several have one: which they are, and the way out.
pub fn one_patch(suggestions: &Suggestions) -> Result<Option<String>, String> {
    let with_patch = || suggestions.suggestions.iter().filter(|suggestion| suggestion.patch.is_some());
    if with_patch().count() > 1 {
        let names = with_patch().map(|of| format!("{}/{}", of.kind.to_ascii_lowercase(), of.name));
        return Err(format!(
            "-o patch is for one workload; name one of {} (with -n NAMESPACE), or write all patches with -o yaml",
            and_list(names, MAX_NAMED)
        ));
    }
    Ok(with_patch().find_map(patch_yaml))
}

/// Returns the sentence for somebody who wants a patch where there is none.
#[must_use]
pub fn no_patch(suggestions: &Suggestions) -> String {
    let notes = suggestions.suggestions.iter().flat_map(|suggestion| &suggestion.notes);
    let sentences: Vec<&str> = iter::once(&suggestions.message).chain(notes).map(String::as_str).collect();
    format!("no patch: {}", sentences.join(" "))
}

/// Returns all patches as YAML documents.
#[must_use]
pub fn patches_yaml(suggestions: &Suggestions) -> String {
    let documents: Vec<String> = suggestions.suggestions.iter().filter_map(patch_yaml).collect();
    documents.join("---\n")
}

/// Writes a value of objects, lists and scalars as YAML in block style.
fn yaml(value: &Value, indent: usize, text: &mut String) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let _ = write!(text, "{:indent$}{}:", "", scalar(&Value::from(key.as_str())));
                nested(value, indent, text);
            }
        }
        Value::Array(items) => {
            for item in items {
                let mut inner = String::new();
                yaml(item, indent + 2, &mut inner);
                // The dash takes the place of the first line's indent.
                let _ = write!(text, "{:indent$}- {}", "", inner.trim_start());
            }
        }
        other => {
            let _ = writeln!(text, "{:indent$}{}", "", scalar(other));
        }
    }
}

fn nested(value: &Value, indent: usize, text: &mut String) {
    if matches!(value, Value::Object(_) | Value::Array(_)) {
        text.push('\n');
        yaml(value, indent + 2, text);
    } else {
        let _ = writeln!(text, " {}", scalar(value));
    }
}

/// Returns a scalar: as JSON, which YAML reads too, but for words that mean nothing else.
fn scalar(value: &Value) -> String {
    let is_word = |text: &str| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-./".contains(&byte);
        let other = ["true", "false", "yes", "no", "on", "off", "y", "n", "null"];
        text.starts_with(|first: char| first.is_ascii_alphabetic())
            && text.bytes().all(is_plain)
            && !other.iter().any(|other| text.eq_ignore_ascii_case(other))
    };
    match value {
        Value::String(text) if is_word(text) => text.clone(),
        other => other.to_string(),
    }
}
