//! Tabs in front of the lines of a flow collection.
//!
//! YAML forbids them as indentation only, and inside a flow collection there is none; the reader of the API server
//! accepts them, and the parser here does not where the collection stands deep in a block.

use super::lines_of;

/// Replaces each such tab by a space; `None` if there is none. Everything else stays, and so do all lines.
pub(super) fn replace_flow_tabs(text: &str) -> Option<String> {
    let mut result = String::with_capacity(text.len());
    let mut scanner = FlowScanner::default();
    let mut replaced = false;
    for line in lines_of(text) {
        let content = line.trim_start_matches([' ', '\t']);
        let indentation = &line[..line.len() - content.len()];
        if scanner.depth > 0 && scanner.quote.is_none() && indentation.contains('\t') {
            result.push_str(&indentation.replace('\t', " "));
            replaced = true;
        } else {
            result.push_str(indentation);
        }
        result.push_str(content);
        scanner.line(indentation.len(), content);
    }
    replaced.then_some(result)
}

/// Place in a document, as far as flow collections are concerned.
#[derive(Default)]
struct FlowScanner {
    /// Count of collections that are open.
    depth: usize,
    /// The quote that is open.
    quote: Option<char>,
    /// Indentation of the line whose block of text goes on.
    block: Option<usize>,
}

impl FlowScanner {
    fn line(&mut self, indentation: usize, content: &str) {
        if let Some(block) = self.block {
            if content.trim().is_empty() || indentation > block {
                return;
            }
            self.block = None;
        }
        let mut before = None;
        let mut significant = None;
        let mut characters = content.chars();
        while let Some(character) = characters.next() {
            if let Some(quote) = self.quote {
                if character == '\\' && quote == '"' {
                    characters.next();
                } else if character == quote {
                    self.quote = None;
                }
            } else {
                // A bracket or a quote inside a plain text is a part of it.
                let starts_token = matches!(significant, None | Some(':' | '-' | '?' | ',' | '[' | '{'));
                match character {
                    '#' if before.is_none_or(char::is_whitespace) => break,
                    '"' | '\'' if starts_token => self.quote = Some(character),
                    '[' | '{' if starts_token || self.depth > 0 => self.depth += 1,
                    ']' | '}' => self.depth = self.depth.saturating_sub(1),
                    _ => {}
                }
            }
            before = Some(character);
            if !character.is_whitespace() {
                significant = before;
            }
        }
        let words = content.split(" #").next().unwrap_or_default().trim_end();
        let header = words.trim_end_matches(|character: char| matches!(character, '+' | '-' | '1'..='9'));
        let is_text = [": |", ": >", "- |", "- >"].iter().any(|end| header.ends_with(end));
        if self.depth == 0 && self.quote.is_none() && is_text {
            self.block = Some(indentation);
        }
    }
}
