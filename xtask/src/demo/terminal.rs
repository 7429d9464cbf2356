//! Text output of the demo, wrapped to the width of the terminal, in colours if it supports them.

use std::env;
use std::io::{self, IsTerminal as _, Write as _};

use super::pods::short_name;
use super::results::{Attempt, ScenarioResult};
use super::terminal_svg;

/// Limits of the text width, in characters.
const MIN_WIDTH: usize = 80;
const MAX_WIDTH: usize = 120;
/// Text width for output that does not go to a terminal.
const DEFAULT_WIDTH: usize = 100;

const HEADER: [&str; 5] = ["attempt", "verdict", "errno", "reason", "owner"];
/// Cell of a missing value.
const EMPTY_CELL: &str = "-";

/// Style of text, by its number in the SGR escape sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Bold = 1,
    Dim = 2,
    Red = 31,
    Green = 32,
    Yellow = 33,
}

/// Printer for the text of the demo.
#[derive(Debug)]
pub(super) struct Terminal {
    /// Standard output is for a program. Only headings are printed, on standard error.
    quiet: bool,
    colours: bool,
    width: usize,
}

impl Terminal {
    /// Detects the width and the colours of standard output.
    pub(super) fn new(quiet: bool) -> Self {
        let terminal = io::stdout().is_terminal();
        let size = rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| usize::from(size.ws_col));
        let columns = || env::var("COLUMNS").ok()?.parse().ok();
        let width = size.filter(|&width| terminal && width > 0).or_else(columns).unwrap_or(DEFAULT_WIDTH);
        Self {
            quiet,
            colours: terminal && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            width: width.clamp(MIN_WIDTH, MAX_WIDTH),
        }
    }

    /// Prints the heading of a section.
    pub(super) fn heading(&self, text: &str) -> anyhow::Result<()> {
        if self.quiet {
            eprintln!("demo: {text}");
            return Ok(());
        }
        self.print(&format!("\n{}\n", self.style(text, Style::Bold)))
    }

    /// Prints a paragraph.
    pub(super) fn paragraph(&self, text: &str) -> anyhow::Result<()> {
        self.print(&wrap(text, self.width, "  ", "  "))
    }

    /// Prints an entry of a list: a name and its description in two columns.
    pub(super) fn entry(&self, name: &str, text: &str) -> anyhow::Result<()> {
        self.print(&wrap(text, self.width, &format!("  {name:<23}"), &" ".repeat(25)))
    }

    /// Prints the message of a server.
    pub(super) fn server_message(&self, message: &str) -> anyhow::Result<()> {
        self.print(&self.style_lines(&wrap(message, self.width, "    | ", "    | "), Style::Dim))
    }

    /// Prints the message of the enforcer, in red for a denied bind.
    pub(super) fn enforcer_message(&self, message: &str, denied: bool) -> anyhow::Result<()> {
        let style = if denied { Style::Red } else { Style::Yellow };
        self.print(&self.style_lines(&wrap(message, self.width, "    enforcer: ", "              "), style))
    }

    /// Prints the summary table.
    pub(super) fn table(&self, scenarios: &[ScenarioResult]) -> anyhow::Result<()> {
        self.print(&self.table_text(scenarios))
    }

    /// Draws the summary table as SVG, in full width and in colours.
    pub(super) fn table_svg(scenarios: &[ScenarioResult]) -> String {
        let terminal = Self { quiet: false, colours: true, width: MAX_WIDTH };
        terminal_svg::draw(&terminal.table_text(scenarios), "Results of the demo: off, audit, enforce")
    }

    fn table_text(&self, scenarios: &[ScenarioResult]) -> String {
        let rows: Vec<_> = scenarios.iter().flat_map(|scenario| &scenario.attempts).map(cells).collect();
        let mut widths = HEADER.map(str::len);
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.len());
            }
        }
        let fits = 2 + widths.iter().sum::<usize>() + 2 * (widths.len() - 1) <= self.width;
        let line = |cells: &[String; 5], style: Option<Style>| {
            let mut padded = cells.clone();
            for (cell, width) in padded.iter_mut().zip(widths) {
                *cell = format!("{cell:<width$}");
            }
            if let Some(style) = style {
                padded[1] = self.style(&padded[1], style);
            }
            let (indent, gap) = if fits { ("  ", "  ") } else { ("", " ") };
            format!("{indent}{}\n", padded.join(gap).trim_end())
        };
        let mut text = self.style_lines(&line(&HEADER.map(str::to_owned), None), Style::Dim);
        let mut rows = rows.iter();
        for scenario in scenarios {
            text.push_str(&self.style(&format!("mode {}", scenario.mode.as_str()), Style::Bold));
            text.push('\n');
            for row in rows.by_ref().take(scenario.attempts.len()) {
                let style = match row[1].as_str() {
                    "deny" => Some(Style::Red),
                    "audit" => Some(Style::Yellow),
                    "allow" => Some(Style::Green),
                    _ => None,
                };
                text.push_str(&line(row, style));
            }
        }
        text
    }

    fn print(&self, text: &str) -> anyhow::Result<()> {
        if !self.quiet {
            let mut out = io::stdout().lock();
            out.write_all(text.as_bytes())?;
            out.flush()?;
        }
        Ok(())
    }

    fn style(&self, text: &str, style: Style) -> String {
        if self.colours { format!("\u{1b}[{}m{text}\u{1b}[0m", style as u8) } else { text.to_owned() }
    }

    /// Styles each line separately, so that no colour extends beyond the end of a line.
    fn style_lines(&self, text: &str, style: Style) -> String {
        text.lines().map(|line| self.style(line, style) + "\n").collect()
    }
}

