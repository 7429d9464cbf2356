//! Conversion of terminal text with SGR colours to SVG.

use std::fmt::Write as _;

use crate::xml_escape::escape;

/// Width of a character and height of a line, in pixels.
const CHARACTER_WIDTH: usize = 9;
const LINE_HEIGHT: usize = 20;
/// Space around the text, in pixels.
const MARGIN: usize = 16;

/// Draws a text. The title is for screen readers.
pub(super) fn draw(text: &str, title: &str) -> String {
    let lines: Vec<Vec<(u8, String)>> = text.lines().map(spans).collect();
    let length = |line: &Vec<(u8, String)>| line.iter().map(|(_, text)| text.chars().count()).sum::<usize>();
    let width = lines.iter().map(length).max().unwrap_or(0) * CHARACTER_WIDTH + 2 * MARGIN;
    let height = lines.len() * LINE_HEIGHT + 2 * MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         role=\"img\">\n<title>{}</title>\n<rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#0d1117\"/>\n\
         <g font-family=\"ui-monospace, SFMono-Regular, Menlo, Consolas, monospace\" font-size=\"15\" xml:space=\"preserve\">\n",
        escape(title)
    );
    for (number, line) in lines.iter().enumerate() {
        let mut column = 0;
        let y = MARGIN + number * LINE_HEIGHT + LINE_HEIGHT * 3 / 4;
        for (style, text) in line {
            let (x, characters) = (MARGIN + column * CHARACTER_WIDTH, text.chars().count());
            column += characters;
            if text.trim().is_empty() {
                continue;
            }
            // With its length, so that columns are straight in every font.
            let _ = writeln!(
                svg,
                "<text x=\"{x}\" y=\"{y}\" textLength=\"{}\" {}>{}</text>",
                characters * CHARACTER_WIDTH,
                attributes(*style),
                escape(text)
            );
        }
    }
    svg.push_str("</g>\n</svg>\n");
    svg
}

const fn attributes(style: u8) -> &'static str {
    match style {
        1 => "fill=\"#f0f6fc\" font-weight=\"bold\"",
        2 => "fill=\"#8b949e\"",
        31 => "fill=\"#ff7b72\"",
        32 => "fill=\"#7ee787\"",
        33 => "fill=\"#e3b341\"",
        _ => "fill=\"#c9d1d9\"",
    }
}

/// Splits a line into parts of one style. Style 0 is the default.
fn spans(line: &str) -> Vec<(u8, String)> {
    let mut parts = line.split("\u{1b}[");
    let mut spans = vec![(0, parts.next().unwrap_or_default().to_owned())];
    for part in parts {
        let (style, text) = part.split_once('m').unwrap_or(("0", part));
        spans.push((style.parse().unwrap_or(0), text.to_owned()));
    }
    spans.retain(|(_, text)| !text.is_empty());
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_is_split_by_colour() {
        let line = "  a \u{1b}[31mdeny\u{1b}[0m  b";
        assert_eq!(spans(line), [(0, "  a ".to_owned()), (31, "deny".to_owned()), (0, "  b".to_owned())]);
        let svg = draw(&format!("{line}\nx < y & z"), "title");
        assert!(svg.contains(&format!("<text x=\"{}\"", MARGIN + 4 * CHARACTER_WIDTH)), "{svg}");
        assert!(svg.contains("fill=\"#ff7b72\">deny</text>") && svg.contains("x &lt; y &amp; z"), "{svg}");
        assert!(!svg.contains('\u{1b}'), "{svg}");
        assert!(svg.contains(&format!("height=\"{}\"", 2 * LINE_HEIGHT + 2 * MARGIN)), "{svg}");
    }
}
