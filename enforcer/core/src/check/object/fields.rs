//! Types of the fields that claims and counts come from, checked with the path and the line of each.

use super::{MAX_QUOTED, kinds::WorkloadKind};
use crate::{
    model::text::escape_bounded,
    yaml::spanned::{Node, Value},
};

/// Beginnings of what a template engine or a shell replaces.
const PLACEHOLDERS: [&str; 6] = ["{{", "{%", "[[", "<%", "${", "$("];

/// Reason why an object cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FieldError {
    /// Line of the document, counted from 1; `None` if the object as a whole is meant.
    pub(super) line: Option<u32>,
    /// The reason, not escaped.
    pub(super) message: String,
}

impl From<String> for FieldError {
    fn from(message: String) -> Self {
        Self { line: None, message }
    }
}

impl From<&str> for FieldError {
    fn from(message: &str) -> Self {
        message.to_owned().into()
    }
}

/// Type that a field must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    Flag,
    /// Whole number that fits 32 bits.
    Number,
    /// Whole number from 0 on.
    Count,
    /// Whole number from 0 on, or a percentage.
    IntOrPercent,
    /// Number or text.
    PortOrName,
    Text,
    List,
    Map,
}

impl Expected {
    fn accepts(self, value: &Value) -> bool {
        let number = |number: &serde_json::Number| number.as_i64().and_then(|number| i32::try_from(number).ok());
        match (self, value) {
            (Self::Flag, Value::Bool(_))
            | (Self::PortOrName | Self::Text, Value::Text(_))
            | (Self::List, Value::List(_))
            | (Self::Map, Value::Map(_)) => true,
            (Self::Number | Self::PortOrName, Value::Number(value)) => number(value).is_some(),
            (Self::Count | Self::IntOrPercent, Value::Number(value)) => number(value).is_some_and(|number| number >= 0),
            (Self::IntOrPercent, Value::Text(text)) => text.ends_with('%'),
            _ => false,
        }
    }

    /// Returns what to write instead of a value that is not accepted.
    fn advice(self, value: &Value) -> &'static str {
        let without_quotes = |text: &str| match self {
            Self::Flag => matches!(text, "true" | "false"),
            Self::Number | Self::Count | Self::IntOrPercent | Self::PortOrName => text.parse::<i32>().is_ok(),
            Self::Text | Self::List | Self::Map => false,
        };
        match (self, value) {
            (_, Value::Text(text)) if is_placeholder(text) => "it looks like a template that was not rendered",
            (_, Value::List(items)) if items.iter().any(|item| matches!(item.value, Value::List(_))) => {
                "it looks like a template that was not rendered"
            }
            (_, Value::Text(text)) if without_quotes(text) => "leave out the quotes",
            (Self::Text, Value::Bool(_) | Value::Number(_)) => "put it in quotes",
            (Self::Flag, _) => "write true or false",
            (Self::Number, _) => "write a whole number",
            (Self::Count, _) => "write a whole number from 0 on",
            (Self::IntOrPercent, _) => "write a whole number from 0 on or a percentage",
            (Self::PortOrName, _) => "write a port or its name",
            (Self::Text, _) => "write a text",
            (Self::List, _) => "write a list",
            (Self::Map, _) => "write a mapping",
        }
    }
}

/// Checks whether a text is one that a template engine or a shell should have replaced.
pub(super) fn is_placeholder(text: &str) -> bool {
    PLACEHOLDERS.iter().any(|placeholder| text.contains(placeholder))
}

/// Returns a value for a sentence.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::Text(text) => format!("the text \"{}\"", escape_bounded(text, MAX_QUOTED)),
        Value::List(_) => "a list".to_owned(),
        Value::Map(_) => "a mapping".to_owned(),
    }
}

fn expect(node: &Node, path: &str, expected: Expected) -> Result<(), FieldError> {
    if expected.accepts(&node.value) {
        return Ok(());
    }
    let message = format!("{path} is {}; {}", shown(&node.value), expected.advice(&node.value));
    Err(FieldError { line: Some(node.line), message })
}

