//! Writer of `docs/performance.md` and its charts: measurements, and the experiments behind them.

use std::fmt::Write as _;
use std::fs;

use super::bar_chart::{self, Row};
use super::thresholds::ThresholdResult;
use super::{Measurement, Measurements, round, write_file};
use crate::process;

/// Sections that no measurement fills: the method, and earlier experiments.
const METHOD: &str = include_str!("measurement_method.md");
const EXPERIMENTS: &str = include_str!("experiments.md");

/// A chart: its file, its title, and for each bar the label and the measurement.
type Chart = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const CHARTS: [Chart; 4] = [
    (
        "performance-bind.svg",
        "Kernel time of the bind program",
        &[
            ("empty program", "hook/empty-refused/bind"),
            ("unclaimed port", "hook/unclaimed/bind"),
            ("owned port", "hook/owned/bind"),
            ("denied, event rate-limited", "hook/denied/bind"),
            ("denied and reported", "hook/denied-told/bind"),
            ("audited and reported", "hook/audited/bind"),
            ("list of 1 rule", "hook/rules-1/bind"),
            ("list of 16 rules", "hook/rules-16/bind"),
            ("list of 128 rules", "hook/rules-128/bind"),
        ],
    ),
    (
        "performance-cycle.svg",
        "Time of socket, bind and close in a process",
        &[
            ("no program", "hook/none/cycle"),
            ("empty programs", "hook/empty/cycle"),
            ("unclaimed port", "hook/bound/cycle"),
            ("owned port", "hook/owned/cycle"),
            ("denied", "hook/denied/cycle"),
            ("adopting bind", "hook/adopted/cycle"),
        ],
    ),
    (
        "performance-memory.svg",
        "Resident memory of the agent",
        &[
            ("folder, no pods", "footprint/folder-0-pods/rss"),
            ("folder, 110 pods", "footprint/folder-110-pods/rss"),
            ("folder, 5,000 pods", "footprint/folder-5000-pods/rss"),
            ("API server, no pods", "footprint/api-0-pods/rss"),
            ("API server, 110 pods", "footprint/api-110-pods/rss"),
            ("API server, 5,000 pods", "footprint/api-5000-pods/rss"),
        ],
    ),
    (
        "performance-claim-latency.svg",
        "Latency from a pod's change at the API server to the kernel",
        &[
            ("1 pod", "claim-latency/api-1-pods/change"),
            ("110 pods", "claim-latency/api-110-pods/change"),
            ("1,000 pods", "claim-latency/api-1000-pods/change"),
            ("5,000 pods", "claim-latency/api-5000-pods/change"),
        ],
    ),
];

/// Writes the page and its charts into `docs`.
pub(super) fn write(results: &[ThresholdResult], measurements: &Measurements) -> anyhow::Result<()> {
    let docs = process::workspace_root().join("docs");
    let mut charts = Vec::new();
    for (file, title, bars) in CHARTS {
        if let Some(svg) = chart(title, bars, measurements) {
            write_file(&docs.join(file), &svg)?;
            charts.push((file, title));
        }
    }
    let day = jiff::Zoned::now().date().to_string();
    write_file(&docs.join("performance.md"), &page(&day, &machine(), results, measurements, &charts))
}

/// Draws the bars whose measurements exist. Returns `None` if none does.
fn chart(title: &str, bars: &[(&'static str, &'static str)], measurements: &Measurements) -> Option<String> {
    let unit = bars.iter().find_map(|(_, name)| measurements.get(*name)).map(|found| found.unit.clone())?;
    let row = |(label, name): &(&'static str, &'static str)| {
        let Measurement { median, low, high, .. } = measurements.get(*name)?;
        Some(Row { label, value: *median, low: *low, high: *high })
    };
    let rows: Vec<_> = bars.iter().filter_map(row).collect();
    Some(bar_chart::draw(title, &unit, &rows))
}

/// Describes the kernel and the processors of this machine.
fn machine() -> String {
    let kernel = rustix::system::uname();
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    let count = cpus.lines().filter(|line| line.starts_with("processor")).count();
    format!("Linux {}, {count} processors ({})", kernel.release().to_string_lossy(), model.unwrap_or("unknown model"))
}

fn page(
    day: &str,
    machine: &str,
    results: &[ThresholdResult],
    measurements: &Measurements,
    charts: &[(&str, &str)],
) -> String {
    let mut text = format!(
        "# Performance\n\nWritten by `cargo xtask bench --document` on {day}: {machine}. Do not edit.\n\n\
         ## Thresholds\n\n| threshold | measured | limit | |\n| --- | --- | --- | --- |\n"
    );
    // Writing to a string cannot fail.
    for ThresholdResult { name, value, limit, ok } in results {
        let verdict = if *ok { "" } else { "**exceeded**" };
        let _ = writeln!(text, "| {name} | {} | {} | {verdict} |", round(*value), round(*limit));
    }
    text.push('\n');
    for (file, title) in charts {
        let _ = writeln!(text, "![{title}]({file})\n");
    }
    let _ = write!(text, "{METHOD}\n{EXPERIMENTS}\n## All measurements\n");
    let mut part = "";
    for measurement in measurements.values() {
        let (its_part, name) = measurement.name.split_once('/').unwrap_or(("", &measurement.name));
        if its_part != part {
            part = its_part;
            let head = "| measurement | median | quartiles | unit |\n| --- | --- | --- | --- |\n";
            let _ = write!(text, "\n### {part}\n\n{head}");
        }
        let Measurement { median, unit, .. } = measurement;
        let _ = writeln!(text, "| {name} | {} | {} | {unit} |", round(*median), measurement.quartiles());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measurement(name: &str, median: f64) -> (String, Measurement) {
        let (low, high) = (median - 1.0, median + 1.0);
        (name.to_owned(), Measurement { name: name.to_owned(), unit: "ns".to_owned(), median, low, high, rounds: 3 })
    }

    #[test]
    fn page_marks_exceeded_thresholds_and_lists_all_measurements() {
        let measurements =
            Measurements::from([measurement("hook/owned/bind", 60.0), measurement("claim-latency/x", 5.0)]);
        let results = [
            ThresholdResult { name: "a", value: 1.0, limit: 2.0, ok: true },
            ThresholdResult { name: "b", value: 3.0, limit: 2.0, ok: false },
        ];
        let text = page("2026-11-25", "Linux", &results, &measurements, &[("p.svg", "P")]);
        for line in [
            "| a | 1.00 | 2.00 |  |",
            "| b | 3.00 | 2.00 | **exceeded** |",
            "![P](p.svg)",
            "### claim-latency",
            "| owned/bind | 60.0 | 59.0 to 61.0 | ns |",
        ] {
            assert!(text.lines().any(|known| known == line), "{line}\n{text}");
        }
    }

    #[test]
    fn chart_shows_only_bars_with_a_measurement() {
        let measurements = Measurements::from([measurement("x", 60.0)]);
        let svg = chart("T", &[("seen", "x"), ("unseen", "y")], &measurements).unwrap();
        assert!(svg.contains(">seen<") && !svg.contains("unseen"));
        assert!(chart("T", &[("unseen", "y")], &measurements).is_none());
    }
}
