//! How the story is told: text of a terminal's width, with colours where they are wanted.

use std::env;
use std::io::{self, IsTerminal as _, Write as _};

use super::expectations::{Act, Attempt};
use super::pods::short;
use super::terminal_svg;

/// Text is never narrower or wider than that.
const NARROWEST: usize = 80;
const WIDEST: usize = 120;
/// Where nobody knows how wide the output will be shown.
const USUAL: usize = 100;

const HEADER: [&str; 5] = ["attempt", "verdict", "errno", "reason", "owner"];
/// What a table shows where there is nothing.
const NOTHING: &str = "-";

/// A colour of the terminal: the number in the SGR sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Bold = 1,
    Dim = 2,
    Red = 31,
    Green = 32,
    Yellow = 33,
}

/// Where the story is told.
#[derive(Debug)]
pub(super) struct Stage {
    /// Standard output is for a program, so that only headings are told, on standard error.
    quiet: bool,
    colours: bool,
    width: usize,
}

impl Stage {
    pub(super) fn new(quiet: bool) -> Self {
        let terminal = io::stdout().is_terminal();
        let size = rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| usize::from(size.ws_col));
        let columns = || env::var("COLUMNS").ok()?.parse().ok();
        let width = size.filter(|&width| terminal && width > 0).or_else(columns).unwrap_or(USUAL);
        Self {
            quiet,
            colours: terminal && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            width: width.clamp(NARROWEST, WIDEST),
        }
    }

    /// The head of a part.
    pub(super) fn heading(&self, text: &str) -> anyhow::Result<()> {
        if self.quiet {
            eprintln!("demo: {text}");
            return Ok(());
        }
        self.print(&format!("\n{}\n", self.style(text, Style::Bold)))
    }

    /// What happens.
    pub(super) fn say(&self, text: &str) -> anyhow::Result<()> {
        self.print(&wrap(text, self.width, "  ", "  "))
    }

    /// One of the persons of the story, or of its places, in two columns.
    pub(super) fn introduce(&self, name: &str, text: &str) -> anyhow::Result<()> {
        self.print(&wrap(text, self.width, &format!("  {name:<23}"), &" ".repeat(25)))
    }

    /// What a server said, word for word.
    pub(super) fn quote(&self, words: &str) -> anyhow::Result<()> {
        self.print(&self.style_lines(&wrap(words, self.width, "    | ", "    | "), Style::Dim))
    }

    /// What the enforcer told.
    pub(super) fn told(&self, sentence: &str, denied: bool) -> anyhow::Result<()> {
        let style = if denied { Style::Red } else { Style::Yellow };
        self.print(&self.style_lines(&wrap(sentence, self.width, "    enforcer: ", "              "), style))
    }

    /// The closing table.
    pub(super) fn table(&self, acts: &[Act]) -> anyhow::Result<()> {
        self.print(&self.table_text(acts))
    }

    /// The closing table as a picture, which has room and colours.
    pub(super) fn picture(acts: &[Act]) -> String {
        let stage = Self { quiet: false, colours: true, width: WIDEST };
        terminal_svg::picture(&stage.table_text(acts), "What the demo saw: off, audit, enforce")
    }

    fn table_text(&self, acts: &[Act]) -> String {
        let rows: Vec<_> = acts.iter().flat_map(|act| &act.attempts).map(cells).collect();
        let mut widths = HEADER.map(str::len);
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.len());
            }
        }
        let spacious = 2 + widths.iter().sum::<usize>() + 2 * (widths.len() - 1) <= self.width;
        let line = |cells: &[String; 5], style: Option<Style>| {
            let mut padded = cells.clone();
            for (cell, width) in padded.iter_mut().zip(widths) {
                *cell = format!("{cell:<width$}");
            }
            if let Some(style) = style {
                padded[1] = self.style(&padded[1], style);
            }
            let (indent, gap) = if spacious { ("  ", "  ") } else { ("", " ") };
            format!("{indent}{}\n", padded.join(gap).trim_end())
        };
        let mut text = self.style_lines(&line(&HEADER.map(str::to_owned), None), Style::Dim);
        let mut rows = rows.iter();
        for act in acts {
            text.push_str(&self.style(&format!("mode {}", act.mode.as_str()), Style::Bold));
            text.push('\n');
            for row in rows.by_ref().take(act.attempts.len()) {
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

    /// Each line for itself, so that no colour runs on over the end of a line.
    fn style_lines(&self, text: &str, style: Style) -> String {
        text.lines().map(|line| self.style(line, style) + "\n").collect()
    }
}

fn cells(attempt: &Attempt) -> [String; 5] {
    let cell = |text: &Option<String>| text.as_deref().map_or(NOTHING, short).to_owned();
    [
        format!("{} {}/{}", short(&attempt.pod), attempt.port, attempt.protocol),
        cell(&attempt.verdict),
        cell(&attempt.errno),
        cell(&attempt.reason),
        cell(&attempt.owner),
    ]
}

/// Breaks text into lines of at most `width` characters, unless a single word is longer. Control characters, which
/// could move the cursor, are shown as `?`.
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
    fn text_is_broken_between_words() {
        assert_eq!(wrap("one two three", 9, "- ", "  "), "- one two\n  three\n");
        assert_eq!(wrap("incomprehensible word", 6, "- ", "  "), "- incomprehensible\n  word\n");
        assert_eq!(wrap("", 9, "- ", "  "), "- \n");
        assert_eq!(wrap("a \u{1b}[2J b", 20, "", ""), "a ?[2J b\n");
    }

    #[test]
    fn colours_are_only_where_they_are_wanted() {
        let plain = Stage { quiet: false, colours: false, width: 80 };
        assert_eq!(plain.style("x", Style::Red), "x");
        let coloured = Stage { colours: true, ..plain };
        assert_eq!(coloured.style_lines("x\ny\n", Style::Red), "\u{1b}[31mx\u{1b}[0m\n\u{1b}[31my\u{1b}[0m\n");
    }
}
