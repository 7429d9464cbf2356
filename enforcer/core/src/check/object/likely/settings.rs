//! Settings of a container: its flags and its variables, each with its line.

use std::borrow::Cow;

use super::{
    names::Name,
    shell::{lasting_programs, script},
};
use crate::{
    model::source::ClaimSource,
    yaml::spanned::{Node, Value},
};

/// Most words of a command, and most variables, that are read of one container.
const MAX_ITEMS: usize = 512;
/// Longest word or value that is read, in bytes; a longer one is ignored, except a script.
const MAX_VALUE: usize = 4096;
/// Ends of the names of variables that hold flags.
const FLAG_VARIABLES: [&str; 4] = ["ARGS", "FLAGS", "OPTIONS", "OPTS"];

/// A name with a value.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    /// The name as it is written; for a word without a flag, the word.
    pub(super) shown: String,
    /// The words of the name.
    pub(super) name: Name,
    /// The value; `None` if it comes from elsewhere.
    pub(super) value: Option<String>,
    /// Line of the document.
    pub(super) line: u32,
}

/// The settings of one program that go together.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    /// Where they are.
    pub(super) source: ClaimSource,
    /// The settings, in their order.
    pub(super) settings: Vec<Setting>,
}

/// Returns the settings of a container: its command with its arguments, and its variables.
pub(super) fn scopes(container: &Node) -> Vec<Scope> {
    let variables = variables(container);
    let mut scopes = arguments(container, &variables);
    for variable in &variables {
        let is_flags = FLAG_VARIABLES.iter().any(|end| variable.shown.ends_with(end));
        if let Some(value) = variable.value.as_deref().filter(|_| is_flags) {
            let words = value.split_whitespace().map(|word| (Cow::Borrowed(word), variable.line));
            let mut settings = flags(&words.collect::<Vec<_>>());
            for setting in &mut settings {
                setting.shown = format!("{} in {}", setting.shown, variable.shown);
            }
            scopes.push(Scope { source: ClaimSource::Environment, settings });
        }
    }
    scopes.push(Scope { source: ClaimSource::Environment, settings: variables });
    scopes
}

fn items<'a>(container: &'a Node, key: &str) -> &'a [Node] {
    container.get(key).map(Node::items).unwrap_or_default()
}

/// Returns a text, or a number that somebody forgot to quote.
fn text(node: &Node) -> Option<Cow<'_, str>> {
    match &node.value {
        Value::Text(text) => Some(Cow::Borrowed(text)),
        Value::Number(number) => Some(Cow::Owned(number.to_string())),
        _ => None,
    }
}

fn variables(container: &Node) -> Vec<Setting> {
    let variable = |node: &Node| {
        let shown = node.get("name")?.text()?;
        let value = node.get("value").and_then(text).filter(|text| text.len() <= MAX_VALUE);
        let line = node.get("value").map_or(node.line, |value| value.line);
        Some(Setting { shown: shown.to_owned(), name: Name::new(shown), value: value.map(Cow::into_owned), line })
    };
    items(container, "env").iter().take(MAX_ITEMS).filter_map(variable).collect()
}

fn arguments(container: &Node, variables: &[Setting]) -> Vec<Scope> {
    let nodes = ["command", "args"].into_iter().flat_map(|key| items(container, key)).take(MAX_ITEMS);
    let words: Vec<(Cow<'_, str>, u32)> =
        nodes.filter_map(|node| Some((expand(text(node)?, variables), node.line))).collect();
    let source = ClaimSource::Argument;
    let texts: Vec<&str> = words.iter().map(|(word, _)| word.as_ref()).collect();
    let Some(script) = script(&texts) else {
        return vec![Scope { source, settings: flags(&words) }];
    };
    let line = words.iter().find(|(word, _)| word.as_ref() == script).map_or(1, |(_, line)| *line);
    let programs = lasting_programs(script).into_iter().take(MAX_ITEMS);
    let settings = programs.map(|words| {
        flags(&words.into_iter().take(MAX_ITEMS).map(|word| (Cow::Owned(word), line)).collect::<Vec<_>>())
    });
    settings.map(|settings| Scope { source, settings }).collect()
}

/// Puts the values of variables in, as the kubelet does: `$(NAME)`, if the container sets NAME itself.
fn expand<'a>(word: Cow<'a, str>, variables: &[Setting]) -> Cow<'a, str> {
    if !word.contains("$(") || word.contains("$$") || word.len() > MAX_VALUE {
        return word;
    }
    let mut expanded = word;
    for variable in variables {
        let reference = format!("$({})", variable.shown);
        if let Some(value) = variable.value.as_deref().filter(|_| expanded.contains(&reference)) {
            let longer = expanded.replace(&reference, value);
            if longer.len() > MAX_VALUE {
                return expanded;
            }
            expanded = Cow::Owned(longer);
        }
    }
    expanded
}

/// Reads the words of a command: `--name=value`, `--name value`, `-Dname=value`, `name=value`, and words without a flag.
fn flags(words: &[(Cow<'_, str>, u32)]) -> Vec<Setting> {
    let mut settings = Vec::new();
    let mut words = words.iter().filter(|(word, _)| word.len() <= MAX_VALUE).peekable();
    while let Some((word, line)) = words.next() {
        let mut add = |shown: &str, value: &str, line: u32| {
            let name = Name::new(shown.strip_prefix("-D").filter(|rest| rest.contains('.')).unwrap_or(shown));
            settings.push(Setting { shown: shown.to_owned(), name, value: Some(value.to_owned()), line });
        };
        let is_flag = word.len() > 1 && word.starts_with('-');
        match word.split_once('=') {
            Some((name, value)) if is_flag || name.bytes().all(is_name) => add(name, value, *line),
            _ if is_flag => {
                // `--verbose`, and then another flag.
                if let Some((value, line)) = words.next_if(|(next, _)| !next.starts_with('-') && !next.contains('=')) {
                    add(word, value, *line);
                }
            }
            _ => settings.push(Setting {
                shown: word.to_string(),
                name: Name::new(""),
                value: Some(word.to_string()),
                line: *line,
            }),
        }
    }
    settings
}

const fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}
