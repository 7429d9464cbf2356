//! The table: ports and their users, read from YAML or JSON.

use std::{fmt, sync::Arc};

use crate::{
    check::object::{Location, ManifestObject, ManifestService},
    model::{list_text::and_list, port_spec::PortSpec, text::escape_bounded},
    yaml::{
        documents::{Document, UnreadableDocument, documents, with_large_stack},
        spanned::{Node, Value},
    },
};

/// API version of the table.
pub(super) const API_VERSION: &str = "port-enforcer.io/v1alpha1";
/// Kind of the table.
pub(super) const KIND: &str = "PortRegistry";
/// User of the ports that the node itself has.
const NODE: &str = "node";
/// Most entries that count.
pub(super) const MAX_ENTRIES: usize = 20_000;
/// Most problems that are kept.
const MAX_PROBLEMS: usize = 100;
/// Longest text of the table that is quoted, in characters.
const MAX_QUOTED: usize = 64;
/// Most users that a message names.
const MAX_NAMED: usize = 3;

/// The table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortRegistry {
    /// Its file, safe to show.
    pub file: Arc<str>,
    /// Its entries, in their order.
    pub entries: Vec<RegistryEntry>,
    /// Entries that count for nothing: place and reason, safe to show.
    pub problems: Vec<(Location, String)>,
    /// Count of those beyond that.
    pub more_problems: usize,
}

/// Ports and their users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryEntry {
    /// The ports.
    pub spec: PortSpec,
    /// The users; at least one.
    pub users: Vec<PortUser>,
    /// Line of the file.
    pub line: u32,
}

/// A user of ports: an object, some of them, or the node itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortUser {
    /// The node.
    Node,
    /// Objects.
    Objects {
        /// Their kind; `None` for each.
        kind: Option<String>,
        /// Their namespace.
        namespace: String,
        /// Their name, or its beginning.
        name: String,
        /// What follows the name may be anything: it ends in `*`.
        is_beginning: bool,
    },
}

/// Kind, namespace and name of whoever claims a port, safe to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UserName {
    kind: String,
    namespace: String,
    name: String,
}

impl UserName {
    pub(super) fn of_object(object: &ManifestObject) -> Self {
        let kind = object.kind_name.to_string();
        Self { kind, namespace: object.shown_namespace(), name: object.shown_name() }
    }

    pub(super) fn of_service(service: &ManifestService) -> Self {
        let kind = "Service".to_owned();
        Self { kind, namespace: service.shown_namespace(), name: service.shown_name() }
    }
}

/// The form of the table.
impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, namespace, name } = self;
        write!(f, "{kind} {namespace}/{name}")
    }
}

impl PortUser {
    /// Checks whether it is the user with a name.
    pub(super) fn is(&self, user: &UserName) -> bool {
        let Self::Objects { kind, namespace, name, is_beginning } = self else { return false };
        kind.as_ref().is_none_or(|kind| kind.eq_ignore_ascii_case(&user.kind))
            && *namespace == user.namespace
            && if *is_beginning { user.name.starts_with(name.as_str()) } else { user.name == *name }
    }

    fn parse(text: &str) -> Result<Self, String> {
        if text == NODE {
            return Ok(Self::Node);
        }
        let mut words = text.split_ascii_whitespace();
        let (kind, object) = match (words.next(), words.next(), words.next()) {
            (Some(object), None, None) => (None, object),
            (Some(kind), Some(object), None) => (Some(kind.to_owned()), object),
            _ => return Err(bad_user(text)),
        };
        let Some((namespace, name)) = object.split_once('/') else { return Err(bad_user(text)) };
        let beginning = name.strip_suffix('*');
        let is_bad = |text: &str| text.contains(['*', '/']);
        if namespace.is_empty() || name.is_empty() || is_bad(namespace) || is_bad(beginning.unwrap_or(name)) {
            return Err(bad_user(text));
        }
        let is_beginning = beginning.is_some();
        let name = beginning.unwrap_or(name).to_owned();
        Ok(Self::Objects { kind, namespace: namespace.to_owned(), name, is_beginning })
    }
}

