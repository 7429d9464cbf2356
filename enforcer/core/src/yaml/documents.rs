//! The documents of a text, each with its lines, as `kustomize build` and `helm template` write them.
//!
//! One that cannot be read does not hide those after it: the text is cut at the markers before anything is parsed. YAML
//! allows a line that begins with `---` nowhere but between documents.

use serde::de::IgnoredAny;
use serde_saphyr::{
    MergeKeyPolicy, NonFiniteFloatPolicy, Options, SnippetMode, budget,
    options::{AliasLimits, DuplicateKeyPolicy},
    render_options,
};

use crate::{model::text::escape_bounded, yaml::spanned::Node};

mod flow_tabs;

/// Largest document that is parsed, in bytes: a list of some thousand pods.
pub const MAX_DOCUMENT: usize = 32 << 20;
/// Longest error message about a text, in characters.
pub const MAX_MESSAGE: usize = 300;
/// Deepest nesting of a document. Definitions of custom resources are the deepest there are, with half of it.
const MAX_DEPTH: usize = 128;
/// Stack for a document of that depth: the parser takes 50 KiB a level where nothing is optimised.
const STACK: usize = 32 << 20;
/// Most values that the aliases of one document may add.
const MAX_ALIASED: usize = 100_000;

const BYTE_ORDER_MARK: char = '\u{feff}';
/// Part of the message about a template that no engine has made a manifest of.
pub const NOT_RENDERED: &str = "looks like a template that was not rendered";
/// Beginnings of what a template engine replaces.
const PLACEHOLDERS: [&str; 4] = ["{{", "{%", "<%", "[["];

/// A document that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableDocument {
    /// Line of the text, counted from 1.
    pub line: u32,
    /// The error. Safe to show.
    pub message: String,
}

/// A document.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Lines of the text before those of [`Self::root`].
    pub lines_before: u32,
    /// The value. Its lines count from the beginning of the document.
    pub root: Node,
}

/// Runs `work` on a stack on which the deepest document that is allowed fits.
///
/// # Panics
///
/// If `work` does, or if no thread can be started.
pub fn with_large_stack<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let worker = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work);
        worker.expect("a thread can be started").join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Returns the documents of a text, one after the other; empty ones are left out. To be called in [`with_large_stack`]
/// where the text is not known to be flat.
pub fn documents(text: &str) -> impl Iterator<Item = Result<Document, UnreadableDocument>> {
    chunks(text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text))
        .map(Chunk::without_marker)
        .filter(|chunk| !chunk.is_blank())
        .flat_map(Chunk::objects)
        .map(|chunk| chunk.parse())
}

/// The lines of one document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Chunk<'a> {
    lines_before: u32,
    text: &'a str,
}

/// Cuts a text before each line that begins a document, and after each that ends one.
fn chunks(text: &str) -> impl Iterator<Item = Chunk<'_>> {
    let mut rest = text;
    let mut lines_before = 0u32;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut end = 0;
        let mut lines = 0u32;
        for line in lines_of(rest) {
            if end > 0 && is_marker(line, "---") {
                break;
            }
            end += line.len();
            lines = lines.saturating_add(1);
            if is_marker(line, "...") {
                break;
            }
        }
        let (text, after) = rest.split_at(end);
        let chunk = Chunk { lines_before, text };
        lines_before = lines_before.saturating_add(lines);
        rest = after;
        Some(chunk)
    })
}

/// Returns the lines of a text, each with what ends it. Lines are counted as YAML 1.2 does (5.4, line break
/// characters), and with it the parser: a carriage return alone ends a line too.
fn lines_of(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive('\n').flat_map(|lines| {
        let ending = if lines.ends_with("\r\n") { 2 } else { usize::from(lines.ends_with('\n')) };
        let mut rest = lines;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let end = rest[..rest.len() - ending].find('\r').map_or(rest.len(), |at| at + 1);
            let (line, after) = rest.split_at(end);
            rest = after;
            Some(line)
        })
    })
}

/// Returns a line without the byte order mark of a file that begins with it.
fn without_mark(line: &str) -> &str {
    line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line)
}

fn is_marker(line: &str, marker: &str) -> bool {
    without_mark(line).strip_prefix(marker).is_some_and(|rest| rest.chars().next().is_none_or(char::is_whitespace))
}