/// Checks a field of a mapping, if it is there, and returns it.
pub(super) fn field<'a>(
    parent: &'a Node,
    path: &str,
    key: &str,
    expected: Expected,
) -> Result<Option<(&'a Node, String)>, FieldError> {
    let Some(node) = parent.get(key) else {
        return Ok(None);
    };
    let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    expect(node, &path, expected)?;
    Ok(Some((node, path)))
}

/// Checks each item of a list that a mapping may have, and passes it on with its path.
pub(super) fn items(
    parent: &Node,
    path: &str,
    key: &str,
    mut each: impl FnMut(&Node, &str) -> Result<(), FieldError>,
) -> Result<(), FieldError> {
    let Some((list, path)) = field(parent, path, key, Expected::List)? else {
        return Ok(());
    };
    list.items().iter().enumerate().try_for_each(|(place, item)| {
        let path = format!("{path}[{place}]");
        expect(item, &path, Expected::Map)?;
        each(item, &path)
    })
}

/// Returns a text of the metadata, if it is there and not empty.
pub(super) fn metadata_text(metadata: &Node, key: &str) -> Result<Option<String>, FieldError> {
    let text = field(metadata, "metadata", key, Expected::Text)?.and_then(|(node, _)| node.text());
    Ok(text.filter(|text| !text.is_empty()).map(str::to_owned))
}

/// Returns the path of the spec of a kind's pods.
pub(super) fn pod_spec_path(kind: WorkloadKind) -> String {
    let keys: Vec<&str> = kind.template().iter().copied().chain(["spec"]).collect();
    keys.join(".")
}

/// Checks the fields of an object that its count of pods comes from.
pub(super) fn check_counts(kind: WorkloadKind, root: &Node) -> Result<(), FieldError> {
    let (path, keys): (&[&str], &[&str]) = match kind {
        WorkloadKind::Pod | WorkloadKind::DaemonSet | WorkloadKind::Custom => (&["spec"], &[]),
        WorkloadKind::Job => (&["spec"], &["parallelism", "completions"]),
        WorkloadKind::CronJob => (&["spec", "jobTemplate", "spec"], &["parallelism", "completions"]),
        _ => (&["spec"], &["replicas"]),
    };
    if let Some(spec) = root.at(path) {
        let path = path.join(".");
        for key in keys {
            field(spec, &path, key, Expected::Count)?;
        }
    }
    let strategy = match kind {
        WorkloadKind::Deployment => "strategy",
        WorkloadKind::DaemonSet => "updateStrategy",
        _ => return Ok(()),
    };
    let Some(rolling) = root.at(&["spec", strategy, "rollingUpdate"]) else {
        return Ok(());
    };
    let path = format!("spec.{strategy}.rollingUpdate");
    expect(rolling, &path, Expected::Map)?;
    for key in ["maxSurge", "maxUnavailable"] {
        field(rolling, &path, key, Expected::IntOrPercent)?;
    }
    Ok(())
}

/// Checks the fields of a pod's spec that claims come from. Nothing else needs to be valid: a manifest may be of a newer
/// version than what this was built with.
pub(super) fn check_pod_spec(spec: &Node, path: &str) -> Result<(), FieldError> {
    expect(spec, path, Expected::Map)?;
    field(spec, path, "hostNetwork", Expected::Flag)?;
    for key in ["containers", "initContainers"] {
        items(spec, path, key, |container, path| {
            for key in ["name", "restartPolicy"] {
                field(container, path, key, Expected::Text)?;
            }
            items(container, path, "ports", |port, path| {
                for key in ["containerPort", "hostPort"] {
                    field(port, path, key, Expected::Number)?;
                }
                for key in ["name", "hostIP", "protocol"] {
                    field(port, path, key, Expected::Text)?;
                }
                Ok(())
            })?;
            for key in super::likely::PROBES {
                check_probe(container, path, key)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn check_probe(container: &Node, path: &str, key: &str) -> Result<(), FieldError> {
    let Some((probe, path)) = field(container, path, key, Expected::Map)? else {
        return Ok(());
    };
    for (key, port) in
        [("httpGet", Expected::PortOrName), ("tcpSocket", Expected::PortOrName), ("grpc", Expected::Number)]
    {
        if let Some((handler, path)) = field(probe, &path, key, Expected::Map)? {
            field(handler, &path, "port", port)?;
            field(handler, &path, "host", Expected::Text)?;
        }
    }
    Ok(())
}
