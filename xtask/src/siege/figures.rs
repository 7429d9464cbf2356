//! Figures that tests print: `figure PART.NAME VALUE` on a line of its own, each once.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail, ensure};

/// First word of such a line.
const WORD: &str = "figure ";

/// Figures by name.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Figures(BTreeMap<String, u64>);

impl Figures {
    pub(super) fn get(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Adds the figures of another test.
    ///
    /// # Errors
    ///
    /// If both have a figure of one name.
    pub(super) fn merge(&mut self, other: Self) -> anyhow::Result<()> {
        other.0.into_iter().try_for_each(|(name, value)| self.insert(&name, value))
    }

    fn insert(&mut self, name: &str, value: u64) -> anyhow::Result<()> {
        ensure!(self.0.insert(name.to_owned(), value).is_none(), "the figure `{name}` was printed twice");
        Ok(())
    }
}

/// Parser for output that arrives in pieces of any size.
#[derive(Debug, Default)]
pub(super) struct FigureParser {
    line: Vec<u8>,
    figures: Figures,
    error: Option<anyhow::Error>,
}

impl FigureParser {
    /// Parses the next piece of output.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                self.end_line();
            } else {
                self.line.push(byte);
            }
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line);
        if line.starts_with(WORD)
            && self.error.is_none()
            && let Err(error) = parse(&line).and_then(|(name, value)| self.figures.insert(name, value))
        {
            self.error = Some(error);
        }
    }

    /// Parses the rest as a line, and returns the figures.
    ///
    /// # Errors
    ///
    /// If a line of a figure has another form, or a figure was printed twice.
    pub(super) fn finish(mut self) -> anyhow::Result<Figures> {
        self.end_line();
        self.error.map_or(Ok(self.figures), Err)
    }
}

/// Parses the line of a figure.
fn parse(line: &str) -> anyhow::Result<(&str, u64)> {
    let is_name = |name: &str| {
        name.contains('.')
            && name.split('.').all(|part| {
                !part.is_empty()
                    && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
            })
    };
    match line.split(' ').collect::<Vec<_>>().as_slice() {
        [_, name, value] if is_name(name) && value.bytes().all(|byte| byte.is_ascii_digit()) => {
            Ok((name, value.parse().with_context(|| format!("`{line}` has no number"))?))
        }
        _ => bail!("`{line}` is no line of a figure: write `figure PART.NAME VALUE`"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Returns the figures in a text.
    pub(in super::super) fn parse_all(text: &str) -> anyhow::Result<Figures> {
        let mut parser = FigureParser::default();
        parser.feed(text.as_bytes());
        parser.finish()
    }

    #[test]
    fn figures_are_found_among_the_output_of_tests() {
        let text =
            "test a ... \nfigure storm.attempts 10\nok\n figure x.y 1\nfigures\nfigure api.checks_2 0\ntest b ... ok";
        let figures = parse_all(text).unwrap();
        assert_eq!(figures.names().collect::<Vec<_>>(), ["api.checks_2", "storm.attempts"]);
        assert_eq!((figures.get("storm.attempts"), figures.get("x.y")), (Some(10), None));
        for size in 1..text.len() {
            let mut parser = FigureParser::default();
            text.as_bytes().chunks(size).for_each(|piece| parser.feed(piece));
            assert_eq!(parser.finish().unwrap(), figures, "in pieces of {size} bytes");
        }
    }

    #[test]
    fn other_forms_are_errors() {
        for line in [
            "figure ",
            "figure a.b",
            "figure a.b ",
            "figure a 1",
            "figure .b 1",
            "figure a.b -1",
            "figure a.b +1",
            "figure a.b 1.5",
            "figure a.b 1 2",
            "figure  a.b 1",
            "figure a.B 1",
            "figure a.b 99999999999999999999",
        ] {
            assert!(parse_all(line).is_err(), "{line:?}");
        }
        assert!(parse_all("figure a.b 1\nfigure a.b 1").is_err(), "twice");
        let mut figures = parse_all("figure a.b 1").unwrap();
        assert!(figures.merge(parse_all("figure a.b 2").unwrap()).is_err(), "by two tests");
    }
}
