//! Charts of horizontal bars, as SVG of rectangles and text.

use std::fmt::Write as _;

use crate::xml_escape::escape;

/// Lengths in pixels.
const WIDTH: f64 = 760.0;
const LABEL_WIDTH: f64 = 230.0;
const VALUE_WIDTH: f64 = 90.0;
const ROW_HEIGHT: f64 = 24.0;
const TITLE_HEIGHT: f64 = 44.0;

/// A bar with its label, its value, and quartiles that are drawn over it.
pub(super) struct Row<'a> {
    pub(super) label: &'a str,
    pub(super) value: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

/// Draws a chart. The longest bar fills the width.
pub(super) fn draw(title: &str, unit: &str, rows: &[Row<'_>]) -> String {
    let max = rows.iter().map(|row| row.high).fold(f64::MIN_POSITIVE, f64::max);
    let scale = |value: f64| value / max * (WIDTH - LABEL_WIDTH - VALUE_WIDTH);
    let height = TITLE_HEIGHT + ROW_HEIGHT * rows.len() as f64 + 12.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"12\" y=\"24\" font-size=\"15\" font-weight=\"bold\">{title}, {unit}</text>\n",
        title = escape(title),
        unit = escape(unit),
    );
    for (index, Row { label, value, low, high }) in rows.iter().enumerate() {
        let y = TITLE_HEIGHT + ROW_HEIGHT * index as f64;
        let (middle, text) = (y + ROW_HEIGHT / 2.0, y + 16.0);
        let (width, from, to) = (scale(*value), LABEL_WIDTH + scale(*low), LABEL_WIDTH + scale(*high));
        // Writing to a string cannot fail.
        let _ = write!(
            svg,
            "<text x=\"{x:.0}\" y=\"{text:.0}\" text-anchor=\"end\">{label}</text>\n\
             <rect x=\"{LABEL_WIDTH}\" y=\"{bar:.0}\" width=\"{width:.1}\" height=\"16\" fill=\"#4c78a8\"/>\n\
             <path d=\"M{from:.1} {middle:.0}H{to:.1}\" stroke=\"#222\" stroke-width=\"2\"/>\n\
             <text x=\"{after:.1}\" y=\"{text:.0}\">{value}</text>\n",
            x = LABEL_WIDTH - 8.0,
            label = escape(label),
            bar = y + 4.0,
            after = to.max(LABEL_WIDTH + width) + 6.0,
            value = super::round(*value),
        );
    }
    svg.push_str("</svg>\n");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_bar_fills_the_width_and_text_is_escaped() {
        let rows = [
            Row { label: "a<b", value: 10.0, low: 10.0, high: 10.0 },
            Row { label: "c", value: 5.0, low: 4.0, high: 6.0 },
        ];
        let svg = draw("cost", "ns", &rows);
        assert!(svg.contains("width=\"440.0\"") && svg.contains("width=\"220.0\""), "{svg}");
        assert!(svg.contains(">a&lt;b</text>") && svg.contains("M406.0 "), "{svg}");
    }
}
