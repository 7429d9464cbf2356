//! Plots as SVG: horizontal bars, which need no more than rectangles and text.

use std::fmt::Write as _;

use crate::xml_escape::escape;

const WIDTH: f64 = 760.0;
const LABELS: f64 = 230.0;
const VALUES: f64 = 90.0;
const ROW: f64 = 24.0;
const TOP: f64 = 44.0;

/// A bar: its label, its value, and the quartiles that are drawn over it.
pub(super) struct Row<'a> {
    pub(super) label: &'a str,
    pub(super) value: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

/// The plot.
pub(super) fn bars(title: &str, unit: &str, rows: &[Row<'_>]) -> String {
    let most = rows.iter().map(|row| row.high).fold(f64::MIN_POSITIVE, f64::max);
    let scale = |value: f64| value / most * (WIDTH - LABELS - VALUES);
    let height = TOP + ROW * rows.len() as f64 + 12.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"12\" y=\"24\" font-size=\"15\" font-weight=\"bold\">{title}, {unit}</text>\n",
        title = escape(title),
        unit = escape(unit),
    );
    for (place, Row { label, value, low, high }) in rows.iter().enumerate() {
        let y = TOP + ROW * place as f64;
        let (middle, text) = (y + ROW / 2.0, y + 16.0);
        let (width, from, to) = (scale(*value), LABELS + scale(*low), LABELS + scale(*high));
        // Writing to a string cannot fail.
        let _ = write!(
            svg,
            "<text x=\"{x:.0}\" y=\"{text:.0}\" text-anchor=\"end\">{label}</text>\n\
             <rect x=\"{LABELS}\" y=\"{bar:.0}\" width=\"{width:.1}\" height=\"16\" fill=\"#4c78a8\"/>\n\
             <path d=\"M{from:.1} {middle:.0}H{to:.1}\" stroke=\"#222\" stroke-width=\"2\"/>\n\
             <text x=\"{after:.1}\" y=\"{text:.0}\">{value}</text>\n",
            x = LABELS - 8.0,
            label = escape(label),
            bar = y + 4.0,
            after = to.max(LABELS + width) + 6.0,
            value = super::short(*value),
        );
    }
    svg.push_str("</svg>\n");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_fills_the_room_and_text_is_escaped() {
        let rows = [
            Row { label: "a<b", value: 10.0, low: 10.0, high: 10.0 },
            Row { label: "c", value: 5.0, low: 4.0, high: 6.0 },
        ];
        let svg = bars("cost", "ns", &rows);
        assert!(svg.contains("width=\"440.0\"") && svg.contains("width=\"220.0\""), "{svg}");
        assert!(svg.contains(">a&lt;b</text>") && svg.contains("M406.0 "), "{svg}");
    }
}