impl Chunk<'_> {
    /// Returns the lines below a marker that has a line of its own, without the byte order mark that a file may begin
    /// with: files are joined by such markers.
    fn without_marker(self) -> Self {
        let Some(marker) = lines_of(self.text).next() else {
            return self;
        };
        let is_alone = without_mark(marker).strip_prefix("---").is_some_and(|rest| {
            let comment = rest.trim_start();
            comment.is_empty() || (comment.len() < rest.len() && comment.starts_with('#'))
        });
        if !is_alone {
            return self;
        }
        let text = without_mark(&self.text[marker.len()..]);
        Self { lines_before: self.lines_before.saturating_add(1), text }
    }

    /// Checks whether it holds comments, directives and markers only.
    fn is_blank(&self) -> bool {
        lines_of(self.text).all(|line| {
            let line = without_mark(line);
            let word = line.strip_prefix("---").unwrap_or(line).trim();
            word.is_empty() || word.starts_with('#') || line.starts_with('%') || word == "..."
        })
    }

    /// Splits JSON objects: one after the other, they need no marker between them.
    fn objects(self) -> Vec<Self> {
        if !self.text.trim_start().starts_with('{') {
            return vec![self];
        }
        let mut parts = Vec::new();
        let mut start = 0;
        let mut lines_before = self.lines_before;
        let mut stream = serde_json::Deserializer::from_str(self.text).into_iter::<IgnoredAny>();
        while let Some(object) = stream.next() {
            if object.is_err() {
                // Not JSON: the YAML parser reads it, or reports the error.
                return vec![self];
            }
            let end = stream.byte_offset();
            let text = &self.text[start..end];
            parts.push(Self { lines_before, text });
            let lines = lines_of(text).filter(|line| line.ends_with(['\r', '\n'])).count();
            lines_before = lines_before.saturating_add(u32::try_from(lines).unwrap_or(u32::MAX));
            start = end;
        }
        parts
    }

    fn parse(&self) -> Result<Document, UnreadableDocument> {
        let lines_before = self.lines_before;
        if self.text.len() > MAX_DOCUMENT {
            let message = format!("the document is larger than {MAX_DOCUMENT} bytes; split it");
            return Err(UnreadableDocument { line: lines_before.saturating_add(1), message });
        }
        let parse = |text: &str| serde_saphyr::from_str_with_options(text, options(text.len()));
        let parsed = parse(self.text).or_else(|error| {
            let replaced = flow_tabs::replace_flow_tabs(self.text);
            replaced.and_then(|text| parse(&text).ok()).ok_or(error)
        });
        match parsed {
            Ok(root) => Ok(Document { lines_before, root }),
            Err(error) => {
                let line = error.location().map_or(1, |location| u32::try_from(location.line()).unwrap_or(u32::MAX));
                let offset = u64::from(lines_before);
                let rendered =
                    error.render_with_options(render_options! { snippets: SnippetMode::Off, line_offset: offset });
                let line = lines_before.saturating_add(line.max(1));
                if let Some((place, opening)) = self.placeholder() {
                    let message =
                        format!("{NOT_RENDERED} ({opening} at line {place}), and is not valid YAML: {rendered}");
                    return Err(UnreadableDocument { line: place, message: escape_bounded(&message, MAX_MESSAGE) });
                }
                let mark = self.inner_mark().map_or_else(String::new, |place| {
                    format!(
                        "; a file that begins at line {place} with a byte order mark was appended without a line ---"
                    )
                });
                let message = escape_bounded(&format!("is not valid YAML: {rendered}{mark}"), MAX_MESSAGE);
                Err(UnreadableDocument { line, message })
            }
        }
    }
}

impl Chunk<'_> {
    /// Returns the line of the text, and the opening, of the first thing that a template engine would replace. In a
    /// comment or behind a quote it may be meant for somebody else.
    fn placeholder(&self) -> Option<(u32, &'static str)> {
        self.find_line(|line| {
            let code = line.split(['#', '"', '\'', '`']).next().unwrap_or_default();
            let opens = |opening: &&str| {
                let next = code.split_once(opening).map(|(_, rest)| rest.chars().next());
                // A list in a list holds numbers or quoted texts more often than words.
                let is_word = |next: char| next.is_alphabetic() || matches!(next, ' ' | '-' | '.' | '$');
                next.is_some_and(|next| *opening != "[[" || next.is_some_and(is_word))
            };
            PLACEHOLDERS.into_iter().find(opens)
        })
    }

    /// Returns the line of the text, after the first one, that begins with a byte order mark.
    fn inner_mark(&self) -> Option<u32> {
        let first = self.lines_before.saturating_add(1);
        let found = self.find_line(|line| line.starts_with(BYTE_ORDER_MARK).then_some(()));
        found.map(|(place, ())| place).filter(|place| *place != first)
    }

    fn find_line<T>(&self, find: impl Fn(&str) -> Option<T>) -> Option<(u32, T)> {
        let (place, found) = (1..).zip(lines_of(self.text)).find_map(|(place, line)| Some((place, find(line)?)))?;
        Some((self.lines_before.saturating_add(place), found))
    }
}

/// Reads as the API server's own reader does (sigs.k8s.io/yaml, which is YAML 1.1): `yes` is true, `0644` is octal, and
/// of a key that is there twice the last one counts.
fn options(length: usize) -> Options {
    let mut limits = AliasLimits::default();
    limits.max_total_replayed_events = MAX_ALIASED;
    serde_saphyr::options! {
        budget: budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            // The text itself is bounded already, and a value takes a byte at least.
            max_events: 4 * length + MAX_ALIASED,
            max_nodes: 2 * length + MAX_ALIASED,
            // How much aliases may add is bounded below; one anchor for a hundred labels is fine.
            enforce_alias_anchor_ratio: false,
        },
        alias_limits: limits,
        duplicate_keys: DuplicateKeyPolicy::LastWins,
        merge_keys: MergeKeyPolicy::Merge,
        legacy_octal_numbers: true,
        strict_booleans: false,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        with_snippet: false,
        // They would count towards a limit of their own.
        emit_comments: false,
    }
}

#[cfg(test)]
mod tests;