/// The form of the table, safe to show.
impl fmt::Display for PortUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Objects { kind, namespace, name, is_beginning } = self else { return f.write_str("the node") };
        let end = if *is_beginning { "*" } else { "" };
        let kind = kind.as_ref().map(|kind| format!("{kind} ")).unwrap_or_default();
        f.write_str(&escape_bounded(&format!("{kind}{namespace}/{name}{end}"), MAX_QUOTED * 8))
    }
}

impl RegistryEntry {
    /// Returns the users for a sentence, safe to show.
    #[must_use]
    pub fn shown_users(&self) -> String {
        and_list(&self.users, MAX_NAMED)
    }
}

impl PortRegistry {
    /// Reads a table. `file` is the name of its file, safe to show.
    ///
    /// # Errors
    ///
    /// If it is no table at all: the reason, safe to show. An entry that cannot be read is one of [`Self::problems`].
    pub fn read(text: &str, file: &Arc<str>) -> Result<Self, String> {
        with_large_stack(|| {
            let mut tables = documents(text)
                .filter(|document| !matches!(document, Ok(Document { root, .. }) if root.value == Value::Null));
            let Document { lines_before, root } = match tables.next() {
                None => return Err("it is empty".to_owned()),
                Some(Err(UnreadableDocument { line, message })) => return Err(format!("line {line}: {message}")),
                Some(Ok(document)) => document,
            };
            if tables.next().is_some() {
                return Err("it has more than one document".to_owned());
            }
            let mut table = Self { file: file.clone(), ..Self::default() };
            let word = |key: &str| root.get(key).and_then(Node::text).unwrap_or_default();
            if (word("apiVersion"), word("kind")) != (API_VERSION, KIND) {
                return Err(format!("it does not begin with apiVersion: {API_VERSION} and kind: {KIND}"));
            }
            let ports = match root.get("ports") {
                // An empty list is a table in which nobody has a port.
                None => &[][..],
                Some(Node { value: Value::List(entries), .. }) => entries,
                Some(_) => return Err("its ports are no list".to_owned()),
            };
            for node in ports {
                let line = lines_before.saturating_add(node.line);
                match entry(node, line) {
                    Ok(_) if table.entries.len() == MAX_ENTRIES => {
                        table.problem(line, format!("there are more than {MAX_ENTRIES} entries"));
                    }
                    Ok(entry) => table.entries.push(entry),
                    Err(message) => table.problem(line, message),
                }
            }
            Ok(table)
        })
    }

    fn problem(&mut self, line: u32, message: String) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push((Location { file: self.file.clone(), line: Some(line) }, message));
        } else {
            self.more_problems += 1;
        }
    }
}

/// Reads an entry.
fn entry(node: &Node, line: u32) -> Result<RegistryEntry, String> {
    if !matches!(node.value, Value::Map(_)) {
        return Err("the entry is no mapping; write {port: 80/tcp, user: NAMESPACE/NAME}".to_owned());
    }
    if let Some((key, _)) = node.entries().iter().find(|(key, _)| !["port", "user", "note"].contains(&key.as_str())) {
        return Err(format!("the entry has the key '{}'; write port, user and note", quoted(key)));
    }
    let port = match node.get("port").map(|node| &node.value) {
        Some(Value::Text(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => return Err("the entry has no port; write one, as in 80/tcp or 8000-8010".to_owned()),
    };
    let spec: PortSpec = port.trim().parse().map_err(|kind| format!("port '{}': {kind}", quoted(&port)))?;
    let user = node.get("user").ok_or("the entry has no user; write NAMESPACE/NAME, KIND NAMESPACE/NAME or node")?;
    let texts: Vec<&Node> = if let Value::List(users) = &user.value { users.iter().collect() } else { vec![user] };
    let users = texts.into_iter().map(|node| PortUser::parse(node.text().ok_or("a user is no text")?));
    let users = users.collect::<Result<Vec<_>, String>>()?;
    if users.is_empty() {
        return Err("the entry has no user".to_owned());
    }
    Ok(RegistryEntry { spec, users, line })
}

fn bad_user(text: &str) -> String {
    format!("user '{}' is none; write NAMESPACE/NAME, KIND NAMESPACE/NAME (NAME may end in *) or node", quoted(text))
}

fn quoted(text: &str) -> String {
    escape_bounded(text, MAX_QUOTED)
}
