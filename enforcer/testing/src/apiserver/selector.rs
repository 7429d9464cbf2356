//! Label and field selectors.

use serde_json::Value;

use super::{
    resource::Resource,
    status::{self, Refusal},
};

/// Restriction of a list or a watch.
#[derive(Clone, Debug, Default)]
pub(super) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operator {
    Exists,
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
}

impl Requirement {
    fn holds(&self, value: Option<&str>) -> bool {
        match (&self.operator, value) {
            (Operator::Exists, value) => value.is_some(),
            (Operator::Absent, value) => value.is_none(),
            (Operator::In(values), value) => value.is_some_and(|value| values.iter().any(|one| one == value)),
            (Operator::NotIn(values), value) => value.is_none_or(|value| values.iter().all(|one| one != value)),
        }
    }
}

impl Selector {
    pub(super) fn parse(resource: Resource, labels: &str, fields: &str) -> Result<Self, Refusal> {
        Ok(Self { labels: parse_labels(labels)?, fields: parse_fields(resource, fields)? })
    }

    /// Checks whether it lets everything through.
    pub(super) fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Returns the value that a field must have, if the selector names one.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().filter(|requirement| requirement.key == name).find_map(|requirement| {
            match &requirement.operator {
                Operator::In(values) => values.iter().map(String::as_str).next().filter(|_| values.len() == 1),
                _ => None,
            }
        })
    }

    pub(super) fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.labels.iter().all(|requirement| requirement.holds(labels[&requirement.key].as_str()))
            && self.fields.iter().all(|requirement| {
                let value = requirement.key.split('.').fold(object, |value, part| &value[part]);
                // A field that is not set is the empty string.
                requirement.holds(Some(value.as_str().unwrap_or_default()))
            })
    }
}

/// Cuts at the commas outside of parentheses.
fn items(text: &str) -> Vec<&str> {
    let mut depth = 0_u32;
    let comma = |letter: char| {
        match letter {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        letter == ',' && depth == 0
    };
    text.split(comma).map(str::trim).collect()
}

/// Parses `key=value`, `key==value` or `key!=value`.
fn equality(item: &str) -> Option<Requirement> {
    let equals = item.find('=')?;
    let (key, value) = (&item[..equals], &item[equals + 1..]);
    let (key, operator) = match key.strip_suffix('!') {
        Some(key) => (key, Operator::NotIn(vec![value.trim().to_owned()])),
        None => (key, Operator::In(vec![value.strip_prefix('=').unwrap_or(value).trim().to_owned()])),
    };
    Some(Requirement { key: key.trim().to_owned(), operator })
}

fn parse_labels(text: &str) -> Result<Vec<Requirement>, Refusal> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let refuse = |item: &str| status::bad_request(format!("unable to parse requirement: {item:?}"));
    items(text)
        .into_iter()
        .map(|item| {
            let requirement = if let Some((head, values)) = item.split_once('(') {
                let values = values.strip_suffix(')').ok_or_else(|| refuse(item))?;
                let values: Vec<_> = values.split(',').map(|value| value.trim().to_owned()).collect();
                let (key, operator) = match head.trim_end().rsplit_once(' ') {
                    Some((key, "in")) => (key, Operator::In(values)),
                    Some((key, "notin")) => (key, Operator::NotIn(values)),
                    _ => return Err(refuse(item)),
                };
                Requirement { key: key.trim().to_owned(), operator }
            } else if let Some(requirement) = equality(item) {
                requirement
            } else if let Some(key) = item.strip_prefix('!') {
                Requirement { key: key.trim().to_owned(), operator: Operator::Absent }
            } else {
                Requirement { key: item.to_owned(), operator: Operator::Exists }
            };
            let (prefix, name) = requirement.key.split_once('/').unwrap_or(("x", &requirement.key));
            let good = |part: &str| {
                !part.is_empty() && part.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_.".contains(letter))
            };
            if good(prefix) && good(name) { Ok(requirement) } else { Err(refuse(item)) }
        })
        .collect()
}

fn parse_fields(resource: Resource, text: &str) -> Result<Vec<Requirement>, Refusal> {
    let requirements = text.split(',').filter(|item| !item.is_empty()).map(|item| {
        let requirement = equality(item)
            .ok_or_else(|| status::bad_request(format!("invalid selector: '{text}'; can't understand '{item}'")))?;
        if resource.selectable().contains(&requirement.key.as_str()) {
            Ok(requirement)
        } else {
            Err(status::bad_request(format!("field label not supported: {}", requirement.key)))
        }
    });
    requirements.collect()
}