/// Returns the cells of an attempt's row.
fn cells(attempt: &Attempt) -> [String; 5] {
    let cell = |text: &Option<String>| text.as_deref().map_or(EMPTY_CELL, short_name).to_owned();
    [
        format!("{} {}/{}", short_name(&attempt.pod), attempt.port, attempt.protocol),
        cell(&attempt.verdict),
        cell(&attempt.errno),
        cell(&attempt.reason),
        cell(&attempt.owner),
    ]
}

/// Breaks text into lines of at most `width` characters, except where a single word is longer. Replaces control
/// characters, which could move the cursor, by `?`.
fn wrap(text: &str, width: usize, first: &str, others: &str) -> String {
    let mut lines = String::new();
    let mut line = first.to_owned();
    let mut has_words = false;
    for word in text.split_whitespace() {
        let word: String = word.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        if has_words && line.chars().count() + 1 + word.chars().count() > width {
            lines.push_str(&line);
            lines.push('\n');
            others.clone_into(&mut line);
            has_words = false;
        }
        if has_words {
            line.push(' ');
        }
        line.push_str(&word);
        has_words = true;
    }
    lines.push_str(&line);
    lines.push('\n');
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_wraps_between_words() {
        assert_eq!(wrap("one two three", 9, "- ", "  "), "- one two\n  three\n");
        assert_eq!(wrap("incomprehensible word", 6, "- ", "  "), "- incomprehensible\n  word\n");
        assert_eq!(wrap("", 9, "- ", "  "), "- \n");
        assert_eq!(wrap("a \u{1b}[2J b", 20, "", ""), "a ?[2J b\n");
    }

    #[test]
    fn escape_sequences_are_printed_only_with_colours() {
        let plain = Terminal { quiet: false, colours: false, width: 80 };
        assert_eq!(plain.style("x", Style::Red), "x");
        let coloured = Terminal { colours: true, ..plain };
        assert_eq!(coloured.style_lines("x\ny\n", Style::Red), "\u{1b}[31mx\u{1b}[0m\n\u{1b}[31my\u{1b}[0m\n");
    }
}
